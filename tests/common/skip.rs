//! Cases that cannot run here: said, counted, and in continuous integration permitted only to those on the list.

use std::io::Write;

/// Notes that `case` is skipped and why. `tests/run` counts what is appended to the file that HIKYAKU_SKIPS names.
pub fn skip(case: &str, reason: &str) {
    let line = format!("SKIPPED {case}: {}\n", reason.trim().replace('\n', " "));
    print!("{line}");
    if let Some(path) = std::env::var_os("HIKYAKU_SKIPS") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.unwrap().write_all(line.as_bytes()).unwrap();
    }
    let is_listed = include_str!("../skips.txt").lines().any(|listed| listed.trim() == case);
    let in_ci = std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false");
    assert!(is_listed || !in_ci, "{case} may not be skipped here: {reason}");
}

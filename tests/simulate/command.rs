//! `hikyaku simulate` as it is called.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::stage::folder;

fn simulate(profile: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
    command.args(["simulate", "--profile"]).arg(profile).args(arguments).output().unwrap()
}

fn short(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("short.toml");
    let text = "name = \"short\"\nduration = \"10m\"\noptimum = 3000\n[receiver]\nrate_per_minute = 300\n";
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn json_has_a_run_for_each_seed_in_order() {
    let folder = tempfile::tempdir().unwrap();

    let out = simulate(&short(folder.path()), &["--seeds", "5,2", "--json"]);

    assert!(out.status.success(), "{out:?}");
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["name"], "short");
    let seeds: Vec<u64> = report["runs"].as_array().unwrap().iter().map(|run| run["seed"].as_u64().unwrap()).collect();
    assert_eq!(seeds, [5, 2]);
    for key in ["accepted", "goodput", "throttled", "throttled_per_1000", "blocks", "ceiling_violations"] {
        assert!(report["runs"][0][key].is_number(), "{key}: {report}");
    }
    assert!(report["runs"][0]["learnt"]["connections"].is_number() && out.stderr.is_empty());
}

#[test]
fn without_json_there_is_a_plot_and_a_picture_where_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("a.svg");

    let out = simulate(&short(folder.path()), &["--seeds", "1", "--changes", "--svg", picture.to_str().unwrap()]);

    let said = String::from_utf8(out.stdout).unwrap();
    assert!(said.contains("messages a minute: # delivered"), "{said}");
    assert!(said.contains("421 4.7.28") && said.contains("GOODPUT"), "{said}");
    assert!(std::fs::read_to_string(picture).unwrap().starts_with("<svg "));
}

#[test]
fn ceilings_come_from_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    let rule = "[limits]\nsite_connections = 7\n[[limits.rule]]\nsite = \"short\"\nrate = \"60/min\"\n";
    std::fs::write(&config, rule).unwrap();

    let out = simulate(&short(folder.path()), &["--config", config.to_str().unwrap(), "--seeds", "1", "--json"]);

    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!((550..=605).contains(&report["runs"][0]["accepted"].as_u64().unwrap()), "{report}");
    assert_eq!(report["runs"][0]["ceiling_violations"], 0);
}

#[test]
fn a_wrong_profile_or_controller_is_wrong_usage() {
    let bad = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(bad.path(), "name = \"a\"\nduration = \"4h\"\noptimum = 1\n[receiver]\nnoise = 2\n").unwrap();

    let out = simulate(bad.path(), &[]);
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(said.contains("receiver.noise: 2 is out of range; allowed: 0 to 1"), "{said}");

    for arguments in [["--controller", "fixed:0"], ["--controller", "clever"]] {
        let out = simulate(&folder().join("p01-fixed-minute.toml"), &arguments);
        assert_eq!(out.status.code(), Some(2), "{out:?}");
    }
    assert_eq!(simulate(Path::new("/nonexistent"), &[]).status.code(), Some(2));
}

/// What is said of a profile that cannot be used.
fn refused(octets: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), octets).unwrap();

    let out = simulate(file.path(), &[]);

    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(out.stdout.is_empty() && said.contains(file.path().to_str().unwrap()), "{said}");
    said
}

#[test]
fn what_is_wrong_in_a_profile_is_told_with_its_key_and_what_is_allowed() {
    let top = "name = \"a\"\nduration = \"10m\"\noptimum = 100\n";
    for (text, key, allowed) in [
        (top.replace("100", "nan") + "[receiver]\n", "optimum: NaN", "1 to 1000000000"),
        (top.replace("name = \"a\"\n", "") + "[receiver]\n", "missing field `name`", "1 to 200 octets"),
        (top.to_owned(), "missing field `receiver`", "a table"),
        (format!("{top}receiver = [1]\n"), "receiver: a list", "a table"),
        (format!("{top}[receiver]\npenalty = [1]\n"), "receiver.penalty: a list", "a table"),
        (format!("{top}[receiver.penalty]\nblock = \"1h\"\n"), "missing field `tries`", "0 to 1000000"),
        (format!("{top}[receiver.penalty]\ntries = 1\nwindow = 5\n"), "window = 5", "1s to 1d"),
        (format!("{top}[receiver]\nsteps = [[\"5m\", 1, 2]]\n"), "invalid length 3", "a time and a rate"),
        (format!("{top}[receiver]\nsteps = [[\"5m\"]]\n"), "invalid length 1", "a time and a rate"),
        (format!("{top}[receiver]\nsteps = [\n  [\"90m\", 600],\n  [\"x\", 1],\n]\n"), "steps: ", "times of 0s to 7d"),
        (format!("{top}[receiver]\nopaque = 1\n"), "opaque", "allowed: true or false"),
        (format!("{top}[receiver]\n[[tenant]]\nname = 3\n"), "name = 3", "allowed: 1 to 64 letters"),
        (format!("{top}[receiver]\n[[tenant]]\nname = \"a b\"\n"), "tenant[0].name: \"a b\"", "1 to 64 letters"),
        (
            format!("{top}[receiver]\n[[tenant]]\nname = \"a\"\n[[tenant]]\nname = \"a\"\n"),
            "tenant[1].name: \"a\"",
            "in no other",
        ),
        (format!("{top}[receiver]\nconnections = 99999999999\n"), "connections", "0 to 1000000"),
        (format!("{top}[receiver]\nnoise = -0.5\n"), "receiver.noise: -0.5", "0 to 1"),
    ] {
        let said = refused(text.as_bytes());

        assert!(said.contains(key) && said.contains(allowed), "{text}: {said}");
    }
}

#[test]
fn a_key_is_told_the_range_of_its_own_table() {
    let said = refused(b"name = \"a\"\nduration = \"10m\"\noptimum = 100\n[receiver]\nwindow = \"weekly\"\n");

    assert!(said.contains("`fixed`, `sliding`, `bucket`") && !said.contains("1s to 1d"), "{said}");
}

#[test]
fn what_is_no_text_or_too_large_is_no_profile() {
    let good = b"name = \"a\"\nduration = \"10m\"\noptimum = 100\n[receiver]\n";

    assert!(refused(&[good.as_slice(), b"# \xff\xfe"].concat()).contains("UTF-8"));
    assert!(refused(&[good.as_slice(), b"#", &vec![b'x'; 2 << 20]].concat()).contains("larger than"));
    assert!(refused(b"").contains("missing field `name`"));
}

#[test]
fn a_demand_that_no_receiver_takes_is_counted_and_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flood.toml");
    let text = "name = \"flood\"\nduration = \"1h\"\noptimum = 18000\ndemand_per_minute = 60000000\n[receiver]\n\
                rate_per_minute = 300\n";
    std::fs::write(&path, text).unwrap();

    let out = simulate(&path, &["--seeds", "1", "--json"]);

    // Kept, 3,600 million messages would fit no memory.
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(report["runs"][0]["goodput"].as_f64().unwrap() > 0.9, "{report}");
}

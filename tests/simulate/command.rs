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

//! `hikyaku dkim`: a key is made, its record shown, and DNS compared with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Output;

use hikyaku::demo::responder::{Responder, Zone};
use serde_json::Value;

/// Away from the runtime, on which the resolver's answers are given.
async fn hikyaku(arguments: &[&str]) -> Output {
    tokio::process::Command::new(env!("CARGO_BIN_EXE_hikyaku")).args(arguments).output().await.unwrap()
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

fn write_config(folder: &Path, resolver: SocketAddr, key: &str) -> String {
    let config = folder.join("config.toml");
    let section = format!("[[dkim]]\ndomain = \"a.test\"\nselector = \"s1\"\nkey = \"{key}\"\n");
    std::fs::write(&config, format!("[dns]\nresolvers = [\"{resolver}\"]\n{section}")).unwrap();
    config.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_made_shown_and_compared_with_dns() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("k.pem").to_str().unwrap().to_owned();
    let responder = Responder::start((Ipv4Addr::LOCALHOST, 0).into(), Zone::new()).await.unwrap();
    let config = write_config(folder.path(), responder.address(), &key);
    let generate =
        ["dkim", "generate", "--domain", "A.test", "--selector", "s1", "--algorithm", "ed25519", "--out", &key];

    let made = hikyaku(&generate).await;
    let again = hikyaku(&generate).await;
    let shown = hikyaku(&["dkim", "show", "--config", &config]).await;
    let json = hikyaku(&["dkim", "show", "--config", &config, "--json"]).await;
    let missing = hikyaku(&["dkim", "check", "--config", &config]).await;
    let record: Value = serde_json::from_slice(&json.stdout).unwrap();
    let record = record[0]["record"].as_str().unwrap().to_owned();
    responder.change(|zone| {
        zone.txt("s1._domainkey.a.test", &record);
    });
    let right = hikyaku(&["dkim", "check", "--config", &config]).await;
    let right_json = hikyaku(&["dkim", "check", "--config", &config, "--json"]).await;
    std::fs::remove_file(&key).unwrap();
    assert!(hikyaku(&generate).await.status.success());
    let other = hikyaku(&["dkim", "check", "--config", &config]).await;
    std::fs::remove_file(&key).unwrap();
    let gone = hikyaku(&["check", "--offline", "--config", &config]).await;

    let line = format!("s1._domainkey.a.test. IN TXT \"{record}\"\n");
    assert_eq!(text(&made.stdout), line);
    assert!(!text(&made.stdout).contains("PRIVATE") && text(&made.stderr).contains(&key), "{}", text(&made.stderr));
    assert_eq!((again.status.code(), text(&again.stdout).as_str()), (Some(1), ""));
    assert_eq!(text(&shown.stdout), format!("; ed25519-sha256, 256 bits, {key}\n{line}"));
    assert_eq!((missing.status.code(), right.status.code(), other.status.code()), (Some(1), Some(0), Some(1)));
    assert!(text(&missing.stdout).contains("no such record") && text(&other.stdout).contains("tag p"));
    assert_eq!(serde_json::from_slice::<Value>(&right_json.stdout).unwrap()[0]["found"], "right");
    assert_eq!(gone.status.code(), Some(2));
    assert!(text(&gone.stderr).contains(&key), "{}", text(&gone.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_is_closed_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("k.pem");

    let made =
        hikyaku(&["dkim", "generate", "--domain", "a.test", "--selector", "s", "--out", key.to_str().unwrap()]).await;

    assert!(made.status.success(), "{}", text(&made.stderr));
    assert_eq!(std::fs::metadata(&key).unwrap().mode() & 0o7777, 0o600);
    assert!(text(&made.stdout).contains("k=rsa; p=MIIBIjAN"), "{}", text(&made.stdout));
}

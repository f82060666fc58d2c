//! Addresses that are masked, and a spool that is encrypted: a whole run leaves them nowhere.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::receiver::Receiver;
use super::stage::{Stage, of_kind, wait};

/// In every local-part and every content, whatever their case.
const CANARY: &str = "canary";
const BOUNCED: &str = "quote-bounce.canary@a.sink.test";
const DEFERRED: &str = "quote-defer.canary@a.sink.test";

/// A stage whose journal is masked and whose spool is encrypted, and the two key files and another one.
fn stage(receiver: &Receiver, mask: &str) -> (Stage, [String; 3]) {
    let keys = tempfile::tempdir().unwrap().keep();
    let key = |name: &str| keys.join(name).to_str().unwrap().to_owned();
    let (spool, mask_key, other) = (key("spool"), key("mask"), key("other"));
    let sections = format!(
        "---\nfilter = \"debug\"\n[retry]\nschedule = [\"1h\"]\njitter_percent = 0\n\
         [privacy]\nmask = \"{mask}\"\nkey_file = \"{mask_key}\"\n"
    );
    let stage = Stage::new(receiver.address, &sections);
    for path in [&spool, &mask_key, &other] {
        assert!(stage.program(&["spool", "key", "generate", path]).status.success());
    }
    let config = std::fs::read_to_string(stage.config()).unwrap();
    let config = config.replace("[spool]\n", &format!("[spool]\nkey_files = [\"{spool}\"]\n"));
    std::fs::write(stage.config(), config).unwrap();
    (stage, [spool, mask_key, other])
}

/// A run with a delivery, a bounce, a deferral and a DSN, and one from the null reverse-path; its log.
fn run(stage: &Stage) -> String {
    let daemon = stage.start();
    let mut client = daemon.client();
    client.submit("sender.canary@back.sink.test", &["ok.canary@a.sink.test", BOUNCED, DEFERRED]);
    client.submit("", &["quote-bounce.canary.null@a.sink.test"]);
    stage.until(|events| {
        of_kind(events, "delivered").len() == 2
            && of_kind(events, "bounced").len() == 2
            && !of_kind(events, "deferred").is_empty()
            && !of_kind(events, "dsn-sent").is_empty()
    });
    let log = daemon.log.clone();
    daemon.stop();
    // The daemon's end is not that of the thread that reads its log.
    wait("the log", || log.lock().unwrap().contains("could not be delivered"));
    log.lock().unwrap().clone()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

fn contains(octets: &[u8], what: &str) -> bool {
    octets.to_ascii_lowercase().windows(what.len()).any(|window| window == what.as_bytes())
}

fn assert_nowhere(stage: &Stage, log: &str) {
    let lines: String = stage.raw().iter().map(ToString::to_string).collect();
    assert!(!contains(lines.as_bytes(), CANARY), "{lines}");
    assert!(!contains(log.as_bytes(), CANARY), "{log}");
    let mut found = Vec::new();
    files(&stage.spool(), &mut found);
    assert!(found.len() > 3);
    // The suppression list is in clear (docs/suppression.md).
    found.retain(|path| !path.starts_with(stage.spool().join("state/suppression")));
    for path in found {
        let octets = std::fs::read(&path).unwrap();
        for what in [CANARY, "body-of-it"] {
            assert!(!contains(&octets, what), "{what} in {}", path.display());
        }
    }
}

fn text(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_run_shows_no_address_in_journal_log_or_spool_and_the_key_gives_them_back() {
    let receiver = Receiver::start();
    let (stage, [spool_key, key, other]) = stage(&receiver, "hash");
    let log = run(&stage);

    assert_nowhere(&stage, &log);
    let events = stage.raw();
    let bounced = of_kind(&events, "bounced").into_iter().find(|event| event["reverse_path"] != "").unwrap().clone();
    let token = bounced["recipient"].as_str().unwrap();
    assert!(token.starts_with('~') && token.ends_with("@a.sink.test"), "{token}");
    let same: Vec<&Value> = events.iter().filter(|event| event["recipient"] == token).collect();
    let mut kinds: Vec<&str> = same.iter().map(|event| event["event"].as_str().unwrap()).collect();
    // The last two follow from the bounce, each in its own time.
    kinds.sort_unstable();
    assert_eq!(kinds, ["bounced", "dsn-sent", "received", "suppression"]);
    // Where the reply quotes it as it was given, it is the same token.
    assert!(
        bounced["reply_text"].as_str().unwrap().starts_with(&format!("<{token}>: {token} unknown; ~")),
        "{bounced}"
    );

    let id = bounced["id"].as_str().unwrap();
    let journal = stage.journal.to_str().unwrap();
    let revealed = stage.program(&["reveal", token, id, "--key-file", &key, "--path", journal]);
    let shown = text(&revealed);
    assert!(revealed.status.success() && shown.starts_with(&format!("{BOUNCED}\n")), "{shown}");
    assert!(shown.contains(&format!("<{BOUNCED}>: {BOUNCED} unknown")) && shown.contains("sender.canary@"), "{shown}");
    for what in [token, id] {
        let wrong = stage.program(&["reveal", what, "--key-file", &other, "--path", journal]);
        assert_eq!(wrong.status.code(), Some(2));
        assert!(text(&wrong).contains("not made with this key"), "{}", text(&wrong));
    }

    let found = stage.command(&["search", "--recipient", BOUNCED, "--json", "--key-file", &key]);
    assert_eq!(text(&found).lines().count(), 4, "{}", text(&found));
    let config = stage.config();
    let arguments = ["message", "find", "--recipient", DEFERRED, "--config", config.to_str().unwrap(), "--json"];
    let ended = stage.program(&arguments);
    assert!(!text(&ended).contains("masked addresses are not found"), "{}", text(&ended));
    let sender = ["search", "--sender", "sender.canary@back.sink.test", "--json", "--key-file", &key];
    assert!(text(&stage.command(&sender)).lines().count() >= 6);

    let spool = stage.spool();
    let check = |key: &str| stage.program(&["spool", "check", "--spool", spool.to_str().unwrap(), "--key-file", key]);
    assert!(check(&spool_key).status.success());
    assert_eq!(check(&other).status.code(), Some(2));
}

#[test]
fn the_first_character_is_left_where_nobody_is_to_turn_it_back() {
    let receiver = Receiver::start();
    let (stage, _) = stage(&receiver, "partial");

    let log = run(&stage);

    assert_nowhere(&stage, &log);
    assert!(stage.raw().iter().any(|event| event["recipient"] == "q***@a.sink.test"));
}

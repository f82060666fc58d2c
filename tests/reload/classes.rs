//! Each class of options takes effect when `docs/configuration.md` says so.

use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::daemon::{Client, Daemon, route, until};
use super::fake_mx::{Act, FakeMx, Step};
use super::{Receivers, subjects};

fn connections(daemon: &Daemon, key: &str) -> u64 {
    let view = daemon.json(&["queue", "sites"]);
    let sites = view["sites"].as_array().cloned().unwrap_or_default();
    sites.iter().filter_map(|site: &Value| site[key].as_u64()).sum()
}

#[test]
fn a_listener_changes_for_sessions_to_come_and_the_queue_at_once() {
    let daemon = Daemon::start("hostname = \"old.test\"\n[[route]]\ndomain = \"*\"\nnext_hop = \"discard\"\n");
    let mut old = daemon.client();
    assert!(old.say("EHLO c.test").contains("SIZE 50000000"));

    let text = "hostname = \"new.test\"\n[queue]\nmax_recipients = 1\n[log]\nfilter = \"warn\"\n\
                [[listener]]\naddress = \"127.0.0.1:0\"\nmax_message_size = \"1MB\"\n";
    daemon.reload(text);

    let mut new = daemon.client();
    assert!(new.greeting.contains("new.test"));
    assert!(new.say("EHLO c.test").contains("SIZE 1000000"));
    assert!(old.say("EHLO c.test").contains("SIZE 50000000"), "a session keeps what it has announced");
    assert!(old.say("MAIL FROM:<a@b.test>").starts_with("250"));
    assert!(old.say("RCPT TO:<a@c.test>").starts_with("250"));
    assert!(old.say("RCPT TO:<b@c.test>").starts_with("452"), "the queue's cap holds for every session");
    let reloads = daemon.logged("configuration reloaded").len();
    daemon.reload(&text.replace("filter = \"warn\"", "filter = \"info\""));
    until("the log tells of it", || !daemon.logged("configuration reloaded").is_empty());
    assert_eq!((reloads, daemon.logged("configuration reloaded").len()), (0, 1), "the first was filtered out");
}

#[test]
fn listeners_are_added_and_removed_while_their_sessions_go_on() {
    let discard = "[[route]]\ndomain = \"*\"\nnext_hop = \"discard\"\n";
    let listener = |address: &str, tenant| format!("[[listener]]\naddress = \"{address}\"\ntenant = \"{tenant}\"\n");
    let daemon = Daemon::start(&format!("{discard}{}", listener("127.0.0.1:0", "one")));
    let mut first = daemon.client();

    daemon.reload(&format!("{discard}{}{}", listener("127.0.0.1:0", "one"), listener("127.0.0.2:0", "two")));
    until("it listens there too", || daemon.addresses().len() == 2);
    let mut second = Client::connect(daemon.addresses()[1]);
    daemon.reload(&format!("{discard}{}", listener("127.0.0.2:0", "two")));

    until("the first is closed", || TcpStream::connect(daemon.addresses()[0]).is_err());
    assert!(first.send("x", "a@b.test").starts_with("250"), "its session goes on");
    assert!(second.send("x", "a@b.test").starts_with("250"));
    assert!(first.say("QUIT").starts_with("221"));
    let mut third = Client::connect(daemon.addresses()[1]);
    assert!(third.send("x", "a@b.test").starts_with("250"));
    let closed = daemon.logged("no longer listening");
    assert_eq!((closed.len(), &closed[0]["sessions"]), (1, &1.into()));
}

#[test]
fn admin_socket_and_metrics_move() {
    let daemon = Daemon::start("");
    let (old, new) = (daemon.folder.path().join("admin.sock"), daemon.folder.path().join("new.sock"));

    let answer = daemon.reload(&format!("[admin]\nsocket = \"{}\"\n[metrics]\nenabled = false\n", new.display()));

    assert_eq!(answer["changed"].as_array().unwrap().len(), 2, "{answer}");
    assert_eq!(daemon.cli_at(&new, &["status"]).status.code(), Some(0));
    until("the old socket is gone", || !old.exists());
}

#[test]
fn a_route_holds_at_once_even_for_what_waits() {
    let receivers = Receivers::new();
    let refusing = FakeMx::new().always(Step::Greeting, "421 not now");
    let (old, new) = (receivers.start(refusing), receivers.start(FakeMx::new()));
    let daemon = Daemon::start(&route("a.test", old.address));
    assert!(daemon.client().send("waits", "x@a.test").starts_with("250"));
    until("it was tried", || old.connections() > 0);

    daemon.reload(&route("a.test", new.address));

    assert!(daemon.client().send("later", "x@a.test").starts_with("250"));
    daemon.until_empty();
    let mut came = subjects(&new);
    came.sort();
    assert_eq!(came, ["later", "waits"]);
    assert!(subjects(&old).is_empty());
}

#[test]
fn limits_are_lowered_and_raised_in_place() {
    let receivers = Receivers::new();
    let slow = receivers.start(FakeMx::new().delay(Duration::from_millis(30)));
    let text = |site: u32, all: u32| {
        format!("[limits]\nsite_connections = {site}\nconnections = {all}\n[delivery]\nidle = \"10m\"\n{}", {
            route("a.test", slow.address)
        })
    };
    let daemon = Daemon::start(&text(4, 100));
    let mut client = daemon.client();
    let mut sent = 0;
    let mut until_open = |what: &str, wanted: u64| {
        until(what, || {
            // Work never ends, so only limits decide.
            if connections(&daemon, "ready") < 50 {
                for _ in 0..50 {
                    assert!(client.send(&sent.to_string(), "x@a.test").starts_with("250"));
                    sent += 1;
                }
            }
            connections(&daemon, "connections") == wanted
        });
    };

    until_open("four connections", 4);
    daemon.reload(&text(1, 100));
    until_open("busy ones end until one is left", 1);
    daemon.reload(&text(3, 100));
    until_open("three connections", 3);
    daemon.reload(&text(3, 2));
    until_open("the limit of all holds as well", 2);
    daemon.reload(&text(20, 20000));
    daemon.until_empty();

    let mut came = subjects(&slow);
    came.sort_by_key(|subject| subject.parse::<u32>().unwrap());
    assert_eq!(came, (0..sent).map(|number| number.to_string()).collect::<Vec<_>>(), "each came once");
    assert!(connections(&daemon, "connections") > 1, "they stay open without work");
    daemon.reload(&text(1, 100));
    until("surplus idle ones end", || connections(&daemon, "connections") == 1);
}

#[test]
fn a_rate_is_changed_and_taken_away_while_mail_waits_for_it() {
    let receivers = Receivers::new();
    let receiver = receivers.start(FakeMx::new());
    let rate = |rate: &str| format!("[limits]\n{rate}{}", route("a.test", receiver.address));
    let daemon = Daemon::start(&rate("site_rate = \"1/h\"\n"));
    let mut client = daemon.client();
    for number in 0..6 {
        assert!(client.send(&number.to_string(), "x@a.test").starts_with("250"));
    }
    until("one passes", || subjects(&receiver).len() == 1);

    daemon.reload(&rate("site_rate = \"1000/s\"\n"));
    daemon.until_empty();
    daemon.reload(&rate("site_rate = \"1/h\"\n"));
    for number in 6..9 {
        assert!(client.send(&number.to_string(), "x@a.test").starts_with("250"));
    }
    daemon.reload(&rate(""));

    daemon.until_empty();
    assert_eq!(subjects(&receiver).len(), 9);
}

#[test]
fn what_waits_for_a_source_that_is_removed_leaves_from_another() {
    leave_from_another(&[("b", 12)]);
}

#[test]
fn what_waits_for_a_source_that_its_pool_has_no_more_leaves_from_another() {
    leave_from_another(&[("b", 12), ("a", 11)]);
}

/// What waits while the pool has the source `a` only, at last leaves from that of the sources `then` which comes first.
fn leave_from_another(then: &[(&str, u8)]) {
    let receivers = Receivers::new();
    // The only connection is held by the first message, for far longer than a reload takes.
    let receiver = receivers.start(FakeMx::new().on(Step::EndOfData, Act::Delay(Duration::from_secs(4))));
    let text = |sources: &[(&str, u8)]| {
        let mut text = format!("[limits]\nsite_connections = 1\n{}", route("a.test", receiver.address));
        for (name, last) in sources {
            text.push_str(&format!("[[source]]\nname = \"{name}\"\nipv4 = \"127.0.0.{last}\"\n"));
        }
        text + &format!("[[pool]]\nname = \"default\"\nsources = [{{ source = \"{}\" }}]\n", sources[0].0)
    };
    let daemon = Daemon::start(&text(&[("a", 11), ("b", 12)]));
    let mut client = daemon.client();
    for number in 0..5 {
        assert!(client.send(&number.to_string(), "x@a.test").starts_with("250"));
    }
    until("the first has left", || receiver.commands().iter().any(|command| command.starts_with("DATA")));

    daemon.reload(&text(then));
    daemon.until_empty();
    daemon.reload(&text(&[("b", 13)]));
    assert!(client.send("5", "x@a.test").starts_with("250"));
    daemon.until_empty();

    let from = |last| IpAddr::from([127, 0, 0, last]);
    assert_eq!(receiver.peers(), [from(11), from(12), from(13)]);
    let mut came = subjects(&receiver);
    came.sort();
    assert_eq!(came, ["0", "1", "2", "3", "4", "5"], "each once, the one that was under way among them");
    let of_first = receiver.transactions().iter().filter(|received| received.connection == 0).count();
    assert!(of_first <= 2, "the connection from the removed source ends after what it carries: {of_first}");
}

#[test]
fn what_a_lowered_max_age_makes_too_old_expires_when_it_is_due_and_is_not_tried() {
    let receivers = Receivers::new();
    let receiver = receivers.start(FakeMx::new().always(Step::Rcpt, "451 later"));
    let text = format!("[retry]\nschedule = [\"5s\"]\nmax_age = \"1h\"\n{}", route("*", receiver.address));
    let daemon = Daemon::start(&text);
    let event = |kind: &str| {
        let files = std::fs::read_dir(daemon.folder.path().join("journal")).unwrap();
        let paths = files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some());
        let lines = paths.map(|path| std::fs::read_to_string(path).unwrap()).collect::<String>();
        let mut events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.find(|event| event["event"] == kind && event["recipient"] == "late@a.test")
    };
    daemon.client().send("x", "late@a.test");
    until("it is deferred", || event("deferred").is_some());

    daemon.reload(&text.replace("1h", "1s"));
    until("it expires", || event("expired").is_some());

    let (deferred, expired) = (event("deferred").unwrap(), event("expired").unwrap());
    let second = |time: &Value| time.as_str().unwrap()[..19].to_owned();
    assert!(second(&expired["time"]) >= second(&deferred["retry"]), "{deferred} {expired}");
    let tried = receiver.commands().iter().filter(|command| command.contains("late@a.test")).count();
    assert_eq!((tried, &expired["step"]), (1, &"queue".into()));
}

#[test]
fn a_file_of_rules_is_read_by_each_reload_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("replies.toml");
    let rule = |class: &str| {
        format!(
            "[[rule]]\nid = \"house\"\ntext = [\"house rule\"]\nclass = \"{class}\"\nexample = \"450 house rule\"\n"
        )
    };
    std::fs::write(&rules, rule("policy")).unwrap();
    let text = format!("[replies]\nrules = \"{}\"\n", rules.display());
    let daemon = Daemon::start(&text);
    assert_eq!(daemon.reload(&text)["changed"], serde_json::json!([]));

    std::fs::write(&rules, rule("system")).unwrap();
    let changed = daemon.reload(&text);
    std::fs::write(&rules, rule("bad")).unwrap();
    let refused = daemon.cli(&["reload"]);

    assert_eq!(changed["changed"][0]["key"], "replies.rules");
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("replies.toml: house: class: \"bad\": allowed: bad-mailbox"), "{said}");
}

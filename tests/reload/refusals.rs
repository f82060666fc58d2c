//! What cannot be taken on changes nothing and is told.

use std::net::TcpListener;

use super::daemon::{Client, Daemon, until};
use super::port::Port;

#[test]
fn a_bad_file_changes_nothing_and_is_told_with_file_and_key() {
    let port = Port::take();
    let place = port.address;
    let metrics = format!("[metrics]\naddress = \"{place}\"\n");
    let daemon = Daemon::start(&format!("hostname = \"old.test\"\n{metrics}"));

    daemon.configure(&format!("hostname = \"new.test\"\n{metrics}[limits]\nconnections = 0\n"));
    let output = daemon.cli(&["reload"]);

    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("config.toml: limits.connections") && said.contains("allowed: 1 to 1000000"), "{said}");
    until("it is logged", || !daemon.logged("the configuration was not reloaded").is_empty());
    let logged = daemon.logged("the configuration was not reloaded")[0]["error"].to_string();
    assert!(logged.contains("config.toml: limits.connections"), "{logged}");
    assert!(daemon.client().greeting.contains("old.test"));
    let metrics = scrape(place);
    assert!(metrics.contains("hikyaku_config_reloads_total{result=\"failed\"} 1"), "{metrics}");
    assert!(metrics.contains("hikyaku_config_last_reload_success 0"), "{metrics}");
    assert!(metrics.contains("hikyaku_config_last_reload_timestamp_seconds 1"), "{metrics}");
    let status = daemon.cli(&["status"]);
    let screen = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(1), "{screen}");
    assert!(screen.contains("the last reload failed") && screen.contains("hikyaku check"), "{screen}");

    daemon.reload(&format!("hostname = \"new.test\"\n[metrics]\naddress = \"{place}\"\n"));

    assert!(daemon.client().greeting.contains("new.test"));
    assert!(scrape(place).contains("hikyaku_config_last_reload_success 1"));
    assert_eq!(daemon.json(&["status"])["problems"], serde_json::json!([]));
}

fn scrape(address: std::net::SocketAddr) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn an_address_that_is_taken_makes_the_whole_reload_fail() {
    let (listening, new) = (TcpListener::bind("127.0.0.1:0").unwrap(), Port::take());
    let taken = listening.local_addr().unwrap();
    let daemon = Daemon::start("hostname = \"old.test\"\n");
    let listener = |address| format!("[[listener]]\naddress = \"{address}\"\n");

    daemon.configure(&format!(
        "hostname = \"new.test\"\n[metrics]\naddress = \"{}\"\n{}{}",
        new.address,
        listener("127.0.0.1:0".parse().unwrap()),
        listener(taken)
    ));
    let output = daemon.cli(&["reload"]);

    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&taken.to_string()) && said.contains("nothing was changed"), "{said}");
    assert!(daemon.client().greeting.contains("old.test"));
    assert_eq!(daemon.addresses().len(), 1);
    assert!(std::net::TcpStream::connect(new.address).is_err(), "what was bound for it is closed again");
}

#[test]
fn what_needs_a_restart_is_told_every_time_and_the_rest_is_taken_on() {
    let daemon = Daemon::start("threads = 1\n");

    for changed in [1, 0] {
        let answer = daemon.reload("threads = 2\nhostname = \"new.test\"\n");

        assert_eq!(answer["changed"].as_array().unwrap().len(), changed, "{answer}");
        let left = &answer["needs_restart"];
        assert_eq!((&left[0]["key"], &left[0]["old"], &left[0]["new"]), (&"threads".into(), &"1".into(), &"2".into()));
    }
    let output = daemon.cli(&["reload"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("only after a restart:\n  threads: 1 -> 2"), "{said}");
    until("it is logged", || daemon.logged("holds only after a restart").len() == 3);
    assert!(Client::connect(daemon.addresses()[0]).greeting.contains("new.test"));
}

//! Sockets that a parent has bound and hands over.

use std::net::TcpListener;

use crate::daemon::{Client, Place, submit};

fn socket() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

#[test]
fn who_connects_before_the_daemon_is_there_is_served_when_it_is() {
    let submission = socket();
    let address = submission.local_addr().unwrap();
    let mut early = Client::connect(address);
    let place = Place::new("", &format!("address = \"{address}\""), "[metrics]\nenabled = false");

    let daemon = place.start(place.command_with(std::slice::from_ref(&submission), "anything"));

    early.submit();
    assert!(early.reply().starts_with("250"));
    daemon.stop();
    let mut next = Client::connect(address);
    let daemon = place.start(place.command_with(&[submission], "anything"));
    next.submit();
    assert!(next.reply().starts_with("250"), "the socket outlives the daemon");
    daemon.stop();
}

#[test]
fn sockets_are_matched_by_name_and_for_metrics_by_address() {
    let (submission, metrics) = (socket(), socket());
    let (address, scraped) = (submission.local_addr().unwrap(), metrics.local_addr().unwrap());
    let sections = format!("[metrics]\naddress = \"{scraped}\"");
    let place = Place::new("", "address = \"127.0.0.1:0\"\nsocket_name = \"mail in\"", &sections);

    let daemon = place.start(place.command_with(&[submission, metrics], "mail in:other"));

    assert_eq!(place.listener(), address);
    submit(address);
    assert!(crate::daemon::still_seconds(scraped, "accept") < 60.0);
    daemon.stop();
}

#[test]
fn a_socket_that_no_listener_has_ends_the_start_with_2_and_is_named() {
    let submission = socket();
    let address = submission.local_addr().unwrap();
    let place = Place::new("", "address = \"127.0.0.1:0\"\nsocket_name = \"a\"", "[metrics]\nenabled = false");

    let (code, said) = place.refusal(place.command_with(&[submission], "b"));

    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(&address.to_string()) && said.contains("\"b\""), "{said}");
}

#[test]
fn what_is_no_listening_socket_is_refused() {
    let place = Place::new("", "address = \"127.0.0.1:0\"", "[metrics]\nenabled = false");
    let mut command = place.command_with(&[socket()], "a");
    command.stdin(std::process::Stdio::null());

    let (code, said) = place.refusal(command);

    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("socket 0 of LISTEN_FDS (\"a\")"), "{said}");
}

#[test]
fn a_reload_cannot_take_away_a_socket_that_was_handed_over() {
    let (submission, metrics) = (socket(), socket());
    let (address, scraped) = (submission.local_addr().unwrap(), metrics.local_addr().unwrap());
    let place = Place::new("", &format!("address = \"{address}\""), &format!("[metrics]\naddress = \"{scraped}\""));
    let daemon = place.start(place.command_with(&[submission, metrics], "a:b"));
    let before = std::fs::read_to_string(place.path("config.toml")).unwrap();

    for (key, text) in [
        ("listener.address", before.replace(&address.to_string(), "127.0.0.1:0")),
        ("metrics.address", before.replace(&scraped.to_string(), "127.0.0.1:0")),
        ("metrics.address", format!("{before}enabled = false\n")),
    ] {
        std::fs::write(place.path("config.toml"), text).unwrap();
        let output = place.ask(&["reload"]);

        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(key) && said.contains("socket unit"), "{said}");
        submit(address);
        assert!(crate::daemon::still_seconds(scraped, "accept") < 60.0);
    }
    std::fs::write(place.path("config.toml"), before.replace("mta.test", "new.test")).unwrap();
    assert_eq!(place.ask(&["reload"]).status.code(), Some(0), "the rest can change");
    daemon.stop();
}

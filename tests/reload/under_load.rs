//! F18: a hundred SIGHUPs under load. Nothing is lost, nothing comes twice, no connection is dropped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::Signal;

use super::daemon::{Daemon, route, until};
use super::fake_mx::FakeMx;
use super::{Receivers, subjects};

const HANGUPS: usize = 100;
const CLIENTS: usize = 3;

#[test]
fn a_hundred_hangups_under_load_lose_and_double_nothing_and_drop_no_connection() {
    let receivers = Receivers::new();
    let (busy, quiet) = (receivers.start(FakeMx::new()), receivers.start(FakeMx::new()));
    let text = |number: usize| {
        format!(
            "[limits]\nmessages_per_connection = 0\nsite_connections = {}\n[queue]\nmax_recipients = {}\n\
             [[queue.tenant]]\nname = \"default\"\nweight = {}\n[delivery]\nidle = \"10m\"\nconnect_timeout = \"{}s\"\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\nmax_hops = {}\n{}{}",
            2 + number % 7,
            1_000_000 + number,
            1 + number % 9,
            10 + number % 20,
            50 + number % 30,
            route("busy.test", busy.address),
            route("quiet.test", quiet.address),
        )
    };
    let daemon = Daemon::start(&text(0));
    // One connection of each kind that has nothing to do meanwhile.
    let mut held = daemon.client();
    assert!(held.send("first", "a@quiet.test").starts_with("250"));
    until("the first message came", || subjects(&quiet) == ["first"]);
    let is_over = AtomicBool::new(false);

    let sent: Vec<usize> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let mut session = daemon.client();
                let is_over = &is_over;
                scope.spawn(move || {
                    let mut sent = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        let reply = session.send(&format!("{client}-{sent}"), "a@busy.test");
                        assert!(reply.starts_with("250"), "{reply}");
                        sent += 1;
                    }
                    assert!(session.say("QUIT").starts_with("221"));
                    sent
                })
            })
            .collect();
        for number in 1..=HANGUPS {
            let before = daemon.logged("configuration reloaded").len();
            daemon.configure(&text(number));
            daemon.signal(Signal::HUP);
            // Every other one comes while the one before is worked on.
            if number % 2 == 0 {
                until("the reload is done", || daemon.logged("configuration reloaded").len() > before);
            }
        }
        is_over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert!(held.send("second", "a@quiet.test").starts_with("250"), "the session that was held goes on");
    daemon.until_empty();

    let mut came: HashMap<String, usize> = HashMap::new();
    subjects(&busy).into_iter().for_each(|subject| *came.entry(subject).or_default() += 1);
    assert!(came.values().all(|times| *times == 1), "came twice: {came:?}");
    assert_eq!(came.len(), sent.iter().sum::<usize>(), "every 250 came");
    assert!(came.len() > CLIENTS, "there was a load");
    assert_eq!(subjects(&quiet), ["first", "second"]);
    assert_eq!(quiet.connections(), 1, "the delivery connection that was held goes on");
    assert!(daemon.logged("configuration reloaded").len() >= HANGUPS / 2);
    assert!(daemon.reload(&text(HANGUPS))["changed"].as_array().unwrap().is_empty(), "the last file holds");
}

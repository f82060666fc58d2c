//! A daemon for which every domain of these tests is one sink.

use std::time::Duration;

use hikyaku::demo::responder::{Responder, Zone};
use tokio::runtime::Runtime;

use crate::daemon::Daemon;
use crate::letter::Client;
use crate::sink::Sink;

/// How long anything is waited for.
pub const LONG: Duration = Duration::from_secs(120);

pub struct Stage {
    pub daemon: Daemon,
    _responder: Responder,
    _runtime: Runtime,
}

impl Stage {
    pub fn start(sink: &Sink) -> Self {
        Self::with(sink, "")
    }

    /// The same with `rules` of limits.
    pub fn with(sink: &Sink, rules: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let mut zone = Zone::new();
        zone.mx("ezweb.ne.jp", 10, "lsean.ezweb.ne.jp").address("lsean.ezweb.ne.jp", [127, 0, 0, 1]);
        zone.mx("house.test", 10, "lsean.ezweb.ne.jp");
        for domain in ["other.test", "far.test"] {
            let host = format!("mx.{domain}");
            zone.mx(domain, 10, &host).address(&host, [127, 0, 0, 1]);
        }
        let responder = runtime.block_on(Responder::start(([127, 0, 0, 1], 0).into(), zone)).unwrap();
        let more = format!(
            "[delivery]\ntls = \"none\"\nport = {}\n[dns]\nresolvers = [\"{}\"]\nallow_networks = [\"127.0.0.0/8\"]\n\
             [retry]\nschedule = [\"2s\"]\n{rules}",
            sink.address.port(),
            responder.address()
        );
        let daemon = Daemon::start(tempfile::tempdir().unwrap(), "first_rate = \"50/s\"", &more);
        Self { daemon, _responder: responder, _runtime: runtime }
    }

    pub fn submit(&self, count: usize, domain: &str) {
        let mut client = Client::open(self.daemon.address);
        for number in 0..count {
            client.submit(&format!("n{number}@client.test"), &format!("a@{domain}"), "");
        }
    }
}

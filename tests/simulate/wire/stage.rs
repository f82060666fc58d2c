//! Everything around the daemon: DNS, receivers, and a client that has always more to submit.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hikyaku::demo::feed::{Fed, Feed, feed};
use hikyaku::demo::receivers::bind;
use hikyaku::demo::responder::{Responder, Zone};
use hikyaku::demo::strict::{Counts, Strict};
use hikyaku::simulate::Profile;
use serde_json::Value;

use super::daemon::Daemon;
use super::noise::{Listener, Noise};
use super::{PACE, sink};

/// Until the first attempt to connect.
const BEGINNING: Duration = Duration::from_secs(1);

/// What became of one receiver.
#[derive(Debug)]
pub struct Taken {
    /// Accepted from the first attempt to connect until the profile's duration was over.
    pub accepted_in_time: u64,
    /// All that it did.
    pub counts: Counts,
    /// What the daemon had learnt in the end.
    pub learnt: Value,
}

/// One daemon against a receiver of each profile at the same time.
pub fn run(profiles: &[Profile], library: &Path) -> (Vec<Taken>, Noise) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(play(profiles, library))
}

async fn play(profiles: &[Profile], library: &Path) -> (Vec<Taken>, Noise) {
    let hosts: Vec<Ipv4Addr> = (1..).take(profiles.len()).map(|host| Ipv4Addr::new(127, 77, 9, host)).collect();
    let domains: Vec<String> = (1..=profiles.len()).map(|number| format!("receiver{number}.test")).collect();
    let (port, listeners) = bind(&hosts).await.unwrap();
    let mut zone = Zone::new();
    for (domain, host) in domains.iter().zip(&hosts) {
        let name = format!("mx.{domain}");
        zone.mx(domain, 10, &name).address(&name, *host);
    }
    let responder = Responder::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), zone).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path(), port, &responder);
    let daemon = Daemon::start(folder.path(), library);
    let mut feeds = tokio::task::JoinSet::new();
    let mut receivers = Vec::new();
    for ((profile, domain), listener) in profiles.iter().zip(&domains).zip(listeners) {
        let strict = Arc::new(Strict::new(profile.receiver.clone(), domain, daemon.hour, PACE, 1));
        let listener = listener.into_std().unwrap();
        listener.set_nonblocking(false).unwrap();
        sink::start(Arc::clone(&strict), listener);
        receivers.push(Arc::clone(&strict));
        let rate = profile.optimum / profile.duration.0.as_secs_f64();
        // What half a minute takes, and some that wait to be tried again.
        let backlog = (rate * 30.0) as u64 + 200;
        let from = Feed { server: daemon.address, backlog, connections: 4, size: 1_000 };
        feeds.spawn(async move { feed(from, &strict, &Arc::new(Fed::default())).await });
    }
    let duration = profiles[0].duration.0;
    let listener = Listener::start();
    let wall = duration / PACE + BEGINNING;
    tokio::select! {
        ended = feeds.join_next() => panic!("{ended:?}"),
        () = tokio::time::sleep(wall) => {}
    }
    let noise = listener.end();
    let counts: Vec<Counts> = receivers.iter().map(|receiver| receiver.counts()).collect();
    let limits = daemon.ask(&["limits", "show"]);
    drop(feeds);
    assert_eq!(daemon.stop(), Vec::<String>::new());
    let taken = receivers.iter().zip(counts).zip(&domains).map(|((receiver, counts), domain)| {
        let first = counts.first.unwrap_or_else(|| panic!("nobody connected to {domain}"));
        let end = first + duration.as_nanos() as u64;
        let site = format!("mx.{domain}");
        let learnt = limits.as_array().unwrap().iter().find(|path| path["site"] == site);
        let accepted_in_time = receiver.accepted_between(first, end);
        Taken { accepted_in_time, counts, learnt: learnt.cloned().unwrap_or_default() }
    });
    (taken.collect(), noise)
}

fn write_config(folder: &Path, port: u16, responder: &Responder) {
    let (place, resolver) = (folder.display(), responder.address());
    let text = format!(
        "hostname = \"mta.test\"\nthreads = 2\n\
         [spool]\npath = \"{place}/spool\"\nreserve = \"1MiB\"\n\
         [journal]\npath = \"{place}/journal\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\n\
         [delivery]\nport = {port}\n\
         [dns]\nresolvers = [\"{resolver}\"]\nallow_networks = [\"127.77.9.0/24\"]\n\
         [admin]\nsocket = \"{place}/admin.sock\"\n\
         [metrics]\nenabled = false\n\
         [log]\nformat = \"json\"\n"
    );
    std::fs::write(folder.join("config.toml"), text).unwrap();
}

//! F12: the other side is gone and nobody says so: the link is down, or the receiver stands still. In the middle of content,
//! after the final dot, and on a connection that was idle. Time-outs notice it, and the message is tried again.

use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::checker::Checker;
use super::letter::Kind;
use super::row::{Row, in_parallel, sized};
use super::world::client::{Numbers, Plan};
use super::world::daemon::Launch;
use super::world::doubts::Doubts;
use super::world::options::Options;
use super::world::sink::{Moment, Mood, Sink};
use super::world::{Ending, World};

/// Messages of one case.
const FEW: u32 = 8;
/// Every time-out towards receivers.
const TIMEOUT: &str = "2s";

/// When the other side goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    InContent,
    AfterDot,
    Idle,
}

const WHEN: [When; 3] = [When::InContent, When::AfterDot, When::Idle];

fn impatient(options: &mut Options) {
    for name in ["connect", "greeting", "ehlo", "mail", "rcpt", "data", "content", "end_of_data"] {
        options.set(&format!("delivery.{name}_timeout"), TIMEOUT);
    }
    // Connections are to be idle when the link goes.
    // An attempt is seen in the queue for some time before the next one.
    options.set("retry.schedule", vec!["3s"]);
    options.set("delivery.idle", "60s").set("limits.site_connections", 4);
}

fn run(program: &str, arguments: &str) -> Result<(), String> {
    let output = Command::new(program).args(arguments.split(' ')).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// A network namespace with two links to this one: over one its daemon is reached, the other leads to the sink. Removed
/// when dropped.
#[derive(Debug)]
struct Network {
    name: String,
    /// Its address, on the link to clients.
    inside: IpAddr,
    /// Ours, on the link to the sink.
    outside: IpAddr,
}

impl Network {
    fn make() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hkf{}x{number}", std::process::id() % 100_000);
        // 198.18.0.0/15 is for tests of networks (RFC 2544).
        let net = |link: u32, host: u32| {
            let address = 0xc612_0000 + (std::process::id() % 200) * 256 + number * 8 + link * 4 + host;
            IpAddr::from(address.to_be_bytes())
        };
        let network = Self { name, inside: net(0, 2), outside: net(1, 1) };
        run("ip", &format!("netns add {}", network.name))?;
        for (link, letter) in ["a", "b"].into_iter().enumerate() {
            let (ours, theirs) = (network.link(letter), format!("{letter}0"));
            let (link, name) = (link as u32, &network.name);
            run("ip", &format!("link add {ours} type veth peer name {theirs} netns {name}"))?;
            run("ip", &format!("address add {}/30 dev {ours}", net(link, 1)))?;
            run("ip", &format!("link set {ours} up"))?;
            run("ip", &format!("-n {name} address add {}/30 dev {theirs}", net(link, 2)))?;
            run("ip", &format!("-n {name} link set {theirs} up"))?;
        }
        Ok(network)
    }

    fn link(&self, letter: &str) -> String {
        format!("{}{letter}", self.name)
    }

    /// Takes the sink's link down; what is sent over it vanishes. Up again: `up`.
    fn set_link(&self, state: &str) {
        run("ip", &format!("link set {} {state}", self.link("b"))).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Links go with one of their ends, at once if we take it away.
        for letter in ["a", "b"] {
            let _ = run("ip", &format!("link delete {}", self.link(letter)));
        }
        if let Err(error) = run("ip", &format!("netns delete {}", self.name)) {
            eprintln!("{error}");
        }
    }
}

/// What goes wrong and is repaired again.
trait Way {
    fn harm(&self, world: &World, when: When);
    fn repair(&self, world: &World);
}

/// The receiver stands still.
struct Still;

impl Way for Still {
    fn harm(&self, world: &World, when: When) {
        world.sink.set_mood(match when {
            When::InContent => Mood::SilentInContent,
            When::AfterDot => Mood::SilentAfterDot,
            When::Idle => Mood::SilentAtMail,
        });
    }

    fn repair(&self, world: &World) {
        world.sink.set_mood(Mood::Normal);
    }
}

impl Way for Arc<Network> {
    fn harm(&self, world: &World, when: When) {
        let network = Arc::clone(self);
        let cut = move || network.set_link("down");
        match when {
            When::InContent => world.sink.set_trap(Moment::Content, cut),
            When::AfterDot => world.sink.set_trap(Moment::EndOfData, cut),
            When::Idle => cut(),
        }
    }

    fn repair(&self, _world: &World) {
        self.set_link("up");
    }
}

fn case(way: &impl Way, when: When, mut world: World, launch: &Launch<'_>) -> Ending {
    let (daemon, address) = world.launch(launch);
    if when == When::Idle {
        world.load(&Plan::of(FEW, 2, &world.numbers), address).join();
        assert!(world.until(|| world.checker.is_settled()), "{}: nothing arrives", world.name);
    }
    way.harm(&world, when);
    world.load(&Plan::of(FEW, 2, &world.numbers), address).join();
    let mut doubts = Doubts::default();
    let is_tried = |entry: &Value| entry["attempts"].as_u64() > Some(0);
    let admin = daemon.admin();
    let mut look = || doubts.look(&admin, &world.checker);
    let is_noticed = world.until(|| look().is_some_and(|entries| entries.iter().any(is_tried)));
    way.repair(&world);
    assert!(is_noticed, "{}: nobody notices", world.name);
    // Connections that are silent already are noticed later.
    assert!(world.until(|| look().is_some_and(|entries| entries.is_empty())), "{}: messages are left", world.name);
    world.allow_duplicates(doubts.count());
    world.finish_with(daemon)
}

fn numbers(when: When) -> Arc<Numbers> {
    Numbers::of(if when == When::InContent { Kind::Heavy } else { Kind::Routed })
}

fn with_still_receiver(when: When) -> Ending {
    let world = World::with(&format!("receiver stands still, {when:?}"), numbers(when), impatient);
    case(&Still, when, world, &Launch::default())
}

fn with_link_down(when: When) -> Ending {
    let network = Arc::new(Network::make().unwrap());
    let checker = Arc::new(Checker::default());
    let sink = Sink::start_at(network.outside, Arc::clone(&checker));
    let world = World::around(&format!("link down, {when:?}"), numbers(when), checker, sink, |options| {
        impatient(options);
        options.set("listener.address", format!("{}:0", network.inside));
        options.set("listener.networks", vec!["198.18.0.0/15"]);
    });
    let through = ["ip", "netns", "exec", &network.name].map(str::to_owned).to_vec();
    case(&network, when, world, &Launch { through, ..Launch::default() })
}

#[test]
fn a_receiver_that_is_gone_without_a_word_is_noticed_and_its_mail_is_tried_again() {
    let mut row = Row::of("F12 half-open");
    let case = "a_receiver_that_is_gone_without_a_word_is_noticed_and_its_mail_is_tried_again";
    let obstacle = Network::make().err();
    if let Some(reason) = &obstacle {
        row.skip(&format!("{case} (link down)"), reason);
    }
    let ways = if obstacle.is_none() { 2 } else { 1 };
    let cases = sized(3, 9) * ways;

    let ending = in_parallel(6, cases, |number| match (WHEN[number / ways % 3], number % ways) {
        (when, 0) => with_still_receiver(when),
        (when, _) => with_link_down(when),
    });

    row.add(cases, ending);
}

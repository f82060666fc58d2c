//! F19: a start with a long queue, and crashes during it. Listening does not wait for what is queued; a start that was killed
//! costs nothing, and the next one finds the same.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hikyaku::clock::Clock;
use hikyaku::log::disk::Disk;
use hikyaku::message::{Content, Envelope, Recipient};
use hikyaku::metrics::Registry;
use hikyaku::smtp::address::ReversePath;
use hikyaku::spool::{Attempts, NewMessage, Settings, Spool};

use super::checker::Answer;
use super::letter::{Kind, Letter, scrambled};
use super::row::{Row, in_parallel, seed, sized};
use super::world::client::Numbers;
use super::world::daemon::Daemon;
use super::world::sink::Mood;
use super::world::{Caps, Ending, World};

/// Starts that are killed.
const CRASHES: u64 = 3;
/// Messages that are stored at the same time.
const TOGETHER: usize = 512;

/// What becomes of the queue in the end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It is delivered.
    Delivered,
    /// It is counted: the receiver takes nothing.
    Counted,
}

fn settings(path: &Path) -> Settings {
    Settings {
        path: path.to_owned(),
        segment_size: 64 << 20,
        reserve: 0,
        // The machine does not crash, the daemon does.
        sync: false,
        attempts: Attempts::Write,
        deadline: Duration::from_secs(60),
        cache: 0,
        keys: hikyaku::spool::Keys::default(),
    }
}

fn message(spool: &Spool, letter: Letter, clock: &Clock) -> NewMessage {
    let id = spool.next_id();
    let recipient = |path: String| Recipient::new(path.parse().unwrap());
    let envelope = Envelope::new(
        ReversePath::Mailbox(letter.reverse_path().parse().unwrap()),
        letter.forward_paths().into_iter().map(recipient).collect(),
        clock.wall(),
    );
    let mut content = format!("Received: from the test by daemon.test with ESMTP id {id}\r\n").into_bytes();
    content.extend_from_slice(&letter.content());
    let content = Content::Memory(Bytes::from(content));
    NewMessage { id, envelope: Arc::new(envelope), content, ended_at: Instant::now() }
}

/// Puts `count` messages into the spool as a daemon would, and notes them as acknowledged.
fn fill(world: &World, count: u32, end: End) {
    let threads = thread::available_parallelism().map_or(2, NonZeroUsize::get);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).build().unwrap();
    let clock = Clock::system();
    let storage = Arc::new(Disk::new(world.spool()));
    let (spool, recovery) = Spool::open(settings(&world.spool()), storage, clock, &Registry::new().unwrap()).unwrap();
    recovery.run(&mut |_| panic!("the spool is not empty"));
    runtime.block_on(async {
        let mut waiting = VecDeque::new();
        for number in 0..count {
            let letter = Letter(Kind::Plain.first() + number);
            let (spool, message) = (spool.clone(), message(&spool, letter, &clock));
            waiting.push_back(tokio::spawn(async move { spool.accept(message).await }));
            if waiting.len() >= TOGETHER
                && let Some(first) = waiting.pop_front()
            {
                first.await.unwrap().unwrap();
            }
            if matches!(end, End::Delivered) {
                world.checker.note_answer(letter, Answer::Accepted);
            }
        }
        for stored in waiting {
            stored.await.unwrap().unwrap();
        }
    });
    spool.close_blocking();
}

fn is_recovered(daemon: &Daemon) -> bool {
    daemon.ask(&["spool", "stat", "--json"])["recovering"] == false
}

fn run(count: u32, end: End) -> (Ending, String) {
    let mut world = World::with(&format!("{count} queued, {end:?}"), Numbers::of(Kind::Plain), |options| {
        options.set("spool.segment_size", "64MiB").set("spool.cache", "16MiB");
    });
    // 128 octets a recipient are promised, and as much again for the spool's own knowledge of it.
    world.caps = Caps { memory: (256 << 20) + u64::from(count) * 256, ..Caps::default() };
    world.patience = Duration::from_secs(60) + Duration::from_millis(5) * count;
    fill(&world, count, end);
    if matches!(end, End::Counted) {
        world.sink.set_mood(Mood::SilentAtMail);
    }
    for crash in 0..CRASHES {
        // Recovery of some hundred thousand messages takes a second.
        let moment = scrambled(seed() ^ (0xf19 + crash)) % (100 + u64::from(count) / 200);
        let (daemon, _) = world.start();
        thread::sleep(Duration::from_millis(moment));
        assert!(world.kill(daemon), "{}: the daemon ended by itself", world.name);
    }
    let (daemon, _) = world.start();
    assert!(world.until_for(world.patience, || is_recovered(&daemon)), "{}: recovery does not end", world.name);
    assert!(world.until(|| daemon.log.first("recovered").is_some()), "{}: not logged", world.name);
    let after = |message: &str| daemon.log.first(message).unwrap_or_default().as_secs_f64();
    let (listening, recovered) = (after("listening for submissions"), after("recovered"));
    let note = format!("{count} queued: listening after {listening:.2} s, all known after {recovered:.2} s");
    match end {
        End::Delivered => (world.finish_with(daemon), note),
        End::Counted => {
            let found = daemon.ask(&["spool", "stat", "--json"])["messages"].as_u64().unwrap();
            let (_, used) = daemon.kill();
            let lost = u64::from(count).abs_diff(found);
            let failures = if lost == 0 { Vec::new() } else { vec![format!("{count} queued, {found} found")] };
            (Ending { accepted: u64::from(count), lost, used, failures, ..Ending::default() }, note)
        }
    }
}

#[test]
fn a_start_with_a_long_queue_listens_first_and_finds_everything_though_it_was_killed_before() {
    let mut row = Row::of("F19 start with a long queue");
    const FULL: [(u32, End); 4] =
        [(100_000, End::Delivered), (1_000_000, End::Delivered), (1_000_000, End::Counted), (10_000_000, End::Counted)];
    const QUICK: [(u32, End); 2] = [(10_000, End::Delivered), (20_000, End::Counted)];
    let cases = sized(QUICK.len(), FULL.len());
    let notes = parking_lot::Mutex::new(Vec::new());

    let ending = in_parallel(sized(2, 1), cases, |number| {
        let (count, end) = if cases == QUICK.len() { QUICK[number] } else { FULL[number] };
        let (ending, note) = run(count, end);
        notes.lock().push(note);
        ending
    });

    notes.into_inner().iter().for_each(|note| row.note(note));
    row.add(cases, ending);
}

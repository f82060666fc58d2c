//! The suppression list: an import, look-ups, and the memory of the process, with the allocator of the daemon.
//!
//! Load: `HIKYAKU_BENCH_ENTRIES` entries (default: a million) of addresses as people have them, 20 to 40 octets long, in a file of lines;
//! of all tenants, of one of 40, and of two classes of each, and one in 1,000 about a domain, so that every look-up asks in all
//! six ways. `HIKYAKU_BENCH_DIR` names a directory on the disk to be measured (default: the system's temporary directory).
//!
//! * `import`: lines to entries on stable storage, by the whole;
//! * `start`: taking up the list again;
//! * `found` and `not found`: a look-up of one of 200,000 addresses in turn, so that neither it nor its place in the runs is in the
//!   processor's cache; also while another thread adds entries one by one;
//! * `stats` and `export`: of all entries;
//! * memory: resident after each, and the peak of each, less what the process had before.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::hint::black_box;
use std::io::{BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hikyaku::clock::UnixTime;
use hikyaku::log::disk::Disk;
use hikyaku::log::storage::Storage;
use hikyaku::smtp::address::Address;
use hikyaku::state::suppression::{Change, Defaults, Entry, Imported, Reason, Scope, Suppression, Target};
use rustix::time::{ClockId, clock_gettime};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const NOW: UnixTime = UnixTime(1_800_000_000);
const MIB: f64 = 1_048_576.0;
/// Addresses that are asked about in turn.
const ASKED: u64 = 200_000;
/// Calls of a round.
const ROUND: u64 = 1_000_000;

fn address(number: u64) -> String {
    // Spread over names and domains; each number once.
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let name = ["ann", "robert.smith", "kenji", "maria.fernanda", "j"][(spread >> 40) as usize % 5];
    format!("{name}.{number}@mail{}.example.com", (spread >> 20) % 5_000)
}

fn line(number: u64, out: &mut Vec<u8>) {
    use std::io::Write;
    let tenant = number % 40;
    match number % 1_000 {
        0 => writeln!(out, "@gone{number}.example.org").unwrap(),
        1 => writeln!(out, "@gone{number}.example.org\toperator\t\ttenant{tenant}").unwrap(),
        2 => writeln!(out, "@gone{number}.example.org\toperator\t\ttenant{tenant}\tnews").unwrap(),
        kind if kind % 4 == 0 => {
            writeln!(out, "{}\tunsubscribe\tnever\ttenant{tenant}\tnews", address(number)).unwrap()
        }
        kind if kind % 4 == 1 => writeln!(out, "{}\tcomplaint\tnever\ttenant{tenant}", address(number)).unwrap(),
        _ => writeln!(out, "{}", address(number)).unwrap(),
    }
}

/// The lines, made as they are read.
struct Lines {
    next: u64,
    end: u64,
    ready: Vec<u8>,
    given: usize,
}

impl Read for Lines {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.given == self.ready.len() {
            self.ready.clear();
            self.given = 0;
            while self.next < self.end && self.ready.len() < 60_000 {
                line(self.next, &mut self.ready);
                self.next += 1;
            }
        }
        let count = buffer.len().min(self.ready.len() - self.given);
        buffer[..count].copy_from_slice(&self.ready[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

/// MiB of a line of the process's status.
fn memory(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1_024.0
}

/// Runs something, and tells how long it took and what it did to the memory.
fn step<T>(name: &str, before: f64, entries: u64, body: impl FnOnce() -> T) -> T {
    // From here on the peak is of what follows.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let start = Instant::now();
    let result = body();
    let took = start.elapsed();
    println!(
        "{name:<8} {:>8.2} s  {:>6.2} us an entry  resident {:>6.1} MiB, at most {:>6.1} MiB",
        took.as_secs_f64(),
        took.as_secs_f64() * 1e6 / entries as f64,
        memory("VmRSS") - before,
        memory("VmHWM") - before,
    );
    result
}

fn open(storage: &Arc<Disk>) -> Suppression {
    let opened = Suppression::open(storage.clone(), NOW).unwrap();
    assert_eq!(opened.findings, []);
    opened.list
}

/// The processor's time that this thread has used.
fn used() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
}

/// What one call takes, of five rounds the fastest: of the processor's time, which a busy machine disturbs less, and by the clock.
fn measure(name: &str, mut call: impl FnMut()) {
    let round = |_| {
        let (start, before) = (Instant::now(), used());
        (0..ROUND).for_each(|_| call());
        ((used() - before).as_secs_f64() * 1e9 / ROUND as f64, start.elapsed().as_secs_f64() * 1e9 / ROUND as f64)
    };
    let rounds: Vec<_> = (0..5).map(round).collect();
    let least = |figures: &mut dyn Iterator<Item = f64>| figures.fold(f64::INFINITY, f64::min);
    let processor = least(&mut rounds.iter().map(|(processor, _)| *processor));
    let clock = least(&mut rounds.iter().map(|(_, clock)| *clock));
    println!("{name:<28} {processor:>7.0} ns of the processor, {clock:>7.0} ns by the clock");
}

fn look_ups(list: &Suppression, found: &[Address], other: &[Address]) {
    let mut turn = other.iter().cycle();
    measure("hash of a mailbox", || {
        black_box(list.hash(turn.next().unwrap()));
    });
    let whose = list.whose("tenant1", "news");
    for (name, addresses) in [("found", found), ("not found", other)] {
        let mut turn = addresses.iter().cycle();
        measure(name, || {
            black_box(list.find(whose, turn.next().unwrap(), NOW));
        });
    }
    let mut turn = other.iter().cycle();
    measure("not found, of any tenant", || {
        black_box(list.find(list.whose("tenant1", "news"), turn.next().unwrap(), NOW));
    });
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !is_over.load(Ordering::Relaxed) {
                number += 1;
                let target: Target = format!("late{number}@example.net").parse().unwrap();
                let (scope, reason) = (Scope::Global, Reason::HardBounce);
                let entry = Entry { target, scope, reason, source: Box::default(), added: NOW, until: None };
                list.apply(&[Change::Add(entry)], NOW).unwrap();
            }
        });
        let mut turn = other.iter().cycle();
        measure("not found, beside a writer", || {
            black_box(list.find(whose, turn.next().unwrap(), NOW));
        });
        is_over.store(true, Ordering::Relaxed);
    });
}

fn main() {
    let entries = std::env::var("HIKYAKU_BENCH_ENTRIES").map_or(1_000_000, |text| text.parse().unwrap());
    let directory = std::env::var_os("HIKYAKU_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let root = tempfile::tempdir_in(directory).unwrap();
    let storage = Arc::new(Disk::new(root.path().join("spool")));
    storage.claim(&Suppression::DIRECTORIES).unwrap();
    let before = memory("VmRSS");

    let list = open(&storage);
    let lines = Lines { next: 0, end: entries, ready: Vec::new(), given: 0 };
    let counts = step("import", before, entries, || {
        let tell = &mut |told: Imported<'_>| assert!(matches!(told, Imported::Progress(_)));
        list.import(&mut BufReader::new(lines), &Defaults::default(), NOW, tell).unwrap()
    });
    assert_eq!(counts.added, entries);
    drop(list);

    let list = step("start", before, entries, || open(&storage));
    let stats = step("stats", before, entries, || list.stats(NOW));
    assert_eq!(stats.total(), entries);
    println!(
        "log      {:>8.1} MiB, {:.1} octets an entry",
        stats.octets as f64 / MIB,
        stats.octets as f64 / entries as f64
    );
    step("export", before, entries, || assert_eq!(list.entries(NOW).map(Result::unwrap).count() as u64, entries));

    let stride = (entries / ASKED).max(1);
    // Of all tenants, so that every tenant finds them.
    let found: Vec<Address> = (0..ASKED)
        .map(|at| at * stride / 4 * 4 + 3)
        .filter(|at| *at < entries)
        .map(|at| address(at).parse().unwrap())
        .collect();
    let other: Vec<Address> = (0..ASKED).map(|at| address(entries + at).parse().unwrap()).collect();
    let is_found = |address: &Address| list.find(list.whose("tenant1", "news"), address, NOW).is_some();
    assert!(found.iter().all(is_found) && !other.iter().any(is_found));
    look_ups(&list, &found, &other);
}

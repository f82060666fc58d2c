//! What a process uses: memory, descriptors, processor time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// So many descriptors are looked at one by one.
const MANY: u64 = 400;
/// Between two looks.
const EVERY: Duration = Duration::from_millis(200);

/// What a process uses or used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Resident memory at most, in octets.
    pub memory: u64,
    /// Open descriptors at most, those of segments that are there not counted: a long queue has many.
    pub descriptors: u64,
}

impl Usage {
    /// The larger ones of both.
    pub fn most(self, other: Self) -> Self {
        Self { memory: self.memory.max(other.memory), descriptors: self.descriptors.max(other.descriptors) }
    }
}

#[derive(Debug, Default)]
struct Seen {
    most: Usage,
    /// What the descriptors were when there were most of them, and more than a few.
    open: BTreeMap<String, usize>,
    /// Resident memory over time.
    samples: Vec<(Duration, u64)>,
}

/// Looks at a process until that is gone or this is dropped.
#[derive(Debug)]
pub struct Monitor {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    pub fn start(process: u32) -> Self {
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (seen, stop, started) = (Arc::clone(&seen), Arc::clone(&stop), Instant::now());
            thread::spawn(move || {
                // Another process may get the number of one that has ended.
                let birth = born(process);
                while !stop.load(Ordering::Relaxed)
                    && let Some((now, usage)) = look(process)
                    && born(process) == birth
                {
                    let mut seen = seen.lock();
                    if usage.descriptors > seen.most.descriptors.max(MANY) {
                        seen.open = kinds(process);
                    }
                    seen.most = seen.most.most(usage);
                    seen.samples.push((started.elapsed(), now));
                    drop(seen);
                    thread::park_timeout(EVERY);
                }
            })
        };
        Self { seen, stop, thread: Some(thread) }
    }

    pub fn usage(&self) -> Usage {
        self.seen.lock().most
    }

    /// What the descriptors were when there were most of them, if they were many.
    pub fn open(&self) -> BTreeMap<String, usize> {
        self.seen.lock().open.clone()
    }

    pub fn samples(&self) -> Vec<(Duration, u64)> {
        self.seen.lock().samples.clone()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Resident memory now, and the most of everything.
fn look(process: u32) -> Option<(u64, Usage)> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let usage = Usage { memory: number("VmHWM:")? << 10, descriptors: beside_segments(process)? };
    Some((number("VmRSS:")? << 10, usage))
}

/// When a process began, in ticks since the machine did.
fn born(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit(") ").next()?.split(' ').nth(19)?.parse().ok()
}

/// What the open descriptors of a process are, by kind: a word, or a folder.
fn kinds(process: u32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for target in targets(process).into_iter().flatten() {
        let text = target.parent().filter(|parent| parent.is_absolute()).unwrap_or(&target).display().to_string();
        *kinds.entry(text.split(":[").next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    kinds
}

/// What the open descriptors of a process are.
fn targets(process: u32) -> Option<impl Iterator<Item = PathBuf>> {
    let entries = std::fs::read_dir(format!("/proc/{process}/fd")).ok()?.map_while(Result::ok);
    Some(entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()))
}

/// How many descriptors a process has open beside those of segments that have not been deleted.
fn beside_segments(process: u32) -> Option<u64> {
    let is_segment = |target: &PathBuf| target.extension().is_some_and(|extension| extension == "seg");
    Some(targets(process)?.filter(|target| !is_segment(target)).count() as u64)
}

/// How many descriptors a process has open.
pub fn open_descriptors(process: u32) -> Option<u64> {
    Some(std::fs::read_dir(format!("/proc/{process}/fd")).ok()?.count() as u64)
}

/// Processor time of a process, user and system, in ticks of a hundredth of a second.
pub fn ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

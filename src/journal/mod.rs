//! The journal: one line of JSON for each thing that happens to a recipient, in files that are rotated, compressed and
//! cleaned. Format and promises in `docs/journal.md`.
//!
//! [`Journal::tell`] is for everybody: it writes a line into a buffer in memory and returns, whatever the disk does.
//! One thread writes the buffer to the current file (handed to the kernel a few milliseconds later, not synced);
//! another one compresses finished files and removes old ones. When the buffer is full, events are counted and a `gap`
//! line says how many are missing. Reading needs no daemon: [`Follower`] goes through the files and on, [`search()`]
//! looks for events.
//!
//! | part | does |
//! |---|---|
//! | [`event`] | what can happen, and its line |
//! | `buffer` | lines that wait, loss |
//! | `writer` | retries, rotation, gaps |
//! | `output` | the current file, and whether it is still there |
//! | `past` | what earlier runs left |
//! | `keeper` | compression, cleaning |
//! | [`folder`] | names of files, the lock |
//! | [`follow`], [`mod@search`] | reading |

mod buffer;
pub mod event;
pub mod folder;
pub mod follow;
mod id;
mod keeper;
mod line;
mod lines;
mod meters;
mod output;
mod past;
mod record;
mod returned;
pub mod search;
pub mod time;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::Clock;
use crate::mask::Mask;
use crate::metrics::Registry;

use buffer::Buffer;
use meters::Meters;

pub use event::{
    Decision, Event, Kind, LimitChange, Order, Refusal, Rejection, Subject, Suppressed, SuppressionChange,
    Unsubscribed, Verdict,
};
pub use follow::Follower;
pub use id::{EventId, EventIdError};
pub use record::Record;
pub use returned::{Origin, Report, origins};
pub use search::{Query, search};

/// Where and how much; made from the configuration by the daemon.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder; made if it is not there.
    pub path: PathBuf,
    /// A file is followed by another one at this size in octets.
    pub max_size: u64,
    /// And at this age.
    pub max_age: Duration,
    /// Files are removed this long after their last line.
    pub keep: Duration,
    /// The oldest finished files are removed while all take more than this, in octets.
    pub max_total: Option<u64>,
    /// Octets in memory for lines that the disk has not taken.
    pub buffer: usize,
    /// How addresses are written.
    pub mask: Mask,
}

/// Why the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another daemon writes there.
    #[error("journal.path: {}: another daemon writes its journal there", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The folder or a file in it cannot be made.
    #[error(
        "journal.path: cannot write a journal in {}: {error}; enabled = false in [journal] goes without one",
        path.display()
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread of the journal: {0}")]
    Thread(io::Error),
}

/// How the journal does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Why writes fail now; they are repeated.
    pub failing: Option<String>,
    /// Events lost since the start, if any were.
    pub loss: Option<Loss>,
}

/// Events that are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// How many.
    pub events: u64,
    /// When the first of them happened, as the journal writes times.
    pub from: String,
    /// How long ago the last one happened.
    pub ago: Duration,
}

/// The handle that events are told to. Cheap to clone. The writer ends when the last one is dropped, or by
/// [`Journal::close`].
#[derive(Clone, Debug)]
pub struct Journal(Option<Arc<Handle>>, Masks);

/// Whether addresses are masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Masks {
    Yes,
    No,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    /// Taken by whoever closes.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What tellers and threads share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    clock: Clock,
    meters: Meters,
    buffer: Mutex<Buffer>,
    /// Wakes the writer.
    wake: Condvar,
    /// Why the last write failed; set and cleared by the writer.
    failing: Mutex<Option<String>>,
    keeper: keeper::Orders,
}

impl Journal {
    /// One that forgets everything it is told.
    pub fn off() -> Self {
        Self(None, Masks::No)
    }

    /// Opens the journal and starts its threads. `start` is the count of starts that the spool keeps; the ids of this
    /// run begin with it, or with the next one that no file here has had. A full disk is no error: it is waited for.
    pub fn open(settings: Settings, start: u32, clock: Clock, registry: &Registry) -> Result<Self, Error> {
        let masks = if settings.mask.is_none() { Masks::No } else { Masks::Yes };
        let path = settings.path.clone();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => Error::Locked { path: path.clone() },
            _ => Error::Folder { path: path.clone(), error },
        };
        folder::make(&settings.path).map_err(failed)?;
        let lock = folder::Lock::take(&settings.path).map_err(failed)?;
        let past = past::Past::find(&settings.path, lock.was_open).map_err(failed)?;
        let start = start.max(past.next_start());
        let buffer = Mutex::new(Buffer::new(start, settings.buffer));
        let shared = Arc::new(Shared {
            settings,
            clock,
            meters: Meters::new(registry),
            buffer,
            wake: Condvar::new(),
            failing: Mutex::default(),
            keeper: keeper::Orders::default(),
        });
        let writer = writer::Writer::begin(shared.clone(), lock, past).map_err(failed)?;
        let thread = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(Error::Thread)
        };
        let handle = Arc::new(Handle { shared: shared.clone(), threads: Mutex::default() });
        let threads = [
            thread("journal", Box::new(move || writer.run()))?,
            thread("journal-keeper", Box::new(move || keeper::run(&shared)))?,
        ];
        handle.threads.lock().extend(threads);
        Ok(Self(Some(handle), masks))
    }

    /// The same where addresses are masked, though nothing is written.
    pub fn off_masked() -> Self {
        Self(None, Masks::Yes)
    }

    /// Whether addresses are masked: then no text that may name a mailbox belongs into the log.
    pub fn is_masked(&self) -> bool {
        self.1 == Masks::Yes
    }

    /// Whether anything is kept of what it is told.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// How it does; one that is off does well.
    pub fn health(&self) -> Health {
        let Some(handle) = &self.0 else { return Health::default() };
        let shared = &handle.shared;
        let lost = shared.buffer.lock().lost_in_all();
        let loss = lost.map(|lost| Loss {
            events: lost.count,
            from: time::seconds(lost.from),
            ago: shared.clock.wall_precise().saturating_sub(lost.to),
        });
        Health { failing: shared.failing.lock().clone(), loss }
    }

    /// Writes an event down. Never waits for the disk.
    pub fn tell(&self, event: &Event<'_>) {
        if let Some(handle) = &self.0 {
            handle.shared.tell(event);
        }
    }

    /// Writes what there is and ends the threads; blocks, though not for ever when the disk takes nothing. What is told
    /// afterwards is lost.
    pub fn close(&self) {
        let Some(handle) = &self.0 else { return };
        handle.shared.begin_close();
        let threads = std::mem::take(&mut *handle.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the journal panicked");
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.begin_close();
    }
}

impl Shared {
    fn tell(&self, event: &Event<'_>) {
        let mut buffer = self.buffer.lock();
        // Read under the lock: times never go back from line to line.
        let at = self.clock.wall_precise();
        let (must_wake, is_lost) = buffer.put(event, at, &self.settings.mask);
        drop(buffer);
        if must_wake {
            self.wake.notify_one();
        }
        if is_lost {
            self.meters.lost.increment(1);
        }
    }

    fn begin_close(&self) {
        self.buffer.lock().is_closing = true;
        self.wake.notify_all();
        self.keeper.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(folder: &std::path::Path) -> Settings {
        Settings {
            path: folder.join("journal"),
            max_size: 1 << 20,
            max_age: Duration::from_secs(3_600),
            keep: Duration::from_secs(3_600),
            max_total: None,
            buffer: 1 << 20,
            mask: Mask::None,
        }
    }

    #[test]
    fn what_was_told_is_written_and_counted_when_the_journal_is_closed_and_a_start_has_ids_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let order = Order { id: "1", action: "hold", filter: "", source: "", reason: "", who: "", until: None };
        let mut starts = Vec::new();
        // The spool was made anew before the second one.
        for start in [7, 1] {
            let registry = Registry::new().unwrap();
            let journal = Journal::open(settings(folder.path()), start, Clock::system(), &registry).unwrap();
            (0..3).for_each(|_| journal.tell(&Event::Order(order)));
            journal.close();

            let text = registry.render();
            for line in ["events_total{event=\"order\"} 3", "lost_total 0", "write_errors_total 0", "waiting_bytes 0"] {
                assert!(text.contains(&format!("hikyaku_journal_{line}\n")), "{line}: {text}");
            }
            let hits = search(&settings(folder.path()).path, &Query::default(), &mut |_| {});
            let lines = hits.unwrap().lines;
            starts.extend(lines.iter().filter_map(|line| Some(Record::of(line)?.id().start())));
        }

        assert_eq!(starts, [7, 7, 7, 7, 7, 7, 8, 8, 8]);
    }

    #[test]
    fn a_journal_that_is_off_takes_everything_and_makes_nothing() {
        let journal = Journal::off();

        journal.tell(&Event::Order(Order {
            id: "1",
            action: "",
            filter: "",
            source: "",
            reason: "",
            who: "",
            until: None,
        }));
        journal.close();

        assert!(!journal.is_on());
    }
}

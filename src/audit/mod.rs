//! The audit log: who has changed what through the admin interface, in a chain of records that cannot be altered unseen.
//!
//! Each record is a line of JSON whose hash covers the hash of the one before ([`record`]). A change has two: one before it
//! is made and one with its outcome, so none is made that is not on record, and what a crash cuts off is seen. Both are on
//! stable storage before the answer is given; a change that cannot be recorded is not made.
//!
//! The chain goes on over files (`folder`). Its end is kept in another place, too (the *head*: in the spool's state, in
//! `status` and in the metrics), else a cut-off end would be a shorter chain that is just as good. [`verify`] tells the
//! first record at which chain or head is broken. Whoever can write the files and the state can still forge both: the head
//! has to be kept on another machine to find that.

mod folder;
pub mod record;
#[cfg(test)]
mod tests;
pub mod verify;

use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use governor::{DefaultDirectRateLimiter, Quota};
use metrics::{Counter, Gauge};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;

pub use folder::files;
pub use record::{Event, Head, Kind, Record};

use crate::clock::Clock;
use crate::metrics::Registry;
use crate::state::Note;
use folder::Log;

/// What the daemon calls itself in records of its own.
const OWN: &str = "hikyaku";
/// The action of a record that the chain was found broken: [`verify`] finds it again for ever.
const BROKEN: &str = "audit.broken";
/// The action of a record that an end that a crash had cut off was taken away.
const TORN: &str = "audit.torn";

/// Refused changes that are put on record in a minute: whoever may change nothing could fill the disk with them.
const REFUSALS_A_MINUTE: NonZeroU32 = NonZeroU32::new(30).unwrap();

/// Where the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its directory.
    pub folder: PathBuf,
    /// A file that would be larger is followed by another one.
    pub max_size: u64,
}

/// The audit log. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("state", &self.state()).finish()
    }
}

struct Inner {
    clock: Clock,
    log: Mutex<Log>,
    shown: Mutex<State>,
    refusals: DefaultDirectRateLimiter,
    meters: Meters,
}

/// How the log is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct State {
    /// The last record; none: there is none.
    pub head: Option<Head>,
    /// Why records cannot be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What was found of the chain when it was taken up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

struct Meters {
    records: Counter,
    failed: Gauge,
    broken: Gauge,
    sequence: Gauge,
    head: Gauge,
}

impl Meters {
    fn new(registry: &Registry) -> Self {
        let gauge = |name, help| registry.gauge(name, help, &[]);
        Self {
            records: registry.counter("hikyaku_audit_records_total", "Records of the audit log written.", &[]),
            failed: gauge("hikyaku_audit_failed", "1: the audit log cannot be written, and changes are refused."),
            broken: gauge("hikyaku_audit_broken", "1: the audit log's chain was found broken when it was taken up."),
            sequence: gauge("hikyaku_audit_sequence", "The number of the last record of the audit log."),
            head: gauge("hikyaku_audit_head", "The first 48 bits of the hash of that record, as a number."),
        }
    }

    fn show(&self, state: &State) {
        self.failed.set(if state.failure.is_some() { 1.0 } else { 0.0 });
        self.broken.set(if state.broken.is_some() { 1.0 } else { 0.0 });
        if let Some(head) = &state.head {
            self.sequence.set(head.sequence as f64);
            self.head.set(head.prefix() as f64);
        }
    }
}

impl Audit {
    /// Takes the log up, or begins one. That it cannot be written is told, and tried again with each record: mail goes on
    /// without it, changes do not. Blocks on the disk.
    pub fn open(settings: Settings, head: Note, clock: Clock, registry: &Registry) -> Self {
        let inner = Inner {
            clock,
            log: Mutex::new(Log::new(settings.folder, settings.max_size, head)),
            shown: Mutex::default(),
            refusals: DefaultDirectRateLimiter::direct(Quota::per_minute(REFUSALS_A_MINUTE)),
            meters: Meters::new(registry),
        };
        let audit = Self { inner: Arc::new(inner) };
        if let Err(error) = audit.write(&Event::of_daemon("start", json!({ "version": env!("CARGO_PKG_VERSION") }))) {
            tracing::error!(%error, "the audit log cannot be written: changes through the admin interface are refused");
        }
        audit
    }

    /// Writes a record; it is on stable storage then. Gives its number. Blocks on the disk.
    pub fn write(&self, event: &Event) -> io::Result<u64> {
        let inner = &self.inner;
        let now = || inner.clock.wall_precise();
        let mut log = inner.log.lock();
        let written = log.write(event, &now);
        if written.is_ok() {
            inner.meters.records.increment(1);
        }
        let failure = written.as_ref().err().map(|error| error.to_string());
        let state = State { head: log.head(), failure, broken: log.broken().map(str::to_owned) };
        inner.meters.show(&state);
        *inner.shown.lock() = state;
        written
    }

    /// Whether one more refused change is put on record: those of one who asks again and again are not.
    pub fn has_room_for_refusal(&self) -> bool {
        self.inner.refusals.check().is_ok()
    }

    /// What the daemon itself did or saw; that it cannot be written is logged. Blocks on the disk.
    pub fn note(&self, action: &'static str, parameters: serde_json::Value) {
        if let Err(error) = self.write(&Event::of_daemon(action, parameters)) {
            tracing::error!(%error, action, "this cannot be written to the audit log");
        }
    }

    /// How it is. Never waits for the disk.
    pub fn state(&self) -> State {
        self.inner.shown.lock().clone()
    }
}

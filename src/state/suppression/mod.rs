//! The suppression list: who gets no mail, of all tenants, of one, or of one class of a tenant's campaigns.
//!
//! [`Suppression::find`] is asked at RCPT and right before delivery: from memory, without allocation (a domain that is not in ASCII
//! excepted), in less than a microsecond. Memory holds 26 octets an entry: a keyed hash (`hash`) and what is to be said of it
//! (`brief`), in sorted runs (`run`) under an `index` that readers never wait for. The addresses themselves are in the log
//! (`segments`) only, which lists and exports read.
//!
//! A change is on stable storage before [`Suppression::apply`] returns, and stands in memory only then. At the start the log is
//! read and the index made anew, so that nothing depends on the key or on a file beside the log. [`Suppression::upkeep`], called from
//! time to time, merges runs and takes room back.
//!
//! An entry that stands is kept when another one of the same subject would be over sooner, or at the same time for a reason
//! of less weight ([`Outcome::Stands`]). So a full mailbox never shortens what a complaint has begun, and a list that is imported
//! again writes nothing.
//!
//! Not here: what makes an entry (bounces, complaints, clicks), and what is said to a client about it.

mod brief;
mod entry;
mod export;
mod filter;
mod hash;
mod import;
mod index;
mod inventory;
mod meters;
mod run;
mod scopes;
mod segments;
#[cfg(test)]
mod tests;
mod told;
mod upkeep;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::clock::UnixTime;
use crate::log::Position;
use crate::log::record::Frame;
use crate::log::storage::Storage;
use crate::smtp::address::Address;

use super::file::{self, Found};

use brief::{Brief, MOST_SEGMENT};
pub use entry::{Change, Entry, EntryError, Extent, Reach, Reason, Scope, Target, TargetError};
pub use export::{Entries, Stats};
pub use filter::Filter;
pub use hash::MailboxHash;
use hash::{KEY, Key, Keyed};
pub use import::{Counts, Defaults, ImportError, Imported, LineError, check_lines};
use index::Index;
pub use meters::Origin;
use meters::{Meters, Work};
use scopes::Scopes;
use segments::Segments;
pub use segments::{Finding, FindingKind};
pub use upkeep::Upkeep;

/// Whose mail it is, hashed once for all recipients of a message: see [`Suppression::whose`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whose {
    tenant: Option<Key>,
    class: Option<Key>,
}

/// What stands against a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suppressed {
    /// Why.
    pub reason: Reason,
    /// What sort of entry it is.
    pub reach: Reach,
    /// Until when; `None`: for ever.
    pub until: Option<UnixTime>,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It stands, and nothing did before.
    Added,
    /// It stands instead of what did before.
    Replaced,
    /// What stood before does so still: it weighs no less.
    Stands,
    /// What stood before does not any more.
    Removed,
    /// Nothing stood.
    Absent,
}

/// Why the list of an earlier run cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk gave an error.
    #[error("the suppression list cannot be read ({0}): mail would go to those who want none")]
    Io(#[from] io::Error),
    /// There is a record that only another version understands.
    #[error("{file}: the record at octet {offset} cannot be understood: start the newer program that wrote it")]
    Unknown {
        /// Which file, within the spool.
        file: String,
        /// Where in it.
        offset: u64,
    },
}

/// The list. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Suppression {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    keyed: Keyed,
    index: Index,
    /// Held while changes are written, and by whoever puts them into the index.
    segments: Mutex<Segments>,
    /// How many exports are going on: the oldest segments stay for them.
    exports: AtomicUsize,
    scopes: Scopes,
    /// When something changed last, as seconds since 1970; of what an earlier run did, when an entry was added. 0: never.
    changed: AtomicU32,
    /// Set once, when there is a registry.
    meters: OnceLock<Meters>,
    tuning: Tuning,
}

/// When room is taken back.
#[derive(Clone, Copy, Debug)]
struct Tuning {
    /// Octets of a segment at most.
    segment: u64,
    /// So many records that do not stand are left in the log before any is rewritten.
    slack: u64,
    /// So many segments are left before their number counts.
    few: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { segment: MOST_SEGMENT, slack: 1 << 16, few: 64 }
    }
}

/// What was taken up.
#[derive(Debug)]
pub struct Opened {
    /// The list.
    pub list: Suppression,
    /// How many entries it has.
    pub entries: usize,
    /// What was wrong with its files, to be told.
    pub findings: Vec<Finding>,
    /// The file of the key was damaged or is gone, and another key was made: hashes that were given out earlier mean nothing, nor do
    /// entries of which only the hash is known.
    pub has_new_key: bool,
}

/// The file of the key. It is none of the spool's keys, nor derived from one: those are exchanged, and what was given out must go on
/// to mean something.
const KEY_FILE: &str = "state/suppression/key";
/// So many changes become one run at the start.
const LOADED: usize = 1 << 16;

/// Reads the key that is kept in the state, or makes it; and whether there must have been one that could not be read.
fn own_key(storage: &dyn Storage) -> io::Result<([u8; KEY], bool)> {
    let found = file::read(storage, KEY_FILE)?;
    if let Found::Content(content) = &found
        && let Ok(key) = content.as_slice().try_into()
    {
        return Ok((key, false));
    }
    let is_first = found == Found::Nothing && !segments::has_any(storage)?;
    let mut key = [0; KEY];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    file::replace(storage, KEY_FILE, &key)?;
    Ok((key, !is_first))
}

impl Suppression {
    /// Directories of the storage that must have been claimed.
    pub const DIRECTORIES: [&str; 4] = ["state", segments::DIRECTORY, "quarantine", "quarantine/tail"];

    /// Takes up the list of an earlier run, with the key of its hashes. Blocks on the disk: about half a second a million entries. The
    /// storage is the spool's, which has claimed it.
    pub fn open(storage: Arc<dyn Storage>, now: UnixTime) -> Result<Opened, OpenError> {
        Self::open_with(storage, now, Tuning::default())
    }

    fn open_with(storage: Arc<dyn Storage>, now: UnixTime, tuning: Tuning) -> Result<Opened, OpenError> {
        let (key, has_new_key) = own_key(&*storage)?;
        let keyed = Keyed::new(&key)?;
        let index = Index::default();
        let mut pending: Vec<(Key, Brief)> = Vec::new();
        let (unknown, scopes, changed) = (OnceLock::new(), Scopes::default(), AtomicU32::new(0));
        let read = |place: Position, frame: &Frame<'_>| {
            let Some(change) = Change::decode(frame) else {
                unknown.get_or_init(|| (segments::path(place.segment), place.offset));
                return Err(io::ErrorKind::InvalidData.into());
            };
            let (target, scope) = change.subject();
            scopes.note([&change]);
            if let Change::Add(Entry { added, .. }) = &change {
                changed.fetch_max(added.0.min(now.0), Ordering::Relaxed);
            }
            Ok((keyed.key(target, scope), change.brief().at(place)))
        };
        let opened = Segments::open(storage, tuning.segment, read, |changes| {
            if pending.is_empty() {
                pending = changes
            } else {
                pending.extend(changes)
            }
            if pending.len() >= LOADED {
                index.put(index::latest(std::mem::take(&mut pending)));
                index.tidy(now);
            }
        });
        let (segments, findings) = match (opened, unknown.into_inner()) {
            (_, Some((file, offset))) => return Err(OpenError::Unknown { file, offset }),
            (opened, None) => opened?,
        };
        index.put(index::latest(pending));
        index.tidy(now);
        let entries = index.snapshot().entries();
        let shared = Shared {
            keyed,
            index,
            segments: Mutex::new(segments),
            exports: AtomicUsize::new(0),
            scopes,
            changed,
            meters: OnceLock::new(),
            tuning,
        };
        Ok(Opened { list: Self { shared: Arc::new(shared) }, entries, findings, has_new_key })
    }

    /// Whose mail look-ups are about: the tenant, and the class of the campaign; empty: none. Good for as long as the list is.
    pub fn whose(&self, tenant: &str, class: &str) -> Whose {
        let keyed = &self.shared.keyed;
        let tenant_key = (!tenant.is_empty()).then(|| keyed.tenant(tenant));
        let class_key = (!tenant.is_empty() && !class.is_empty()).then(|| keyed.class(tenant, class));
        Whose { tenant: tenant_key, class: class_key }
    }

    /// What stands against mail to this mailbox. Of several entries one about the mailbox comes before one about its domain, then the
    /// one that reaches farthest. Never blocks on the disk.
    pub fn find(&self, whose: Whose, address: &Address, now: UnixTime) -> Option<Suppressed> {
        self.find_if(whose, address, now, |_| true)
    }

    /// The same among entries for certain reasons.
    pub fn find_if(
        &self,
        whose: Whose,
        address: &Address,
        now: UnixTime,
        is_asked: impl Fn(Reason) -> bool,
    ) -> Option<Suppressed> {
        let Shared { keyed, index, .. } = &*self.shared;
        let snapshot = index.snapshot();
        let reaches = snapshot.reaches();
        let (mut mailbox, mut domain) = (None, None);
        Reach::ALL.into_iter().filter(|reach| reaches & reach.bit() != 0).find_map(|reach| {
            let whose = match reach.extent {
                Extent::Global => 0,
                Extent::Tenant => whose.tenant?,
                Extent::Class => whose.class?,
            };
            let what = if reach.is_domain {
                *domain.get_or_insert_with(|| keyed.domain(address.domain()))
            } else {
                *mailbox.get_or_insert_with(|| keyed.address(address))
            };
            let brief = snapshot.find(what ^ whose, reach)?;
            let reason = brief.stands(now).filter(|reason| is_asked(*reason))?;
            Some(Suppressed { reason, reach, until: brief.until() })
        })
    }

    /// Whether nobody has ever been on it, as far as is known: then nobody needs to be looked up.
    pub fn is_empty(&self) -> bool {
        self.shared.index.snapshot().reaches() == 0
    }

    /// What stands for a mailbox outside, such as in a reverse-path: an entry about it ([`Target::Hash`]) is one about the mailbox. It
    /// changes with the key only.
    pub fn hash(&self, address: &Address) -> MailboxHash {
        self.shared.keyed.mailbox(address)
    }

    /// What stands for a tenant outside, beside a mailbox: short, to be told apart among those that are configured.
    pub fn tenant_tag(&self, tenant: &str) -> [u8; 3] {
        self.shared.keyed.tenant_tag(tenant)
    }

    /// A message authentication code (AES-CMAC, RFC 4493) of what is given out and comes back, under the list's key: then nobody else made
    /// it, and the hashes in it mean something. `octets` begin with what they are for.
    pub fn seal(&self, octets: &[u8]) -> u128 {
        self.shared.keyed.seal(octets)
    }

    /// The entry about exactly this, if it stands. Blocks on the disk. An error: it stands, and the log cannot be read.
    pub fn entry(&self, target: &Target, scope: &Scope, now: UnixTime) -> io::Result<Option<Entry>> {
        let key = self.shared.keyed.key(target, scope);
        // Held, so that the segment does not go meanwhile.
        let segments = self.shared.segments.lock();
        let found = self.shared.index.snapshot().find(key, entry::reach(target, scope));
        let Some(brief) = found.filter(|brief| brief.stands(now).is_some()) else { return Ok(None) };
        match segments.read(brief.slot(), brief.offset(), Change::decode)?.flatten() {
            Some(Change::Add(entry)) => Ok(Some(entry)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the entry's record in the log is damaged")),
        }
    }

    /// Makes changes, in their order; when it returns, they are on stable storage. After an error the first of them may be
    /// in force, each whole; none is if one of them has a name or source that cannot be kept ([`io::ErrorKind::InvalidInput`]).
    /// Blocks on the disk: to make many changes, give many at a time.
    pub fn apply(&self, changes: &[Change], now: UnixTime) -> io::Result<Vec<Outcome>> {
        self.apply_from(Origin::Daemon, changes, now)
    }

    /// [`Suppression::apply`] of what comes from somebody else than the daemon.
    pub fn apply_from(&self, origin: Origin, changes: &[Change], now: UnixTime) -> io::Result<Vec<Outcome>> {
        changes
            .iter()
            .try_for_each(Change::check)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let mut outcomes = Vec::with_capacity(changes.len());
        let mut segments = self.shared.segments.lock();
        while outcomes.len() < changes.len() {
            let rest = changes.get(outcomes.len()..).unwrap_or_default();
            let before = outcomes.len();
            let applied = self.apply_some(&mut segments, rest, &mut outcomes, now);
            if let Some(meters) = self.shared.meters.get() {
                meters.changed(origin, rest, outcomes.get(before..).unwrap_or_default());
                if applied.is_err() {
                    meters.failed(Work::Change);
                }
            }
            applied?;
        }
        drop(segments);
        if self.shared.index.snapshot().runs() >= index::MOST_RUNS {
            self.shared.index.tidy(now);
        }
        Ok(outcomes)
    }

    /// Notes where what was confirmed ends, so that the next start tells damage to it from a write that was cut off. For the stop, when
    /// nothing changes any more; what does so still is kept all the same. Blocks on the disk.
    pub fn close(&self) -> io::Result<()> {
        self.shared.segments.lock().close()
    }

    /// Makes as many changes as one batch takes, and gives what became of them.
    fn apply_some(
        &self,
        segments: &mut Segments,
        changes: &[Change],
        outcomes: &mut Vec<Outcome>,
        now: UnixTime,
    ) -> io::Result<()> {
        let Shared { keyed, index, .. } = &*self.shared;
        let snapshot = index.snapshot();
        let (mut records, mut starts, mut made) = (Vec::new(), Vec::new(), Vec::new());
        // The changes of this batch by their keys, as positions in `starts`.
        let mut latest: HashMap<Key, (Brief, usize), foldhash::fast::RandomState> = HashMap::default();
        for change in changes {
            let (target, scope) = change.subject();
            let (key, brief) = (keyed.key(target, scope), change.brief());
            let before = latest.get(&key).map(|(brief, _)| *brief).or_else(|| snapshot.find(key, brief.reach()));
            let before = before.filter(|before| before.stands(now).is_some());
            let outcome = match (change, before) {
                (Change::Add(_), None) => Outcome::Added,
                (Change::Add(_), Some(before)) if brief.outweighs(before) => Outcome::Replaced,
                (Change::Add(_), Some(_)) => Outcome::Stands,
                (Change::Remove { .. }, Some(_)) => Outcome::Removed,
                (Change::Remove { .. }, None) => Outcome::Absent,
            };
            if !matches!(outcome, Outcome::Stands | Outcome::Absent) {
                let start = records.len();
                change.encode(&mut records);
                if records.len() > segments.most_batch() {
                    records.truncate(start);
                    break;
                }
                latest.insert(key, (brief, starts.len()));
                starts.push(start);
            }
            made.push(outcome);
        }
        if !starts.is_empty() {
            let first = segments.append(&mut records, &starts)?;
            let place = |(key, (brief, at)): (Key, (Brief, usize))| {
                let start = starts.get(at).copied().unwrap_or_default() as u64;
                (key, brief.at(Position { offset: first.offset + start, ..first }))
            };
            drop(snapshot);
            // Before anybody can ask where these stand.
            self.shared.scopes.note(changes.iter().take(made.len()));
            index.put(latest.into_iter().map(place).collect());
            self.shared.changed.store(now.0, Ordering::Relaxed);
        } else if segments.is_doubtful() {
            // That nothing had to be done must hold after a restart, too.
            segments.append(&mut [], &[])?;
        }
        outcomes.append(&mut made);
        Ok(())
    }
}

//! The committer thread: takes all that is pending, writes it with one `pwritev`, syncs it with one `fdatasync`, answers.
//!
//! While one sync runs the next batch forms, so no timer is needed. It also keeps the time limits of small records and
//! carries out the rule for a failed sync (see [`super::writer`]).

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::error;

use super::Position;
use super::record::{self, Lengths};
use super::segment::{BATCH, FIRST};
use super::storage::StorageFile;
use super::tail::{Open, Tail, entry_octets, for_each_frame};
use super::writer::{CommitError, Entry, Fault, Pending, SYNC_WITHIN, Sealed, Shared, Small, WRITE_WITHIN, Waiting};

/// Most entries in one batch.
const MOST_ENTRIES: usize = 1024;
/// Most octets of entries in one batch.
const MOST_OCTETS: u64 = 4 << 20;
/// With more sessions than this a batch may wait for company,
const LINGER_ABOVE: usize = 64;
/// but no longer than this.
const LINGER: Duration = Duration::from_millis(1);

type SyncWaiter = oneshot::Sender<Result<(), Fault>>;

/// What one round has to do.
struct Work {
    entries: Vec<Entry>,
    sync_waiters: Vec<SyncWaiter>,
    must_sync: bool,
    is_last: bool,
}

/// An entry that is in the log but not yet synced.
pub(super) struct Placed {
    entry: Entry,
    position: Position,
    /// It was written, and so counted in its segment.
    is_written: bool,
}

pub(super) fn run(shared: &Shared) {
    loop {
        let work = next_work(shared);
        let is_last = work.is_last;
        round(shared, work);
        // Small records that came while the tail was held here.
        shared.flush();
        if is_last {
            return;
        }
    }
}

/// What the committer's thread would do next, done by whoever has its turn.
pub(super) fn run_once(shared: &Shared) {
    let work = take(&mut shared.pending.lock(), false);
    // What comes last is left to the thread that ends then.
    round(shared, Work { is_last: false, ..work });
    shared.flush();
}

/// Waits until there is something to do and takes it.
fn next_work(shared: &Shared) -> Work {
    let mut pending = shared.pending.lock();
    loop {
        if pending.is_lent {
            pending.awaits_turn = true;
            shared.wake.wait(&mut pending);
            pending.awaits_turn = false;
            continue;
        }
        let now = Instant::now();
        let write_at = pending.small_since.map(|since| since + WRITE_WITHIN);
        let sync_at = pending.unsynced_since.map(|since| since + SYNC_WITHIN);
        let is_due = [write_at, sync_at].into_iter().flatten().any(|at| at <= now);
        if pending.has_work() || is_due {
            let must_sync = sync_at.is_some_and(|at| at <= now);
            if pending.entries.len() > 1 && shared.sessions.load(Ordering::Relaxed) > LINGER_ABOVE {
                linger(shared, &mut pending);
            }
            return take(&mut pending, must_sync);
        }
        if write_at.is_none() && sync_at.is_none() {
            pending.is_waiting = Waiting::Long;
            shared.wake.wait(&mut pending);
        } else {
            pending.is_waiting = Waiting::Short;
            shared.wake.wait_for(&mut pending, WRITE_WITHIN);
        }
        pending.is_waiting = Waiting::No;
    }
}

/// Lets more entries come in while they do.
fn linger(shared: &Shared, pending: &mut parking_lot::MutexGuard<'_, Pending>) {
    let until = Instant::now() + LINGER;
    while pending.entries.len() < LINGER_ABOVE && !pending.closing {
        // Not marked as waiting: nobody spends a system call to end a linger early.
        if shared.wake.wait_until(pending, until).timed_out() {
            return;
        }
    }
}

fn take(pending: &mut Pending, must_sync: bool) -> Work {
    let mut octets = 0;
    let fits = |entry: &&Entry| {
        octets += entry_octets(entry);
        octets <= MOST_OCTETS
    };
    let count = pending.entries.iter().take(MOST_ENTRIES).take_while(fits).count().max(1).min(pending.entries.len());
    let entries = if count == pending.entries.len() {
        std::mem::take(&mut pending.entries)
    } else {
        pending.entries.drain(..count).collect()
    };
    let is_last = pending.closing && pending.entries.is_empty();
    let sync_waiters = std::mem::take(&mut pending.sync_waiters);
    Work { entries, sync_waiters, must_sync: must_sync || is_last, is_last }
}

/// Writes, syncs, answers.
fn round(shared: &Shared, work: Work) {
    let Work { mut entries, sync_waiters, must_sync, is_last } = work;
    let _in_hand = shared.committing.work();
    let began = Instant::now();
    refuse_late(&mut entries, began);
    let mut placed = Vec::with_capacity(entries.len());
    let written = {
        let mut tail = shared.tail.lock();
        write(shared, &mut tail, entries, &mut placed)
    };
    let needs_sync = must_sync || !placed.is_empty() || !sync_waiters.is_empty() || written.is_err();
    if !needs_sync {
        return;
    }
    let had_room = !matches!(written, Ok(false));
    let synced = written.and_then(|_| sync(shared));
    let is_sound = match synced {
        Ok(()) => {
            acknowledge(shared, placed, began);
            true
        }
        Err(error) => {
            error!(
                %error,
                "a write or sync of the spool failed; messages that waited for it are refused, and a new segment is tried: \
                 look at the disk"
            );
            repair(shared, placed)
        }
    };
    // Without room small records stay in memory, however well the rest was synced.
    let is_whole = is_sound && had_room;
    for waiter in sync_waiters {
        let _ = waiter.send(if is_whole { Ok(()) } else { Err(Fault) });
    }
    if is_last && is_sound {
        seal_last(shared);
    }
}

/// Entries that nobody may acknowledge any more and that were never written.
fn refuse_late(entries: &mut Vec<Entry>, now: Instant) {
    let late = |entry: &mut Entry| entry.withdrawal.is_some_and(|withdrawal| withdrawal.deadline <= now);
    for entry in entries.extract_if(.., late) {
        let _ = entry.done.send(Err(CommitError::Withdrawn));
    }
}

/// Writes all pending small records and these entries, in as many batches as segments make necessary. Entries without
/// room are told so; false if small records found none. An error means that a write failed, and leaves the unwritten
/// entries in `placed` too, since nobody knows what reached the disk.
fn write(shared: &Shared, tail: &mut Tail, entries: Vec<Entry>, placed: &mut Vec<Placed>) -> io::Result<bool> {
    let (small, ticket, waiters) = shared.pending.lock().take_small();
    let written = write_pieces(shared, tail, small, entries, placed);
    let result = match written {
        Ok(()) => {
            shared.written.fetch_max(ticket, Ordering::AcqRel);
            Ok(())
        }
        Err(Stop::Full(small)) => {
            give_back(shared, small);
            Err(Fault)
        }
        Err(Stop::Io(error)) => {
            for waiter in waiters {
                let _ = waiter.send(Err(Fault));
            }
            return Err(error);
        }
    };
    let mut pending = shared.pending.lock();
    if pending.unsynced_since.is_none() && !tail.unsynced.is_empty() {
        pending.unsynced_since = Some(Instant::now());
    }
    drop(pending);
    for waiter in waiters {
        let _ = waiter.send(result);
    }
    Ok(result.is_ok())
}

/// Why writing stopped.
enum Stop {
    /// There is no next segment; these small records are still to be written.
    Full(Small),
    Io(io::Error),
}

/// Puts small records that found no room back in front of those that came since.
fn give_back(shared: &Shared, mut small: Small) {
    let mut pending = shared.pending.lock();
    small.bytes.append(&mut pending.small.bytes);
    small.refers.append(&mut pending.small.refers);
    if !small.bytes.is_empty() {
        pending.small_since = Some(Instant::now());
    }
    pending.small = small;
}

fn write_pieces(
    shared: &Shared,
    tail: &mut Tail,
    mut small: Small,
    entries: Vec<Entry>,
    placed: &mut Vec<Placed>,
) -> Result<(), Stop> {
    if tail.broken {
        place_all(tail, entries, placed);
        tail.unsynced.push(small);
        return Err(Stop::Io(io::ErrorKind::Other.into()));
    }
    let mut entries = entries;
    while !small.bytes.is_empty() || !entries.is_empty() {
        let piece = split_small(&mut small, room(&tail.open));
        let mut left = room(&tail.open).saturating_sub(piece.bytes.len() as u64);
        let fits = |entry: &&Entry| {
            let octets = entry_octets(entry);
            let has_room = octets <= left;
            left = left.saturating_sub(octets);
            has_room
        };
        let count = if small.bytes.is_empty() { entries.iter().take_while(fits).count() } else { 0 };
        if count == 0 && piece.bytes.is_empty() {
            if tail.open.offset == FIRST {
                // Larger than any segment: cannot be stored.
                entries.drain(..1).for_each(|entry| refuse(entry, CommitError::Full));
                continue;
            }
            match shared.supply.take() {
                Ok(fresh) => tail.rotate(fresh),
                Err(_) => {
                    entries.drain(..).for_each(|entry| refuse(entry, CommitError::Full));
                    return Err(Stop::Full(small));
                }
            }
            continue;
        }
        let rest = entries.split_off(count);
        let mut offsets = Vec::with_capacity(count);
        let written = shared.write_batch(tail, Some(piece), &mut entries, &mut offsets);
        let segment = tail.open.sequence();
        let pairs = entries.into_iter().zip(offsets);
        let is_written = written.is_ok();
        let place = |(entry, offset)| Placed { entry, position: Position { segment, offset }, is_written };
        placed.extend(pairs.map(place));
        if let Err(error) = written {
            place_all(tail, rest, placed);
            tail.unsynced.push(small);
            return Err(Stop::Io(error));
        }
        entries = rest;
    }
    Ok(())
}

fn refuse(entry: Entry, error: CommitError) {
    // An error means that nobody waits any more.
    let _ = entry.done.send(Err(error));
}

/// Counts entries that were not written as placed nowhere, for [`repair`].
fn place_all(tail: &Tail, entries: Vec<Entry>, placed: &mut Vec<Placed>) {
    let position = tail.open.position();
    placed.extend(entries.into_iter().map(|entry| Placed { entry, position, is_written: false }));
}

fn room(open: &Open) -> u64 {
    open.fresh.header.size.saturating_sub(open.offset + BATCH as u64)
}

/// Takes as many whole records from the front as fit.
fn split_small(small: &mut Small, room: u64) -> Small {
    if small.bytes.len() as u64 <= room {
        return std::mem::take(small);
    }
    let mut end = 0;
    while let Some(lengths) = small.bytes.get(end..).and_then(Lengths::read) {
        let next = end + usize::try_from(lengths.total()).unwrap_or(usize::MAX);
        if next as u64 > room {
            break;
        }
        end = next;
    }
    let rest = small.bytes.split_off(end);
    let bytes = std::mem::replace(&mut small.bytes, rest);
    Small { bytes, refers: small.refers.clone() }
}

/// Syncs everything written before the call. On success older segments are sealed.
fn sync(shared: &Shared) -> io::Result<()> {
    let (retired, file, target, count) = {
        let mut tail = shared.tail.lock();
        shared.pending.lock().unsynced_since = None;
        let file: Arc<dyn StorageFile> = tail.open.fresh.file.clone();
        if tail.broken {
            return Err(io::ErrorKind::Other.into());
        }
        (std::mem::take(&mut tail.retired), file, tail.open.position(), tail.unsynced.len())
    };
    if shared.settings.sync {
        let began = Instant::now();
        for open in &retired {
            if let Err(error) = open.fresh.file.sync_data() {
                abandon(shared, retired);
                return Err(error);
            }
        }
        if let Err(error) = file.sync_data() {
            abandon(shared, retired);
            return Err(error);
        }
        shared.watch.synced(began.elapsed());
    }
    let mut tail = shared.tail.lock();
    tail.synced = target;
    tail.unsynced.drain(..count);
    drop(tail);
    for open in retired {
        shared.watch.sealed(seal(open));
    }
    Ok(())
}

/// Leaves segments to [`repair`], which gives them up.
fn abandon(shared: &Shared, retired: Vec<Open>) {
    let mut tail = shared.tail.lock();
    tail.broken = true;
    tail.retired.splice(..0, retired);
}

fn seal(open: Open) -> Sealed {
    let header = open.fresh.header;
    Sealed {
        segment: header.sequence,
        salt: header.salt,
        binding: header.binding,
        end: open.offset,
        index: Some(open.index),
    }
}

/// Answers everyone whose entry is synced; those that came too late are withdrawn first.
fn acknowledge(shared: &Shared, placed: Vec<Placed>, began: Instant) {
    if placed.is_empty() {
        return;
    }
    let now = Instant::now();
    shared.note_commit(now - began);
    shared.watch.committed(placed.len(), now - began);
    let is_late = |placed: &Placed| placed.entry.withdrawal.is_some_and(|withdrawal| withdrawal.deadline <= now);
    let (late, timely): (Vec<_>, Vec<_>) = placed.into_iter().partition(is_late);
    let mut abandoned = Small::default();
    for Placed { entry, position, .. } in timely {
        let octets = entry_octets(&entry);
        // Nobody waits any more, so nobody will answer for it.
        if entry.done.send(Ok(position)).is_err()
            && let Some(withdrawal) = entry.withdrawal
        {
            shared.withdraw(withdrawal.key, &mut abandoned.bytes);
            abandoned.refers.push(position.segment);
            shared.watch.withdrawn(position.segment, octets);
        }
    }
    give_back(shared, abandoned);
    withdraw(shared, late);
}

/// Takes back entries that are in the log, and says so only when that is synced.
fn withdraw(shared: &Shared, late: Vec<Placed>) {
    if late.is_empty() {
        return;
    }
    let mut small = Small::default();
    for Placed { entry, position, .. } in &late {
        if let Some(withdrawal) = entry.withdrawal {
            shared.withdraw(withdrawal.key, &mut small.bytes);
            small.refers.push(position.segment);
        }
    }
    give_back(shared, small);
    let written = {
        let mut tail = shared.tail.lock();
        write(shared, &mut tail, Vec::new(), &mut Vec::new())
    };
    let is_sound = written.and_then(|_| sync(shared)).is_ok() || repair(shared, Vec::new());
    // Without room the withdrawal stays in memory: the client's view must then stay open.
    let is_out = is_sound && shared.pending.lock().small.bytes.is_empty();
    for Placed { entry, position, .. } in late {
        shared.watch.withdrawn(position.segment, entry_octets(&entry));
        let _ = entry.done.send(Err(if is_out { CommitError::Withdrawn } else { CommitError::Unknown }));
    }
}

/// A write or sync failed: gives the unsynced segments up, appends what they may have lost to the next one, and withdraws
/// the entries that can be. False if that failed too; then the log is faulty for good.
fn repair(shared: &Shared, placed: Vec<Placed>) -> bool {
    let mut tail = shared.tail.lock();
    let Ok(fresh) = shared.supply.take() else {
        drop(tail);
        fail(shared, placed);
        return false;
    };
    tail.rotate(fresh);
    tail.broken = false;
    let given_up = std::mem::take(&mut tail.retired);
    let mut small = Small::default();
    for mut lost in std::mem::take(&mut tail.unsynced) {
        for_each_frame(&mut lost.bytes, |frame| record::unseal(frame, 0));
        small.bytes.append(&mut lost.bytes);
        small.refers.append(&mut lost.refers);
    }
    let (withdrawn, repeated): (Vec<_>, Vec<_>) =
        placed.into_iter().partition(|placed| placed.entry.withdrawal.is_some());
    for Placed { entry, position, .. } in &withdrawn {
        if let Some(withdrawal) = entry.withdrawal {
            shared.withdraw(withdrawal.key, &mut small.bytes);
            small.refers.push(position.segment);
        }
    }
    let unsealed = |placed: Placed| {
        uncount(shared, &placed);
        let mut entry = placed.entry;
        if placed.is_written {
            // What will be said about it names its new place, and must stay as long as the old one can be read.
            entry.refers.push(placed.position.segment);
        }
        record::unseal(&mut entry.meta, entry.checksum);
        entry
    };
    let entries = repeated.into_iter().map(unsealed).collect();
    small.refers.sort_unstable();
    small.refers.dedup();
    let mut again = Vec::new();
    let written = write_pieces(shared, &mut tail, small, entries, &mut again);
    let synced = match written {
        Ok(()) => {
            tail.open.fresh.file.sync_data().is_ok()
                && tail.retired.iter().all(|open| open.fresh.file.sync_data().is_ok())
        }
        Err(_) => false,
    };
    if !synced {
        drop(tail);
        again.extend(withdrawn);
        fail(shared, again);
        return false;
    }
    tail.synced = tail.open.position();
    tail.unsynced.clear();
    drop(tail);
    for open in given_up {
        shared.watch.sealed(Sealed { index: None, ..seal(open) });
    }
    for placed in withdrawn {
        uncount(shared, &placed);
        refuse(placed.entry, CommitError::Withdrawn);
    }
    for Placed { entry, position, .. } in again {
        let _ = entry.done.send(Ok(position));
    }
    true
}

/// An entry is void where it was first written.
fn uncount(shared: &Shared, placed: &Placed) {
    if placed.is_written {
        shared.watch.withdrawn(placed.position.segment, entry_octets(&placed.entry));
    }
}

/// Nothing can be said any more.
pub(super) fn fail(shared: &Shared, placed: Vec<Placed>) {
    if !shared.fault.swap(true, Ordering::AcqRel) {
        error!(
            "the spool cannot be written any more: submissions get 421 and nothing is delivered; restart when the disk \
             is well"
        );
    }
    for Placed { entry, .. } in placed {
        let _ = entry.done.send(Err(CommitError::Unknown));
    }
    let mut pending = shared.pending.lock();
    let entries = std::mem::take(&mut pending.entries);
    let (waiters, sync_waiters) = (std::mem::take(&mut pending.waiters), std::mem::take(&mut pending.sync_waiters));
    pending.small_since = None;
    pending.unsynced_since = None;
    drop(pending);
    for entry in entries {
        let _ = entry.done.send(Err(CommitError::Closed));
    }
    for waiter in waiters.into_iter().chain(sync_waiters) {
        let _ = waiter.send(Err(Fault));
    }
}

/// At an orderly end the last segment is sealed like the others; an empty batch names its end as synced, as the next
/// segment's batches do for every other one. One without records is left to [`super::writer::Writer::abandon`] if that
/// is how it ends.
fn seal_last(shared: &Shared) {
    let mut tail = shared.tail.lock();
    if tail.open.is_unused() && shared.pending.lock().abandoned {
        return;
    }
    if tail.broken || tail.open.is_none || tail.synced != tail.open.position() {
        return;
    }
    let end = tail.open.offset;
    if tail.open.has_room(0) && tail.write(&mut [], &mut [], &mut Vec::new()).is_ok() {
        // Nothing depends on it, so a failure changes nothing.
        let _ = tail.open.fresh.file.sync_data();
    }
    let index = std::mem::take(&mut tail.open.index);
    let header = tail.open.fresh.header;
    drop(tail);
    shared.watch.sealed(Sealed {
        segment: header.sequence,
        salt: header.salt,
        binding: header.binding,
        end,
        index: Some(index),
    });
}

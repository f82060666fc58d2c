//! Copying live messages out of segments that are mostly dead.
//!
//! A copy is one folded record: the same id, the recipients that are left, their attempts and times, the content. It is
//! synced before the old segment goes. Recovery ignores a copy as long as the segment it was made from exists: the
//! original and the events after it say the same. An event that comes between the moment the copy is laid out and the
//! moment the map names it may lie before the copy, so what changed meanwhile is appended again behind it and synced
//! before the old segment goes. The copy's segment refers to the old one, so it cannot go first.
//!
//! A copy that the map is not made to name, or that a recovery ignored, must never count: outcomes before it in the log
//! would be undone the moment the old segment is gone. A VOID record says so, synced before that moment; it names the
//! copy's place, so that it leaves the original and other copies alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::log::index;
use crate::log::record::Frame;
use crate::log::sealed::Opener;
use crate::log::storage::{StorageFile, read_exact};
use crate::log::writer::{CommitError, Entry};
use crate::log::{Position, record::HEADER};
use crate::message::MessageId;

use super::codec;
use super::contract::Pending;
use super::inner::Inner;
use super::keeper::reserve;
use super::ledger::Segment;
use super::map::Location;
use super::source;

/// So many octets are copied before their commit is awaited.
const PIECE: u64 = 1 << 20;
/// Dead segments that others hold back may take this many segments before the oldest is copied whatever it holds.
const SLACK: u64 = 8;

/// Copying leaves this many segments of room: attempts and outcomes must always find some, or nothing is freed any more.
const LEFT: u64 = 3;

/// A copy on its way.
struct Copy {
    id: MessageId,
    from: Location,
    octets: u64,
    then: Vec<Pending>,
    done: oneshot::Receiver<Result<Position, CommitError>>,
}

/// A segment to copy from.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Which.
    pub sequence: u32,
    /// Why.
    pub reason: Reason,
}

/// Why a segment is copied from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A sync of it failed.
    GivenUp,
    /// Little of it is live.
    Thin,
    /// Dead segments wait for it.
    HoldsBack,
}

/// The segment to copy from next, if any.
pub fn candidate(inner: &Inner) -> Option<Source> {
    let space = inner.storage.space().ok();
    let is_low = space.is_some_and(|space| space.free < 2 * reserve(&inner.settings.load(), space.total));
    let has_room = space.is_none_or(|space| space.free >= LEFT * inner.settings.load().segment_size);
    let may_carry = may_carry(inner);
    inner.ledger.with(|segments| {
        let loose = loose(segments);
        let is_loose = |(sequence, _): &(&u32, &Segment)| loose.contains(sequence);
        let (mut total, mut live) = (0, 0);
        for (_, segment) in segments.iter().filter(is_loose) {
            total += segment.size;
            live += segment.live_octets;
        }
        let sealed =
            || segments.iter().filter(|(_, segment)| segment.is_sealed && segment.live > 0 && !segment.is_pinned);
        let eligible = || sealed().filter(is_loose);
        let given_up = sealed().find(|(_, segment)| segment.is_given_up);
        let thinnest = eligible().min_by_key(|(_, segment)| share(segment)).filter(|(_, it)| share(it) < 25);
        let is_over = total > live * 5 / 2 + SLACK * inner.settings.load().segment_size;
        // It goes as soon as it is empty, and never is a segment copied that another one keeps from going.
        let goes_at_once = |segment: &Segment| !segment.refers.iter().any(|other| segments.contains_key(other));
        let oldest = || eligible().find(|(_, segment)| goes_at_once(segment));
        // Where room is wanted now, a copy that frees nothing yet would only take some.
        let freeing = || eligible().filter(|(_, it)| goes_at_once(it)).min_by_key(|(_, segment)| share(segment));
        let fullest = || freeing().filter(|(_, it)| is_low && share(it) < 90);
        let of = |reason| move |(sequence, _): (&u32, &Segment)| Source { sequence: *sequence, reason };
        given_up
            .map(of(Reason::GivenUp))
            .or_else(|| {
                thinnest.filter(|_| has_room).or_else(|| has_room.then(fullest).flatten()).map(of(Reason::Thin))
            })
            .or_else(|| (has_room && is_over && may_carry).then(oldest).flatten().map(of(Reason::HoldsBack)))
    })
}

/// Whether segments that are not thin may be copied. Each such copy frees its segment, which may be nothing but what was
/// copied. So there is no more of it than was written otherwise, whatever the reason for which dead segments do not go.
fn may_carry(inner: &Inner) -> bool {
    let copied = inner.tally.copied_octets.load(Ordering::Relaxed);
    let otherwise = inner.ledger.octets().saturating_sub(copied);
    let slack = SLACK * inner.settings.load().segment_size;
    inner.tally.carried.load(Ordering::Relaxed) <= otherwise.saturating_add(slack)
}

/// Segments that copying can make room of: not those that must stay in this run or hold a damaged message, nor what
/// refers to them. One pass finds them, since a segment refers to older ones only.
fn loose(segments: &BTreeMap<u32, Segment>) -> BTreeSet<u32> {
    let mut loose = BTreeSet::new();
    for (sequence, segment) in segments {
        let is_held = |other: &u32| segments.contains_key(other) && !loose.contains(other);
        let is_pinned = segment.is_pinned && segment.live > 0;
        if !segment.must_stay && !is_pinned && !segment.refers.iter().any(is_held) {
            loose.insert(*sequence);
        }
    }
    loose
}

/// Live octets in percent.
fn share(segment: &Segment) -> u64 {
    segment.live_octets * 100 / segment.size.max(1)
}

/// Copies all live messages of a segment; how many. On return nothing needs the segment but records about older ones.
pub fn run(inner: &Inner, source: Source) -> io::Result<u64> {
    let count = || (inner.tally.copied.load(Ordering::Relaxed), inner.tally.copied_octets.load(Ordering::Relaxed));
    let before = count();
    let result = empty(inner, source.sequence);
    let after = count();
    if source.reason == Reason::HoldsBack {
        inner.tally.carried.fetch_add(after.1 - before.1, Ordering::Relaxed);
    }
    result.map(|()| after.0 - before.0)
}

fn empty(inner: &Inner, sequence: u32) -> io::Result<()> {
    let (file, opener) = inner.ledger.reader(sequence)?;
    let entries = source::entries(&*inner.storage, sequence, inner.ledger.keys())?;
    let mut found = Vec::new();
    index::each(&entries, &mut |offset, frame| {
        if frame.kind() == codec::MESSAGE
            && let Some(id) = codec::id(frame)
        {
            let position = Position { segment: sequence, offset };
            found.push((id, Location { position, octets: frame.lengths.total() }));
        }
    });
    inner.ledger.with(|segments| segments.entry(sequence).or_default().is_source = true);
    let (mut copies, mut octets) = (Vec::new(), 0);
    for (id, from) in found {
        if inner.map.shard(id).find(id) != Some(from) {
            continue;
        }
        let copy = match lay_out(inner, id, from, &*file, &opener)? {
            Laid::Out(copy) => copy,
            Laid::Busy => continue,
            Laid::Damaged => {
                inner.ledger.with(|segments| segments.entry(sequence).or_default().is_pinned = true);
                continue;
            }
        };
        octets += copy.octets;
        copies.push(copy);
        if octets >= PIECE {
            settle(inner, std::mem::take(&mut copies))?;
            octets = 0;
        }
    }
    settle(inner, copies)?;
    inner.writer.sync_blocking().map_err(io::Error::other)
}

/// What became of a message that was to be copied.
enum Laid {
    Out(Copy),
    /// A DSN about it is on its way to the disk and its events are not in the map yet.
    Busy,
    /// It stays where it is.
    Damaged,
}

/// Hands a copy to the committer, which encrypts it under the key of its own segment.
fn lay_out(inner: &Inner, id: MessageId, from: Location, file: &dyn StorageFile, opener: &Opener) -> io::Result<Laid> {
    let offset = from.position.offset;
    let mut bytes = read_exact(file, offset, usize::try_from(from.octets).unwrap_or(HEADER))?;
    let range = opener.open(&mut bytes, offset);
    let bytes = Bytes::from(bytes);
    let Some((frame, range)) = Frame::trusted(&bytes).zip(range) else {
        // Reading it reports it and copies it to quarantine.
        let _ = inner.read(id, from);
        return Ok(Laid::Damaged);
    };
    let (done, receiver) = oneshot::channel();
    let then = {
        let shard = inner.map.shard(id);
        if shard.is_concluding(id) {
            return Ok(Laid::Busy);
        }
        shard.pending(id)
    };
    let content = bytes.slice(range);
    let checksum = crc32c::crc32c(&content);
    let length = u32::try_from(content.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let meta = codec::copy(&frame, from.position.segment, &then, length, checksum);
    let octets = inner.writer.octets(meta.len(), content.len());
    let refers = vec![from.position.segment];
    inner.writer.submit(Entry { meta, content, checksum, refers, withdrawal: None, done });
    Ok(Laid::Out(Copy { id, from, octets, then, done: receiver }))
}

/// Waits for copies and makes the map name them.
fn settle(inner: &Inner, copies: Vec<Copy>) -> io::Result<()> {
    let mut failure = None;
    for Copy { id, from, octets, then, done } in copies {
        match done.blocking_recv() {
            Ok(Ok(position)) => {
                relocate(inner, id, from, Location { position, octets }, &then);
                inner.ledger.settle(position.segment);
                inner.tally.copied.fetch_add(1, Ordering::Relaxed);
                inner.tally.copied_octets.fetch_add(octets, Ordering::Relaxed);
            }
            Ok(Err(error)) => failure = Some(io::Error::other(error)),
            Err(error) => failure = Some(io::Error::other(error)),
        }
    }
    failure.map_or(Ok(()), Err)
}

fn relocate(inner: &Inner, id: MessageId, from: Location, to: Location, then: &[Pending]) {
    let mut shard = inner.map.shard(id);
    let segment = to.position.segment;
    // Finished meanwhile, or a DSN about it is on its way whose events may lie before the copy: the original counts as
    // long as its segment exists, and the copy must not count after that.
    if shard.find(id) != Some(from) || shard.is_concluding(id) {
        inner.writer.append(segment, |out| codec::write_void(out, id, to.position));
        drop(shard);
        // The committer has counted the copy as live.
        inner.ledger.release(to);
        return;
    }
    let now = shard.pending(id);
    if now != then {
        inner.writer.append(segment, |out| codec::write_difference(out, id, then, &now));
    }
    shard.relocate(id, to);
    drop(shard);
    inner.ledger.release(from);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(of: &[(u32, &[u32])]) -> BTreeMap<u32, Segment> {
        let segment = |refers: &[u32]| Segment { refers: refers.iter().copied().collect(), ..Segment::default() };
        of.iter().map(|(sequence, refers)| (*sequence, segment(refers))).collect()
    }

    #[test]
    fn what_refers_to_a_segment_that_cannot_go_cannot_go_either() {
        // Segment 1 is gone.
        let mut segments = segments(&[(2, &[1]), (3, &[]), (4, &[3]), (5, &[2, 4]), (6, &[2])]);
        let all = loose(&segments);
        let damaged = segments.get_mut(&3).unwrap();
        (damaged.is_pinned, damaged.live) = (true, 1);
        let with_damage = loose(&segments);
        segments.get_mut(&2).unwrap().must_stay = true;

        assert_eq!(all, BTreeSet::from([2, 3, 4, 5, 6]));
        assert_eq!(with_damage, BTreeSet::from([2, 6]));
        assert!(loose(&segments).is_empty());
    }
}

//! Lines that are not written yet, and what was lost because there were too many of them.
//!
//! Whoever has something to tell writes its line here, under a lock held for a fraction of a microsecond; nobody waits
//! for the disk. When the buffer is full everything is counted as lost until the writer has taken what there is, so
//! that what is lost lies in one piece behind it.

use std::time::Duration;

use crate::mask::Mask;

use super::event::{Event, Kind};
use super::id::EventId;
use super::line::{Line, key};

/// So much is worth writing at once without waiting for more.
const ENOUGH: usize = 256 << 10;

/// Lines in the order in which they happened.
#[derive(Debug)]
pub(super) struct Buffer {
    lines: Vec<u8>,
    /// Octets that it may hold.
    most: usize,
    start: u32,
    /// Lines of this start so far.
    count: u64,
    /// Lines by kind since the last take.
    kinds: [u64; Kind::ALL.len()],
    lost: Option<Lost>,
    /// All since the start that no file has: those, told or not, and what others took from the journal.
    lost_in_all: Option<Lost>,
    /// The writer sleeps and is to be woken: set by it, cleared by who wakes it.
    pub is_awaited: bool,
    /// The daemon ends; nothing more is written than what is here.
    pub is_closing: bool,
}

/// Events that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub count: u64,
    /// When the first and the last of them happened, as the time since 1970-01-01 UTC.
    pub from: Duration,
    pub to: Duration,
}

/// What the writer takes over.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub lines: Vec<u8>,
    pub kinds: [u64; Kind::ALL.len()],
    /// Id of the last line, if there is any.
    pub last: Option<EventId>,
    /// For the `file` line of a new file, if one was asked for: greater than all before, less than all after.
    pub header: Option<EventId>,
    /// Set by the writer: ids behind all of this, for a file that is lost later.
    pub reserve: Option<[EventId; 2]>,
    pub is_closing: bool,
}

impl Buffer {
    /// An empty one that holds `most` octets; the first line is that of the first file.
    pub fn new(start: u32, most: usize) -> Self {
        Self {
            lines: Vec::new(),
            most,
            start,
            count: 0,
            kinds: [0; Kind::ALL.len()],
            lost: None,
            lost_in_all: None,
            is_awaited: false,
            is_closing: false,
        }
    }

    /// A new id.
    pub fn next_id(&mut self) -> EventId {
        self.count += 1;
        EventId::new(self.start, self.count)
    }

    /// Two new ids, perhaps never used.
    pub fn reserve(&mut self) -> [EventId; 2] {
        [self.next_id(), self.next_id()]
    }

    /// Takes an event; whether the writer is to be woken, and whether the event is lost.
    pub fn put(&mut self, event: &Event<'_>, at: Duration, mask: &Mask) -> (bool, bool) {
        let before = self.lines.len();
        if before >= self.most {
            add(&mut self.lost, 1, at, at);
            self.note_lost(1, at, at);
            return (std::mem::take(&mut self.is_awaited), true);
        }
        let id = self.next_id();
        event.write(&mut self.lines, id, at, mask);
        self.count_kind(event.kind());
        let is_enough = before < ENOUGH && self.lines.len() >= ENOUGH;
        (std::mem::take(&mut self.is_awaited) || is_enough, false)
    }

    /// Counts events that happened between these times and are in no file.
    pub fn note_lost(&mut self, count: u64, from: Duration, to: Duration) {
        add(&mut self.lost_in_all, count, from, to);
    }

    /// What was lost since the start.
    pub fn lost_in_all(&self) -> Option<Lost> {
        self.lost_in_all
    }

    /// Whether the writer has nothing to do.
    pub fn is_idle(&self) -> bool {
        self.lines.is_empty() && self.lost.is_none() && !self.is_closing
    }

    /// Whether the writer should not wait for more.
    pub fn is_enough(&self) -> bool {
        self.lines.len() >= ENOUGH || self.is_closing
    }

    /// Gives out everything, leaving `spare`. What was lost is told in a `gap` line at the end, with `cause`. `is_full`
    /// says whether a file of its present length and so many octets more is to be followed by another one.
    pub fn take(&mut self, spare: Vec<u8>, now: Duration, cause: &str, is_full: impl Fn(usize) -> bool) -> Taken {
        if let Some(Lost { count, from, to }) = self.lost.take() {
            let id = self.next_id();
            gap(&mut self.lines, id, now, &Gap { count: Some(count), from: Some(from), to, cause });
            self.count_kind(Kind::Gap);
        }
        let lines = std::mem::replace(&mut self.lines, spare);
        let last = (!lines.is_empty()).then(|| EventId::new(self.start, self.count));
        let header = is_full(lines.len()).then(|| self.next_id());
        let kinds = std::mem::replace(&mut self.kinds, [0; Kind::ALL.len()]);
        Taken { lines, kinds, last, header, reserve: None, is_closing: self.is_closing }
    }

    fn count_kind(&mut self, kind: Kind) {
        if let Some(count) = self.kinds.get_mut(kind as usize) {
            *count += 1;
        }
    }

    /// Octets that wait.
    pub fn len(&self) -> usize {
        self.lines.len()
    }
}

fn add(lost: &mut Option<Lost>, count: u64, from: Duration, to: Duration) {
    let lost = lost.get_or_insert(Lost { count: 0, from, to });
    lost.count += count;
    lost.from = lost.from.min(from);
    lost.to = lost.to.max(to);
}

/// What is known of missing events.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap<'a> {
    /// How many; none: nobody knows.
    pub count: Option<u64>,
    pub from: Option<Duration>,
    pub to: Duration,
    pub cause: &'a str,
}

/// Appends the line of a gap.
pub(super) fn gap(out: &mut Vec<u8>, id: EventId, now: Duration, gap: &Gap<'_>) {
    let mut line = Line::begin(out, id, now, Kind::Gap.as_str(), &Mask::None);
    if let Some(count) = gap.count {
        line.number(key!("count"), count);
    }
    if let Some(from) = gap.from {
        line.millis(key!("from"), from);
    }
    line.millis(key!("to"), gap.to);
    line.text(key!("cause"), gap.cause);
    line.end();
}

/// Appends the line that a file begins with. `previous` is the last event before it, as far as there is one.
pub(super) fn header(out: &mut Vec<u8>, id: EventId, now: Duration, previous: Option<EventId>) {
    let mut line = Line::begin(out, id, now, Kind::File.as_str(), &Mask::None);
    if let Some(previous) = previous {
        line.id(key!("previous"), previous);
    }
    line.text(key!("version"), env!("CARGO_PKG_VERSION"));
    line.end();
}

#[cfg(test)]
mod tests {
    use super::super::event::Order;
    use super::*;

    const ORDER: Event<'static> = Event::Order(Order {
        id: "o1",
        action: "hold",
        filter: "domain=x",
        source: "",
        reason: "why",
        who: "root",
        until: None,
    });

    #[test]
    fn what_does_not_fit_is_counted_until_the_rest_is_taken_and_told_behind_it() {
        let at = Duration::from_secs;
        let mut buffer = Buffer::new(3, 1);

        let put: Vec<_> = (1..=4).map(|second| buffer.put(&ORDER, at(second), &Mask::None).1).collect();
        let taken = buffer.take(Vec::new(), at(9), "slow", |_| false);
        let is_lost_after = buffer.put(&ORDER, at(10), &Mask::None).1;

        assert_eq!(put, [false, true, true, true]);
        assert!(!is_lost_after);
        let text = String::from_utf8(taken.lines).unwrap();
        let gap: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let expected = serde_json::json!({"v": 1, "id": EventId::new(3, 2).to_string(),
            "time": "1970-01-01T00:00:09.000Z", "event": "gap", "count": 3, "from": "1970-01-01T00:00:02.000Z",
            "to": "1970-01-01T00:00:04.000Z", "cause": "slow"});
        assert_eq!(gap, expected);
    }

    #[test]
    fn the_id_of_a_new_file_lies_between_what_was_taken_and_what_comes() {
        let mut buffer = Buffer::new(1, 1_000);
        buffer.put(&ORDER, Duration::ZERO, &Mask::None);

        let taken = buffer.take(Vec::new(), Duration::ZERO, "", |_| true);
        let next = buffer.next_id();

        assert!(taken.last < taken.header && taken.header < Some(next));
    }

    #[test]
    fn a_sleeping_writer_is_woken_once_and_again_when_there_is_enough() {
        let mut buffer = Buffer::new(1, 1 << 20);
        buffer.is_awaited = true;

        let woken = (0..5_000).filter(|_| buffer.put(&ORDER, Duration::ZERO, &Mask::None).0).count();

        assert_eq!(woken, 2);
        assert!(buffer.is_enough());
    }
}

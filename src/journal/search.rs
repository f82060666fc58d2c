//! Looking for events in all files.
//!
//! Files are read from the newest to the oldest, and no further than needed. Lines are compared as they stand in the
//! file, once it is seen that they are whole: over a million a second. Addresses, domains, tenants and campaigns are
//! compared as the queue compares them.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use memchr::memmem::Finder;

use crate::mask::Mask;
use crate::message::MessageId;
use crate::smtp::address::Address;

use super::event::Kind;
use super::folder::{JournalFile, files};
use super::follow::ENDS_EARLY;
use super::id::EventId;
use super::lines::Lines;
use super::record::{Record, escaped};
use super::time;

/// Lines between two calls of the progress function.
const STEP: u64 = 100_000;

/// What to look for; absent: anything.
#[derive(Clone, Debug)]
pub struct Query {
    /// The forward-path, with or without angle brackets. Case matters in the local-part, not in the domain.
    pub recipient: Option<String>,
    /// The reverse-path, likewise; `@` and a domain: any of that domain; empty or `<>`: the null reverse-path.
    pub sender: Option<String>,
    /// The message.
    pub message: Option<MessageId>,
    /// One of these messages, as the journal writes their ids; empty: any.
    pub messages: HashSet<Vec<u8>>,
    /// Whose messages.
    pub tenant: Option<String>,
    /// Of which campaign.
    pub campaign: Option<String>,
    /// The recipient's domain; `*.` and a domain: any below that.
    pub domain: Option<String>,
    /// Of these kinds; empty: any but `file`.
    pub events: Vec<Kind>,
    /// Not before, as the time since 1970-01-01 UTC.
    pub since: Option<Duration>,
    /// Before.
    pub until: Option<Duration>,
    /// The newest so many.
    pub limit: usize,
    /// The event itself.
    pub id: Option<EventId>,
    /// How addresses may have been masked: they are looked for in that form as well.
    pub mask: Mask,
}

impl Default for Query {
    fn default() -> Self {
        Self {
            recipient: None,
            sender: None,
            message: None,
            messages: HashSet::new(),
            tenant: None,
            campaign: None,
            domain: None,
            events: Vec::new(),
            since: None,
            until: None,
            limit: 100,
            id: None,
            mask: Mask::None,
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// Whole lines, the oldest first.
    pub lines: Vec<Vec<u8>>,
    /// There may be older ones: the limit was reached.
    pub is_cut: bool,
    /// Places in what was read where events are missing.
    pub gaps: u64,
    /// Lines that could not be read.
    pub damaged: u64,
    /// Files that could not be read to their end, and why.
    pub damaged_files: Vec<(PathBuf, String)>,
}

/// How far a search has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Files that are done, and all of them.
    pub files: (usize, usize),
    /// Octets of lines read.
    pub octets: u64,
    /// Lines found.
    pub found: usize,
}

/// What a line must have.
struct Condition {
    /// From the field's name on, as it stands in the line; to the end of its value, unless there is a tail. One of them.
    heads: Vec<Finder<'static>>,
    /// How the value ends.
    tail: Option<(&'static str, Vec<u8>)>,
}

impl Condition {
    fn is(name: &str, value: &str) -> Self {
        Self::is_one_of(name, &[value])
    }

    fn is_one_of(name: &str, values: &[&str]) -> Self {
        let needle = |value: &&str| {
            let needle = [format!("\"{name}\":\"").as_bytes(), &escaped(value), b"\""].concat();
            Finder::new(&needle).into_owned()
        };
        Self { heads: values.iter().map(needle).collect(), tail: None }
    }

    /// An address, as it stands or as it was masked.
    fn is_address(name: &str, address: &str, mask: &Mask) -> Self {
        match mask.masked(address) {
            masked if masked == address => Self::is(name, address),
            masked => Self::is_one_of(name, &[address, &masked]),
        }
    }

    fn ends_with(name: &'static str, tail: &str) -> Self {
        let needle = format!("\"{name}\":\"");
        Self { heads: vec![Finder::new(needle.as_bytes()).into_owned()], tail: Some((name, escaped(tail))) }
    }

    fn holds_in(&self, record: &Record<'_>) -> bool {
        self.heads.iter().any(|head| head.find(record.bytes()).is_some())
            && self.tail.as_ref().is_none_or(|(name, tail)| {
                record.raw(name).is_some_and(|value| value.len() > tail.len() && value.ends_with(tail))
            })
    }
}

/// The reverse-path as a selection has it: an address, one of a domain, or the null one.
fn sender_condition(sender: &str, mask: &Mask) -> Condition {
    match sender.strip_prefix('@') {
        Some(domain) => Condition::ends_with("reverse_path", &format!("@{}", domain_form(domain))),
        None if sender == "<>" => Condition::is("reverse_path", ""),
        None => Condition::is_address("reverse_path", &address_form(sender), mask),
    }
}

fn domain_condition(domain: &str) -> Condition {
    match domain.strip_prefix('*') {
        Some(below) => Condition::ends_with("domain", &domain_form(below)),
        None => Condition::is("domain", &domain_form(domain)),
    }
}

fn domain_form(domain: &str) -> String {
    domain.trim_end_matches('.').to_lowercase()
}

/// An address in the form in which the queue and the journal have it; what is none can be found nowhere.
fn address_form(text: &str) -> String {
    Address::of_path(text).map_or_else(str::to_owned, |address| address.as_str().to_owned())
}

/// A query made ready.
struct Filter<'a> {
    query: &'a Query,
    conditions: Vec<Condition>,
    since: Option<Vec<u8>>,
    until: Option<Vec<u8>>,
}

impl<'a> Filter<'a> {
    fn new(query: &'a Query) -> Self {
        let Query { id, recipient, sender, message, tenant, campaign, domain, mask, .. } = query;
        let conditions = [
            message.map(|id| Condition::is("message_id", &id.to_string())),
            recipient.as_ref().map(|path| Condition::is_address("recipient", &address_form(path), mask)),
            sender.as_deref().map(|sender| sender_condition(sender, mask)),
            id.map(|id| Condition::is("id", &id.to_string())),
            domain.as_deref().map(domain_condition),
            tenant.as_ref().map(|name| Condition::is("tenant", name)),
            campaign.as_ref().map(|name| Condition::is("campaign", name)),
        ];
        let bound = |at: Option<Duration>| {
            at.map(|at| {
                let mut text = Vec::new();
                time::write_millis(&mut text, at);
                text
            })
        };
        let (since, until) = (bound(query.since), bound(query.until));
        Self { query, conditions: conditions.into_iter().flatten().collect(), since, until }
    }

    fn wants(&self, kind: &[u8], record: &Record<'_>) -> bool {
        let is_kind = |wanted: &Kind| wanted.as_str().as_bytes() == kind;
        let is_wanted = match self.query.events.as_slice() {
            [] => !is_kind(&Kind::File),
            events => events.iter().any(is_kind),
        };
        let is_one = |messages: &HashSet<Vec<u8>>| {
            messages.is_empty() || record.raw("message_id").is_some_and(|id| messages.contains(id))
        };
        is_wanted && is_one(&self.query.messages) && self.conditions.iter().all(|condition| condition.holds_in(record))
    }
}

/// Looks through the journal in `folder`; no daemon is needed. `progress` is called every now and then. A file
/// that is damaged is told and passed.
pub fn search(folder: &Path, query: &Query, progress: &mut dyn FnMut(Progress)) -> io::Result<Hits> {
    let filter = Filter::new(query);
    let all = files(folder)?;
    let mut hits = Hits::default();
    let mut found: VecDeque<Vec<u8>> = VecDeque::new();
    let mut state = Progress { files: (0, all.len()), octets: 0, found: 0 };
    for file in all.iter().rev() {
        let Some(mut lines) = open(folder, file)? else { continue };
        let before = state;
        let mut here = Pass::new(&filter, query.limit.saturating_sub(found.len()));
        let damage = here.run(&mut lines, file, &mut hits, &mut |here, read| {
            state.octets = before.octets + read;
            state.found = before.found + here.found.len();
            progress(state);
        });
        hits.damaged_files.extend(damage.map(|reason| (file.path.clone(), reason)));
        let Pass { found: newer, is_cut, is_before_since, .. } = here;
        for line in newer.into_iter().rev() {
            found.push_front(line);
        }
        hits.is_cut |= is_cut;
        let octets = before.octets + lines.read;
        state = Progress { files: (before.files.0 + 1, before.files.1), octets, found: found.len() };
        let is_full = found.len() >= query.limit;
        let is_last = state.files.0 == state.files.1;
        hits.is_cut |= is_full && !is_last && !is_before_since;
        progress(state);
        if is_full || is_before_since {
            break;
        }
    }
    hits.lines = found.into();
    Ok(hits)
}

/// The lines of a file, which may have been compressed since it was seen; none: it has been removed.
fn open(folder: &Path, file: &JournalFile) -> io::Result<Option<Lines>> {
    match Lines::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let now = files(folder)?.into_iter().find(|now| now.first == file.first);
            Ok(now.map(|now| Lines::open(&now).unwrap_or_else(Lines::unreadable)))
        }
        opened => Ok(Some(opened.unwrap_or_else(Lines::unreadable))),
    }
}

/// A walk through one file.
struct Pass<'a> {
    filter: &'a Filter<'a>,
    /// The newest so many are kept.
    room: usize,
    found: VecDeque<Vec<u8>>,
    is_cut: bool,
    /// The file begins before the time that is asked for, so older files have nothing.
    is_before_since: bool,
    /// The last event so far.
    last: Option<EventId>,
}

impl<'a> Pass<'a> {
    fn new(filter: &'a Filter<'a>, room: usize) -> Self {
        Self { filter, room, found: VecDeque::new(), is_cut: false, is_before_since: false, last: None }
    }

    /// Takes the lines of a file; what is wrong with it, if not all of it could be read. `step` is called every now and
    /// then, with the octets read.
    fn run(
        &mut self,
        lines: &mut Lines,
        file: &JournalFile,
        hits: &mut Hits,
        step: &mut dyn FnMut(&Self, u64),
    ) -> Option<String> {
        let mut count = 0;
        loop {
            match lines.next() {
                Ok(Some(line)) if !self.look(line, hits) => return None,
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => return Some(error.to_string()),
            }
            count += 1;
            if u64::is_multiple_of(count, STEP) {
                step(self, lines.read);
            }
        }
        (file.last > self.last).then(|| ENDS_EARLY.to_owned())
    }

    /// Takes a line; false: the rest of the file is too new. Times never go back within a file.
    fn look(&mut self, line: &[u8], hits: &mut Hits) -> bool {
        let record = Record::of(line);
        let Some((record, at, kind)) =
            record.and_then(|record| Some((record, record.raw("time")?, record.raw("event")?)))
        else {
            hits.damaged += 1;
            return true;
        };
        self.last = self.last.max(Some(record.id()));
        let Filter { since, until, .. } = self.filter;
        if since.as_ref().is_some_and(|since| at < since.as_slice()) {
            self.is_before_since = true;
            return true;
        }
        if until.as_ref().is_some_and(|until| at >= until.as_slice()) {
            return false;
        }
        hits.gaps += u64::from(kind == Kind::Gap.as_str().as_bytes());
        if self.filter.wants(kind, &record) {
            self.found.push_back(line.to_vec());
            if self.found.len() > self.room {
                self.found.pop_front();
                self.is_cut = true;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(query: &Query) -> bool {
        const LINE: &str = concat!(
            r#"{"v":1,"id":"000000000001a","time":"1970-01-01T00:00:02.500Z","event":"bounced","#,
            r#""reverse_path":"\"@a.test\\\"@news.test","recipient":"x@mail.ok.test","domain":"mail.ok.test"}"#
        );
        Filter::new(query).wants(b"bounced", &Record::of(LINE.as_bytes()).unwrap())
    }

    #[test]
    fn patterns_are_those_of_the_queue() {
        for (sender, domain, is_found) in [
            (Some("@NEWS.test"), None, true),
            (Some("@news.test."), None, true),
            (Some("@s.test"), None, false),
            (Some("@a.test"), None, false),
            (Some("<>"), None, false),
            (None, Some("*.ok.TEST"), true),
            (None, Some("*.test"), true),
            (None, Some("*.mail.ok.test"), false),
            (None, Some("*.l.ok.test"), false),
            (None, Some("Mail.ok.test."), true),
            (Some("@news.test"), Some("*.other.test"), false),
        ] {
            let query =
                Query { sender: sender.map(str::to_owned), domain: domain.map(str::to_owned), ..Query::default() };

            assert_eq!(finds(&query), is_found, "{sender:?} {domain:?}");
        }
    }
}

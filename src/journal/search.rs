//! Looking for events in all files.
//!
//! Files are read from the newest to the oldest, and no further than needed. Lines are compared as they stand in the
//! file, without being parsed: several million a second.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use memchr::memmem::Finder;

use crate::message::MessageId;

use super::event::Kind;
use super::folder::{JournalFile, files};
use super::lines::Lines;
use super::record::{Record, escaped};
use super::time;

/// Lines between two calls of the progress function.
const STEP: u64 = 100_000;

/// What to look for; absent: anything.
#[derive(Clone, Debug)]
pub struct Query {
    /// The forward-path; case does not matter.
    pub recipient: Option<String>,
    /// The reverse-path; case does not matter, and an empty one is the null reverse-path.
    pub sender: Option<String>,
    /// The message.
    pub message: Option<MessageId>,
    /// Whose messages.
    pub tenant: Option<String>,
    /// Of which campaign.
    pub campaign: Option<String>,
    /// The recipient's domain.
    pub domain: Option<String>,
    /// Of these kinds; empty: any but `file`.
    pub events: Vec<Kind>,
    /// Not before, as the time since 1970-01-01 UTC.
    pub since: Option<Duration>,
    /// Before.
    pub until: Option<Duration>,
    /// The newest so many.
    pub limit: usize,
}

impl Default for Query {
    fn default() -> Self {
        Self {
            recipient: None,
            sender: None,
            message: None,
            tenant: None,
            campaign: None,
            domain: None,
            events: Vec::new(),
            since: None,
            until: None,
            limit: 100,
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

/// A condition that a line fulfils or not.
enum Condition {
    /// It has these octets.
    Has(Finder<'static>),
    /// Behind these octets come those, in any case, and a quotation mark.
    Folded(Finder<'static>, Vec<u8>),
}

impl Condition {
    fn exact(name: &str, value: &str) -> Self {
        let needle = [format!("\"{name}\":\"").as_bytes(), &escaped(value), b"\""].concat();
        Self::Has(Finder::new(&needle).into_owned())
    }

    fn folded(name: &str, value: &str) -> Self {
        let key = format!("\"{name}\":\"");
        Self::Folded(Finder::new(key.as_bytes()).into_owned(), escaped(value))
    }

    fn is_met(&self, line: &[u8]) -> bool {
        match self {
            Self::Has(finder) => finder.find(line).is_some(),
            Self::Folded(key, wanted) => {
                let value = key.find(line).and_then(|at| line.get(at + key.needle().len()..));
                value.is_some_and(|value| {
                    value.get(..wanted.len()).is_some_and(|found| found.eq_ignore_ascii_case(wanted))
                        && value.get(wanted.len()) == Some(&b'"')
                })
            }
        }
    }
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
        let Query { recipient, sender, message, tenant, campaign, domain, .. } = query;
        let message = message.map(|id| Condition::exact("message_id", &id.to_string()));
        let conditions = [
            message,
            recipient.as_ref().map(|path| Condition::folded("recipient", path)),
            sender.as_ref().map(|path| Condition::folded("reverse_path", path)),
            domain.as_ref().map(|name| Condition::folded("domain", name.trim_end_matches('.'))),
            tenant.as_ref().map(|name| Condition::folded("tenant", name)),
            campaign.as_ref().map(|name| Condition::exact("campaign", name)),
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

    fn wants(&self, kind: &[u8], line: &[u8]) -> bool {
        let is_kind = |wanted: &Kind| wanted.as_str().as_bytes() == kind;
        let is_wanted = match self.query.events.as_slice() {
            [] => !is_kind(&Kind::File),
            events => events.iter().any(is_kind),
        };
        is_wanted && self.conditions.iter().all(|condition| condition.is_met(line))
    }
}

/// Looks through the journal in `folder`; no daemon is needed. `progress` is called every now and then and may end it:
/// then what was found so far is given, as cut.
pub fn search(folder: &Path, query: &Query, progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> io::Result<Hits> {
    let filter = Filter::new(query);
    let all = files(folder)?;
    let mut hits = Hits::default();
    let mut found: VecDeque<Vec<u8>> = VecDeque::new();
    let mut state = Progress { files: (0, all.len()), octets: 0, found: 0 };
    for file in all.iter().rev() {
        let Some(mut lines) = open(folder, file)? else { continue };
        let mut here = Pass::new(&filter, query.limit.saturating_sub(found.len()));
        let before = state.octets;
        let (mut count, mut is_ended) = (0, false);
        while let Some(line) = lines.next()? {
            let goes_on = here.look(line, &mut hits);
            count += 1;
            if u64::is_multiple_of(count, STEP) {
                state.octets = before + lines.read;
                state.found = found.len() + here.found.len();
                is_ended = progress(state).is_break();
            }
            if is_ended || !goes_on {
                break;
            }
        }
        let Pass { found: newer, is_cut, is_before_since, .. } = here;
        for line in newer.into_iter().rev() {
            found.push_front(line);
        }
        hits.is_cut |= is_cut || is_ended;
        state = Progress { files: (state.files.0 + 1, state.files.1), octets: before + lines.read, found: found.len() };
        let is_full = found.len() >= query.limit;
        let is_last = state.files.0 == state.files.1;
        hits.is_cut |= is_full && !is_last && !is_before_since;
        if is_full || is_before_since || is_ended || progress(state).is_break() {
            break;
        }
    }
    hits.lines = found.into();
    Ok(hits)
}

/// The lines of a file, which may have been compressed since it was seen; none: it has been removed.
fn open(folder: &Path, file: &JournalFile) -> io::Result<Option<Lines>> {
    let retry = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            let now = files(folder)?.into_iter().find(|now| now.first == file.first);
            now.map(|now| Lines::open(&now)).transpose()
        }
        _ => Err(error),
    };
    Lines::open(file).map(Some).or_else(retry)
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
}

impl<'a> Pass<'a> {
    fn new(filter: &'a Filter<'a>, room: usize) -> Self {
        Self { filter, room, found: VecDeque::new(), is_cut: false, is_before_since: false }
    }

    /// Takes a line; false: the rest of the file is too new. Times never go back within a file.
    fn look(&mut self, line: &[u8], hits: &mut Hits) -> bool {
        let record = Record::of(line);
        let Some((at, kind)) = record.and_then(|record| Some((record.raw("time")?, record.raw("event")?))) else {
            hits.damaged += 1;
            return true;
        };
        let Filter { since, until, .. } = self.filter;
        if since.as_ref().is_some_and(|since| at < since.as_slice()) {
            self.is_before_since = true;
            return true;
        }
        if until.as_ref().is_some_and(|until| at >= until.as_slice()) {
            return false;
        }
        hits.gaps += u64::from(kind == Kind::Gap.as_str().as_bytes());
        if self.filter.wants(kind, line) {
            self.found.push_back(line.to_vec());
            if self.found.len() > self.room {
                self.found.pop_front();
                self.is_cut = true;
            }
        }
        true
    }
}

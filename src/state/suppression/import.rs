//! Lines of text to entries, and back.
//!
//! ```text
//! target <TAB> reason <TAB> until <TAB> tenant <TAB> class <TAB> added <TAB> source
//! ```
//!
//! The target is a mailbox, or a domain with or without `@` before it; times are in seconds since 1970, `until` may be `never`. Columns
//! that are empty, or missing at the end, are as [`Defaults`] say. A line that is in quotes as a whole is taken without them. Empty lines and remarks, `#` and a space or nothing, are skipped. A line is an
//! entry as a whole or not at all: a bad one is told by its number, and the next is read.

use std::fmt::Write;
use std::io::{self, BufRead};

use serde::{Deserialize, Serialize};

use crate::clock::UnixTime;

use super::entry::{Change, Entry, EntryError, Reason, Scope, Target, TargetError};
use super::{Origin, Outcome, Suppression};

/// Lines that are made entries at a time; about 2 MiB of log.
const AT_ONCE: usize = 1 << 15;
/// Longest line, in octets: more than the longest columns together.
const LONGEST: usize = 4_096;
/// Columns of a line.
const COLUMNS: usize = 7;

/// What lines do not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Of whom.
    pub scope: Scope,
    /// Why.
    pub reason: Reason,
    /// Until when; `None`: for ever.
    pub until: Option<UnixTime>,
    /// Where it comes from.
    pub source: Box<str>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { scope: Scope::Global, reason: Reason::Import, until: None, source: Box::default() }
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It is longer than any right one.
    #[error("longer than {LONGEST} octets")]
    Length,
    /// It is no text.
    #[error("not UTF-8")]
    Encoding,
    /// There are more columns than have a meaning.
    #[error("more than {COLUMNS} columns")]
    Columns,
    /// Neither a mailbox nor a domain.
    #[error("neither a mailbox nor a domain: {0}")]
    Target(#[from] TargetError),
    /// No such reason.
    #[error("the reason is none of hard-bounce, mailbox-full, complaint, unsubscribe, operator, import")]
    Reason,
    /// No time.
    #[error("{0}: not a number of seconds since 1970")]
    Time(&'static str),
    /// A class without a tenant.
    #[error("a class is one of a tenant, and there is none")]
    Class,
    /// A name or a source that cannot be kept.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// It was exported under another key.
    #[error("a hash of another list, which means nothing to this one")]
    Hash,
}

/// What has become of the lines so far; on stable storage, save for those that are bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// All lines.
    pub lines: u64,
    /// Octets of them.
    pub octets: u64,
    /// New entries.
    pub added: u64,
    /// Entries that took the place of others.
    pub replaced: u64,
    /// Those of which as much or more stood already.
    pub stood: u64,
    /// Those whose time is over.
    pub over: u64,
    /// Empty lines and remarks.
    pub skipped: u64,
    /// Bad ones.
    pub bad: u64,
}

/// What is told of an import.
#[derive(Debug)]
pub enum Imported<'a> {
    /// A line that is no entry: its number, from 1 on, and why.
    Bad(u64, &'a LineError),
    /// So far it has come.
    Progress(&'a Counts),
}

/// Why an import has ended early.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The lines cannot be read.
    #[error("cannot read on after line {}: {error}", counts.lines)]
    Read {
        /// What has been done, and stays.
        counts: Counts,
        /// What the system said.
        error: io::Error,
    },
    /// Entries cannot be stored.
    #[error("cannot store entries after line {}: {error}", counts.lines)]
    Store {
        /// What has been done, and stays.
        counts: Counts,
        /// What the system said.
        error: io::Error,
    },
}

impl ImportError {
    /// What has been done, and stays.
    pub fn counts(&self) -> Counts {
        match self {
            Self::Read { counts, .. } | Self::Store { counts, .. } => *counts,
        }
    }
}

fn time(name: &'static str, text: &str) -> Result<UnixTime, LineError> {
    text.parse().map(UnixTime).map_err(|_| LineError::Time(name))
}

impl Entry {
    /// Reads a line; `None`: it is empty or a remark.
    pub fn of_line(line: &str, defaults: &Defaults, now: UnixTime) -> Result<Option<Self>, LineError> {
        let line = line.trim_end_matches(['\r', '\n']);
        // There are mailboxes that begin with the mark, but none goes on with a space.
        let is_remark =
            line.strip_prefix('#').is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if is_remark || line.trim().is_empty() {
            return Ok(None);
        }
        let mut columns = [""; COLUMNS];
        let mut found = line.split('\t').map(str::trim);
        for (column, text) in columns.iter_mut().zip(&mut found) {
            *column = text;
        }
        if found.next().is_some() {
            return Err(LineError::Columns);
        }
        let [target, reason, until, tenant, class, added, source] = columns;
        let entry = Self {
            target: target.parse::<Target>()?,
            scope: match (tenant, class) {
                ("", "") => defaults.scope.clone(),
                // A class without its tenant is one of the tenant that everything is for.
                _ => Scope::of(if tenant.is_empty() { defaults.scope.names().0 } else { tenant }, class)
                    .ok_or(LineError::Class)?,
            },
            reason: match reason {
                "" => defaults.reason,
                reason => Reason::parse(reason).ok_or(LineError::Reason)?,
            },
            source: if source.is_empty() { defaults.source.clone() } else { source.into() },
            added: if added.is_empty() { now } else { time("added", added)? },
            until: match until {
                "" => defaults.until,
                "never" => None,
                until => Some(time("until", until)?),
            },
        };
        entry.check()?;
        Ok(Some(entry))
    }

    /// Appends the entry as a line, which [`Entry::of_line`] reads.
    pub fn put_line(&self, out: &mut String) {
        let Self { target, scope, reason, source, added, until } = self;
        let (tenant, class) = scope.names();
        // Writing to a string cannot fail.
        let _ = match until {
            Some(until) => write!(out, "{target}\t{reason}\t{}", until.0),
            None => write!(out, "{target}\t{reason}\tnever"),
        };
        let _ = writeln!(out, "\t{tenant}\t{class}\t{}\t{source}", added.0);
    }
}

/// Reads a line with its end into `line`, of which no more than [`LONGEST`] octets and one are kept; gives its length, 0 at the end.
fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    line.clear();
    let mut length = 0;
    loop {
        let octets = match input.fill_buf() {
            Ok(octets) => octets,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = memchr::memchr(b'\n', octets).map(|at| at + 1);
        let part = octets.get(..end.unwrap_or(octets.len())).unwrap_or_default();
        let room = (LONGEST + 1).saturating_sub(line.len()).min(part.len());
        line.extend_from_slice(part.get(..room).unwrap_or_default());
        let taken = part.len();
        input.consume(taken);
        length += taken as u64;
        if end.is_some() || taken == 0 {
            return Ok(length);
        }
    }
}

/// What a line of CSV (RFC 4180) has in its one column, if that is in quotes: no mailbox and no domain ends by one.
fn quoted(text: &str) -> Option<String> {
    let inner = text.trim().strip_prefix('"')?.strip_suffix('"')?;
    (!inner.contains('\t')).then(|| inner.replace("\"\"", "\""))
}

fn entry_of(octets: &[u8], number: u64, defaults: &Defaults, now: UnixTime) -> Result<Option<Entry>, LineError> {
    if octets.len() > LONGEST {
        return Err(LineError::Length);
    }
    let text = std::str::from_utf8(octets).map_err(|_| LineError::Encoding)?;
    let text = if number == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
    match quoted(text) {
        Some(text) => Entry::of_line(&text, defaults, now),
        None => Entry::of_line(text, defaults, now),
    }
}

/// What stands before the hashes of an export, with the tag of their key behind it.
const HASHES: &str = "# hashes under the key ";

/// Makes entries of lines, and gives them to `store` so many at a time; see [`Suppression::import`]. `key`: the tag of the list's.
fn read_all(
    input: &mut dyn BufRead,
    (defaults, key): (&Defaults, Option<&str>),
    now: UnixTime,
    store: &mut dyn FnMut(&[Change]) -> io::Result<Vec<Outcome>>,
    tell: &mut dyn FnMut(Imported<'_>),
) -> Result<Counts, ImportError> {
    // `counts` is of what is stored, `ahead` also of what is not yet.
    let (mut counts, mut ahead) = (Counts::default(), Counts::default());
    let (mut line, mut changes, mut is_foreign) = (Vec::new(), Vec::new(), false);
    loop {
        let length = read_line(input, &mut line);
        let is_end = !matches!(length, Ok(1..));
        if let Ok(length @ 1..) = length {
            ahead.lines += 1;
            ahead.octets += length;
            if let (Some(tag), Some(key)) = (line.strip_prefix(HASHES.as_bytes()), key) {
                is_foreign = tag.trim_ascii() != key.as_bytes();
            }
            let entry = entry_of(&line, ahead.lines, defaults, now).and_then(|entry| match entry {
                Some(Entry { target: Target::Hash(_), .. }) if is_foreign => Err(LineError::Hash),
                entry => Ok(entry),
            });
            match entry {
                Ok(Some(entry)) if entry.brief().stands(now).is_none() => ahead.over += 1,
                Ok(Some(entry)) => changes.push(Change::Add(entry)),
                Ok(None) => ahead.skipped += 1,
                Err(error) => {
                    ahead.bad += 1;
                    tell(Imported::Bad(ahead.lines, &error));
                }
            }
        }
        if is_end || ahead.lines % AT_ONCE as u64 == 0 {
            let outcomes = store(&changes).map_err(|error| ImportError::Store { counts, error })?;
            changes.clear();
            for outcome in outcomes {
                match outcome {
                    Outcome::Added => ahead.added += 1,
                    Outcome::Replaced => ahead.replaced += 1,
                    _ => ahead.stood += 1,
                }
            }
            counts = ahead;
            tell(Imported::Progress(&counts));
        }
        if let Err(error) = length {
            return Err(ImportError::Read { counts, error });
        }
        if is_end {
            return Ok(counts);
        }
    }
}

/// Reads lines as an import would, and stores nothing: `added` counts those that would be entries.
pub fn check_lines(
    input: &mut dyn BufRead,
    defaults: &Defaults,
    now: UnixTime,
    tell: &mut dyn FnMut(Imported<'_>),
) -> Result<Counts, ImportError> {
    read_all(input, (defaults, None), now, &mut |changes| Ok(vec![Outcome::Added; changes.len()]), tell)
}

impl Suppression {
    /// Tells the key of this list's hashes from others.
    fn key_tag(&self) -> String {
        let octets = self.seal(HASHES.as_bytes()).to_be_bytes();
        data_encoding::HEXLOWER.encode(octets.first_chunk::<4>().map_or(&[], |tag| tag.as_slice()))
    }

    /// A line before those of entries by hash, by which [`Suppression::import`] knows whether they mean something to its list.
    pub fn hashes_line(&self) -> String {
        format!("{HASHES}{}\n", self.key_tag())
    }

    /// Adds an entry for every line, as [`Entry::of_line`] reads it. `tell` gets every bad line, and after each 32,768 lines, all of which
    /// are on stable storage then, how far it is. An import that ended early can be begun again from its first line. Blocks on
    /// the disk; look-ups and other changes go on.
    pub fn import(
        &self,
        input: &mut dyn BufRead,
        defaults: &Defaults,
        now: UnixTime,
        tell: &mut dyn FnMut(Imported<'_>),
    ) -> Result<Counts, ImportError> {
        let mut counted = Counts::default();
        let store = &mut |changes: &[Change]| {
            let outcomes = self.apply_from(Origin::Import, changes, now);
            self.shared.index.tidy(now);
            outcomes
        };
        read_all(input, (defaults, Some(&self.key_tag())), now, store, &mut |told| {
            if let (Imported::Progress(counts), Some(meters)) = (&told, self.shared.meters.get()) {
                meters.imported(&counted, counts);
                counted = **counts;
            }
            tell(told);
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::log::simulated::Simulated;
    use crate::log::storage::Storage;

    use super::*;

    const NOW: UnixTime = UnixTime(600);

    fn read(line: &str) -> Result<Option<Entry>, LineError> {
        let scope = Scope::Tenant("shop".into());
        Entry::of_line(line, &Defaults { scope, ..Defaults::default() }, NOW)
    }

    #[test]
    fn a_line_says_as_much_as_it_likes() {
        let bare = read("Ann@Example.com\r\n").unwrap().unwrap();
        let full = read("@example.com\tcomplaint\t1200\tpost\tnews\t7\tfbl <1>").unwrap().unwrap();
        let class = read("ann@example.com\t\t\t\tnews").unwrap().unwrap();

        assert_eq!((bare.scope, bare.reason, bare.added), (Scope::Tenant("shop".into()), Reason::Import, NOW));
        assert_eq!((full.scope.names(), full.reason, &*full.source), (("post", "news"), Reason::Complaint, "fbl <1>"));
        assert_eq!((full.added, full.until), (UnixTime(7), Some(UnixTime(1_200))));
        assert_eq!(class.scope, Scope::of("shop", "news").unwrap());
        assert_eq!((read("\r\n"), read("# ann@example.com")), (Ok(None), Ok(None)));
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        let global = |line: &str| Entry::of_line(line, &Defaults::default(), NOW);

        assert!(matches!(read("ann@"), Err(LineError::Target(_))));
        assert_eq!(read("ann@example.com\tbecause"), Err(LineError::Reason));
        assert_eq!(read("ann@example.com\t\tsoon"), Err(LineError::Time("until")));
        assert_eq!(read("a@b\t\t\t\t\t-1"), Err(LineError::Time("added")));
        assert_eq!(read("a@b\t\t\t\t\t\t\tmore"), Err(LineError::Columns));
        assert_eq!(global("a@b\t\t\t\tnews"), Err(LineError::Class));
        assert_eq!(read("a@b\t\t\tsh\u{202e}op"), Err(LineError::Entry(EntryError::Name("tenant"))));
    }

    proptest! {
        #[test]
        fn an_entry_comes_back_from_its_line(
            target in "[#a-z!+]{1,8}@[a-z]{1,8}\\.example|\"[ -!#-\\[]{0,9}\"@x\\.example|@[a-z]{1,5}|[ä-ü]{1,5}@ü\\.example",
            names in ("[a-z0-9._-]{0,9}", "[a-z0-9._-]{0,9}"),
            (reason, source) in (proptest::sample::select(Reason::ALL.to_vec()), "\\PC{0,30}"),
            (added, minute) in (any::<u32>(), proptest::option::of(1..70_000_000_u32)),
        ) {
            let (Ok(target), Some(scope)) = (target.parse(), Scope::of(&names.0, &names.1)) else { return Ok(()) };
            let until = minute.map(|minute| UnixTime(minute * 60));
            let entry = Entry { target, scope, reason, source: source.into(), added: UnixTime(added), until };
            prop_assume!(entry.check().is_ok());
            let mut line = String::new();

            entry.put_line(&mut line);

            prop_assert_eq!(Entry::of_line(&line, &Defaults::default(), NOW), Ok(Some(entry)));
        }

        #[test]
        fn no_line_is_too_strange(line in "\\PC*|[@#a-z0-9\t. \"]*") {
            let _ = Entry::of_line(&line, &Defaults::default(), NOW);
        }
    }

    #[test]
    fn one_column_in_quotes_is_taken_without_them_and_what_has_more_columns_as_it_is() {
        let target = |text: &str| {
            let entry = entry_of(text.as_bytes(), 1, &Defaults::default(), NOW).unwrap().unwrap();
            (entry.target.to_string(), entry.source.to_string())
        };

        assert_eq!(target("\"ann@example.com\"\r\n").0, "ann@example.com");
        assert_eq!(target("\"\"\"a b\"\"@example.com\"").0, "\"a b\"@example.com");
        let columns = target("\"a b\"@example.com\t\t\t\t\t\tthe \"form\"");
        assert_eq!(columns, ("\"a b\"@example.com".to_owned(), "the \"form\"".to_owned()));
    }

    #[test]
    fn what_is_only_checked_is_counted_and_told_and_not_stored() {
        let mut bad = Vec::new();
        let mut input = &b"ann@example.com\n# a remark\nann@\nbob@example.com\t\t60\n"[..];

        let counts = check_lines(&mut input, &Defaults::default(), NOW, &mut |told| {
            if let Imported::Bad(line, _) = told {
                bad.push(line);
            }
        });

        let told = Counts { lines: 4, octets: 52, added: 1, over: 1, skipped: 1, bad: 1, ..Counts::default() };
        assert_eq!((counts.unwrap(), bad), (told, vec![3]));
    }

    #[test]
    fn hashes_that_were_exported_under_another_key_are_bad_lines() {
        let list = || {
            let storage = std::sync::Arc::new(Simulated::new(1));
            storage.claim(&Suppression::DIRECTORIES).unwrap();
            Suppression::open(storage, NOW).unwrap().list
        };
        let (one, other) = (list(), list());
        let text = format!("{}#abcdefghijklmn67\nann@example.com\n", one.hashes_line());
        let import = |list: &Suppression| {
            let mut bad = Vec::new();
            let counts = list.import(&mut text.as_bytes(), &Defaults::default(), NOW, &mut |told| {
                if let Imported::Bad(line, error) = told {
                    bad.push((line, error.clone()));
                }
            });
            (counts.unwrap().added, bad)
        };

        assert_eq!(import(&one), (2, vec![]));
        assert_eq!(import(&other), (1, vec![(2, LineError::Hash)]));
    }

    #[test]
    fn lines_are_cut_off_where_they_are_too_long_and_the_next_is_read() {
        let text = format!("{}\nb@example.com\nlast", "a".repeat(3 * LONGEST));
        let mut input = io::BufReader::with_capacity(100, text.as_bytes());
        let mut line = Vec::new();

        let long = read_line(&mut input, &mut line).unwrap();
        assert_eq!((long, line.len()), (3 * LONGEST as u64 + 1, LONGEST + 1));
        assert_eq!((read_line(&mut input, &mut line).unwrap(), &*line), (14, b"b@example.com\n".as_slice()));
        assert_eq!((read_line(&mut input, &mut line).unwrap(), &*line), (4, b"last".as_slice()));
        assert_eq!(read_line(&mut input, &mut line).unwrap(), 0);
    }
}

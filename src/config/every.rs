//! Everything that is wrong with a configuration file, for people who mend it: [`Config::load`] stops at the first mistake.
//!
//! The parser stops at the first value of a wrong kind or option that there is not. So what it complains about is taken out
//! of the text, and the rest is read again. What is no TOML at all cannot be read past: only its first mistake is told.

use std::ops::Range;
use std::path::Path;

use super::{Complaint, Config, ConfigError, file, ranges};

/// Mistakes of form that are told; a file with more is no configuration.
const MOST: usize = 50;

/// Every mistake, and the configuration if the whole of it could be read.
pub(super) fn mistakes(path: &Path) -> (Vec<ConfigError>, Option<Config>) {
    let text = match file::read(path) {
        Ok(text) => text,
        Err(error) => return (vec![ConfigError::Read { path: path.to_owned(), error }], None),
    };
    let value = |Complaint { key, text }| ConfigError::Value { path: path.to_owned(), key, text };
    let Reading { mistakes, left_out, config } = read(&text);
    let mut errors: Vec<ConfigError> =
        mistakes.into_iter().map(|text| ConfigError::Syntax { path: path.to_owned(), text }).collect();
    let Some(config) = config else { return (errors, None) };
    // What was left out may be what a complaint misses.
    let is_sound = |complaint: &Complaint| !left_out.iter().any(|section| is_touched(section, &complaint.key));
    errors.extend(config.complaints().into_iter().filter(is_sound).map(value));
    (errors, left_out.is_empty().then_some(config))
}

/// What could be made of a text.
#[derive(Default)]
struct Reading {
    mistakes: Vec<String>,
    /// Sections of which something was taken out.
    left_out: Vec<String>,
    /// Without what was taken out.
    config: Option<Config>,
}

fn read(text: &str) -> Reading {
    let (mut reading, mut left) = (Reading::default(), text.to_owned());
    while reading.mistakes.len() < MOST {
        let error = match toml::from_str::<Config>(&left) {
            Ok(config) => {
                reading.config = Some(config);
                break;
            }
            Err(error) => error,
        };
        let is_toml = toml::from_str::<toml::Table>(&left).is_ok();
        // Text that is broken only now was broken by what was taken out.
        if is_toml || reading.mistakes.is_empty() {
            reading.mistakes.push(ranges::explain(&left, &error));
        }
        let Some(place) = error.span().filter(|_| is_toml) else { break };
        let Some(lines) = lines_of(&left, place) else { break };
        reading.left_out.push(section_at(&left, lines.start));
        left = without(&left, lines);
    }
    reading
}

/// The whole lines of a place; of a header its table, too.
fn lines_of(text: &str, place: Range<usize>) -> Option<Range<usize>> {
    let start = text.get(..place.start)?.rfind('\n').map_or(0, |at| at + 1);
    let end_of = |from: usize| Some(text.get(from..)?.find('\n').map_or(text.len(), |at| from + at));
    let mut end = end_of(place.end.saturating_sub(1).max(start))?;
    if text.get(start..)?.trim_start().starts_with('[') {
        while let Some(rest) = text.get(end + 1..).filter(|rest| !rest.trim_start_matches(' ').starts_with('[')) {
            end = end_of(end + 1)?;
            if rest.is_empty() || end == text.len() {
                break;
            }
        }
    }
    let is_empty = text.get(start..end)?.trim().is_empty();
    (!is_empty).then_some(start..end)
}

/// The same text, of the same length and lines, with these blank.
fn without(text: &str, lines: Range<usize>) -> String {
    let blank = |(at, byte): (usize, u8)| if lines.contains(&at) && byte != b'\n' { b' ' } else { byte };
    let bytes = text.bytes().enumerate().map(blank).collect();
    String::from_utf8(bytes).unwrap_or_default()
}

/// The first part of the name of the table that a line is in, or of its key where it is in none.
fn section_at(text: &str, start: usize) -> String {
    let line_end = text.get(start..).and_then(|rest| rest.find('\n')).map_or(text.len(), |at| start + at);
    let lines = text.get(..line_end).unwrap_or_default();
    let header = lines.lines().rev().map(str::trim).find(|line| line.starts_with('['));
    let name = header.or_else(|| lines.lines().next_back()).unwrap_or_default();
    let name = name.trim_start_matches(['[', ' ']);
    name.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().unwrap_or_default().to_owned()
}

/// Whether a complaint about `key` may come from what is missing in `section`.
fn is_touched(section: &str, key: &str) -> bool {
    let own = key.split(['.', '[']).next().unwrap_or_default();
    /// Sections that name things of each other.
    const TOGETHER: [&[&str]; 3] =
        [&["source", "pool", "warmup", "limits"], &["user", "group"], &["listener", "metrics"]];
    own == section || TOGETHER.iter().any(|set| set.contains(&own) && set.contains(&section))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        let (errors, config) = mistakes(&path);
        assert!(config.is_none() || !errors.iter().any(|error| matches!(error, ConfigError::Syntax { .. })));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn mistakes_of_form_and_of_value_are_told_together() {
        let told = told(concat!(
            "hostnam = \"x\"\nthreads = \"four\"\n[spool]\nsegment_size = \"1KiB\"\n[limits]\nconnections = -1\n",
            "[listner]\naddress = 5\n[[listener]]\ntimeout = 30\nmax_hops = \"x\"\n[delivery]\nport = 0\n"
        ));

        let parts = [
            "hostnam",
            "threads",
            "connections",
            "listner",
            "timeout",
            "max_hops",
            "spool.segment_size",
            "delivery.port",
        ];
        for part in parts {
            assert_eq!(told.iter().filter(|said| said.contains(part)).count().min(1), 1, "{part}: {told:#?}");
        }
        assert_eq!(told.len(), parts.len(), "{told:#?}");
        let unknown = told.iter().find(|said| said.contains("listner")).unwrap();
        assert!(!unknown.contains("allowed"), "{unknown}");
    }

    #[test]
    fn a_table_that_lacks_a_name_is_left_out_and_what_refers_to_it_is_not_complained_about() {
        let told = told(
            "[[source]]\nipv4 = \"192.0.2.1\"\n[[pool]]\nname = \"p\"\nsources = [{ source = \"a\" }]\n[spool]\npath = 5\n",
        );

        assert_eq!(told.len(), 2, "{told:#?}");
    }

    #[test]
    fn what_is_no_toml_is_told_once() {
        assert_eq!(told("[spool\nthreads = \"x\"\n").len(), 1);
        assert_eq!(told("dns = [\n  5,\n]\nx = 1\n").len().min(1), 1);
        assert_eq!(told(""), Vec::<String>::new());
    }
}

//! MTA-STS without I/O: the TXT record, the policy file and its `mx` patterns (RFC 8461, 3).

use serde::{Deserialize, Serialize};

/// Longest `max_age` (3.2: about a year).
const MOST_AGE: u64 = 31_557_600;
/// Largest policy file that is read (3.3 suggests 64 kilobytes).
pub const MOST_OCTETS: usize = 65_536;
/// Patterns kept of one policy.
const MOST_PATTERNS: usize = 1_000;

/// What a domain asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// To deliver to hosts of the policy alone, verified.
    Enforce,
    /// To report failures, and deliver all the same.
    Testing,
    /// Nothing.
    None,
}

impl Mode {
    /// As the policy spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Testing => "testing",
            Self::None => "none",
        }
    }
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Policy {
    /// Of the TXT record under which it was fetched.
    pub id: Box<str>,
    /// What it asks for.
    pub mode: Mode,
    /// Host names, or `*.suffix`, lower case.
    pub mx: Box<[Box<str>]>,
    /// How long it holds, in seconds.
    pub max_age: u64,
}

impl Policy {
    /// Reads a policy file.
    pub fn parse(octets: &[u8], id: &str) -> Option<Self> {
        let text = std::str::from_utf8(octets).ok()?;
        let (mut version, mut mode, mut max_age, mut mx) = (None, None, None, Vec::new());
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match key.trim() {
                // Of a field that stands there twice the first counts (3.2).
                "version" => version = version.or(Some(value)),
                "mode" => mode = mode.or(Some(value)),
                "max_age" => max_age = max_age.or(Some(value)),
                "mx" if mx.len() < MOST_PATTERNS => mx.push(pattern(value)?),
                _ => {}
            }
        }
        let mode = match mode? {
            "enforce" => Mode::Enforce,
            "testing" => Mode::Testing,
            "none" => Mode::None,
            _ => return None,
        };
        let max_age = max_age?.parse::<u64>().ok()?.min(MOST_AGE);
        let is_whole = version == Some("STSv1") && (mode == Mode::None || !mx.is_empty());
        is_whole.then(|| Self { id: id.into(), mode, mx: mx.into(), max_age })
    }

    /// Whether a pattern matches an MX host (lower case, no final dot). `*` stands for one label (4.1).
    pub fn names_host(&self, host: &str) -> bool {
        self.mx.iter().any(|pattern| match pattern.strip_prefix("*.") {
            Some(suffix) => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == suffix),
            None => **pattern == *host,
        })
    }

    /// The file, as far as it matters.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec!["version: STSv1".to_owned(), format!("mode: {}", self.mode.as_str())];
        lines.extend(self.mx.iter().map(|mx| format!("mx: {mx}")));
        lines.push(format!("max_age: {}", self.max_age));
        lines
    }
}

fn pattern(value: &str) -> Option<Box<str>> {
    let pattern = value.strip_suffix('.').unwrap_or(value).to_ascii_lowercase();
    super::mx::is_host_name(pattern.strip_prefix("*.").unwrap_or(&pattern)).then(|| pattern.into())
}

/// The id of the TXT records at `_mta-sts.domain`; none unless exactly one is of MTA-STS (3.1).
pub fn id_of(records: &[Vec<u8>]) -> Option<String> {
    let mut found = records.iter().filter(|record| record.starts_with(b"v=STSv1;") || *record == b"v=STSv1");
    let (first, None) = (found.next()?, found.next()) else { return None };
    let fields = std::str::from_utf8(first).ok()?.split(';');
    let id = fields.filter_map(|field| field.split_once('=')).find(|(key, _)| key.trim() == "id")?.1.trim();
    let is_right = (1..=32).contains(&id.len()) && id.bytes().all(|octet| octet.is_ascii_alphanumeric());
    is_right.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Policy> {
        Policy::parse(text.as_bytes(), "1")
    }

    #[test]
    fn a_policy_is_read_with_either_line_end_and_unknown_fields() {
        let text = "version: STSv1\r\nmode: enforce\r\nmx: MX1.a.test\r\nmx: *.b.test\nfuture: x\nmax_age:604800\n\n";

        let policy = parse(text).unwrap();

        assert_eq!((policy.mode, policy.max_age), (Mode::Enforce, 604_800));
        for (host, is_named) in [
            ("mx1.a.test", true),
            ("x.b.test", true),
            ("b.test", false),
            ("x.y.b.test", false),
            (".b.test", false),
            ("mx2.a.test", false),
        ] {
            assert_eq!(policy.names_host(host), is_named, "{host}");
        }
    }

    #[test]
    fn what_is_no_policy_is_none() {
        for bad in [
            "",
            "version: STSv2\nmode: enforce\nmx: a.test\nmax_age: 1\n",
            "mode: enforce\nmx: a.test\nmax_age: 1\n",
            "version: STSv1\nmx: a.test\nmax_age: 1\n",
            "version: STSv1\nmode: strict\nmx: a.test\nmax_age: 1\n",
            "version: STSv1\nmode: enforce\nmax_age: 1\n",
            "version: STSv1\nmode: enforce\nmx: a.test\n",
            "version: STSv1\nmode: enforce\nmx: a.test\nmax_age: -1\n",
            "version: STSv1\nmode: enforce\nmx: a b\nmax_age: 1\n",
            "version: STSv1\nmode: enforce\nmx: *.*.test\nmax_age: 1\n",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(parse("version: STSv1\nmode: none\nmax_age: 99999999999\n").unwrap().max_age, MOST_AGE);
    }

    #[test]
    fn an_id_comes_of_exactly_one_record() {
        let id = |records: &[&str]| id_of(&records.iter().map(|record| record.as_bytes().to_vec()).collect::<Vec<_>>());

        assert_eq!(id(&["v=STSv1; id=20160831085700Z;"]).as_deref(), Some("20160831085700Z"));
        assert_eq!(id(&["other", "v=STSv1;id=a"]).as_deref(), Some("a"));
        assert_eq!(id(&["v=STSv1; id=a;", "v=STSv1; id=b;"]), None);
        assert_eq!(id(&["v=STSv1;"]), None);
        assert_eq!(id(&["v=STSv1; id=a-b"]), None);
        assert_eq!(id(&["v=STSv10; id=a"]), None);
    }
}

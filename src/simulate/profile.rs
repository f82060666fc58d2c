//! A simulated receiver's profile: a TOML file, read strictly, with errors that name file, key and allowed range.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::config::units::Span;

/// A receiver and what is offered to it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// For people, and for exceptions in the configuration.
    pub name: String,
    /// How long the run is.
    pub duration: Span,
    /// Messages that a client that knows the limit would get accepted.
    pub optimum: f64,
    /// Messages a minute that come; 0: there is always work.
    #[serde(default)]
    pub demand_per_minute: f64,
    /// The receiver.
    pub receiver: Receiver,
    /// Who the messages are of; none: one tenant.
    #[serde(default, rename = "tenant")]
    pub tenants: Vec<Tenant>,
}

/// What a receiver allows, and how it answers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Receiver {
    /// Messages a minute; 0: no limit.
    pub rate_per_minute: f64,
    /// How they are counted.
    pub window: Window,
    /// Tokens of a bucket; less than one is one.
    pub burst: f64,
    /// Connections at the same time; 0: no limit.
    pub connections: u32,
    /// Messages over one connection; 0: no limit.
    pub messages_per_connection: u32,
    /// Messages a clock hour; 0: no limit.
    pub hourly_cap: u32,
    /// A reply to a message takes this, 30 % more or less.
    pub service_time: Span,
    /// A connection is open after this.
    pub setup_time: Span,
    /// Messages that are worked on at the same time, others queue; 0: no limit.
    pub workers: u32,
    /// Connections beyond this time out; 0: none.
    pub backlog: u32,
    /// Share of attempts to connect that fail.
    pub dead_hosts: f64,
    /// Share of messages refused for a reason of their own.
    pub noise: f64,
    /// What those replies say.
    pub noise_class: Noise,
    /// So long the first tries of a message are refused.
    pub greylist: Span,
    /// Replies to what is over the limit do not say so.
    pub opaque: bool,
    /// Such replies close the connection.
    pub close_on_throttle: bool,
    /// When the rate changes, and to what.
    #[serde(deserialize_with = "pairs")]
    pub steps: Vec<(Span, f64)>,
    /// What becomes of those who try too often.
    pub penalty: Option<Penalty>,
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            rate_per_minute: 0.0,
            window: Window::Sliding,
            burst: 0.0,
            connections: 0,
            messages_per_connection: 0,
            hourly_cap: 0,
            service_time: Span(Duration::from_millis(150)),
            setup_time: Span(Duration::from_millis(250)),
            workers: 0,
            backlog: 0,
            dead_hosts: 0.0,
            noise: 0.0,
            noise_class: Noise::Mailbox,
            greylist: Span::default(),
            opaque: false,
            close_on_throttle: true,
            steps: Vec::new(),
            penalty: None,
        }
    }
}

/// How messages a minute are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Window {
    /// By the minute of the clock.
    Fixed,
    /// In the last 60 seconds.
    Sliding,
    /// By tokens that are refilled.
    Bucket,
}

/// What replies to messages that are refused for a reason of their own say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Noise {
    /// That a mailbox is full.
    Mailbox,
    /// Nothing.
    Unknown,
}

/// More tries over the limit than this block the client.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Penalty {
    /// So many are forgiven,
    pub tries: u32,
    /// within this.
    #[serde(default = "Penalty::default_window")]
    pub window: Span,
    /// How long the block lasts.
    #[serde(default = "Penalty::default_block")]
    pub block: Span,
    /// A try during it restarts it.
    #[serde(default = "Penalty::default_extend")]
    pub extend: bool,
}

impl Penalty {
    const fn default_extend() -> bool {
        true
    }

    const fn default_window() -> Span {
        Span(Duration::from_secs(300))
    }

    const fn default_block() -> Span {
        Span(Duration::from_secs(1800))
    }
}

/// Whose messages some are. Tenants are not part of the receiver: they share what it allows.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// For people.
    pub name: String,
    /// Its share beside the others.
    #[serde(default = "Tenant::default_weight")]
    pub weight: u32,
    /// Messages a minute that come; 0: there is always work.
    #[serde(default)]
    pub demand_per_minute: f64,
    /// The receiver refuses all of its messages for their content.
    #[serde(default)]
    pub is_refused: bool,
}

impl Tenant {
    const fn default_weight() -> u32 {
        1
    }
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Not TOML, an unknown or missing key, or a value of the wrong kind.
    #[error("{}: {text}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's message with its place.
        text: String,
    },
    /// A value outside its range.
    #[error("{}: {key}: {value} is out of range; allowed: {range}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key, in dotted form.
        key: String,
        /// What was found.
        value: String,
        /// What is allowed.
        range: String,
    },
}

/// As tenants of the daemon are called.
fn is_tenant(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=64).contains(&name.len()) && name.chars().all(is_plain)
}

/// A profile is no larger than this.
const MOST: u64 = 1 << 20;
/// A million a second is more than any receiver takes.
const MOST_A_MINUTE: f64 = 60e6;
const DAY: Span = Span(Duration::from_secs(86_400));

impl Profile {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ProfileError> {
        let text = read(path).map_err(|error| ProfileError::Read { path: path.to_owned(), error })?;
        Self::parse(&text, path)
    }

    /// Checks the text of a file; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text)
            .map_err(|error| ProfileError::Syntax { path: path.to_owned(), text: explain(text, &error) })?;
        let mut ranges = Ranges::default();
        ranges.tables(text);
        profile.check(&mut ranges);
        match ranges.wrong {
            None => Ok(profile),
            Some((key, value, range)) => Err(ProfileError::Value { path: path.to_owned(), key, value, range }),
        }
    }

    fn check(&self, ranges: &mut Ranges) {
        let is_name = !self.name.trim().is_empty() && self.name.len() <= 200 && !self.name.contains(char::is_control);
        ranges.unless(is_name, "name", format!("{:?}", self.name), "1 to 200 octets without control characters");
        let (minute, week) = (Span(Duration::from_secs(60)), Span(Duration::from_secs(7 * 86_400)));
        ranges.range("duration", self.duration, minute, week);
        ranges.range("optimum", self.optimum, 1.0, 1e9);
        ranges.range("demand_per_minute", self.demand_per_minute, 0.0, MOST_A_MINUTE);
        self.receiver.check(ranges);
        ranges.unless(self.tenants.len() <= 1000, "tenant", self.tenants.len(), "up to 1000 of them");
        for (index, tenant) in self.tenants.iter().enumerate() {
            let is_other = self.tenants.iter().take(index).all(|before| before.name != tenant.name);
            let range = "1 to 64 letters, digits, '.', '_', '-', in no other tenant";
            let is_right = is_other && is_tenant(&tenant.name);
            ranges.unless(is_right, &format!("tenant[{index}].name"), format!("{:?}", tenant.name), range);
            ranges.range(&format!("tenant[{index}].weight"), tenant.weight, 1, 1000);
            ranges.range(&format!("tenant[{index}].demand_per_minute"), tenant.demand_per_minute, 0.0, MOST_A_MINUTE);
        }
    }
}

impl Receiver {
    fn check(&self, ranges: &mut Ranges) {
        ranges.range("receiver.rate_per_minute", self.rate_per_minute, 0.0, MOST_A_MINUTE);
        ranges.range("receiver.burst", self.burst, 0.0, 1e9);
        ranges.range("receiver.connections", self.connections, 0, 1_000_000);
        ranges.range("receiver.messages_per_connection", self.messages_per_connection, 0, 1_000_000_000);
        ranges.range("receiver.hourly_cap", self.hourly_cap, 0, 1_000_000_000);
        let (none, hour) = (Span::default(), Span(Duration::from_secs(3600)));
        ranges.range("receiver.service_time", self.service_time, Span(Duration::from_millis(1)), hour);
        ranges.range("receiver.setup_time", self.setup_time, none, hour);
        ranges.range("receiver.workers", self.workers, 0, 100_000);
        ranges.range("receiver.backlog", self.backlog, 0, 1_000_000);
        ranges.range("receiver.dead_hosts", self.dead_hosts, 0.0, 1.0);
        ranges.range("receiver.noise", self.noise, 0.0, 1.0);
        ranges.range("receiver.greylist", self.greylist, none, DAY);
        for (index, (at, rate)) in self.steps.iter().enumerate() {
            let before = index.checked_sub(1).and_then(|before| self.steps.get(before)).map_or(none, |(at, _)| *at);
            ranges.range(&format!("receiver.steps[{index}]"), *at, before, Span(Duration::from_secs(7 * 86_400)));
            ranges.range(&format!("receiver.steps[{index}]"), *rate, 0.0, MOST_A_MINUTE);
        }
        if let Some(penalty) = &self.penalty {
            ranges.range("receiver.penalty.tries", penalty.tries, 0, 1_000_000);
            ranges.range("receiver.penalty.window", penalty.window, Span(Duration::from_secs(1)), DAY);
            ranges.range("receiver.penalty.block", penalty.block, none, Span(Duration::from_secs(7 * 86_400)));
        }
    }
}

/// Keeps the first value that is out of its range, and every range by its key.
#[derive(Default)]
struct Ranges {
    wrong: Option<(String, String, String)>,
    all: Vec<(String, String)>,
}

impl Ranges {
    fn unless(&mut self, is_right: bool, key: &str, value: impl Display, range: impl Display) {
        if !is_right && self.wrong.is_none() {
            self.wrong = Some((key.to_owned(), value.to_string(), range.to_string()));
        }
        self.all.push((key.to_owned(), range.to_string()));
    }

    /// Serde takes lists for tables, which nobody means.
    fn tables(&mut self, text: &str) {
        let table: toml::Table = toml::from_str(text).unwrap_or_default();
        let mut is_table = |key: &str, value: Option<&toml::Value>| {
            self.unless(value.is_none_or(toml::Value::is_table), key, "a list", "a table");
        };
        let receiver = table.get("receiver");
        is_table("receiver", receiver);
        is_table("receiver.penalty", receiver.and_then(|receiver| receiver.get("penalty")));
        for tenant in table.get("tenant").and_then(toml::Value::as_array).into_iter().flatten() {
            is_table("tenant", Some(tenant));
        }
    }

    fn range<T: PartialOrd + Display>(&mut self, key: &str, value: T, least: T, most: T) {
        // What is no number lies in no range.
        self.unless(value >= least && value <= most, key, &value, format_args!("{least} to {most}"));
    }
}

/// A list of two of different kinds, and no third: serde itself takes longer ones and ignores what is left.
fn pairs<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<(Span, f64)>, D::Error> {
    use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};

    struct Pair(Span, f64);
    struct Reader;

    impl<'de> Visitor<'de> for Reader {
        type Value = Pair;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a time and a rate, such as [\"90m\", 600]")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Pair, A::Error> {
            let at = list.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
            let rate = list.next_element()?.ok_or_else(|| A::Error::invalid_length(1, &self))?;
            match list.next_element::<IgnoredAny>()? {
                None => Ok(Pair(at, rate)),
                Some(_) => Err(A::Error::invalid_length(3, &self)),
            }
        }
    }

    impl<'de> Deserialize<'de> for Pair {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_seq(Reader)
        }
    }

    Ok(Vec::<Pair>::deserialize(deserializer)?.into_iter().map(|Pair(at, rate)| (at, rate)).collect())
}

/// The parser's message about `text`, with the range of the key that it is about.
fn explain(text: &str, error: &toml::de::Error) -> String {
    let said = error.to_string().trim_end().to_owned();
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    // A list may go on over several lines.
    let line = before.rsplit('\n').find(|line| is_of_key(line)).unwrap_or_default();
    let missing = error.message().strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    let key = missing.or_else(|| line.split_once('=').map(|(key, _)| key.trim()));
    // A missing key's place is the header of its table, which is not before it.
    let shown = if missing.is_some() { text.get(..error.span().map_or(0, |span| span.end)) } else { Some(before) };
    let header = shown.unwrap_or_default().lines().filter_map(header).next_back().unwrap_or_default();
    let mut ranges = Ranges::default();
    sample().check(&mut ranges);
    ranges.unless(true, "receiver", "", "a table");
    for key in ["receiver.opaque", "receiver.close_on_throttle", "receiver.penalty.extend", "tenant.is_refused"] {
        ranges.unless(true, key, "", "true or false");
    }
    ranges.unless(
        true,
        "receiver.steps",
        "",
        format!("[time, rate] pairs: times of 0s to 7d, rates of 0 to {MOST_A_MINUTE}"),
    );
    let found = key.and_then(|key| {
        let name = if header.is_empty() { key.to_owned() } else { format!("{header}.{key}") };
        ranges.all.iter().rev().find(|(known, _)| known.replace("[0]", "") == name).map(|(_, range)| range.clone())
    });
    match found {
        // The parser shows one line, which need not be the key's.
        Some(range) => match key.filter(|key| !said.contains(key)) {
            Some(key) => format!("{said}; {key}: allowed: {range}"),
            None => format!("{said}; allowed: {range}"),
        },
        None => said,
    }
}

/// Whether a line begins a value, or a table: the lines behind it may be the rest of a list.
fn is_of_key(line: &str) -> bool {
    line.split_once('=').is_some_and(|(key, _)| is_key(key.trim())) || header(line).is_some()
}

/// The table that a line begins.
fn header(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix('[')?.trim_start_matches('[').split(']').next()?.trim();
    is_key(name).then_some(name)
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

/// A profile with one of everything, so that each check tells its range.
fn sample() -> Profile {
    let penalty = Penalty { tries: 1, window: DAY, block: DAY, extend: false };
    Profile {
        name: "a".into(),
        duration: DAY,
        optimum: 1.0,
        demand_per_minute: 0.0,
        receiver: Receiver { steps: vec![(DAY, 1.0)], penalty: Some(penalty), ..Receiver::default() },
        tenants: vec![Tenant { name: "a".into(), weight: 1, demand_per_minute: 0.0, is_refused: false }],
    }
}

/// The text of a regular file.
fn read(path: &Path) -> std::io::Result<String> {
    use std::io::{Error, ErrorKind, Read};

    let about = std::fs::metadata(path)?;
    if !about.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut text = String::new();
    if std::fs::File::open(path)?.take(MOST + 1).read_to_string(&mut text)? > usize::try_from(MOST).unwrap_or_default()
    {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it is larger than {MOST} octets, the most allowed")));
    }
    Ok(text)
}

//! One rule: the conditions, all of which must hold, and the class.
//!
//! | key | holds if |
//! |---|---|
//! | `provider` | the reply is that provider's |
//! | `steps` | it came at one of these steps; never where the step is unknown. Without it, at any, but a built-in rule about recipients not before RCPT |
//! | `codes` | one fits: `550`, `"4yz"` and `"5yz"` (transient, permanent: of a local decision too), `"none"` (no code) |
//! | `status` | one fits the enhanced status code: `"5.7.1"`, `"x.7.1"`, `"x.7.500-699"`, `"5.x.x"` |
//! | `text` | one of these regular expressions matches the text |
//! | `unless` | none of these does |

use std::sync::Arc;

use toml::{Table, Value};

use super::class::{Certainty, Class, Fault, Severity, Verdict, wants_rest};
use super::classify::provider_names;
use super::search::{Builder, PatternId};
use crate::message::Phase;
use crate::smtp::status::Status;

/// Keys of a rule.
const KEYS: &str = "id, provider, steps, codes, status, text, unless, class, list, rest, why, example, counter";

/// Why a rule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {key}: {text}")]
pub struct RuleError {
    /// Which: its id, or its number.
    pub rule: String,
    /// The key.
    pub key: String,
    /// What is wrong and what is allowed.
    pub text: String,
}

/// A reply code that a rule goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    Exact(u16),
    Severity(Severity),
    None,
}

/// An enhanced status code that a rule goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StatusPattern {
    class: Option<u8>,
    subject: Option<u16>,
    /// The least and the most.
    detail: (u16, u16),
}

/// A compiled rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub id: Arc<str>,
    provider: Option<Box<str>>,
    steps: Box<[Phase]>,
    codes: Box<[Code]>,
    status: Box<[StatusPattern]>,
    pub text: Box<[PatternId]>,
    unless: Box<[PatternId]>,
    class: Class,
    list: Option<Arc<str>>,
    wants_rest: bool,
    /// It is about lost connections only, and says that their loss asks for rest.
    loss_wants_rest: bool,
    certainty: Certainty,
    /// Replies that it decides; and that it must not decide.
    pub examples: Vec<String>,
    pub counters: Vec<String>,
}

/// What is asked of a rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub step: Option<Phase>,
    pub code: u16,
    pub severity: Severity,
    pub status: Option<Status>,
    pub provider: Option<&'a str>,
}

impl Rule {
    /// Whether its condition about the code holds.
    pub fn fits_code(&self, code: u16, severity: Severity) -> bool {
        self.codes.is_empty() || self.codes.iter().any(|own| own.fits(code, severity))
    }

    /// Whether the one about the step does. Before RCPT the receiver knows of no recipient (RFC 5321, 3.3), whatever its words
    /// are: a rule of ours about recipients fits there only if it names the step.
    pub fn fits_step(&self, step: Option<Phase>) -> bool {
        let is_before = matches!(step, Some(Phase::Greeting | Phase::Ehlo | Phase::StartTls | Phase::Mail));
        let is_for_any = self.class.fault() != Fault::Recipient || self.certainty == Certainty::Operator || !is_before;
        self.steps.is_empty() && is_for_any || step.is_some_and(|step| self.steps.contains(&step))
    }

    /// Whether the one about the enhanced status code does.
    pub fn fits_status(&self, status: Option<Status>, code: u16) -> bool {
        self.status.is_empty() || status.is_some_and(|status| self.status.iter().any(|own| own.fits(status, code)))
    }

    /// Codes that it names one by one.
    pub fn named_codes(&self) -> impl Iterator<Item = u16> {
        self.codes.iter().filter_map(|code| if let Code::Exact(code) = code { Some(*code) } else { None })
    }

    /// Whether the text is one that it leaves to others.
    pub fn is_excepted(&self, matches: impl Fn(PatternId) -> bool) -> bool {
        self.unless.iter().any(|pattern| matches(*pattern))
    }

    /// Its verdict; `list` finds the one that the text names.
    pub fn verdict(&self, question: &Question<'_>, list: impl FnOnce() -> Option<Arc<str>>) -> Verdict {
        let has_list = matches!(self.class, Class::Reputation | Class::SpamContent | Class::Policy);
        // RFC 5321, 3.8: 421 closes the channel, whatever it is about. Other 4yz to RCPT concern that recipient.
        let rests = match question.code {
            0 => self.loss_wants_rest,
            421 => true,
            _ => self.wants_rest && question.step != Some(Phase::Rcpt),
        };
        Verdict {
            class: self.class,
            rule: self.id.clone(),
            certainty: self.certainty,
            list: self.list.clone().or_else(|| if has_list { list() } else { None }),
            severity: question.severity,
            wants_rest: question.severity == Severity::Transient && rests,
            asks_less: self.wants_rest,
        }
    }

    /// Which table it is of.
    pub fn tier(&self) -> Certainty {
        self.certainty
    }

    /// The provider that it is about.
    pub fn provider(&self) -> Option<&str> {
        self.provider.as_deref()
    }

    /// The first of its steps: the one that examples without a step come at.
    pub fn first_step(&self) -> Option<Phase> {
        self.steps.first().copied()
    }

    /// Reads a rule; `number` is its place in the file, from 1.
    ///
    /// An error has every mistake of it, at least one.
    pub fn read(value: Value, number: usize, tier: Certainty, search: &mut Builder) -> Result<Self, Vec<RuleError>> {
        let is_trusted = tier != Certainty::Operator;
        let (mut fields, of_id) = Fields::rule(value, number).map_err(|mistake| vec![mistake])?;
        let mut wrong = Wrong { found: of_id.into_iter().collect() };
        let missing = format!("is missing; {}", classes());
        let class = wrong.or_default(fields.one("class", class)).unwrap_or_else(|| {
            wrong.note_unless_about("class", fields.error("class", missing));
            Class::Unknown
        });
        let truth = |value: &Value| value.as_bool().ok_or_else(|| "allowed: true or false".to_owned());
        let rest = wrong.or_default(fields.one("rest", truth));
        let codes: Box<[Code]> = wrong.or_default(fields.many("codes", code));
        let provider_of = if is_trusted { name } else { provider };
        let example_of = if is_trusted { name } else { example };
        let rule = Self {
            id: Arc::from(fields.id.as_str()),
            provider: wrong.or_default(fields.one("provider", provider_of)).map(Into::into),
            steps: wrong.or_default(fields.many("steps", step)),
            status: wrong.or_default(fields.many("status", status)),
            text: wrong.or_default(fields.patterns("text", is_trusted, search)),
            unless: wrong.or_default(fields.patterns("unless", is_trusted, search)),
            class,
            list: wrong.or_default(fields.one("list", name)).map(Arc::from),
            wants_rest: wants_rest(class, rest),
            loss_wants_rest: rest == Some(true) && *codes == [Code::None],
            codes,
            certainty: tier,
            examples: wrong.or_default(fields.many("example", example_of)).into_vec(),
            counters: wrong.or_default(fields.many("counter", example_of)).into_vec(),
        };
        wrong.or_default(fields.one("why", name));
        let is_empty = rule.provider.is_none()
            && rule.steps.is_empty()
            && rule.codes.is_empty()
            && rule.status.is_empty()
            && rule.text.is_empty();
        if is_empty && wrong.found.is_empty() {
            let text = "no condition; allowed: at least one of provider, steps, codes, status, text";
            wrong.found.push(fields.error("text", text));
        }
        if rule.examples.is_empty() {
            let text = "is missing; allowed: a reply that the rule decides, or several";
            wrong.note_unless_about("example", fields.error("example", text));
        }
        wrong.or_default(fields.end());
        if wrong.found.is_empty() { Ok(rule) } else { Err(wrong.found) }
    }
}

/// What is wrong with a rule.
#[derive(Default)]
struct Wrong {
    found: Vec<RuleError>,
}

impl Wrong {
    /// What was read, or, once that it could not be is noted, nothing.
    fn or_default<T: Default>(&mut self, read: Result<T, RuleError>) -> T {
        read.unwrap_or_else(|mistake| {
            self.found.push(mistake);
            T::default()
        })
    }

    /// Of one key one mistake is told.
    fn note_unless_about(&mut self, key: &str, mistake: RuleError) {
        if self.found.iter().all(|found| found.key != key) {
            self.found.push(mistake);
        }
    }
}

impl Code {
    fn fits(self, code: u16, severity: Severity) -> bool {
        match self {
            Self::Exact(own) => own == code,
            Self::Severity(own) => own == severity,
            Self::None => code == 0,
        }
    }
}

impl StatusPattern {
    /// A status whose class contradicts the code is of no class.
    fn fits(self, status: Status, code: u16) -> bool {
        let class = if code == 0 { u16::from(status.class) } else { code / 100 };
        self.class.is_none_or(|own| u16::from(own) == class)
            && self.subject.is_none_or(|own| own == status.subject)
            && (self.detail.0..=self.detail.1).contains(&status.detail)
    }
}

/// A rule's keys, taken one by one, so that an error can name its own.
pub(super) struct Fields {
    pub id: String,
    table: Table,
    keys: &'static str,
}

impl Fields {
    fn of(value: Value, kind: &str, number: usize) -> Result<Self, RuleError> {
        let id = format!("{kind} {number}");
        match value {
            Value::Table(table) => Ok(Self { id, table, keys: KEYS }),
            _ => Err(RuleError { rule: id, key: kind.to_owned(), text: format!("is no table; allowed: [[{kind}]]") }),
        }
    }

    /// The keys of a list of senders.
    pub fn list(value: Value, number: usize) -> Result<Self, RuleError> {
        let mut fields = Self { keys: "name, words", ..Self::of(value, "list", number)? };
        let id = fields.one("name", name)?;
        fields.id = id.ok_or_else(|| fields.error("name", "is missing; allowed: a text"))?;
        Ok(fields)
    }

    /// The words of a list, and nothing else.
    pub fn words(&mut self) -> Result<Box<[String]>, RuleError> {
        let words = self.many("words", name)?;
        if words.is_empty() {
            return Err(self.error("words", "is missing; allowed: what replies call the list, in lower case"));
        }
        self.end()?;
        Ok(words)
    }

    /// The keys of a rule, and what is wrong with its id. `number` stands for that until it is known.
    pub fn rule(value: Value, number: usize) -> Result<(Self, Option<RuleError>), RuleError> {
        let mut fields = Self::of(value, "rule", number)?;
        let id = fields.one("id", |value| {
            let is_plain = |text: &&str| {
                (1..=64).contains(&text.len())
                    && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"._-".contains(&octet))
            };
            let text = value.as_str().filter(is_plain);
            text.map(str::to_owned).ok_or_else(|| "allowed: 1 to 64 letters, digits, '.', '_', '-'".to_owned())
        });
        let missing = || fields.error("id", "is missing; allowed: a name that no other rule has");
        match id.and_then(|id| id.ok_or_else(missing)) {
            Ok(id) => Ok((Self { id, ..fields }, None)),
            Err(mistake) => Ok((fields, Some(mistake))),
        }
    }

    pub fn error(&self, key: &str, text: impl Into<String>) -> RuleError {
        RuleError { rule: self.id.clone(), key: key.to_owned(), text: text.into() }
    }

    /// A key with one value; `read` says what is allowed if it is not right.
    pub fn one<T>(&mut self, key: &str, read: impl Fn(&Value) -> Result<T, String>) -> Result<Option<T>, RuleError> {
        let Some(value) = self.table.remove(key) else { return Ok(None) };
        read(&value).map(Some).map_err(|allowed| self.error(key, format!("{value}: {allowed}")))
    }

    /// A key with a list, or with one value.
    fn many<T>(&mut self, key: &str, read: impl Fn(&Value) -> Result<T, String>) -> Result<Box<[T]>, RuleError> {
        let items = match self.table.remove(key) {
            None => Vec::new(),
            Some(Value::Array(items)) if items.is_empty() => {
                return Err(self.error(key, "is empty; allowed: at least one value, or no such key"));
            }
            Some(Value::Array(items)) => items,
            Some(one) => vec![one],
        };
        let read = |value| read(value).map_err(|allowed| self.error(key, format!("{value}: {allowed}")));
        items.iter().map(read).collect()
    }

    fn patterns(&mut self, key: &str, is_trusted: bool, search: &mut Builder) -> Result<Box<[PatternId]>, RuleError> {
        let sources = self.many(key, name)?;
        let add = |source: &String| {
            search.add(source, is_trusted).map_err(|error| self.error(key, format!("{source:?} {error}")))
        };
        sources.iter().map(add).collect()
    }

    /// No key may be left.
    fn end(&self) -> Result<(), RuleError> {
        match self.table.keys().next() {
            None => Ok(()),
            Some(key) => Err(self.error(key, format!("is unknown; allowed: {}", self.keys))),
        }
    }
}

fn name(value: &Value) -> Result<String, String> {
    let text = value.as_str().filter(|text| !text.is_empty());
    text.map(str::to_owned).ok_or_else(|| "allowed: a text".to_owned())
}

/// A provider of the map, or another site, or a well-known domain: those have a dot.
fn provider(value: &Value) -> Result<String, String> {
    let names = provider_names().map_err(|error| error.to_string())?;
    let is_known = |text: &String| text.contains('.') || names.contains(text);
    let allowed = || format!("is no provider; allowed: the name of a site (`hikyaku sites`), {}", names.join(", "));
    Some(name(value)?).filter(is_known).ok_or_else(allowed)
}

/// A reply, perhaps with its step.
fn example(value: &Value) -> Result<String, String> {
    let text = name(value)?;
    if let Some((named, _)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        step(&Value::String(named.to_owned())).map_err(|allowed| format!("[{named}] is no step; {allowed}"))?;
    }
    Ok(text)
}

fn class(value: &Value) -> Result<Class, String> {
    value.as_str().and_then(Class::named).ok_or_else(classes)
}

fn classes() -> String {
    format!("allowed: {}", Class::ALL.map(Class::as_str).join(", "))
}

fn step(value: &Value) -> Result<Phase, String> {
    let allowed = || format!("allowed: {}", Phase::ALL.map(Phase::as_str).join(", "));
    value.as_str().and_then(Phase::named).ok_or_else(allowed)
}

fn code(value: &Value) -> Result<Code, String> {
    let exact = |number: i64| u16::try_from(number).ok().filter(|number| (400..600).contains(number)).map(Code::Exact);
    let found = match value {
        Value::Integer(number) => exact(*number),
        Value::String(text) => match text.as_str() {
            "4yz" => Some(Code::Severity(Severity::Transient)),
            "5yz" => Some(Code::Severity(Severity::Permanent)),
            "none" => Some(Code::None),
            text => text.parse().ok().and_then(exact),
        },
        _ => None,
    };
    found.ok_or_else(|| "allowed: 400 to 599, \"4yz\", \"5yz\", \"none\"".to_owned())
}

fn status(value: &Value) -> Result<StatusPattern, String> {
    let read = |text: &str| {
        let mut parts = text.split('.');
        let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
        parts.next().is_none().then_some(())?;
        let class = match class {
            "x" => None,
            "4" => Some(4),
            "5" => Some(5),
            _ => return None,
        };
        let subject = if subject == "x" { None } else { Some(subject.parse().ok()?) };
        let detail = match detail.split_once('-') {
            _ if detail == "x" => (0, u16::MAX),
            Some((least, most)) => (least.parse().ok()?, most.parse().ok()?),
            None => (detail.parse().ok()?, detail.parse().ok()?),
        };
        Some(StatusPattern { class, subject, detail })
    };
    let allowed = "allowed: such as \"5.1.1\", \"x.7.1\", \"4.7.500-699\", \"5.x.x\"";
    value.as_str().and_then(read).ok_or_else(|| allowed.to_owned())
}

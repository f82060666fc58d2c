//! The classifier: from a refusal to a [`Verdict`]. Pure, driven by tables.
//!
//! [`Classifier::built_in`] reads the embedded tables; [`Classifier::with`] puts an operator's rules before them. The first
//! rule that fits decides, in this order: the operator's; what one provider means; what a text plainly says; the enhanced
//! status code; words that mean several things; the reply code. So there is a verdict for every refusal, [`Class::Unknown`]
//! if nothing else, and none for what is no refusal.
//!
//! One pass over the text finds the words of all rules (`search`); only rules whose words occur, and those that have none,
//! are then asked, in their order. For this each rule has a slot for each of its expressions.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, LazyLock};

use toml::{Table, Value};

use super::class::{Certainty, Class, Severity, Verdict};
use super::diagnostic::Diagnostic;
use super::filter::{Domains, Filter};
use super::rule::{Fields, Question, Rule, RuleError};
use super::search::{Bits, Builder, PatternId, Search};
use super::text::{BEFORE_ZONE, normal, status_in, zone};
use crate::message::Phase;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// The embedded tables in their order.
const BUILT_IN: [(&str, Certainty); 14] = [
    (include_str!("rules/local.toml"), Certainty::Text),
    (include_str!("rules/providers.toml"), Certainty::Provider),
    (include_str!("rules/asia.toml"), Certainty::Provider),
    (include_str!("rules/servers.toml"), Certainty::Text),
    (include_str!("rules/registry.toml"), Certainty::Text),
    (include_str!("rules/languages.toml"), Certainty::Text),
    (include_str!("rules/pace.toml"), Certainty::Text),
    (include_str!("rules/sender.toml"), Certainty::Text),
    (include_str!("rules/mailbox.toml"), Certainty::Text),
    (include_str!("rules/content.toml"), Certainty::Text),
    (include_str!("rules/system.toml"), Certainty::Text),
    (include_str!("rules/status.toml"), Certainty::Status),
    (include_str!("rules/words.toml"), Certainty::Words),
    (include_str!("rules/codes.toml"), Certainty::Code),
];
const LISTS: &str = include_str!("rules/lists.toml");
/// What a reset says at a provider that throttles by it, and the map that tells which ones do, and whose domains are whose.
const RESETS: &str = include_str!("rules/resets.toml");
const PROVIDERS: &str = include_str!("../providers.toml");

/// Why rules cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RulesError {
    /// Not TOML, or something else than rules and lists; the text names line and column.
    #[error("{0}")]
    Form(String),
    /// Some of the rules; at least one.
    #[error("{}", listed(.0))]
    Rules(Vec<RuleError>),
}

fn listed(mistakes: &[RuleError]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl RulesError {
    /// Each mistake by itself.
    pub fn each(&self) -> Vec<String> {
        match self {
            Self::Form(text) => vec![text.clone()],
            Self::Rules(mistakes) => mistakes.iter().map(ToString::to_string).collect(),
        }
    }
}

/// What is classified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// The step at which it came, if that is known.
    pub step: Option<Phase>,
    /// The reply code; 0: none.
    pub code: u16,
    /// The enhanced status code, if the reply began with one.
    pub status: Option<Status>,
    /// The text without codes.
    pub text: &'a str,
    /// Whose reply it is, by its name in the provider map, or by a well-known domain there. Another name of a site does no harm.
    pub provider: Option<&'a str>,
}

/// Rules, ready to be asked.
#[derive(Default)]
pub struct Classifier {
    rules: Vec<Rule>,
    search: Search,
    /// What is asked, in the order of the rules: a rule with one of its expressions, or with none if it has no text.
    slots: Vec<(usize, Option<PatternId>)>,
    /// Slots to ask when a literal occurs: those of literal `n` stand from `starts[n]` on, to where the next one's begin.
    of_literals: Vec<u32>,
    starts: Vec<u32>,
    /// Slots to ask whatever the text says.
    always: Bits,
    /// Slots that code, step and provider leave.
    filter: Filter,
    /// Words behind which the zone of a list stands.
    zones: Vec<PatternId>,
    lists: Vec<(Arc<str>, Vec<PatternId>)>,
    /// Literals of which one occurs in every text that names a list or a zone.
    list_literals: Bits,
    /// What the operator's file says, to tell a changed one.
    own: Option<Box<str>>,
}

impl fmt::Debug for Classifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Classifier").field("rules", &self.rules.len()).finish_non_exhaustive()
    }
}

impl Classifier {
    /// The tables that come with the program. They are made once, when somebody asks for the first time: they never change.
    pub fn built_in() -> Arc<Self> {
        static BUILT_IN: LazyLock<Arc<Classifier>> =
            LazyLock::new(|| Arc::new(Classifier::make(None).unwrap_or_default()));
        BUILT_IN.clone()
    }

    /// The same with an operator's rules before them; one that has the id of a rule here replaces it.
    pub fn with(own: &str) -> Result<Self, RulesError> {
        Self::make(Some(own))
    }

    /// What the operator's file says; empty: there is none.
    pub(super) fn own(&self) -> &str {
        self.own.as_deref().unwrap_or_default()
    }

    /// Whether some rule is about this provider.
    pub fn knows(&self, provider: &str) -> bool {
        self.filter.knows(provider)
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub(super) fn make(own: Option<&str>) -> Result<Self, RulesError> {
        let (mut rules, mut lists, mut builder) = (Vec::new(), Vec::new(), Builder::default());
        let resets = resets()?;
        let files = own.iter().map(|text| (*text, Certainty::Operator));
        let files = files.chain([(&*resets, Certainty::Provider)]).chain(BUILT_IN).chain([(LISTS, Certainty::Text)]);
        let (mut replaced, mut wrong) = (HashSet::new(), Vec::new());
        for (text, tier) in files {
            let mut table: Table = toml::from_str(text).map_err(|error| RulesError::Form(error.to_string()))?;
            for (number, value) in entries(&mut table, "rule")?.into_iter().enumerate() {
                let rule = match Rule::read(value, number + 1, tier, &mut builder) {
                    Ok(rule) => rule,
                    Err(mistakes) => {
                        wrong.extend(mistakes);
                        continue;
                    }
                };
                let is_new = replaced.insert(rule.id.clone());
                if !is_new && tier == Certainty::Operator {
                    wrong.push(twice(&rule));
                }
                if is_new {
                    rules.push(rule);
                }
            }
            for (number, value) in entries(&mut table, "list")?.into_iter().enumerate() {
                match list(value, number + 1, &mut builder) {
                    Ok(list) => lists.push(list),
                    Err(mistake) => wrong.push(mistake),
                }
            }
            if let Some(key) = table.keys().next() {
                return Err(RulesError::Form(format!("{key}: is unknown; allowed: [[rule]], [[list]]")));
            }
        }
        let classifier = Self::assembled(rules, lists, builder, own)?;
        // What another rule decides may be what a wrong one was to decide.
        if wrong.is_empty() {
            wrong = classifier.mistakes(Certainty::Operator);
        }
        if wrong.is_empty() { Ok(classifier) } else { Err(RulesError::Rules(wrong)) }
    }

    fn assembled(
        rules: Vec<Rule>,
        lists: Vec<(Arc<str>, Vec<PatternId>)>,
        mut builder: Builder,
        own: Option<&str>,
    ) -> Result<Self, RulesError> {
        let mut by_literal: HashMap<usize, Vec<usize>> = HashMap::new();
        let (mut slots, mut always) = (Vec::new(), Vec::new());
        for (index, rule) in rules.iter().enumerate() {
            if rule.text.is_empty() {
                always.push(slots.len());
                slots.push((index, None));
            }
            for pattern in &rule.text {
                let slot = slots.len();
                slots.push((index, Some(*pattern)));
                match builder.key(*pattern) {
                    None => always.push(slot),
                    Some(places) => places.iter().for_each(|place| by_literal.entry(*place).or_default().push(slot)),
                }
            }
        }
        let by_slot: Vec<&Rule> = slots.iter().filter_map(|(index, _)| rules.get(*index)).collect();
        let filter = Filter::new(&by_slot, &domains()?);
        let zones = BEFORE_ZONE.iter().map(|words| builder.add(&regex_syntax::escape(words), true));
        let zones: Vec<_> = zones.collect::<Result<_, _>>().map_err(|error| RulesError::Form(error.to_string()))?;
        let named = lists.iter().flat_map(|(_, patterns)| patterns).chain(&zones);
        let named: Vec<usize> = named.filter_map(|pattern| builder.key(*pattern)).flatten().copied().collect();
        let search = builder.build().map_err(|error| RulesError::Form(error.to_string()))?;
        let (mut of_literals, mut starts) = (Vec::new(), vec![0]);
        for place in 0..search.literals() {
            let slots = by_literal.remove(&place).unwrap_or_default();
            of_literals.extend(slots.into_iter().filter_map(|slot| u32::try_from(slot).ok()));
            starts.extend(u32::try_from(of_literals.len()));
        }
        let always = Bits::of(always, slots.len());
        let list_literals = Bits::of(named, search.literals());
        let own = own.map(Into::into);
        Ok(Self { rules, search, slots, of_literals, starts, always, filter, zones, lists, list_literals, own })
    }

    /// The verdict on a reply, or on what stands in for one; none: it is no refusal. `site` may be a provider's name.
    pub fn of(&self, step: Phase, reply: &Reply, site: Option<&str>) -> Option<Verdict> {
        let Reply { code, status, text } = reply;
        self.classify(&Refusal { step: Some(step), code: *code, status: *status, text, provider: site })
    }

    /// The verdict on a refusal; none: it is none.
    pub fn classify(&self, refusal: &Refusal<'_>) -> Option<Verdict> {
        let Refusal { step, code, status, text, provider } = *refusal;
        let severity = severity(code, status)?;
        let text = normal(text);
        // qmail and others put it at the end: `no mailbox here by that name (#5.1.1)`.
        let status = status.or_else(|| status_in(&text).map(|(status, _)| status).filter(|status| status.class != 2));
        let severity = if severity == Severity::Unsaid { self::severity(0, status)? } else { severity };
        let question = Question { step, code, severity, status, provider };
        let mut asked = self.always.clone();
        let hits = self.search.scan(text.as_bytes(), |place| {
            for slot in self.slots_of(place) {
                asked.insert(usize::try_from(*slot).unwrap_or(usize::MAX));
            }
        });
        asked.keep(self.filter.of(&question));
        let rule = self.first(&question, &asked, &hits, text.as_bytes());
        Some(rule.map_or_else(|| unknown(severity), |rule| rule.verdict(&question, || self.list(&hits, &text))))
    }

    /// The first rule that fits, of those that are asked.
    fn first(&self, question: &Question<'_>, asked: &Bits, hits: &Bits, text: &[u8]) -> Option<&Rule> {
        let matches = |pattern: PatternId| self.search.matches(pattern, hits, text);
        let mut over = None;
        for slot in asked.iter() {
            let (index, pattern) = self.slots.get(slot)?;
            if over == Some(*index) {
                continue;
            }
            let rule = self.rules.get(*index)?;
            if !rule.fits_status(question.status, question.code) {
                over = Some(*index);
            } else if pattern.is_none_or(matches) {
                if !rule.is_excepted(matches) {
                    return Some(rule);
                }
                over = Some(*index);
            }
        }
        None
    }

    /// Slots to ask when the literal at this place occurs.
    fn slots_of(&self, place: usize) -> &[u32] {
        let bound = |place: usize| self.starts.get(place).and_then(|start| usize::try_from(*start).ok());
        let slots = bound(place).zip(bound(place + 1)).and_then(|(start, end)| self.of_literals.get(start..end));
        slots.unwrap_or_default()
    }

    /// The list that a text names.
    fn list(&self, hits: &Bits, text: &str) -> Option<Arc<str>> {
        if !hits.meets(&self.list_literals) {
            return None;
        }
        let is_named = |patterns: &[PatternId]| {
            patterns.iter().any(|pattern| self.search.matches(*pattern, hits, text.as_bytes()))
        };
        let known = self.lists.iter().find(|(_, patterns)| is_named(patterns)).map(|(name, _)| name.clone());
        let has_zone = || self.zones.iter().any(|pattern| self.search.may_match(*pattern, hits));
        known.or_else(|| if has_zone() { zone(text) } else { None })
    }

    /// Expressions that do not compile.
    #[cfg(test)]
    pub(super) fn broken(&self) -> Vec<String> {
        self.search.broken()
    }

    /// Examples of the rules of a tier that are not decided by their own rule, and counter-examples that are.
    pub(super) fn mistakes(&self, tier: Certainty) -> Vec<RuleError> {
        let decided = |rule: &Rule, example: &str| {
            let (step, diagnostic) = example_of(rule, example);
            let Diagnostic { code, status, text, .. } = &diagnostic;
            let provider = rule.provider();
            self.classify(&Refusal { step, code: *code, status: *status, text, provider }).map(|verdict| verdict.rule)
        };
        let mut out = Vec::new();
        for rule in self.rules.iter().filter(|rule| rule.tier() == tier) {
            let mut told = |key: &str, text: String| {
                out.push(RuleError { rule: rule.id.to_string(), key: key.to_owned(), text });
            };
            for example in &rule.examples {
                match decided(rule, example) {
                    Some(by) if by == rule.id => {}
                    Some(by) => {
                        told("example", format!("{example:?} is decided by {by}; allowed: what this rule decides"))
                    }
                    None => told("example", format!("{example:?} is no refusal; allowed: 4yz or 5yz")),
                }
            }
            for example in rule.counters.iter().filter(|example| decided(rule, example).as_deref() == Some(&*rule.id)) {
                told("counter", format!("{example:?} is decided by this rule; allowed: what it does not decide"));
            }
        }
        out
    }
}

/// An example may begin with its step in brackets: `[rcpt] 550 ...`; else it comes at the rule's first step.
fn example_of(rule: &Rule, example: &str) -> (Option<Phase>, Diagnostic) {
    let named = example.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    // Another word in brackets was refused when the rule was read.
    let named = named.and_then(|(step, rest)| Some((Phase::named(step)?, rest)));
    let (step, text) = named.map_or((rule.first_step(), example), |(step, rest)| (Some(step), rest));
    let diagnostic = Diagnostic::parse(text);
    (step.or(diagnostic.step), diagnostic)
}

/// 4yz or 5yz, a local decision by its status; none: a success.
fn severity(code: u16, status: Option<Status>) -> Option<Severity> {
    match (code / 100, status.map(|status| status.class)) {
        (2 | 3, _) | (0, Some(2)) => None,
        (4, _) | (0, Some(4)) => Some(Severity::Transient),
        (5, _) | (0, Some(5)) => Some(Severity::Permanent),
        _ => Some(Severity::Unsaid),
    }
}

/// Where no rule fits.
fn unknown(severity: Severity) -> Verdict {
    let (class, certainty) = (Class::Unknown, Certainty::Code);
    Verdict { class, rule: Arc::from("none"), certainty, list: None, severity, wants_rest: false, asks_less: false }
}

/// The entries of the provider map.
fn providers() -> Result<Vec<Value>, RulesError> {
    let mut map: Table = toml::from_str(PROVIDERS).map_err(|error| RulesError::Form(error.to_string()))?;
    entries(&mut map, "provider")
}

/// Their names.
pub(super) fn provider_names() -> Result<Vec<String>, RulesError> {
    let names = providers()?.into_iter().filter_map(|provider| Some(provider.get("name")?.as_str()?.to_owned()));
    Ok(names.collect())
}

/// Every well-known domain with its provider's name.
fn domains() -> Result<Domains, RulesError> {
    let mut found = Domains::new();
    for provider in providers()? {
        let Some(name) = provider.get("name").and_then(Value::as_str) else { continue };
        let domains = provider.get("domains").and_then(Value::as_array).into_iter().flatten();
        found.extend(domains.filter_map(Value::as_str).map(|domain| (domain.to_owned(), name.to_owned())));
    }
    Ok(found)
}

/// The rules about resets, of every provider that throttles by them.
fn resets() -> Result<String, RulesError> {
    let throttles = |provider: &Value| provider.get("resets").and_then(Value::as_str) == Some("throttle");
    let names = providers()?.into_iter().filter(throttles);
    let names = names.filter_map(|provider| Some(provider.get("name")?.as_str()?.to_owned()));
    Ok(names.map(|name| RESETS.replace("PROVIDER", &name)).collect())
}

fn entries(table: &mut Table, key: &str) -> Result<Vec<Value>, RulesError> {
    match table.remove(key) {
        None => Ok(Vec::new()),
        Some(Value::Array(entries)) => Ok(entries),
        Some(_) => Err(RulesError::Form(format!("{key}: is no list; allowed: [[{key}]]"))),
    }
}

fn twice(rule: &Rule) -> RuleError {
    let text = "occurs twice; allowed: a name that no other rule of this file has".to_owned();
    RuleError { rule: rule.id.to_string(), key: "id".to_owned(), text }
}

/// A list and the words by which replies call it.
fn list(value: Value, number: usize, builder: &mut Builder) -> Result<(Arc<str>, Vec<PatternId>), RuleError> {
    let mut fields = Fields::list(value, number)?;
    let words = fields.words()?;
    let add = |word: &String| {
        let pattern = builder.add(&regex_syntax::escape(word), true);
        pattern.map_err(|error| fields.error("words", format!("{word:?} {error}")))
    };
    let patterns = words.iter().map(add).collect::<Result<_, _>>()?;
    Ok((Arc::from(fields.id.as_str()), patterns))
}

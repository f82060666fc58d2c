//! Many regular expressions over one short text, at little cost.
//!
//! An expression is told apart into the literals without which it cannot match (as in RE2's filtered matching): clauses,
//! of each of which one literal must occur. One pass of an automaton over the text finds all literals of all expressions;
//! only those whose clauses hold are then asked themselves, and they are compiled when that happens the first time. One
//! that is a plain choice of literals is never asked.
//!
//! Texts are lower case and so are the expressions; they see octets (no classes of Unicode), literals may be any UTF-8.

use std::collections::HashMap;
use std::sync::OnceLock;

use aho_corasick::automaton::Automaton;
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, MatchKind};
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::{Hir, HirKind};

/// Literals that are shorter occur nearly everywhere and tell nothing.
const SHORTEST: usize = 2;
/// Clauses of literals as long as this tell something.
const TELLING: usize = 3;
/// The automaton looks for so many octets of a literal at most, so that it is small enough for the processor's cache.
const LONGEST_LITERAL: usize = 8;
/// Longest expression, in octets, and what it may take of memory when compiled.
const LONGEST: usize = 2048;
const MOST_MEMORY: usize = 1 << 20;

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not a regular expression, or one that is too large.
    #[error("{0}")]
    Form(String),
    /// Texts are made lower case, so it could never match.
    #[error("has upper case; allowed: lower case only, since texts are made lower case")]
    UpperCase,
    /// It matches the empty text, and so everything.
    #[error("matches everything; allowed: what not every text has")]
    Everything,
}

/// An expression by its place in a [`Search`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PatternId(usize);

/// One expression.
#[derive(Debug)]
struct Pattern {
    source: Box<str>,
    /// Of each of these one literal occurs in every text that matches.
    clauses: Box<[Box<[usize]>]>,
    /// Its one clause is all there is to it.
    is_plain: bool,
    /// Compiled when it is asked for the first time; none: it cannot be, which [`Builder::add`] has ruled out.
    regex: OnceLock<Option<Regex>>,
}

/// Expressions that are looked for at once.
#[derive(Debug, Default)]
pub(super) struct Search {
    patterns: Vec<Pattern>,
    /// None: there are no literals.
    finder: Option<NFA>,
    literals: usize,
}

/// A set of small numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Bits(Box<[u64]>);

/// Collects expressions.
#[derive(Debug, Default)]
pub(super) struct Builder {
    patterns: Vec<Pattern>,
    known: HashMap<Box<str>, PatternId>,
    literals: Vec<Box<[u8]>>,
    places: HashMap<Box<[u8]>, usize>,
}

impl Builder {
    /// Adds an expression. `is_trusted`: it is known to compile, which is left for later.
    pub fn add(&mut self, source: &str, is_trusted: bool) -> Result<PatternId, PatternError> {
        if let Some(known) = self.known.get(source) {
            return Ok(*known);
        }
        let hir = parse(source)?;
        let regex = match is_trusted {
            true => OnceLock::new(),
            false => OnceLock::from(Some(compile(source).map_err(|error| PatternError::Form(error.to_string()))?)),
        };
        let clauses = clauses(&hir);
        let is_plain = is_plain(&hir) && clauses.iter().flatten().all(|literal| literal.len() <= LONGEST_LITERAL);
        let clauses = telling(clauses, if is_plain { 1 } else { SHORTEST });
        let placed = clauses.into_iter().map(|clause| clause.into_iter().map(|literal| self.place(&literal)).collect());
        let clauses = placed.collect();
        let id = PatternId(self.patterns.len());
        self.patterns.push(Pattern { source: source.into(), clauses, is_plain, regex });
        self.known.insert(source.into(), id);
        Ok(id)
    }

    fn place(&mut self, literal: &[u8]) -> usize {
        let literal = literal.get(..LONGEST_LITERAL).unwrap_or(literal);
        let next = self.literals.len();
        let place = *self.places.entry(literal.into()).or_insert(next);
        if place == next {
            self.literals.push(literal.into());
        }
        place
    }

    /// The literal by whose place an expression is best looked for: of its clauses the one with the longest literals.
    pub fn key(&self, id: PatternId) -> Option<&[usize]> {
        let shortest = |clause: &[usize]| {
            let lengths = clause.iter().filter_map(|place| self.literals.get(*place)).map(|literal| literal.len());
            lengths.min()
        };
        let clauses = self.patterns.get(id.0)?.clauses.iter().map(|clause| &**clause);
        clauses.max_by_key(|clause| shortest(clause))
    }

    /// All of them, ready to be looked for.
    pub fn build(self) -> Result<Search, PatternError> {
        let finder = match self.literals.is_empty() {
            true => None,
            false => {
                let finder = NFA::builder().match_kind(MatchKind::Standard).build(&self.literals);
                Some(finder.map_err(|error| PatternError::Form(error.to_string()))?)
            }
        };
        Ok(Search { patterns: self.patterns, finder, literals: self.literals.len() })
    }
}

impl Pattern {
    fn asked(&self, text: &[u8]) -> bool {
        let regex = self.regex.get_or_init(|| compile(&self.source).ok());
        regex.as_ref().is_some_and(|regex| regex.is_match(text))
    }
}

impl Search {
    /// Calls `each` with the place of every literal in the text, once, and gives all of them.
    pub fn scan(&self, text: &[u8], mut each: impl FnMut(usize)) -> Bits {
        let mut hits = Bits::new(self.literals);
        let Some(finder) = &self.finder else { return hits };
        let Ok(mut state) = finder.start_state(Anchored::No) else { return hits };
        for octet in text {
            state = finder.next_state(Anchored::No, state, *octet);
            if finder.is_special(state) && finder.is_match(state) {
                for number in 0..finder.match_len(state) {
                    let place = finder.match_pattern(state, number).as_usize();
                    if hits.insert(place) {
                        each(place);
                    }
                }
            }
        }
        hits
    }

    /// Whether an expression matches the text that was scanned.
    pub fn matches(&self, id: PatternId, hits: &Bits, text: &[u8]) -> bool {
        self.may_match(id, hits)
            && self.patterns.get(id.0).is_some_and(|pattern| pattern.is_plain || pattern.asked(text))
    }

    /// Whether the literals occur that an expression needs.
    pub fn may_match(&self, id: PatternId, hits: &Bits) -> bool {
        let holds = |clause: &[usize]| clause.iter().any(|place| hits.has(*place));
        self.patterns.get(id.0).is_some_and(|pattern| pattern.clauses.iter().all(|clause| holds(clause)))
    }

    /// Expressions that do not compile.
    #[cfg(test)]
    pub fn broken(&self) -> Vec<String> {
        let sources = self.patterns.iter().map(|pattern| pattern.source.to_string());
        sources.filter(|source| compile(source).is_err()).collect()
    }

    /// How many literals there are.
    pub fn literals(&self) -> usize {
        self.literals
    }
}

impl Bits {
    /// None of the numbers below `size`.
    pub fn new(size: usize) -> Self {
        Self(vec![0; size.div_ceil(64)].into())
    }

    /// Those of `numbers` that are below `size`.
    pub fn of(numbers: impl IntoIterator<Item = usize>, size: usize) -> Self {
        let mut bits = Self::new(size);
        for number in numbers {
            bits.insert(number);
        }
        bits
    }

    /// Adds a number; whether it is new. One that is too large is left out.
    pub fn insert(&mut self, number: usize) -> bool {
        let Some(word) = self.0.get_mut(number / 64) else { return false };
        let bit = 1 << (number % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Leaves what is in all of these too.
    pub fn keep(&mut self, [a, b, c]: [&Self; 3]) {
        for (((word, a), b), c) in self.0.iter_mut().zip(&a.0).zip(&b.0).zip(&c.0) {
            *word &= a & b & c;
        }
    }

    /// Whether some number is in both.
    pub fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(word, other)| word & other != 0)
    }

    fn has(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    /// All of them, the least first.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(place, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = usize::try_from(left.trailing_zeros()).ok().filter(|bit| *bit < 64)?;
                left &= left - 1;
                Some(place * 64 + bit)
            })
        })
    }
}

/// The clauses that are worth looking for: those of long literals, else the best one if its literals have at least `shortest`
/// octets. A clause of short ones holds for most texts, and finding them costs more than it spares.
fn telling(clauses: Vec<Vec<Box<[u8]>>>, shortest: usize) -> Vec<Vec<Box<[u8]>>> {
    let length = |clause: &Vec<Box<[u8]>>| clause.iter().map(|literal| literal.len()).min().unwrap_or_default();
    let best = clauses.iter().map(length).max().unwrap_or_default();
    let least = if best >= TELLING { TELLING } else { best.max(shortest) };
    clauses.into_iter().filter(|clause| length(clause) >= least).collect()
}

fn parse(source: &str) -> Result<Hir, PatternError> {
    if source.len() > LONGEST {
        return Err(PatternError::Form(format!("is longer than {LONGEST} octets")));
    }
    let parsed = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(source);
    let hir = parsed.map_err(|error| PatternError::Form(reason(&error)))?;
    if clauses(&hir).iter().flatten().any(|literal| literal.iter().any(u8::is_ascii_uppercase)) {
        return Err(PatternError::UpperCase);
    }
    match hir.properties().minimum_len() {
        Some(0) if hir.properties().look_set().is_empty() => Err(PatternError::Everything),
        _ => Ok(hir),
    }
}

/// The last line of the parser's drawing says what is wrong.
fn reason(error: &regex_syntax::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    format!("is no regular expression: {}", last.strip_prefix("error: ").unwrap_or(last))
}

fn compile(source: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(source).unicode(false).size_limit(MOST_MEMORY).dfa_size_limit(MOST_MEMORY / 4).build()
}

/// Whether it is a literal, or a choice of them.
fn is_plain(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Literal(_) => true,
        HirKind::Capture(capture) => is_plain(&capture.sub),
        HirKind::Alternation(choices) => choices.iter().all(is_plain),
        _ => false,
    }
}

/// Sets of literals of each of which one must occur.
fn clauses(hir: &Hir) -> Vec<Vec<Box<[u8]>>> {
    match hir.kind() {
        HirKind::Literal(literal) => vec![vec![literal.0.clone()]],
        HirKind::Capture(capture) => clauses(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => clauses(&repetition.sub),
        HirKind::Concat(parts) => parts.iter().flat_map(clauses).collect(),
        HirKind::Alternation(choices) => {
            let best = |choice: &Hir| {
                let shortest = |clause: &Vec<Box<[u8]>>| clause.iter().map(|literal| literal.len()).min();
                clauses(choice).into_iter().max_by_key(shortest)
            };
            let all: Option<Vec<_>> = choices.iter().map(best).collect();
            all.map(|clauses| vec![clauses.concat()]).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(sources: &[&str], text: &str) -> Vec<usize> {
        let mut builder = Builder::default();
        let ids: Vec<PatternId> = sources.iter().map(|source| builder.add(source, true).unwrap()).collect();
        let search = builder.build().unwrap();
        let hits = search.scan(text.as_bytes(), |_| {});
        ids.iter().filter(|id| search.matches(**id, &hits, text.as_bytes())).map(|id| id.0).collect()
    }

    #[test]
    fn literals_gaps_choices_and_anchors_are_found() {
        let sources = ["mailbox.*full", "user unknown|no such user", "^: user", r"\brate\b", "quota"];

        assert_eq!(found(&sources, "the mailbox is full"), [0]);
        assert_eq!(found(&sources, "full mailbox: no such user"), [1]);
        assert_eq!(found(&sources, ": user unknown"), [1, 2]);
        assert_eq!(found(&sources, "corporate over quota"), [4]);
        assert_eq!(found(&sources, "the rate"), [3]);
        assert_eq!(found(&sources, ""), [] as [usize; 0]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let add = |source: &str| Builder::default().add(source, false).unwrap_err();

        assert!(matches!(add("a(b"), PatternError::Form(text) if text.contains("unclosed group")));
        assert_eq!(add("Mailbox full"), PatternError::UpperCase);
        assert_eq!(add("x*"), PatternError::Everything);
        assert!(matches!(add("(abc{1,900}){1,900}"), PatternError::Form(_)));
        assert!(matches!(add(&"x".repeat(5_000)), PatternError::Form(_)));
    }

    proptest! {
        #[test]
        fn an_expression_matches_exactly_where_it_would_alone(
            texts in prop::collection::vec("[abc ]{0,12}", 1..8),
            sources in prop::collection::vec(
                prop::sample::select(vec![
                    "abc", "a+bc", "abc|bca", "ab.*ca", "(abc|cab)b?", "^abc", "abc$", r"\babc\b", "(a|b)ca", "ab(c|abc)*a",
                    "a[bc]a", "(?:abc){2}", "cab a|bbb",
                ]),
                1..6,
            ),
        ) {
            let mut builder = Builder::default();
            let ids: Vec<PatternId> = sources.iter().map(|source| builder.add(source, false).unwrap()).collect();
            let search = builder.build().unwrap();
            for text in &texts {
                let hits = search.scan(text.as_bytes(), |_| {});
                for (id, source) in ids.iter().zip(&sources) {
                    let alone = compile(source).unwrap().is_match(text.as_bytes());
                    prop_assert_eq!(search.matches(*id, &hits, text.as_bytes()), alone, "{} in {:?}", source, text);
                }
            }
        }
    }
}

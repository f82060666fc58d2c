//! Which rules can decide a refusal at all, whatever its text says: by code, step and provider.
//!
//! When rules are read, a set of their slots is made for each code that one of them names, for each step and for each
//! provider. A refusal takes three of them; what is in all three is asked, and only status and text remain to be looked at.

use std::collections::{BTreeSet, HashMap};

use super::class::Severity;
use super::rule::{Question, Rule};
use super::search::Bits;
use crate::message::Phase;

type Hasher = foldhash::fast::RandomState;

/// Sets of slots.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// By codes that some rule names.
    named: HashMap<u16, Bits, Hasher>,
    /// Other codes, and no code.
    other: BySeverity,
    none: BySeverity,
    steps: HashMap<Phase, Bits, Hasher>,
    no_step: Bits,
    /// By providers that some rule names, and by their well-known domains: those have such a name as a site if they have a
    /// rule of limits of their own.
    providers: HashMap<Box<str>, usize, Hasher>,
    sets: Vec<Bits>,
    anybody: Bits,
}

/// Well-known domains of a provider, each with the provider's name.
pub(super) type Domains = Vec<(String, String)>;

#[derive(Debug, Default)]
struct BySeverity {
    transient: Bits,
    permanent: Bits,
    unsaid: Bits,
}

impl Filter {
    /// Of slots, each by its rule.
    pub fn new(slots: &[&Rule], domains: &Domains) -> Self {
        let set = |fits: &dyn Fn(&Rule) -> bool| {
            let mut bits = Bits::new(slots.len());
            for (slot, _) in slots.iter().enumerate().filter(|(_, rule)| fits(rule)) {
                bits.insert(slot);
            }
            bits
        };
        let of_code = |code: u16, severity| set(&|rule| rule.fits_code(code, severity));
        let by_severity = |code| BySeverity {
            transient: of_code(code, Severity::Transient),
            permanent: of_code(code, Severity::Permanent),
            unsaid: of_code(code, Severity::Unsaid),
        };
        let codes: BTreeSet<u16> = slots.iter().flat_map(|rule| rule.named_codes()).collect();
        let severity = |code: u16| if code < 500 { Severity::Transient } else { Severity::Permanent };
        let named: BTreeSet<&str> = slots.iter().filter_map(|rule| rule.provider()).collect();
        let of = |names: &[&str]| set(&|rule| rule.provider().is_none_or(|own| names.contains(&own)));
        let mut sets: Vec<Bits> = named.iter().map(|name| of(&[name])).collect();
        let mut providers: HashMap<Box<str>, usize, Hasher> =
            named.iter().enumerate().map(|(place, name)| ((*name).into(), place)).collect();
        for (domain, name) in domains {
            if named.contains(&**domain) {
                // A rule is about it by this name.
                providers.insert(domain.as_str().into(), sets.len());
                sets.push(of(&[domain, name]));
            } else if let Some(place) = providers.get(name.as_str()).copied() {
                providers.insert(domain.as_str().into(), place);
            }
        }
        Self {
            named: codes.into_iter().map(|code| (code, of_code(code, severity(code)))).collect(),
            // No rule names that one.
            other: by_severity(u16::MAX),
            none: by_severity(0),
            steps: Phase::ALL.into_iter().map(|step| (step, set(&|rule| rule.fits_step(Some(step))))).collect(),
            no_step: set(&|rule| rule.fits_step(None)),
            providers,
            sets,
            anybody: set(&|rule| rule.provider().is_none()),
        }
    }

    /// What may be asked: what is in all three.
    pub fn of(&self, question: &Question<'_>) -> [&Bits; 3] {
        let code = match question.code {
            0 => self.none.of(question.severity),
            code => self.named.get(&code).unwrap_or_else(|| self.other.of(question.severity)),
        };
        let step = question.step.and_then(|step| self.steps.get(&step)).unwrap_or(&self.no_step);
        let place = question.provider.and_then(|name| self.providers.get(name));
        let provider = place.and_then(|place| self.sets.get(*place)).unwrap_or(&self.anybody);
        [code, step, provider]
    }

    /// Whether some rule names this provider.
    pub fn knows(&self, provider: &str) -> bool {
        self.providers.contains_key(provider)
    }
}

impl BySeverity {
    fn of(&self, severity: Severity) -> &Bits {
        match severity {
            Severity::Transient => &self.transient,
            Severity::Permanent => &self.permanent,
            Severity::Unsaid => &self.unsaid,
        }
    }
}

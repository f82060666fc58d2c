//! What a receiver's refusal means beyond its severity.
//!
//! One classifier for everyone above: limits and bounces must not disagree on a reply. [`classify`] gives a [`class`] and
//! the rule that decided; [`diagnostic`] reads what other systems write about replies.

pub mod class;
pub mod classify;
pub mod diagnostic;
mod filter;
mod lazy;
mod rule;
mod search;
mod text;

#[cfg(test)]
mod tests;

pub use class::{Advice, Certainty, Class, Fault, Severity, Verdict};
pub use classify::{Classifier, Refusal, RulesError};
pub use diagnostic::Diagnostic;
pub use lazy::LazyClassifier;
pub use rule::RuleError;
pub use search::PatternError;

//! The classifier of a daemon, which costs nothing until something is refused.

use std::sync::Arc;

use super::Verdict;
use super::classify::{Classifier, RulesError};
use crate::message::Phase;
use crate::smtp::reply::Reply;

/// An operator's rules, read already; or the built-in ones alone, which are made at the first refusal: that takes some
/// milliseconds, which a start or a command need not wait for.
#[derive(Clone, Debug, Default)]
pub struct LazyClassifier {
    own: Option<Arc<Classifier>>,
}

impl LazyClassifier {
    /// The built-in rules with an operator's before them.
    pub fn with(own: &str) -> Result<Self, RulesError> {
        Classifier::with(own).map(|classifier| Self { own: Some(Arc::new(classifier)) })
    }

    /// The classifier itself.
    pub fn get(&self) -> Arc<Classifier> {
        self.own.clone().unwrap_or_else(Classifier::built_in)
    }

    /// [`Classifier::of`] by the first of two names of a site that some rule is about.
    pub fn of(&self, step: Phase, reply: &Reply, [site, parent]: [Option<&str>; 2]) -> Option<Verdict> {
        let classifier = self.get();
        let name = site.filter(|name| parent.is_none() || classifier.knows(name));
        classifier.of(step, reply, name.or(parent))
    }

    /// Whether the operator's rules are the same text.
    pub fn is_as(&self, other: &Self) -> bool {
        let text = |rules: &Self| rules.own.as_ref().map(|classifier| classifier.own().to_owned());
        text(self) == text(other)
    }
}

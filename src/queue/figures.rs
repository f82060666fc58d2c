//! What each scope allows, and who said so: the figures behind [`Ceiling`], one by one, with the rule that set each.

use std::sync::Arc;
use std::time::Duration;

use crate::limit::budget::Allowance;
use crate::limit::permit::What;

use super::rules::{Ceiling, Of, Rules};
use super::settings::Limits;

/// Messages over one connection.
pub(super) const PER_CONNECTION: &str = "messages per connection";
const RECIPIENTS_PER_CONNECTION: &str = "recipients per connection";
const RECIPIENTS_PER_TRANSACTION: &str = "recipients per transaction";
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// Who sets what no rule does.
pub(super) const GENERAL: &str = "[limits]";

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figure {
    pub what: &'static str,
    /// None: no limit.
    pub most: Option<u64>,
    /// In this time; none: at the same time, or of each.
    pub per: Option<Duration>,
    pub set_by: Arc<str>,
}

/// A value before anybody is known to have set it; 0 is no limit.
type Bare = (&'static str, u64, Option<Duration>);

fn in_time(allowance: &Allowance) -> impl Iterator<Item = Bare> {
    let messages =
        allowance.messages.iter().map(|(count, per)| (What::Messages.as_str(), u64::from(*count), Some(*per)));
    let openings = allowance.openings.map(|count| (What::Openings.as_str(), u64::from(count), Some(MINUTE)));
    let octets = allowance.octets.map(|count| (What::Octets.as_str(), u64::from(count), Some(SECOND)));
    messages.chain(openings).chain(octets)
}

impl Ceiling {
    fn figures(&self) -> Vec<Bare> {
        let counts = [
            (What::Connections.as_str(), self.connections),
            (PER_CONNECTION, self.messages_per_connection),
            (RECIPIENTS_PER_CONNECTION, self.recipients_per_connection),
            (RECIPIENTS_PER_TRANSACTION, self.recipients_per_transaction),
        ];
        let counts = counts.into_iter().filter_map(|(what, count)| Some((what, u64::from(count?), None)));
        // What is said to have no limit sets that too.
        let free = |what: What, is_free: bool| is_free.then_some((what.as_str(), 0, None));
        let messages = free(What::Messages, self.messages.as_ref().is_some_and(Vec::is_empty));
        let openings = free(What::Openings, self.openings == Some(0));
        counts.chain(in_time(&self.allowance())).chain(messages).chain(openings).collect()
    }
}

/// What a site is sent at most where no rule says more.
fn general(limits: &Limits) -> Vec<Bare> {
    let counts = [
        (What::Connections.as_str(), Some(u64::from(limits.connections))),
        (PER_CONNECTION, limits.messages_per_connection.map(u64::from)),
        (RECIPIENTS_PER_CONNECTION, limits.recipients_per_connection.map(u64::from)),
        (RECIPIENTS_PER_TRANSACTION, u64::try_from(limits.recipients_per_message).ok()),
    ];
    let counts = counts.into_iter().filter_map(|(what, count)| Some((what, count?, None)));
    counts.chain(in_time(&limits.allowance)).collect()
}

/// Adds figures of what nobody before has set.
fn add(found: &mut Vec<Figure>, figures: Vec<Bare>, set_by: &Arc<str>) {
    let before: Vec<&'static str> = found.iter().map(|figure| figure.what).collect();
    for (what, most, per) in figures.into_iter().filter(|(what, ..)| !before.contains(what)) {
        let most = Some(most).filter(|most| *most > 0);
        found.push(Figure { what, most, per, set_by: set_by.clone() });
    }
}

impl Rules {
    /// What holds in a scope, each value with the rule that sets it; at a site `limits` says the rest.
    pub(super) fn figures(&self, of: Of<'_>, limits: Option<&Limits>) -> Vec<Figure> {
        let mut found = Vec::new();
        for rule in self.of(of) {
            add(&mut found, rule.ceiling.figures(), &rule.set_by);
        }
        if let Some(limits) = limits {
            add(&mut found, general(limits), &Arc::from(GENERAL));
        }
        found
    }
}

/// What holds for everything.
pub(super) fn of_everything(connections: u32, allowance: &Allowance) -> Vec<Figure> {
    let mut found = Vec::new();
    let connections = (What::Connections.as_str(), u64::from(connections), None);
    add(&mut found, [connections].into_iter().chain(in_time(allowance)).collect(), &Arc::from(GENERAL));
    found
}

#[cfg(test)]
mod tests {
    use super::super::rules::{Name, Rule, Subject};
    use super::*;

    fn rule(set_by: &str, is_provider: bool, ceiling: Ceiling) -> Rule {
        Rule { subject: Subject::Site(Name::new("yahoo")), ceiling, set_by: Arc::from(set_by), is_provider }
    }

    #[test]
    fn each_value_is_told_with_who_set_it() {
        let own = Ceiling { connections: Some(50), messages: Some(Vec::new()), ..Ceiling::default() };
        let published = Ceiling { connections: Some(5), messages_per_connection: Some(20), ..Ceiling::default() };
        let rules = Rules::new(vec![rule("published by yahoo", true, published), rule("rule site yahoo", false, own)]);
        let allowance = Allowance { messages: vec![(7, SECOND)], openings: Some(9), octets: None };
        let limits = Limits { allowance, ..Limits::default() };

        let found = rules.figures(Of::Site("yahoo"), Some(&limits));

        let told: Vec<(&str, Option<u64>, &str)> =
            found.iter().map(|figure| (figure.what, figure.most, &*figure.set_by)).collect();
        assert_eq!(
            told,
            [
                ("connections", Some(50), "rule site yahoo"),
                ("messages", None, "rule site yahoo"),
                ("messages per connection", Some(20), "published by yahoo"),
                ("recipients per transaction", Some(100), GENERAL),
                ("new connections", Some(9), GENERAL),
            ]
        );
        assert!(rules.figures(Of::Site("google"), None).is_empty());
    }
}

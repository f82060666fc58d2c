//! What the operator, or a provider, allows in particular: rules by what they name.
//!
//! Within one scope the most specific rule sets each value: one that names more, then one that names the same, in the order
//! of the configuration; what a provider has published comes last. Across scopes all must have room.

use std::sync::Arc;
use std::time::Duration;

use crate::limit::budget::Allowance;
use crate::limit::permit::Scope;

use super::settings::Limits;

/// What a rule allows; absent: another one says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ceiling {
    /// Connections at the same time.
    pub connections: Option<u32>,
    /// New connections a minute; 0: no limit.
    pub openings: Option<u32>,
    /// Messages over one connection; 0: no limit.
    pub messages_per_connection: Option<u32>,
    /// Recipients over one connection; 0: no limit.
    pub recipients_per_connection: Option<u32>,
    /// Recipients of one transaction.
    pub recipients_per_transaction: Option<u32>,
    /// Messages per period; empty: no limit.
    pub messages: Option<Vec<(u32, Duration)>>,
    /// Octets of content a second.
    pub octets: Option<u32>,
}

/// A name in a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// Whatever it is: each has its own counts.
    Any,
    /// This one.
    Is(Box<str>),
}

impl Name {
    /// `*` or a name.
    pub fn new(text: &str) -> Self {
        if text == "*" { Self::Any } else { Self::Is(text.into()) }
    }

    fn fits(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Is(own) => **own == *name,
        }
    }

    fn is_exact(&self) -> bool {
        matches!(self, Self::Is(_))
    }
}

/// What a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A site.
    Site(Name),
    /// A source.
    Source(Name),
    /// A source at a site.
    SourceSite(Name, Name),
    /// A tenant.
    Tenant(Name),
    /// A tenant at a site.
    TenantSite(Name, Name),
    /// A tenant's campaign.
    Campaign(Name, Name),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it is about.
    pub subject: Subject,
    /// What it allows.
    pub ceiling: Ceiling,
    /// Who set it, for people.
    pub set_by: Arc<str>,
    /// A provider's figure: whatever the operator says comes first.
    pub is_provider: bool,
}

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of<'a> {
    /// A site.
    Site(&'a str),
    /// A source.
    Source(&'a str),
    /// A source at a site.
    SourceSite(&'a str, &'a str),
    /// A tenant.
    Tenant(&'a str),
    /// A tenant at a site.
    TenantSite(&'a str, &'a str),
    /// A tenant's campaign.
    Campaign(&'a str, &'a str),
}

impl Of<'_> {
    /// The scope that it lies in.
    pub fn scope(self) -> Scope {
        match self {
            Self::Site(_) => Scope::Site,
            Self::Source(_) => Scope::Source,
            Self::SourceSite(..) => Scope::SourceSite,
            Self::Tenant(_) => Scope::Tenant,
            Self::TenantSite(..) => Scope::TenantSite,
            Self::Campaign(..) => Scope::Campaign,
        }
    }
}

impl Subject {
    fn fits(&self, of: Of<'_>) -> bool {
        match (self, of) {
            (Self::Site(own), Of::Site(name))
            | (Self::Source(own), Of::Source(name))
            | (Self::Tenant(own), Of::Tenant(name)) => own.fits(name),
            (Self::SourceSite(one, other), Of::SourceSite(first, second))
            | (Self::TenantSite(one, other), Of::TenantSite(first, second))
            | (Self::Campaign(one, other), Of::Campaign(first, second)) => one.fits(first) && other.fits(second),
            _ => false,
        }
    }

    fn exactness(&self) -> usize {
        match self {
            Self::Site(one) | Self::Source(one) | Self::Tenant(one) => usize::from(one.is_exact()),
            Self::SourceSite(one, other) | Self::TenantSite(one, other) | Self::Campaign(one, other) => {
                usize::from(one.is_exact()) + usize::from(other.is_exact())
            }
        }
    }
}

/// Every rule, those first that set a value. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Arc<[Rule]>);

impl Rules {
    /// Rules in the order of the configuration.
    pub fn new(mut rules: Vec<Rule>) -> Self {
        rules.sort_by_key(|rule| (rule.is_provider, std::cmp::Reverse(rule.subject.exactness())));
        Self(rules.into())
    }

    /// The rules that apply, those first that set a value.
    pub fn of(&self, of: Of<'_>) -> impl Iterator<Item = &Rule> {
        self.0.iter().filter(move |rule| rule.subject.fits(of))
    }

    /// What they allow together.
    pub fn ceiling(&self, of: Of<'_>) -> Ceiling {
        self.of(of).fold(Ceiling::default(), |found, rule| found.or(&rule.ceiling))
    }

    /// What a site is sent at most, where `general` holds if nothing is said.
    pub fn limits(&self, site: &str, general: &Limits) -> Limits {
        self.ceiling(Of::Site(site)).over(general)
    }

    /// Whether some rule is about a tenant at this site.
    pub fn has_tenants_at(&self, site: &str) -> bool {
        self.0.iter().any(|rule| matches!(&rule.subject, Subject::TenantSite(_, at) if at.fits(site)))
    }
}

impl Ceiling {
    fn or(self, other: &Self) -> Self {
        Self {
            connections: self.connections.or(other.connections),
            openings: self.openings.or(other.openings),
            messages_per_connection: self.messages_per_connection.or(other.messages_per_connection),
            recipients_per_connection: self.recipients_per_connection.or(other.recipients_per_connection),
            recipients_per_transaction: self.recipients_per_transaction.or(other.recipients_per_transaction),
            messages: self.messages.or_else(|| other.messages.clone()),
            octets: self.octets.or(other.octets),
        }
    }

    fn over(self, general: &Limits) -> Limits {
        let limit = |own: Option<u32>, general: Option<u32>| own.or(general).filter(|most| *most > 0);
        let recipients = self.recipients_per_transaction.and_then(|most| usize::try_from(most).ok());
        let general_allowance = &general.allowance;
        Limits {
            connections: self.connections.unwrap_or(general.connections),
            messages_per_connection: limit(self.messages_per_connection, general.messages_per_connection),
            recipients_per_connection: limit(self.recipients_per_connection, general.recipients_per_connection),
            recipients_per_message: recipients.unwrap_or(general.recipients_per_message),
            allowance: Allowance {
                messages: self.messages.unwrap_or_else(|| general_allowance.messages.clone()),
                openings: limit(self.openings, general_allowance.openings),
                octets: self.octets.or(general_allowance.octets),
            },
        }
    }

    /// What it allows in time.
    pub fn allowance(&self) -> Allowance {
        Allowance {
            messages: self.messages.clone().unwrap_or_default(),
            openings: self.openings.filter(|most| *most > 0),
            octets: self.octets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(subject: Subject, ceiling: Ceiling) -> Rule {
        Rule { subject, ceiling, set_by: Arc::from("test"), is_provider: false }
    }

    fn connections(most: u32) -> Ceiling {
        Ceiling { connections: Some(most), ..Ceiling::default() }
    }

    #[test]
    fn the_most_specific_rule_sets_each_value() {
        let (any, yahoo, a) = (Name::Any, Name::new("yahoo"), Name::new("a"));
        let rules = Rules::new(vec![
            rule(Subject::SourceSite(any.clone(), any), Ceiling { octets: Some(7), ..connections(1) }),
            rule(Subject::SourceSite(a.clone(), yahoo.clone()), connections(2)),
            rule(Subject::SourceSite(a, Name::Any), connections(3)),
        ]);

        let found = rules.ceiling(Of::SourceSite("a", "yahoo"));

        assert_eq!((found.connections, found.octets), (Some(2), Some(7)));
        assert_eq!(rules.ceiling(Of::SourceSite("a", "google")).connections, Some(3));
        assert_eq!(rules.ceiling(Of::SourceSite("b", "yahoo")).connections, Some(1));
        assert_eq!(rules.ceiling(Of::Site("yahoo")), Ceiling::default());
    }

    #[test]
    fn the_operator_comes_before_a_provider_and_both_before_what_is_general() {
        let yahoo = || Subject::Site(Name::new("yahoo"));
        let published =
            Ceiling { messages_per_connection: Some(20), recipients_per_connection: Some(9), ..connections(5) };
        let rules = Rules::new(vec![
            Rule { is_provider: true, ..rule(yahoo(), published) },
            rule(yahoo(), Ceiling { recipients_per_connection: Some(0), ..connections(50) }),
        ]);

        let limits = rules.limits("yahoo", &Limits::default());

        assert_eq!((limits.connections, limits.messages_per_connection), (50, Some(20)));
        assert_eq!(limits.recipients_per_connection, None, "0 is no limit");
        assert_eq!(rules.limits("other", &Limits::default()), Limits::default());
    }
}

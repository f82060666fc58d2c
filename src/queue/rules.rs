//! What the operator, or a provider, allows in particular: rules by what they name.
//!
//! Within one scope the most specific rule sets each value: one that names more, then one that names the same, in the order
//! of the configuration; what a provider has published comes last. Across scopes all must have room.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use crate::limit::budget::Allowance;
use crate::limit::permit::Scope;

use super::settings::Limits;
use super::within::Within;

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

impl Rule {
    /// Which comes first: the operator's, then those that name more.
    fn order(&self) -> (bool, Reverse<usize>) {
        (self.is_provider, Reverse(self.subject.exactness()))
    }
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

impl<'a> Of<'a> {
    /// The site in it.
    fn site(self) -> Option<&'a str> {
        match self {
            Self::Site(site) | Self::SourceSite(_, site) | Self::TenantSite(_, site) => Some(site),
            Self::Source(_) | Self::Tenant(_) | Self::Campaign(..) => None,
        }
    }

    /// The same at another site.
    fn at(self, site: &'a str) -> Self {
        match self {
            Self::Site(_) => Self::Site(site),
            Self::SourceSite(source, _) => Self::SourceSite(source, site),
            Self::TenantSite(tenant, _) => Self::TenantSite(tenant, site),
            other => other,
        }
    }

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
#[derive(Clone, Debug, Default)]
pub struct Rules {
    all: Arc<[Rule]>,
    within: Arc<Within>,
}

impl PartialEq for Rules {
    /// Whether they say the same.
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Rules {
    /// Rules in the order of the configuration.
    pub fn new(mut rules: Vec<Rule>) -> Self {
        rules.sort_by_key(Rule::order);
        Self { all: rules.into(), within: Arc::default() }
    }

    /// The same, where sites lie within others.
    pub(super) fn at(mut self, within: &Arc<Within>) -> Self {
        self.within = within.clone();
        self
    }

    /// The rules that apply, those first that set a value.
    pub fn of(&self, of: Of<'_>) -> impl Iterator<Item = &Rule> {
        let parent = of.site().and_then(|site| self.within.of(site));
        let broader = parent.as_deref().map(|parent| of.at(parent));
        let place = |rule: &Rule| match broader {
            _ if rule.subject.fits(of) => Some(false),
            Some(broader) if rule.subject.fits(broader) => Some(true),
            _ => None,
        };
        let mut found: Vec<_> = self.all.iter().filter_map(|rule| Some((rule, place(rule)?))).collect();
        found.sort_by_key(|(rule, is_broader)| (rule.order(), *is_broader));
        found.into_iter().map(|(rule, _)| rule)
    }

    /// What they allow together.
    pub fn ceiling(&self, of: Of<'_>) -> Ceiling {
        self.of(of).fold(Ceiling::default(), |found, rule| found.or(&rule.ceiling))
    }

    /// What a site is sent at most, where `general` holds if nothing is said.
    pub fn limits(&self, site: &str, general: &Limits) -> Limits {
        self.ceiling(Of::Site(site)).over(general)
    }

    /// Whether some rule is a rate.
    pub fn has_rates(&self) -> bool {
        self.all.iter().any(|rule| !rule.ceiling.allowance().is_unlimited())
    }

    /// Whether some rule is about a tenant at this site.
    pub fn has_tenants_at(&self, site: &str) -> bool {
        let parent = self.within.of(site);
        let is_there = |at: &Name| at.fits(site) || parent.as_deref().is_some_and(|parent| at.fits(parent));
        self.all.iter().any(|rule| matches!(&rule.subject, Subject::TenantSite(_, at) if is_there(at)))
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
    use std::time::Instant;

    use super::*;
    use crate::dns::{MxProof, Parent, Plan, TlsPolicy, Transport};

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

    #[test]
    fn what_a_domains_rules_leave_open_those_of_its_provider_say() {
        let (yahoo, domain) = (|| Name::new("yahoo"), || Name::new("a.test"));
        let second = Duration::from_secs(1);
        let messages = |count| Ceiling { messages: Some(vec![(count, second)]), ..Ceiling::default() };
        let published = Ceiling { messages_per_connection: Some(20), ..connections(5) };
        let within = Arc::new(Within::default());
        let rules = Rules::new(vec![
            Rule { is_provider: true, ..rule(Subject::Site(yahoo()), published) },
            rule(Subject::Site(Name::Any), Ceiling { octets: Some(9), ..messages(1) }),
            rule(Subject::Site(yahoo()), Ceiling { connections: Some(7), ..messages(50) }),
            rule(Subject::Site(domain()), messages(5)),
            rule(Subject::TenantSite(Name::new("t"), yahoo()), messages(2)),
        ])
        .at(&within);
        assert_eq!(rules.ceiling(Of::Site("a.test")).connections, None);
        assert!(!rules.has_tenants_at("a.test"));

        within.note(&plan("a.test", "yahoo"));
        let found = rules.ceiling(Of::Site("a.test"));

        assert_eq!((found.messages, found.connections), (Some(vec![(5, second)]), Some(7)));
        assert_eq!((found.messages_per_connection, found.octets), (Some(20), Some(9)));
        assert_eq!(rules.ceiling(Of::Site("yahoo")).messages, Some(vec![(50, second)]));
        assert_eq!(rules.ceiling(Of::TenantSite("t", "a.test")), messages(2));
        assert!(rules.has_tenants_at("a.test"));
        within.note(&plan("a.test", "google"));
        assert_eq!(rules.ceiling(Of::Site("a.test")).connections, None, "its MX hosts have changed");
    }

    fn plan(site: &str, parent: &str) -> Plan {
        Plan {
            domain: site.into(),
            site: site.into(),
            parent: Some(Arc::new(Parent(parent.into()))),
            mx_set: "mx.test".into(),
            hosts: Box::default(),
            port: 25,
            transport: Transport::Smtp,
            tls: TlsPolicy::Opportunistic,
            security: None,
            mx_proof: MxProof::None,
            valid_until: Instant::now(),
        }
    }
}

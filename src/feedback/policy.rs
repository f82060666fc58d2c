//! What is done about what: from classes of refusals to actions, whom entries are about, and what each tenant wants.
//!
//! | class | what is done by default |
//! |---|---|
//! | bad-mailbox, bad-domain, mailbox-moved | suppressed for ever, if the receiver refused it for good |
//! | mailbox-full, inactive-mailbox | counted: on `full.days` days out of `full.within_days`, suppressed for `full.lasting` |
//! | the same three of our own look-up (DNS) | counted: a resolver that is wrong for an hour must not cost addresses |
//! | anything else | nothing: it is about us, the content or the receiver |

use std::collections::HashMap;
use std::time::Duration;

use crate::reply::class::Fault;
use crate::reply::{Class, Severity, Verdict};
use crate::state::suppression::{Extent, Reason, Scope};

/// What a refusal comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Its recipient is suppressed for so long; `None`: for ever.
    Suppress(Option<Duration>),
    /// Its day is counted.
    Count,
    /// Nothing.
    Nothing,
}

/// Who says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A receiver, in a transaction or by what came back.
    Receiver,
    /// Our own look-up of the domain.
    Dns,
}

/// When a mailbox has been full for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FullRule {
    /// On so many days.
    pub days: u32,
    /// Out of so many; at most 32.
    pub within_days: u32,
    /// It gets no mail for so long then.
    pub lasting: Duration,
}

/// What one tenant wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantPolicy {
    /// What comes back is to come to this domain (VERP); none: to the reverse-path of the message.
    pub bounce_domain: Option<Box<str>>,
    /// It gets no DSNs: events tell it.
    pub events_only: bool,
}

/// What holds for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A client is told of suppressed recipients: 550 at RCPT, or by a DSN. Else they are taken, and left out.
    pub rejects: bool,
    /// Exceptions from the defaults.
    pub rules: HashMap<Class, Action>,
    /// When a mailbox has been full for too long.
    pub full: FullRule,
    /// Whom entries that bounces make are about: all tenants, or the one whose mail it was.
    pub bounce_extent: Extent,
    /// The same of complaints; a class is that of the message, if it has one.
    pub complaint_extent: Extent,
    /// By the tenant's name.
    pub tenants: HashMap<Box<str>, TenantPolicy>,
    /// Domains at which any mailbox takes reports.
    pub feedback_domains: Vec<Box<str>>,
    /// So many days what comes back to a reverse-path is believed.
    pub token_days: u16,
    /// The same of an address to unsubscribe by.
    pub unsubscribe_days: u16,
    /// Where mail for the postmaster of these domains goes (RFC 5321, 4.5.1); none: it is refused.
    pub postmaster: Option<crate::smtp::address::Address>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            rejects: true,
            rules: HashMap::new(),
            full: FullRule { days: 3, within_days: 14, lasting: Duration::from_secs(30 * 86_400) },
            bounce_extent: Extent::Tenant,
            complaint_extent: Extent::Tenant,
            tenants: HashMap::new(),
            feedback_domains: Vec::new(),
            token_days: 30,
            unsubscribe_days: 180,
            postmaster: None,
        }
    }
}

impl Policy {
    /// Whether a rule about this class is allowed: what is not about the recipient never costs an address.
    pub fn may_rule(class: Class) -> bool {
        class.fault() == Fault::Recipient
    }

    /// What is done by default about refusals of this class for good.
    pub const fn default_action(class: Class) -> Action {
        match class {
            Class::BadMailbox | Class::BadDomain | Class::MailboxMoved => Action::Suppress(None),
            Class::MailboxFull | Class::InactiveMailbox => Action::Count,
            _ => Action::Nothing,
        }
    }

    /// What a refusal comes to. Only what is refused for good suppresses at once; of mailboxes that are full most receivers say that
    /// they may be tried again.
    pub fn action(&self, verdict: &Verdict, origin: Origin) -> Action {
        let class = verdict.class;
        if !Self::may_rule(class) {
            return Action::Nothing;
        }
        let action = self.rules.get(&class).copied().unwrap_or(Self::default_action(class));
        match (action, origin) {
            (Action::Suppress(_), Origin::Dns) => Action::Count,
            (Action::Suppress(_), _) if verdict.severity == Severity::Transient => Action::Nothing,
            _ => action,
        }
    }

    /// Whose mail an entry is about.
    pub fn scope_of(&self, reason: Reason, tenant: &str, class: &str) -> Scope {
        let extent = match reason {
            Reason::HardBounce | Reason::MailboxFull => self.bounce_extent,
            // Who wants no more of one sender says nothing about others.
            Reason::Unsubscribe => Extent::Tenant,
            _ => self.complaint_extent,
        };
        let named = match extent {
            Extent::Global => ("", ""),
            Extent::Tenant => (tenant, ""),
            Extent::Class => (tenant, class),
        };
        Scope::of(named.0, named.1).unwrap_or(Scope::Global)
    }

    /// Whether a tenant is told of failures by DSNs.
    pub fn sends_dsns(&self, tenant: &str) -> bool {
        self.tenants.get(tenant).is_none_or(|tenant| !tenant.events_only)
    }

    /// Where what comes back about a tenant's mail is to come.
    pub fn bounce_domain(&self, tenant: &str) -> Option<&str> {
        self.tenants.get(tenant)?.bounce_domain.as_deref()
    }
}

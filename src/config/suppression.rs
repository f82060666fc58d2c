//! `[suppression]`: what refusals come to, and what is said about those who get no mail.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Complaints;
use super::units::Span;
use crate::reply::Class;
use crate::reply::class::Fault;

/// From refusals and complaints to the suppression list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Suppression {
    /// What becomes of a suppressed recipient that a client names.
    pub recipients: Suppressed,
    /// Whose mail entries hold back that bounces make.
    pub bounces: Whose,
    /// The same of complaints.
    pub complaints: Whose,
    /// A mailbox that was full on so many days ...
    pub full_days: u32,
    /// ... out of so many ...
    pub full_within_days: u32,
    /// ... gets no mail for so long.
    pub full_for: Span,
    /// Exceptions for classes of refusals.
    #[serde(rename = "rule")]
    pub rules: Vec<SuppressionRule>,
}

/// What becomes of a suppressed recipient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Suppressed {
    /// 550 5.7.1 at RCPT, and a DSN where that is too late.
    #[default]
    Reject,
    /// It is taken, left out, and told to the journal.
    Accept,
}

/// Whose mail an entry holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whose {
    /// That of all tenants.
    AllTenants,
    /// That of the tenant whose message it was.
    Tenant,
    /// That of the class of its campaign; the tenant's where it has none.
    Class,
}

/// What a class of refusals comes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuppressionRule {
    /// The class, as `hikyaku reply classify` names it.
    pub class: String,
    /// What is done.
    pub action: SuppressionAction,
    /// How long the entry stands; absent: for ever.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasting: Option<Span>,
}

/// What is done about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SuppressionAction {
    /// Its recipient gets no mail any more.
    Suppress,
    /// Its day is counted, as of a full mailbox.
    Count,
    /// Nothing.
    Ignore,
}

impl Default for Suppression {
    fn default() -> Self {
        Self {
            recipients: Suppressed::Reject,
            bounces: Whose::Tenant,
            complaints: Whose::Tenant,
            full_days: 3,
            full_within_days: 14,
            full_for: Span(Duration::from_secs(30 * 86_400)),
            rules: Vec::new(),
        }
    }
}

impl Suppression {
    pub(super) fn check(&self, complaints: &mut Complaints) {
        complaints.range("suppression.full_within_days", &self.full_within_days, &1, &32);
        complaints.range("suppression.full_days", &self.full_days, &1, &self.full_within_days.max(1));
        let (least, most) = (Span(Duration::from_secs(3_600)), Span(Duration::from_secs(3_650 * 86_400)));
        complaints.range("suppression.full_for", &self.full_for, &least, &most);
        for (index, rule) in self.rules.iter().enumerate() {
            let key = format!("suppression.rule[{index}]");
            let is_about_recipients = |class: &Class| class.fault() == Fault::Recipient;
            let allowed: Vec<&str> = Class::ALL.into_iter().filter(is_about_recipients).map(Class::as_str).collect();
            let text = format!(
                "{:?}: only what is about the recipient may cost an address; allowed: {}",
                rule.class,
                allowed.join(", ")
            );
            complaints.unless(allowed.contains(&rule.class.as_str()), format!("{key}.class"), text);
            if let Some(lasting) = &rule.lasting {
                complaints.range(format!("{key}.for"), lasting, &least, &most);
                let text = "of use beside `action = \"suppress\"` only; allowed there: 1h to 3650d";
                complaints.unless(rule.action == SuppressionAction::Suppress, format!("{key}.for"), text);
            }
        }
        let classes = self.rules.iter().map(|rule| rule.class.as_str());
        complaints.different(classes, |index| format!("suppression.rule[{index}].class"));
    }
}

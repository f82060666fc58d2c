//! `[bounces]`: where what comes back is to come, and who is told.

use serde::{Deserialize, Serialize};

use super::Complaints;
use crate::smtp::address::Address;

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounces {
    /// Domains at which any mailbox takes reports: complaints of feedback loops, bounces to an address of old.
    pub feedback_domains: Vec<String>,
    /// So many days after a message was accepted what comes back about it is believed.
    pub believed_days: u16,
    /// Where mail for the postmaster of these domains goes (RFC 5321, 4.5.1); empty: it is refused.
    pub postmaster: String,
    /// What each tenant wants.
    #[serde(rename = "tenant")]
    pub tenants: Vec<BounceTenant>,
}

/// What one tenant wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BounceTenant {
    /// The tenant's name.
    pub name: String,
    /// Its messages have a reverse-path of this domain for each recipient (VERP); empty: their own.
    #[serde(default)]
    pub domain: String,
    /// Whether it gets DSNs.
    #[serde(default)]
    pub dsn: Dsns,
}

/// Whether a tenant gets DSNs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dsns {
    /// Its own, at the reverse-path that its messages came with; what comes back is passed on there.
    #[default]
    Send,
    /// None: it reads the journal.
    Events,
}

impl Default for Bounces {
    fn default() -> Self {
        Self { feedback_domains: Vec::new(), believed_days: 30, postmaster: String::new(), tenants: Vec::new() }
    }
}

impl Bounces {
    /// Whether anything can come in.
    pub fn has_domains(&self) -> bool {
        !self.feedback_domains.is_empty() || self.tenants.iter().any(|tenant| !tenant.domain.is_empty())
    }

    pub(super) fn check(&self, complaints: &mut Complaints) {
        // Weeks after, a mailing list or a queue that was stuck may still answer.
        complaints.range("bounces.believed_days", &self.believed_days, &1, &365);
        let is_address = self.postmaster.is_ascii() && self.postmaster.parse::<Address>().is_ok();
        let text = format!("{:?} is no address; allowed: \"postmaster@example.com\", or \"\"", self.postmaster);
        complaints.unless(is_address || self.postmaster.is_empty(), "bounces.postmaster", text);
        for (index, domain) in self.feedback_domains.iter().enumerate() {
            complaints.host_name(format!("bounces.feedback_domains[{index}]"), domain);
        }
        for (index, tenant) in self.tenants.iter().enumerate() {
            let key = format!("bounces.tenant[{index}]");
            complaints.tenant(format!("{key}.name"), &tenant.name);
            if !tenant.domain.is_empty() {
                complaints.host_name(format!("{key}.domain"), &tenant.domain);
            }
        }
        let names = self.tenants.iter().map(|tenant| tenant.name.as_str());
        complaints.different(names, |index| format!("bounces.tenant[{index}].name"));
    }
}

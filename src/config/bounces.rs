//! `[bounces]`: where what comes back is to come, and who is told.

use serde::{Deserialize, Serialize};

use super::Complaints;
use crate::smtp::address::Address;

/// The longest domain beside a local-part of 52 octets in a path of 254.
const DOMAIN_MOST: usize = 201;

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
    /// The domains that mail is taken for.
    pub fn domains(&self) -> impl Iterator<Item = &str> {
        let of_tenants = self.tenants.iter().map(|tenant| tenant.domain.as_str()).filter(|domain| !domain.is_empty());
        self.feedback_domains.iter().map(String::as_str).chain(of_tenants)
    }

    /// Whether anything can come in.
    pub fn has_domains(&self) -> bool {
        self.domains().next().is_some()
    }

    pub(super) fn check(&self, complaints: &mut Complaints) {
        // Weeks after, a mailing list or a queue that was stuck may still answer.
        complaints.range("bounces.believed_days", &self.believed_days, &1, &365);
        let is_address = self.postmaster.is_ascii() && self.postmaster.parse::<Address>().is_ok();
        let text = format!("{:?} is no address; allowed: \"postmaster@example.com\", or \"\"", self.postmaster);
        complaints.unless(is_address || self.postmaster.is_empty(), "bounces.postmaster", text);
        let is_own = |domain: &str| self.domains().any(|own| own.eq_ignore_ascii_case(domain));
        let is_elsewhere = self.postmaster.rsplit_once('@').is_none_or(|(_, domain)| !is_own(domain));
        let text =
            format!("{:?} is at a domain of [bounces], so that mail would circle; allowed: another", self.postmaster);
        complaints.unless(is_elsewhere, "bounces.postmaster", text);
        for (index, domain) in self.feedback_domains.iter().enumerate() {
            complaints.host_name(format!("bounces.feedback_domains[{index}]"), domain);
        }
        for (index, tenant) in self.tenants.iter().enumerate() {
            let key = format!("bounces.tenant[{index}]");
            complaints.tenant(format!("{key}.name"), &tenant.name);
            if !tenant.domain.is_empty() {
                complaints.host_name(format!("{key}.domain"), &tenant.domain);
                let text =
                    format!("too long for a reverse-path (RFC 5321, 4.5.3.1); allowed: {DOMAIN_MOST} characters");
                complaints.unless(tenant.domain.len() <= DOMAIN_MOST, format!("{key}.domain"), text);
            }
        }
        let names = self.tenants.iter().map(|tenant| tenant.name.as_str());
        complaints.different(names, |index| format!("bounces.tenant[{index}].name"));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;

    #[test]
    fn what_cannot_work_is_told_by_its_key() {
        let said =
            |text: &str| Config::parse(text, Path::new("c")).map_or_else(|error| error.to_string(), |_| String::new());
        let tenant = |domain: &str| format!("[[bounces.tenant]]\nname = \"shop\"\ndomain = \"{domain}\"\n");
        let long = vec!["a".repeat(49); 4].join(".");
        assert_eq!(said(&format!("[bounces]\npostmaster = \"pm@corp.test\"\n{}", tenant(&format!("{long}.b")))), "");

        for (text, key) in [
            (format!("[bounces]\npostmaster = \"pm@B.test\"\n{}", tenant("b.test")), "bounces.postmaster"),
            (
                "[bounces]\npostmaster = \"pm@f.test\"\nfeedback_domains = [\"f.test\"]\n".to_owned(),
                "bounces.postmaster",
            ),
            (tenant(&format!("{long}.bcd")), "bounces.tenant[0].domain"),
        ] {
            assert!(said(&text).contains(key), "{text}: {}", said(&text));
        }
        for wrong in ["auth = true", "trust_headers = true", "tenant = \"shop\"", "networks = [\"192.0.2.0/24\"]"] {
            let told = said(&format!("[[listener]]\nmode = \"returns\"\n{wrong}\n"));
            assert!(told.contains(&format!("listener[0].{}", wrong.split(' ').next().unwrap())), "{wrong}: {told}");
        }
    }
}

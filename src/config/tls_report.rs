//! `[tls_report]`: reports to domains of how TLS with their MX hosts goes (RFC 8460).

use serde::{Deserialize, Serialize};

use super::Complaints;
use crate::smtp::address::Address;

/// Who reports, if anybody does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsReport {
    /// Whether sessions are counted and domains that ask for it are reported to.
    pub enabled: bool,
    /// The organization that reports.
    pub organization: String,
    /// Whom to ask about reports; empty: `from`.
    pub contact: String,
    /// The address that reports come from; its domain is the one that reports.
    pub from: String,
}

impl TlsReport {
    /// Whom to ask.
    pub fn contact(&self) -> &str {
        if self.contact.is_empty() { &self.from } else { &self.contact }
    }

    pub(super) fn check(&self, complaints: &mut Complaints) {
        let is_plain = |text: &str| text.len() <= 200 && text.chars().all(|c| !c.is_control());
        for (key, text) in [("tls_report.organization", &self.organization), ("tls_report.contact", &self.contact)] {
            complaints.unless(is_plain(text), key, "allowed: at most 200 octets without control characters".to_owned());
        }
        let is_address = self.from.parse::<Address>().is_ok() && self.from.is_ascii();
        let is_absent = self.from.is_empty() && !self.enabled;
        let text = format!("{:?} is no mail address; allowed: one in ASCII", self.from);
        complaints.unless(is_address || is_absent, "tls_report.from", text);
        let text = "of need where reports are made; allowed: a name".to_owned();
        complaints.unless(!self.enabled || !self.organization.is_empty(), "tls_report.organization", text);
    }
}

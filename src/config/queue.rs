//! `[queue]` and `[retry]`: how much waits, and when it is tried again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Complaints;
use super::units::Span;

/// Queue sizes and tenants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// Most queued recipients; submissions past it get 452.
    pub max_recipients: u64,
    /// Most queued recipients of one tenant; 0: no limit.
    pub max_recipients_per_tenant: u64,
    /// What becomes of recipients whose last attempt before a crash has no known outcome.
    pub in_doubt: InDoubt,
    /// Exceptions for tenants.
    #[serde(rename = "tenant")]
    pub tenants: Vec<TenantRule>,
}

/// What becomes of a recipient whose last attempt before a crash has no known outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InDoubt {
    /// Tried again, first at the same address: it may come twice.
    #[default]
    Retry,
    /// Held: not tried until an operator has decided.
    Hold,
    /// Recorded as delivered: it may be lost.
    AssumeDelivered,
}

/// A tenant's share and cap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantRule {
    /// The tenant's name.
    pub name: String,
    /// Its share beside other tenants at one site, as a ratio of weights.
    #[serde(default = "TenantRule::default_weight")]
    pub weight: u32,
    /// Most queued recipients; absent: as `max_recipients_per_tenant` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_recipients: Option<u64>,
    /// What becomes of its recipients in doubt; absent: as `queue.in_doubt` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_doubt: Option<InDoubt>,
}

impl TenantRule {
    const fn default_weight() -> u32 {
        1
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self { max_recipients: 20_000_000, max_recipients_per_tenant: 0, in_doubt: InDoubt::Retry, tenants: Vec::new() }
    }
}

impl Queue {
    pub(super) fn check(&self, complaints: &mut Complaints) {
        complaints.range("queue.max_recipients", &self.max_recipients, &1, &1_000_000_000);
        let per_tenant = self.max_recipients_per_tenant;
        complaints.range("queue.max_recipients_per_tenant", &per_tenant, &0, &1_000_000_000);
        for (index, tenant) in self.tenants.iter().enumerate() {
            let key = format!("queue.tenant[{index}]");
            complaints.tenant(format!("{key}.name"), &tenant.name);
            complaints.range(format!("{key}.weight"), &tenant.weight, &1, &1000);
            let recipients = tenant.max_recipients.unwrap_or_default();
            complaints.range(format!("{key}.max_recipients"), &recipients, &0, &1_000_000_000);
        }
        let names = self.tenants.iter().map(|tenant| tenant.name.as_str());
        complaints.different(names, |index| format!("queue.tenant[{index}].name"));
    }
}

/// When deferred recipients are tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Waits after the first, second, ... failed attempt; the last one repeats.
    pub schedule: Vec<Span>,
    /// Each wait is changed by up to this many percent, up or down.
    pub jitter_percent: u8,
    /// A recipient still failing at this age is given up (RFC 5321, 4.5.4.1: at least 4 to 5 days).
    pub max_age: Span,
    /// A DSN about a delay, where NOTIFY=DELAY asks for one, is sent at this age.
    pub delay_notice: Span,
}

impl Default for Retry {
    fn default() -> Self {
        let minutes = |minutes: u64| Span(Duration::from_secs(minutes * 60));
        Self {
            schedule: [1, 5, 15, 30, 60, 120].map(minutes).to_vec(),
            jitter_percent: 10,
            max_age: minutes(4 * 24 * 60),
            delay_notice: minutes(4 * 60),
        }
    }
}

impl Retry {
    pub(super) fn check(&self, complaints: &mut Complaints) {
        complaints.unless(!self.schedule.is_empty(), "retry.schedule", "at least one wait is needed");
        let (least, most) = (Span(Duration::from_secs(1)), Span(Duration::from_secs(7 * 86_400)));
        for (index, wait) in self.schedule.iter().enumerate() {
            complaints.range(format!("retry.schedule[{index}]"), wait, &least, &most);
        }
        complaints.range("retry.jitter_percent", &self.jitter_percent, &0, &50);
        let most = Span(Duration::from_secs(30 * 86_400));
        complaints.range("retry.max_age", &self.max_age, &least, &most);
    }
}

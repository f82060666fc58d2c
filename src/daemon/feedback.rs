//! From the configuration to what is done about refusals and reports.

use std::collections::HashMap;

use crate::config::{Bounces, Config, Dsns, Suppressed, SuppressionAction, Whose};
use crate::feedback::policy::{FullRule, TenantPolicy};
use crate::feedback::{Action, Policy};
use crate::reply::Class;
use crate::state::suppression::Extent;

/// Seconds of a day.
const DAY: u64 = 86_400;

/// What the configuration says.
pub(super) fn policy(config: &Config) -> Policy {
    let section = &config.suppression;
    let rule = |rule: &crate::config::SuppressionRule| {
        let action = match rule.action {
            SuppressionAction::Suppress => Action::Suppress(rule.lasting.map(|lasting| lasting.0)),
            SuppressionAction::Count => Action::Count,
            SuppressionAction::Ignore => Action::Nothing,
        };
        Some((Class::named(&rule.class)?, action))
    };
    let Bounces { feedback_domains, believed_days, postmaster, tenants } = &config.bounces;
    let domain = |domain: &str| domain.to_ascii_lowercase().into_boxed_str();
    let tenant = |tenant: &crate::config::BounceTenant| {
        let bounce_domain = (!tenant.domain.is_empty()).then(|| domain(&tenant.domain));
        let policy = TenantPolicy { bounce_domain, events_only: tenant.dsn == Dsns::Events };
        (tenant.name.as_str().into(), policy)
    };
    // Those who have links only are known by their tokens, too.
    let of_links =
        config.unsubscribe.tenants.iter().map(|tenant| (tenant.name.as_str().into(), TenantPolicy::default()));
    let days = config.unsubscribe.max_age.0.as_secs() / DAY;
    Policy {
        rejects: section.recipients == Suppressed::Reject,
        rules: section.rules.iter().filter_map(rule).collect(),
        full: FullRule { days: section.full_days, within_days: section.full_within_days, lasting: section.full_for.0 },
        bounce_extent: extent(section.bounces),
        complaint_extent: extent(section.complaints),
        tenants: of_links.chain(tenants.iter().map(tenant)).collect::<HashMap<_, _>>(),
        feedback_domains: feedback_domains.iter().map(|name| domain(name)).collect(),
        token_days: *believed_days,
        unsubscribe_days: u16::try_from(days).unwrap_or(u16::MAX),
        postmaster: postmaster.parse().ok(),
    }
}

const fn extent(whose: Whose) -> Extent {
    match whose {
        Whose::AllTenants => Extent::Global,
        Whose::Tenant => Extent::Tenant,
        Whose::Class => Extent::Class,
    }
}

/// A domain to which things come back, if there is one.
pub(super) fn returns_domain(config: &Config) -> Option<&str> {
    let of_tenants = config.bounces.tenants.iter().map(|tenant| tenant.domain.as_str());
    of_tenants.chain(config.bounces.feedback_domains.iter().map(String::as_str)).find(|domain| !domain.is_empty())
}

//! From the configuration to what is done about refusals and reports, and who does it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{Bounces, Config, Dsns, Suppressed, SuppressionAction, Whose};
use crate::feedback::policy::{FullRule, TenantPolicy};
use crate::feedback::{Action, Clerk, Feedback, Naming, Policy};
use crate::inbound::Inbox;
use crate::journal::Journal;
use crate::log::disk::Disk;
use crate::message::MessageId;
use crate::metrics::Registry;
use crate::queue::Queue;
use crate::reply::{Class, LazyClassifier};
use crate::spool::Spool;
use crate::state::Note;
use crate::state::suppression::{Extent, Suppression};

use super::{Error, settings};

/// What is done about refusals and about what comes back, while the daemon runs.
pub(super) struct Returns {
    pub feedback: Feedback,
    /// Finds the addresses behind hashes.
    pub naming: Naming,
    /// Writes for it; none once it has ended.
    pub clerk: Option<Clerk>,
    /// Reads what comes back; none before there is a queue.
    inbox: Option<Inbox>,
    /// What it reads; none once it does.
    reports: Option<UnboundedReceiver<MessageId>>,
    /// Where it does.
    readers: JoinSet<()>,
}

impl Returns {
    /// Begins to write, and reads nothing yet.
    pub fn start(
        config: &Config,
        disk: &Arc<Disk>,
        (list, journal): (&Suppression, &Journal),
        clock: Clock,
        registry: &Registry,
    ) -> Result<Self, Error> {
        let (sender, reports) = mpsc::unbounded_channel();
        let (note, of) = (Note::of_full_mailboxes(disk.clone()), (list.clone(), policy(config)));
        let started = Feedback::start(of, note, journal.clone(), sender, clock, registry);
        let (feedback, clerk) = started.map_err(Error::Clerk)?;
        let naming = Naming::new(list.clone(), journal.clone(), settings::journal_folder(config));
        let (inbox, reports, readers) = (None, Some(reports), JoinSet::new());
        Ok(Self { feedback, naming, clerk: Some(clerk), inbox, reports, readers })
    }

    /// Reads what comes back, until `stop`.
    pub fn read(
        &mut self,
        (spool, queue): (&Spool, &Queue),
        journal: &Journal,
        classifier: &LazyClassifier,
        (clock, registry): (Clock, &Registry),
        stop: CancellationToken,
    ) {
        let parts = (spool.clone(), queue.clone(), self.feedback.clone());
        let inbox = Inbox::new(parts, (journal.clone(), self.naming.clone()), classifier, clock, registry);
        if let Some(reports) = self.reports.take() {
            self.readers.spawn(inbox.clone().run(reports, stop));
        }
        self.inbox = Some(inbox);
    }

    /// Goes by another configuration from now on.
    pub fn apply(&self, config: &Config, classifier: &LazyClassifier) {
        self.feedback.apply(policy(config));
        if let Some(inbox) = &self.inbox {
            inbox.apply(classifier);
        }
    }

    /// Waits for what is being read; false: it took longer.
    pub async fn settled(&mut self, within: Duration) -> bool {
        let readers = &mut self.readers;
        tokio::time::timeout(within, async { while readers.join_next().await.is_some() {} }).await.is_ok()
    }
}

/// Seconds of a day.
const DAY: u64 = 86_400;

/// What the configuration says.
fn policy(config: &Config) -> Policy {
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

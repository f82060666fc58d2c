//! Changes of the list, as the journal is told of them.

use crate::journal::{Event, Journal, Suppressed, SuppressionChange};

use super::{Entry, Target};

impl Entry {
    /// Writes down where recipients' events are that this was done (`add`, `remove`) with an entry; `who`: an operator, or nobody.
    pub fn tell(&self, journal: &Journal, action: &str, who: &str) {
        let Self { target, scope, reason, source, until, .. } = self;
        let shown = target.to_string();
        let target = match target {
            Target::Address(address) => Suppressed::Mailbox { address: address.as_str(), domain: address.domain() },
            Target::Hash(_) => Suppressed::Hash(shown.trim_start_matches('#')),
            Target::Domain(domain) => Suppressed::Domain(domain),
        };
        let ((tenant, class), reason) = (scope.names(), reason.as_str());
        let change = SuppressionChange { action, target, tenant, class, reason, until: *until, source, who };
        journal.tell(&Event::Suppression(change));
    }
}

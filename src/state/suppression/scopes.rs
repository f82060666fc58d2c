//! The scopes that entries have been in. The index has only hashes of scopes and targets together, so whoever asks in which scopes
//! something stands must know all there are.
//!
//! There are as many as tenants and their classes. One that has no entry any more stays until the next start.

use std::collections::HashSet;
use std::io;

use parking_lot::RwLock;

use crate::clock::UnixTime;

use super::entry::{Entry, Scope, Target, reach};
use super::{Change, Suppression};

/// All but the global one, in which something may always be.
#[derive(Debug, Default)]
pub(super) struct Scopes(RwLock<HashSet<Scope>>);

impl Scopes {
    /// Keeps the scopes of what is added.
    pub fn note<'a>(&self, changes: impl IntoIterator<Item = &'a Change>) {
        for change in changes {
            if let Change::Add(Entry { scope, .. }) = change
                && *scope != Scope::Global
                && !self.0.read().contains(scope)
            {
                self.0.write().insert(scope.clone());
            }
        }
    }

    /// All of them, the one that reaches farthest first.
    fn all(&self) -> Vec<Scope> {
        let mut all: Vec<Scope> = self.0.read().iter().cloned().chain([Scope::Global]).collect();
        all.sort_unstable();
        all
    }
}

impl Suppression {
    /// The entries about exactly this, in whatever scope. Blocks on the disk.
    pub fn standing(&self, target: &Target, now: UnixTime) -> io::Result<Vec<Entry>> {
        // What is not in the index need not wait for whoever writes.
        let stands = |scope: &Scope| {
            let key = self.shared.keyed.key(target, scope);
            let found = self.shared.index.snapshot().find(key, reach(target, scope));
            found.is_some_and(|brief| brief.stands(now).is_some())
        };
        let scopes = self.shared.scopes.all().into_iter().filter(stands);
        scopes.filter_map(|scope| self.entry(target, &scope, now).transpose()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::log::simulated::Simulated;
    use crate::log::storage::Storage;
    use crate::state::suppression::Reason;

    use super::*;

    const NOW: UnixTime = UnixTime(6_000);

    fn open(storage: &Arc<Simulated>) -> Suppression {
        Suppression::open(storage.clone(), NOW).unwrap().list
    }

    fn add(target: &str, tenant: &str, class: &str) -> Change {
        Change::Add(Entry {
            target: target.parse().unwrap(),
            scope: Scope::of(tenant, class).unwrap(),
            reason: Reason::Complaint,
            source: Box::default(),
            added: NOW,
            until: None,
        })
    }

    #[test]
    fn every_scope_that_something_stands_in_is_known_before_and_after_a_restart() {
        let storage = Simulated::new(32);
        storage.claim(&Suppression::DIRECTORIES).unwrap();
        let storage = Arc::new(storage);
        let list = open(&storage);
        let ann = "ann@example.com";
        list.apply(&[add(ann, "shop", "news"), add(ann, "", ""), add(ann, "post", "")], NOW).unwrap();
        list.apply(&[add("bob@example.com", "club", "")], NOW).unwrap();
        let target = "Ann@EXAMPLE.com".parse().unwrap();
        let named = |list: &Suppression| {
            let found = list.standing(&target, NOW).unwrap();
            found.iter().map(|entry| entry.scope.names().0.to_owned()).collect::<Vec<_>>()
        };

        let before = named(&list);
        drop(list);

        assert_eq!(before, ["", "post", "shop"]);
        assert_eq!(named(&open(&storage)), before);
    }
}

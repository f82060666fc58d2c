//! Puts recipients on the suppression list: many at once, since each batch costs one sync.
//!
//! While a batch is being synced the next one gathers. A claim is answered when its entry is on stable storage, and not before:
//! who has been told that it is done gets no more mail, whatever happens to the machine.

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::link::Claim;
use super::naming::Fresh;
use super::wish::Wish;
use super::{Inner, Unsubscribe};
use crate::journal::{Event, Unsubscribed};
use crate::state::suppression::{Change, Entry, Outcome, Reason, Target};

/// Claims that wait at most; with more the disk is far behind, and who comes is told to come again.
const WAITING: usize = 1_024;
/// Claims of one batch.
const BATCH: usize = 256;
/// How long one waits for the disk. It may still be stored later, which does no harm.
const PATIENCE: Duration = Duration::from_secs(15);

/// It is not known to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotStored;

/// Who is to be taken off, how he asked, and from where.
#[derive(Debug)]
pub(super) struct Order {
    pub claim: Claim,
    pub wish: Wish,
    pub client: IpAddr,
}

/// Takes orders. Cheap to clone; its work ends when the last one is dropped.
#[derive(Clone, Debug)]
pub(super) struct Scribe(mpsc::Sender<(Order, oneshot::Sender<Result<(), NotStored>>)>);

impl Scribe {
    /// A scribe, and its work, which somebody must run; what it has stored goes to `fresh`.
    pub fn new(unsubscribe: Unsubscribe, fresh: mpsc::Sender<Fresh>) -> (Self, impl Future<Output = ()>) {
        let (sender, mut orders) = mpsc::channel(WAITING);
        let work = async move {
            let mut batch = Vec::with_capacity(BATCH);
            while orders.recv_many(&mut batch, BATCH).await > 0 {
                let (batch, answers): (Vec<Order>, Vec<oneshot::Sender<_>>) = batch.drain(..).unzip();
                let (inner, fresh) = (unsubscribe.clone(), fresh.clone());
                let stored = tokio::task::spawn_blocking(move || inner.0.store(batch, &fresh)).await;
                let result = stored.unwrap_or(Err(NotStored));
                for answer in answers {
                    // Who has gone away does not wait for it.
                    let _ = answer.send(result);
                }
            }
        };
        (Self(sender), work)
    }

    /// Returns when the entry is on stable storage.
    pub async fn take_off(&self, order: Order) -> Result<(), NotStored> {
        let (answer, stored) = oneshot::channel();
        self.0.try_send((order, answer)).map_err(|_| NotStored)?;
        tokio::time::timeout(PATIENCE, stored).await.map_or(Err(NotStored), |told| told.unwrap_or(Err(NotStored)))
    }
}

impl Inner {
    /// Blocks on the disk.
    fn store(&self, orders: Vec<Order>, fresh: &mpsc::Sender<Fresh>) -> Result<(), NotStored> {
        let now = self.clock.wall();
        let entry = |Order { claim, .. }: &Order| Entry {
            target: Target::Hash(claim.recipient),
            scope: claim.scope.clone(),
            reason: Reason::Unsubscribe,
            source: claim.message.to_string().into(),
            added: now,
            until: None,
        };
        let changes: Vec<Change> = orders.iter().map(|order| Change::Add(entry(order))).collect();
        let outcomes = self.list.apply(&changes, now).map_err(|error| {
            tracing::warn!(%error, claims = orders.len(), "recipients who unsubscribe cannot be put on the suppression list");
            NotStored
        })?;
        // What stood before was told then: whoever repeats a request fills no journal.
        let is_new = |outcome: &Outcome| matches!(outcome, Outcome::Added | Outcome::Replaced);
        for (order, _) in orders.iter().zip(&outcomes).filter(|(_, outcome)| is_new(outcome)) {
            let Order { claim, wish, client } = order;
            let (tenant, class) = claim.scope.names();
            let (message, recipient, how) = (claim.message, &claim.recipient.to_string(), wish.as_str());
            let event = Unsubscribed { message, recipient, tenant, class, how, client: *client };
            self.journal.tell(&Event::Unsubscribed(event));
            let entry = entry(order);
            entry.tell(&self.journal, "add", "");
            // With more than can wait the journal is far too long.
            let _ = fresh.try_send(Fresh { message, day: claim.day, entry });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::feedback::Naming;
    use crate::journal::Journal;
    use crate::log::simulated::{Operation, Simulated};
    use crate::log::storage::Storage;
    use crate::message::MessageId;
    use crate::metrics::Registry;
    use crate::state::suppression::{MailboxHash, Scope, Suppression};
    use crate::unsubscribe::{About, Settings};

    fn unsubscribe() -> (Arc<Simulated>, Unsubscribe) {
        let storage = Arc::new(Simulated::new(1));
        storage.claim(&Suppression::DIRECTORIES).unwrap();
        let (clock, registry) = (Clock::system(), Registry::new().unwrap());
        let list = Suppression::open(storage.clone(), clock.wall()).unwrap().list;
        let naming = Naming::new(list.clone(), Journal::off(), None);
        (storage, Unsubscribe::new(Settings::default(), list, (Journal::off(), naming), clock, &registry))
    }

    fn order(number: u8) -> Order {
        let claim = Claim {
            message: MessageId(number.into()),
            day: 1,
            recipient: MailboxHash([number; 10]),
            scope: Scope::Tenant("shop".into()),
            about: About::default(),
        };
        Order { claim, wish: Wish::OneClick, client: [192, 0, 2, 1].into() }
    }

    fn stands(unsubscribe: &Unsubscribe, number: u8) -> bool {
        let (target, scope) = (Target::Hash(MailboxHash([number; 10])), Scope::Tenant("shop".into()));
        unsubscribe.0.list.entry(&target, &scope, unsubscribe.0.clock.wall()).unwrap().is_some()
    }

    #[tokio::test]
    async fn nobody_is_told_that_it_is_done_when_the_disk_gave_an_error() {
        let (storage, unsubscribe) = unsubscribe();
        let (scribe, work) = Scribe::new(unsubscribe.clone(), mpsc::channel(1).0);
        tokio::spawn(work);
        storage.inject(|operation, _| (operation == Operation::SyncData).then_some(ErrorKind::Other));

        assert_eq!(scribe.take_off(order(1)).await, Err(NotStored));
        assert!(!stands(&unsubscribe, 1));
        storage.heal();
        assert_eq!(scribe.take_off(order(1)).await, Ok(()));
        assert!(stands(&unsubscribe, 1));
    }

    #[tokio::test]
    async fn those_who_come_together_share_a_sync_and_more_than_can_wait_are_turned_away() {
        let (storage, unsubscribe) = unsubscribe();
        let (scribe, work) = Scribe::new(unsubscribe.clone(), mpsc::channel(1).0);
        let mut waiting = tokio::task::JoinSet::new();
        for number in 0..=WAITING {
            let scribe = scribe.clone();
            waiting.spawn(async move { scribe.take_off(order(u8::try_from(number % 200).unwrap())).await });
        }
        while waiting.try_join_next().is_none() {
            tokio::task::yield_now().await;
        }
        let before = storage.calls();
        drop(scribe);

        work.await;

        let calls = storage.calls() - before;
        let results = waiting.join_all().await;
        assert_eq!((results.len(), results.iter().all(Result::is_ok)), (WAITING, true), "one was turned away");
        assert!((0..200).all(|number| stands(&unsubscribe, number)));
        assert!(calls < 100, "{calls} calls of the disk for {WAITING} claims");
    }
}

//! Salvage: recipients that were in the hands of something that panicked.
//!
//! Whoever works on recipients does so behind one of the [`Walls`] and knows their keys. After a panic those that are
//! unfinished in the spool and in no place of the queue are made entries again, so that none is lost sight of:
//!
//! | in whose hands | then |
//! |---|---|
//! | a connection's task, the one drawn first | held as damaged: it was under way |
//! | a connection's task, what it had drawn beside it | ready again; held if it is met in a second panic |
//! | the queue, recipients of one message | held as damaged |
//! | the queue, recipients of many messages | tried again later, one a second; held if met in a second panic |
//!
//! So each panic holds at least one message, or has its suspects met alone: none goes round for ever. Held ones are shown
//! with the panic as their last reply. All of it is in memory only: a restart, with a repaired program perhaps, tries
//! them again.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::dns::{PlanFailure, Planned};
use crate::message::{MessageId, Phase, Report};
use crate::metrics::Registry;
use crate::panics::{Bulkhead, Panic};
use crate::smtp::status::Status;

use super::assignment::Assignment;
use super::engine::Engine;
use super::entry::Entry;
use super::held::Hold;
use super::site::{Alarm, Outbox, Site};

/// Names a recipient: a message, and an index into its envelope.
pub(super) type Key = (MessageId, u32);

/// How long suspects, and a site in whose alarm there was a panic, are left alone.
const PAUSE: Duration = Duration::from_secs(60);
/// Suspects remembered: as many as a few hundred batches of the timers. With more, the oldest are forgotten together.
const MOST_SUSPECTS: usize = 100_000;

/// Who is to blame for a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// The message: there was no other.
    Certain,
    /// One of several messages.
    Shared,
}

/// The walls between the queue's tasks, and who was met in a panic.
#[derive(Debug)]
pub(super) struct Walls {
    /// Entries whose time has come, and alarms of sites.
    pub timers: Bulkhead,
    /// Gauges, expiry, the sweep.
    pub upkeep: Bulkhead,
    /// Look-ups of plans.
    pub lookups: Bulkhead,
    /// DSNs.
    pub notices: Bulkhead,
    /// What connections report and return.
    pub outcomes: Bulkhead,
    /// New and recovered messages.
    pub inlet: Bulkhead,
    suspects: Mutex<HashSet<Key>>,
}

impl Walls {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let wall = |task| Bulkhead::new(registry, task);
        Self {
            timers: wall("timers"),
            upkeep: wall("upkeep"),
            lookups: wall("lookups"),
            notices: wall("dsn"),
            outcomes: wall("outcomes"),
            inlet: wall("inlet"),
            suspects: Mutex::default(),
        }
    }

    fn is_suspect(&self, id: MessageId, recipients: &[u32]) -> bool {
        let suspects = self.suspects.lock();
        recipients.iter().any(|recipient| suspects.contains(&(id, *recipient)))
    }

    fn suspect(&self, keys: impl IntoIterator<Item = Key>) {
        let mut suspects = self.suspects.lock();
        if suspects.len() >= MOST_SUSPECTS {
            suspects.clear();
        }
        suspects.extend(keys);
    }

    fn acquit(&self, keys: &HashSet<Key>) {
        let mut suspects = self.suspects.lock();
        suspects.retain(|key| !keys.contains(key));
    }
}

impl Assignment {
    /// What a connection's task had in its hands when it panicked, in the order in which it was drawn.
    pub fn salvage(assignments: Vec<Self>, panic: &Panic) {
        let Some(first) = assignments.first() else { return };
        let engine = first.engine().clone();
        // One that was met before is to blame; else the one that was under way.
        let is_known = |assignment: &Self| engine.walls.is_suspect(assignment.id(), assignment.recipients());
        let blamed: Vec<bool> = assignments.iter().map(is_known).collect();
        let has_known = blamed.contains(&true);
        let report = Arc::new(report(panic));
        for (number, (assignment, is_known)) in assignments.into_iter().zip(blamed).enumerate() {
            let keys: HashSet<Key> = assignment.recipients().iter().map(|index| (assignment.id(), *index)).collect();
            if is_known || (number == 0 && !has_known) {
                engine.walls.acquit(&keys);
                assignment.hold_for(&report);
            } else {
                engine.walls.suspect(keys);
                drop(assignment);
            }
        }
    }
}

impl Engine {
    /// Holds entries that a panic is blamed on.
    pub fn hold_for(self: &Arc<Self>, entries: Vec<Entry>, report: &Arc<Report>) {
        for entry in &entries {
            self.replies.note(entry, report.clone());
        }
        self.hold(entries, Hold::Damaged);
    }

    /// The same.
    pub fn hold_panicked(self: &Arc<Self>, entries: Vec<Entry>, panic: &Panic) {
        self.hold_for(entries, &Arc::new(report(panic)));
    }

    /// Takes care of recipients that were in the hands of a part of the queue when it panicked. Goes on in the background:
    /// looks through the whole queue and at the disk.
    pub fn salvage(self: &Arc<Self>, keys: Vec<Key>, blame: Blame, panic: Panic) {
        if keys.is_empty() {
            return;
        }
        let outing = self.outings.begin();
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let engine = self.clone();
        let work = move || {
            let _outing = outing;
            let wall = engine.walls.outcomes.clone();
            // What panics even here is left to the next start: the spool has it.
            let _ = wall.call(|| engine.salvage_now(&keys, blame, &panic));
            engine.in_flight.fetch_sub(1, Ordering::AcqRel);
        };
        match self.handle() {
            Some(handle) => drop(self.tasks.spawn_blocking_on(work, handle)),
            None => work(),
        }
    }

    fn salvage_now(self: &Arc<Self>, keys: &[Key], blame: Blame, panic: &Panic) {
        let mut lost: BTreeMap<MessageId, Vec<u32>> = BTreeMap::new();
        for (id, recipient) in keys {
            lost.entry(*id).or_default().push(*recipient);
        }
        // Twice: an entry may change its place against the order in which they are looked at, but hardly two times.
        for _ in 0..2 {
            self.keep_missing(&mut lost);
        }
        let report = Arc::new(report(panic));
        let (mut blamed, mut later, mut suspects) = (Vec::new(), Vec::new(), Vec::new());
        let wall = self.clock.wall();
        for (id, recipients) in lost {
            let pending = self.spool.pending(id);
            let envelope = match self.spool.envelope(id) {
                Ok(envelope) => envelope,
                Err(error) => {
                    tracing::error!(message_id = %id, %error, "left to the next start after a panic");
                    continue;
                }
            };
            let is_blamed = blame == Blame::Certain || self.walls.is_suspect(id, &recipients);
            let flow = self.flow_of(&envelope);
            for pending in pending.iter().filter(|pending| recipients.contains(&pending.recipient)) {
                let Some(mut entry) = self.entry_of(id, &envelope, &flow, pending) else { continue };
                if let Some(address) = pending.in_doubt {
                    self.doubts.insert(id, pending.recipient, address);
                }
                if is_blamed {
                    blamed.push(entry);
                    continue;
                }
                suspects.push((id, pending.recipient));
                // Each in a second of its own: what it is tried with then is not what it was tried with now.
                let second = u32::try_from(later.len()).unwrap_or(u32::MAX);
                entry.due = wall.plus(PAUSE + Duration::from_secs(u64::from(second)));
                later.push(entry);
            }
        }
        self.walls.acquit(&blamed.iter().map(|entry| (entry.id, entry.recipient)).collect());
        self.walls.suspect(suspects);
        self.hold_for(blamed, &report);
        for entry in later {
            self.timers.schedule(std::iter::once(entry));
        }
    }

    /// Keeps those that are unfinished and in no place of the queue.
    fn keep_missing(&self, keys: &mut BTreeMap<MessageId, Vec<u32>>) {
        keys.retain(|id, recipients| {
            let pending = self.spool.pending(*id);
            recipients.retain(|index| pending.iter().any(|pending| pending.recipient == *index));
            !recipients.is_empty()
        });
        let mut seen = |id: MessageId, index: u32| {
            if let Some(recipients) = keys.get_mut(&id) {
                recipients.retain(|recipient| *recipient != index);
            }
        };
        // In the order in which entries mostly go; a place of many entries is looked through under its lock.
        self.held.for_each(|entry, _| {
            seen(entry.id, entry.recipient);
            true
        });
        for shard in self.timers.shards() {
            shard.for_each(|entry| {
                seen(entry.id, entry.recipient);
                true
            });
        }
        self.domains.for_each(|domain| {
            domain.state.lock().waiting.iter().for_each(|entry| seen(entry.id, entry.recipient));
        });
        for site in self.all_sites() {
            let state = site.state.lock();
            for path in state.paths.iter().flatten() {
                path.ready.iter().for_each(|entry| seen(entry.id, entry.recipient));
                let taken = path.in_hand.iter();
                taken.for_each(|taken| taken.recipients.as_slice().iter().for_each(|index| seen(taken.id, *index)));
            }
        }
        for taken in self.storing.lock().iter() {
            taken.recipients.as_slice().iter().for_each(|index| seen(taken.id, *index));
        }
        keys.retain(|_, recipients| !recipients.is_empty());
    }

    /// A look-up that panicked, as one that failed for now.
    pub fn failed_lookup(&self, panic: &Panic) -> Planned {
        // X.4.3: directory server failure.
        let (status, text) = (Status::new(4, 4, 3), format!("the look-up failed: {panic}").into());
        Err(Arc::new(PlanFailure { status, text, valid_until: self.clock.now() + PAUSE }))
    }

    /// Forgets suspects that are finished.
    pub fn sweep_suspects(&self) {
        let known: Vec<Key> = self.walls.suspects.lock().iter().copied().collect();
        let is_over = |(id, recipient): &Key| !self.spool.pending(*id).iter().any(|left| left.recipient == *recipient);
        self.walls.acquit(&known.into_iter().filter(is_over).collect());
    }
}

impl Site {
    /// There was a panic in one of its alarms, or when a connection left: what it was about to do is done later.
    pub fn revive(self: &Arc<Self>, engine: &Arc<Engine>, now: Instant) {
        let mut out = Outbox::default();
        {
            let mut state = self.state.lock();
            (state.rate_alarm, state.opening_alarm, state.wake) = (None, None, None);
            for place in 0..u32::try_from(state.paths.len()).unwrap_or(u32::MAX) {
                let Some(path) = state.path(place) else { continue };
                (path.has_growth_alarm, path.purse_alarm) = (false, None);
                state.arm(now + PAUSE, place, Alarm::BackOff, &mut out);
            }
        }
        out.flush(engine, self);
    }
}

/// What held recipients are shown with.
fn report(panic: &Panic) -> Report {
    Report::local(Phase::Queue, Status::new(4, 3, 0), panic.to_string())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock::{Clock, UnixTime};
    use crate::dns::{self, Planner};
    use crate::log::simulated::Simulated;
    use crate::message::{Content, Envelope, Recipient};
    use crate::queue::settings::Settings;
    use crate::smtp::address::ReversePath;
    use crate::spool::{self, Attempts, NewMessage, Spool};

    async fn engine() -> Arc<Engine> {
        let (clock, registry) = (Clock::system(), Registry::new().unwrap());
        let settings = spool::Settings {
            path: "unused".into(),
            segment_size: 1 << 20,
            reserve: 0,
            sync: true,
            attempts: Attempts::Write,
            deadline: Duration::from_secs(60),
            cache: 0,
            keys: spool::Keys::default(),
        };
        let storage = Arc::new(Simulated::new(1));
        let (spool, _) = Spool::open(settings, storage.clone(), clock, &registry).unwrap();
        let orders = crate::state::Orders::open(storage, clock.wall()).unwrap();
        let resolvers = vec!["127.0.0.1:9".parse().unwrap()];
        let planner = Planner::new(dns::Settings { resolvers, ..Default::default() }, clock, &registry).unwrap();
        Arc::new(Engine::new(Settings::default(), spool, orders, Arc::new(planner), clock, &registry))
    }

    /// A message to so many recipients that the spool has, and the queue has lost.
    async fn lose(engine: &Arc<Engine>, recipients: usize) -> MessageId {
        let id = engine.spool.next_id();
        let recipient = Recipient::new("a@x.test".parse().unwrap());
        let envelope = Arc::new(Envelope {
            tenant: "t".into(),
            ..Envelope::new(ReversePath::Null, vec![recipient; recipients], engine.clock.wall())
        });
        let content = Content::Memory(Bytes::from_static(b"\r\n"));
        let message = NewMessage { id, envelope, content, ended_at: engine.clock.now() };
        engine.spool.accept(message).await.unwrap();
        id
    }

    fn panic() -> Panic {
        Bulkhead::default().call(|| panic!("a bug")).map(|()| 0).unwrap_err()
    }

    fn held(engine: &Engine) -> Vec<Key> {
        let mut keys = Vec::new();
        engine.held.for_each(|entry, hold| {
            assert_eq!(hold, Hold::Damaged);
            assert_eq!(engine.replies.of(entry).unwrap().reply.text, "panic: a bug".into());
            keys.push((entry.id, entry.recipient));
            true
        });
        keys
    }

    fn scheduled(engine: &Engine) -> Vec<(Key, UnixTime)> {
        let mut found = Vec::new();
        for shard in engine.timers.shards() {
            shard.for_each(|entry| {
                found.push(((entry.id, entry.recipient), entry.due));
                true
            });
        }
        found.sort_unstable_by_key(|(_, due)| *due);
        found
    }

    #[tokio::test]
    async fn what_was_lost_in_a_panic_over_one_message_is_held_and_the_rest_of_it_is_left_alone() {
        let engine = engine().await;
        let id = lose(&engine, 3).await;
        let envelope = engine.spool.envelope(id).unwrap();
        let pending = engine.spool.pending(id);
        // One is where it belongs, one is finished.
        let entry = engine.entry_of(id, &envelope, &engine.flow_of(&envelope), &pending[1]).unwrap();
        engine.timers.schedule(std::iter::once(entry));
        engine.spool.record(id, &[spool::RecipientEvent { recipient: 2, event: spool::Event::Delivered }]);

        engine.salvage((0..3).map(|index| (id, index)).collect(), Blame::Certain, panic());

        assert_eq!(held(&engine), [(id, 0)]);
        assert_eq!(scheduled(&engine).iter().map(|(key, _)| *key).collect::<Vec<_>>(), [(id, 1)]);
        assert_eq!(engine.in_flight.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn of_many_messages_each_is_tried_alone_and_held_when_it_panics_again() {
        let engine = engine().await;
        let (one, two) = (lose(&engine, 1).await, lose(&engine, 1).await);
        let before = engine.clock.wall();

        engine.salvage(vec![(one, 0), (two, 0)], Blame::Shared, panic());

        assert_eq!(held(&engine), []);
        let later = scheduled(&engine);
        assert_eq!(later.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [(one, 0), (two, 0)]);
        assert!(later[0].1 >= before.plus(PAUSE) && later[1].1 > later[0].1, "{later:?}");
        for shard in engine.timers.shards() {
            shard.extract(|_| true, &mut Vec::new());
        }
        engine.salvage(vec![(two, 0)], Blame::Shared, panic());
        assert_eq!(held(&engine), [(two, 0)]);
        assert_eq!(*engine.walls.suspects.lock(), [(one, 0)].into());
        engine.spool.record(one, &[spool::RecipientEvent { recipient: 0, event: spool::Event::Delivered }]);
        engine.sweep_suspects();
        assert!(engine.walls.suspects.lock().is_empty());
    }
}

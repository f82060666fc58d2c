//! What a spool must still know, whatever happened to it: a random load and a checker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hikyaku::log::simulated::{Random, Simulated};
use hikyaku::message::MessageId;
use hikyaku::spool::{AcceptError, Event, Keys, LoadError, Recovered, Recovery, RecoveryReport, Settings, Spool};

use super::common::{content, deferred, delivered, envelope, keys, message, octets, recover, settings, try_open};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The client has its 250.
    Accepted,
    /// The client does not know.
    Unknown,
    /// The client was told that it was not accepted, or an earlier recovery did not raise it.
    Gone,
}

#[derive(Clone, Debug)]
pub struct Known {
    pub state: State,
    recipients: u32,
    length: usize,
    /// Recipients with a final event that a crash may undo.
    finished: BTreeSet<u32>,
    /// Recipients whose final event is durable.
    surely_finished: BTreeSet<u32>,
    /// Attempts that recipients may be found with.
    attempts: BTreeMap<u32, BTreeSet<u16>>,
}

impl Known {
    fn is_over(&self) -> bool {
        (0..self.recipients).all(|recipient| self.is_finished(recipient))
    }

    fn is_finished(&self, recipient: u32) -> bool {
        self.finished.contains(&recipient) || self.surely_finished.contains(&recipient)
    }
}

/// All messages that were ever submitted.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub messages: BTreeMap<MessageId, Known>,
    /// Each life has other keys, or none to write with.
    pub has_keys: bool,
}

pub fn small_segments() -> Settings {
    Settings { segment_size: 256 << 10, ..settings() }
}

impl Model {
    fn submit(&mut self, id: MessageId, recipients: u32, length: usize, result: Result<(), AcceptError>) {
        let state = match result {
            Ok(()) => State::Accepted,
            Err(AcceptError::Unknown) => State::Unknown,
            Err(AcceptError::Aborted | AcceptError::Full | AcceptError::Closed) => State::Gone,
        };
        let (finished, surely_finished, attempts) = Default::default();
        self.messages.insert(id, Known { state, recipients, length, finished, surely_finished, attempts });
    }

    /// Random operations until `count` are done or nothing can be accepted any more.
    pub async fn load(&mut self, spool: &Spool, random: &mut Random, count: u64) {
        for _ in 0..count {
            match random.below(12) {
                0..=3 => self.accept(spool, random).await,
                4..=7 => self.record(spool, random),
                8 => self.attempt(spool, random).await,
                9 => self.conclude(spool, random).await,
                10 => {
                    let spool = spool.clone();
                    tokio::task::spawn_blocking(move || spool.keep_house()).await.unwrap();
                }
                _ => self.read(spool, random),
            }
            if spool.health() == Err(AcceptError::Closed) {
                return;
            }
        }
    }

    async fn accept(&mut self, spool: &Spool, random: &mut Random) {
        let mut waiting = Vec::new();
        for _ in 0..=random.below(6) {
            let id = spool.next_id();
            let recipients = if random.below(3) == 0 { 1 + random.below(4) } else { 1 } as u32;
            let length = match random.below(20) {
                0 => 60_000 + random.below(40_000) as usize,
                1 => 270_000,
                _ => random.below(3000) as usize,
            };
            let spool = spool.clone();
            let task = tokio::spawn(async move { spool.accept(message(id, recipients as usize, length)).await });
            waiting.push((id, recipients, length, task));
        }
        for (id, recipients, length, task) in waiting {
            let result = task.await.unwrap();
            self.submit(id, recipients, length, result);
        }
    }

    fn pick(&self, random: &mut Random) -> Option<(MessageId, u32)> {
        let open: Vec<_> =
            self.messages.iter().filter(|(_, known)| known.state == State::Accepted && !known.is_over()).collect();
        let (id, known) = open.get(random.below(open.len().max(1) as u64) as usize)?;
        let left: Vec<_> = (0..known.recipients).filter(|recipient| !known.is_finished(*recipient)).collect();
        Some((**id, left[random.below(left.len() as u64) as usize]))
    }

    fn record(&mut self, spool: &Spool, random: &mut Random) {
        let Some((id, recipient)) = self.pick(random) else { return };
        let known = self.messages.get_mut(&id).unwrap();
        if random.below(4) == 0 {
            let attempts = random.below(50) as u16 + 1;
            known.attempts.entry(recipient).or_default().insert(attempts);
            spool.record(id, &[deferred(recipient, attempts)]);
        } else {
            known.finished.insert(recipient);
            spool.record(id, &[delivered(recipient)]);
        }
    }

    async fn attempt(&mut self, spool: &Spool, random: &mut Random) {
        let Some((id, recipient)) = self.pick(random) else { return };
        let _ = spool.attempt(id, &[recipient], "127.0.0.1:25".parse().unwrap()).await;
    }

    async fn conclude(&mut self, spool: &Spool, random: &mut Random) {
        let Some((id, recipient)) = self.pick(random) else { return };
        let dsn = spool.next_id();
        let mut event = delivered(recipient);
        event.event = Event::Bounced;
        let result = spool.conclude(id, &[event], message(dsn, 1, 500)).await;
        let known = self.messages.get_mut(&id).unwrap();
        match result {
            Ok(()) => known.surely_finished.insert(recipient),
            // The record may be on disk.
            Err(_) => known.finished.insert(recipient),
        };
        let state = result.map_err(|_| AcceptError::Unknown);
        self.submit(dsn, 1, 500, state);
    }

    fn read(&self, spool: &Spool, random: &mut Random) {
        let Some((id, _)) = self.pick(random) else { return };
        let loaded = match spool.load(id) {
            Err(LoadError::Io(_)) => return,
            loaded => loaded.unwrap(),
        };
        assert_eq!(octets(&loaded.content), content(id, self.messages[&id].length));
    }

    /// Compares what recovery raised with what must and may be there, and takes it as the truth from now on.
    pub fn check(&mut self, spool: &Spool, found: &[Recovered]) {
        let mut raised = BTreeSet::new();
        for recovered in found {
            let id = recovered.id;
            assert!(raised.insert(id), "{id} was raised twice");
            let known = self.messages.get_mut(&id).unwrap_or_else(|| panic!("{id} is a phantom"));
            assert_ne!(known.state, State::Gone, "{id} was refused or void");
            assert_eq!(recovered.envelope, envelope(known.recipients as usize));
            match spool.load(id) {
                Ok(loaded) => assert_eq!(octets(&loaded.content), content(id, known.length), "content of {id}"),
                // The storage died meanwhile.
                Err(LoadError::Io(_)) => {}
                Err(error) => panic!("{id}: {error}"),
            }
            let pending: BTreeSet<u32> = recovered.pending.iter().map(|pending| pending.recipient).collect();
            for recipient in 0..known.recipients {
                let is_pending = pending.contains(&recipient);
                assert!(is_pending || known.is_finished(recipient), "recipient {recipient} of {id} is lost");
                assert!(!is_pending || !known.surely_finished.contains(&recipient), "{id}: {recipient} came back");
            }
            for pending in &recovered.pending {
                let allowed = known.attempts.entry(pending.recipient).or_default();
                assert!(pending.attempts == 0 || allowed.contains(&pending.attempts), "attempts of {id}");
                *allowed = BTreeSet::from([pending.attempts]);
            }
            known.surely_finished = (0..known.recipients).filter(|recipient| !pending.contains(recipient)).collect();
            known.finished.clear();
            known.state = State::Accepted;
        }
        for (id, known) in &mut self.messages {
            if !raised.contains(id) {
                let is_missing = known.state == State::Accepted && !known.is_over();
                assert!(!is_missing, "{id} was accepted and is lost");
                known.state = State::Gone;
            }
        }
    }
}

pub fn start(storage: &Simulated, keys: Keys) -> Option<(Spool, Recovery)> {
    try_open(Arc::new(storage.clone()), Settings { keys, ..small_segments() }).ok()
}

/// Raises at once what can be read: a dead storage does not come back.
fn raise(recovery: Recovery) -> (Vec<Recovered>, RecoveryReport) {
    recover(recovery.with_waits(&[]))
}

/// One life of a spool: recovery, check, load. The storage may die at any moment of it.
pub fn live(model: &mut Model, storage: &Simulated, random: &mut Random, count: u64, orderly: bool) {
    let keys = match model.has_keys.then(|| random.below(4)) {
        None => Keys::default(),
        Some(0) => keys(&[1, 2], false),
        Some(1) => keys(&[2, 1], true),
        Some(_) => keys(&[1, 2], true),
    };
    let Some((spool, recovery)) = start(storage, keys) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Half of the loads begin before recovery is over, as in the daemon; their messages are not in its way.
    let early = random.below(2) == 0;
    if early {
        let mut fresh = Model::default();
        runtime.block_on(fresh.load(&spool, random, count / 4));
        let Some((found, _)) = raise_dead(recovery, storage) else {
            return model.messages.append(&mut fresh.messages);
        };
        model.check(&spool, &found);
        model.messages.append(&mut fresh.messages);
    } else {
        let Some((found, _)) = raise_dead(recovery, storage) else { return };
        model.check(&spool, &found);
    }
    runtime.block_on(model.load(&spool, random, count));
    if orderly {
        spool.close_blocking();
    }
}

/// Runs recovery; nothing if the storage died under it, because then it may have raised a part.
fn raise_dead(recovery: Recovery, storage: &Simulated) -> Option<(Vec<Recovered>, RecoveryReport)> {
    let (found, report) = raise(recovery);
    if storage.is_dead() {
        return None;
    }
    assert_eq!(report.unread, 0);
    Some((found, report))
}

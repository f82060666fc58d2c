//! Notices: a DSN is made, stored together with the outcomes that it reports, and put into the queue.
//!
//! Done in a task of its own, so that no connection waits for a sync. Until the spool has both, the recipients count as
//! unfinished and in flight; a crash leaves them as they were. The null reverse-path never gets here ([`Marks::of`]).

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::bounce::dsn::{self, Action, Request};
use crate::dkim::Signatures;
use crate::journal::{self, Subject};
use crate::message::{
    BodyType, Content, ContentTraits, Envelope, Kind, Lane, Message, MessageId, Notify, Recipient, Report, TlsWish,
};
use crate::panics::Panic;
use crate::smtp::address::ReversePath;
use crate::spool::{AcceptError, Event, LoadError, NewMessage, RecipientEvent};

use super::engine::Engine;
use super::entry::{Entry, Marks};
use super::held::Hold;
use super::in_hand::Taken;
use super::passage::Passage;
use super::salvage::{Blame, Key};
use super::settle::deferral;

/// Waits between attempts to make and store a DSN.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Recipients of one message that share a DSN.
#[derive(Debug)]
pub(super) struct Notice {
    pub id: MessageId,
    pub action: Action,
    /// With the event that is stored beside the DSN, and the attempt that it rests on.
    pub subjects: Vec<(Entry, Event, Report)>,
}

/// Why there is no DSN.
enum Failure {
    /// It cannot be made: the reported message is gone, or must not be reported.
    Unmade(String),
    /// It cannot be made: even the envelope of the reported message is damaged.
    Damaged,
    /// It cannot be made: making it panics.
    Panicked(Panic),
    /// It may be made and stored later: the message cannot be read now, the disk is full, or a sync has failed.
    Later(String),
    /// The spool is closed; it still has the recipients as they were before the attempt.
    Closed,
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Unknown => Self::Unmade(error.to_string()),
            LoadError::Damaged => Self::Damaged,
            LoadError::Io(_) => Self::Later(error.to_string()),
        }
    }
}

impl From<AcceptError> for Failure {
    fn from(error: AcceptError) -> Self {
        match error {
            AcceptError::Closed => Self::Closed,
            AcceptError::Full | AcceptError::Aborted | AcceptError::Unknown => Self::Later(error.to_string()),
        }
    }
}

impl Notice {
    /// Does it in a task.
    pub fn begin(self, engine: &Arc<Engine>) {
        let Some(handle) = engine.handle() else {
            // Nothing was started, so nothing was tried; only an expiry can get here, and it comes again.
            engine.timers.schedule(self.subjects.into_iter().map(|(entry, _, _)| entry));
            return;
        };
        let outing = engine.outings.begin();
        engine.in_flight.fetch_add(1, Ordering::Relaxed);
        let recipients = self.subjects.iter().map(|(entry, ..)| entry.recipient).collect();
        let taken = engine.storing.lock().insert(Taken { id: self.id, recipients, since: engine.clock.now() });
        let engine = engine.clone();
        let tasks = engine.tasks.clone();
        tasks.spawn_on(
            async move {
                let _outing = outing;
                let keys: Vec<Key> = self.subjects.iter().map(|(entry, ..)| (self.id, entry.recipient)).collect();
                let ended = engine.walls.notices.run(self.run(engine.clone())).await;
                engine.storing.lock().remove(taken);
                if let Err(panic) = ended {
                    engine.salvage(keys, Blame::Certain, panic);
                }
                engine.in_flight.fetch_sub(1, Ordering::AcqRel);
            },
            handle,
        );
    }

    async fn run(self, engine: Arc<Engine>) {
        let engine = &engine;
        let events: Vec<RecipientEvent> = self
            .subjects
            .iter()
            .map(|(entry, event, _)| RecipientEvent { recipient: entry.recipient, event: event.clone() })
            .collect();
        let this = Arc::new(self);
        let mut wait = FIRST_WAIT;
        let is_reported = loop {
            let attempted = {
                // Not kept while it waits: messages that cannot be read must not hold up the DSNs of others.
                let Ok(_turn) = engine.notices.acquire().await else { return };
                Self::attempt(&this, engine, &events).await
            };
            match attempted {
                Ok(()) => break true,
                Err(Failure::Unmade(error)) => {
                    tracing::error!(message_id = %this.id, action = ?this.action, %error, "no DSN can be made");
                    break false;
                }
                Err(Failure::Damaged) if this.action == Action::Failed => {
                    // Nobody can be told, so the message must not go either.
                    if let Ok(this) = Arc::try_unwrap(this) {
                        engine.hold(this.subjects.into_iter().map(|(entry, _, _)| entry).collect(), Hold::Damaged);
                    }
                    return;
                }
                Err(Failure::Panicked(panic)) if this.action == Action::Failed => {
                    if let Ok(this) = Arc::try_unwrap(this) {
                        let entries = this.subjects.into_iter().map(|(entry, _, _)| entry).collect();
                        engine.hold_panicked(entries, &panic);
                    }
                    return;
                }
                Err(Failure::Damaged | Failure::Panicked(_)) => break false,
                Err(Failure::Closed) => return engine.has_left_notices.store(true, Ordering::Release),
                Err(Failure::Later(error)) => {
                    tracing::warn!(message_id = %this.id, action = ?this.action, %error, "a DSN is not stored yet");
                    tokio::select! {
                        () = tokio::time::sleep(wait) => wait = (wait * 2).min(LONGEST_WAIT),
                        // The spool still has the recipients as they were before the attempt.
                        () = engine.stopped.cancelled() => {
                            return engine.has_left_notices.store(true, Ordering::Release);
                        }
                    }
                }
            }
        };
        if let Ok(this) = Arc::try_unwrap(this) {
            this.end(engine, is_reported, &events);
        }
    }

    /// Makes and stores the DSN once.
    async fn attempt(this: &Arc<Self>, engine: &Arc<Engine>, events: &[RecipientEvent]) -> Result<(), Failure> {
        let (message, reported, signatures, _arrival) = {
            let (this, engine) = (this.clone(), engine.clone());
            let wall = engine.walls.notices.clone();
            let made = tokio::task::spawn_blocking(move || wall.call(|| this.make(&engine))).await;
            made.map_err(|error| Failure::Later(error.to_string()))?.map_err(Failure::Panicked)??
        };
        let (id, envelope, size) = (message.id, message.envelope.clone(), message.content.len());
        engine.spool.conclude(this.id, events, message).await?;
        engine.meters.dsn(this.action).increment(1);
        this.tell(engine, &reported, id);
        engine.tell_received(id, &envelope, size, None, None, signatures.as_str());
        engine.put(id, &envelope);
        Ok(())
    }

    /// Tells the journal that `dsn` was stored.
    fn tell(&self, engine: &Engine, reported: &Envelope, dsn: MessageId) {
        let action = match self.action {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Relayed => "relayed",
        };
        for (entry, ..) in &self.subjects {
            let site = entry.domain.site();
            let subject =
                Subject { id: self.id, envelope: Some(reported), recipient: entry.recipient, site: site.as_deref() };
            engine.journal.tell(&journal::Event::DsnSent { subject, action, dsn });
        }
    }

    /// The recipients go on, or are finished.
    fn end(self, engine: &Arc<Engine>, is_reported: bool, events: &[RecipientEvent]) {
        let Self { id, action, subjects } = self;
        let entries = subjects.into_iter().map(|(entry, _, _)| entry);
        if action == Action::Delayed {
            let later: Vec<Entry> = entries
                .map(|mut entry| {
                    // Also when it could not be made: trying again with each attempt would fail in the same way.
                    entry.marks = entry.marks.with(Marks::DELAY_REPORTED, true);
                    entry
                })
                .collect();
            if !is_reported {
                let kept = later
                    .iter()
                    .map(|entry| RecipientEvent { recipient: entry.recipient, event: deferral(entry, true) });
                engine.spool.record(id, &kept.collect::<Vec<_>>());
            }
            return engine.schedule_spared(later);
        }
        if !is_reported {
            engine.spool.record(id, events);
        }
        for entry in entries {
            engine.replies.forget(&entry);
            engine.count_out(&entry.flow, 1);
        }
    }

    /// The DSN as a message that arrives, and the envelope of what it reports. Reads the reported message: blocks.
    fn make(&self, engine: &Engine) -> Result<(NewMessage, Arc<Envelope>, Signatures, Passage), Failure> {
        let (reported, content) = match engine.spool.load(self.id) {
            Ok(Message { envelope, content, .. }) => (envelope, Some(content)),
            // The sender learns of it all the same, as long as it is known who that is.
            Err(LoadError::Damaged) => (engine.spool.envelope(self.id)?, None),
            Err(error) => return Err(error.into()),
        };
        let ReversePath::Mailbox(to) = &reported.reverse_path else {
            return Err(Failure::Unmade("null reverse-path".to_owned()));
        };
        let subjects: Vec<dsn::Subject<'_>> = self
            .subjects
            .iter()
            .map(|(entry, _, report)| dsn::Subject { recipient: entry.recipient, action: self.action, report })
            .collect();
        let settings = engine.settings();
        let end = settings.retry.end(reported.accepted_at);
        let request = Request {
            id: self.id,
            envelope: &reported,
            content: content.as_ref(),
            subjects: &subjects,
            reporting_mta: &settings.hostname,
            now: engine.clock.wall(),
            will_retry_until: (self.action == Action::Delayed).then_some(end),
        };
        let content = dsn::generate(&request).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => Failure::Unmade(error.to_string()),
            _ => Failure::Later(error.to_string()),
        })?;
        let (content, signatures) = match &engine.signer {
            Some(signer) => {
                signer.sign_own(content, engine.clock.wall()).map_err(|error| Failure::Later(error.to_string()))?
            }
            None => (content, Signatures::Off),
        };
        let recipient = Recipient { forward_path: to.clone(), notify: Notify::NEVER, orcpt: None };
        let envelope = Envelope {
            reverse_path: ReversePath::Null,
            recipients: vec![recipient],
            accepted_at: engine.clock.wall(),
            tenant: reported.tenant.clone(),
            campaign: Box::default(),
            class: Box::default(),
            lane: Lane::Normal,
            body: body_type(&content),
            smtputf8: !to.as_str().is_ascii(),
            traits: traits(&content),
            ret: None,
            envid: None,
            // RFC 8689, 5: it tells as much as the message that it is about.
            tls: if reported.tls == TlsWish::Required { TlsWish::Required } else { TlsWish::Unsaid },
            kind: Kind::Dsn,
        };
        let arrival = engine.arrivals.begin();
        let message = NewMessage {
            id: engine.spool.next_id(),
            envelope: Arc::new(envelope),
            content: Content::Memory(content),
            ended_at: engine.clock.now(),
        };
        Ok((message, reported, signatures, arrival))
    }
}

fn body_type(content: &[u8]) -> BodyType {
    if content.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime }
}

fn traits(content: &[u8]) -> ContentTraits {
    let end = memchr::memmem::find(content, b"\r\n\r\n").unwrap_or(content.len());
    let header = content.get(..end).unwrap_or(content);
    ContentTraits { has_eight_bit: !content.is_ascii(), has_eight_bit_header: !header.is_ascii() }
}

//! One submission connection: the socket, the clock and the spool around a [`Session`].
//!
//! Input is read into one buffer and used from there; replies leave in one write when there is nothing more to read. A timer
//! is kept for the whole session and only set again when it fires too early. Deadlines: a command, or the next piece of
//! content, within [`Settings::timeout`]; content at [`Settings::min_data_rate`] on average, chunks and the waits between
//! them together. At a stop, content that is
//! coming in has [`Settings::stop_grace`] to end. The message whose end of data has come is stored whatever the client or a
//! SIGTERM does meanwhile.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::admit::{Admitted, Context, admit};
use super::intake::Intake;
use super::refusal::{self, Cause, Refusal};
use super::session::{Gate, LINE_MOST, Offer, Session, Step};
use super::spill::Spill;
use super::wire::Wire;
use super::{Services, Settings, sign};
use crate::message::{Content, Lane};
use crate::queue::Reservation;
use crate::smtp::address::{Address, ReversePath};
use crate::spool::NewMessage;
use crate::unsubscribe::Unsubscribe;
use crate::users::sasl::Mechanism;
use crate::users::{Denial, Taken, User, Users};

/// Octets read at once: a message of 10 KB with its envelope comes in one read. Pages not touched cost nothing.
const READ_MOST: usize = 32 * 1024;
/// How long a client that was told to go may leave our last reply unread; at a stop only as long as the drain has left.
const LINGER: Duration = Duration::from_secs(5);

/// A connection before and while it runs.
pub(super) struct Connection {
    wire: Wire,
    session: Session,
    outside: Outside,
    input: Vec<u8>,
    used: usize,
    spill: Option<Spill>,
    pace: Pace,
}

/// What the session's [`Gate`] asks.
struct Outside {
    services: Services,
    settings: Arc<Settings>,
    intake: Arc<Intake>,
    client: IpAddr,
    /// Whose transaction is open.
    user: Option<Arc<User>>,
}

/// When the client must have sent what.
struct Pace {
    /// Since when a command, or a piece of content, is awaited.
    waiting_since: Instant,
    /// When the content that is coming in began, and which one of the session it is.
    content_since: Option<(u64, Instant)>,
    /// When content must have ended because we are stopping.
    stop_at: Option<Instant>,
}

/// The connection is over; there is nobody to tell.
struct Gone;

impl Gate for Outside {
    fn mail(&mut self) -> Result<(), Refusal> {
        if let Err(error) = self.services.spool.health() {
            return Err(refusal::of_spool(error).unwrap_or(refusal::STORAGE_CLOSED));
        }
        self.user = None;
        self.intake.message(self.client)
    }

    fn users(&self) -> Option<&Users> {
        self.services.users.as_ref().filter(|users| users.is_configured())
    }

    fn nonce(&mut self) -> Option<[u8; 18]> {
        let mut nonce = [0; 18];
        aws_lc_rs::rand::fill(&mut nonce).is_ok().then_some(nonce)
    }

    fn authorize(&mut self, user: &Arc<User>, path: &ReversePath) -> Result<Arc<User>, Refusal> {
        let users = self.users().ok_or(refusal::USER_GONE)?;
        let now = users.current(&user.name).filter(|now| now.is_proved_as(user));
        let user = now.ok_or(refusal::USER_GONE)?;
        if let ReversePath::Mailbox(address) = path
            && !users.may_send_from(&user, Some(address), "reverse-path")
        {
            return Err(refusal::SENDER_DENIED);
        }
        users.allowances().message(&user).map_err(refusal::of_spent)?;
        self.user = Some(Arc::clone(&user));
        Ok(user)
    }

    fn malformed(&mut self, mechanism: Mechanism) {
        if let Some(users) = self.users() {
            users.malformed(mechanism);
        }
    }

    fn rcpt(&mut self, offer: &Offer<'_>) -> Result<(), Refusal> {
        if self.settings.takes_returns {
            return self.returned(offer.forward_path);
        }
        self.room(offer.recipients)?;
        self.gets_mail(offer)
    }

    fn count(&mut self, cause: Cause) {
        self.services.metrics.count(cause);
    }
}

impl Outside {
    /// Whether the tenant's share of the queue has room for so many.
    fn room(&self, recipients: usize) -> Result<(), Refusal> {
        let queue = &self.services.queue;
        if let (Some(user), Some(users)) = (&self.user, self.users()) {
            users.allowances().has_room(user, recipients).map_err(refusal::of_spent)?;
            return queue.room(&user.tenant, recipients).map_err(refusal::of_queue);
        }
        // A trusted header may name another tenant than the listener's; admission knows which.
        let room = match self.settings.trust_headers {
            true => queue.room_in_all(recipients),
            false => queue.room(&self.settings.tenant, recipients),
        };
        room.map_err(refusal::of_queue)
    }

    /// Whether a recipient may be sent to, as far as is known before the header section; where clients are not told, all may.
    fn gets_mail(&self, offer: &Offer<'_>) -> Result<(), Refusal> {
        let Some(feedback) = self.services.feedback.as_ref().filter(|feedback| feedback.tells()) else { return Ok(()) };
        // What a trusted header says is known later: until then it may be anybody's mail, and urgent.
        let tenant = match &self.user {
            Some(user) => &*user.tenant,
            None if self.settings.trust_headers => "",
            None => &*self.settings.tenant,
        };
        let lane = if self.settings.trust_headers { Lane::Urgent } else { offer.lane };
        let (from, to) = (offer.reverse_path, offer.forward_path);
        match feedback.rejected((tenant, lane), from, to, self.client) {
            Some(suppressed) => Err(refusal::of_suppressed(suppressed.reason)),
            None => Ok(()),
        }
    }

    /// Whether an address is one that what comes back may come to.
    fn returned(&self, address: &Address) -> Result<(), Refusal> {
        let feedback = self.services.feedback.as_ref().ok_or(refusal::NOT_RETURNED)?;
        feedback.place(address, self.services.clock.wall()).map(drop).map_err(refusal::of_place)
    }
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        client: IpAddr,
        settings: Arc<Settings>,
        services: Services,
        intake: Arc<Intake>,
    ) -> Self {
        let hostname = Arc::clone(&services.hostname);
        let now = services.clock.now();
        let mut outside = Outside { services, settings: Arc::clone(&settings), intake, client, user: None };
        let session = Session::new(settings, hostname, client, &mut outside);
        let pace = Pace { waiting_since: now, content_since: None, stop_at: None };
        Self { wire: Wire::Clear(stream), session, outside, input: Vec::new(), used: 0, spill: None, pace }
    }

    /// What it shares with the other sessions.
    pub(super) fn services(&self) -> &Services {
        &self.outside.services
    }

    /// Runs the session to its end.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        self.outside.services.metrics.sessions_total.increment(1);
        self.outside.services.metrics.sessions.increment(1.0);
        let timer = tokio::time::sleep(self.outside.settings.timeout);
        tokio::pin!(timer);
        let stopped = stop.cancelled_owned();
        tokio::pin!(stopped);
        let begun = match self.outside.settings.is_implicit_tls() {
            true => self.secure(stopped.as_mut()).await,
            false => Ok(()),
        };
        if begun.is_ok() {
            let _ = self.converse(timer.as_mut(), stopped.as_mut()).await;
        }
        self.outside.services.metrics.sessions.decrement(1.0);
    }

    async fn converse(
        &mut self,
        mut timer: std::pin::Pin<&mut Sleep>,
        mut stopped: std::pin::Pin<&mut WaitForCancellationFutureOwned>,
    ) -> Result<(), Gone> {
        loop {
            let input = self.input.get(self.used..).unwrap_or_default();
            let (used, step) = self.session.advance(input, &mut self.outside);
            self.used += used;
            if used > 0 {
                self.pace.waiting_since = self.outside.services.clock.now();
            }
            match step {
                Step::Store => self.store().await?,
                Step::Secure => {
                    self.flush().await?;
                    // RFC 3207, 4.2, and CVE-2011-0411: what came before the handshake is not taken for what came under it.
                    self.input.clear();
                    self.used = 0;
                    self.secure(stopped.as_mut()).await?;
                }
                Step::Verify => self.verify().await,
                Step::Write => self.flush().await?,
                Step::Read => {
                    self.drain().await;
                    self.flush().await?;
                    self.read(timer.as_mut(), stopped.as_mut()).await?;
                }
                Step::Close => return self.end().await,
            }
        }
    }

    /// Has a claim told true or false. The client waits; nothing is read meanwhile.
    async fn verify(&mut self) {
        let verdict = match (self.session.take_claim(), self.outside.users().cloned()) {
            (Some((mechanism, claim)), Some(users)) => users.verify(mechanism, claim, self.outside.client).await,
            _ => Err(Denial::Busy),
        };
        self.session.verified(verdict, &mut self.outside);
        self.pace.waiting_since = self.outside.services.clock.now();
    }

    async fn secure(&mut self, stopped: std::pin::Pin<&mut WaitForCancellationFutureOwned>) -> Result<(), Gone> {
        let acceptor = self.outside.settings.tls.as_ref().map(|tls| Arc::clone(&tls.acceptor)).ok_or(Gone)?;
        let metrics = &self.outside.services.metrics;
        let handshake = tokio::select! {
            handshake = self.wire.secure(&acceptor) => handshake,
            () = stopped => return Err(Gone),
        };
        match handshake {
            Ok(secured) => {
                metrics.count_handshake(Some(secured.version));
                self.session.secured(secured);
                self.pace.waiting_since = self.outside.services.clock.now();
                Ok(())
            }
            Err(error) => {
                metrics.count_handshake(None);
                tracing::debug!(client = %self.outside.client, %error, "TLS handshake failed");
                Err(Gone)
            }
        }
    }

    /// Waits for input, for the end of the client's time or for the end of ours.
    async fn read(
        &mut self,
        mut timer: std::pin::Pin<&mut Sleep>,
        mut stopped: std::pin::Pin<&mut WaitForCancellationFutureOwned>,
    ) -> Result<(), Gone> {
        self.make_room();
        let mut deadline = self.deadline();
        if timer.deadline().into_std() > deadline {
            timer.as_mut().reset(deadline.into());
        }
        loop {
            tokio::select! {
                biased;
                read = self.wire.read(&mut self.input) => return match read {
                    Ok(0) | Err(_) => Err(Gone),
                    Ok(_) => Ok(()),
                },
                () = stopped.as_mut(), if !self.session.is_stopping() => {
                    self.session.stop();
                    if !self.session.is_in_content() {
                        return Ok(());
                    }
                    self.pace.stop_at = Some(self.outside.services.clock.now() + self.outside.settings.stop_grace);
                    deadline = self.deadline();
                    timer.as_mut().reset(deadline.into());
                }
                () = timer.as_mut() => {
                    let now = self.outside.services.clock.now();
                    if now >= deadline {
                        let is_stop = self.pace.stop_at.is_some_and(|at| now >= at);
                        let refusal = if is_stop { refusal::STOPPING } else { refusal::TIMEOUT };
                        self.session.abort(&refusal, &mut self.outside);
                        return Ok(());
                    }
                    timer.as_mut().reset(deadline.into());
                }
            }
        }
    }

    /// Forgets used input, so that a whole read fits.
    fn make_room(&mut self) {
        if self.used == self.input.len() {
            self.input.clear();
        } else {
            self.input.drain(..self.used);
        }
        self.used = 0;
        if self.input.capacity() < READ_MOST {
            self.input.reserve_exact(READ_MOST + LINE_MOST - self.input.len());
        }
    }

    fn deadline(&mut self) -> Instant {
        let deadline = self.deadline_of_client();
        self.pace.stop_at.map_or(deadline, |stop_at| stop_at.min(deadline))
    }

    fn deadline_of_client(&mut self) -> Instant {
        let settings = &self.outside.settings;
        let stalled = self.pace.waiting_since + settings.timeout;
        if !self.session.is_in_content() {
            self.pace.content_since = None;
            return stalled;
        }
        // A pipelining client may begin the next content in the input that ended the last one.
        let number = self.session.contents();
        let since = match self.pace.content_since {
            Some((of, since)) if of == number => since,
            _ => self.pace.waiting_since,
        };
        self.pace.content_since = Some((number, since));
        let Some(rate) = settings.min_data_rate else { return stalled };
        let earned = self.session.content().received() / NonZeroU64::from(rate);
        stalled.min(since + settings.timeout + Duration::from_secs(earned))
    }

    /// Writes the replies in one piece. Usually the socket takes them at once, without a timer.
    async fn flush(&mut self) -> Result<(), Gone> {
        let replies = self.session.replies();
        if replies.is_empty() {
            return Ok(());
        }
        let written = self.wire.try_write(replies);
        if written < replies.len() {
            let rest = replies.get(written..).unwrap_or_default();
            let write = self.wire.write(rest);
            let written = tokio::time::timeout(self.outside.settings.timeout, write).await;
            if !matches!(written, Ok(Ok(()))) {
                return Err(Gone);
            }
        }
        replies.clear();
        Ok(())
    }

    /// Writes the last replies and closes, leaving the client time to read them: closing with unread input would send a
    /// reset that may overtake them.
    async fn end(&mut self) -> Result<(), Gone> {
        self.flush().await?;
        let linger = match self.session.is_stopping() {
            true => LINGER.min(self.outside.settings.stop_grace / 2),
            false => LINGER,
        };
        let _ = tokio::time::timeout(linger, self.wire.shut()).await;
        Ok(())
    }

    /// Moves the body in memory into the spill file when there is too much of it.
    async fn drain(&mut self) {
        if !self.session.content().is_full() {
            return;
        }
        if !self.session.content().is_drained() {
            match Spill::begin(&self.outside.services.spool, sign::is_on(&self.outside.services)).await {
                Ok(spill) => self.spill = Some(spill),
                Err(error) => return self.session.content_mut().refuse(refusal::of_storage(&error)),
            }
        }
        self.write_body().await;
    }

    async fn write_body(&mut self) {
        let body = self.session.content().body().to_vec();
        let written = match &mut self.spill {
            Some(spill) => spill.write(body).await,
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        match written {
            Ok(()) => self.session.content_mut().forget_body(),
            Err(error) => self.session.content_mut().refuse(refusal::of_storage(&error)),
        }
    }

    /// Admits and stores the message that is complete, puts it into the queue and has the session answer.
    async fn store(&mut self) -> Result<(), Gone> {
        let ended_at = self.outside.services.clock.now();
        if self.session.content().is_drained() {
            self.write_body().await;
        }
        if self.outside.settings.takes_returns {
            return self.store_returned(ended_at).await;
        }
        let _arrival = self.outside.services.queue.arrival();
        let body_hash = sign::body_hash(&mut self.spill);
        let result = match self.session.content().refusal() {
            Some(refusal) => Err(refusal),
            None => self.admit(ended_at),
        };
        let result = match result {
            Ok((mut message, room, taken)) => {
                let signed = sign::sign(&self.outside.services, &mut message, body_hash).await;
                signed.map(|signatures| (message, room, taken, signatures))
            }
            Err(refusal) => Err(refusal),
        };
        let (message, room, taken, signatures) = match result {
            Ok(admitted) => admitted,
            Err(refusal) => return self.refused(&refusal),
        };
        let (id, envelope, size) = (message.id, Arc::clone(&message.envelope), message.content.len());
        let services = &self.outside.services;
        match services.spool.accept(message).await {
            Ok(()) => {
                let user = self.session.user().map(|user| &*user.name);
                let client = Some(self.outside.client);
                services.queue.tell_received(id, &envelope, size, client, user, signatures.as_str());
                if let Some(taken) = taken {
                    taken.keep();
                }
                room.put(id, &envelope);
                let metrics = &services.metrics;
                metrics.messages_total.increment(1);
                metrics.recipients_total.increment(envelope.recipients.len() as u64);
                metrics.bytes_total.increment(self.session.content().received());
                metrics.end_of_data_seconds.record(services.clock.now().duration_since(ended_at));
                self.session.accepted(id);
                Ok(())
            }
            Err(error) => self.refused(&refusal::of_spool(error).ok_or(Gone)?),
        }
    }

    /// The message that is complete is not taken.
    fn refused(&mut self, refusal: &Refusal) -> Result<(), Gone> {
        self.spill = None;
        self.session.refused(refusal, &mut self.outside);
        Ok(())
    }

    /// Stores what has come back, and has it read.
    async fn store_returned(&mut self, ended_at: Instant) -> Result<(), Gone> {
        let refusal = self.session.content().refusal();
        let message = match refusal.map_or_else(|| self.message(ended_at), Err) {
            Ok(message) => message,
            Err(refusal) => return self.refused(&refusal),
        };
        let (id, envelope, size) = (message.id, Arc::clone(&message.envelope), message.content.len());
        let services = &self.outside.services;
        if let Err(error) = services.spool.accept(message).await {
            return self.refused(&refusal::of_spool(error).ok_or(Gone)?);
        }
        services.queue.tell_received(id, &envelope, size, Some(self.outside.client), None, "");
        if let Some(feedback) = &services.feedback {
            feedback.received(id);
        }
        services.metrics.returned_total.increment(1);
        self.session.accepted(id);
        Ok(())
    }

    /// The message that is complete, admitted.
    fn message(&mut self, ended_at: Instant) -> Result<NewMessage, Refusal> {
        let transaction = self.session.take_transaction().ok_or(refusal::NO_MAIL)?;
        let services = &self.outside.services;
        let id = services.spool.next_id();
        let content = self.session.content();
        let context = Context::of(&self.session, self.outside.users(), id, services.clock.wall());
        let Admitted { envelope, content, .. } = admit(transaction, content.bytes(), &context)?;
        let content = self.content(content)?;
        Ok(NewMessage { id, envelope: Arc::new(envelope), content, ended_at })
    }

    /// The header section, and what is in the spill file if there is one.
    fn content(&mut self, content: Vec<u8>) -> Result<Content, Refusal> {
        match self.spill.take() {
            None => Ok(Content::Memory(content.into())),
            Some(spill) => spill.content(content.into()).ok_or(refusal::NOT_STORED),
        }
    }

    fn admit(&mut self, ended_at: Instant) -> Result<(NewMessage, Reservation, Option<Taken>), Refusal> {
        let transaction = self.session.take_transaction().ok_or(refusal::NO_MAIL)?;
        let services = &self.outside.services;
        let id = services.spool.next_id();
        if let Some(probe) = &self.outside.settings.probe {
            (probe.0)(id.0);
        }
        let content = self.session.content();
        let links = services.unsubscribe.as_ref().map(Unsubscribe::links);
        let context = Context::of(&self.session, self.outside.users(), id, services.clock.wall());
        let context = context.with_links(links.as_deref());
        let Admitted { envelope, content, link } = admit(transaction, content.bytes(), &context)?;
        let recipients = envelope.recipients.len();
        let take = |(user, users): (&Arc<User>, &Users)| users.allowances().take(user, recipients);
        let taken = context.user.map(take).transpose().map_err(refusal::of_spent)?;
        let room = services.queue.reserve(&envelope.tenant, envelope.recipients.len()).map_err(refusal::of_queue)?;
        if let Some(unsubscribe) = &services.unsubscribe {
            unsubscribe.count(link);
        }
        let content = self.content(content)?;
        Ok((NewMessage { id, envelope: Arc::new(envelope), content, ended_at }, room, taken))
    }
}

//! Carries messages over one open connection: the rim of [`super::session`].
//!
//! A message is begun when the session is idle, or ahead: its commands behind the content of the message before, in one
//! write. What was begun ahead and not answered when the connection ends goes back uncharged, and so it does when the reply
//! to the content before it is slow in coming; so does a message whose connection turns out to have been closed while it
//! was idle. Everything else gets an outcome.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::dial::Opened;
use super::io::Io;
use super::job::Job;
use super::session::{Lost, Session, Settled, Step};
use super::stuffing::Stuffer;
use super::transaction::{Mismatch, Verdict, mismatch, outcome, report};
use super::work::{Ticket, Unreadable, Work};
use crate::message::{Outcome, Phase, Report};
use crate::queue::{Doing, HungUp, Watch};
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// How a connection ended.
pub(super) enum Ending<T> {
    /// Everything was reported or given back.
    Over,
    /// This message wants another MX host: it was in doubt there, or this one cannot take it as it is.
    Elsewhere(T, Option<Mismatch>),
}

/// What happens after a run of transactions.
enum Flow<T> {
    /// The connection may be used for more; a message that could not be begun ahead comes first.
    Idle(Option<Job<T>>),
    /// The connection is of no more use.
    Over,
}

/// Messages under way.
pub(super) struct UnderWay<T> {
    pub(super) current: Option<Job<T>>,
    /// Begun ahead.
    pub(super) next: Option<Job<T>>,
    /// Taken, but not fit to be begun ahead.
    pub(super) held: Option<Job<T>>,
}

/// An open connection.
pub(super) struct Connection<'a> {
    pub(super) shared: &'a Shared,
    pub(super) io: Io,
    pub(super) session: Session,
    pub(super) stuffer: Stuffer,
    /// When the end of data under way left.
    pub(super) left_at: Option<Instant>,
    /// When the transaction under way began.
    began_at: Option<Instant>,
    pub(super) looks_ahead: bool,
    /// How many replies had come when the present wait for one began; none: it begins with the next read.
    pub(super) awaited: Option<u64>,
    /// There is no other MX host to try: what this one cannot take bounces.
    alone: bool,
    /// After how many messages this host ended a session the last time.
    session_limit: Option<u32>,
    /// Where it is noted what it does.
    watch: Option<Arc<Watch>>,
}

impl<'a> Connection<'a> {
    pub(super) fn new(shared: &'a Shared, opened: Opened, alone: bool, watch: Option<Arc<Watch>>) -> Self {
        let Opened { io, session, .. } = opened;
        let looks_ahead = shared.settings.look_ahead && !shared.hosts.closes_in_look_ahead(&session.peer().host);
        let session_limit = shared.hosts.session_limit(&session.peer().host);
        Self {
            shared,
            io,
            session,
            stuffer: Stuffer::default(),
            left_at: None,
            began_at: None,
            looks_ahead,
            awaited: None,
            alone,
            session_limit,
            watch,
        }
    }

    /// Notes for people what it does from now on.
    pub(super) fn note(&self, doing: Doing) {
        if let Some(watch) = &self.watch {
            watch.note(doing, self.shared.clock.now());
        }
    }

    /// Whether the next message may be begun behind the content of the current one.
    pub(super) fn may_look_ahead(&self) -> bool {
        let is_within = |limit| self.session.settled() + 1 < limit;
        self.looks_ahead && self.session.may_look_ahead() && self.session_limit.is_none_or(is_within)
    }

    /// Delivers `first`, then what `work` gives.
    pub(super) async fn converse<W: Work>(mut self, work: &mut W, first: W::Ticket) -> Ending<W::Ticket> {
        let mut next = self.load(work, first).await;
        let mut is_first = true;
        loop {
            let Some(mut job) = next.take() else {
                next = self.take(work).await;
                if next.is_none() {
                    self.quit().await;
                    return Ending::Over;
                }
                continue;
            };
            if !is_first && self.is_doubted_elsewhere(work, &job) {
                self.quit().await;
                return Ending::Elsewhere(job.ticket, None);
            }
            is_first = false;
            if let Some(mismatch) = self.mismatch(&job) {
                if !self.alone {
                    self.quit().await;
                    return Ending::Elsewhere(job.ticket, Some(mismatch));
                }
                self.refuse(&mut job, mismatch);
                if job.is_settled() {
                    self.report(work, job);
                    continue;
                }
            }
            match self.carry(work, job).await {
                Flow::Idle(held) => next = held,
                Flow::Over => return Ending::Over,
            }
        }
    }

    pub(super) fn mismatch<T: Ticket>(&self, job: &Job<T>) -> Option<Mismatch> {
        let length = job.message.content.len();
        mismatch(self.session.extensions(), &job.message.envelope, job.ticket.recipients(), length)
    }

    /// Whether the receiver that may already have the message is another one of the plan's.
    pub(super) fn is_doubted_elsewhere<W: Work>(&self, work: &W, job: &Job<W::Ticket>) -> bool {
        let plan = work.plan();
        job.ticket.in_doubt().filter(|doubt| *doubt != self.session.peer().address).is_some_and(|doubt| {
            doubt.port() == plan.port && plan.hosts.iter().any(|host| host.addresses.contains(&doubt.ip()))
        })
    }

    /// Settles the recipients that `mismatch` keeps from being sent to.
    fn refuse<T: Ticket>(&self, job: &mut Job<T>, mismatch: Mismatch) {
        let (status, text) = match mismatch {
            // RFC 8689, 4.2.1: REQUIRETLS support required.
            Mismatch::RequireTls => (Status::new(5, 7, 30), "the receiver does not support REQUIRETLS"),
            Mismatch::TooLarge => (Status::new(5, 3, 4), "the message is larger than the receiver allows"),
            Mismatch::EightBit => (Status::new(5, 6, 3), "the receiver does not take 8-bit content"),
            Mismatch::Address => (Status::new(5, 6, 7), "the receiver does not take non-ASCII addresses"),
            Mismatch::Header => (Status::new(5, 6, 9), "the receiver does not take non-ASCII header fields"),
        };
        let envelope = Arc::clone(&job.message.envelope);
        let of_path = mismatch == Mismatch::Address && envelope.reverse_path.as_str().is_ascii();
        let recipients: Box<[u32]> = job.ticket.recipients().into();
        for (position, index) in recipients.into_iter().enumerate() {
            let recipient = usize::try_from(index).ok().and_then(|index| envelope.recipients.get(index));
            if of_path && recipient.is_some_and(|recipient| recipient.forward_path.as_str().is_ascii()) {
                continue;
            }
            let reply = Reply::local(status, text);
            let report = report(self.session.peer(), Phase::Mail, reply, self.session.extensions().dsn, false);
            job.settle(position, outcome(Verdict::Bounce, report));
        }
    }

    async fn load<W: Work>(&self, work: &W, ticket: W::Ticket) -> Option<Job<W::Ticket>> {
        load(self.shared, work, ticket).await
    }

    /// The next message: at once if there is one, else within the idle time-out while the receiver stays silent.
    async fn take<W: Work>(&mut self, work: &mut W) -> Option<Job<W::Ticket>> {
        while self.session.may_begin() {
            let ticket = match work.try_take() {
                Some(ticket) => ticket,
                None => self.idle(work).await?,
            };
            if let Some(job) = self.load(work, ticket).await {
                return Some(job);
            }
        }
        None
    }

    /// Waits for work; none as well when the receiver says something or closes, which is when it ends the session.
    async fn idle<W: Work>(&mut self, work: &mut W) -> Option<W::Ticket> {
        self.note(Doing::Idle);
        let ticket = tokio::select! {
            biased;
            ticket = work.take(self.shared.settings.idle) => ticket?,
            () = self.io.spoke() => return None,
        };
        if self.io.has_spoken(self.session.room()).await {
            work.give_back(ticket);
            return None;
        }
        Some(ticket)
    }

    /// Runs transactions from `job` on until nothing is under way.
    async fn carry<W: Work>(&mut self, work: &mut W, job: Job<W::Ticket>) -> Flow<W::Ticket> {
        let mut under_way = UnderWay { current: Some(job), next: None, held: None };
        let mut step = self.session.step();
        loop {
            let mut following = None;
            match step {
                Step::Read => {
                    if let Err(lost) = self.read(work, &mut under_way).await {
                        return self.lost(work, under_way, &lost);
                    }
                }
                Step::Content => match self.send_content(work, &mut under_way).await {
                    Ok(interrupting) => following = interrupting,
                    Err(halt) => return self.halted(work, under_way, halt),
                },
                Step::Settled(mut settled) => {
                    self.watch_end(&mut settled).await;
                    if !self.settled(work, &mut under_way, settled) {
                        return self.abandon(work, under_way);
                    }
                }
                Step::Idle => {
                    if under_way.current.is_none() {
                        return Flow::Idle(under_way.held);
                    }
                    if self.has_ended().await {
                        return self.closed(work, under_way);
                    }
                    if !self.begin(&mut under_way) {
                        return self.abandon(work, under_way);
                    }
                }
                Step::Close => return self.closed(work, under_way),
            }
            step = following.unwrap_or_else(|| self.session.step());
        }
    }

    /// RFC 9422, RCPTMAX.
    pub(super) fn recipients_per_transaction(&self) -> usize {
        let most = self.session.extensions().rcpt_max.and_then(|most| usize::try_from(most).ok());
        most.unwrap_or(usize::MAX)
    }

    /// Whether the receiver has closed, or said anything unasked, where that is worth asking before a transaction: BDAT
    /// goes out with its envelope, and content that has left is in doubt.
    async fn has_ended(&mut self) -> bool {
        self.session.uses_bdat() && self.session.settled() > 0 && self.io.has_spoken(self.session.room()).await
    }

    /// Begins the next transaction of the current message; false when there is none, or no more for this connection.
    fn begin<T: Ticket>(&mut self, under_way: &mut UnderWay<T>) -> bool {
        let most = self.recipients_per_transaction();
        let transaction = under_way.current.as_mut().and_then(|job| job.next_transaction(most));
        let Some(transaction) = transaction.filter(|_| self.session.may_begin()) else {
            return false;
        };
        self.probe(under_way.current.as_ref());
        self.session.begin(transaction);
        self.began_at = Some(self.shared.clock.now());
        self.shared.meters.transactions.increment(1);
        true
    }

    /// A transaction of this message begins.
    pub(super) fn probe<T: Ticket>(&self, job: Option<&Job<T>>) {
        if let (Some(probe), Some(job)) = (&self.shared.settings.probe, job) {
            (probe.0)(job.ticket.id().0);
        }
    }

    /// Waits for octets of the receiver. A message that was begun ahead does not wait out the time-out of the end of data
    /// before it: it goes back, to be delivered over another connection.
    async fn read<W: Work>(&mut self, work: &W, under_way: &mut UnderWay<W::Ticket>) -> Result<(), Lost> {
        let wait = self.shared.settings.timeouts.of(self.session.phase());
        if under_way.next.is_none() {
            return self.exchange(wait).await;
        }
        let patience = self.shared.settings.look_ahead_patience;
        match self.exchange(wait.min(patience)).await {
            Err(Lost::TimedOut) => {}
            result => return result,
        }
        if let Some(job) = under_way.next.take() {
            self.session.forget_next();
            work.give_back(job.ticket);
        }
        self.io.set_deadline(wait.saturating_sub(patience));
        Ok(())
    }

    /// Writes what is to be written and reads once. The wait for a reply begins when it is the next one due: octets that
    /// are no whole reply do not renew it.
    async fn exchange(&mut self, wait: Duration) -> Result<(), Lost> {
        if !self.session.output().is_empty() {
            self.io.set_deadline(wait);
            let mut output = std::mem::take(self.session.output());
            self.io.write(&output, self.session.room()).await?;
            output.clear();
            *self.session.output() = output;
            self.awaited = None;
        }
        let replies = self.session.replies();
        if self.awaited != Some(replies) {
            self.io.set_deadline(wait);
            self.awaited = Some(replies);
            self.note(Doing::Transaction(self.session.phase()));
        }
        self.io.read(self.session.room()).await
    }

    /// Takes over the outcomes of a transaction; false when the connection must be closed.
    fn settled<W: Work>(&mut self, work: &W, under_way: &mut UnderWay<W::Ticket>, settled: Settled) -> bool {
        let now = self.shared.clock.now();
        let left_at = self.left_at.take();
        if let Some(at) = left_at {
            self.shared.meters.reply_seconds.record(now.saturating_duration_since(at));
        }
        if let Some(at) = self.began_at.take() {
            self.shared.meters.transaction_seconds.record(now.saturating_duration_since(at));
        }
        if self.session_limit.is_some_and(|limit| self.session.settled() > limit) {
            self.shared.hosts.exceeded_session_limit(&self.session.peer().host);
            self.session_limit = None;
        }
        let Some(mut job) = under_way.current.take() else {
            return !settled.close;
        };
        job.absorb(settled.outcomes);
        if job.is_settled() {
            self.report(work, job);
        } else {
            under_way.current = Some(job);
        }
        if !settled.close && under_way.current.is_none() {
            under_way.current = under_way.next.take();
            // Its commands left behind that end of data.
            self.began_at = left_at.filter(|_| under_way.current.is_some());
        }
        !settled.close
    }

    /// Ends with the connection in order: unfinished recipients are deferred, the rest goes back.
    fn abandon<W: Work>(&self, work: &W, under_way: UnderWay<W::Ticket>) -> Flow<W::Ticket> {
        if let Some(job) = under_way.current {
            self.report(work, job);
        }
        for job in [under_way.next, under_way.held].into_iter().flatten() {
            work.give_back(job.ticket);
        }
        Flow::Over
    }

    /// The receiver ended the session between transactions.
    fn closed<W: Work>(&self, work: &W, mut under_way: UnderWay<W::Ticket>) -> Flow<W::Ticket> {
        if self.session.settled() > 0 && under_way.current.is_some() {
            self.shared.hosts.ended_session(&self.session.peer().host, self.session.settled());
            work.hung_up(self.session.hung_up());
        }
        if self.session.settled() > 0
            && let Some(job) = under_way.current.take_if(|job| job.is_untouched())
        {
            work.give_back(job.ticket);
        }
        self.abandon(work, under_way)
    }

    fn lost<W: Work>(&mut self, work: &W, mut under_way: UnderWay<W::Ticket>, lost: &Lost) -> Flow<W::Ticket> {
        let is_unanswered = self.session.is_unanswered();
        let begun_ahead = under_way.current.as_ref().is_some_and(|job| job.is_ahead);
        // Where a receiver throttles by a reset, that is the reply, and no sign of a connection that was over before.
        let is_word = self.session.judge().is_throttle(self.session.phase(), lost);
        let is_closed = *lost != Lost::TimedOut && !is_word;
        if is_closed && (under_way.next.is_some() || (is_unanswered && begun_ahead)) {
            self.shared.hosts.closed_in_look_ahead(&self.session.peer().host);
        }
        // On a connection that has worked, FIN or RST instead of any reply means that it was closed before our commands
        // came. Only one such message per connection that has delivered: this cannot go on for ever.
        if is_unanswered && is_closed && self.session.settled() > 0 {
            work.hung_up(HungUp::Silently);
            if let Some(job) = under_way.current.take() {
                work.give_back(job.ticket);
            }
        } else if let Some(mut outcomes) = self.session.lost(lost)
            && let Some(job) = &mut under_way.current
        {
            self.note_end(&mut outcomes, lost);
            job.absorb(outcomes);
        }
        self.abandon(work, under_way)
    }

    fn halted<W: Work>(&mut self, work: &W, mut under_way: UnderWay<W::Ticket>, halt: Halt) -> Flow<W::Ticket> {
        match halt {
            Halt::Lost(lost) => return self.lost(work, under_way, &lost),
            Halt::NotRecorded => {
                if let Some(job) = under_way.current.take() {
                    work.give_back(job.ticket);
                }
            }
            Halt::Unreadable(error) => {
                tracing::error!(error = %error, "content could not be read");
                let lost = Lost::Broken(format!("content could not be read: {error}"));
                return self.lost(work, under_way, &lost);
            }
        }
        self.abandon(work, under_way)
    }

    pub(super) fn report<W: Work>(&self, work: &W, job: Job<W::Ticket>) {
        let (ticket, outcomes) = job.finish();
        self.shared.meters.settled(&outcomes);
        work.report(ticket, outcomes);
    }

    /// Says goodbye; what the receiver answers changes nothing.
    async fn quit(&mut self) {
        self.note(Doing::Closing);
        let wait = self.shared.settings.timeouts.quit;
        self.io.set_deadline(wait);
        let mut room = Vec::new();
        let goodbye = async {
            self.io.write(b"QUIT\r\n", &mut room).await?;
            self.io.read(&mut room).await
        };
        tokio::time::timeout(wait, goodbye).await.ok();
    }
}

/// Why content could not be sent.
pub(super) enum Halt {
    Lost(Lost),
    NotRecorded,
    Unreadable(std::io::Error),
}

/// A message that has just been read, unless nobody is to get it.
fn known<W: Work>(shared: &Shared, work: &W, job: Job<W::Ticket>) -> Option<Job<W::Ticket>> {
    let Some(feedback) = &shared.settings.feedback else { return Some(job) };
    let job = job.with_feedback(feedback);
    if !job.is_settled() {
        return Some(job);
    }
    let (ticket, outcomes) = job.finish();
    work.report(ticket, outcomes);
    None
}

/// The message of a ticket; one that is damaged is held, one that cannot be read now is reported as deferred.
pub(super) async fn load<W: Work>(shared: &Shared, work: &W, ticket: W::Ticket) -> Option<Job<W::Ticket>> {
    match work.load(ticket.id()).await {
        Ok(message) => known(shared, work, Job::new(ticket, message)),
        Err(Unreadable::Damaged) => {
            work.hold_damaged(ticket, None);
            None
        }
        Err(Unreadable::Panicked(panic)) => {
            work.hold_damaged(ticket, Some(&panic));
            None
        }
        Err(Unreadable::Failed(reason)) => {
            tracing::error!(message_id = %ticket.id(), %reason, "message could not be read");
            let report = Report::local(Phase::Queue, Status::new(4, 3, 0), reason);
            let outcomes = vec![Outcome::Deferred(report); ticket.recipients().len()];
            shared.meters.settled(&outcomes);
            work.report(ticket, outcomes);
            None
        }
    }
}

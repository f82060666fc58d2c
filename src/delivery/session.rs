//! The client's side of mail transactions (RFC 5321, 3.3), without I/O: a receiver's octets in; commands and outcomes out.
//!
//! | stage | octets go out | leaves it |
//! |---|---|---|
//! | Idle | none | [`Session::begin`] |
//! | Envelope | MAIL, RCPT..., DATA or BDAT: at once with PIPELINING, else one by one | 354, or every reply, or BDAT is due |
//! | ContentWanted | none | [`Session::begin_content`] |
//! | ContentUnderWay | content, the dot, the commands of the next transaction (look-ahead) | [`Session::content_left`] |
//! | ContentLeft | none | the reply to the end of data |
//! | Resetting | RSET | its reply; a transaction that is refused although it had recipients is settled only then |
//!
//! The rim writes [`Session::output`] and the content, appends what it reads to [`Session::room`] and calls
//! [`Session::step`] until it says `Read`. Every reply is matched to its command (`awaiting`); one too many, a malformed
//! one or an unfitting one ends the connection. Nothing is ever delivered on a doubtful reply.
//!
//! A reply too many moves every later one to the wrong command, and a refused recipient looks like a refused DATA. So
//! nothing bounces by a transaction in which the protocol broke, and the refusal of DATA (or BDAT) counts only when RSET
//! shows that no reply was still to come: an overdue 354 does not answer it.

use std::collections::VecDeque;

use super::judge::Judge;
use super::transaction::{Peer, Transaction, Verdict, report};
use crate::message::{Outcome, Phase};
use crate::queue::HungUp;
use crate::reply::Class;
use crate::smtp::reply::{Extensions, Reader, Received, Reply, Violation};
use crate::smtp::status::Status;

/// Above this a content waits for the replies to RCPT before BDAT: sending it for nobody would cost more than a round trip.
const OPTIMISTIC_BDAT: u64 = 256 * 1024;

/// What the rim has to do next.
#[derive(Debug)]
pub enum Step {
    /// Write the output, if any, then read.
    Read,
    /// Write the output, if any, and the content: see [`Session::begin_content`].
    Content,
    /// The current transaction is over; these are its recipients' outcomes.
    Settled(Settled),
    /// A transaction may begin.
    Idle,
    /// The receiver ended the session between transactions: a message whose MAIL got 421 was not tried.
    Close,
}

/// The end of a transaction.
#[derive(Debug)]
pub struct Settled {
    /// One for each recipient, in order.
    pub outcomes: Vec<Outcome>,
    /// The connection must be closed; a transaction that was begun ahead goes back.
    pub close: bool,
}

/// How a connection was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// FIN.
    Closed,
    /// RST or another error of the network.
    Broken(String),
    /// Silence for longer than RFC 5321, 4.5.3.2 allows.
    TimedOut,
}

impl Lost {
    /// What stands in for the reply: X.4.2, bad connection.
    pub fn reply(&self, phase: Phase) -> Reply {
        let status = Status::new(4, 4, 2);
        let phase = phase.as_str();
        match self {
            Self::Closed => Reply::local(status, format!("connection closed by the receiver ({phase})")),
            Self::Broken(error) => Reply::local(status, format!("connection broken ({phase}): {error}")),
            Self::TimedOut => Reply::local(status, format!("no reply in time ({phase})")),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Mail,
    Rcpt(usize),
    Data,
    EndOfData,
    Rset,
}

impl Command {
    const fn phase(self) -> Phase {
        match self {
            Self::Mail | Self::Rset => Phase::Mail,
            Self::Rcpt(_) => Phase::Rcpt,
            Self::Data => Phase::Data,
            Self::EndOfData => Phase::EndOfData,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    Envelope,
    ContentWanted,
    ContentUnderWay,
    ContentLeft,
    Resetting,
}

/// A session from EHLO on.
#[derive(Debug)]
pub struct Session {
    peer: Peer,
    judge: Judge,
    extensions: Extensions,
    reader: Reader,
    output: Vec<u8>,
    awaiting: VecDeque<Command>,
    stage: Stage,
    current: Option<Transaction>,
    next: Option<Transaction>,
    /// MAIL of the current transaction has been written.
    mail_written: bool,
    /// DATA or BDAT of the current transaction has been written.
    data_written: bool,
    /// A 421 that left the current transaction alive: the receiver is about to close.
    farewell: Option<Reply>,
    settled: u32,
    /// Replies that came so far.
    replies: u64,
    /// The connection ends with the current transaction.
    is_last: bool,
    /// The 421 by which the receiver ended the session instead of taking another MAIL, and whether it said that the
    /// connection has carried enough.
    ended_by: Option<(Reply, bool)>,
}

impl Session {
    /// A session with `peer` whose reply to EHLO was read by `reader`.
    pub fn new(peer: Peer, extensions: Extensions, reader: Reader, judge: Judge) -> Self {
        Self {
            peer,
            judge,
            extensions,
            reader,
            output: Vec::with_capacity(512),
            awaiting: VecDeque::with_capacity(8),
            stage: Stage::Idle,
            current: None,
            next: None,
            mail_written: false,
            data_written: false,
            farewell: None,
            settled: 0,
            replies: 0,
            is_last: false,
            ended_by: None,
        }
    }

    /// The receiver's extensions.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// The MX host.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What the receiver's refusals mean.
    pub fn judge(&self) -> &Judge {
        &self.judge
    }

    /// Where to append what was read.
    pub fn room(&mut self) -> &mut Vec<u8> {
        self.reader.room()
    }

    /// Commands to write; the rim clears it when they are written.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Transactions that are over.
    pub fn settled(&self) -> u32 {
        self.settled
    }

    /// How the receiver ended a session that had carried something.
    pub fn hung_up(&self) -> HungUp<'_> {
        match &self.ended_by {
            None => HungUp::Silently,
            Some((reply, false)) => HungUp::Saying(reply),
            Some((reply, true)) => HungUp::UsedUp(reply),
        }
    }

    /// Replies that came so far: when it changes, the wait for the next one begins.
    pub fn replies(&self) -> u64 {
        self.replies
    }

    /// The transaction whose replies come now.
    pub fn current(&self) -> Option<&Transaction> {
        self.current.as_ref()
    }

    /// The phase that the next reply belongs to: what a time-out is named after.
    pub fn phase(&self) -> Phase {
        match self.stage {
            Stage::ContentWanted | Stage::ContentUnderWay => Phase::Content,
            _ => self.awaiting.front().map_or(Phase::Mail, |command| command.phase()),
        }
    }

    /// Whether contents go by BDAT (RFC 3030): without dot-stuffing, and without a look-ahead.
    pub fn uses_bdat(&self) -> bool {
        self.extensions.chunking
    }

    /// Whether the next transaction's commands may follow the content of the current one in the same write.
    pub fn may_look_ahead(&self) -> bool {
        self.extensions.pipelining
            && !self.uses_bdat()
            && self.farewell.is_none()
            && self.extensions.mail_max.is_none_or(|most| self.settled + 1 < most)
    }

    /// Whether this session may have another transaction (RFC 9422, MAILMAX).
    pub fn may_begin(&self) -> bool {
        self.farewell.is_none() && self.extensions.mail_max.is_none_or(|most| self.settled < most)
    }

    /// Begins a transaction; only when idle.
    pub fn begin(&mut self, transaction: Transaction) {
        debug_assert_eq!(self.stage, Stage::Idle);
        self.current = Some(transaction);
        self.mail_written = false;
        self.data_written = false;
        self.stage = Stage::Envelope;
        self.write_commands();
    }

    /// The content is about to be written, `next` behind it: after the content goes `end` (the dot), then the output.
    /// By BDAT the output goes first and there is no end and no `next`.
    pub fn begin_content(&mut self, end: &[u8], next: Option<Transaction>) {
        self.stage = Stage::ContentUnderWay;
        if !self.uses_bdat() {
            self.awaiting.push_back(Command::EndOfData);
        }
        self.end_content(end, next);
    }

    /// For a content in chunks, begun without an end: its last chunk has been written, now go `end` and `next`.
    pub fn end_content(&mut self, end: &[u8], next: Option<Transaction>) {
        self.output.extend_from_slice(end);
        if let Some(next) = next {
            self.write_ahead(&next);
            self.next = Some(next);
        }
    }

    /// The transaction that was begun ahead is not carried out. Its commands are out, so the connection ends with the
    /// current one.
    pub fn forget_next(&mut self) {
        if self.next.take().is_some() {
            let end = self.awaiting.iter().position(|command| *command == Command::EndOfData);
            self.awaiting.truncate(end.map_or(0, |end| end + 1));
            self.is_last = true;
        }
    }

    /// The last octet of the end of data has been handed to the kernel.
    pub fn content_left(&mut self) {
        if self.stage == Stage::ContentUnderWay {
            self.stage = Stage::ContentLeft;
        }
    }

    /// Whether not a single reply came to the current transaction, and its content has not left: not all of it, where
    /// BDAT follows the envelope unasked.
    pub fn is_unanswered(&self) -> bool {
        self.current.as_ref().is_some_and(|transaction| !transaction.answered)
            && matches!(self.stage, Stage::Envelope | Stage::ContentWanted | Stage::ContentUnderWay)
            && !self.reader.has_more()
    }

    /// What is to be done now.
    pub fn step(&mut self) -> Step {
        loop {
            if self.stage == Stage::ContentWanted {
                if self.uses_bdat() || !self.reader.has_more() {
                    return Step::Content;
                }
                // A reply between 354 and the content: a refusal counts, anything else breaks the protocol.
                self.awaiting.push_back(Command::EndOfData);
                self.stage = Stage::ContentUnderWay;
            }
            let received = match self.reader.next() {
                Err(violation) => return self.violated(violation, self.phase()),
                Ok(None) if self.stage == Stage::Idle && self.reader.has_more() => return Step::Close,
                Ok(None) if self.stage == Stage::Idle => return Step::Idle,
                Ok(None) => return Step::Read,
                Ok(Some(received)) => received,
            };
            self.replies += 1;
            let Some(command) = self.awaiting.pop_front() else {
                return self.violated(Violation::Unsolicited, self.phase());
            };
            if let Some(step) = self.answered(command, received) {
                return step;
            }
        }
    }

    /// The connection is lost: what becomes of the current transaction, if there is one.
    pub fn lost(&mut self, lost: &Lost) -> Option<Vec<Outcome>> {
        let phase = self.phase();
        let reply = self.farewell.take().unwrap_or_else(|| lost.reply(phase));
        let in_doubt = self.stage == Stage::ContentLeft && self.awaiting.contains(&Command::EndOfData);
        self.abandon(phase, reply, in_doubt)
    }

    fn abandon(&mut self, phase: Phase, reply: Reply, in_doubt: bool) -> Option<Vec<Outcome>> {
        let report = report(&self.peer, phase, reply, self.extensions.dsn, in_doubt);
        let mut transaction = self.current.take()?;
        transaction.settle_rest(Verdict::Defer, report.clone());
        Some(transaction.into_outcomes(&|| Outcome::Deferred(report.clone())))
    }

    fn violated(&mut self, violation: Violation, phase: Phase) -> Step {
        let in_doubt = self.stage == Stage::ContentLeft;
        // X.5.0: other or undefined protocol status.
        let reply = Reply::local(Status::new(4, 5, 0), format!("the receiver broke the protocol: {violation}"));
        if let Some(transaction) = &mut self.current {
            // Which command the earlier replies answered is unknown too.
            let report = report(&self.peer, phase, reply.clone(), self.extensions.dsn, in_doubt);
            transaction.defer_bounced(&report);
        }
        match self.abandon(phase, reply, in_doubt) {
            Some(outcomes) => Step::Settled(Settled { outcomes, close: true }),
            None => Step::Close,
        }
    }

    fn answered(&mut self, command: Command, received: Received) -> Option<Step> {
        if command == Command::Rset {
            return self.rset_answered(received);
        }
        // 354 answers DATA and nothing else.
        if (received.code / 100 == 3) != (command == Command::Data && !matches!(received.code / 100, 4 | 5)) {
            return Some(self.violated(Violation::Unfitting, command.phase()));
        }
        if let Some(transaction) = &mut self.current {
            transaction.answered = true;
        }
        match command {
            Command::Mail => self.mail_answered(received),
            Command::Rcpt(position) => self.rcpt_answered(position, received),
            Command::Data => self.data_answered(received),
            Command::EndOfData => self.end_of_data_answered(received),
            Command::Rset => None,
        }
    }

    fn rset_answered(&mut self, received: Received) -> Option<Step> {
        let is_reset = received.code / 100 == 2;
        match (is_reset, self.current.is_some()) {
            (true, true) => Some(self.settle(false, true)),
            (false, true) => Some(self.violated(Violation::Unfitting, Phase::Mail)),
            (_, false) => {
                self.stage = Stage::Idle;
                (!is_reset).then_some(Step::Close)
            }
        }
    }

    fn mail_answered(&mut self, received: Received) -> Option<Step> {
        let transaction = self.current.as_mut()?;
        if received.code / 100 == 2 {
            transaction.mail_accepted = true;
            return self.go_on();
        }
        let reply = self.reader.reply(&received);
        if received.code == 421 && self.settled > 0 {
            let verdict = self.judge.of(Phase::Mail, &reply);
            // What is said about us is to be heeded at once.
            if !verdict.as_ref().is_some_and(|verdict| Judge::is_about_us(Phase::Mail, &reply, verdict)) {
                // A used session is over, by count or by time: this message has nothing to do with it.
                self.current = None;
                self.ended_by = Some((reply, verdict.is_some_and(|verdict| verdict.class == Class::ConnectionUsedUp)));
                return Some(Step::Close);
            }
        }
        // 503 on a used connection: the receiver thinks that another transaction is open. The message is not to blame.
        let out_of_step = received.code == 503 && self.settled > 0;
        let close = received.code == 503 || self.judge.wants_rest(Phase::Mail, &reply);
        let verdict = if out_of_step { Verdict::Defer } else { Verdict::of(&reply) };
        let transaction = self.current.as_mut()?;
        transaction.settle_rest(verdict, report(&self.peer, Phase::Mail, reply, self.extensions.dsn, false));
        if close { Some(self.settle(true, false)) } else { self.go_on() }
    }

    fn rcpt_answered(&mut self, position: usize, received: Received) -> Option<Step> {
        let used = self.settled > 0;
        let transaction = self.current.as_mut()?;
        if received.code / 100 == 2 {
            if used && !transaction.mail_accepted {
                // Nobody takes a recipient after refusing MAIL: on a used connection it rather is the reply to MAIL.
                return Some(self.violated(Violation::Unfitting, Phase::Rcpt));
            }
            transaction.accept(position);
            return self.go_on();
        }
        let reply = self.reader.reply(&received);
        if received.code == 421 {
            self.farewell = Some(reply.clone());
        }
        // RFC 5321, 4.5.3.1.10: older receivers say 552 for "too many recipients".
        let too_many = received.code == 552
            && position > 0
            && reply.status.is_none_or(|status| (status.subject, status.detail) == (5, 3));
        // 503 on a used connection: as for MAIL, the receiver is out of step and the recipient not to blame.
        let out_of_step = received.code == 503 && used;
        let verdict = if too_many || out_of_step { Verdict::Defer } else { Verdict::of(&reply) };
        transaction.settle(position, verdict, report(&self.peer, Phase::Rcpt, reply, self.extensions.dsn, false));
        self.go_on()
    }

    fn data_answered(&mut self, received: Received) -> Option<Step> {
        let transaction = self.current.as_mut()?;
        if received.code / 100 == 3 {
            if transaction.has_accepted() {
                self.stage = Stage::ContentWanted;
            } else {
                // RFC 2920, 3.1: the receiver waits for content although it has no recipient.
                self.output.extend_from_slice(b".\r\n");
                self.awaiting.push_back(Command::EndOfData);
                self.stage = Stage::ContentLeft;
            }
            return None;
        }
        let reply = self.reader.reply(&received);
        let accepted = transaction.has_accepted();
        let throttled = accepted && self.judge.wants_rest(Phase::Data, &reply);
        let close = throttled || received.code == 421;
        transaction
            .settle_rest(Verdict::of(&reply), report(&self.peer, Phase::Data, reply, self.extensions.dsn, false));
        self.refused(close, accepted)
    }

    fn end_of_data_answered(&mut self, received: Received) -> Option<Step> {
        let early = self.stage == Stage::ContentUnderWay;
        if early && received.code / 100 == 2 {
            return Some(self.violated(Violation::Unfitting, Phase::Content));
        }
        let transaction = self.current.as_mut()?;
        let phase = if early { Phase::Content } else { Phase::EndOfData };
        let reply = self.reader.reply(&received);
        let accepted = transaction.has_accepted();
        let throttled = accepted && self.judge.wants_rest(phase, &reply);
        let verdict = if reply.is_success() { Verdict::Deliver } else { Verdict::of(&reply) };
        let clean = if self.extensions.chunking { verdict == Verdict::Deliver } else { accepted };
        transaction.settle_accepted(verdict, report(&self.peer, phase, reply, self.extensions.dsn, false));
        let close = early || throttled || received.code == 421;
        if self.extensions.chunking && !clean { self.refused(close, accepted) } else { Some(self.settle(close, clean)) }
    }

    /// The receiver refused the transaction; if it had `accepted` recipients before, only the reply to RSET shows that it
    /// was no other command that it refused. RSET is due here anyway.
    fn refused(&mut self, close: bool, accepted: bool) -> Option<Step> {
        if close || self.farewell.is_some() || !accepted {
            return Some(self.settle(close, false));
        }
        self.reset();
        None
    }

    /// After a reply to MAIL or RCPT: the next command of a receiver without PIPELINING, or the end.
    fn go_on(&mut self) -> Option<Step> {
        if !self.awaiting.is_empty() || self.data_written {
            return None;
        }
        if self.reader.has_more() {
            return Some(self.violated(Violation::Unsolicited, self.phase()));
        }
        if self.current.as_ref().is_some_and(Transaction::has_live) {
            self.write_commands();
            return None;
        }
        Some(self.settle(false, false))
    }

    /// Ends the current transaction. `clean`: its end of data closed it at the receiver too, so no RSET is needed.
    fn settle(&mut self, close: bool, clean: bool) -> Step {
        let missing = Reply::local(Status::new(4, 5, 0), "no outcome");
        let missing =
            || Outcome::Deferred(report(&self.peer, Phase::Rcpt, missing.clone(), self.extensions.dsn, false));
        let Some(transaction) = self.current.take() else {
            return Step::Close;
        };
        // A refused MAIL leaves nothing open, except with BDAT.
        let clean = clean || (!transaction.mail_accepted && !self.extensions.chunking);
        let outcomes = transaction.into_outcomes(&missing);
        self.settled += 1;
        let close = close || self.farewell.is_some() || self.is_last;
        if let Some(next) = self.next.take() {
            self.current = Some(next);
            self.mail_written = true;
            self.data_written = true;
            self.stage = Stage::Envelope;
        } else if clean || close {
            self.stage = Stage::Idle;
        } else {
            self.reset();
        }
        Step::Settled(Settled { outcomes, close })
    }

    /// The receiver may still hold the reverse-path: Exim keeps it after a refused BDAT and would send the next message
    /// under it; others answer the next MAIL with 503.
    fn reset(&mut self) {
        self.output.extend_from_slice(b"RSET\r\n");
        self.awaiting.push_back(Command::Rset);
        self.stage = Stage::Resetting;
    }

    /// Writes the commands that may go now.
    fn write_commands(&mut self) {
        let pipelining = self.extensions.pipelining;
        let bdat = self.uses_bdat();
        let Some(transaction) = &mut self.current else {
            return;
        };
        if !self.mail_written {
            self.mail_written = true;
            transaction.write_mail(&self.extensions, &mut self.output);
            self.awaiting.push_back(Command::Mail);
            if !pipelining {
                return;
            }
        }
        while transaction.rcpt_written < transaction.recipient_count() {
            let position = transaction.rcpt_written;
            transaction.rcpt_written += 1;
            if transaction.write_rcpt(position, &self.extensions, &mut self.output) {
                self.awaiting.push_back(Command::Rcpt(position));
                if !pipelining {
                    return;
                }
            }
        }
        if !bdat {
            self.output.extend_from_slice(b"DATA\r\n");
            self.awaiting.push_back(Command::Data);
            self.data_written = true;
        } else if self.awaiting.is_empty() || (pipelining && transaction.length() <= OPTIMISTIC_BDAT) {
            transaction.write_bdat(&mut self.output);
            self.awaiting.push_back(Command::EndOfData);
            self.data_written = true;
            self.stage = Stage::ContentWanted;
        }
    }

    fn write_ahead(&mut self, next: &Transaction) {
        next.write_mail(&self.extensions, &mut self.output);
        self.awaiting.push_back(Command::Mail);
        for position in 0..next.recipient_count() {
            if next.write_rcpt(position, &self.extensions, &mut self.output) {
                self.awaiting.push_back(Command::Rcpt(position));
            }
        }
        self.output.extend_from_slice(b"DATA\r\n");
        self.awaiting.push_back(Command::Data);
    }
}

#[cfg(test)]
mod tests;

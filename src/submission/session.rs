//! The server side of an SMTP session as a pure state machine (RFC 5321, 6409, 2920, 3030).
//!
//! [`Session::advance`] takes what the client sent and appends replies to [`Session::replies`] until it needs more input, or
//! the replies should leave, or a message is complete: then the connection has it admitted and stored and tells the result
//! by [`Session::accepted`], [`Session::refused`] or by closing. No socket, task or clock; what depends on the world is asked
//! of a [`Gate`].
//!
//! | state | what comes | next |
//! |---|---|---|
//! | `Command` | a line up to CRLF | by the command |
//! | `Overlong` | the rest of a line over 2,048 octets | `Command`, after 500 5.5.2 |
//! | `Data` | content up to CRLF.CRLF | `Message`, or `Command` after a refusal |
//! | `Chunk` | the octets of a BDAT | `Command`; after the last one `Message` or a refusal |
//! | `Message` | nothing is read | `Command`, by `accepted` or `refused` |
//! | `Handshake` | nothing is read | `Command`, by `secured` |
//! | `Auth` | a line of an authentication | `Command`, `Auth` or `Verify` (`auth.rs`) |
//! | `Verify` | nothing is read | `Command` or `Auth`, by `verified` |
//! | `Closed` | nothing is read | |
//!
//! The envelope after an error is as RFC 5321, 4.1.4 says: 501, 503 and 555 leave it as it was; a refused RCPT leaves the
//! others; any negative reply to DATA, BDAT or the end of data clears it. Pipelined commands after a refused MAIL thus meet
//! no envelope of an earlier transaction.

mod auth;
mod commands;

use std::net::IpAddr;
use std::sync::Arc;

use super::Settings;
use super::collector::Collector;
use super::refusal::{self, Cause, Refusal};
use crate::message::{Lane, MessageId, Recipient};
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::data::Decoder;
use crate::smtp::parameter::MailParameters;
use crate::smtp::status::Status;
use crate::text::decimal;
use crate::tls::Secured;
use crate::users::sasl::{Mechanism, dialog};
use crate::users::{User, Users};

/// The longest command line with its CRLF: RFC 5321, 4.5.3.1.4 says 512, the extensions add up to about 1,300.
pub const LINE_MOST: usize = 2_048;
/// Replies are written when they reach this, even if there is more input.
const FLUSH_AT: usize = 16 * 1024;

/// What the session asks of the world. Nothing here may block.
pub trait Gate {
    /// Whether a mail transaction may begin: storage, rates.
    fn mail(&mut self) -> Result<(), Refusal>;
    /// Whether a transaction may have this recipient, which is one of so many: the tenant's share of the queue, and who gets no mail.
    fn rcpt(&mut self, offer: &Offer<'_>) -> Result<(), Refusal>;
    /// Who may authenticate; none: nobody.
    fn users(&self) -> Option<&Users> {
        None
    }
    /// Random octets; none: there are none to be had.
    fn nonce(&mut self) -> Option<[u8; 18]> {
        None
    }
    /// Whether a user may begin a transaction with this reverse-path: gives the user as they are now. Asked after `mail`.
    fn authorize(&mut self, user: &Arc<User>, _path: &ReversePath) -> Result<Arc<User>, Refusal> {
        Ok(Arc::clone(user))
    }
    /// An authentication broke the rules or was given up.
    fn malformed(&mut self, _mechanism: Mechanism) {}
    /// Counts a refusal.
    fn count(&mut self, cause: Cause);
}

/// A recipient that a client names.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Of the transaction.
    pub reverse_path: &'a ReversePath,
    /// The recipient.
    pub forward_path: &'a Address,
    /// How many recipients the transaction would have.
    pub recipients: usize,
    /// What MAIL says of the lane; the header section may say something else.
    pub lane: Lane,
}

/// What the connection has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write the replies, then read.
    Read,
    /// Write the replies, then advance again.
    Write,
    /// Admit and store the message: [`Session::transaction`], [`Session::content`].
    Store,
    /// Have the claim told true or false: [`Session::take_claim`], [`Session::verified`].
    Verify,
    /// Write the replies, forget all input, do the handshake: [`Session::secured`], or close.
    Secure,
    /// Write the replies and close.
    Close,
}

/// What the client called itself, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// A domain or an address literal.
    pub name: Box<str>,
    /// EHLO, not HELO.
    pub is_extended: bool,
}

/// The mail transaction that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// From MAIL.
    pub reverse_path: ReversePath,
    /// From MAIL.
    pub parameters: MailParameters,
    /// From RCPT.
    pub recipients: Vec<Recipient>,
    /// BDAT has begun: MAIL, RCPT and DATA are out of order now (RFC 3030, 2).
    has_chunks: bool,
    /// Octets that the recipients take.
    octets: usize,
    /// The last 4yz to a RCPT: where no recipient was accepted, DATA and BDAT say the same, since a 5yz would turn what
    /// may be tried again into a failure.
    deferral: Option<Refusal>,
}

impl Transaction {
    /// Octets that the recipients take, unused room included.
    fn held(&self) -> usize {
        self.octets + (self.recipients.capacity() - self.recipients.len()) * size_of::<Recipient>()
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Command,
    Overlong { last: u8 },
    Data(Decoder),
    Chunk(Chunk),
    Message,
    Auth,
    Verify,
    Handshake,
    Closed,
}

/// A BDAT whose octets are coming in.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    left: u64,
    size: u64,
    is_last: bool,
    /// Its octets are read and thrown away, and this is the reply.
    refusal: Option<Refusal>,
}

/// A session.
#[derive(Debug)]
pub struct Session {
    settings: Arc<Settings>,
    hostname: Arc<str>,
    client: IpAddr,
    /// What the handshake has agreed; none in clear.
    security: Option<Arc<Secured>>,
    identity: auth::Identity,
    state: State,
    hello: Option<Hello>,
    transaction: Option<Transaction>,
    content: Collector,
    /// Contents begun.
    contents: u64,
    replies: Vec<u8>,
    errors: u32,
    junk: u32,
    /// MAIL commands, refused ones included (RFC 9422, 4.1).
    mails: u32,
    is_denied: bool,
    /// The client is in none of the networks: it needs AUTH.
    is_stranger: bool,
    is_stopping: bool,
    /// The last MAIL, or every RCPT after it, got a 4yz: what was pipelined after it is not the client's fault.
    is_excused: bool,
}

impl Session {
    /// A session with its greeting among the replies. `client` decides whether it may submit.
    pub fn new(settings: Arc<Settings>, hostname: Arc<str>, client: IpAddr, gate: &mut dyn Gate) -> Self {
        let is_stranger = !settings.takes_returns && !settings.networks.iter().any(|network| network.contains(client));
        let is_denied = is_stranger && !settings.auth;
        let mut session = Self {
            settings,
            hostname,
            client: client.to_canonical(),
            security: None,
            identity: auth::Identity::default(),
            state: State::Command,
            hello: None,
            transaction: None,
            content: Collector::default(),
            contents: 0,
            replies: Vec::with_capacity(512),
            errors: 0,
            junk: 0,
            mails: 0,
            is_denied,
            is_stranger,
            is_stopping: false,
            is_excused: false,
        };
        if is_denied {
            gate.count(Cause::Relay);
            session.say_refusal(&refusal::RELAY_DENIED);
        } else {
            let hostname = Arc::clone(&session.hostname);
            session.line(&["220 ", &hostname, " ESMTP hikyaku"]);
        }
        session
    }

    /// Uses as much of `input` as it can; says how much, and what comes next.
    pub fn advance(&mut self, input: &[u8], gate: &mut dyn Gate) -> (usize, Step) {
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            match self.state {
                State::Closed => return (used, Step::Close),
                State::Message => return (used, Step::Store),
                State::Handshake => return (used, Step::Secure),
                State::Verify => return (used, Step::Verify),
                State::Command | State::Auth if self.is_stopping && !self.is_in_content() => {
                    self.refuse(&refusal::STOPPING, gate)
                }
                _ if self.replies.len() >= FLUSH_AT => return (used, Step::Write),
                _ if rest.is_empty() && !self.is_chunk_complete() => return (used, Step::Read),
                State::Command => match line(rest, LINE_MOST) {
                    Line::Whole(length) => {
                        let line = rest.get(..length.saturating_sub(2)).unwrap_or_default();
                        used += length;
                        self.command(line, gate);
                    }
                    Line::Incomplete => return (used, Step::Read),
                    Line::Overlong => self.state = State::Overlong { last: 0 },
                    Line::BareLf => self.close_after(&refusal::BARE_LF, gate),
                },
                State::Auth => match line(rest, dialog::LINE_MOST) {
                    Line::Whole(length) => {
                        used += length;
                        self.auth_line(rest.get(..length.saturating_sub(2)).unwrap_or_default(), gate);
                    }
                    Line::Incomplete => return (used, Step::Read),
                    Line::Overlong => self.close_after(&refusal::AUTH_LINE_TOO_LONG, gate),
                    Line::BareLf => self.close_after(&refusal::BARE_LF, gate),
                },
                State::Overlong { last } => used += self.overlong(last, rest, gate),
                State::Data(decoder) => used += self.data(decoder, rest, gate),
                State::Chunk(chunk) => used += self.chunk(chunk, rest, gate),
            }
        }
    }

    fn is_chunk_complete(&self) -> bool {
        matches!(self.state, State::Chunk(Chunk { left: 0, .. }))
    }

    /// Throws away up to the CRLF of a line that is too long.
    fn overlong(&mut self, last: u8, rest: &[u8], gate: &mut dyn Gate) -> usize {
        let is_end = |at: usize| match at.checked_sub(1) {
            Some(before) => rest.get(before) == Some(&b'\r'),
            None => last == b'\r',
        };
        match memchr::memchr_iter(b'\n', rest).find(|at| is_end(*at)) {
            Some(at) => {
                self.state = State::Command;
                self.refuse(&refusal::LINE_TOO_LONG, gate);
                at + 1
            }
            None => {
                self.state = State::Overlong { last: rest.last().copied().unwrap_or(last) };
                rest.len()
            }
        }
    }

    fn data(&mut self, mut decoder: Decoder, rest: &[u8], gate: &mut dyn Gate) -> usize {
        let (content, settings) = (&mut self.content, &self.settings);
        let decoded = decoder.decode(rest, |piece| content.push(piece, settings));
        self.state = State::Data(decoder);
        if decoded.has_ended {
            self.finish_content(gate);
        }
        decoded.used
    }

    fn chunk(&mut self, mut chunk: Chunk, rest: &[u8], gate: &mut dyn Gate) -> usize {
        let most = usize::try_from(chunk.left).unwrap_or(usize::MAX);
        let piece = rest.get(..most.min(rest.len())).unwrap_or_default();
        chunk.left -= piece.len() as u64;
        if chunk.refusal.is_none() {
            self.content.push(piece, &self.settings);
        }
        self.state = State::Chunk(chunk);
        if chunk.left > 0 {
            return piece.len();
        }
        self.state = State::Command;
        match chunk.refusal.or_else(|| self.content.refusal()) {
            Some(refusal) => self.fail_transaction(&refusal, gate),
            None if chunk.is_last => self.finish_content(gate),
            None => self.say(250, Status::new(2, 0, 0), &format!("{} octets received", chunk.size)),
        }
        piece.len()
    }

    fn finish_content(&mut self, gate: &mut dyn Gate) {
        self.state = State::Command;
        match self.content.finish(&self.settings) {
            Ok(()) => self.state = State::Message,
            Err(refusal) => self.fail_transaction(&refusal, gate),
        }
    }

    /// The transaction is over with a negative reply: nothing of it is kept.
    fn fail_transaction(&mut self, refusal: &Refusal, gate: &mut dyn Gate) {
        self.reset();
        self.refuse(refusal, gate);
    }

    /// A content begins.
    fn begin_content(&mut self) {
        self.contents += 1;
        self.content.clear();
    }

    /// Back to a session without transaction.
    fn reset(&mut self) {
        self.transaction = None;
        self.content.clear();
    }

    /// Counts and says a refusal. A 421 closes.
    fn refuse(&mut self, refusal: &Refusal, gate: &mut dyn Gate) {
        gate.count(refusal.cause);
        let is_excused = self.is_excused && refusal.code == 503;
        if refusal.code / 100 == 5 && !is_excused {
            self.errors += 1;
        }
        self.say_refusal(refusal);
        if refusal.code == 421 {
            self.close();
        }
    }

    fn close_after(&mut self, refusal: &Refusal, gate: &mut dyn Gate) {
        self.refuse(refusal, gate);
        self.close();
    }

    /// The message that [`Step::Store`] announced is on stable storage.
    pub fn accepted(&mut self, id: MessageId) {
        self.reset();
        (self.errors, self.junk) = (0, 0);
        self.state = State::Command;
        self.begin_reply(250, Status::new(2, 0, 0));
        self.replies.extend_from_slice(b"Ok: queued as ");
        id.write(&mut self.replies);
        self.replies.extend_from_slice(b"\r\n");
    }

    /// The message that [`Step::Store`] announced is not accepted.
    pub fn refused(&mut self, refusal: &Refusal, gate: &mut dyn Gate) {
        self.state = State::Command;
        self.fail_transaction(refusal, gate);
    }

    /// The session is under TLS now. Nothing that the client said before it holds (RFC 3207, 4.2).
    pub fn secured(&mut self, secured: Secured) {
        self.security = Some(Arc::new(secured));
        self.hello = None;
        self.identity = auth::Identity::default();
        self.is_excused = false;
        self.reset();
        if matches!(self.state, State::Handshake) {
            self.state = State::Command;
        }
    }

    /// What the handshake has agreed; none in clear.
    pub fn security(&self) -> Option<&Arc<Secured>> {
        self.security.as_ref()
    }

    /// The connection ends with this reply, whatever was going on.
    pub fn abort(&mut self, refusal: &Refusal, gate: &mut dyn Gate) {
        self.close_after(refusal, gate);
    }

    /// Ends the session with 421 at the next command boundary: at once, unless content is coming in; chunks are one content.
    pub fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// Whether [`Self::stop`] has been called.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.reset();
    }

    /// The transaction whose message is complete, taken out of the session.
    pub fn take_transaction(&mut self) -> Option<Transaction> {
        self.transaction.take()
    }

    /// The transaction that is open.
    pub fn transaction(&self) -> Option<&Transaction> {
        self.transaction.as_ref()
    }

    /// The content of the open transaction.
    pub fn content(&self) -> &Collector {
        &self.content
    }

    /// The content of the open transaction, to be drained or refused.
    pub fn content_mut(&mut self) -> &mut Collector {
        &mut self.content
    }

    /// Whether content is coming in, or its next chunk is awaited: the minimum data rate applies, and a stop waits.
    pub fn is_in_content(&self) -> bool {
        matches!(self.state, State::Data(_) | State::Chunk(_))
            || self.transaction.as_ref().is_some_and(|open| open.has_chunks)
    }

    /// Which content of the session this is.
    pub fn contents(&self) -> u64 {
        self.contents
    }

    /// Of its listener.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it calls us.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// What the client called itself.
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// The client's address; IPv4 as such.
    pub fn client(&self) -> IpAddr {
        self.client
    }

    /// Replies that have not been written yet; the connection clears what it wrote.
    pub fn replies(&mut self) -> &mut Vec<u8> {
        &mut self.replies
    }

    /// Octets that the session holds beside content.
    pub fn held(&self) -> usize {
        self.replies.capacity() + self.transaction.as_ref().map_or(0, Transaction::held)
    }

    fn say_refusal(&mut self, refusal: &Refusal) {
        self.say(refusal.code, refusal.status, refusal.text);
    }

    fn say(&mut self, code: u16, status: Status, text: &str) {
        self.begin_reply(code, status);
        self.line(&[text]);
    }

    fn begin_reply(&mut self, code: u16, status: Status) {
        decimal(&mut self.replies, code.into());
        self.replies.push(b' ');
        status.write(&mut self.replies);
        self.replies.push(b' ');
    }

    fn line(&mut self, parts: &[&str]) {
        parts.iter().for_each(|part| self.replies.extend_from_slice(part.as_bytes()));
        self.replies.extend_from_slice(b"\r\n");
    }
}

/// How the input of the `Command` state begins.
enum Line {
    /// A line of so many octets, CRLF included.
    Whole(usize),
    /// Its end has not come yet.
    Incomplete,
    /// No end within what is allowed.
    Overlong,
    /// An LF without CR. Such a line is never carried out, and what follows it is never taken for a command: it may be
    /// what somebody hid in a parameter of the line.
    BareLf,
}

fn line(input: &[u8], most: usize) -> Line {
    let head = input.get(..input.len().min(most)).unwrap_or_default();
    match memchr::memchr(b'\n', head) {
        Some(at) if at.checked_sub(1).and_then(|before| head.get(before)) == Some(&b'\r') => Line::Whole(at + 1),
        Some(_) => Line::BareLf,
        None if head.len() == most => Line::Overlong,
        None => Line::Incomplete,
    }
}

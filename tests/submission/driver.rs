//! Drives a session the way a connection does, without socket, spool and clock.

use std::sync::Arc;

use hikyaku::clock::UnixTime;
use hikyaku::message::{Envelope, MessageId};
use hikyaku::submission::Settings;
use hikyaku::submission::admit::{Admitted, Context, admit};
use hikyaku::submission::refusal::{Cause, Refusal};
use hikyaku::submission::session::{Gate, Offer, Session, Step};

/// Allows everything, or refuses with what it is given.
#[derive(Default)]
pub struct Answers {
    /// To MAIL.
    pub mail: Option<Refusal>,
    /// To RCPT.
    pub rcpt: Option<Refusal>,
    /// To a complete message.
    pub store: Option<Refusal>,
    /// What was refused so far.
    pub counted: Vec<Cause>,
}

impl Gate for Answers {
    fn mail(&mut self) -> Result<(), Refusal> {
        self.mail.map_or(Ok(()), Err)
    }

    fn rcpt(&mut self, _offer: &Offer<'_>) -> Result<(), Refusal> {
        self.rcpt.map_or(Ok(()), Err)
    }

    fn count(&mut self, cause: Cause) {
        self.counted.push(cause);
    }
}

/// A message that was accepted.
pub struct Accepted {
    /// Its envelope.
    pub envelope: Envelope,
    /// What the client sent, as the session understood it.
    pub received: Vec<u8>,
    /// What would be stored.
    pub stored: Vec<u8>,
}

/// A client of one session.
pub struct Client {
    pub session: Session,
    pub answers: Answers,
    pub messages: Vec<Accepted>,
    pub is_closed: bool,
    /// The most that replies and unread input were.
    pub peak_held: usize,
    unread: Vec<u8>,
}

impl Client {
    /// From the loopback address, before EHLO.
    pub fn new(settings: Settings) -> Self {
        Self::from("127.0.0.1", settings)
    }

    /// From `address`; the greeting is still to be read.
    pub fn from(address: &str, settings: Settings) -> Self {
        let mut answers = Answers::default();
        let settings = Arc::new(settings);
        let session = Session::new(settings, "mx.test".into(), address.parse().unwrap(), &mut answers);
        Self { session, answers, messages: Vec::new(), is_closed: false, peak_held: 0, unread: Vec::new() }
    }

    /// After the greeting and EHLO.
    pub fn ready(settings: Settings) -> Self {
        let mut client = Self::new(settings);
        client.send(b"EHLO client.test\r\n");
        client
    }

    /// Sends, and gives the replies. What the session does not use yet is kept for the next call, as a buffer would.
    pub fn send(&mut self, input: &[u8]) -> String {
        let mut buffer = std::mem::take(&mut self.unread);
        buffer.extend_from_slice(input);
        let mut at = 0;
        let mut replies = Vec::new();
        while !self.is_closed {
            let (used, step) = self.session.advance(&buffer[at..], &mut self.answers);
            at += used;
            match step {
                Step::Read => break,
                Step::Write => {}
                Step::Store => self.store(),
                Step::Secure | Step::Verify => unreachable!("no listener here has TLS or AUTH"),
                Step::Close => self.is_closed = true,
            }
            self.peak_held = self.peak_held.max(self.session.held());
            replies.append(self.session.replies());
        }
        replies.append(self.session.replies());
        if !self.is_closed {
            self.unread = buffer.split_off(at);
        }
        self.peak_held = self.peak_held.max(self.session.held() + self.unread.len());
        String::from_utf8(replies).unwrap()
    }

    fn store(&mut self) {
        let transaction = self.session.take_transaction().unwrap();
        let received = self.session.content().bytes().to_vec();
        let id = MessageId(self.messages.len() as u64 + 1);
        let context = Context::of(&self.session, None, id, UnixTime(0));
        let result =
            admit(transaction, &received, &context).and_then(|message| self.answers.store.map_or(Ok(message), Err));
        match result {
            Ok(Admitted { envelope, content, .. }) => {
                self.messages.push(Accepted { envelope, received, stored: content });
                self.session.accepted(id);
            }
            Err(refusal) => self.session.refused(&refusal, &mut self.answers),
        }
    }

    /// The reply codes to `input`, multi-line replies once.
    pub fn codes(&mut self, input: &str) -> Vec<u16> {
        self.codes_of(input.as_bytes())
    }

    /// The same for octets.
    pub fn codes_of(&mut self, input: &[u8]) -> Vec<u16> {
        let replies = self.send(input);
        replies.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| line[..3].parse().unwrap()).collect()
    }

    /// The reverse-paths of what was accepted.
    pub fn reverse_paths(&self) -> Vec<&str> {
        self.messages.iter().map(|message| message.envelope.reverse_path.as_str()).collect()
    }

    /// Sends one message with this content by DATA, and gives the last reply.
    pub fn submit(&mut self, content: &str) -> String {
        let input = format!("MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n{content}.\r\n");
        let replies = self.send(input.as_bytes());
        replies.lines().last().unwrap().to_owned()
    }
}

/// MAIL and one RCPT.
pub const ENVELOPE: &str = "MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n";

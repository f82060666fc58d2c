//! Dialogs with the session: commands, envelopes after errors, limits.

use super::*;
use crate::submission::collector::LineEndings;

/// Allows everything, or refuses with what it is given.
#[derive(Default)]
struct Answers {
    mail: Option<Refusal>,
    rcpt: Option<Refusal>,
    counted: Vec<Cause>,
}

impl Gate for Answers {
    fn mail(&mut self) -> Result<(), Refusal> {
        self.mail.map_or(Ok(()), Err)
    }

    fn rcpt(&mut self, _recipients: usize) -> Result<(), Refusal> {
        self.rcpt.map_or(Ok(()), Err)
    }

    fn count(&mut self, cause: Cause) {
        self.counted.push(cause);
    }
}

/// A session driven the way a connection drives it; every complete message is accepted.
struct Client {
    session: Session,
    answers: Answers,
    messages: Vec<(Transaction, Vec<u8>)>,
    is_closed: bool,
}

impl Client {
    fn new(settings: Settings) -> Self {
        Self::from("127.0.0.1", settings)
    }

    fn from(address: &str, settings: Settings) -> Self {
        let mut answers = Answers::default();
        let session = Session::new(Arc::new(settings), "mx.test".into(), address.parse().unwrap(), &mut answers);
        Self { session, answers, messages: Vec::new(), is_closed: false }
    }

    /// After the greeting and EHLO.
    fn ready(settings: Settings) -> Self {
        let mut client = Self::new(settings);
        client.send(b"EHLO client.test\r\n");
        client
    }

    /// Sends, and gives the replies.
    fn send(&mut self, input: &[u8]) -> String {
        let mut at = 0;
        let mut replies = Vec::new();
        while !self.is_closed {
            let (used, step) = self.session.advance(&input[at..], &mut self.answers);
            at += used;
            match step {
                Step::Read => break,
                Step::Write => {}
                Step::Store => {
                    let content = self.session.content().bytes().to_vec();
                    self.messages.push((self.session.take_transaction().unwrap(), content));
                    self.session.accepted(MessageId(self.messages.len() as u64));
                }
                Step::Close => self.is_closed = true,
            }
            replies.append(self.session.replies());
        }
        replies.append(self.session.replies());
        String::from_utf8(replies).unwrap()
    }

    /// The reply codes to `input`, multi-line replies once.
    fn codes(&mut self, input: &str) -> Vec<u16> {
        let replies = self.send(input.as_bytes());
        replies.lines().filter(|line| !line[3..].starts_with('-')).map(|line| line[..3].parse().unwrap()).collect()
    }

    fn reverse_paths(&self) -> Vec<&str> {
        self.messages.iter().map(|(transaction, _)| transaction.reverse_path.as_str()).collect()
    }
}

const ENVELOPE: &str = "MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n";

#[test]
fn a_pipelined_transaction_is_answered_in_order() {
    let mut client = Client::new(Settings::default());
    let greeting = client.send(b"");

    let replies = client.codes("EHLO c.test\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n");
    let end = client.send(b"Subject: x\r\n\r\n..hi\r\n.\r\nQUIT\r\n");

    assert_eq!(greeting, "220 mx.test ESMTP hikyaku\r\n");
    assert_eq!(replies, [250, 250, 250, 354]);
    assert_eq!(end, "250 2.0.0 Ok: queued as 0000000000001\r\n221 2.0.0 Bye\r\n");
    assert_eq!(client.messages[0].1, b"Subject: x\r\n\r\n.hi\r\n");
    assert!(client.is_closed);
}

#[test]
fn ehlo_announces_what_is_there_and_helo_nothing() {
    let mut client = Client::new(Settings { max_messages: 5.try_into().ok(), ..Settings::default() });
    client.send(b"");

    assert_eq!(
        client.send(b"EHLO c.test\r\n"),
        "250-mx.test\r\n250-PIPELINING\r\n250-SIZE 50000000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
         250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250-DSN\r\n250-LIMITS MAILMAX=5 RCPTMAX=1000\r\n250 HELP\r\n"
    );
    assert_eq!(client.send(b"HELO c.test\r\n"), "250 mx.test\r\n");
}

//! A receiver's side of an SMTP session (RFC 5321), with PIPELINING and CHUNKING: octets in, replies out.
//!
//! Just enough of a server to be delivered to. It answers as its site's character says, and enters what it takes into
//! the ledger. It does not remove dot-stuffing: no line of the demonstration's messages begins with a dot.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use memchr::{memchr, memmem};

use super::content;
use super::receivers::{Counts, Receiver};
use super::sites::{Character, SENDER_DOMAIN};

/// Whether the connection stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    Close,
}

/// What is expected next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expect {
    #[default]
    Command,
    /// Content up to the final dot; so much of it has been searched.
    Content { searched: usize },
    /// A BDAT chunk of so many octets.
    Chunk { length: usize, is_last: bool },
}

#[derive(Debug, Default)]
pub(super) struct Session {
    expect: Expect,
    has_mail: bool,
    /// Numbers from the accepted forward-paths.
    recipients: Vec<u32>,
    /// Earlier chunks of the transaction.
    chunks: Vec<u8>,
}

const DOT: &[u8] = b"\r\n.\r\n";
/// A command line longer than this is not one (RFC 5321, 4.5.3.1.4, with room for extensions).
const LONGEST_LINE: usize = 4_096;

impl Session {
    /// Takes what it can from `input` and appends the replies.
    pub(super) fn feed(&mut self, input: &mut BytesMut, out: &mut Vec<u8>, receiver: &Receiver) -> Flow {
        loop {
            let is_complete = match self.expect {
                Expect::Command => {
                    let line = match cut_line(input) {
                        Ok(Some(line)) => line,
                        Ok(None) => return Flow::Continue,
                        Err(TooLong) => return Flow::Close,
                    };
                    if self.command(line.trim_ascii_end(), out, receiver) == Flow::Close {
                        return Flow::Close;
                    }
                    true
                }
                Expect::Content { searched } => self.content(searched, input, out, receiver),
                Expect::Chunk { length, is_last } => self.chunk(length, is_last, input, out, receiver),
            };
            if !is_complete {
                return Flow::Continue;
            }
        }
    }

    fn command(&mut self, line: &[u8], out: &mut Vec<u8>, receiver: &Receiver) -> Flow {
        let line = String::from_utf8_lossy(line);
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => {
                self.reset();
                let chunking = match receiver.site.character {
                    Character::Fast { has_chunking: true } | Character::Sink { has_chunking: true, .. } => {
                        "250-CHUNKING\r\n"
                    }
                    _ => "",
                };
                let domain = receiver.site.domain;
                let ehlo =
                    format!("250-mx.{domain}\r\n250-PIPELINING\r\n250-8BITMIME\r\n{chunking}250 SIZE 50000000\r\n");
                out.extend_from_slice(ehlo.as_bytes());
            }
            "HELO" | "RSET" => {
                self.reset();
                say(out, "250 2.0.0 ok");
            }
            "NOOP" => say(out, "250 2.0.0 ok"),
            "MAIL" => {
                self.reset();
                self.has_mail = true;
                say(out, "250 2.1.0 ok");
            }
            "RCPT" => {
                let reply = self.recipient(rest, receiver);
                say(out, reply);
            }
            "DATA" if self.recipients.is_empty() => say(out, "554 5.5.1 no valid recipients"),
            "DATA" => {
                self.expect = Expect::Content { searched: 0 };
                say(out, "354 go ahead");
            }
            "BDAT" => match chunk_size(rest) {
                Some((length, is_last)) => self.expect = Expect::Chunk { length, is_last },
                None => {
                    say(out, "501 5.5.4 BDAT size [LAST]");
                    return Flow::Close;
                }
            },
            "QUIT" => {
                say(out, "221 2.0.0 bye");
                return Flow::Close;
            }
            _ => say(out, "500 5.5.1 unknown command"),
        }
        Flow::Continue
    }

    fn recipient(&mut self, rest: &str, receiver: &Receiver) -> &'static str {
        let path = rest.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path);
        if matches!(receiver.site.character, Character::Sink { .. }) {
            // Mail that is none of ours has a number that the ledger does not know.
            self.recipients.push(path.and_then(content::number_in).unwrap_or(u32::MAX));
            return "250 2.1.5 ok";
        }
        let number = path.filter(|path| path.ends_with(receiver.site.domain)).and_then(content::number_in);
        let Some(number) = number.filter(|_| self.has_mail) else {
            Counts::add(&receiver.counts.refused);
            return "550 5.7.1 not for this host";
        };
        match receiver.site.character {
            Character::UnknownUsers { one_in } if number.is_multiple_of(one_in) => {
                Counts::add(&receiver.counts.refused);
                "550 5.1.1 no such user here"
            }
            Character::Greylisting { wait } if receiver.since_first_try(number).unwrap_or(Duration::ZERO) < wait => {
                Counts::add(&receiver.counts.deferred);
                "450 4.7.1 greylisted, try again later"
            }
            _ => {
                self.recipients.push(number);
                "250 2.1.5 ok"
            }
        }
    }

    /// Whether the final dot was there.
    fn content(&mut self, searched: usize, input: &mut BytesMut, out: &mut Vec<u8>, receiver: &Receiver) -> bool {
        let content = match cut_content(input, searched) {
            Ok(content) => content,
            Err(searched) => {
                self.expect = Expect::Content { searched };
                return false;
            }
        };
        self.expect = Expect::Command;
        self.take(&content, out, receiver);
        true
    }

    /// Whether the chunk was there as a whole.
    fn chunk(
        &mut self,
        length: usize,
        is_last: bool,
        input: &mut BytesMut,
        out: &mut Vec<u8>,
        receiver: &Receiver,
    ) -> bool {
        if input.len() < length {
            input.reserve(length - input.len());
            return false;
        }
        let chunk = input.split_to(length);
        self.expect = Expect::Command;
        if self.recipients.is_empty() {
            say(out, "503 5.5.1 no valid recipients");
        } else if is_last && self.chunks.is_empty() {
            self.take(&chunk, out, receiver);
        } else {
            self.chunks.extend_from_slice(&chunk);
            if is_last {
                let content = std::mem::take(&mut self.chunks);
                self.take(&content, out, receiver);
            } else {
                say(out, "250 2.0.0 go on");
            }
        }
        true
    }

    fn take(&mut self, content: &[u8], out: &mut Vec<u8>, receiver: &Receiver) {
        let recipients = std::mem::take(&mut self.recipients);
        self.reset();
        if let Character::Moody { one_in } = receiver.site.character {
            let is_moody = |number: &u32| number.is_multiple_of(one_in) && receiver.since_first_try(*number).is_none();
            if recipients.iter().any(is_moody) {
                Counts::add(&receiver.counts.deferred);
                return say(out, "451 4.3.0 not now");
            }
        }
        let received = content::recognise(content);
        for number in recipients {
            Counts::add(&receiver.counts.delivered);
            if receiver.site.domain == SENDER_DOMAIN {
                receiver.ledger.note_dsn(number);
                continue;
            }
            let is_intact = received.is_some_and(|received| received.number == number && received.is_intact);
            if let Some(age) = receiver.ledger.note_arrival(number, is_intact) {
                receiver.arrived.add(age);
            }
        }
        say(out, "250 2.0.0 taken");
    }

    fn reset(&mut self) {
        self.has_mail = false;
        self.recipients.clear();
        self.chunks.clear();
    }
}

/// Takes a content off `input`, of which so much has been searched; if its final dot is not there, how much has been now.
pub(super) fn cut_content(input: &mut BytesMut, searched: usize) -> Result<BytesMut, usize> {
    let at = input.get(searched..).and_then(|unseen| memmem::find(unseen, DOT));
    let at = at.ok_or(input.len().saturating_sub(DOT.len() - 1))?;
    // The CRLF before the dot belongs to the content.
    let content = input.split_to(searched + at + 2);
    input.advance(DOT.len() - 2);
    Ok(content)
}

/// More octets than a command line has.
#[derive(Clone, Copy, Debug)]
pub(super) struct TooLong;

/// Takes a command line off `input`: none if it is not there, an error if it never will be.
pub(super) fn cut_line(input: &mut BytesMut) -> Result<Option<BytesMut>, TooLong> {
    match memchr(b'\n', input) {
        Some(end) => Ok(Some(input.split_to(end + 1))),
        None if input.len() > LONGEST_LINE => Err(TooLong),
        None => Ok(None),
    }
}

pub(super) fn say(out: &mut Vec<u8>, reply: &str) {
    out.extend_from_slice(reply.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn chunk_size(arguments: &str) -> Option<(usize, bool)> {
    let mut words = arguments.split_ascii_whitespace();
    let length: usize = words.next()?.parse().ok()?;
    Some((length, words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"))))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::demo::content::{Maker, forward_path, reverse_path};
    use crate::demo::ledger::{Ledger, Tally};
    use crate::demo::sites::{self, SITES};

    fn receiver(domain: &str) -> Receiver {
        let site = SITES.iter().find(|site| site.domain == domain).unwrap();
        Receiver::new(*site, Arc::new(Ledger::new(1_000)), 1_000)
    }

    fn number_of(domain: &str, is_wanted: impl Fn(u32) -> bool) -> u32 {
        (0..1_000).find(|number| sites::of_message(*number).domain == domain && is_wanted(*number)).unwrap()
    }

    fn transaction(number: u32) -> Vec<u8> {
        let mut octets =
            BytesMut::from(format!("MAIL FROM:<>\r\nRCPT TO:<{}>\r\nDATA\r\n", forward_path(number)).as_str());
        Maker::default().write(number, &mut octets);
        octets.extend_from_slice(b".\r\n");
        octets.to_vec()
    }

    /// Feeds `octets` in pieces of `piece` and gives the reply codes.
    fn talk(receiver: &Receiver, octets: &[u8], piece: usize) -> Vec<String> {
        let (mut session, mut input, mut out) = (Session::default(), BytesMut::new(), Vec::new());
        for part in octets.chunks(piece) {
            input.extend_from_slice(part);
            session.feed(&mut input, &mut out, receiver);
        }
        String::from_utf8(out).unwrap().lines().map(|line| line.chars().take(3).collect()).collect()
    }

    #[test]
    fn pipelined_message_is_taken_however_it_is_cut() {
        for piece in [1, 7, 1_000, usize::MAX] {
            let receiver = receiver("fast.test");
            let number = number_of("fast.test", |_| true);

            let codes = talk(&receiver, &transaction(number), piece);

            assert_eq!(codes, ["250", "250", "354", "250"], "{piece}");
            let expected = Tally { delivered: 1, ..Tally::default() };
            assert_eq!(receiver.ledger.tally(), expected, "{piece}");
        }
    }

    #[test]
    fn chunked_message_is_taken_in_one_chunk_or_several() {
        for first in [None, Some(100)] {
            let receiver = receiver("chunking.test");
            let number = number_of("chunking.test", |_| true);
            let mut content = BytesMut::new();
            Maker::default().write(number, &mut content);
            let mut octets = format!("MAIL FROM:<>\r\nRCPT TO:<{}>\r\n", forward_path(number)).into_bytes();
            if let Some(length) = first {
                octets.extend_from_slice(format!("BDAT {length}\r\n").as_bytes());
                octets.extend_from_slice(&content.split_to(length));
            }
            octets.extend_from_slice(format!("BDAT {} LAST\r\n", content.len()).as_bytes());
            octets.extend_from_slice(&content);

            talk(&receiver, &octets, 500);

            assert_eq!((receiver.ledger.tally().delivered, receiver.ledger.tally().altered), (1, 0));
        }
    }

    #[test]
    fn moody_receiver_defers_a_message_once() {
        let receiver = receiver("moody.test");
        let number = number_of("moody.test", |number| number.is_multiple_of(5));

        assert_eq!(talk(&receiver, &transaction(number), 4_096).last().unwrap(), "451");
        assert_eq!(talk(&receiver, &transaction(number), 4_096).last().unwrap(), "250");
    }

    #[test]
    fn unknown_user_is_refused_and_no_content_asked_for() {
        let receiver = receiver("unknown-users.test");
        let number = number_of("unknown-users.test", |number| number.is_multiple_of(10));
        let envelope = format!("MAIL FROM:<>\r\nRCPT TO:<{}>\r\nDATA\r\n", forward_path(number));

        assert_eq!(talk(&receiver, envelope.as_bytes(), 4_096), ["250", "550", "554"]);
    }

    #[test]
    fn greylisting_receiver_turns_the_first_try_away() {
        let receiver = receiver("greylisting.test");
        let number = number_of("greylisting.test", |_| true);

        assert_eq!(talk(&receiver, &transaction(number), 4_096)[1], "450");
    }

    #[test]
    fn dsn_is_counted_by_the_address_it_comes_to() {
        let receiver = receiver(SENDER_DOMAIN);
        let dsn = format!("MAIL FROM:<>\r\nRCPT TO:<{}>\r\nDATA\r\nSubject: x\r\n\r\nno\r\n.\r\n", reverse_path(9));

        talk(&receiver, dsn.as_bytes(), 4_096);

        assert_eq!(receiver.ledger.tally().bounced, 1);
    }

    #[test]
    fn a_sink_takes_mail_that_is_none_of_ours_and_counts_it() {
        let character = Character::Sink { has_chunking: false, delay: Duration::ZERO };
        let site = sites::Site { character, ..SITES[0] };
        let receiver = Receiver::new(site, Arc::new(Ledger::new(10_000)), 10_000);
        let mail = b"MAIL FROM:<>\r\nRCPT TO:<who@ever.test>\r\nDATA\r\nSubject: x\r\n\r\nhi\r\n.\r\n";

        let codes = talk(&receiver, mail, 4_096);

        assert_eq!(codes, ["250", "250", "354", "250"]);
        assert_eq!(receiver.counts.delivered.load(std::sync::atomic::Ordering::Relaxed), 1);
        assert_eq!(receiver.ledger.tally(), Tally::default());
    }

    #[test]
    fn somebody_elses_recipient_is_refused() {
        let codes = talk(&receiver("fast.test"), b"MAIL FROM:<>\r\nRCPT TO:<user-1@slow.test>\r\n", 4_096);

        assert_eq!(codes, ["250", "550"]);
    }
}

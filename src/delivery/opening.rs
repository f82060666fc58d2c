//! From the connection to the first MAIL, without I/O: greeting, EHLO with HELO as fall-back, STARTTLS.
//!
//! | awaits | 2yz | 421, 4yz | 5yz |
//! |---|---|---|---|
//! | greeting | EHLO | fail | fail |
//! | EHLO | STARTTLS if wanted and announced, else open | fail | HELO |
//! | HELO | open | fail | fail |
//! | STARTTLS | handshake, then [`Opening::secured`] and EHLO again | open in clear (421: fail) | open in clear |
//!
//! Where TLS is a must, what would open in clear fails instead, with the phase of STARTTLS.
//!
//! Octets behind a reply before the next command was sent are a violation; behind the reply to STARTTLS they could be an
//! attacker's (CVE-2011-0411).

use crate::message::Phase;
use crate::smtp::reply::{Extensions, Reader, Received, Reply, Violation};
use crate::smtp::status::Status;

/// What the rim has to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write the output, if any, then read.
    Read,
    /// Do the TLS handshake, then call [`Opening::secured`].
    Handshake,
    /// Transactions may begin.
    Open,
    /// This receiver does not want us now, or at all.
    Fail(Failure),
}

/// Why a connection could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// At which step.
    pub phase: Phase,
    /// The reply, or what stands in for it.
    pub reply: Reply,
    /// The receiver broke the protocol: nothing more is tried with it now.
    pub is_violation: bool,
}

impl Failure {
    /// A failure that no reply explains: X.4.2, bad connection, unless `status` knows better.
    pub fn local(phase: Phase, status: Status, text: impl Into<Box<str>>) -> Self {
        Self { phase, reply: Reply::local(status, text), is_violation: false }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Nothing,
}

/// The opening of one session.
#[derive(Debug)]
pub struct Opening {
    reader: Reader,
    output: Vec<u8>,
    awaits: Awaits,
    ehlo_name: Box<str>,
    wanted: Wanted,
    secured: bool,
    extensions: Extensions,
}

/// Whether STARTTLS is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Not even if it is announced.
    No,
    /// If it is announced.
    IfOffered,
    /// Without it there is no connection.
    Must,
}

impl Opening {
    /// An opening that introduces itself as `ehlo_name` and uses STARTTLS as `wanted`.
    pub fn new(ehlo_name: &str, wanted: Wanted) -> Self {
        Self {
            reader: Reader::default(),
            output: Vec::new(),
            awaits: Awaits::Greeting,
            ehlo_name: ehlo_name.into(),
            wanted,
            secured: false,
            extensions: Extensions::default(),
        }
    }

    /// Where to append what was read.
    pub fn room(&mut self) -> &mut Vec<u8> {
        self.reader.room()
    }

    /// Commands to write; the rim clears it when they are written.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// The phase that the next reply belongs to.
    pub fn phase(&self) -> Phase {
        match self.awaits {
            Awaits::Greeting => Phase::Greeting,
            Awaits::StartTls => Phase::StartTls,
            Awaits::Ehlo | Awaits::Helo | Awaits::Nothing => Phase::Ehlo,
        }
    }

    /// The handshake is done: what was said before it is void (RFC 3207, 4.2).
    pub fn secured(&mut self) {
        self.secured = true;
        self.extensions = Extensions::default();
        self.say("EHLO", Awaits::Ehlo);
    }

    /// What the receiver announced, and its octets read so far.
    pub fn into_parts(self) -> (Extensions, Reader) {
        (self.extensions, self.reader)
    }

    /// What is to be done now.
    pub fn step(&mut self) -> Step {
        let phase = self.phase();
        match self.reader.next() {
            Err(violation) => violated(phase, violation),
            Ok(None) => Step::Read,
            // Nothing is pipelined here: what follows a reply answers no command.
            Ok(Some(_)) if self.reader.has_more() => violated(phase, Violation::Unsolicited),
            Ok(Some(received)) => self.answered(received),
        }
    }

    fn answered(&mut self, received: Received) -> Step {
        let reply = || self.reader.reply(&received);
        match (self.awaits, received.code / 100) {
            (Awaits::Greeting, 2) => self.say("EHLO", Awaits::Ehlo),
            (Awaits::Ehlo, 5) => self.say("HELO", Awaits::Helo),
            (Awaits::Ehlo, 2) => {
                self.extensions = Extensions::parse(self.reader.lines(&received));
                if self.wanted != Wanted::No && !self.secured && self.extensions.starttls {
                    self.output.extend_from_slice(b"STARTTLS\r\n");
                    self.awaits = Awaits::StartTls;
                    Step::Read
                } else {
                    self.open()
                }
            }
            (Awaits::Helo, 2) => self.open(),
            (Awaits::StartTls, 3..=5) if received.code != 421 && self.wanted == Wanted::Must => {
                let reply = reply();
                let said = format!("{} {}", reply.code, reply.text);
                unsecured(format!("the receiver refuses STARTTLS, which it must not here: {said}"))
            }
            (Awaits::StartTls, 2) => {
                self.awaits = Awaits::Nothing;
                Step::Handshake
            }
            (Awaits::StartTls, _) if received.code != 421 => self.open(),
            (_, 4 | 5) => Step::Fail(Failure { phase: self.phase(), reply: reply(), is_violation: false }),
            _ => violated(self.phase(), Violation::Unfitting),
        }
    }

    fn say(&mut self, verb: &str, awaits: Awaits) -> Step {
        for part in [verb, " ", &self.ehlo_name, "\r\n"] {
            self.output.extend_from_slice(part.as_bytes());
        }
        self.awaits = awaits;
        Step::Read
    }

    fn open(&mut self) -> Step {
        if self.wanted == Wanted::Must && !self.secured {
            return unsecured("the receiver does not offer STARTTLS, which it must here".to_owned());
        }
        self.awaits = Awaits::Nothing;
        Step::Open
    }
}

/// TLS is a must and cannot be had: a deferral whatever the receiver said, since it may be an attacker who speaks.
fn unsecured(text: String) -> Step {
    // X.7.4: security features not supported.
    let reply = Reply::local(Status::new(4, 7, 4), text);
    Step::Fail(Failure { phase: Phase::StartTls, reply, is_violation: false })
}

fn violated(phase: Phase, violation: Violation) -> Step {
    // X.5.0: other or undefined protocol status.
    let reply = Reply::local(Status::new(4, 5, 0), format!("the receiver broke the protocol: {violation}"));
    Step::Fail(Failure { phase, reply, is_violation: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(wants_tls: bool, replies: &[&str]) -> (Step, String) {
        talk_as(if wants_tls { Wanted::IfOffered } else { Wanted::No }, replies)
    }

    fn talk_as(wanted: Wanted, replies: &[&str]) -> (Step, String) {
        let mut opening = Opening::new("out.test", wanted);
        let mut said = String::new();
        let mut step = Step::Read;
        for reply in replies {
            opening.room().extend_from_slice(reply.as_bytes());
            step = opening.step();
            if step == Step::Handshake {
                opening.secured();
            }
            said.push_str(std::str::from_utf8(opening.output()).unwrap());
            opening.output().clear();
        }
        (step, said)
    }

    #[test]
    fn ehlo_follows_the_greeting() {
        let (step, said) = talk(true, &["220 mx.test\r\n", "250-mx.test\r\n250 PIPELINING\r\n"]);

        assert_eq!((step, said.as_str()), (Step::Open, "EHLO out.test\r\n"));
    }

    #[test]
    fn a_5yz_to_ehlo_falls_back_to_helo() {
        let (step, said) = talk(true, &["220 x\r\n", "502 what\r\n", "250 x\r\n"]);

        assert_eq!((step, said.as_str()), (Step::Open, "EHLO out.test\r\nHELO out.test\r\n"));
    }

    #[test]
    fn after_the_handshake_ehlo_is_said_again_and_starttls_not() {
        let ehlo = "250-x\r\n250 STARTTLS\r\n";
        let (step, said) = talk(true, &["220 x\r\n", ehlo, "220 go\r\n", ehlo]);

        assert_eq!((step, said.as_str()), (Step::Open, "EHLO out.test\r\nSTARTTLS\r\nEHLO out.test\r\n"));
    }

    #[test]
    fn a_refused_starttls_goes_on_in_clear_except_after_421() {
        let ehlo = "250-x\r\n250 STARTTLS\r\n";

        assert_eq!(talk(true, &["220 x\r\n", ehlo, "454 no\r\n"]).0, Step::Open);
        assert_eq!(talk(true, &["220 x\r\n", ehlo, "554 no\r\n"]).0, Step::Open);
        assert!(matches!(talk(true, &["220 x\r\n", ehlo, "421 no\r\n"]).0, Step::Fail(_)));
        assert_eq!(talk(false, &["220 x\r\n", ehlo]).0, Step::Open);
    }

    #[test]
    fn where_tls_is_a_must_nothing_opens_in_clear_and_nothing_bounces() {
        let (plain, ehlo) = ("250-x\r\n250 SIZE\r\n", "250-x\r\n250 STARTTLS\r\n");
        let dialogues: [&[&str]; 4] = [
            &["220 x\r\n", plain],
            &["220 x\r\n", "502 what\r\n", "250 x\r\n"],
            &["220 x\r\n", ehlo, "554 5.7.1 no\r\n"],
            &["220 x\r\n", ehlo, "454 no\r\n"],
        ];

        for replies in dialogues {
            let Step::Fail(failure) = talk_as(Wanted::Must, replies).0 else { panic!("{replies:?}") };
            assert_eq!((failure.phase, failure.reply.code), (Phase::StartTls, 0));
            assert_eq!(failure.reply.status, Some(Status::new(4, 7, 4)), "{replies:?}");
        }
        assert_eq!(talk_as(Wanted::Must, &["220 x\r\n", ehlo, "220 go\r\n", plain]).0, Step::Open);
    }

    #[test]
    fn octets_behind_the_reply_to_starttls_are_refused() {
        let (step, _) = talk(true, &["220 x\r\n", "250-x\r\n250 STARTTLS\r\n", "220 go\r\n250 injected\r\n"]);

        assert!(matches!(step, Step::Fail(Failure { phase: Phase::StartTls, .. })), "{step:?}");
    }

    #[test]
    fn a_reply_before_the_command_is_refused() {
        let (step, said) = talk(true, &["220 x\r\n250 x\r\n"]);

        assert!(matches!(step, Step::Fail(Failure { phase: Phase::Greeting, .. })), "{step:?}");
        assert_eq!(said, "");
    }
}

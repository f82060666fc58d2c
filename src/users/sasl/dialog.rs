//! An authentication as SMTP carries it (RFC 4954): the argument of AUTH, then lines, in base64 both ways.
//!
//! Still without I/O: a session gives it what the client sent and says what comes back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Channel, Claim, Directory, Exchange, Mechanism, Turn};

/// Octets of a line of the client, its CRLF included (RFC 4954, 4).
pub const LINE_MOST: usize = 12_288;

/// An authentication that is going on.
#[derive(Debug)]
pub struct Dialog {
    mechanism: Mechanism,
    exchange: Exchange,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Say 334 and this, and read a line.
    Ask(String),
    /// Have it verified; then [`Dialog::verified`], or a refusal.
    Verify(Claim),
    /// Say 235.
    Accepted,
    /// It is over.
    Failed(Fault),
}

/// Why it is over before anything was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No such mechanism, or not offered here: 504 5.5.4.
    Mechanism,
    /// Not base64, or against the mechanism's rules: 501 5.5.2.
    Syntax,
    /// The client gave up: 501 5.7.0.
    Cancelled,
    /// A line over [`LINE_MOST`]: 500 5.5.6.
    TooLong,
}

impl Dialog {
    /// Begins with what stood behind AUTH: a mechanism, and perhaps an initial response. `offered` are the mechanisms that
    /// this client has been told of; `nonce` is random.
    pub fn begin(
        argument: &str,
        offered: &[Mechanism],
        nonce: [u8; 18],
        channel: &Channel,
        directory: &dyn Directory,
    ) -> Result<(Self, Next), Fault> {
        let (name, initial) = argument.split_once(' ').map_or((argument, None), |(name, rest)| (name, Some(rest)));
        let mechanism = Mechanism::parse(name).filter(|mechanism| offered.contains(mechanism));
        let mechanism = mechanism.ok_or(Fault::Mechanism)?;
        let is_plus_offered = offered.contains(&Mechanism::ScramSha256Plus);
        let mut dialog = Self { mechanism, exchange: Exchange::new(mechanism, nonce, is_plus_offered) };
        let next = match initial {
            None => Next::Ask(STANDARD.encode(dialog.exchange.challenge())),
            // RFC 4954, 4: a response of no octets is written as `=`.
            Some("=") => dialog.take(&[], channel, directory),
            Some("") => return Err(Fault::Syntax),
            Some(text) => {
                let response = STANDARD.decode(text).map_err(|_| Fault::Syntax)?;
                dialog.take(&response, channel, directory)
            }
        };
        Ok((dialog, next))
    }

    /// Takes a line, without its CRLF.
    pub fn line(&mut self, line: &[u8], channel: &Channel, directory: &dyn Directory) -> Next {
        match line {
            b"*" => Next::Failed(Fault::Cancelled),
            line if line.len() + 2 > LINE_MOST => Next::Failed(Fault::TooLong),
            line => match STANDARD.decode(line) {
                Ok(response) => self.take(&response, channel, directory),
                Err(_) => Next::Failed(Fault::Syntax),
            },
        }
    }

    /// The claim has been found true.
    pub fn verified(&mut self) -> Next {
        Self::next(self.exchange.verified())
    }

    /// Which one it is.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    fn take(&mut self, response: &[u8], channel: &Channel, directory: &dyn Directory) -> Next {
        Self::next(self.exchange.respond(response, channel, directory))
    }

    fn next(turn: Turn) -> Next {
        match turn {
            Turn::Challenge(text) => Next::Ask(STANDARD.encode(text)),
            Turn::Verify(claim) => Next::Verify(claim),
            Turn::Done => Next::Accepted,
            Turn::Malformed => Next::Failed(Fault::Syntax),
        }
    }
}

/// The mechanisms that a client is told of: by password only where nobody listens, bound ones where there is something to be
/// bound to, and a certificate only to who has shown one. SCRAM only if anybody has keys for it: clients take the strongest
/// mechanism that they are told of, and do not try another one when it fails.
pub fn offered(channel: &Channel, is_private: bool, has_scram: bool) -> Vec<Mechanism> {
    let is_offered = |mechanism: &Mechanism| match mechanism {
        Mechanism::External => channel.certificate.is_some(),
        Mechanism::ScramSha256Plus => channel.can_bind() && has_scram,
        Mechanism::ScramSha256 => is_private && has_scram,
        Mechanism::Plain | Mechanism::Login => is_private,
    };
    Mechanism::ALL.into_iter().filter(is_offered).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Certificate;
    use super::*;
    use crate::users::scram::Keys;

    struct Nobody;

    impl Directory for Nobody {
        fn keys(&self, name: &str) -> Keys {
            Keys::of_nobody(b"secret", name, std::num::NonZeroU32::MIN)
        }
    }

    fn begin(argument: &str) -> Result<Next, Fault> {
        let channel = Channel::default();
        let offered = offered(&channel, true, true);
        Dialog::begin(argument, &offered, [0; 18], &channel, &Nobody).map(|(_, next)| next)
    }

    fn claim() -> Next {
        Next::Verify(Claim::Password { name: "tim".into(), password: "tanstaaftanstaaf".into(), is_own: true })
    }

    #[test]
    fn the_initial_response_of_rfc_4954_is_read_in_the_command_or_in_a_line() {
        let channel = Channel::default();
        let response = "AHRpbQB0YW5zdGFhZnRhbnN0YWFm";

        assert_eq!(begin(&format!("PLAIN {response}")), Ok(claim()));
        let (mut dialog, next) = Dialog::begin("plain", &[Mechanism::Plain], [0; 18], &channel, &Nobody).unwrap();
        assert_eq!(next, Next::Ask(String::new()));
        assert_eq!(dialog.line(response.as_bytes(), &channel, &Nobody), claim());
        assert_eq!((dialog.verified(), dialog.mechanism()), (Next::Accepted, Mechanism::Plain));
        assert_eq!(begin("LOGIN"), Ok(Next::Ask("VXNlcm5hbWU6".to_owned())));
        assert_eq!(begin("LOGIN dGlt"), Ok(Next::Ask("UGFzc3dvcmQ6".to_owned())));
    }

    #[test]
    fn what_is_no_exchange_ends_it_with_its_own_fault() {
        for (argument, fault) in [
            ("CRAM-MD5", Fault::Mechanism),
            ("EXTERNAL =", Fault::Mechanism),
            ("SCRAM-SHA-256-PLUS", Fault::Mechanism),
            ("", Fault::Mechanism),
            ("PLAIN ", Fault::Syntax),
            ("PLAIN *", Fault::Syntax),
            ("PLAIN AHRpbQB0YW5z dGFh", Fault::Syntax),
            ("PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWF", Fault::Syntax),
        ] {
            assert_eq!(begin(argument), Err(fault), "{argument:?}");
        }
        assert_eq!(begin("PLAIN ="), Ok(Next::Failed(Fault::Syntax)), "no octets are no password");
        let line = |line: &[u8]| {
            let channel = Channel::default();
            let (mut dialog, _) = Dialog::begin("PLAIN", &[Mechanism::Plain], [0; 18], &channel, &Nobody).unwrap();
            dialog.line(line, &channel, &Nobody)
        };
        assert_eq!(line(b"*"), Next::Failed(Fault::Cancelled));
        assert_eq!(line(&[b'A'; LINE_MOST - 1]), Next::Failed(Fault::TooLong));
        assert_eq!(line(&[b'A'; LINE_MOST - 4]), Next::Failed(Fault::Syntax));
        assert_eq!(line(b"\xff"), Next::Failed(Fault::Syntax));
    }

    #[test]
    fn in_clear_nothing_is_offered_unless_the_place_is_private() {
        let clear = Channel::default();
        let exporter = Channel { exporter: Some([0; 32]), ..Channel::default() };
        let certificate = Some(Certificate { sha256: [0; 32], names: Vec::new() });
        let names = |channel: &Channel, is_private| {
            offered(channel, is_private, true).into_iter().map(Mechanism::as_str).collect::<Vec<_>>().join(" ")
        };

        assert_eq!(offered(&exporter, true, false), [Mechanism::Plain, Mechanism::Login]);
        assert_eq!(names(&clear, false), "");
        assert_eq!(names(&clear, true), "SCRAM-SHA-256 PLAIN LOGIN");
        assert_eq!(names(&exporter, true), "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN");
        let all = Channel { certificate, ..exporter };
        assert_eq!(names(&all, true), "EXTERNAL SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN");
    }
}

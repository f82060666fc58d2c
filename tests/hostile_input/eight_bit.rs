//! S9: what of a message is beyond ASCII, what its client declared, what the receiver announces: the whole matrix, from the
//! session to the wire.

use std::sync::Arc;

use hikyaku::message::Outcome;
use hikyaku::submission::Settings;

use crate::cases::cases;
use crate::driver::Client;
use crate::errand::{Errand, Run, errand};
use crate::fake_mx::FakeMx;

/// What is beyond ASCII.
#[derive(Clone, Copy, Debug)]
struct Letter {
    reverse_path: bool,
    forward_path: bool,
    header: Part,
    body: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Ascii,
    Utf8,
    /// Octets that are no UTF-8.
    Latin1,
}

impl Part {
    const ALL: [Self; 3] = [Self::Ascii, Self::Utf8, Self::Latin1];

    fn octets(self) -> &'static [u8] {
        match self {
            Self::Ascii => b"u",
            Self::Utf8 => "\u{fc}".as_bytes(),
            Self::Latin1 => b"\xfc\xff",
        }
    }
}

const DECLARED: [&str; 4] = ["", " BODY=7BIT", " BODY=8BITMIME", " BODY=8BITMIME SMTPUTF8"];
const OFFERED: [&[&str]; 4] = [&[], &["8BITMIME"], &["SMTPUTF8"], &["8BITMIME", "SMTPUTF8"]];

impl Letter {
    fn all() -> impl Iterator<Item = Self> {
        let bits = [false, true];
        bits.into_iter().flat_map(move |reverse_path| {
            bits.into_iter().flat_map(move |forward_path| {
                Part::ALL.into_iter().flat_map(move |header| {
                    Part::ALL.into_iter().map(move |body| Self { reverse_path, forward_path, header, body })
                })
            })
        })
    }

    fn content(self) -> Vec<u8> {
        [b"Subject: ", self.header.octets(), b"\r\n\r\n", self.body.octets(), b"\r\n"].concat()
    }

    fn has_eight_bit_path(self) -> bool {
        self.reverse_path || self.forward_path
    }

    /// Submits it: the message, or the reply that refuses it.
    fn submit(self, declared: &str) -> Result<Errand, String> {
        let mut client = Client::ready(Settings::default());
        let path = |is_eight: bool, name: &str| if is_eight { format!("\u{fc}{name}") } else { name.to_owned() };
        let (from, to) = (path(self.reverse_path, "a@x.test"), path(self.forward_path, "b@y.test"));
        for line in [format!("MAIL FROM:<{from}>{declared}\r\n"), format!("RCPT TO:<{to}>\r\n"), "DATA\r\n".to_owned()]
        {
            let reply = client.send(line.as_bytes());
            if !reply.starts_with(['2', '3']) {
                return Err(reply);
            }
        }
        let reply = client.send(&[self.content().as_slice(), b".\r\n"].concat());
        let message = client.messages.pop().ok_or(reply)?;
        let mut errand = errand(1, &message.stored);
        errand.message.envelope = Arc::new(message.envelope);
        Ok(errand)
    }

    /// The reply that refuses it, if it cannot be taken.
    fn refusal(self, declared: &str) -> Option<&'static str> {
        match () {
            () if self.has_eight_bit_path() && !declared.contains("SMTPUTF8") => Some("553 5.6.7"),
            () if self.header == Part::Latin1 => Some("554 5.6.9"),
            () => None,
        }
    }

    /// The status that it bounces with at a receiver that offers this.
    fn bounce(self, offered: &[&str]) -> Option<&'static str> {
        let (has_utf8, has_eight) = (offered.contains(&"SMTPUTF8"), offered.contains(&"8BITMIME"));
        match () {
            () if self.forward_path && !has_utf8 => Some("5.6.7"),
            () if self.reverse_path && !has_utf8 => Some("5.6.7"),
            () if self.header == Part::Utf8 && !has_utf8 => Some("5.6.9"),
            // RFC 6531, 3.1: who offers SMTPUTF8 must offer 8BITMIME; taken at its word.
            () if self.body != Part::Ascii && !has_eight => Some("5.6.3"),
            () if self.header == Part::Utf8 && !has_eight => Some("5.6.3"),
            () => None,
        }
    }
}

#[tokio::test]
async fn what_is_beyond_ascii_is_refused_bounced_or_arrives_octet_by_octet() {
    let mut count = 0;
    for letter in Letter::all() {
        for declared in DECLARED {
            let errand = letter.submit(declared);

            if let Some(code) = letter.refusal(declared) {
                let reply = errand.err().unwrap_or_else(|| panic!("{letter:?}{declared} was taken"));
                assert!(reply.starts_with(code), "{letter:?}{declared}: {reply}");
                count += 1;
                continue;
            }
            drop(errand);
            for offered in OFFERED {
                let errand = letter.submit(declared).unwrap_or_else(|reply| panic!("{letter:?}{declared}: {reply}"));
                arrives(letter, declared, offered, errand).await;
                count += 1;
            }
        }
    }
    cases(count);
}

async fn arrives(letter: Letter, declared: &str, offered: &[&str], errand: Errand) {
    let what = format!("{letter:?}{declared} to {offered:?}");
    let mx = FakeMx::with(offered).start().await;

    let log = Run::to(&[&mx]).ready([errand]).go().await;

    let reported = log.reports.iter().flat_map(|(_, outcomes)| outcomes);
    let outcomes: Vec<_> = reported.chain(log.failed.iter().map(|(_, outcome)| outcome)).collect();
    assert_eq!(outcomes.len(), 1, "{what}: {log:?}");
    let received = mx.transactions();
    match letter.bounce(offered) {
        Some(status) => {
            assert!(matches!(outcomes[0], Outcome::Bounced(_)), "{what}: {log:?}");
            let told = outcomes[0].report().reply.status.map(|status| status.to_string());
            assert_eq!(told.as_deref(), Some(status), "{what}");
            assert!(received.is_empty(), "{what}");
        }
        None => {
            assert!(matches!(outcomes[0], Outcome::Delivered(_)), "{what}: {log:?}");
            assert!(received[0].content.ends_with(&letter.content()[b"Subject: ".len()..]), "{what}");
            let mail = &received[0].mail;
            let needs_utf8 = letter.has_eight_bit_path() || letter.header == Part::Utf8;
            assert!(mail.contains("SMTPUTF8") == needs_utf8 || declared.contains("SMTPUTF8"), "{what}: {mail}");
            let needs_eight = letter.body != Part::Ascii || letter.header != Part::Ascii;
            assert!(mail.contains("BODY=8BITMIME") || !needs_eight, "{what}: {mail}");
        }
    }
}

//! S2: whatever S1 leaves of a content goes on to receivers that end lines and data in other ways than we do: each gets one
//! message, stuffed exactly, and no bare CR or LF is on the wire.

use hikyaku::message::Outcome;
use hikyaku::submission::{LineEndings, Settings};

use crate::cases::cases;
use crate::driver::{Client, ENVELOPE};
use crate::errand::{Run, errand};
use crate::fake_mx::{Dialect, FakeMx};
use crate::hostile::{HIDDEN, has_bare, variants};

/// What a session accepts of every variant: by DATA and in one and two chunks, refused or made whole.
pub fn accepted() -> Vec<Vec<u8>> {
    let mut stored = Vec::new();
    for line_endings in [LineEndings::Reject, LineEndings::Normalize] {
        for (variant, _) in variants() {
            let body = format!("{variant}{HIDDEN}");
            let (one, two) = body.split_at(variant.len() - 1);
            let inputs = [
                format!("DATA\r\n{body}.\r\n"),
                format!("BDAT {} LAST\r\n{body}", body.len()),
                format!("BDAT {}\r\n{one}BDAT {} LAST\r\n{two}", one.len(), two.len()),
                // A dot is the last octet, and there is no line end.
                format!("BDAT {} LAST\r\n{variant}.", variant.len() + 1),
            ];
            for input in inputs {
                let mut client = Client::ready(Settings { line_endings, ..Settings::default() });
                client.send(format!("{ENVELOPE}{input}").as_bytes());
                stored.extend(client.messages.into_iter().map(|message| message.stored));
            }
        }
    }
    stored
}

/// RFC 5321, 4.5.2, in the plainest way.
fn stuffed(content: &str) -> String {
    let stuffed = content.replace("\r\n.", "\r\n..");
    let first = if stuffed.starts_with('.') { "." } else { "" };
    format!("{first}{stuffed}.\r\n")
}

#[tokio::test]
async fn what_sessions_accept_arrives_once_and_exactly_stuffed_at_receivers_of_every_dialect() {
    let contents = accepted();
    assert!(contents.len() > 100, "{}", contents.len());
    for extensions in [&["PIPELINING"][..], &[], &["PIPELINING", "CHUNKING"]] {
        for dialect in [Dialect::Strict, Dialect::Lf, Dialect::Cr] {
            let mx = FakeMx::with(extensions).dialect(dialect).start().await;
            let errands = contents.iter().zip(1..).map(|(content, number)| errand(number, content));

            let log = Run::to(&[&mx]).ready(errands).go().await;

            let is_delivered = |outcomes: &[Outcome]| matches!(outcomes, [Outcome::Delivered(_)]);
            assert!(log.reports.iter().all(|(_, outcomes)| is_delivered(outcomes)), "{log:?}");
            let arrived: Vec<_> = mx.transactions().into_iter().map(|received| received.content).collect();
            assert_eq!(arrived, contents, "{extensions:?} {dialect:?}");
            let wire: Vec<u8> = mx.reads().into_iter().flat_map(|(_, octets)| octets).collect();
            let wire = String::from_utf8(wire).unwrap();
            assert!(!has_bare(&wire), "{extensions:?}");
            let is_chunking = extensions.contains(&"CHUNKING");
            let ends = wire.matches("\r\n.\r\n").count();
            assert!(is_chunking || ends == contents.len(), "{ends} ends of data for {} messages", contents.len());
            for content in &contents {
                let content = std::str::from_utf8(content).unwrap();
                let expected = if is_chunking { content.to_owned() } else { stuffed(content) };
                assert!(wire.contains(&expected), "{extensions:?} {content:?}");
            }
            cases(contents.len());
        }
    }
}

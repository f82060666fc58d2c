//! A whole session of submission, from EHLO on.

use std::sync::Arc;

use hikyaku::clock::UnixTime;
use hikyaku::message::MessageId;
use hikyaku::submission::admit::{Admitted, Context, admit};
use hikyaku::submission::session::{Session, Step};
use hikyaku::submission::{LineEndings, Settings};

use super::open::{Open, drive};
use super::{is_plain, pieces};

/// Octets that a session may hold beside content.
const HELD_MOST: usize = 256 * 1024;

/// What one run came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    replies: Vec<u8>,
    stored: Vec<Vec<u8>>,
    is_closed: bool,
}

/// The first octet says how the input is cut, and whether bare line ends are made whole.
pub fn session(octets: &[u8]) {
    let Some((&size, input)) = octets.split_first() else { return };
    let line_endings = if size % 2 == 0 { LineEndings::Reject } else { LineEndings::Normalize };
    let settings = Arc::new(Settings { line_endings, max_message_size: 100_000, max_hops: 5, ..Settings::default() });

    let whole = run(std::iter::once(input), &settings);

    assert_eq!(run(pieces(input, size), &settings), whole, "by {size}");
    let replies = String::from_utf8(whole.replies).expect("replies are text");
    assert!(replies.is_ascii() && replies.split_inclusive("\r\n").all(|line| line.ends_with("\r\n")), "{replies:?}");
    assert!(replies.split("\r\n").all(is_plain), "{replies:?}");
    for stored in whole.stored {
        let text = String::from_utf8_lossy(&stored);
        assert!(!text.replace("\r\n", "").contains(['\r', '\n', '\0']), "{text:?}");
        let (trace, _) = text.split_once("\r\n\r\n").expect("a header section");
        assert!(trace.starts_with("Received: from "), "{trace:?}");
        let fields = trace.replace("\r\n ", " ").replace("\r\n\t", " ");
        let first = fields.split("\r\n").next().unwrap_or_default();
        assert!(is_plain(first), "{first:?}");
        let is_ours = |line: &str| line.to_ascii_lowercase().starts_with("x-hikyaku-");
        assert!(!fields.split("\r\n").any(is_ours), "{fields:?}");
    }
}

fn run<'a>(parts: impl Iterator<Item = &'a [u8]>, settings: &Arc<Settings>) -> Seen {
    let mut session = Session::new(Arc::clone(settings), "mx.test".into(), [127, 0, 0, 1].into(), &mut Open);
    let (mut seen, mut unread) = (Seen::default(), Vec::new());
    let hello = b"EHLO c.test\r\n".as_slice();
    for part in std::iter::once(hello).chain(parts) {
        unread.extend_from_slice(part);
        let (used, _) = drive(&mut session, &unread, |session, step| {
            match step {
                Step::Read | Step::Write => {}
                Step::Store => store(session, &mut seen),
                Step::Secure | Step::Verify => unreachable!("neither is offered"),
                Step::Close => seen.is_closed = true,
            }
            assert!(session.held() <= HELD_MOST, "{}", session.held());
            seen.replies.append(session.replies());
        });
        if seen.is_closed {
            break;
        }
        unread.drain(..used);
        assert!(session.held() + unread.len() <= HELD_MOST);
    }
    seen
}

fn store(session: &mut Session, seen: &mut Seen) {
    let transaction = session.take_transaction().expect("a transaction");
    let id = MessageId(seen.stored.len() as u64 + 1);
    match admit(transaction, session.content().bytes(), &Context::of(session, None, id, UnixTime(0))) {
        Ok(Admitted { envelope, content, .. }) => {
            assert!(is_plain(envelope.reverse_path.as_str()) && envelope.envid.as_deref().is_none_or(is_plain));
            assert!(is_plain(&envelope.tenant) && is_plain(&envelope.campaign));
            assert!(envelope.recipients.iter().all(|recipient| is_plain(recipient.forward_path.as_str())));
            seen.stored.push(content);
            session.accepted(id);
        }
        Err(refusal) => session.refused(&refusal, &mut Open),
    }
}

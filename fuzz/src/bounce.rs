//! What comes back, whoever has written it.

use std::sync::LazyLock;

use hikyaku::bounce::parse::{Action, Kind, Parser};

use super::is_plain;

static PARSER: LazyLock<Parser> = LazyLock::new(|| Parser::built_in().expect("embedded rules and providers"));

/// Any message. What is told of it is bounded and plain and the same again; a bounce is about somebody, what is none about
/// nobody; an address is finished only where a message failed.
pub fn bounce(octets: &[u8]) {
    let parsed = PARSER.parse(octets);
    assert_eq!(PARSER.parse(octets), parsed, "the same again");
    assert!(parsed.recipients.len() <= 1_000);
    match parsed.kind {
        Kind::Bounce | Kind::Feedback | Kind::Delivered => assert!(!parsed.recipients.is_empty()),
        Kind::NotABounce | Kind::TlsReport => assert!(parsed.recipients.is_empty()),
        Kind::AutoReply | Kind::Relayed | Kind::Unsubscribe => {}
    }
    for recipient in &parsed.recipients {
        for address in [&recipient.address, &recipient.original].into_iter().flatten() {
            assert!(!address.is_empty() && is_plain(address), "{address:?}");
        }
        assert!(recipient.diagnostic.len() <= 2_000 && is_plain(&recipient.diagnostic), "{:?}", recipient.diagnostic);
        assert!(recipient.remote_mta.as_deref().is_none_or(is_plain));
        assert!(!recipient.is_permanent() || recipient.action == Some(Action::Failed));
    }
    let texts = [&parsed.feedback_type, &parsed.message_id, &parsed.tenant, &parsed.campaign];
    assert!(texts.into_iter().flatten().all(|text| is_plain(text)));
}

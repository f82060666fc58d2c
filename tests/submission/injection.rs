//! S4: hostile text in every parameter is refused, or kept harmless; nothing of it is ever echoed.

use hikyaku::smtp::address::{Address, ReversePath};
use hikyaku::submission::Settings;

use crate::cases::cases;
use crate::driver::Client;
use crate::hostile::{TEXTS, is_harmless, lines};

#[test]
fn hostile_text_never_reaches_envelope_trace_field_or_reply() {
    for text in TEXTS {
        for line in lines(text) {
            let mut client = Client::ready(Settings::default());
            let replies = client.send(format!("{line}\r\n").as_bytes());
            let lines_before = replies.lines().count();
            client.send(b"EHLO c.test\r\nMAIL FROM:<a@x.test>\r\n");
            client.send(b"RCPT TO:<b@y.test>\r\nDATA\r\nA: b\r\n.\r\n");

            assert!(replies.is_ascii() && replies.lines().all(is_harmless), "{line:?}: {replies:?}");
            let is_ehlo = replies.contains("250-PIPELINING");
            assert_eq!(lines_before, if is_ehlo { 10 } else { 1 }, "{line:?}: {replies}");
            for message in &client.messages {
                let trace = String::from_utf8(message.stored.clone()).unwrap().replace("\r\n", " ").replace('\t', " ");
                assert!(is_harmless(&trace), "{line:?}: {trace:?}");
                assert_eq!(message.envelope.recipients.len(), 1, "{line:?}");
            }
        }
        cases(lines(text).len());
    }
}

/// What is taken into an envelope can be written into a command, a trace field or a DSN as it is.
#[test]
fn what_an_envelope_keeps_is_harmless_and_means_the_same_when_written_out() {
    for text in TEXTS {
        for (path, parameters) in lines(text).iter().filter_map(|line| line.split_once('>')) {
            let Some(path) = path.strip_prefix("MAIL FROM:<") else { continue };
            let mut client = Client::ready(Settings::default());

            client.send(format!("MAIL FROM:<{path}>{parameters}\r\nRCPT TO:<b@y.test>\r\nDATA\r\n.\r\n").as_bytes());

            for message in &client.messages {
                let envelope = &message.envelope;
                if let ReversePath::Mailbox(address) = &envelope.reverse_path {
                    assert!(is_harmless(address.as_str()), "{path:?}");
                    assert!(!address.domain().contains(['\u{3002}', '\u{ff0e}', '\u{ff61}']), "{path:?}");
                    assert_eq!(address.as_str().parse::<Address>().as_ref(), Ok(address));
                }
                assert!(envelope.envid.as_deref().is_none_or(is_harmless));
                assert!(envelope.envid.as_deref().is_none_or(str::is_ascii));
            }
        }
    }
}

#[test]
fn header_fields_cannot_hide_line_ends() {
    for text in ["\r", "\n", "\n\n", "\r\r"] {
        for field in ["Subject: a{}Bcc: v@y.test\r\n", "X-Hikyaku-Campaign: a{}b\r\n", "A{}: b\r\n"] {
            let mut client = Client::ready(Settings::default());

            let reply = client.submit(&format!("{}\r\nbody\r\n", field.replace("{}", text)));

            assert!(reply.starts_with("550 5.5.2"), "{text:?} {field:?}: {reply}");
        }
    }
}

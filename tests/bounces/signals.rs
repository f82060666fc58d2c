//! What a message is, and whom it is about, must not hang on one signal: each is taken away in turn.

use std::collections::BTreeSet;

use hikyaku::bounce::parse::{Kind, Parsed, Parser};

use crate::corpus;

/// The message without these fields of its header section, and with one more line there.
fn without(message: &str, names: &[&str], with: &str) -> String {
    let (mut out, mut is_head, mut is_left_out) = (String::new(), true, false);
    for line in message.split_inclusive('\n') {
        if is_head && line.trim_end().is_empty() {
            is_head = false;
            out.push_str(with);
        } else if is_head && !line.starts_with([' ', '\t']) {
            let name = line.split(':').next().unwrap_or_default().to_lowercase();
            is_left_out = names.contains(&name.as_str());
        }
        if !(is_head && is_left_out) {
            out.push_str(line);
        }
    }
    out
}

fn told(parsed: &Parsed) -> (Kind, BTreeSet<Option<String>>) {
    (parsed.kind, parsed.recipients.iter().map(|recipient| recipient.address.clone()).collect())
}

#[test]
fn no_single_signal_makes_a_message_what_it_is() {
    let parser = Parser::built_in().unwrap();
    let bounces = corpus::sisimai().into_values().chain(corpus::flufl().into_values());
    let bounces: Vec<String> = bounces.filter_map(|mail| String::from_utf8(mail).ok()).collect();
    let read: Vec<_> = bounces.iter().map(|mail| told(&parser.parse(mail.as_bytes()))).collect();

    for (what, names, with, most) in [
        ("subject", &["subject"][..], "Subject: Message\n", 8),
        ("reverse-path", &["return-path", "x-failed-recipients"], "", 2),
        ("author and reverse-path", &["from", "return-path"], "From: <noreply@mx.test>\n", 34),
        ("type", &["content-type", "mime-version"], "", 12),
        ("what says that it is no answer", &["auto-submitted"], "Auto-Submitted: auto-replied\n", 3),
    ] {
        let others = bounces.iter().zip(&read).filter(|(mail, read)| {
            (read.0 == Kind::Bounce || what == "type")
                && told(&parser.parse(without(mail, names, with).as_bytes())) != **read
        });
        let count = others.count();
        println!("without {what}: {count} of {} read otherwise", bounces.len());
        assert!(count <= most, "without {what}: {count}, at most {most}");
    }
}

//! Families by their examples, and what no input may do.

use std::fmt::Write as _;

use super::*;

const FAMILIES: &str = include_str!("families.txt");

/// Example: its name, what is wanted of it, and the message.
fn examples() -> Vec<(&'static str, Vec<&'static str>, &'static str)> {
    let examples = FAMILIES.split("===== ").skip(1);
    let taken_apart = examples.map(|example| {
        let (first, message) = example.split_once('\n').unwrap();
        let mut wanted = first.split(" | ");
        (wanted.next().unwrap(), wanted.collect(), message)
    });
    taken_apart.collect()
}

/// As the examples write it.
fn told(parsed: &Parsed) -> Vec<String> {
    let mut out = vec![parsed.kind.to_string()];
    for recipient in &parsed.recipients {
        let mut line = recipient.address.clone().unwrap_or_default();
        let class = recipient.verdict.as_ref().map_or("-", |verdict| verdict.class.as_str());
        let permanent = if recipient.is_permanent() { "permanent" } else { "-" };
        let status = recipient.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
        let code = if recipient.reply_code == 0 { "-".to_owned() } else { recipient.reply_code.to_string() };
        write!(line, " {class} {permanent} {status} {code}").unwrap();
        out.push(line);
    }
    out
}

#[test]
fn every_family_reads_its_example() {
    let parser = Parser::built_in().unwrap();
    let mut wrong = Vec::new();

    for (name, wanted, message) in examples() {
        // Both line ends, since files have either.
        for message in [message.to_owned(), message.replace('\n', "\r\n")] {
            let told = told(&parser.parse(message.as_bytes()));
            if told != wanted {
                wrong.push(format!("{name}: {told:?}, wanted {wanted:?}"));
            }
        }
    }

    assert!(wrong.is_empty(), "{wrong:#?}");
}

const PLAIN: &str = "From: MAILER-DAEMON@a.test\nSubject: failure notice\n\n<ann@a.test>: 550 5.1.1 User unknown\n";
const WANTED: [&str; 2] = ["bounce", "ann@a.test bad-mailbox permanent 5.1.1 550"];

#[test]
fn a_mark_before_the_header_and_other_line_ends_do_no_harm() {
    let parser = Parser::built_in().unwrap();

    for message in [PLAIN.to_owned(), format!("\u{feff}{PLAIN}"), PLAIN.replace('\n', "\r")] {
        assert_eq!(told(&parser.parse(message.as_bytes())), WANTED, "{message:?}");
    }
}

#[test]
fn fields_are_found_behind_more_words_than_are_read() {
    let parser = Parser::built_in().unwrap();

    for kind in ["plain", "html"] {
        let message = format!(
            "From: MAILER-DAEMON@a.test\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\n\n\
             --b\nContent-Type: text/{kind}\n\n{}\n--b\nContent-Type: message/delivery-status\n\n\
             Final-Recipient: rfc822; ann@a.test\nAction: failed\nDiagnostic-Code: smtp; 550 5.1.1 no\n\n--b--\n",
            "words that say nothing\n".repeat(14_000)
        );

        assert_eq!(told(&parser.parse(message.as_bytes())), WANTED, "{kind}");
    }
}

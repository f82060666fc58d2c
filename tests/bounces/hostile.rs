//! Input that nobody would send, and what was sent with something done to it: no panic, bounded work, no bounce made of
//! nothing.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use base64::Engine;
use hikyaku::bounce::parse::{Kind, Parser};
use proptest::prelude::*;

use crate::corpus;

/// A message of `depth` multiparts within each other, with a report inside.
fn nested(depth: usize) -> Vec<u8> {
    let mut out = String::from("From: MAILER-DAEMON@a.test\nSubject: failure notice\n");
    for level in 0..depth {
        out.push_str(&format!("Content-Type: multipart/mixed; boundary=\"b{level}\"\n\n--b{level}\n"));
    }
    out.push_str(
        "Content-Type: message/delivery-status\n\nFinal-Recipient: rfc822; ann@a.test\nAction: failed\nStatus: 5.1.1\n",
    );
    for level in (0..depth).rev() {
        out.push_str(&format!("\n--b{level}--\n"));
    }
    out.into_bytes()
}

#[test]
fn a_report_is_found_as_deep_as_people_put_it_and_ten_thousand_levels_do_no_harm() {
    let parser = Parser::built_in().unwrap();

    let deep = parser.parse(&nested(8));
    let abyss = parser.parse(&nested(10_000));

    assert_eq!(deep.recipients[0].address.as_deref(), Some("ann@a.test"));
    assert!(abyss.recipients.len() <= 1);
}

#[test]
fn cut_off_messages_give_no_other_address_than_whole_ones() {
    let parser = Parser::built_in().unwrap();

    for (file, mail) in corpus::sisimai().into_iter().chain(corpus::flufl()).step_by(7) {
        for part in 1..12 {
            let cut = &mail[..mail.len() * part / 12];
            let text = String::from_utf8_lossy(cut).to_lowercase();

            for recipient in parser.parse(cut).recipients {
                let address = recipient.address.unwrap_or_default().to_lowercase();
                let local = address.split('@').next().unwrap();
                let is_there = text.contains(local) || text.contains("base64") || text.contains("quoted-printable");
                assert!(is_there || text.contains("=?") || text.contains('\\'), "{file}: {address}");
            }
        }
    }
}

/// An address and its class.
type About = (Option<String>, Option<&'static str>);

/// Kind, addresses and classes.
fn told(parser: &Parser, mail: &[u8]) -> (Kind, Vec<About>) {
    let parsed = parser.parse(mail);
    let class = |verdict: &hikyaku::reply::Verdict| verdict.class.as_str();
    let recipients = parsed.recipients.iter();
    (
        parsed.kind,
        recipients.map(|recipient| (recipient.address.clone(), recipient.verdict.as_ref().map(class))).collect(),
    )
}

#[test]
fn line_ends_make_no_difference() {
    let parser = Parser::built_in().unwrap();
    let mut differ = Vec::new();

    for (file, mail) in corpus::sisimai().into_iter().chain(corpus::flufl()) {
        let lf: Vec<u8> = mail.iter().copied().filter(|octet| *octet != b'\r').collect();
        let crlf = lf.iter().flat_map(|octet| if *octet == b'\n' { vec![b'\r', b'\n'] } else { vec![*octet] });
        if told(&parser, &lf) != told(&parser, &crlf.collect::<Vec<_>>()) {
            differ.push(file);
        }
    }

    assert!(differ.is_empty(), "{differ:?}");
}

#[test]
fn text_that_a_relay_has_encoded_again_says_the_same() {
    let parser = Parser::built_in().unwrap();
    let mut differ = Vec::new();
    let mut compared = 0;

    for (file, mail) in corpus::sisimai().into_iter().chain(corpus::flufl()) {
        let text = String::from_utf8_lossy(&mail).replace("\r\n", "\n");
        let Some((header, body)) = text.split_once("\n\n") else { continue };
        let lower = header.to_lowercase();
        if lower.contains("multipart/") || lower.contains("content-transfer-encoding") || !text.is_ascii() {
            continue;
        }
        compared += 1;
        let coded = base64::engine::general_purpose::STANDARD.encode(body);
        let lines: Vec<&str> = coded.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let again = format!("{header}\nContent-Transfer-Encoding: base64\n\n{}\n", lines.join("\n"));
        if told(&parser, again.as_bytes()) != told(&parser, text.as_bytes()) {
            differ.push(file);
        }
    }

    assert!(compared > 40 && differ.is_empty(), "{compared} compared; {differ:?}");
}

/// Messages of which one kind of thing is much, each some megabytes long.
fn floods(octets: usize) -> Vec<(&'static str, Vec<u8>)> {
    let head = "From: MAILER-DAEMON@a.test\nTo: s@s.test\nSubject: failure notice\n";
    let repeated = |head: &str, text: &str| format!("{head}{}", text.repeat(octets / text.len())).into_bytes();
    vec![
        ("fields", repeated(head, "X-Field: value of a field\n")),
        ("one long field", repeated(&format!("{head}X: "), "x ")),
        ("addresses", repeated(&format!("{head}\n"), "<ann@a.test>: 550 no such user\n")),
        // Of each something may be told, and of none anything is.
        (
            "different addresses",
            (0..octets / 16)
                .fold(format!("{head}\n"), |text, number| text + &format!("<{number:08}@a.t>\n"))
                .into_bytes(),
        ),
        (
            "lines that end with CR",
            repeated(&format!("{head}\n"), "<ann@a.test>\n")
                .iter()
                .map(|o| if *o == b'\n' { b'\r' } else { *o })
                .collect(),
        ),
        ("addresses of one line", repeated(&format!("{head}\n"), "ann@a.test ")),
        ("at signs", repeated(&format!("{head}\n"), "@")),
        ("quotes and at signs", repeated(&format!("{head}\n"), "\"@")),
        ("replies", repeated(&format!("{head}\n"), "<<< 550-5.1.1 no such user\n")),
        ("delimiters", repeated(&format!("{head}Content-Type: multipart/mixed; boundary=b\n\n"), "--b\n\n")),
        ("nearly delimiters", repeated(&format!("{head}Content-Type: multipart/mixed; boundary=b\n\n"), "--bb\n")),
        (
            "recipients",
            repeated(
                &format!("{head}Content-Type: message/delivery-status\n\n"),
                "Final-Recipient: rfc822; ann@a.test\nAction: failed\nStatus: 5.1.1\n\n",
            ),
        ),
        ("tags", repeated(&format!("{head}Content-Type: text/html\n\n"), "<p>&lt;")),
        ("encoded words", repeated(&format!("{head}Subject: "), "=?utf-8?Q?x?= ")),
        ("nothing", vec![0; octets]),
    ]
}

#[test]
fn work_does_not_grow_with_what_is_sent() {
    let parser = Parser::built_in().unwrap();

    for ((what, small), (_, large)) in floods(1 << 20).into_iter().zip(floods(50 << 20)) {
        let begin = Instant::now();
        parser.parse(&small);
        let (for_small, begin) = (begin.elapsed(), Instant::now());
        let parsed = parser.parse(&large);

        println!(
            "{what}: 1 MiB in {for_small:.1?}, 50 MiB in {:.1?}, {} recipients",
            begin.elapsed(),
            parsed.recipients.len()
        );
        assert!(parsed.recipients.len() <= 1_000, "{what}");
    }
}

/// What a process has had in memory at most, in KiB.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

#[test]
fn a_message_of_fifty_megabytes_is_read_in_little_memory() {
    for (what, large) in floods(50 << 20) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command.args(["bounce", "parse", "--json", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"From a Thu Nov 26 12:00:00 2026\n").unwrap();
        input.write_all(&large).unwrap();

        // More of another message than a pipe holds: when it is written, the first one has been read.
        input.write_all(b"\n\nFrom b Thu Nov 26 12:00:00 2026\n").unwrap();
        input.write_all("Subject: the next\n".repeat(20_000).as_bytes()).unwrap();
        let most = resident(child.id());

        drop(input);
        assert!(child.wait().unwrap().success());
        println!("{what}: {} MiB", most >> 10);
        assert!(most < 64 << 10, "{what}: {most} KiB");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_octets_are_something(octets in proptest::collection::vec(any::<u8>(), 0..4_000)) {
        Parser::built_in().unwrap().parse(&octets);
    }

    #[test]
    fn what_looks_like_a_report_is_read_whatever_stands_in_it(
        body in "([A-Za-z-]{1,20}: ?|[ \t]|<|>|@|\"|[45][0-9]{2}[ -]|[45]\\.[0-9]\\.[0-9]{1,3} |--b\n|\n|\\PC{1,10}|Final-Recipient: rfc822;|>>> RCPT TO:<|<<< ){0,80}"
    ) {
        let parser = Parser::built_in().unwrap();
        for kind in ["text/plain", "text/html", "multipart/report; boundary=b", "message/delivery-status"] {
            let mail = format!("From: MAILER-DAEMON@a.test\nSubject: failure notice\nContent-Type: {kind}\n\n{body}");
            let parsed = parser.parse(mail.as_bytes());

            prop_assert!(parsed.recipients.iter().all(|recipient| recipient.address.as_deref() != Some("")));
        }
    }

    #[test]
    fn octets_changed_on_the_way_break_nothing(at in any::<prop::sample::Index>(), places in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)) {
        let mails: Vec<_> = corpus::flufl().into_values().collect();
        let mut mail = mails[at.index(mails.len())].clone();
        for (place, octet) in places {
            let place = place.index(mail.len());
            mail[place] = octet;
        }
        Parser::built_in().unwrap().parse(&mail);
    }

    #[test]
    fn a_message_of_a_person_is_no_bounce(subject in "[a-z ]{0,30}", text in "[A-Za-z0-9 .,\n]{0,400}") {
        let mail = format!("From: Ann <ann@a.test>\nTo: bob@b.test\nSubject: x{subject}\nMessage-ID: <1@a.test>\n\nHello,\n{text}");
        let kind = Parser::built_in().unwrap().parse(mail.as_bytes()).kind;

        prop_assert_ne!(kind, Kind::Bounce);
    }
}

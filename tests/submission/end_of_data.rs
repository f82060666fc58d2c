//! S1: everything that looks like an end of data and is none, split at every octet, by DATA and by BDAT, pipelined or not.

use hikyaku::submission::{LineEndings, Settings};

use crate::cases::cases;
use crate::driver::{Client, ENVELOPE};
use crate::hostile::{HIDDEN, has_bare, variants};

/// Sends `input` in the pieces given; everything the client said and got.
fn run(pieces: &[&[u8]], settings: &Settings) -> (String, Vec<(String, Vec<u8>)>) {
    let mut client = Client::ready(settings.clone());
    let replies: String = pieces.iter().map(|piece| client.send(piece)).collect();
    let messages = client.messages.into_iter();
    (replies, messages.map(|m| (m.envelope.reverse_path.as_str().to_owned(), m.received)).collect())
}

/// The same result however the input is split in two, and octet by octet.
fn check_every_split(input: &str, settings: &Settings) -> (String, Vec<(String, Vec<u8>)>) {
    let whole = run(&[input.as_bytes()], settings);
    for at in 0..=input.len() {
        let (a, b) = input.as_bytes().split_at(at);
        assert_eq!(run(&[a, b], settings), whole, "{input:?} split at {at}");
    }
    let octets: Vec<&[u8]> = input.as_bytes().chunks(1).collect();
    assert_eq!(run(&octets, settings), whole, "{input:?} by octets");
    cases(input.len() + 3);
    whole
}

fn codes(replies: &str) -> Vec<&str> {
    replies.lines().map(|line| line.get(..9).unwrap_or(line)).collect()
}

#[test]
fn only_crlf_dot_crlf_ends_data_and_nothing_is_smuggled() {
    for (variant, is_end) in variants() {
        let input = format!("{ENVELOPE}DATA\r\n{variant}{HIDDEN}.\r\nQUIT\r\n");

        let (replies, messages) = check_every_split(&input, &Settings::default());

        // A true end of data lets the rest be a transaction of the client's own; anything else is content.
        let content = &variant[..variant.rfind('.').unwrap()];
        let is_bad = if is_end { has_bare(content) } else { has_bare(&variant) } || variant.contains('\0');
        let from: Vec<&str> = messages.iter().map(|(path, _)| path.as_str()).collect();
        let expected: &[&str] = match (is_end, is_bad) {
            (true, false) => &["a@x.test", "evil@x.test"],
            (true, true) => &["evil@x.test"],
            (false, false) => &["a@x.test"],
            (false, true) => &[],
        };
        assert_eq!(from, expected, "{variant:?}: {replies}");
        let refusals = codes(&replies).iter().filter(|reply| reply.starts_with("55")).count();
        assert_eq!(refusals, usize::from(is_bad), "{variant:?}: {replies}");
        if !is_end && is_bad && !variant.contains('\0') {
            assert!(replies.contains("550 5.5.2"), "{variant:?}: {replies}");
        }
    }
}

#[test]
fn in_chunks_no_variant_ends_anything() {
    for (variant, _) in variants() {
        let content = format!("{variant}{HIDDEN}.\r\n");
        let (one, two) = content.split_at(content.len() / 2);
        let whole = format!("{ENVELOPE}BDAT {} LAST\r\n{content}QUIT\r\n", content.len());
        let halves = format!("{ENVELOPE}BDAT {}\r\n{one}BDAT {} LAST\r\n{two}QUIT\r\n", one.len(), two.len());

        let (whole, halves) =
            (check_every_split(&whole, &Settings::default()), check_every_split(&halves, &Settings::default()));

        let is_bad = has_bare(&content) || content.contains('\0');
        assert_eq!(whole.1, halves.1, "{variant:?}");
        assert_eq!(whole.1.len(), usize::from(!is_bad), "{variant:?}: {}", whole.0);
        if let Some((path, received)) = whole.1.first() {
            assert_eq!((path.as_str(), received.as_slice()), ("a@x.test", content.as_bytes()));
        }
        assert!(whole.0.ends_with("221 2.0.0 Bye\r\n"));
    }
}

#[test]
fn in_chunks_no_place_of_the_boundary_makes_a_difference() {
    for line_endings in [LineEndings::Reject, LineEndings::Normalize] {
        let settings = Settings { line_endings, ..Settings::default() };
        for (variant, _) in variants() {
            let content = format!("{variant}{HIDDEN}.\r\n");
            let whole = format!("{ENVELOPE}BDAT {} LAST\r\n{content}", content.len());
            let (_, expected) = run(&[whole.as_bytes()], &settings);
            for at in 0..=content.len() {
                let (one, two) = content.split_at(at);
                let begin = format!("{ENVELOPE}BDAT {}\r\n{one}", one.len());
                let end = format!("BDAT {} LAST\r\n{two}QUIT\r\n", two.len());
                let empty = format!("BDAT {}\r\n{two}BDAT 0 LAST\r\nQUIT\r\n", two.len());

                let waiting = run(&[begin.as_bytes(), end.as_bytes()], &settings);
                let pipelined = run(&[(begin.clone() + &end).as_bytes()], &settings);
                let empty_last = run(&[(begin + &empty).as_bytes()], &settings);

                assert_eq!(waiting, pipelined, "{variant:?} at {at}");
                assert_eq!(waiting.1, expected, "{variant:?} at {at}");
                assert_eq!(empty_last.1, expected, "{variant:?} at {at}");
                assert!(waiting.0.ends_with("221 2.0.0 Bye\r\n"), "{variant:?} at {at}: {}", waiting.0);
            }
            cases(3 * content.len() + 4);
        }
    }
}

#[test]
fn a_client_that_waits_gets_the_same_replies_as_one_that_pipelines() {
    for (variant, _) in variants() {
        let body = format!("{variant}{HIDDEN}.\r\n");
        let pieces = ["MAIL FROM:<a@x.test>\r\n", "RCPT TO:<b@y.test>\r\n", "DATA\r\n", &body, "QUIT\r\n"];

        let slow = run(&pieces.map(str::as_bytes), &Settings::default());

        assert_eq!(slow, run(&[pieces.concat().as_bytes()], &Settings::default()), "{variant:?}");
    }
}

#[test]
fn normalizing_makes_lines_of_bare_endings_but_never_an_end() {
    let settings = Settings { line_endings: LineEndings::Normalize, ..Settings::default() };
    for (variant, is_end) in variants().filter(|(variant, _)| !variant.contains('\0')) {
        let input = format!("{ENVELOPE}DATA\r\n{variant}{HIDDEN}.\r\nQUIT\r\n");

        let (replies, messages) = check_every_split(&input, &settings);

        assert_eq!(messages.len(), if is_end { 2 } else { 1 }, "{variant:?}: {replies}");
        for (_, received) in messages {
            let text = String::from_utf8(received).unwrap();
            assert!(!has_bare(&text), "{variant:?}: {text:?}");
        }
    }
}

#[test]
fn stuffed_dots_come_off_once() {
    let settings = Settings::default();
    let input = format!("{ENVELOPE}DATA\r\nA: b\r\n\r\n..\r\n...\r\n.x\r\n..x\r\na.\r\n.\r\n");

    let (_, messages) = check_every_split(&input, &settings);

    assert_eq!(messages[0].1, b"A: b\r\n\r\n.\r\n..\r\nx\r\n.x\r\na.\r\n");
}

#[test]
fn an_empty_content_is_a_message() {
    let (replies, messages) = check_every_split(&format!("{ENVELOPE}DATA\r\n.\r\nQUIT\r\n"), &Settings::default());

    assert!(replies.contains("250 2.0.0 Ok: queued"), "{replies}");
    assert_eq!(messages[0].1, b"");
}

#[test]
fn a_bare_lf_in_a_command_runs_nothing_that_follows_it() {
    for line in ["NOOP\n", "MAIL FROM:<a@x.test\nRCPT TO:<v@y.test>>\r\n", "EHLO x\nMAIL FROM:<evil@x.test>\r\n", "\n"]
    {
        let input = format!("{line}{ENVELOPE}DATA\r\nA: b\r\n.\r\n");

        let (replies, messages) = check_every_split(&input, &Settings::default());

        assert_eq!(codes(&replies), ["500 5.5.2"], "{line:?}");
        assert!(messages.is_empty());
    }
}

#[test]
fn a_cr_at_the_end_of_the_last_chunk_is_bare() {
    for (content, reply) in
        [("A: b\r", "550 5.5.2"), ("A: b\r\n", "250 2.0.0"), ("A: b\n", "550 5.5.2"), ("\r", "550 5.5.2")]
    {
        let input = format!("{ENVELOPE}BDAT {} LAST\r\n{content}", content.len());

        let (replies, _) = check_every_split(&input, &Settings::default());

        assert_eq!(codes(&replies).last(), Some(&reply), "{content:?}");
    }
}

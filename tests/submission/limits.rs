//! S5: limits and floods. A session holds at most 256 KiB beside content, whatever a client sends.

use hikyaku::submission::Settings;
use hikyaku::submission::refusal::Cause;

use crate::driver::{Client, ENVELOPE};

/// What durability promises a session takes beside content.
const HELD_MOST: usize = 256 * 1024;
/// As the connection reads.
const READ: usize = 32 * 1024;

/// Sends a flood in pieces as the connection would read it; gives the number of replies and the last one.
fn flood(client: &mut Client, input: impl Iterator<Item = u8>) -> (usize, String) {
    let (mut piece, mut count, mut last) = (Vec::with_capacity(READ), 0, String::new());
    let mut note = |replies: String| {
        count += replies.lines().count();
        if let Some(line) = replies.lines().last() {
            last = line.to_owned();
        }
    };
    for octet in input {
        piece.push(octet);
        if piece.len() == READ {
            note(client.send(&piece));
            piece.clear();
        }
    }
    note(client.send(&piece));
    (count, last)
}

fn repeat(text: &str, times: usize) -> impl Iterator<Item = u8> {
    text.as_bytes().iter().copied().cycle().take(text.len() * times)
}

#[test]
fn command_lines_are_limited_to_2048_octets() {
    let mut client = Client::ready(Settings::default());
    let line = |length: usize| format!("NOOP {}\r\n", "x".repeat(length - 7));

    for length in [999, 1_000, 2_048] {
        assert_eq!(client.codes(&line(length)), [250], "{length}");
    }
    for length in [2_049, 2_050, 1 << 20] {
        assert!(client.send(line(length).as_bytes()).starts_with("500 5.5.2 "), "{length}");
    }
    assert_eq!(client.codes("NOOP\r\n"), [250]);
}

#[test]
fn an_overlong_line_is_answered_once_wherever_it_is_split() {
    let input = format!("NOOP {}\r\nNOOP\r\n", "x".repeat(2_042));
    for at in 2_040..input.len() {
        let mut client = Client::ready(Settings::default());
        let (a, b) = input.split_at(at);

        let replies = client.send(a.as_bytes()) + &client.send(b.as_bytes());

        assert_eq!(replies.lines().map(|line| &line[..3]).collect::<Vec<_>>(), ["500", "250"], "at {at}");
    }
}

#[test]
fn an_endless_line_takes_no_memory() {
    let mut client = Client::ready(Settings::default());

    let (replies, _) = flood(&mut client, repeat("x", 8 << 20));

    assert_eq!(replies, 0);
    assert!(client.peak_held < HELD_MOST, "{}", client.peak_held);
}

#[test]
fn content_lines_may_have_any_length() {
    for length in [999, 1_000, 2_049, 200_000] {
        let mut client = Client::ready(Settings::default());
        let line = "x".repeat(length);

        assert!(client.submit(&format!("A: b\r\n\r\n{line}\r\n")).starts_with("250 2.0.0"));
        assert!(client.messages[0].stored.ends_with(format!("{line}\r\n").as_bytes()));
    }
}

#[test]
fn content_at_the_limit_is_taken_and_one_octet_more_is_not() {
    let settings = Settings { max_message_size: 10_000, ..Settings::default() };
    let content = |size: usize| format!("A: b\r\n\r\n{}\r\n", "x".repeat(size - 10));
    for (size, code) in [(9_999, "250"), (10_000, "250"), (10_001, "552 5.3.4")] {
        let mut client = Client::ready(settings.clone());
        assert!(client.submit(&content(size)).starts_with(code), "DATA {size}");

        let chunks = format!(
            "{ENVELOPE}BDAT 100\r\n{}BDAT {} LAST\r\n{}",
            &content(size)[..100],
            size - 100,
            &content(size)[100..]
        );
        let replies = client.send(chunks.as_bytes());
        assert!(replies.lines().last().unwrap().starts_with(code), "BDAT {size}: {replies}");
    }
}

#[test]
fn stuffed_dots_do_not_count_towards_the_size() {
    let mut client = Client::ready(Settings { max_message_size: 16, ..Settings::default() });

    assert!(client.submit("A: b\r\n\r\n..\r\n..x\r\n").starts_with("250"));
    assert!(client.submit("A: b\r\n\r\n..\r\n..xyz\r\n").starts_with("552"));
}

#[test]
fn a_false_size_is_no_way_around_the_limit() {
    let mut client = Client::ready(Settings { max_message_size: 1_000, ..Settings::default() });
    let content = "x".repeat(2_000);

    let codes =
        client.codes(&format!("MAIL FROM:<a@x.test> SIZE=1\r\nRCPT TO:<b@y.test>\r\nDATA\r\n{content}\r\n.\r\n"));

    assert_eq!(codes, [250, 250, 354, 552]);
    assert_eq!(client.codes("MAIL FROM:<a@x.test> SIZE=18446744073709551616\r\n"), [552]);
}

#[test]
fn too_large_content_is_counted_but_not_kept() {
    let mut client = Client::ready(Settings { max_message_size: 100_000, ..Settings::default() });
    client.send(format!("{ENVELOPE}DATA\r\n").as_bytes());

    flood(&mut client, repeat("0123456789abcdef\r\n", 1 << 19));

    assert_eq!(client.session.content().bytes().len(), 0);
    assert_eq!(client.codes(".\r\n"), [552]);
}

#[test]
fn a_header_section_over_the_limit_is_refused() {
    let line = "Subject: 67890123456789012345678\r\n ";
    let header = |size: usize| line.repeat(size / line.len());
    for (size, body, code) in [
        (90 << 10, "", "250"),
        (90 << 10, "large", "250"),
        (101 << 10, "", "552 5.3.4"),
        (101 << 10, "large", "552 5.3.4"),
        (400 << 10, "", "552 5.3.4"),
    ] {
        let mut client = Client::ready(Settings::default());
        let body = body.replace("large", &"body\r\n".repeat(40_000));

        let reply = client.submit(&format!("{}x\r\n\r\n{body}", header(size)));

        assert!(reply.starts_with(code), "{size}: {reply}");
    }
}

#[test]
fn whether_a_header_section_is_too_long_does_not_depend_on_the_pieces() {
    let settings = Settings { max_header_size: 20_000, ..Settings::default() };
    for (size, body, is_fine) in [
        (20_000, "", true),
        (20_000, "body", true),
        (20_001, "", false),
        (20_001, "body", false),
        (27_000, "", false),
        (60_000, "body", false),
    ] {
        let header = format!("{}A: {}\r\n\r\n", "B: 6789\r\n".repeat(10), "x".repeat(size - 97));
        assert_eq!(header.len(), size);
        for piece in [1, 700, 1 << 20] {
            let mut client = Client::ready(settings.clone());
            let input = format!("{ENVELOPE}DATA\r\n{header}{}.\r\n", body.replace("body", &"body\r\n".repeat(2_000)));

            let replies: String = input.as_bytes().chunks(piece).map(|piece| client.send(piece)).collect();

            let expected = if is_fine { "250 2.0.0" } else { "552 5.3.4" };
            assert!(replies.lines().last().unwrap().starts_with(expected), "{size} {body} by {piece}: {replies}");
        }
    }
}

#[test]
fn a_header_line_without_end_is_refused() {
    let mut client = Client::ready(Settings::default());

    assert!(client.submit(&format!("Subject: {}\r\n\r\n", "x".repeat(300_000))).starts_with("552 5.3.4"));
}

#[test]
fn a_content_without_header_section_may_be_one_long_line() {
    for piece in [100, 70_000, 1 << 20] {
        let mut client = Client::ready(Settings::default());
        let input = format!("{ENVELOPE}DATA\r\n{}\r\n.\r\n", "x".repeat(200 << 10));

        let replies: String = input.as_bytes().chunks(piece).map(|piece| client.send(piece)).collect();

        assert!(replies.lines().last().unwrap().starts_with("250 2.0.0"), "by {piece}: {replies}");
    }
}

#[test]
fn recipients_past_the_limit_get_452_and_the_first_are_kept() {
    let mut client = Client::ready(Settings { max_recipients: 100, ..Settings::default() });
    client.send(b"MAIL FROM:<a@x.test>\r\n");

    let (replies, last) = flood(&mut client, repeat("RCPT TO:<b@y.test>\r\n", 100_000));

    assert_eq!((replies, last.as_str()), (100_000, "452 4.5.3 Too many recipients"));
    assert!(client.peak_held < HELD_MOST, "{}", client.peak_held);
    assert_eq!(client.codes("DATA\r\nA: b\r\n.\r\n"), [354, 250]);
    assert_eq!(client.messages[0].envelope.recipients.len(), 100);
    assert_eq!(client.answers.counted.iter().filter(|cause| **cause == Cause::Recipients).count(), 99_900);
}

#[test]
fn recipients_past_what_a_session_may_hold_get_452_and_the_first_are_kept() {
    let mut client = Client::ready(Settings::default());
    client.send(b"MAIL FROM:<a@x.test>\r\n");
    let label = "d".repeat(47) + ".";
    let path = format!("{}@{}test", "l".repeat(50), label.repeat(4));
    let line = format!("RCPT TO:<{path}> ORCPT=rfc822;{}\r\n", "o".repeat(490));

    let (replies, last) = flood(&mut client, repeat(&line, 1_000));

    assert_eq!((replies, last.as_str()), (1_000, "452 4.5.3 Too many recipients"));
    assert!(client.peak_held < HELD_MOST - READ, "{}", client.peak_held);
    assert_eq!(client.codes("DATA\r\nA: b\r\n.\r\n"), [354, 250]);
    let kept = client.messages[0].envelope.recipients.len();
    assert!((200..300).contains(&kept), "{kept}");
}

#[test]
fn a_raised_limit_of_recipients_can_be_reached() {
    let mut client = Client::ready(Settings { max_recipients: 10_000, ..Settings::default() });
    client.send(b"MAIL FROM:<a@x.test>\r\n");

    flood(&mut client, repeat("RCPT TO:<somebody.with.a.name@department.example.com>\r\n", 10_000));

    assert_eq!(client.session.transaction().unwrap().recipients.len(), 10_000);
}

#[test]
fn transactions_are_limited_by_mail_commands_whether_or_not_they_succeed() {
    let limited = Settings { max_transactions: std::num::NonZeroU32::new(3), ..Settings::default() };
    let mut client = Client::ready(limited);
    let mail = "MAIL FROM:<a@x.test>\r\n";

    let codes = client.codes(&[mail, mail, "RSET\r\n", "MAIL FROM:<a@x.test> SIZE=99999999\r\n", mail].concat());

    assert_eq!(codes, [250, 503, 250, 552, 421]);
}

#[test]
fn a_million_noops_end_after_a_hundred() {
    let mut client = Client::ready(Settings::default());

    let (replies, last) = flood(&mut client, repeat("NOOP\r\n", 1_000_000));

    assert!(last.starts_with("421 4.7.0"), "{last}");
    assert_eq!(replies, 100);
    assert!(client.is_closed && client.peak_held < HELD_MOST);
}

#[test]
fn twenty_errors_end_the_session() {
    let mut client = Client::ready(Settings::default());

    let codes = client.codes(&"FOO\r\n".repeat(30));

    assert_eq!(codes, [vec![500; 20], vec![421]].concat());
}

#[test]
fn an_accepted_message_forgives_errors_and_idle_commands() {
    let mut client = Client::ready(Settings::default());
    for _ in 0..20 {
        assert_eq!(client.codes(&"FOO\r\n".repeat(15)), [500; 15]);
        assert_eq!(client.codes(&"NOOP\r\n".repeat(90)), [250; 90]);
        assert!(client.submit("A: b\r\n").starts_with("250"));
    }
}

#[test]
fn commands_pipelined_after_a_temporary_refusal_are_no_errors_of_the_client() {
    let mut client = Client::ready(Settings::default());
    client.answers.mail = Some(hikyaku::submission::refusal::STORAGE_FULL);

    for _ in 0..50 {
        assert_eq!(client.codes(&format!("{ENVELOPE}DATA\r\n")), [452, 503, 503]);
    }
}

#[test]
fn what_is_refused_for_now_at_rcpt_stays_so_at_data_and_bdat_and_is_no_error() {
    let mut client = Client::ready(Settings::default());
    client.answers.rcpt = Some(hikyaku::submission::refusal::QUEUE_FULL);

    for _ in 0..50 {
        assert_eq!(client.codes(&format!("{ENVELOPE}DATA\r\n")), [250, 452, 452]);
        assert_eq!(client.codes(&format!("{ENVELOPE}BDAT 1\r\nxBDAT 1 LAST\r\nx")), [250, 452, 452, 503]);
    }
    client.answers.rcpt = None;
    assert!(client.submit("A: b\r\n").starts_with("250"));
}

#[test]
fn one_recipient_refused_for_now_makes_the_refusal_of_data_temporary_and_the_next_transaction_forgets_it() {
    let mut client = Client::ready(Settings::default());
    client.answers.rcpt = Some(hikyaku::submission::refusal::QUEUE_FULL);

    assert_eq!(client.codes(&format!("{ENVELOPE}RCPT TO:<x>\r\nDATA\r\n")), [250, 452, 501, 452]);

    assert_eq!(client.codes("MAIL FROM:<a@x.test>\r\nRCPT TO:<x>\r\nDATA\r\n"), [250, 501, 554]);
}

#[test]
fn a_hundred_thousand_chunks_of_one_octet_make_one_message() {
    let mut client = Client::ready(Settings::default());
    client.send(ENVELOPE.as_bytes());

    let (replies, _) = flood(&mut client, repeat("BDAT 1\r\nx", 100_000));

    assert_eq!(replies, 100_000);
    assert!(client.peak_held < HELD_MOST, "{}", client.peak_held);
    assert_eq!(client.codes("BDAT 2 LAST\r\n\r\n"), [250]);
    assert_eq!(client.messages[0].received.len(), 100_002);
}

#[test]
fn a_chunk_somewhat_over_the_limit_is_read_and_thrown_away() {
    let mut client = Client::ready(Settings { max_message_size: 1_000_000, ..Settings::default() });
    client.send(format!("{ENVELOPE}BDAT 1500000 LAST\r\n").as_bytes());

    let (replies, last) = flood(&mut client, repeat("x", 1_500_000));

    assert_eq!((replies, &last[..9], client.session.content().bytes().len()), (1, "552 5.3.4", 0));
    assert!(client.peak_held < HELD_MOST);
    assert_eq!(client.codes("NOOP\r\n"), [250]);
}

#[test]
fn a_chunk_far_over_the_limit_is_refused_before_it_comes() {
    for size in ["2002", "5000000000", "18446744073709551614"] {
        for envelope in [ENVELOPE, ""] {
            let mut client = Client::ready(Settings { max_message_size: 1_000, ..Settings::default() });

            let replies = client.send(format!("{envelope}BDAT {size} LAST\r\n").as_bytes());

            assert!(replies.ends_with("552 5.3.4 Message exceeds the maximum size\r\n"), "{size}: {replies}");
            assert!(client.is_closed);
        }
    }
}

#[test]
fn deep_mime_is_only_octets() {
    let mut client = Client::ready(Settings::default());
    let levels: String = (0..10_000)
        .map(|level| format!("--b{level}\r\nContent-Type: multipart/mixed; boundary=b{level}\r\n\r\n"))
        .collect();

    assert!(client.submit(&format!("A: b\r\n\r\n{levels}")).starts_with("250"));
}

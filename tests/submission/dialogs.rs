//! Commands, replies, and the envelope after each kind of error.

use hikyaku::message::{BodyType, Notify, Ret};
use hikyaku::submission::{Settings, refusal};

use crate::driver::{Client, ENVELOPE};

#[test]
fn a_pipelined_transaction_is_answered_in_order() {
    let mut client = Client::new(Settings::default());
    let greeting = client.send(b"");

    let replies = client.codes("EHLO c.test\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n");
    let end = client.send(b"Subject: x\r\n\r\n..hi\r\n.\r\nQUIT\r\n");

    assert_eq!(greeting, "220 mx.test ESMTP hikyaku\r\n");
    assert_eq!(replies, [250, 250, 250, 354]);
    assert_eq!(end, "250 2.0.0 Ok: queued as 0000000000001\r\n221 2.0.0 Bye\r\n");
    assert_eq!(client.messages[0].received, b"Subject: x\r\n\r\n.hi\r\n");
    assert!(client.is_closed);
}

#[test]
fn ehlo_announces_what_is_there_and_helo_nothing() {
    let mut client = Client::new(Settings { max_transactions: 5.try_into().ok(), ..Settings::default() });
    client.send(b"");

    assert_eq!(
        client.send(b"EHLO c.test\r\n"),
        "250-mx.test\r\n250-PIPELINING\r\n250-SIZE 50000000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
         250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250-DSN\r\n250-MT-PRIORITY\r\n250-LIMITS MAILMAX=5 RCPTMAX=1000\r\n250 HELP\r\n"
    );
    assert_eq!(client.send(b"HELO c.test\r\n"), "250 mx.test\r\n");
}

#[test]
fn every_command_has_its_reply() {
    let mut client = Client::ready(Settings::default());

    for (line, reply) in [
        ("NOOP", "250 2.0.0"),
        ("VRFY postmaster", "252 2.5.0"),
        ("HELP", "214 2.0.0"),
        ("RSET", "250 2.0.0"),
        ("EXPN list", "502 5.5.1"),
        ("STARTTLS", "502 5.5.1"),
        ("AUTH PLAIN AGEAYg==", "502 5.5.1"),
        ("FOO", "500 5.5.1"),
        ("EHLO a b", "501 5.5.4"),
        ("MAIL FROM:a@b", "501 5.1.7"),
        ("MAIL FROM:<a@b.test> SIZE=x", "501 5.5.4"),
        ("MAIL FROM:<a@b.test> AUTH=<>", "555 5.5.4"),
        ("MAIL FROM:<\u{fc}@b.test>", "553 5.6.7"),
        ("MAIL FROM:<a@b.test> SIZE=50000001", "552 5.3.4"),
        ("RCPT TO:<a@b.test>", "503 5.5.1"),
        ("DATA", "503 5.5.1"),
        ("MAIL FROM:<a@b.test> SIZE=50000000", "250 2.1.0"),
        ("MAIL FROM:<a@b.test>", "503 5.5.1"),
        ("RCPT TO:<>", "501 5.1.3"),
        ("RCPT TO:<\u{fc}@b.test>", "553 5.6.7"),
        ("RCPT TO:<postmaster>", "550 5.1.1"),
        ("RCPT TO:<b@y.test>", "250 2.1.5"),
        ("DATA", "354 End"),
    ] {
        let replies = client.send(format!("{line}\r\n").as_bytes());
        assert!(replies.starts_with(reply), "{line}: {replies}");
    }
}

#[test]
fn commands_before_ehlo_are_out_of_sequence() {
    let mut client = Client::new(Settings::default());

    assert_eq!(client.codes("MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nNOOP\r\n"), [220, 503, 503, 250]);
}

#[test]
fn parameters_need_ehlo() {
    let mut client = Client::new(Settings::default());

    let codes = client.codes(
        "HELO c.test\r\nMAIL FROM:<a@x.test> SIZE=1\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test> NOTIFY=NEVER\r\n",
    );

    assert_eq!(codes, [220, 250, 555, 250, 555]);
}

#[test]
fn dsn_parameters_are_kept_in_the_envelope() {
    let mut client = Client::ready(Settings::default());

    client.send(
        b"MAIL FROM:<a@x.test> RET=HDRS ENVID=Q+2B BODY=8BITMIME\r\n\
          RCPT TO:<b@y.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c@z.test\r\nRCPT TO:<d@y.test>\r\nDATA\r\nA: b\r\n.\r\n",
    );

    let envelope = &client.messages[0].envelope;
    assert_eq!((envelope.ret, envelope.envid.as_deref()), (Some(Ret::Headers), Some("Q+2B")));
    assert_eq!((envelope.body, envelope.smtputf8), (BodyType::EightBitMime, false));
    assert_eq!(envelope.recipients[0].notify, Notify::SUCCESS.with(Notify::DELAY));
    assert_eq!(envelope.recipients[0].orcpt.as_deref(), Some("rfc822;c@z.test"));
    assert_eq!((envelope.recipients[1].notify, &envelope.recipients[1].orcpt), (Notify::UNSPECIFIED, &None));
}

#[test]
fn rset_ehlo_and_helo_forget_the_envelope() {
    for forget in ["RSET", "EHLO c.test", "HELO c.test"] {
        let mut client = Client::ready(Settings::default());
        client.send(ENVELOPE.as_bytes());

        client.send(format!("{forget}\r\n").as_bytes());

        assert_eq!(client.codes("DATA\r\n"), [503], "{forget}");
    }
}

#[test]
fn a_refused_recipient_leaves_the_others() {
    let mut client = Client::ready(Settings::default());

    let codes = client.codes(&format!("{ENVELOPE}RCPT TO:<bad>\r\nRCPT TO:<c@y.test>\r\nDATA\r\nA: b\r\n.\r\n"));

    assert_eq!(codes, [250, 250, 501, 250, 354, 250]);
    assert_eq!(client.messages[0].envelope.recipients.len(), 2);
}

#[test]
fn a_second_mail_leaves_the_transaction_as_it_was() {
    let mut client = Client::ready(Settings::default());

    let codes = client.codes(&format!("{ENVELOPE}MAIL FROM:<other@x.test>\r\nDATA\r\nA: b\r\n.\r\n"));

    assert_eq!(codes, [250, 250, 503, 354, 250]);
    assert_eq!(client.reverse_paths(), ["a@x.test"]);
}

#[test]
fn after_data_without_recipients_the_next_transaction_has_its_own_reverse_path() {
    let mut client = Client::ready(Settings::default());

    let codes =
        client.codes(&format!("MAIL FROM:<old@x.test>\r\nRCPT TO:<bad>\r\nDATA\r\n{ENVELOPE}DATA\r\nA: b\r\n.\r\n"));

    assert_eq!(codes, [250, 501, 554, 250, 250, 354, 250]);
    assert_eq!(client.reverse_paths(), ["a@x.test"]);
}

#[test]
fn after_a_refused_content_the_envelope_is_empty() {
    let mut client = Client::ready(Settings::default());

    let codes = client.codes(&format!("{ENVELOPE}DATA\r\nA: b\r\n\r\nbare\nLF\r\n.\r\nDATA\r\nRCPT TO:<c@y.test>\r\n"));

    assert_eq!(codes, [250, 250, 354, 550, 503, 503]);
    assert!(client.messages.is_empty());
}

#[test]
fn a_message_that_cannot_be_stored_leaves_no_envelope_and_the_next_is_taken() {
    let mut client = Client::ready(Settings::default());
    client.answers.store = Some(refusal::STORAGE_FULL);

    assert_eq!(client.submit("A: b\r\n"), "452 4.3.1 Insufficient system storage");
    assert_eq!(client.codes("DATA\r\n"), [503]);
    client.answers.store = None;

    assert!(client.submit("A: b\r\n").starts_with("250 2.0.0"));
}

#[test]
fn a_full_queue_or_disk_refuses_early_and_recovers() {
    let mut client = Client::ready(Settings::default());
    client.answers.mail = Some(refusal::STORAGE_FULL);
    assert_eq!(client.codes(ENVELOPE), [452, 503]);
    client.answers.mail = None;
    client.answers.rcpt = Some(refusal::QUEUE_FULL);

    assert_eq!(client.codes(&format!("{ENVELOPE}DATA\r\n")), [250, 452, 452]);
    client.answers.rcpt = None;

    assert!(client.submit("A: b\r\n").starts_with("250 2.0.0"));
}

#[test]
fn chunks_make_one_message() {
    let mut client = Client::ready(Settings::default());

    let replies =
        client.send(format!("{ENVELOPE}BDAT 5\r\nA: b\rBDAT 3\r\n\n\r\nBDAT 4 LAST\r\n.\r\n\nQUIT\r\n").as_bytes());

    assert_eq!(
        replies.lines().map(|line| &line[..9]).collect::<Vec<_>>(),
        ["250 2.1.0", "250 2.1.5", "250 2.0.0", "250 2.0.0", "550 5.5.2", "221 2.0.0"]
    );
    let replies = Client::ready(Settings::default());
    let mut client = replies;
    client.send(format!("{ENVELOPE}BDAT 6\r\nA: b\r\nBDAT 2\r\n\r\nBDAT 3 LAST\r\n.\r\n").as_bytes());
    assert_eq!(client.messages[0].received, b"A: b\r\n\r\n.\r\n");
}

#[test]
fn an_empty_last_chunk_ends_the_message() {
    let mut client = Client::ready(Settings::default());

    let codes = client.codes(&format!("{ENVELOPE}BDAT 6\r\nA: b\r\nBDAT 0 LAST\r\nNOOP\r\n"));

    assert_eq!(codes, [250, 250, 250, 250, 250]);
    assert_eq!(client.messages[0].received, b"A: b\r\n");
}

#[test]
fn a_last_chunk_without_crlf_gets_one() {
    let mut client = Client::ready(Settings::default());

    client.send(format!("{ENVELOPE}BDAT 4 LAST\r\nA: b").as_bytes());

    assert_eq!(client.messages[0].received, b"A: b\r\n");
}

#[test]
fn between_chunks_only_bdat_and_rset_are_in_sequence() {
    let mut client = Client::ready(Settings::default());

    let codes =
        client.codes(&format!("{ENVELOPE}BDAT 2\r\nA:{ENVELOPE}DATA\r\nNOOP\r\nRSET\r\nMAIL FROM:<c@x.test>\r\n"));

    assert_eq!(codes, [250, 250, 250, 503, 503, 503, 250, 250, 250]);
}

#[test]
fn octets_of_a_refused_chunk_are_never_commands() {
    let hidden = "MAIL FROM:<evil@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\nA: b\r\n.\r\n";
    for before in ["", "MAIL FROM:<a@x.test>\r\n", "MAIL FROM:<a@x.test>\r\nRCPT TO:<bad>\r\n"] {
        let mut client = Client::ready(Settings::default());

        let replies = client.codes(&format!(
            "{before}BDAT {}\r\n{hidden}BDAT {} LAST\r\n{hidden}NOOP\r\n",
            hidden.len(),
            hidden.len()
        ));

        assert!(client.messages.is_empty());
        assert_eq!(replies.last(), Some(&250), "{before}");
        assert_eq!(replies.len(), before.lines().count() + 3, "{before}");
        assert!(replies[replies.len() - 3..].starts_with(&[if before.is_empty() { 503 } else { 554 }, 503]));
    }
}

#[test]
fn a_chunk_size_that_cannot_be_read_closes() {
    let mut client = Client::ready(Settings::default());

    let codes = client.codes(&format!("{ENVELOPE}BDAT 1x LAST\r\nQUIT\r\nNOOP\r\n"));

    assert_eq!(codes, [250, 250, 501]);
    assert!(client.is_closed);
}

#[test]
fn clients_outside_the_allowed_networks_relay_nothing() {
    let mut client = Client::from("192.0.2.1", Settings::default());

    let codes = client.codes(&format!("EHLO c.test\r\n{ENVELOPE}DATA\r\nBDAT 2 LAST\r\nxxNOOP\r\nQUIT\r\n"));

    assert_eq!(codes, [554, 503, 503, 503, 503, 503, 503, 221]);
    assert!(client.messages.is_empty());
}

#[test]
fn stopping_lets_a_content_in_chunks_end() {
    let mut client = Client::ready(Settings::default());
    client.send(format!("{ENVELOPE}BDAT 6\r\nA: b\r\n").as_bytes());

    client.session.stop();

    assert_eq!(client.codes("BDAT 1\r\nx"), [250]);
    assert_eq!(client.codes("BDAT 2 LAST\r\n\r\nMAIL FROM:<a@x.test>\r\n"), [250, 421]);
    assert_eq!(client.messages.len(), 1);
}

#[test]
fn stopping_ends_the_session_after_a_content_in_chunks_is_given_up() {
    let mut client = Client::ready(Settings::default());
    client.send(format!("{ENVELOPE}BDAT 6\r\nA: b\r\n").as_bytes());

    client.session.stop();

    assert_eq!(client.codes("RSET\r\n"), [250, 421]);
}

#[test]
fn a_configured_postmaster_gets_the_bare_name() {
    let postmaster = Some("ops@y.test".parse().unwrap());
    let mut client = Client::ready(Settings { postmaster, ..Settings::default() });

    client.send(b"MAIL FROM:<>\r\nRCPT TO:<PostMaster>\r\nDATA\r\nA: b\r\n.\r\n");

    assert_eq!(client.messages[0].envelope.recipients[0].forward_path.as_str(), "ops@y.test");
}

#[test]
fn stopping_ends_the_session_at_the_next_command_boundary() {
    let mut client = Client::ready(Settings::default());
    client.send(format!("{ENVELOPE}DATA\r\nA: b\r\n").as_bytes());

    client.session.stop();

    assert!(client.codes(".\r").is_empty());
    assert_eq!(client.codes("\nMAIL FROM:<c@x.test>\r\n"), [250, 421]);
    assert_eq!(client.messages.len(), 1);
    assert!(client.is_closed);
}

#[test]
fn stopping_an_idle_session_ends_it_at_once() {
    let mut client = Client::ready(Settings::default());

    client.session.stop();

    assert_eq!(client.codes(""), [421]);
}

#[test]
fn mailmax_ends_the_session() {
    let mut client = Client::ready(Settings { max_transactions: 1.try_into().ok(), ..Settings::default() });
    client.submit("A: b\r\n");

    assert_eq!(client.codes(ENVELOPE), [421]);
}

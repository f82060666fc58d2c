//! What admission adds to, takes from and reads out of a message.

use hikyaku::message::Lane;
use hikyaku::submission::Settings;

use crate::driver::{Client, ENVELOPE};

const RECEIVED: &str = "Received: from client.test ([127.0.0.1])\r\n\tby mx.test with ESMTP id 0000000000001\r\n\
                        \tfor <b@y.test>;\r\n\tThu, 01 Jan 1970 00:00:00 +0000\r\n";
const COMPLETE: &str = "Date: x\r\nMessage-ID: <x@x>\r\n";

fn trusting() -> Settings {
    Settings { trust_headers: true, tenant: "of-listener".into(), ..Settings::default() }
}

/// What is stored of `content`, without the Received field that every message gets.
fn stored(content: &str) -> String {
    let mut client = Client::ready(Settings::default());
    let reply = client.submit(content);
    let message = client.messages.pop().expect(&reply);
    let stored = String::from_utf8(message.stored).unwrap();
    stored.strip_prefix(RECEIVED).unwrap().to_owned()
}

#[test]
fn received_date_and_message_id_are_added_on_top() {
    assert_eq!(
        stored("From: a@x.test\r\n\r\nbody\r\n"),
        "Date: Thu, 01 Jan 1970 00:00:00 +0000\r\nMessage-ID: <0000000000001.00000000@mx.test>\r\n\
         From: a@x.test\r\n\r\nbody\r\n"
    );
}

#[test]
fn what_is_there_stays_octet_for_octet() {
    let content = "date: x\r\nMESSAGE-id: <x@x>\r\nSubject:  odd\r\n\t folding \r\nX-Seq: 1\r\n\r\n body\r\n\r\n..\r\n";

    assert_eq!(stored(&content.replace("\r\n.", "\r\n..")), content);
}

#[test]
fn bcc_return_path_and_our_own_fields_are_dropped_with_their_folds() {
    let content = "Return-Path: <x@x>\r\nBcc: a@x,\r\n\tb@x\r\nDate: x\r\nX-Hikyaku-Unknown: y\r\nbcc :c@x\r\nResent-Bcc: d@x\r\n\
                   Message-ID: <x@x>\r\nX-HIKYAKU-Campaign: spring\r\n\r\nBcc: body\r\n";

    assert_eq!(stored(content), format!("{COMPLETE}\r\nBcc: body\r\n"));
}

#[test]
fn a_body_without_a_header_section_stays_body() {
    assert_eq!(stored("Hello there\r\nA: b\r\n").split_once("\r\n\r\n").unwrap().1, "Hello there\r\nA: b\r\n");
    assert_eq!(stored(&format!("{COMPLETE}no field\r\n")), format!("{COMPLETE}\r\nno field\r\n"));
    assert_eq!(stored(&format!("{COMPLETE}\r\n")), format!("{COMPLETE}\r\n"));
    assert_eq!(stored(COMPLETE), format!("{COMPLETE}\r\n"));
}

#[test]
fn for_is_given_with_one_recipient_only() {
    let mut client = Client::ready(Settings::default());

    client.send(format!("{ENVELOPE}RCPT TO:<c@z.test>\r\nDATA\r\nA: b\r\n.\r\n").as_bytes());

    let text = String::from_utf8(client.messages[0].stored.clone()).unwrap();
    assert!(text.starts_with("Received: ") && !text.contains("y.test") && !text.contains("z.test"), "{text}");
}

#[test]
fn the_protocol_is_told_as_the_rfcs_name_it() {
    for (hello, smtputf8, protocol) in [("HELO", "", "SMTP"), ("EHLO", "", "ESMTP"), ("EHLO", " SMTPUTF8", "UTF8SMTP")]
    {
        let mut client = Client::new(Settings::default());

        client.send(
            format!("{hello} [127.0.0.1]\r\nMAIL FROM:<>{smtputf8}\r\nRCPT TO:<b@y.test>\r\nDATA\r\n.\r\n").as_bytes(),
        );

        let text = String::from_utf8(client.messages[0].stored.clone()).unwrap();
        assert!(
            text.contains(&format!("from [127.0.0.1] ([127.0.0.1])\r\n\tby mx.test with {protocol} id ")),
            "{text}"
        );
    }
}

#[test]
fn tenant_and_lane_are_believed_only_where_headers_are_trusted() {
    let content = "X-Hikyaku-Tenant: Acme\r\nX-Hikyaku-Lane: Urgent\r\nX-Hikyaku-Campaign: Spring  Sale\r\n\
                   X-Hikyaku-Class: Offers\r\n\r\n";
    let (mut trusting, mut wary) = (Client::ready(trusting()), Client::ready(Settings::default()));

    trusting.submit(content);
    wary.submit(content);

    let (a, b) = (&trusting.messages[0].envelope, &wary.messages[0].envelope);
    assert_eq!((&*a.tenant, &*a.campaign, a.lane), ("acme", "Spring  Sale", Lane::Urgent));
    assert_eq!((&*a.class, &*b.class), ("offers", "offers"));
    assert_eq!((&*b.tenant, &*b.campaign, b.lane), ("default", "Spring  Sale", Lane::Normal));
}

#[test]
fn without_fields_the_listener_decides() {
    let mut client = Client::ready(trusting());

    client.submit("A: b\r\n\r\n");

    let envelope = &client.messages[0].envelope;
    assert_eq!((&*envelope.tenant, &*envelope.campaign, envelope.lane), ("of-listener", "", Lane::Normal));
}

#[test]
fn our_own_fields_twice_or_out_of_range_are_refused() {
    let long = "x".repeat(129);
    for bad in [
        "X-Hikyaku-Campaign: a\r\nX-Hikyaku-Campaign: a\r\n",
        "X-Hikyaku-Foo: a\r\nx-hikyaku-foo : b\r\n",
        "X-Hikyaku-Lane: fast\r\n",
        "X-Hikyaku-Lane:\r\n",
        "X-Hikyaku-Tenant:\r\n",
        "X-Hikyaku-Tenant: a b\r\n",
        "X-Hikyaku-Tenant: a\"b\r\n",
        "X-Hikyaku-Tenant: ../etc\u{2028}\r\n",
        "X-Hikyaku-Campaign: a\u{7}b\r\n",
        "X-Hikyaku-Campaign: \u{fc}\r\n",
        &format!("X-Hikyaku-Campaign: {long}\r\n"),
    ] {
        let mut client = Client::ready(trusting());

        let reply = client.submit(&format!("{bad}\r\nbody\r\n"));

        assert!(reply.starts_with("550 5.6.0 "), "{bad:?}: {reply}");
        assert!(client.messages.is_empty());
    }
}

#[test]
fn more_fields_of_our_own_than_there_can_be_are_refused() {
    let fields = |count: usize| (0..count).map(|n| format!("X-Hikyaku-{n}: x\r\n")).collect::<String>();
    let mut client = Client::ready(Settings::default());

    assert!(client.submit(&fields(32)).starts_with("250"));
    assert!(client.submit(&fields(33)).starts_with("550 5.6.0"));
}

#[test]
fn a_hundred_received_fields_are_a_loop() {
    let content =
        |hops: usize| format!("{}A: b\r\n\r\nReceived: body\r\n", "Received: from x\r\n\tby y; z\r\n".repeat(hops));
    let mut client = Client::ready(Settings::default());

    assert!(client.submit(&content(51)).starts_with("250 2.0.0"));
    assert!(client.submit(&content(99)).starts_with("250 2.0.0"));
    assert!(client.submit(&content(100)).starts_with("554 5.4.6"));
    assert!(client.submit(&content(101)).starts_with("554 5.4.6"));
}

#[test]
fn content_traits_are_those_of_the_content_whatever_was_declared() {
    for (content, traits) in [
        ("A: b\r\n\r\nx\r\n", (false, false)),
        ("A: b\r\n\r\n\u{fc}\r\n", (true, false)),
        ("A: \u{fc}\r\n\r\nx\r\n", (true, true)),
    ] {
        let mut client = Client::ready(Settings::default());

        client.submit(content);

        let message = &client.messages[0];
        let found = message.envelope.traits;
        assert_eq!((found.has_eight_bit, found.has_eight_bit_header), traits, "{content:?}");
        assert!(String::from_utf8(message.stored.clone()).unwrap().ends_with(content));
    }
}

#[test]
fn a_header_section_that_is_not_utf8_is_refused_but_a_body_may_be_anything() {
    let mut client = Client::ready(Settings::default());
    let data = |content: &[u8]| [ENVELOPE.as_bytes(), b"DATA\r\n", content, b".\r\n"].concat();

    assert_eq!(client.codes_of(&data(b"A: \xff\r\n\r\nx\r\n")).last(), Some(&554));
    assert_eq!(client.codes_of(&data(b"A: b\r\n\r\n\xff\xfe\r\n")).last(), Some(&250));
    assert!(client.messages[0].stored.ends_with(b"\r\n\r\n\xff\xfe\r\n"));
}

/// The reply to MAIL and the lane of what is then submitted.
fn lane_of(settings: Settings, priority: &str) -> (String, Lane) {
    let mut client = Client::ready(settings);
    let reply = client.send(format!("MAIL FROM:<a@x.test> MT-PRIORITY={priority}\r\n").as_bytes());
    client.send(b"RCPT TO:<b@y.test>\r\nDATA\r\nA: b\r\n.\r\n");
    (reply, client.messages[0].envelope.lane)
}

#[test]
fn a_priority_chooses_the_lane_and_who_is_not_trusted_cannot_be_more_urgent_than_its_listener() {
    let ok = "250 2.1.0 Ok\r\n".to_owned();
    let lowered = |to: &str| format!("250 2.3.6 {to} is the new priority assigned to the message\r\n");
    let bulk = || Settings { lane: Lane::Bulk, ..Settings::default() };

    assert_eq!(lane_of(trusting(), "6"), (ok.clone(), Lane::Urgent));
    assert_eq!(lane_of(Settings::default(), "6"), (lowered("0"), Lane::Normal));
    assert_eq!(lane_of(Settings::default(), "-9"), (ok.clone(), Lane::Bulk));
    assert_eq!(lane_of(bulk(), "0"), (lowered("-4"), Lane::Bulk));
    assert_eq!(lane_of(Settings { lane: Lane::Bulk, ..trusting() }, "0"), (ok, Lane::Normal));
}

#[test]
fn a_trusted_field_comes_before_the_priority_and_both_before_the_listener() {
    let mut client = Client::ready(Settings { lane: Lane::Bulk, ..trusting() });

    client.submit("A: b\r\n\r\n");
    client.send(
        b"MAIL FROM:<a@x.test> MT-PRIORITY=0\r\nRCPT TO:<b@y.test>\r\nDATA\r\nX-Hikyaku-Lane: urgent\r\n\r\n.\r\n",
    );

    let lanes: Vec<Lane> = client.messages.iter().map(|message| message.envelope.lane).collect();
    assert_eq!(lanes, [Lane::Bulk, Lane::Urgent]);
}

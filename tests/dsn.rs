//! DSNs read back by two parsers that are not ours: mail-parser, and Python's email package.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/skip.rs"]
mod skip;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use hikyaku::bounce::dsn::{self, Action, Request, Subject};
use hikyaku::clock::UnixTime;
use hikyaku::message::{Content, Envelope, MessageId, Phase, Recipient, Report, Ret};
use hikyaku::smtp::address::ReversePath;
use hikyaku::smtp::reply::Reply;
use hikyaku::smtp::status::Status;
use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::quoted_printable::quoted_printable_decode;
use mail_parser::{Encoding, MessageParser, MimeHeaders};
use proptest::prelude::*;

const HEADER: &str = "Received: from client\r\nMessage-ID: <abc@sender.test>\r\nSubject: Hello\r\n";

fn envelope(reverse_path: &str, recipients: &[&str]) -> Envelope {
    Envelope::new(
        ReversePath::Mailbox(reverse_path.parse().unwrap()),
        recipients.iter().map(|path| Recipient::new(path.parse().unwrap())).collect(),
        UnixTime(1_795_318_696),
    )
}

fn content(text: &str) -> Content {
    Content::Memory(Bytes::copy_from_slice(text.as_bytes()))
}

fn replied(code: u16, status: Option<Status>, text: &str) -> Report {
    Report {
        phase: Phase::Rcpt,
        reply: Reply { code, status, text: text.into() },
        mx_host: Some(Arc::from("mx.b.test")),
        mx_address: Some(([192, 0, 2, 1], 25).into()),
        tls: None,
        tls_policy: None,
        relayed_dsn: false,
        in_doubt: false,
        hung_up: false,
    }
}

fn local(status: Status, text: &str) -> Report {
    Report::local(Phase::Dns, status, text)
}

fn generate(envelope: &Envelope, content: &Content, action: Action, reports: &[Report]) -> String {
    let subjects: Vec<Subject<'_>> =
        (0..).zip(reports).map(|(recipient, report)| Subject { recipient, action, report }).collect();
    let request = Request {
        id: MessageId(77),
        envelope,
        content: Some(content),
        subjects: &subjects,
        reporting_mta: "mta.sender.test",
        now: UnixTime(1_795_322_296),
        will_retry_until: Some(UnixTime(1_795_664_296)),
    };
    String::from_utf8(dsn::generate(&request).unwrap().to_vec()).unwrap()
}

/// The groups of fields of the delivery-status part, unfolded, names in lower case.
fn groups(text: &str) -> Vec<BTreeMap<String, String>> {
    let unfolded = text.replace("\r\n ", " ").replace("\r\n\t", " ");
    let groups = unfolded.trim_end().split("\r\n\r\n");
    let field = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    groups.map(|group| group.lines().filter_map(field).collect()).collect()
}

/// What an outside parser found in a DSN.
struct Parsed {
    fields: BTreeMap<&'static str, String>,
    kinds: Vec<String>,
    /// Decoded.
    parts: Vec<String>,
}

fn parsed(dsn: &str) -> Parsed {
    let message = MessageParser::default().parse(dsn.as_bytes()).unwrap();
    let names = ["From", "To", "Subject", "Message-ID", "In-Reply-To", "Auto-Submitted", "Content-Transfer-Encoding"];
    let raw = |name| Some((name, message.header_raw(name)?.trim().to_owned()));
    let parts = message.parts.iter().skip(1);
    let kind = |part: &mail_parser::MessagePart<'_>| {
        let kind = part.content_type().unwrap();
        format!("{}/{}", kind.c_type, kind.c_subtype.as_deref().unwrap_or_default())
    };
    let body = |part: &mail_parser::MessagePart<'_>| {
        let range = usize::try_from(part.offset_body).unwrap()..usize::try_from(part.offset_end).unwrap();
        let octets = match part.encoding {
            Encoding::None => dsn[range].as_bytes().to_vec(),
            Encoding::QuotedPrintable => quoted_printable_decode(dsn[range].as_bytes()).unwrap(),
            Encoding::Base64 => base64_decode(dsn[range].as_bytes()).unwrap(),
        };
        String::from_utf8_lossy(&octets).into_owned()
    };
    let top = message.parts[0].content_type().unwrap();
    assert_eq!((top.c_type.as_ref(), top.c_subtype.as_deref()), ("multipart", Some("report")));
    assert_eq!(top.attribute("report-type"), Some("delivery-status"));
    Parsed {
        fields: names.into_iter().filter_map(raw).collect(),
        kinds: parts.clone().map(kind).collect(),
        parts: parts.map(body).collect(),
    }
}

/// Runs Python's parser over a DSN: one line a finding.
fn python(dsn: &str) -> Option<Vec<String>> {
    const PROGRAM: &str = r#"
import sys, email, email.policy
m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.SMTP)
print(m.get_content_type(), m.get_param("report-type"), [type(d).__name__ for p in m.walk() for d in p.defects])
print(m["To"], "|", m["From"].addresses[0].addr_spec, "|", m["Auto-Submitted"])
for p in m.iter_parts():
    print(p.get_content_type())
for group in list(m.iter_parts())[1].get_payload():
    for name, value in group.items():
        print(name, "=", " ".join(str(value).split()))
"#;
    let child = Command::new("python3").args(["-c", PROGRAM]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        skip::skip("python_reads_the_same", "no python3");
        return None;
    };
    child.stdin.take().unwrap().write_all(dsn.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

/// What must hold of every DSN.
fn check_form(dsn: &str) {
    let head = &dsn[..dsn.find("\r\n\r\n").unwrap()];
    assert!(dsn.ends_with("--\r\n"));
    assert!(!dsn.replace("\r\n", "").contains(['\r', '\n', '\0']), "only CRLF line ends");
    assert!(dsn.lines().all(|line| line.len() <= 998));
    assert!(head.lines().all(|line| line.len() <= 998 && !line.is_empty()));
    assert!(dsn[head.len()..].is_ascii(), "a next hop without 8BITMIME takes it");
}

#[test]
fn a_failure_tells_every_field_of_rfc_3464() {
    let mut envelope = envelope("ann@sender.test", &["bob@b.test", "eve@b.test"]);
    envelope.envid = Some("QQ314+2B159".into());
    envelope.recipients[0].orcpt = Some("rfc822;Bob+2Bx@b.test".into());
    let reports = [
        replied(550, Some(Status::new(5, 1, 1)), "no such user"),
        local(Status::new(5, 1, 2), "the domain does not exist"),
    ];

    let dsn = generate(&envelope, &content(&format!("{HEADER}\r\nbody\r\n")), Action::Failed, &reports);

    check_form(&dsn);
    let Parsed { fields, kinds, parts } = parsed(&dsn);
    assert_eq!(fields["From"], "Mail Delivery System <MAILER-DAEMON@mta.sender.test>");
    assert_eq!((fields["To"].as_str(), fields["Auto-Submitted"].as_str()), ("<ann@sender.test>", "auto-replied"));
    assert_eq!(fields["In-Reply-To"], "<abc@sender.test>");
    assert!(!fields.contains_key("Content-Transfer-Encoding"));
    assert_eq!(kinds, ["text/plain", "message/delivery-status", "text/rfc822-headers"]);
    let groups = groups(&parts[1]);
    assert_eq!(groups.len(), 3);
    assert_eq!(groups[0]["reporting-mta"], "dns; mta.sender.test");
    assert_eq!(groups[0]["original-envelope-id"], "QQ314+159");
    assert_eq!(groups[0]["arrival-date"], "Sun, 22 Nov 2026 03:38:16 +0000");
    let first = &groups[1];
    assert_eq!(first["original-recipient"], "rfc822; Bob+x@b.test");
    assert_eq!(first["final-recipient"], "rfc822; bob@b.test");
    assert_eq!((first["action"].as_str(), first["status"].as_str()), ("failed", "5.1.1"));
    assert_eq!(first["remote-mta"], "dns; mx.b.test");
    assert_eq!(first["diagnostic-code"], "smtp; 550 5.1.1 no such user");
    assert_eq!(first["last-attempt-date"], "Sun, 22 Nov 2026 04:38:16 +0000");
    assert!(!first.contains_key("will-retry-until"));
    let second = &groups[2];
    assert_eq!(second["diagnostic-code"], "x-hikyaku; 5.1.2 the domain does not exist");
    assert!(!second.contains_key("remote-mta") && !second.contains_key("original-recipient"));
    assert_eq!(parts[2], HEADER);
}

#[test]
fn python_reads_the_same() {
    let report = replied(550, Some(Status::new(5, 7, 1)), &"a long refusal with a link ".repeat(20));
    let dsn = generate(
        &envelope("ann@sender.test", &["bob@b.test"]),
        &content(&format!("{HEADER}\r\nbody\r\n")),
        Action::Failed,
        &[report],
    );

    let Some(lines) = python(&dsn) else { return };

    assert_eq!(lines[0], "multipart/report delivery-status []");
    assert_eq!(lines[1], "ann@sender.test | MAILER-DAEMON@mta.sender.test | auto-replied");
    assert_eq!(lines[2..5], ["text/plain", "message/delivery-status", "text/rfc822-headers"]);
    for expected in ["Final-Recipient = rfc822; bob@b.test", "Action = failed", "Status = 5.7.1"] {
        assert!(lines.iter().any(|line| line == expected), "{expected} in {lines:#?}");
    }
    let diagnostic = lines.iter().find(|line| line.starts_with("Diagnostic-Code")).unwrap();
    assert!(diagnostic.ends_with("with a link") && diagnostic.len() > 500, "{diagnostic}");
}

#[test]
fn the_text_names_recipient_host_and_reply() {
    let reports = [replied(550, Some(Status::new(5, 1, 1)), "no such user"), replied(452, None, "mailbox full")];
    let envelope = envelope("ann@sender.test", &["bob@b.test", "eve@b.test"]);

    let dsn = generate(&envelope, &content(HEADER), Action::Failed, &reports);

    let text = parsed(&dsn).parts[0].replace("\r\n    ", " ").replace("\r\n", " ");
    assert!(text.contains("<bob@b.test> mx.b.test [192.0.2.1] replied to RCPT: 550 5.1.1 no such user"), "{text}");
    assert!(text.contains("<eve@b.test> It was tried for too long. The last answer: mx.b.test"), "{text}");
    assert!(text.contains("could not be delivered to the recipients below"), "{text}");
}

#[test]
fn the_status_follows_the_reply_code_when_there_is_no_enhanced_one() {
    let cases = [
        (Action::Failed, replied(554, None, "x"), "5.0.0"),
        (Action::Failed, replied(450, None, "x"), "4.0.0"),
        (Action::Failed, replied(450, Some(Status::new(4, 7, 1)), "x"), "4.7.1"),
        (Action::Failed, replied(550, Some(Status::new(2, 0, 0)), "x"), "5.0.0"),
        (Action::Delayed, replied(451, None, "x"), "4.0.0"),
        (Action::Delayed, local(Status::new(4, 4, 1), "x"), "4.4.1"),
        (Action::Relayed, replied(250, Some(Status::new(2, 1, 5)), "x"), "2.1.5"),
        (Action::Relayed, replied(250, None, "x"), "2.0.0"),
    ];
    for (action, report, expected) in cases {
        let dsn = generate(&envelope("a@s.test", &["b@b.test"]), &content(HEADER), action, &[report]);

        assert_eq!(groups(&parsed(&dsn).parts[1])[1]["status"], expected, "{action:?}");
    }
}

#[test]
fn a_delay_says_until_when_and_returns_only_the_header_section() {
    let mut envelope = envelope("ann@sender.test", &["bob@b.test"]);
    envelope.ret = Some(Ret::Full);
    let report = replied(451, Some(Status::new(4, 3, 0)), "later");

    let dsn = generate(&envelope, &content(&format!("{HEADER}\r\nbody\r\n")), Action::Delayed, &[report]);

    let Parsed { fields, kinds, parts } = parsed(&dsn);
    assert_eq!(fields["Subject"], "Delivery Status Notification (Delay)");
    assert_eq!(kinds[2], "text/rfc822-headers");
    let group = &groups(&parts[1])[1];
    assert_eq!(
        (group["action"].as_str(), group["will-retry-until"].as_str()),
        ("delayed", "Thu, 26 Nov 2026 03:38:16 +0000")
    );
    assert!(parts[0].contains("You need not do anything"));
}

#[test]
fn a_relay_says_that_no_more_may_be_heard() {
    let report = replied(250, None, "ok");
    let dsn = generate(&envelope("a@s.test", &["b@b.test"]), &content(HEADER), Action::Relayed, &[report]);

    let Parsed { fields, parts, .. } = parsed(&dsn);

    assert_eq!(fields["Subject"], "Delivery Status Notification (Relay)");
    assert_eq!(groups(&parts[1])[1]["action"], "relayed");
    assert!(parts[0].replace("\r\n", " ").contains("You may hear nothing more about it."));
}

#[test]
fn ret_full_returns_the_content_octet_by_octet() {
    let mut envelope = envelope("ann@sender.test", &["bob@b.test"]);
    envelope.ret = Some(Ret::Full);
    let plain = format!("{HEADER}\r\n..dots\r\n--=_x\r\n\r\n");
    let utf8 = "Subject: Grüße\r\n\r\n..dots\r\n--=_x\r\nGrüße\r\n\r\n";

    for (original, expected) in [(plain.as_str(), "message/rfc822"), (utf8, "message/global")] {
        let dsn = generate(&envelope, &content(original), Action::Failed, &[replied(550, None, "no")]);

        check_form(&dsn);
        let Parsed { kinds, parts, .. } = parsed(&dsn);
        assert_eq!((kinds[2].as_str(), parts[2].as_str()), (expected, original));
    }
}

#[test]
fn of_a_message_that_asks_for_requiretls_only_the_header_section_comes_back() {
    let mut envelope = envelope("ann@sender.test", &["bob@b.test"]);
    (envelope.ret, envelope.tls) = (Some(Ret::Full), hikyaku::message::TlsWish::Required);

    let original = format!("{HEADER}\r\nsecret\r\n");
    let dsn = generate(&envelope, &content(&original), Action::Failed, &[replied(550, None, "no")]);

    let Parsed { kinds, parts, .. } = parsed(&dsn);
    assert_eq!((kinds[2].as_str(), parts[2].as_str()), ("text/rfc822-headers", HEADER));
    assert!(!dsn.contains("secret"));
}

#[test]
fn an_eight_bit_body_under_an_ascii_header_section_is_not_returned() {
    let mut envelope = envelope("ann@sender.test", &["bob@b.test"]);
    envelope.ret = Some(Ret::Full);

    let original = format!("{HEADER}\r\nGrüße\r\n");
    let dsn = generate(&envelope, &content(&original), Action::Failed, &[replied(550, None, "no")]);

    check_form(&dsn);
    let Parsed { kinds, parts, .. } = parsed(&dsn);
    assert_eq!((kinds[2].as_str(), parts[2].as_str()), ("text/rfc822-headers", HEADER));
    assert!(dsn.contains("Content-Description: Header section of the message; its 8-bit body cannot be returned\r\n"));
}

#[test]
fn a_content_over_a_megabyte_comes_back_as_its_header_section() {
    let mut envelope = envelope("ann@sender.test", &["bob@b.test"]);
    envelope.ret = Some(Ret::Full);
    let original = format!("{HEADER}\r\n{}", "0123456789abcde\r\n".repeat(70_000));

    let dsn = generate(&envelope, &content(&original), Action::Failed, &[replied(550, None, "no")]);

    assert!(dsn.len() < 10_000);
    assert_eq!(parsed(&dsn).kinds[2], "text/rfc822-headers");
}

#[test]
fn content_in_a_file_is_returned_with_its_prefix() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"skipped\r\nSubject: from the file\r\n\r\nbody\r\n").unwrap();
    let content =
        Content::File { prefix: Bytes::from_static(b"Received: x\r\n"), file: Arc::new(file), offset: 9, length: 32 };

    let dsn = generate(&envelope("a@s.test", &["b@b.test"]), &content, Action::Failed, &[replied(550, None, "no")]);

    assert_eq!(parsed(&dsn).parts[2], "Received: x\r\nSubject: from the file\r\n");
}

#[test]
fn header_sections_without_end_or_without_fields_do_no_harm() {
    for original in ["", "\r\nbody\r\n", "no line end", "Subject: x\r\ncut off", &"X: y\r\n".repeat(30_000)] {
        let dsn = generate(
            &envelope("a@s.test", &["b@b.test"]),
            &content(original),
            Action::Failed,
            &[replied(550, None, "no")],
        );

        check_form(&dsn);
        assert!(dsn.len() < 70_000 && !dsn.contains("body") && !dsn.contains("cut off"), "{original:.40}");
    }
}

#[test]
fn addresses_beyond_ascii_make_the_parts_of_rfc_6533() {
    let mut envelope = envelope("jürgen@sender.test", &["bücher@b.test"]);
    envelope.ret = Some(Ret::Full);
    let original = "Subject: Grüße\r\n\r\nbody\r\n";

    let dsn = generate(&envelope, &content(original), Action::Failed, &[replied(550, None, "kein Empfänger")]);

    check_form(&dsn);
    let Parsed { fields, kinds, parts } = parsed(&dsn);
    assert_eq!(kinds, ["text/plain", "message/global-delivery-status", "message/global"]);
    assert_eq!(fields["To"], "<jürgen@sender.test>");
    let group = &groups(&parts[1])[1];
    assert_eq!(group["final-recipient"], "utf-8; bücher@b.test");
    assert_eq!(group["diagnostic-code"], "smtp; 550 kein Empfänger");
    assert_eq!(parts[2], original);
}

#[test]
fn the_report_for_programs_is_ascii_unless_an_address_needs_more() {
    let report = replied(550, None, "kein Empfänger");

    let dsn =
        generate(&envelope("a@s.test", &["b@b.test"]), &content("Subject: Grüße\r\n\r\n"), Action::Failed, &[report]);

    check_form(&dsn);
    let Parsed { kinds, parts, .. } = parsed(&dsn);
    assert_eq!(kinds, ["text/plain", "message/delivery-status", "message/global-headers"]);
    assert_eq!(parts[2], "Subject: Grüße\r\n");
    assert!(parts[1].is_ascii() && parts[0].contains("kein Empfänger"));
}

#[test]
fn header_fields_in_another_charset_are_kept_as_they_are() {
    let content = Content::Memory(Bytes::from_static(b"Subject: Gr\xfc\xdfe\r\n\r\nbody"));
    let envelope = envelope("a@s.test", &["b@b.test"]);
    let report = replied(550, None, "no");
    let subjects = [Subject { recipient: 0, action: Action::Failed, report: &report }];
    let request = Request {
        id: MessageId(1),
        envelope: &envelope,
        content: Some(&content),
        subjects: &subjects,
        reporting_mta: "mta.test",
        now: UnixTime(0),
        will_retry_until: None,
    };

    let dsn = dsn::generate(&request).unwrap();

    let dsn = std::str::from_utf8(&dsn).unwrap();
    check_form(dsn);
    assert!(dsn.contains("Content-Type: text/rfc822-headers\r\n") && dsn.contains("Subject: Gr=FC=DFe\r\n"), "{dsn}");
}

#[test]
fn nothing_a_peer_or_client_says_can_add_a_line() {
    let mut envelope = envelope("ann@sender.test", &["\"a b\\\"c\"@b.test"]);
    envelope.envid = Some("x+0D+0ABcc:+20evil@x.test".into());
    envelope.recipients[0].orcpt = Some("rfc822;x+0D+0AAction:+20delivered".into());
    let mut report = replied(550, None, "no\r\nAction: delivered\0\u{1b}[2J\u{2028}");
    report.mx_host = Some("evil\r\nX: y".into());

    let dsn = generate(&envelope, &content("Message-ID: <a\u{1b}b>\r\nSubject: x\r\n\r\n"), Action::Failed, &[report]);

    check_form(&dsn);
    let Parsed { fields, parts, .. } = parsed(&dsn);
    let groups = groups(&parts[1]);
    assert_eq!((groups.len(), groups[1]["action"].as_str()), (2, "failed"));
    assert_eq!(groups[0]["original-envelope-id"], "x+0D+0ABcc:+20evil@x.test");
    assert!(!fields.contains_key("In-Reply-To"));
    assert!(parts[..2].concat().chars().all(|c| !c.is_control() || matches!(c, '\r' | '\n')));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn whatever_is_said_the_form_holds(
        text in any::<String>(),
        host in proptest::option::of(any::<String>()),
        orcpt in proptest::option::of("[a-z0-9-]{1,10};(\\PC|\\+[0-9A-F]{2}){0,40}"),
        envid in proptest::option::of(any::<String>()),
        body in proptest::collection::vec("(\\PC){0,80}", 0..20),
        code in prop_oneof![Just(0), 400..600_u16],
        is_whole in any::<bool>(),
        action in prop_oneof![Just(Action::Failed), Just(Action::Delayed), Just(Action::Relayed)],
    ) {
        let mut envelope = envelope("ann@sender.test", &["bob@b.test", "eve@b.test"]);
        envelope.envid = envid.map(Into::into);
        envelope.recipients[0].orcpt = orcpt.map(Into::into);
        envelope.ret = is_whole.then_some(Ret::Full);
        let mut report = replied(code, None, &text);
        report.mx_host = host.map(Into::into);

        let dsn = generate(&envelope, &content(&(body.join("\r\n") + "\r\n")), action, &[report.clone(), report]);

        check_form(&dsn);
        let Parsed { kinds, parts, .. } = parsed(&dsn);
        prop_assert_eq!((kinds.len(), kinds[0].as_str()), (3, "text/plain"));
        let groups = groups(&parts[1]);
        prop_assert_eq!(groups.len(), 3);
        prop_assert_eq!(groups[2]["final-recipient"].as_str(), "rfc822; eve@b.test");
        prop_assert!(parts[..2].concat().chars().all(|c| !c.is_control() || matches!(c, '\r' | '\n')));
    }
}

#[test]
fn the_boundary_never_occurs_in_what_is_returned() {
    let mut envelope = envelope("ann@sender.test", &["bob@b.test"]);
    envelope.ret = Some(Ret::Full);
    let boundary_of = |dsn: &str| {
        let at = dsn.find("boundary=\"").unwrap() + 10;
        dsn[at..at + dsn[at..].find('"').unwrap()].to_owned()
    };
    let reports = [replied(550, None, "no")];
    let first = boundary_of(&generate(&envelope, &content(HEADER), Action::Failed, &reports));
    let hostile = format!("{HEADER}\r\n--{first}--\r\n");

    let dsn = generate(&envelope, &content(&hostile), Action::Failed, &reports);

    assert_ne!(boundary_of(&dsn), first);
    assert_eq!(parsed(&dsn).parts[2], hostile);
}

#[test]
fn the_same_failure_makes_the_same_dsn() {
    let (envelope, content) = (envelope("a@s.test", &["b@b.test"]), content(HEADER));
    let reports = [replied(550, None, "no")];

    let first = generate(&envelope, &content, Action::Failed, &reports);

    assert_eq!(generate(&envelope, &content, Action::Failed, &reports), first);
    assert_ne!(dsn::id_of(MessageId(1), [0], Action::Failed), dsn::id_of(MessageId(1), [0], Action::Delayed));
    assert_ne!(dsn::id_of(MessageId(1), [0], Action::Failed), dsn::id_of(MessageId(1), [0, 1], Action::Failed));
}

#[test]
fn a_dsn_about_a_damaged_message_returns_nothing_and_says_so() {
    let envelope = envelope("ann@sender.test", &["bob@b.test"]);
    let report = replied(550, None, "no");
    let request = Request {
        id: MessageId(1),
        envelope: &envelope,
        content: None,
        subjects: &[Subject { recipient: 0, action: Action::Failed, report: &report }],
        reporting_mta: "mta.test",
        now: UnixTime(0),
        will_retry_until: None,
    };

    let dsn = String::from_utf8(dsn::generate(&request).unwrap().to_vec()).unwrap();

    check_form(&dsn);
    let Parsed { fields, kinds, parts } = parsed(&dsn);
    assert_eq!(kinds, ["text/plain", "message/delivery-status"]);
    assert!(!fields.contains_key("In-Reply-To"));
    assert!(parts[0].contains("damaged"), "{}", parts[0]);
}

#[test]
fn the_null_reverse_path_gets_no_dsn() {
    let mut envelope = envelope("a@s.test", &["b@b.test"]);
    envelope.reverse_path = ReversePath::Null;
    let report = replied(550, None, "no");
    let subjects = [Subject { recipient: 0, action: Action::Failed, report: &report }];
    let request = Request {
        id: MessageId(1),
        envelope: &envelope,
        content: Some(&content(HEADER)),
        subjects: &subjects,
        reporting_mta: "mta.test",
        now: UnixTime(0),
        will_retry_until: None,
    };

    assert_eq!(dsn::generate(&request).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}

//! DSNs, authentications and the policies of MTA-STS.

use std::num::NonZeroU32;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hikyaku::bounce::dsn::{self, Action, Request, Subject};
use hikyaku::clock::UnixTime;
use hikyaku::dns::sts::{Policy, id_of};
use hikyaku::message::{Content, Envelope, MessageId, Phase, Recipient, Report, Ret};
use hikyaku::smtp::address::ReversePath;
use hikyaku::smtp::reply::Reply;
use hikyaku::smtp::status::Status;
use hikyaku::users::sasl::dialog::{Dialog, Next, offered};
use hikyaku::users::sasl::{Channel, Directory};
use hikyaku::users::scram::Keys;

use super::is_plain;

/// Octets of a DSN beside what it returns.
const REPORT_MOST: usize = 64 * 1024;

/// Parts, ended by NUL: the text of a reply, the host that said it, ENVID, ORCPT, then the content that is returned. The first
/// octet chooses what is reported and whether all of it is returned.
pub fn dsn(octets: &[u8]) {
    let Some((&choice, rest)) = octets.split_first() else { return };
    let mut parts = rest.splitn(5, |octet| *octet == 0);
    let mut text = || parts.next().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
    let (said, host, envid, orcpt) = (text(), text(), text(), text());
    let returned = parts.next().unwrap_or_default().to_vec();

    let (reverse_path, path) =
        ("ann@sender.test".parse().expect("an address"), "bob@b.test".parse().expect("an address"));
    let recipient = Recipient { orcpt: (!orcpt.is_empty()).then(|| orcpt.into()), ..Recipient::new(path) };
    let mut envelope = Envelope::new(ReversePath::Mailbox(reverse_path), vec![recipient; 2], UnixTime(1_795_318_696));
    envelope.envid = (!envid.is_empty()).then(|| envid.into());
    envelope.ret = Some(if choice & 4 == 0 { Ret::Full } else { Ret::Headers });
    let report = Report {
        reply: Reply { code: 550, status: None, text: said.into() },
        mx_host: Some(Arc::from(host)),
        ..Report::local(Phase::Rcpt, Status::new(5, 0, 0), "")
    };
    let action = [Action::Failed, Action::Delayed, Action::Relayed, Action::Failed][usize::from(choice & 3)];
    let subjects = [0, 1].map(|recipient| Subject { recipient, action, report: &report });
    let length = returned.len();
    let content = Content::Memory(returned.into());
    let request = Request {
        id: MessageId(77),
        envelope: &envelope,
        content: Some(&content),
        subjects: &subjects,
        reporting_mta: "mta.sender.test",
        now: UnixTime(1_795_322_296),
        will_retry_until: Some(UnixTime(1_795_664_296)),
    };

    let dsn = dsn::generate(&request).expect("content in memory can be read").to_vec();

    assert_eq!(dsn, dsn::generate(&request).expect("as before").to_vec(), "the same again");
    assert!(dsn.len() <= REPORT_MOST + 4 * (rest.len() - length) + 3 * length, "{} of {length}", dsn.len());
    let lossy = String::from_utf8_lossy(&dsn);
    let (header, body) = lossy.split_once("\r\n\r\n").expect("a header section");
    assert!(header.split("\r\n").all(|line| is_plain(&line.replace('\t', " "))), "{header:?}");
    assert!(header.split("\r\n").all(|line| line.len() <= 998));
    let boundary = header.split("boundary=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a boundary");
    let boundary = format!("--{boundary}");
    let marks = body.split("\r\n").filter(|line| line.starts_with(&boundary)).count();
    assert_eq!(marks, 4, "three parts, whatever is returned");
    let report = body.split(&boundary).nth(2).expect("the report for programs");
    // Two recipients make three groups of fields; the part's own header section is before them.
    assert_eq!(report.trim_end().split("\r\n\r\n").count(), 4, "{report:?}");
    assert!(report.split("\r\n").all(|line| is_plain(&line.replace('\t', " "))), "{report:?}");
}

struct Nobody;

impl Directory for Nobody {
    fn keys(&self, name: &str) -> Keys {
        Keys::of_nobody(b"secret", name, NonZeroU32::MIN)
    }
}

/// Lines of a client: the argument of AUTH, then what it answers, each as it is and in base64. Nothing is accepted that nobody
/// has verified.
pub fn sasl(octets: &[u8]) {
    let lines: Vec<&[u8]> = octets.split(|octet| *octet == b'\n').take(6).collect();
    let channel = Channel { exporter: Some([7; 32]), ..Channel::default() };
    let mechanisms = offered(&channel, true, true);
    let first = String::from_utf8_lossy(lines.first().copied().unwrap_or_default()).into_owned();
    for is_encoded in [false, true] {
        let argument = match first.split_once(' ') {
            Some((name, initial)) if is_encoded => format!("{name} {}", STANDARD.encode(initial)),
            _ => first.clone(),
        };
        let Ok((mut dialog, mut next)) = Dialog::begin(&argument, &mechanisms, [0; 18], &channel, &Nobody) else {
            continue;
        };
        for line in &lines[1..] {
            match &next {
                Next::Ask(text) => assert!(text.len() <= 4 * 12_288 && STANDARD.decode(text).is_ok(), "{text:?}"),
                Next::Verify(claim) => assert!(format!("{claim:?}").len() < 100, "a claim shows nothing in logs"),
                Next::Accepted => panic!("accepted unverified"),
                Next::Failed(_) => break,
            }
            let encoded = STANDARD.encode(line).into_bytes();
            next = dialog.line(if is_encoded { &encoded } else { line }, &channel, &Nobody);
        }
        assert_ne!(next, Next::Accepted, "accepted unverified");
    }
}

/// The policy file of a domain, and its TXT records. A policy names plain hosts, and written out it is the same.
pub fn policy(octets: &[u8]) {
    let records: Vec<Vec<u8>> = octets.split(|octet| *octet == b'\n').map(<[u8]>::to_vec).collect();
    let id = id_of(&records).unwrap_or_else(|| "none".to_owned());
    assert!((1..=32).contains(&id.len()) && id.bytes().all(|octet| octet.is_ascii_alphanumeric()));
    let Some(policy) = Policy::parse(octets, &id) else { return };
    assert_eq!(Policy::parse(policy.lines().join("\r\n").as_bytes(), &id), Some(policy.clone()));
    for pattern in &policy.mx {
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
        let name = pattern.strip_prefix("*.").unwrap_or(pattern);
        assert!(name.chars().all(is_name), "{pattern:?}");
        let host = if pattern.starts_with("*.") { format!("x.{name}") } else { name.to_owned() };
        assert!(policy.names_host(&host), "{host}");
    }
    assert!(!policy.names_host(""));
}

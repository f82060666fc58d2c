//! Delivery status notifications (RFC 3464) as multipart/report (RFC 6522).
//!
//! [`generate`] gives the whole content of a DSN: text for people, `message/delivery-status` for programs, and the
//! message or its header section (RFC 3461, 4.3). With addresses beyond ASCII the parts are those of RFC 6533. Written by
//! hand: mail-builder chooses transfer encodings and boundaries itself, which would alter the returned content and make
//! the result differ from run to run. Whether a DSN is due is the queue's concern.
//!
//! The body is 7-bit: nobody would be told of a DSN that a next hop without 8BITMIME refuses. Only the header section
//! holds UTF-8, in To, when the reverse-path does; such a DSN needs SMTPUTF8 anyway.
//!
//! | part | beyond ASCII |
//! |---|---|
//! | text/plain | quoted-printable |
//! | message/delivery-status | never: `?` stands in (RFC 3464, 2.1.1) |
//! | message/global-delivery-status | quoted-printable (RFC 6533, 6) |
//! | message/rfc822 | never: it must not be encoded (RFC 2046, 5.2.1), so the header section alone is returned |
//! | message/global | base64 (RFC 6532, 3.7) |
//! | text/rfc822-headers, message/global-headers | quoted-printable (RFC 6522, 4; RFC 6533, 6) |

use std::io;

use aws_lc_rs::digest;
use bytes::Bytes;
use memchr::memmem;

use super::field::{clean, date, folded, plain, xtext};
use super::text;
use crate::clock::UnixTime;
use crate::message::{Content, Envelope, MessageId, Recipient, Report, Ret, TlsWish, encoding};
use crate::smtp::address::ReversePath;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// Largest content that is returned whole; of a larger one only the header section is.
const MOST_RETURNED: u64 = 1024 * 1024;
/// Most of a header section that is returned.
const MOST_HEADER: usize = 64 * 1024;

/// What a DSN says about one recipient: the `action` field of RFC 3464, 2.3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Given up.
    Failed,
    /// Not yet delivered; attempts go on until `will_retry_until`.
    Delayed,
    /// Delivered to the mailbox's host, which reports by itself no further.
    Relayed,
}

impl Action {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Relayed => "relayed",
        }
    }

    const fn subject(self) -> &'static str {
        match self {
            Self::Failed => "Delivery Status Notification (Failure)",
            Self::Delayed => "Delivery Status Notification (Delay)",
            Self::Relayed => "Delivery Status Notification (Relay)",
        }
    }
}

/// One recipient's part of a DSN.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// Index into the envelope's recipients.
    pub recipient: u32,
    /// What is reported.
    pub action: Action,
    /// The attempt it rests on.
    pub report: &'a Report,
}

/// A DSN to make: all its subjects share one action.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The reported message.
    pub id: MessageId,
    /// Its envelope.
    pub envelope: &'a Envelope,
    /// Its content, returned whole or as header section (RET); none: it is damaged, and nothing is returned.
    pub content: Option<&'a Content>,
    /// Whom it is about.
    pub subjects: &'a [Subject<'a>],
    /// Our name: Reporting-MTA and the domain of the DSN's From.
    pub reporting_mta: &'a str,
    /// Now.
    pub now: UnixTime,
    /// For `Delayed`: when we shall give up.
    pub will_retry_until: Option<UnixTime>,
}

impl Request<'_> {
    /// When the message was accepted.
    pub(super) fn accepted(&self) -> String {
        date(self.envelope.accepted_at)
    }

    /// When we shall give up.
    pub(super) fn until(&self) -> Option<String> {
        self.will_retry_until.map(date)
    }

    fn action(&self) -> Action {
        self.subjects.first().map_or(Action::Failed, |subject| subject.action)
    }
}

/// The same for the same message, recipients and action: what makes a repeated DSN recognisable by its Message-ID.
pub fn id_of(original: MessageId, recipients: impl IntoIterator<Item = u32>, action: Action) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&original.0.to_le_bytes());
    context.update(action.as_str().as_bytes());
    for recipient in recipients {
        context.update(&recipient.to_le_bytes());
    }
    let digest = context.finish();
    digest.as_ref().iter().take(8).fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

/// The whole content of the DSN, with CRLF line ends. Reads the reported content, which blocks if it is in a file.
///
/// Fails when that cannot be read, and for a request that must not be made: about nobody, or to the null reverse-path.
pub fn generate(request: &Request<'_>) -> io::Result<Bytes> {
    let ReversePath::Mailbox(reverse_path) = &request.envelope.reverse_path else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the null reverse-path gets no DSN"));
    };
    if request.subjects.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a DSN is about at least one recipient"));
    }
    let returned = request.content.map(|content| Returned::read(request, content)).transpose()?;
    let status = delivery_status(request);
    let mut text = Vec::new();
    text::write(&mut text, request, true);
    let charset = if text.is_ascii() { "text/plain; charset=us-ascii" } else { "text/plain; charset=utf-8" };
    let kind = if status.is_ascii() { "message/delivery-status" } else { "message/global-delivery-status" };
    let message_id = returned.as_ref().and_then(|returned| message_id(returned.header())).map(str::to_owned);
    let mut parts = vec![Part::new(charset, "Notification", text), Part::new(kind, "Delivery report", status)];
    // RFC 6522, 3: the third part is optional.
    parts.extend(returned.map(|returned| Part::new(returned.kind, returned.description, returned.octets)));
    let hash = id_of(request.id, request.subjects.iter().map(|subject| subject.recipient), request.action());
    let boundary = boundary(request.id, hash, &parts);

    let mut out = Vec::with_capacity(2_048 + parts.iter().map(|part| part.octets.len()).sum::<usize>());
    let mta = clean(request.reporting_mta, false);
    plain(&mut out, "From", &format!("Mail Delivery System <MAILER-DAEMON@{mta}>"));
    plain(&mut out, "To", &format!("<{reverse_path}>"));
    plain(&mut out, "Subject", request.action().subject());
    plain(&mut out, "Date", &date(request.now));
    plain(&mut out, "Message-ID", &format!("<dsn.{}.{hash:016x}@{mta}>", request.id));
    if let Some(message_id) = message_id {
        plain(&mut out, "In-Reply-To", &message_id);
        plain(&mut out, "References", &message_id);
    }
    plain(&mut out, "Auto-Submitted", "auto-replied");
    plain(&mut out, "MIME-Version", "1.0");
    plain(&mut out, "Content-Type", "multipart/report; report-type=delivery-status;");
    out.extend_from_slice(format!("\tboundary=\"{boundary}\"\r\n").as_bytes());
    out.extend_from_slice(b"\r\nThis is a MIME-encapsulated message.\r\n");

    for part in &parts {
        part.write(&mut out, &boundary);
    }
    out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    Ok(out.into())
}

/// The recipient a subject is about.
pub(super) fn recipient<'a>(request: &Request<'a>, subject: &Subject<'_>) -> Option<&'a Recipient> {
    request.envelope.recipients.get(usize::try_from(subject.recipient).ok()?)
}

/// A part as it is written.
struct Part {
    kind: &'static str,
    description: &'static str,
    encoding: Option<&'static str>,
    octets: Vec<u8>,
}

impl Part {
    /// Encoded if it is not ASCII: a whole message in base64, anything else so that it stays readable.
    fn new(kind: &'static str, description: &'static str, octets: Vec<u8>) -> Self {
        if octets.is_ascii() {
            return Self { kind, description, encoding: None, octets };
        }
        let mut encoded = Vec::with_capacity(octets.len() * 3 / 2);
        let encoding = if kind == "message/global" {
            encoding::base64(&mut encoded, &octets);
            "base64"
        } else {
            encoding::quoted_printable(&mut encoded, &octets);
            "quoted-printable"
        };
        Self { kind, description, encoding: Some(encoding), octets: encoded }
    }

    fn write(&self, out: &mut Vec<u8>, boundary: &str) {
        out.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
        plain(out, "Content-Type", self.kind);
        plain(out, "Content-Description", self.description);
        if let Some(encoding) = self.encoding {
            plain(out, "Content-Transfer-Encoding", encoding);
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.octets);
    }
}

/// A boundary that occurs in none of the parts; the same for the same DSN.
fn boundary(id: MessageId, hash: u64, parts: &[Part]) -> String {
    let mut number = hash;
    loop {
        let boundary = format!("=_{id}.{number:016x}");
        if parts.iter().all(|part| memmem::find(&part.octets, boundary.as_bytes()).is_none()) {
            return boundary;
        }
        number = number.wrapping_add(1);
    }
}

/// The fields of RFC 3464, 2.2 and 2.3; in UTF-8 (RFC 6533) if an address needs it.
fn delivery_status(request: &Request<'_>) -> Vec<u8> {
    let subjects = || request.subjects.iter().filter_map(|subject| Some((subject, recipient(request, subject)?)));
    let original = |recipient: &Recipient| recipient.orcpt.as_deref().map(original_recipient);
    let is_utf8 = subjects().any(|(_, recipient)| {
        !recipient.forward_path.as_str().is_ascii() || original(recipient).is_some_and(|value| !value.is_ascii())
    });
    let mut out = Vec::new();
    plain(&mut out, "Reporting-MTA", &format!("dns; {}", clean(request.reporting_mta, false)));
    if let Some(envid) = &request.envelope.envid {
        let decoded = xtext(envid).filter(|text| text.is_ascii());
        plain(&mut out, "Original-Envelope-Id", &clean(decoded.as_deref().unwrap_or(envid), false));
    }
    plain(&mut out, "Arrival-Date", &request.accepted());
    for (subject, recipient) in subjects() {
        let Report { reply, mx_host, .. } = subject.report;
        out.extend_from_slice(b"\r\n");
        if let Some(original) = original(recipient) {
            plain(&mut out, "Original-Recipient", &original);
        }
        let address = recipient.forward_path.as_str();
        let kind = if address.is_ascii() { "rfc822" } else { "utf-8" };
        plain(&mut out, "Final-Recipient", &format!("{kind}; {}", clean(address, true)));
        plain(&mut out, "Action", subject.action.as_str());
        plain(&mut out, "Status", &status(subject.action, reply).to_string());
        if let Some(host) = mx_host.as_deref().filter(|_| reply.code != 0) {
            plain(&mut out, "Remote-MTA", &format!("dns; {}", clean(host, false)));
        }
        folded(&mut out, "Diagnostic-Code", &clean(&diagnostic_code(reply), is_utf8));
        if subject.action != Action::Failed || reply.is_permanent() {
            // Given up for age: when the last attempt was is not known here.
            plain(&mut out, "Last-Attempt-Date", &date(request.now));
        }
        if let (Action::Delayed, Some(until)) = (subject.action, request.until()) {
            plain(&mut out, "Will-Retry-Until", &until);
        }
    }
    out
}

/// `type;xtext` of ORCPT, decoded (RFC 3461, 5.2.7 and RFC 3464, 2.3.1); as it came if it would hold anything unprintable.
fn original_recipient(orcpt: &str) -> String {
    let (kind, value) = orcpt.split_once(';').unwrap_or(("rfc822", orcpt));
    let decoded = xtext(value);
    let value = clean(decoded.as_deref().unwrap_or(value), true);
    format!("{}; {value}", clean(kind, false))
}

/// The enhanced status code if it fits the action, else what the reply code says, else the action's general one.
fn status(action: Action, reply: &Reply) -> Status {
    let class = match action {
        Action::Relayed => 2,
        Action::Delayed => 4,
        Action::Failed => match reply.code / 100 {
            4 => 4,
            _ => 5,
        },
    };
    let is_fitting = |status: &Status| match action {
        Action::Failed => matches!(status.class, 4 | 5),
        _ => status.class == class,
    };
    reply.status.filter(is_fitting).unwrap_or(Status::new(class, 0, 0))
}

/// RFC 3464, 2.3.6: the reply as it came, or ours under a type of its own.
fn diagnostic_code(reply: &Reply) -> String {
    let status = reply.status.map(|status| format!("{status} ")).unwrap_or_default();
    if reply.code == 0 {
        format!("x-hikyaku; {status}{}", reply.text)
    } else {
        format!("smtp; {} {status}{}", reply.code, reply.text)
    }
}

/// What is given back of the reported message.
struct Returned {
    kind: &'static str,
    description: &'static str,
    octets: Vec<u8>,
    header: usize,
}

impl Returned {
    fn read(request: &Request<'_>, content: &Content) -> io::Result<Self> {
        let is_whole = request.action() == Action::Failed
            && request.envelope.ret == Some(Ret::Full)
            // RFC 8689, 5: as if RET=HDRS had been said.
            && request.envelope.tls != TlsWish::Required
            && content.len() <= MOST_RETURNED;
        let most = if is_whole { usize::try_from(MOST_RETURNED).unwrap_or(usize::MAX) } else { MOST_HEADER };
        let mut octets: Vec<u8> = content.beginning(most)?.into();
        let header = header_length(&octets);
        // Header fields in another charset than UTF-8 are no message/global (RFC 6532, 3.7).
        let is_global =
            octets.get(..header).is_some_and(|header| !header.is_ascii() && std::str::from_utf8(header).is_ok());
        if is_whole && (is_global || octets.is_ascii()) {
            let kind = if is_global { "message/global" } else { "message/rfc822" };
            return Ok(Self { kind, description: "Undelivered message", octets, header });
        }
        octets.truncate(header);
        let kind = if is_global { "message/global-headers" } else { "text/rfc822-headers" };
        let description = if is_whole {
            "Header section of the message; its 8-bit body cannot be returned"
        } else {
            "Header section of the message"
        };
        Ok(Self { kind, description, octets, header })
    }

    fn header(&self) -> &[u8] {
        self.octets.get(..self.header).unwrap_or_default()
    }
}

/// Length of the header section with the CRLF of its last line; if it does not end here, of the whole lines there are.
fn header_length(octets: &[u8]) -> usize {
    if octets.starts_with(b"\r\n") {
        return 0;
    }
    let end = memmem::find(octets, b"\r\n\r\n").or_else(|| memmem::rfind(octets, b"\r\n"));
    end.map_or(0, |at| at + 2)
}

/// The message identifier in a header section, if it is one that can be repeated in ours.
fn message_id(header: &[u8]) -> Option<&str> {
    const NAME: &[u8] = b"message-id:";
    let mut lines = header.split(|byte| *byte == b'\n');
    while let Some(line) = lines.next() {
        if !line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)) {
            continue;
        }
        let mut value = line.get(NAME.len()..).unwrap_or_default().trim_ascii();
        if value.is_empty() {
            value = lines.next().filter(|next| next.starts_with(b" ") || next.starts_with(b"\t"))?.trim_ascii();
        }
        let is_whole = value.starts_with(b"<") && value.ends_with(b">") && value.len() <= 900;
        let is_printable = value.iter().all(u8::is_ascii_graphic);
        return std::str::from_utf8(value).ok().filter(|_| is_whole && is_printable);
    }
    None
}

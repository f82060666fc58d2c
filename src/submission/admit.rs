//! Admission: what is added to, taken from and read out of a message before it is stored (RFC 6409, 8).
//!
//! [`admit`] is pure: the transaction and the header section go in, the envelope and the rewritten header section come out;
//! the body is never touched. Added on top: Received, Date and Message-ID where missing, and the link by which the recipient
//! takes himself off ([`Links`]). Taken away: Bcc, Return-Path and every `X-Hikyaku-` field; these give the campaign and its
//! class and, where the listener trusts headers, the tenant and the lane.

use std::net::IpAddr;
use std::sync::Arc;

use super::Settings;
use super::refusal::{self, Refusal};
use super::session::{Hello, Session, Transaction};
use crate::clock::UnixTime;
use crate::message::header::{Field, fields};
use crate::message::mailbox::mailboxes;
use crate::message::received::{self, Trace};
use crate::message::{ContentTraits, Envelope, Kind, Lane, MessageId, TlsWish};
use crate::tls::Secured;
use crate::unsubscribe::{Links, Offer};
use crate::users::{User, Users};

/// The longest campaign name.
const CAMPAIGN_MOST: usize = 128;
/// The longest name of a tenant or of a class of campaigns.
const NAME_MOST: usize = 64;
/// `X-Hikyaku-` fields of one message: each is compared with all others.
const OWN_MOST: usize = 32;
/// Room for what is added on top: Received with a long name and recipient, Date, Message-ID.
const ADDED_MOST: usize = 1_024;

/// What admission needs to know beside the transaction and the content.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The listener's settings.
    pub settings: &'a Settings,
    /// Our name.
    pub hostname: &'a str,
    /// The client's address.
    pub client: IpAddr,
    /// What the client called itself.
    pub hello: Option<&'a Hello>,
    /// Who has authenticated, and who knows what they may send as.
    pub user: Option<(&'a Arc<User>, &'a Users)>,
    /// What the handshake has agreed; none in clear.
    pub security: Option<&'a Secured>,
    /// The message's identity.
    pub id: MessageId,
    /// Now.
    pub time: UnixTime,
    /// Whether the content has octets over 127.
    pub has_eight_bit: bool,
    /// What gives messages a link by which recipients take themselves off; none: they get none.
    pub links: Option<&'a Links>,
}

impl<'a> Context<'a> {
    /// Of the message that a session has complete; `users` are those who know what its user may send as.
    pub fn of(session: &'a Session, users: Option<&'a Users>, id: MessageId, time: UnixTime) -> Self {
        Self {
            settings: session.settings(),
            hostname: session.hostname(),
            client: session.client(),
            hello: session.hello(),
            user: session.user().zip(users),
            security: session.security().map(AsRef::as_ref),
            id,
            time,
            has_eight_bit: session.content().has_eight_bit(),
            links: None,
        }
    }

    /// The same with links for messages.
    pub fn with_links(self, links: Option<&'a Links>) -> Self {
        Self { links, ..self }
    }
}

/// A message that may be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Its envelope.
    pub envelope: Envelope,
    /// The rewritten header section with its empty line, and whatever of the body followed it.
    pub content: Vec<u8>,
    /// Whether it was given a link.
    pub link: Offer,
}

/// What the header section said.
#[derive(Debug, Default)]
struct Findings {
    hops: usize,
    has_date: bool,
    has_message_id: bool,
    /// A List-Unsubscribe field, or what only makes sense beside one.
    has_unsubscribe: bool,
    /// TLS-Required: No.
    waives_tls: bool,
    /// Values of From fields.
    from: Vec<(usize, usize)>,
    tenant: Option<Box<str>>,
    campaign: Option<Box<str>>,
    class: Option<Box<str>>,
    lane: Option<Lane>,
    /// Names of the `X-Hikyaku-` fields so far, in lower case.
    seen: Vec<Vec<u8>>,
    /// What is kept of the content, in order.
    kept: Vec<(usize, usize)>,
}

/// Admits a message. `content` is the header section and as much of the body as is in memory.
pub fn admit(transaction: Transaction, content: &[u8], context: &Context<'_>) -> Result<Admitted, Refusal> {
    let mut fields = fields(content);
    let is_returned = context.settings.takes_returns;
    // What comes back is kept as it is.
    let mut findings = Findings { has_date: is_returned, has_message_id: is_returned, ..Findings::default() };
    let mut kept_from = 0;
    for field in fields.by_ref() {
        if !findings.keeps(&field, context.settings)? {
            findings.keep(kept_from, field.start);
            kept_from = field.end;
        }
    }
    let end = fields.end();
    findings.keep(kept_from, end);
    if findings.hops >= context.settings.max_hops {
        return Err(refusal::TOO_MANY_HOPS);
    }
    may_say_from(&findings, content, context)?;
    let has_eight_bit_header = context.has_eight_bit && !content.get(..end).unwrap_or_default().is_ascii();
    if has_eight_bit_header && !is_returned && std::str::from_utf8(content.get(..end).unwrap_or_default()).is_err() {
        return Err(refusal::HEADER_NOT_UTF8);
    }
    let traits = ContentTraits { has_eight_bit: context.has_eight_bit, has_eight_bit_header };
    let envelope = envelope(transaction, &mut findings, traits, context);
    let mut out = Vec::with_capacity(content.len() + ADDED_MOST);
    add_fields(&mut out, &findings, &envelope, context);
    let offer = |links: &Links| links.offer(&mut out, &envelope, context.id, findings.has_unsubscribe);
    let link = context.links.map_or(Offer::Off, offer);
    for (from, to) in &findings.kept {
        out.extend_from_slice(content.get(*from..*to).unwrap_or_default());
    }
    let body = content.get(fields.body()..).unwrap_or_default();
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    Ok(Admitted { envelope, content: out, link })
}

impl Findings {
    /// Notes what the field says; tells whether it stays in the message.
    fn keeps(&mut self, field: &Field<'_>, settings: &Settings) -> Result<bool, Refusal> {
        if settings.takes_returns {
            self.hops += usize::from(field.is("Received"));
            return Ok(true);
        }
        match field.name.first().map(u8::to_ascii_lowercase) {
            Some(b'x') if field.has_prefix("X-Hikyaku-") => {
                self.own(field, settings)?;
                return Ok(false);
            }
            Some(b'r') if field.is("Return-Path") || field.is("Resent-Bcc") => return Ok(false),
            Some(b'r') if field.is("Received") => self.hops += 1,
            Some(b'b') if field.is("Bcc") => return Ok(false),
            Some(b'f') if field.is("From") => self.from.push((field.end - field.value.len(), field.end)),
            Some(b'd') if field.is("Date") => self.has_date = true,
            Some(b't') if field.is("TLS-Required") => self.waives_tls |= is_no(field),
            Some(b'm') if field.is("Message-ID") => self.has_message_id = true,
            Some(b'l') if field.is("List-Unsubscribe") || field.is("List-Unsubscribe-Post") => {
                self.has_unsubscribe = true;
            }
            _ => {}
        }
        Ok(true)
    }

    /// Reads an `X-Hikyaku-` field. One that nobody knows is dropped too: it was meant for us, not for the recipient.
    fn own(&mut self, field: &Field<'_>, settings: &Settings) -> Result<(), Refusal> {
        let name = field.name.to_ascii_lowercase();
        if self.seen.contains(&name) {
            return Err(refusal::DUPLICATE_FIELD);
        }
        if self.seen.len() == OWN_MOST {
            return Err(refusal::BAD_FIELD);
        }
        let value = field.text();
        match name.as_slice() {
            b"x-hikyaku-campaign" => {
                let value = value.filter(|value| value.len() <= CAMPAIGN_MOST).ok_or(refusal::BAD_FIELD)?;
                self.campaign = Some(value.into());
            }
            b"x-hikyaku-class" => {
                let value = value.filter(|value| is_name(value)).ok_or(refusal::BAD_FIELD)?;
                self.class = Some(value.to_ascii_lowercase().into());
            }
            b"x-hikyaku-tenant" if settings.trust_headers => {
                let value = value.filter(|value| is_name(value)).ok_or(refusal::BAD_FIELD)?;
                self.tenant = Some(value.to_ascii_lowercase().into());
            }
            b"x-hikyaku-lane" if settings.trust_headers => {
                self.lane = Some(value.and_then(|value| Lane::parse(&value)).ok_or(refusal::BAD_FIELD)?);
            }
            _ => {}
        }
        self.seen.push(name);
        Ok(())
    }

    fn keep(&mut self, from: usize, to: usize) {
        if from < to {
            self.kept.push((from, to));
        }
    }
}

/// RFC 8689, 3: the one value of TLS-Required that has a meaning.
fn is_no(field: &Field<'_>) -> bool {
    field.text().is_some_and(|value| value.eq_ignore_ascii_case("no"))
}

/// Whether From is the user's: one field, whose every address is. Who has not authenticated is believed, as by their network.
fn may_say_from(findings: &Findings, content: &[u8], context: &Context<'_>) -> Result<(), Refusal> {
    let Some((user, users)) = context.user else { return Ok(()) };
    let read = match findings.from.as_slice() {
        [(from, to)] => mailboxes(content.get(*from..*to).unwrap_or_default()),
        _ => None,
    };
    let may = |address| users.may_send_from(user, address, "From");
    let is_right = match read {
        Some(addresses) => addresses.iter().all(|address| may(Some(address))),
        None => may(None),
    };
    if is_right { Ok(()) } else { Err(refusal::FROM_DENIED) }
}

/// A tenant's name is a label of metrics, and it and that of a class are keys of the configuration: letters, digits, `-`, `_` and `.`;
/// kept in lower case, as the configuration writes them.
fn is_name(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= NAME_MOST && name.bytes().all(is_plain)
}

fn add_fields(out: &mut Vec<u8>, findings: &Findings, envelope: &Envelope, context: &Context<'_>) {
    let is_extended = context.hello.is_some_and(|hello| hello.is_extended);
    let protocol = match (envelope.smtputf8, context.security.is_some(), context.user.is_some()) {
        (true, true, true) => "UTF8SMTPSA",
        (true, true, false) => "UTF8SMTPS",
        (true, false, true) => "UTF8SMTPA",
        (true, false, false) => "UTF8SMTP",
        (false, true, true) => "ESMTPSA",
        (false, true, false) => "ESMTPS",
        (false, false, true) => "ESMTPA",
        (false, false, false) if is_extended => "ESMTP",
        (false, false, false) => "SMTP",
    };
    let recipient = match envelope.recipients.as_slice() {
        [only] => Some(&only.forward_path),
        _ => None,
    };
    let trace = Trace {
        ehlo_name: context.hello.map_or("unknown", |hello| &hello.name),
        client: context.client,
        hostname: context.hostname,
        protocol,
        cipher: context.security.map(|security| security.cipher),
        id: context.id,
        recipient,
        time: context.time,
    };
    received::received(out, &trace);
    if !findings.has_date {
        received::date(out, context.time);
    }
    if !findings.has_message_id {
        received::message_id(out, context.id, context.time, context.hostname);
    }
}

fn envelope(
    transaction: Transaction,
    findings: &mut Findings,
    traits: ContentTraits,
    context: &Context<'_>,
) -> Envelope {
    let Transaction { reverse_path, parameters, recipients, .. } = transaction;
    Envelope {
        reverse_path,
        recipients,
        accepted_at: context.time,
        // What AUTH has proved wins over what a header says.
        tenant: match context.user {
            Some((user, _)) => user.tenant.clone(),
            None => findings.tenant.take().unwrap_or_else(|| context.settings.tenant.clone()),
        },
        campaign: findings.campaign.take().unwrap_or_default(),
        class: findings.class.take().unwrap_or_default(),
        lane: findings.lane.unwrap_or_else(|| context.settings.lane_of(parameters.priority)),
        body: parameters.body.unwrap_or_default(),
        smtputf8: parameters.smtputf8,
        traits,
        ret: parameters.ret,
        envid: parameters.envid,
        // RFC 8689, 4.1: where both are said the field counts for nothing.
        tls: match (parameters.require_tls, findings.waives_tls) {
            (true, _) => TlsWish::Required,
            (false, true) => TlsWish::Waived,
            (false, false) => TlsWish::Unsaid,
        },
        kind: if context.settings.takes_returns { Kind::Returned } else { Kind::Submitted },
    }
}

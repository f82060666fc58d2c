//! One mail transaction as the client sees it: its commands, and what becomes of each recipient.
//!
//! Pure: [`super::session`] drives it. A recipient is open until an outcome is set, and an outcome is set once; so late
//! replies to commands behind a refused MAIL change nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::message::{Encryption, Envelope, Notify, Outcome, Phase, Recipient, Report, Ret, TlsWish};
use crate::smtp::address::ReversePath;
use crate::smtp::reply::{Extensions, Reply};
use crate::text::decimal;

/// The MX host at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its name.
    pub host: Arc<str>,
    /// Its address and port.
    pub address: SocketAddr,
    /// How the connection is encrypted; none: in clear.
    pub tls: Option<Encryption>,
    /// Name of the TLS policy that it is under.
    pub tls_policy: &'static str,
}

/// What the receiver said about a recipient.
#[derive(Clone, Debug)]
enum Standing {
    Open,
    Accepted,
    Settled(Outcome),
}

/// What a failure makes of the recipients it hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Deliver,
    Defer,
    Bounce,
}

impl Verdict {
    /// A 5yz bounces, anything else defers.
    pub(super) fn of(reply: &Reply) -> Self {
        if reply.is_permanent() { Self::Bounce } else { Self::Defer }
    }
}

/// A message on its way to some of its recipients, all of one domain.
#[derive(Debug)]
pub struct Transaction {
    envelope: Arc<Envelope>,
    recipients: Box<[u32]>,
    standings: Vec<Standing>,
    length: u64,
    /// Instead of the envelope's.
    reverse_path: Option<ReversePath>,
    pub(super) mail_accepted: bool,
    /// A reply to one of its commands has come.
    pub(super) answered: bool,
    /// RCPT commands written so far.
    pub(super) rcpt_written: usize,
}

impl Transaction {
    /// A transaction for `recipients` (indexes into the envelope) of a content of `length` octets.
    pub fn new(envelope: Arc<Envelope>, recipients: Box<[u32]>, length: u64) -> Self {
        let standings = vec![Standing::Open; recipients.len()];
        let (mail_accepted, answered, rcpt_written) = (false, false, 0);
        Self { envelope, recipients, standings, length, reverse_path: None, mail_accepted, answered, rcpt_written }
    }

    /// The same with another reverse-path than the envelope's, if there is one.
    pub(super) fn with_reverse_path(self, reverse_path: Option<ReversePath>) -> Self {
        Self { reverse_path, ..self }
    }

    fn reverse_path(&self) -> &ReversePath {
        self.reverse_path.as_ref().unwrap_or(&self.envelope.reverse_path)
    }

    /// Octets of content.
    pub fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn recipient_count(&self) -> usize {
        self.recipients.len()
    }

    /// The envelope's indexes of recipients that the receiver has accepted, or may yet accept.
    pub fn live_recipients(&self) -> impl Iterator<Item = u32> {
        let live = |standing: &Standing| !matches!(standing, Standing::Settled(_));
        self.recipients.iter().zip(&self.standings).filter(move |(_, standing)| live(standing)).map(|(index, _)| *index)
    }

    pub(super) fn has_live(&self) -> bool {
        self.standings.iter().any(|standing| !matches!(standing, Standing::Settled(_)))
    }

    pub(super) fn has_accepted(&self) -> bool {
        self.standings.iter().any(|standing| matches!(standing, Standing::Accepted))
    }

    /// Whether the receiver takes fewer recipients at a time than it was given.
    pub(super) fn has_too_many(&self) -> bool {
        let too_many = |standing: &Standing| matches!(standing, Standing::Settled(outcome) if is_too_many(outcome));
        self.standings.iter().any(too_many)
    }

    pub(super) fn accept(&mut self, position: usize) {
        if let Some(standing @ Standing::Open) = self.standings.get_mut(position) {
            *standing = Standing::Accepted;
        }
    }

    /// Sets the outcome of one recipient unless it has one.
    pub(super) fn settle(&mut self, position: usize, verdict: Verdict, report: Report) {
        if let Some(standing) = self.standings.get_mut(position)
            && !matches!(standing, Standing::Settled(_))
        {
            *standing = Standing::Settled(outcome(verdict, report));
        }
    }

    /// Sets the outcome of every recipient that has none.
    pub(super) fn settle_rest(&mut self, verdict: Verdict, report: Report) {
        for standing in &mut self.standings {
            if !matches!(standing, Standing::Settled(_)) {
                *standing = Standing::Settled(outcome(verdict, report.clone()));
            }
        }
    }

    /// Sets the outcome of every recipient that the receiver accepted.
    pub(super) fn settle_accepted(&mut self, verdict: Verdict, report: Report) {
        let accepted = self.standings.iter_mut().filter(|standing| matches!(standing, Standing::Accepted));
        // The last one takes the report itself: most transactions have one recipient.
        let mut report = Some(report);
        let mut accepted = accepted.peekable();
        while let Some(standing) = accepted.next() {
            let own = if accepted.peek().is_some() { report.clone() } else { report.take() };
            if let Some(own) = own {
                *standing = Standing::Settled(outcome(verdict, own));
            }
        }
    }

    /// Takes back every bounce.
    pub(super) fn defer_bounced(&mut self, report: &Report) {
        for standing in &mut self.standings {
            if matches!(standing, Standing::Settled(Outcome::Bounced(_))) {
                *standing = Standing::Settled(outcome(Verdict::Defer, report.clone()));
            }
        }
    }

    /// The outcomes in the order of the recipients; `missing` stands in where none was set.
    pub(super) fn into_outcomes(self, missing: &dyn Fn() -> Outcome) -> Vec<Outcome> {
        let outcomes = self.standings.into_iter();
        outcomes.map(|standing| if let Standing::Settled(outcome) = standing { outcome } else { missing() }).collect()
    }

    pub(super) fn write_mail(&self, extensions: &Extensions, output: &mut Vec<u8>) {
        let envelope = &*self.envelope;
        output.extend_from_slice(b"MAIL FROM:<");
        output.extend_from_slice(self.reverse_path().as_str().as_bytes());
        output.push(b'>');
        if extensions.size {
            write_number(output, b" SIZE=", self.length);
        }
        if extensions.eight_bit_mime && envelope.traits.has_eight_bit {
            output.extend_from_slice(b" BODY=8BITMIME");
        }
        if extensions.smtputf8 && (envelope.smtputf8 || self.needs_smtputf8()) {
            output.extend_from_slice(b" SMTPUTF8");
        }
        if extensions.dsn {
            match envelope.ret {
                Some(Ret::Full) => output.extend_from_slice(b" RET=FULL"),
                Some(Ret::Headers) => output.extend_from_slice(b" RET=HDRS"),
                None => {}
            }
            write_xtext(output, b" ENVID=", envelope.envid.as_deref());
        }
        if extensions.require_tls && envelope.tls == TlsWish::Required {
            output.extend_from_slice(b" REQUIRETLS");
        }
        output.extend_from_slice(b"\r\n");
    }

    fn needs_smtputf8(&self) -> bool {
        !self.reverse_path().as_str().is_ascii()
            || self.envelope.traits.has_eight_bit_header
            || self.paths().any(|recipient| !recipient.forward_path.as_str().is_ascii())
    }

    fn paths(&self) -> impl Iterator<Item = &Recipient> {
        self.recipients.iter().filter_map(|&index| self.recipient(index))
    }

    fn recipient(&self, index: u32) -> Option<&Recipient> {
        self.envelope.recipients.get(usize::try_from(index).ok()?)
    }

    /// Writes the RCPT of the recipient at `position`; false when there is none.
    pub(super) fn write_rcpt(&self, position: usize, extensions: &Extensions, output: &mut Vec<u8>) -> bool {
        let Some(recipient) = self.recipients.get(position).and_then(|&index| self.recipient(index)) else {
            return false;
        };
        output.extend_from_slice(b"RCPT TO:<");
        output.extend_from_slice(recipient.forward_path.as_str().as_bytes());
        output.push(b'>');
        if extensions.dsn {
            write_notify(output, recipient.notify);
            write_xtext(output, b" ORCPT=", recipient.orcpt.as_deref());
        }
        output.extend_from_slice(b"\r\n");
        true
    }

    pub(super) fn write_bdat(&self, output: &mut Vec<u8>) {
        write_number(output, b"BDAT ", self.length);
        output.extend_from_slice(b" LAST\r\n");
    }
}

/// "Too many recipients" (RFC 5321, 4.5.3.1.10): this one goes in another transaction.
pub(super) fn is_too_many(outcome: &Outcome) -> bool {
    let Outcome::Deferred(report) = outcome else {
        return false;
    };
    let said = report.reply.status.map(|status| (status.subject, status.detail));
    report.phase == Phase::Rcpt
        && match report.reply.code {
            452 => {
                said == Some((5, 3)) || (said.is_none() && report.reply.text.to_ascii_lowercase().contains("too many"))
            }
            // Older receivers.
            552 => true,
            _ => false,
        }
}

pub(super) fn outcome(verdict: Verdict, report: Report) -> Outcome {
    match verdict {
        Verdict::Deliver => Outcome::Delivered(report),
        Verdict::Defer => Outcome::Deferred(report),
        Verdict::Bounce => Outcome::Bounced(report),
    }
}

/// A report about `peer`.
pub(super) fn report(peer: &Peer, phase: Phase, reply: Reply, relayed_dsn: bool, in_doubt: bool) -> Report {
    let (mx_host, mx_address) = (Some(Arc::clone(&peer.host)), Some(peer.address));
    let (tls, tls_policy) = (peer.tls, Some(peer.tls_policy));
    Report { phase, reply, mx_host, mx_address, tls, tls_policy, relayed_dsn, in_doubt, hung_up: false }
}

fn write_number(output: &mut Vec<u8>, name: &[u8], number: u64) {
    output.extend_from_slice(name);
    decimal(output, number);
}

/// Appends a parameter whose value came as xtext (RFC 3461, 4); one that could end the command is left out.
fn write_xtext(output: &mut Vec<u8>, name: &[u8], value: Option<&str>) {
    if let Some(value) = value.filter(|value| value.bytes().all(|octet| octet > b' ' && octet != 0x7f)) {
        output.extend_from_slice(name);
        output.extend_from_slice(value.as_bytes());
    }
}

/// NOTIFY= of RFC 3461, 4.1; nothing when the client said nothing (5.2.1).
fn write_notify(output: &mut Vec<u8>, notify: Notify) {
    if notify == Notify::UNSPECIFIED {
        return;
    }
    if notify.has(Notify::NEVER) {
        output.extend_from_slice(b" NOTIFY=NEVER");
        return;
    }
    let names = [(Notify::SUCCESS, "SUCCESS"), (Notify::FAILURE, "FAILURE"), (Notify::DELAY, "DELAY")];
    let mut separator = " NOTIFY=";
    for (bit, name) in names {
        if notify.has(bit) {
            output.extend_from_slice(separator.as_bytes());
            output.extend_from_slice(name.as_bytes());
            separator = ",";
        }
    }
}

/// Why a message cannot go to a receiver as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// REQUIRETLS that the receiver does not know: 5.7.30.
    RequireTls,
    /// Larger than the receiver's SIZE: 5.3.4.
    TooLarge,
    /// Octets over 127 without 8BITMIME: 5.6.3.
    EightBit,
    /// A non-ASCII address without SMTPUTF8: 5.6.7.
    Address,
    /// Non-ASCII header fields without SMTPUTF8: 5.6.9.
    Header,
}

/// What keeps a message for `recipients` from going to a receiver with these extensions.
pub fn mismatch(extensions: &Extensions, envelope: &Envelope, recipients: &[u32], length: u64) -> Option<Mismatch> {
    let is_ascii = |&index: &u32| {
        let recipient = usize::try_from(index).ok().and_then(|index| envelope.recipients.get(index));
        recipient.is_none_or(|recipient| recipient.forward_path.as_str().is_ascii())
    };
    // RFC 8689, 5: a DSN goes all the same.
    if envelope.tls == TlsWish::Required && !extensions.require_tls && !envelope.reverse_path.is_null() {
        return Some(Mismatch::RequireTls);
    }
    if extensions.size_limit.is_some_and(|limit| length > limit) {
        return Some(Mismatch::TooLarge);
    }
    if !extensions.smtputf8 {
        let ascii_reverse_path = match &envelope.reverse_path {
            ReversePath::Null => true,
            ReversePath::Mailbox(address) => address.as_str().is_ascii(),
        };
        if !ascii_reverse_path || !recipients.iter().all(is_ascii) {
            return Some(Mismatch::Address);
        }
        if envelope.traits.has_eight_bit_header {
            return Some(Mismatch::Header);
        }
    }
    // RFC 6531, 3.1: SMTPUTF8 implies 8BITMIME; some announce only the one.
    let eight_bit = envelope.traits.has_eight_bit && !extensions.eight_bit_mime;
    eight_bit.then_some(Mismatch::EightBit)
}

//! What can happen to a recipient, and how it is written down.

use std::net::IpAddr;
use std::time::Duration;

use crate::clock::UnixTime;
use crate::mask::Mask;
use crate::message::{Envelope, Kind as MessageKind, MessageId, Phase, Recipient, Report};
use crate::smtp::address::Address;

use super::id::EventId;
use super::line::{Line, key};
use super::returned::Report as Returned;

/// The kinds of events, as lines name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The message is stored and queued.
    Received,
    /// The receiver took responsibility.
    Delivered,
    /// An attempt failed for now.
    Deferred,
    /// The same, and the receiver wants to be left alone for a while.
    Throttled,
    /// The recipient failed for good.
    Bounced,
    /// Its time ran out.
    Expired,
    /// It gets no mail: it is on the suppression list.
    Suppressed,
    /// It is not tried until an operator has seen to it.
    Held,
    /// An operator removed it without telling its sender.
    Deleted,
    /// A DSN about it was stored.
    DsnSent,
    /// An operator gave or lifted an order.
    Order,
    /// A learnt limit has changed.
    Limit,
    /// The suppression list was added to or removed from.
    Suppression,
    /// Something came back about a message: a bounce, a complaint, ...
    Report,
    /// A recipient took himself off by the link of a message.
    Unsubscribed,
    /// Events are missing here.
    Gap,
    /// A file begins.
    File,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 17] = [
        Self::Received,
        Self::Delivered,
        Self::Deferred,
        Self::Throttled,
        Self::Bounced,
        Self::Expired,
        Self::Suppressed,
        Self::Held,
        Self::Deleted,
        Self::DsnSent,
        Self::Order,
        Self::Limit,
        Self::Suppression,
        Self::Report,
        Self::Unsubscribed,
        Self::Gap,
        Self::File,
    ];

    /// As a line names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Delivered => "delivered",
            Self::Deferred => "deferred",
            Self::Throttled => "throttled",
            Self::Bounced => "bounced",
            Self::Expired => "expired",
            Self::Suppressed => "suppressed",
            Self::Held => "held",
            Self::Deleted => "deleted",
            Self::DsnSent => "dsn-sent",
            Self::Order => "order",
            Self::Limit => "limit",
            Self::Suppression => "suppression",
            Self::Report => "report",
            Self::Unsubscribed => "unsubscribed",
            Self::Gap => "gap",
            Self::File => "file",
        }
    }
}

/// The message and the recipient that an event is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The message.
    pub id: MessageId,
    /// Its envelope; none: it could not be read, so the event names the recipient by its index.
    pub envelope: Option<&'a Envelope>,
    /// Index into the envelope's recipients.
    pub recipient: u32,
    /// The site that its domain leads to, where that is known.
    pub site: Option<&'a str>,
}

/// What became of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver took responsibility.
    Delivered,
    /// To be tried again.
    Deferred,
    /// To be tried again; the receiver asks to be left alone for a while. Where limits are learnt it counts as no attempt.
    Throttled,
    /// Failed for good.
    Bounced,
    /// Failed because its time is over.
    Expired,
    /// Not sent to, since it is on the suppression list.
    Suppressed,
}

/// An outcome: of an attempt, or one that the queue decided itself.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'a> {
    /// Of whom.
    pub subject: Subject<'a>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why.
    pub report: &'a Report,
    /// What the refusal is about; none: it is none.
    pub refusal: Option<Refusal<'a>>,
    /// Name of the egress source, if there was a connection.
    pub source: Option<&'a str>,
    /// Attempts made so far, this one included.
    pub attempt: u16,
    /// Octets of content, if known.
    pub size: Option<u64>,
    /// When it was due.
    pub due: UnixTime,
    /// When a connection took it; none: no connection did. As the time since 1970-01-01 UTC.
    pub attempted: Option<Duration>,
    /// When it is tried again.
    pub retry: Option<UnixTime>,
    /// The id of the order that decided it; none: no operator did.
    pub order: Option<u32>,
}

/// What a refusal is about, as the classifier of replies has it.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// Its class.
    pub class: &'a str,
    /// The rule that decided.
    pub rule: &'a str,
    /// Whether the address should not be tried again.
    pub permanent: bool,
    /// The list that the receiver goes by.
    pub list: Option<&'a str>,
}

/// An operator's order.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// Its id, by which it is undone.
    pub id: &'a str,
    /// What it does, or that it is lifted: `suspend`, `hold`, `move`, `delete`, `bounce`, `undo`, ...
    pub action: &'a str,
    /// Whom it concerns, as it was given.
    pub filter: &'a str,
    /// The egress source that it moves to; empty: it does not move.
    pub source: &'a str,
    /// Why, in the operator's words.
    pub reason: &'a str,
    /// Who gave it.
    pub who: &'a str,
    /// When it ends by itself.
    pub until: Option<UnixTime>,
}

/// A change of a limit that is learnt.
#[derive(Clone, Copy, Debug)]
pub struct LimitChange<'a> {
    /// Where.
    pub site: &'a str,
    /// From which egress source.
    pub source: &'a str,
    /// Of what: `rate` (messages a minute), `connections`, `messages-per-connection`, `breaker` (seconds), `hourly-cap`.
    pub what: &'a str,
    /// What it was; none: no limit.
    pub from: Option<f64>,
    /// What it is; none: no limit.
    pub to: Option<f64>,
    /// Why, with the reply that caused it.
    pub reason: &'a str,
}

/// Who gets no mail any more, or gets mail again.
#[derive(Clone, Copy, Debug)]
pub enum Suppressed<'a> {
    /// One mailbox.
    Mailbox {
        /// As it was given.
        address: &'a str,
        /// Its domain.
        domain: &'a str,
    },
    /// One mailbox, of which the keyed hash is known.
    Hash(&'a str),
    /// Every mailbox of a domain.
    Domain(&'a str),
    /// Those of a list that was imported.
    Imported {
        /// Lines that were read.
        lines: u64,
        /// Entries that came of them, or took the place of others.
        added: u64,
        /// Lines that could not be read.
        bad: u64,
    },
}

/// A change of the suppression list by an operator.
#[derive(Clone, Copy, Debug)]
pub struct SuppressionChange<'a> {
    /// `add`, `remove` or `import`.
    pub action: &'a str,
    /// Whom it is about.
    pub target: Suppressed<'a>,
    /// Mail of this tenant; empty: of all.
    pub tenant: &'a str,
    /// Of this class of its campaigns; empty: of all.
    pub class: &'a str,
    /// Why the entry stands, or stood; empty: the lines say it.
    pub reason: &'a str,
    /// Until when it stands, or stood.
    pub until: Option<UnixTime>,
    /// The event or person that it comes from; empty: unknown.
    pub source: &'a str,
    /// Who has changed it.
    pub who: &'a str,
}

/// A suppressed recipient that a client was told of: there is no message.
#[derive(Clone, Copy, Debug)]
pub struct Rejection<'a> {
    /// Whose mail it would have been; empty: not known yet.
    pub tenant: &'a str,
    /// From whom.
    pub reverse_path: &'a str,
    /// To whom.
    pub recipient: &'a Address,
    /// Who submits it.
    pub client: IpAddr,
    /// Why it is on the list.
    pub reason: &'a str,
    /// The same in words.
    pub text: &'a str,
}

/// A recipient took himself off by the link of a message.
#[derive(Clone, Copy, Debug)]
pub struct Unsubscribed<'a> {
    /// The message that had the link.
    pub message: MessageId,
    /// The recipient, by its keyed hash: the link says no more.
    pub recipient: &'a str,
    /// Whose mail he gets no more.
    pub tenant: &'a str,
    /// Of what class; empty: all of the tenant's.
    pub class: &'a str,
    /// `one-click` (RFC 8058) or `page`.
    pub how: &'a str,
    /// Who asked for it.
    pub client: IpAddr,
}

/// Something that is written to the journal: one line each.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The message is stored and queued for this recipient.
    Received {
        /// Of whom.
        subject: Subject<'a>,
        /// Octets of content.
        size: u64,
        /// Who submitted it; none: it is our own.
        client: Option<IpAddr>,
        /// Who had authenticated.
        user: Option<&'a str>,
        /// Names of the DKIM keys that signed it, or why none did; empty: there are none.
        dkim: &'a str,
    },
    /// What became of a recipient.
    Decided(Decision<'a>),
    /// A recipient is not tried until an operator has seen to it.
    Held {
        /// Of whom.
        subject: Subject<'a>,
        /// Why: `damaged`, `in-doubt`, or an operator's reason.
        reason: &'a str,
        /// The id of the order that holds it; empty: none.
        order: &'a str,
    },
    /// An operator removed a recipient without telling its sender.
    Deleted {
        /// Of whom.
        subject: Subject<'a>,
        /// Why, in the operator's words.
        reason: &'a str,
        /// The id of the order.
        order: &'a str,
    },
    /// A DSN about a recipient was stored and queued.
    DsnSent {
        /// The recipient that it is about.
        subject: Subject<'a>,
        /// What it reports: `failed`, `delayed` or `relayed`.
        action: &'a str,
        /// The message that the DSN is.
        dsn: MessageId,
    },
    /// An operator gave or lifted an order.
    Order(Order<'a>),
    /// A learnt limit has changed.
    Limit(LimitChange<'a>),
    /// The suppression list was changed.
    Suppression(SuppressionChange<'a>),
    /// A suppressed recipient was refused.
    Rejected(Rejection<'a>),
    /// Something came back.
    Report(Returned<'a>),
    /// A recipient took himself off.
    Unsubscribed(Unsubscribed<'a>),
}

impl Event<'_> {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Received { .. } => Kind::Received,
            Self::Decided(Decision { verdict, .. }) => match verdict {
                Verdict::Delivered => Kind::Delivered,
                Verdict::Deferred => Kind::Deferred,
                Verdict::Throttled => Kind::Throttled,
                Verdict::Bounced => Kind::Bounced,
                Verdict::Expired => Kind::Expired,
                Verdict::Suppressed => Kind::Suppressed,
            },
            Self::Held { .. } => Kind::Held,
            Self::Deleted { .. } => Kind::Deleted,
            Self::DsnSent { .. } => Kind::DsnSent,
            Self::Order(_) => Kind::Order,
            Self::Limit(_) => Kind::Limit,
            Self::Suppression(_) => Kind::Suppression,
            Self::Rejected(_) => Kind::Suppressed,
            Self::Report(_) => Kind::Report,
            Self::Unsubscribed(_) => Kind::Unsubscribed,
        }
    }

    /// Appends its line.
    pub(super) fn write(&self, out: &mut Vec<u8>, id: EventId, at: Duration, mask: &Mask) {
        let mut line = Line::begin(out, id, at, self.kind().as_str(), mask);
        match self {
            Self::Received { subject, size, client, user, dkim } => {
                subject.write(&mut line);
                if let Some(client) = client {
                    line.address(key!("client"), *client);
                }
                line.free_if(key!("user"), user.unwrap_or_default());
                line.text_if(key!("dkim"), dkim);
                subject.write_wish(&mut line);
                line.number(key!("size"), *size);
                subject.write_accepted(&mut line);
            }
            Self::Decided(decision) => decision.write(&mut line, at),
            Self::Held { subject, reason, order } | Self::Deleted { subject, reason, order } => {
                subject.write(&mut line);
                line.free(key!("reason"), reason);
                line.text_if(key!("order"), order);
                subject.write_accepted(&mut line);
            }
            Self::DsnSent { subject, action, dsn } => {
                subject.write(&mut line);
                line.text(key!("action"), action);
                line.id(key!("dsn_id"), EventId(dsn.0));
                subject.write_accepted(&mut line);
            }
            Self::Order(order) => order.write(&mut line),
            Self::Limit(change) => change.write(&mut line),
            Self::Suppression(change) => change.write(&mut line),
            Self::Rejected(rejection) => rejection.write(&mut line),
            Self::Report(report) => report.write(&mut line),
            Self::Unsubscribed(unsubscribed) => unsubscribed.write(&mut line),
        }
        line.end();
    }
}

impl LimitChange<'_> {
    fn write(&self, line: &mut Line<'_>) {
        line.text(key!("site"), self.site);
        line.text(key!("egress_source"), self.source);
        line.text(key!("limit"), self.what);
        for (key, value) in [(key!("from"), self.from), (key!("to"), self.to)] {
            if let Some(value) = value {
                line.decimal(key, value);
            }
        }
        line.free(key!("reason"), self.reason);
    }
}

impl SuppressionChange<'_> {
    fn write(&self, line: &mut Line<'_>) {
        line.text(key!("action"), self.action);
        line.text_if(key!("tenant"), self.tenant);
        line.text_if(key!("campaign_class"), self.class);
        match self.target {
            Suppressed::Mailbox { address, domain } => {
                line.mailbox(key!("recipient"), address);
                line.text(key!("domain"), domain);
            }
            Suppressed::Hash(hash) => line.text(key!("recipient_hash"), hash),
            Suppressed::Domain(domain) => line.text(key!("domain"), domain),
            Suppressed::Imported { lines, added, bad } => {
                line.number(key!("lines"), lines);
                line.number(key!("added"), added);
                line.number(key!("bad"), bad);
            }
        }
        line.text_if(key!("reason"), self.reason);
        if let Some(until) = self.until {
            line.seconds(key!("until"), until);
        }
        line.free_if(key!("source"), self.source);
        line.free_if(key!("who"), self.who);
    }
}

impl Rejection<'_> {
    fn write(&self, line: &mut Line<'_>) {
        line.text_if(key!("tenant"), self.tenant);
        line.mailbox(key!("reverse_path"), self.reverse_path);
        line.mailbox(key!("recipient"), self.recipient.as_str());
        line.text(key!("domain"), self.recipient.domain());
        line.address(key!("client"), self.client);
        line.text(key!("step"), Phase::Rcpt.as_str());
        line.number(key!("reply_code"), 550);
        line.text(key!("enhanced_status"), "5.7.1");
        line.text(key!("reply_text"), self.text);
        line.text(key!("reason"), self.reason);
    }
}

impl Unsubscribed<'_> {
    fn write(&self, line: &mut Line<'_>) {
        line.id(key!("message_id"), EventId(self.message.0));
        line.text(key!("tenant"), self.tenant);
        line.text_if(key!("campaign_class"), self.class);
        line.text(key!("recipient_hash"), self.recipient);
        line.text(key!("how"), self.how);
        line.address(key!("client"), self.client);
    }
}

impl Subject<'_> {
    fn recipient(&self) -> Option<&Recipient> {
        self.envelope?.recipients.get(usize::try_from(self.recipient).ok()?)
    }

    /// What a text about it may name.
    fn addresses(&self) -> [&str; 2] {
        let recipient = self.recipient().map_or("", |recipient| recipient.forward_path.as_str());
        [recipient, self.envelope.map_or("", |envelope| envelope.reverse_path.as_str())]
    }

    fn write(&self, line: &mut Line<'_>) {
        line.id(key!("message_id"), EventId(self.id.0));
        if let Some(envelope) = self.envelope {
            line.text(key!("tenant"), &envelope.tenant);
            line.text_if(key!("campaign"), &envelope.campaign);
            line.text_if(key!("campaign_class"), &envelope.class);
            line.text(key!("lane"), envelope.lane.as_str());
            match envelope.kind {
                MessageKind::Submitted => {}
                MessageKind::Dsn => line.text(key!("message_kind"), "dsn"),
                MessageKind::TlsReport => line.text(key!("message_kind"), "tls-report"),
                MessageKind::Returned => line.text(key!("message_kind"), "returned"),
            }
            line.mailbox(key!("reverse_path"), envelope.reverse_path.as_str());
        }
        match self.recipient() {
            Some(recipient) => {
                line.mailbox(key!("recipient"), recipient.forward_path.as_str());
                line.text(key!("domain"), recipient.forward_path.domain());
            }
            None => line.number(key!("recipient_index"), self.recipient.into()),
        }
        line.text_if(key!("site"), self.site.unwrap_or_default());
    }

    /// What the sender asks of TLS.
    fn write_wish(&self, line: &mut Line<'_>) {
        line.text_if(key!("tls_asked"), self.envelope.map_or("", |envelope| envelope.tls.as_str()));
    }

    fn write_accepted(&self, line: &mut Line<'_>) {
        if let Some(envelope) = self.envelope {
            line.seconds(key!("accepted"), envelope.accepted_at);
        }
    }
}

impl Decision<'_> {
    fn write(&self, line: &mut Line<'_>, at: Duration) {
        let Report { phase, reply, mx_host, mx_address, tls, tls_policy, in_doubt, .. } = self.report;
        self.subject.write(line);
        line.text_if(key!("mx_host"), mx_host.as_deref().unwrap_or_default());
        if let Some(address) = mx_address {
            line.socket(key!("mx_address"), *address);
        }
        line.text_if(key!("egress_source"), self.source.unwrap_or_default());
        if mx_address.is_some() {
            line.text(key!("tls"), tls.map_or("none", |tls| tls.version));
            if let Some(tls) = tls {
                line.text(key!("tls_cipher"), tls.cipher);
                line.text(key!("tls_verified"), tls.proof.as_str());
            }
            line.text_if(key!("tls_policy"), tls_policy.unwrap_or_default());
        }
        line.text(key!("step"), phase.as_str());
        if reply.code != 0 {
            line.number(key!("reply_code"), reply.code.into());
        }
        if let Some(status) = reply.status {
            line.status(key!("enhanced_status"), status);
        }
        line.free_about(key!("reply_text"), &reply.text, || self.subject.addresses());
        if let Some(Refusal { class, rule, permanent, list }) = self.refusal {
            line.text(key!("class"), class);
            line.text(key!("rule"), rule);
            line.truth(key!("permanent"), permanent);
            line.text_if(key!("list"), list.unwrap_or_default());
        }
        if *in_doubt {
            line.truth(key!("in_doubt"), true);
        }
        line.number(key!("attempt"), self.attempt.into());
        if let Some(size) = self.size {
            line.number(key!("size"), size);
        }
        self.subject.write_accepted(line);
        line.seconds(key!("due"), self.due);
        if let Some(attempted) = self.attempted {
            line.millis(key!("attempted"), attempted);
            line.millis(key!("answered"), at);
        }
        if let Some(retry) = self.retry {
            line.seconds(key!("retry"), retry);
        }
        if let Some(order) = self.order {
            line.text(key!("order"), &order.to_string());
        }
    }
}

impl Order<'_> {
    fn write(&self, line: &mut Line<'_>) {
        line.text(key!("order"), self.id);
        line.text(key!("action"), self.action);
        line.free(key!("filter"), self.filter);
        line.text_if(key!("egress_source"), self.source);
        line.free_if(key!("reason"), self.reason);
        line.free_if(key!("who"), self.who);
        if let Some(until) = self.until {
            line.seconds(key!("until"), until);
        }
    }
}

//! What people see of the queue: the admin interface serializes it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::state::{Order, Selection};

/// The queue at one moment, counts only.
#[derive(Clone, Debug, Default, Serialize)]
pub struct View {
    /// All sites together.
    pub totals: Totals,
    /// Sites with work or connections, the deepest first.
    pub sites: Vec<SiteView>,
    /// Tenants with queued recipients, and those that had some lately; the deepest first.
    pub tenants: Vec<TenantView>,
    /// Entries past their time by more than a minute, by cause.
    pub overdue: Vec<OverdueView>,
    /// Entries that are ready or wait for a plan, by cause, their time being long past or not.
    #[serde(skip)]
    pub waiting: Vec<OverdueView>,
}

/// Counts of recipients, and connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Every unfinished recipient.
    pub queued: usize,
    /// Waiting for a connection.
    pub ready: usize,
    /// Waiting for their time.
    pub scheduled: usize,
    /// Waiting for a look-up.
    pub waiting_for_dns: usize,
    /// Being tried.
    pub in_flight: usize,
    /// Kept aside for an operator: by an order to hold, or damaged, or in doubt.
    pub held: usize,
    /// Kept by an order to suspend.
    pub suspended: usize,
    /// Connections open or being opened.
    pub connections: usize,
    /// Age in seconds of the oldest unfinished recipient.
    pub oldest_seconds: u32,
}

/// One site.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SiteView {
    /// Provider name, MX set or domain.
    pub site: String,
    /// Waiting for a connection.
    pub ready: usize,
    /// Waiting for their time.
    pub scheduled: usize,
    /// Kept by orders.
    pub kept: usize,
    /// Being tried.
    pub in_flight: usize,
    /// Connections open or being opened.
    pub connections: usize,
    /// Connections without work.
    pub idle_connections: usize,
    /// Of the connections, those on which no transaction could begin yet.
    #[serde(skip)]
    pub opening_connections: usize,
    /// How long past its time the oldest ready entry is, in seconds.
    pub oldest_seconds: u32,
    /// Age in seconds of the oldest recipient, since it was accepted.
    pub age_seconds: u32,
    /// New connections wait for this many seconds more.
    pub back_off_seconds: Option<u64>,
    /// Why: the last connection failure.
    pub back_off_reason: Option<String>,
    /// What ready entries wait for, when not for a free connection.
    pub waiting_for: Option<&'static str>,
    /// The last reply that was not a success.
    pub last_reply: Option<String>,
    /// Recipients delivered since the site was met.
    pub delivered: u64,
    /// Deferrals since then.
    pub deferred: u64,
    /// Recipients bounced since then.
    pub bounced: u64,
}

/// One tenant.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TenantView {
    /// Its name.
    pub tenant: String,
    /// Its unfinished recipients.
    pub queued: usize,
    /// Age in seconds of the oldest of them, since it was accepted.
    pub age_seconds: u32,
    /// Its recipients delivered since it was met; it is forgotten some time after its last recipient.
    pub delivered: u64,
    /// Deferrals since then.
    pub deferred: u64,
    /// Recipients bounced or expired since then.
    pub bounced: u64,
}

/// Entries past their time by one cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OverdueView {
    /// What they wait for.
    pub cause: &'static str,
    /// How many.
    pub entries: usize,
}

/// Which entries to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only these; checked by [`Selection::checked`].
    pub selection: Selection,
    /// Only those with an attempt before the start that has no outcome.
    pub in_doubt: bool,
    /// At most so many.
    pub limit: usize,
}

/// Recipients by where they are: keys as [`EntryView::state`].
pub type Counts = BTreeMap<&'static str, usize>;

/// An order that has been placed.
#[derive(Clone, Debug, Serialize)]
pub struct Placed {
    /// As it stands.
    pub order: Order,
    /// Recipients that it is about, by where they were. What is in flight is finished first; what waits for its time or
    /// for a look-up is met by the order when it has come, save that orders that end recipients do so at once.
    pub counts: Counts,
    /// Recipients that it ended at once.
    pub ended: usize,
    /// Recipients that an order to end mail may be about, and whose site or source is not known: each is judged when it
    /// is due.
    pub unknown: usize,
}

/// An order that stands.
#[derive(Clone, Debug, Serialize)]
pub struct OrderView {
    /// The order.
    pub order: Order,
    /// Recipients that wait for its end.
    pub parked: usize,
    /// Recipients that it is about and that wait for their time; absent: too many to count for a listing.
    pub scheduled: Option<usize>,
    /// It moves to an egress source that the configuration does not have: nothing is moved.
    pub is_source_missing: bool,
}

/// An order that was undone.
#[derive(Clone, Debug, Serialize)]
pub struct Undone {
    /// As it stood.
    pub order: Order,
    /// Recipients that waited for its end and go on.
    pub released: usize,
}

/// What is tried at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flushed {
    /// Recipients that waited for their time or for a look-up.
    pub scheduled: usize,
    /// Recipients that were held as damaged or in doubt.
    pub held: usize,
    /// Of all these, those that an order keeps: they are not tried. What waits for a look-up is not counted yet.
    pub kept: usize,
    /// Sites whose back-off was ended.
    pub sites: usize,
}

/// States of [`EntryView`].
pub(super) const READY: &str = "ready";
pub(super) const SCHEDULED: &str = "scheduled";
pub(super) const STORING: &str = "storing-dsn";
pub(super) const WAITING_FOR_DNS: &str = "waiting-for-dns";
pub(super) const HELD: &str = "held";
pub(super) const SUSPENDED: &str = "suspended";
/// All connections are busy.
pub(super) const BUSY: &str = "busy";
/// A delivery plan is being looked up.
pub(super) const DNS: &str = "dns";
/// An attempt takes longer than its time-outs allow.
pub(super) const IN_FLIGHT: &str = "in-flight";
/// The timers are late.
pub(super) const TIMER: &str = "timer";
/// Every cause of waiting for longer than it takes to be drawn.
pub(super) const WAITING: [&str; 14] = [
    "no-connection-permit",
    "connection-rate",
    "connection-pace",
    "rate",
    "budget",
    "pause",
    "gate",
    "breaker",
    "hourly-cap",
    "warmup",
    "back-off",
    "stopped",
    BUSY,
    DNS,
];
/// Whether what waits for this waits for a receiver: it does not answer, or limits towards it hold mail back.
pub fn is_held_by_receiver(cause: &str) -> bool {
    WAITING.contains(&cause) && !["stopped", DNS].contains(&cause)
}

/// Every cause of being overdue.
// The places are within both: the compiler has gone through them.
#[allow(clippy::indexing_slicing)]
pub(super) const OVERDUE: [&str; 16] = {
    let mut all = [TIMER; 16];
    let mut at = 0;
    while at < WAITING.len() {
        all[at] = WAITING[at];
        at += 1;
    }
    all[at] = IN_FLIGHT;
    all
};

/// One queued recipient.
#[derive(Clone, Debug, Serialize)]
pub struct EntryView {
    /// The message.
    pub message_id: String,
    /// Index of the recipient in the envelope.
    pub recipient: u32,
    /// Its domain.
    pub domain: String,
    /// Its site, once known.
    pub site: Option<String>,
    /// Whose it is.
    pub tenant: String,
    /// Its campaign; empty: none.
    pub campaign: String,
    /// `urgent`, `normal` or `bulk`.
    pub lane: &'static str,
    /// The order that keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
    /// `ready`, `in-flight` (being tried), `storing-dsn`, `waiting-for-dns`, `scheduled`, `suspended` or `held` (by an
    /// order), or why it is held without one: `damaged` or `in-doubt`.
    pub state: &'static str,
    /// Since when, in seconds since 1970, while it is in flight or a DSN about it is being stored.
    pub since: Option<u32>,
    /// An attempt before the start has no outcome: the receiver may have it.
    pub in_doubt: bool,
    /// Address and port of the attempt that has no outcome: the one under way, or the one in doubt.
    pub mx_address: Option<String>,
    /// The last reply about it that was not a success, or why its domain has no plan, as far as it is still known.
    pub last_reply: Option<String>,
    /// Attempts made.
    pub attempts: u16,
    /// When it was accepted, in seconds since 1970.
    pub accepted: u32,
    /// When it is or was due, in seconds since 1970.
    pub due: u32,
}

/// The daemon's work at one moment, with what holds it up.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outline {
    /// All sites together.
    pub totals: Totals,
    /// Sites known.
    pub sites: usize,
    /// Recipients that may be queued at most.
    pub capacity: usize,
    /// Connections that may be open at most.
    pub most_connections: u32,
    /// Recipients whose attempt before the start has no known outcome.
    pub in_doubt: usize,
    /// Held recipients by reason.
    pub held: Vec<HeldView>,
    /// Operators' orders that stand, without those that end mail once.
    pub orders: usize,
    /// Domains whose mail waits because DNS gave no plan for it, and one of them.
    pub dns_failing: usize,
    /// Domains with mail that waits for a plan or for its time.
    pub dns_domains: usize,
    /// One of those domains, and why.
    pub dns_example: Option<String>,
    /// Recipients a second, over the last minute.
    pub rates: Rates,
    /// The sites with most recipients that cannot go on now, at most three.
    pub holding_up: Vec<SiteView>,
    /// Entries past their time by more than a minute, by cause.
    pub overdue: Vec<OverdueView>,
    /// Warm-ups that are paused, by themselves or by an operator.
    pub paused_warmups: Vec<PausedWarmup>,
    /// Egress sources with the addresses that mail leaves from.
    #[serde(skip)]
    pub sources: Vec<SourceAddresses>,
}

/// A warm-up that is paused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PausedWarmup {
    /// Of this source.
    pub source: String,
    /// At this provider.
    pub provider: String,
    /// Who wants it; none: it paused by itself.
    pub by: Option<String>,
    /// Why.
    pub reason: String,
    /// When it ends by itself, in seconds since 1970; none: when it is resumed.
    pub until: Option<u64>,
}

/// Where mail of an egress source leaves from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceAddresses {
    /// Its name.
    pub source: String,
    /// Those that the configuration names.
    pub addresses: Vec<IpAddr>,
}

/// Held recipients of one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HeldView {
    /// Why.
    pub reason: &'static str,
    /// How many.
    pub recipients: usize,
}

/// Recipients a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Of so many seconds.
    pub over_seconds: f64,
    /// Submitted.
    pub submitted: f64,
    /// Delivered.
    pub delivered: f64,
    /// Deferred.
    pub deferred: f64,
    /// Bounced, or expired.
    pub bounced: f64,
}

/// Everything about one site.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SiteDetail {
    /// Counts, back-off and last reply.
    pub summary: SiteView,
    /// Recipients by tenant and lane, the deepest first; at most 100.
    pub depth: Vec<DepthView>,
    /// Kinds of replies that were not a success, the last heard first.
    pub replies: Vec<ReplyView>,
    /// Limits in force and how much of them is used.
    pub limits: Vec<LimitView>,
    /// MX sets by source.
    pub paths: Vec<PathView>,
    /// Open and opening connections; at most 200, `summary.connections` counts all.
    pub connections: Vec<ConnectionView>,
    /// What happens next, the earliest first.
    pub next: Vec<EventView>,
}

/// Recipients of one tenant in one lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DepthView {
    /// Its name.
    pub tenant: String,
    /// `urgent`, `normal` or `bulk`.
    pub lane: &'static str,
    /// Waiting for a connection.
    pub ready: usize,
    /// Waiting for their time.
    pub scheduled: usize,
    /// Kept by orders.
    pub kept: usize,
    /// Being tried.
    pub in_flight: usize,
    /// Age in seconds of the oldest, since it was accepted.
    pub oldest_seconds: u32,
}

/// A kind of reply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReplyView {
    /// The reply, with `*` for what differs from recipient to recipient.
    pub reply: String,
    /// For how many recipients.
    pub recipients: u64,
    /// When it came the last time, in seconds before now.
    pub seconds_ago: u64,
}

/// A limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LimitView {
    /// What is limited.
    pub what: &'static str,
    /// Of what: the site, a source, or the daemon.
    pub of: String,
    /// How much; absent: no limit.
    pub most: Option<u64>,
    /// Per so many seconds, for a rate.
    pub per_seconds: Option<u64>,
    /// How much of it is used, where that can be told.
    pub used: Option<u64>,
    /// A rate has room again in so many seconds; absent: it has.
    pub room_in_seconds: Option<f64>,
}

/// One MX set from one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PathView {
    /// The site it belongs to.
    pub site: String,
    /// The MX hosts' names.
    pub mx_set: String,
    /// TCP port.
    pub port: u16,
    /// The TLS policy in force: the operator's, `dane` or `mta-sts` where the domain publishes that, `requiretls` or `waived`
    /// where the messages say so.
    pub tls: &'static str,
    /// What that comes from.
    pub tls_why: String,
    /// The egress source.
    pub source: String,
    /// Waiting for a connection.
    pub ready: usize,
    /// Messages being tried.
    pub in_flight: u32,
    /// Connections on which transactions may begin.
    pub open: u32,
    /// Those of them without work.
    pub idle: usize,
    /// Connections being opened.
    pub opening: u32,
    /// Connections that the work is worth.
    pub wanted: u32,
    /// What ready entries wait for.
    pub waiting_for: Option<&'static str>,
}

/// One connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ConnectionView {
    /// `opening`, `idle`, `transaction` or `closing`.
    pub state: &'static str,
    /// The step within it.
    pub step: Option<&'static str>,
    /// For so many seconds in this step.
    pub for_seconds: f64,
    /// The MX host.
    pub mx_host: Option<String>,
    /// Address and port.
    pub mx_address: Option<String>,
    /// The egress source.
    pub source: String,
    /// Secured by TLS.
    pub tls: bool,
    /// The protocol, such as `TLSv1.3`.
    pub tls_version: Option<&'static str>,
    /// What the certificate was held to: `none`, `failed`, `pkix`, `dane`.
    pub tls_verified: Option<&'static str>,
    /// The TLS policy: the operator's, `dane`, `mta-sts`, `requiretls` or `waived`.
    pub tls_policy: Option<&'static str>,
    /// Messages that got their outcome over it.
    pub messages: u32,
    /// Since when it exists, in seconds before now.
    pub age_seconds: u64,
}

/// Something that will happen at a site.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EventView {
    /// In so many seconds; absent: when something else has happened.
    pub in_seconds: Option<f64>,
    /// What.
    pub event: String,
    /// Why.
    pub cause: Option<String>,
}

/// Connections by source and MX set.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pools {
    /// Egress sources in the order of the configuration.
    pub sources: Vec<SourceView>,
    /// Paths with connections or ready entries, most connections first; at most 1,000.
    pub pools: Vec<PathView>,
    /// How many there are.
    pub all: usize,
}

/// An egress source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SourceView {
    /// Its name.
    pub source: String,
    /// Local address; absent: that family is not used; unspecified: the system chooses.
    pub ipv4: Option<String>,
    /// The same.
    pub ipv6: Option<String>,
    /// What it says in EHLO.
    pub ehlo_name: String,
    /// Connections open or being opened.
    pub connections: u32,
    /// Those without work.
    pub idle: usize,
    /// Messages being tried.
    pub in_flight: u32,
    /// Connections at most; absent: no limit of its own.
    pub most_connections: Option<u32>,
}

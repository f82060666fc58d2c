//! What people see of the queue: the admin interface serializes it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::state::{Order, Selection};

/// The queue at one moment, counts only.
#[derive(Clone, Debug, Default, Serialize)]
pub struct View {
    /// All sites together.
    pub totals: Totals,
    /// Sites with work or connections, the deepest first.
    pub sites: Vec<SiteView>,
    /// Tenants with queued recipients, the deepest first.
    pub tenants: Vec<TenantView>,
    /// Entries past their time by more than a minute, by cause.
    pub overdue: Vec<OverdueView>,
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
    /// Being tried.
    pub in_flight: usize,
    /// Connections open or being opened.
    pub connections: usize,
    /// Connections without work.
    pub idle_connections: usize,
    /// Age in seconds of the oldest ready entry.
    pub oldest_seconds: u32,
    /// New connections wait for this many seconds more.
    pub back_off_seconds: Option<u64>,
    /// Why: the last connection failure.
    pub back_off_reason: Option<String>,
    /// What ready entries wait for, when not for a free connection.
    pub waiting_for: Option<&'static str>,
    /// The last reply that was not a success.
    pub last_reply: Option<String>,
}

/// One tenant.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TenantView {
    /// Its name.
    pub tenant: String,
    /// Its unfinished recipients.
    pub queued: usize,
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
}

/// An order that stands.
#[derive(Clone, Debug, Serialize)]
pub struct OrderView {
    /// The order.
    pub order: Order,
    /// Recipients that wait for its end.
    pub parked: usize,
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
/// Every cause of being overdue.
pub(super) const OVERDUE: [&str; 9] =
    ["no-connection-permit", "connection-rate", "rate", "back-off", "stopped", BUSY, DNS, TIMER, IN_FLIGHT];

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

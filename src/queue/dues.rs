//! What was used up of budgets (messages, new connections, octets), kept over a restart: at the stop of all, else of those over
//! an hour or a day, and of those that owe for long.
//!
//! At the start it is read; a budget takes up what it owes when it is made. What was taken ahead of time and not sent is not owed.
//!
//! While the daemon runs the file says that it does. One that says so at a start was left by a kill: what was sent since it was
//! written is not known, so that every budget that had room since then, over whatever time, begins as if its burst had just gone
//! ([`Budget::exhaust`]). So no rate is exceeded over any number of kills.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::limit::budget::{Budget, Part};
use crate::limit::permit::What;
use crate::state::Note;

use super::engine::Engine;

/// Budgets over at least this are kept while the daemon runs, too, and others that owe as much as [`LATER`].
const LONG: Duration = Duration::from_secs(3_600);
/// What is paid before the file is written again is not worth it.
const LATER: Duration = Duration::from_secs(10);
/// Octets of a large message are owed for much longer than the second that they are counted by: at most so long.
const DAY: Duration = Duration::from_secs(86_400);

/// Whose budget.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Whose {
    /// Of everything together.
    Everything,
    /// A source.
    Source(Box<str>),
    /// A site.
    Site(Box<str>),
    /// A source at a site.
    SourceSite(Box<str>, Box<str>),
    /// A tenant.
    Tenant(Box<str>),
    /// A tenant at a site.
    TenantSite(Box<str>, Box<str>),
    /// A tenant's campaign.
    Campaign(Box<str>, Box<str>),
}

/// What is owed to one rate, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    whose: Whose,
    #[serde(default = "messages")]
    what: What,
    per_seconds: u64,
    /// When all that has passed is paid for, in milliseconds since 1970-01-01 UTC.
    paid_at_ms: u64,
}

/// What was kept of messages alone did not say so.
fn messages() -> What {
    What::Messages
}

/// What budgets owe from before the start: of what, the period, and when it is paid.
type Pending = HashMap<Whose, Vec<(What, Duration, Instant)>>;

/// What is in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// It was written at the stop: nothing has been sent since.
    is_final: bool,
    rates: Vec<Stored>,
}

/// The file.
#[derive(Debug, Default)]
pub(super) struct Spent {
    note: Note,
    /// Held while the file is written.
    written: Mutex<Written>,
}

/// What the file says.
#[derive(Debug, Default)]
struct Written {
    /// What the stop has written stays.
    is_closed: bool,
    /// It need not be written again.
    content: Vec<u8>,
}

/// What budgets that are not made yet owe from before the start.
#[derive(Debug, Default)]
pub(super) struct Dues {
    pending: Mutex<Pending>,
    /// Length of `pending`, to be looked at without its lock.
    len: AtomicUsize,
    /// The start, if the daemon was killed before.
    killed: Option<Instant>,
}

impl Spent {
    pub fn new(note: Note) -> Self {
        Self { note, written: Mutex::default() }
    }

    fn keep(&self, kept: &Kept) -> io::Result<()> {
        let content = serde_json::to_vec(kept).unwrap_or_default();
        let mut written = self.written.lock();
        if written.is_closed || written.content == content {
            return Ok(());
        }
        written.is_closed = kept.is_final;
        self.note.replace(&content)?;
        written.content = content;
        Ok(())
    }
}

impl Dues {
    /// What an earlier run has kept. `wall` is the time since 1970 at `now`.
    pub fn new(store: &Note, now: Instant, wall: Duration) -> Self {
        let mut pending = Pending::new();
        let kept: Option<Kept> = store.read().and_then(|text| serde_json::from_slice(&text).ok());
        // Of a file that cannot be read nothing is known either.
        let was_killed = kept.as_ref().map_or_else(|| store.has_some(), |kept| !kept.is_final);
        for Stored { whose, what, per_seconds, paid_at_ms } in kept.unwrap_or_default().rates {
            let per = Duration::from_secs(per_seconds);
            // A clock that was ahead must not stop mail for years.
            let most = if what == What::Octets { DAY } else { per };
            let owed = Duration::from_millis(paid_at_ms).saturating_sub(wall).min(most);
            if !owed.is_zero() {
                pending.entry(whose).or_default().push((what, per, now + owed));
            }
        }
        let len = AtomicUsize::new(pending.len());
        Self { pending: Mutex::new(pending), len, killed: was_killed.then_some(now) }
    }

    /// Has a budget that was just made owe what it did before the start.
    pub fn settle(&self, budget: Option<&Budget>, now: Instant, whose: impl FnOnce() -> Whose) {
        let Some(budget) = budget else { return };
        if self.len.load(Ordering::Relaxed) > 0 {
            let mut pending = self.pending.lock();
            for (what, per, paid_at) in pending.remove(&whose()).unwrap_or_default() {
                budget.owe(what, per, paid_at.saturating_duration_since(now), now);
            }
            self.len.store(pending.len(), Ordering::Relaxed);
        }
        if let Some(start) = self.killed {
            budget.exhaust(start, now);
        }
    }

    /// What is owed by budgets that have not been made since the start. `wall` is the time since 1970 at `now`.
    fn pending(&self, now: Instant, wall: Duration) -> Vec<Stored> {
        let pending = self.pending.lock();
        let owed = pending.iter().flat_map(|(whose, owed)| owed.iter().map(move |owed| (whose, owed)));
        let stored = owed.filter_map(|(whose, (what, per, paid_at))| {
            let left = paid_at.saturating_duration_since(now);
            (!left.is_zero()).then(|| Stored::new(whose.clone(), (*what, *per), wall + left))
        });
        stored.collect()
    }
}

impl Stored {
    fn new(whose: Whose, (what, per): (What, Duration), paid_at: Duration) -> Self {
        let paid_at_ms = u64::try_from(paid_at.as_millis()).unwrap_or(u64::MAX);
        Self { whose, what, per_seconds: per.as_secs(), paid_at_ms }
    }
}

impl Engine {
    /// Keeps what is owed to budgets, if there may be any. `is_final`: at the stop, when nothing is sent any
    /// more. Blocks on the disk.
    pub fn save_dues(&self, is_final: bool) {
        let rates = self.owed(is_final);
        if rates.is_empty() && !self.settings().has_rates() && !self.spent.note.has_some() {
            return;
        }
        if let Err(error) = self.spent.keep(&Kept { is_final, rates }) {
            tracing::warn!(%error, "what is used up of budgets cannot be kept over a restart");
        }
    }

    /// By all budgets, or by those that may owe anything still when the file is written again.
    fn owed(&self, is_all: bool) -> Vec<Stored> {
        let now = self.clock.now();
        let wall = self.clock.wall_at(now);
        // Before those that are there: what is made meanwhile is not missed, but found twice.
        let mut found = self.dues.pending(now, wall);
        let mut note = |budget: &Budget, whose: Whose| {
            for (Part { what, per, .. }, owed) in budget.unpaid(now) {
                if !owed.is_zero() && (is_all || per >= LONG || owed >= LATER) {
                    found.push(Stored::new(whose.clone(), (what, per), wall + owed));
                }
            }
        };
        if let Some(budget) = self.gates.global().budget.load().as_deref() {
            note(budget, Whose::Everything);
        }
        let sources = self.sources.load_full();
        for (index, source, _) in sources.sources() {
            if let Some(budget) = self.gates.of(index).and_then(|gate| gate.budget.load_full()) {
                note(&budget, Whose::Source((*source.name).into()));
            }
        }
        for tenant in self.tenants.all() {
            if let Some(purse) = tenant.purse.load_full() {
                purse.budget.iter().for_each(|budget| note(budget, Whose::Tenant(tenant.name.clone())));
            }
            for (campaign, purse) in tenant.campaign_purses() {
                let whose = || Whose::Campaign(tenant.name.clone(), campaign.clone());
                purse.budget.iter().for_each(|budget| note(budget, whose()));
            }
        }
        let tenants: HashMap<usize, Box<str>> =
            self.tenants.all().iter().map(|tenant| (tenant.key, tenant.name.clone())).collect();
        for site in self.all_sites() {
            let name = || Box::<str>::from(&*site.name);
            let state = site.state.lock();
            state.budget.iter().for_each(|budget| note(budget, Whose::Site(name())));
            for origin in &state.origins {
                if let (Some(budget), Some(source)) = (&origin.budget, sources.source(origin.source)) {
                    note(budget, Whose::SourceSite((*source.name).into(), name()));
                }
            }
            for (key, purse) in state.purses.iter() {
                if let (Some(budget), Some(tenant)) = (&purse.budget, tenants.get(&key)) {
                    note(budget, Whose::TenantSite(tenant.clone(), name()));
                }
            }
        }
        found
    }
}

//! Learnt limits as people see them: the admin interface serializes it.

use serde::Serialize;

use crate::limit::controller::What;
use crate::state::{Pin, Pinned};

use super::learning::Told;

/// Which paths are asked about; a path is one egress source at one site.
#[derive(Clone, Debug, Default)]
pub struct PathFilter {
    /// Only at this site, or the one that mail of this domain goes to.
    pub site: Option<String>,
    /// Only from this source.
    pub source: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// What a site is sent at most from one source, as learnt.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PathLimits {
    /// The egress source.
    pub source: String,
    /// The site.
    pub site: String,
    /// False: nothing has left lately; it is what goes on when something does.
    pub is_in_memory: bool,
    /// `start` (no limit is known), `hold` (below the measured limit) or `probe` (above it, for a try).
    pub phase: &'static str,
    /// Messages a minute allowed now; none: no limit.
    pub rate_per_minute: Option<f64>,
    /// Messages a minute that the receiver was measured to allow; none: not known.
    pub limit_per_minute: Option<f64>,
    /// Connections allowed now.
    pub connections: u32,
    /// Connections open or being opened.
    pub used_connections: u32,
    /// Connections that the receiver was found to allow; none: not known.
    pub connection_limit: Option<u32>,
    /// Messages over one connection; none: no limit.
    pub messages_per_connection: Option<u32>,
    /// Messages a clock hour that the receiver was found to allow; none: not known.
    pub hourly_cap: Option<u32>,
    /// Nothing goes for so long.
    pub paused_seconds: Option<f64>,
    /// The pause is a rest: the receiver refused us as such.
    pub is_resting: bool,
    /// What operators have set.
    pub pins: Vec<PinView>,
    /// The last change since the daemon started.
    pub last_change: Option<ChangeView>,
    /// When something changed or went, in seconds since 1970.
    pub active_at: u64,
}

/// A pin.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PinView {
    /// Of what.
    pub limit: &'static str,
    /// From which source; none: from each that has no pin of its own.
    pub source: Option<String>,
    /// Not below this: a rate in messages a minute, or a number.
    pub least: Option<f64>,
    /// Not above this.
    pub most: Option<f64>,
    /// Who set it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, in seconds since 1970.
    pub placed_at: u32,
}

impl PinView {
    pub(super) fn of(pin: &Pin) -> Self {
        Self {
            limit: pin.limit.what().as_str(),
            source: pin.source.as_deref().map(str::to_owned),
            least: pin.least,
            most: pin.most,
            by: pin.by.to_string(),
            reason: pin.reason.to_string(),
            placed_at: pin.placed_at,
        }
    }
}

/// A change of a limit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChangeView {
    /// By which it is undone; counts changes since the daemon started.
    pub id: u32,
    /// When, in seconds since 1970.
    pub at: u64,
    /// From which egress source; `*`: from every one, at a site without any in memory.
    pub source: String,
    /// Where.
    pub site: String,
    /// Of what.
    pub limit: &'static str,
    /// What it was; none: no limit.
    pub from: Option<f64>,
    /// What it is; none: no limit.
    pub to: Option<f64>,
    /// Why, with the reply that caused it.
    pub reason: String,
    /// An operator has set or ended a pin: `unpin` ends it, not `undo`.
    pub is_pin: bool,
}

impl ChangeView {
    pub(super) fn of(told: &Told) -> Self {
        Self {
            id: told.id,
            at: told.at.as_secs(),
            source: told.source.to_string(),
            site: told.site.to_string(),
            limit: told.change.what.as_str(),
            from: told.change.from,
            to: told.change.to,
            reason: told.change.reason.clone(),
            is_pin: told.is_pin,
        }
    }
}

/// A pin that was set, or those that were ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Repinned {
    /// The site.
    pub site: String,
    /// The pins that were set or ended.
    pub pins: Vec<PinView>,
    /// Paths in memory that go by it at once; for the others it holds when something leaves.
    pub paths: usize,
    /// What has changed.
    pub changes: Vec<ChangeView>,
}

/// What is to be forgotten: the body of `/v1/limits/reset`.
#[derive(Clone, Debug)]
pub struct Reset {
    /// Of this site, or the one that mail of this domain goes to.
    pub site: String,
    /// From this source; none: from each.
    pub source: Option<String>,
    /// Of this; none: everything.
    pub limit: Option<What>,
    /// Who asks.
    pub by: String,
}

/// What was forgotten.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Forgotten {
    /// The site.
    pub site: String,
    /// Paths in memory that begin anew.
    pub paths: usize,
    /// Paths of which something was kept for the next time.
    pub kept: usize,
    /// What has changed.
    pub changes: Vec<ChangeView>,
}

/// Which pins are to be ended.
#[derive(Clone, Debug)]
pub struct Unpin {
    /// Of this site, or the one that mail of this domain goes to.
    pub site: String,
    /// From this source; none: every one.
    pub source: Option<String>,
    /// Of this; none: all.
    pub limit: Option<Pinned>,
    /// Who asks.
    pub by: String,
}

/// Why a change cannot be taken back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UndoError {
    /// It is not remembered.
    #[error("no change {0} is remembered")]
    Unknown(u32),
    /// It is a pin.
    #[error("change {0} is a pin's")]
    Pin(u32),
    /// It ended a rest, which is over.
    #[error("change {0} ended a rest, which is over")]
    Over(u32),
    /// It was taken back before.
    #[error("change {0} is undone already")]
    Done(u32),
    /// Its path is not in memory.
    #[error("nothing has left from {source_name} to {site} lately: the limit is not in use")]
    Unused {
        /// From which egress source.
        source_name: String,
        /// Where.
        site: String,
    },
}

/// For which mail the limits are to be explained.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The recipient's domain, lower case.
    pub domain: String,
    /// Whose mail; none: scopes of tenants are left out.
    pub tenant: Option<String>,
    /// Of which campaign.
    pub campaign: Option<String>,
    /// From this egress source; none: from those that such mail leaves from.
    pub source: Option<String>,
}

/// The limits of some mail.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explained {
    /// The recipient's domain.
    pub domain: String,
    /// The site that its mail goes to.
    pub site: String,
    /// Egress sources that it may leave from, if its sender's domain has no pool of its own.
    pub sources: Vec<String>,
    /// Every limit that applies: all of them must have room.
    pub limits: Vec<ScopeLimit>,
}

/// One limit of one scope.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ScopeLimit {
    /// `global`, `source`, `site`, `source at site`, `warm-up`, `tenant`, `tenant at site` or `campaign`.
    pub scope: &'static str,
    /// Which one.
    pub of: String,
    /// What is limited; `anything`: this scope limits nothing.
    pub what: &'static str,
    /// To how much; none: no limit.
    pub most: Option<f64>,
    /// In this time; none: at the same time, or of each.
    pub per_seconds: Option<f64>,
    /// Who set it; empty: nobody.
    pub set_by: String,
    /// How much is in use, where that is counted.
    pub used: Option<u64>,
    /// How much may go now, where that is counted.
    pub room: Option<u64>,
    /// When something may go: 0: now.
    pub room_in_seconds: Option<f64>,
    /// What a learnt limit waits for.
    pub waits_for: Option<&'static str>,
}

/// Why limits cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// A campaign is a tenant's.
    #[error("a campaign is a tenant's: the tenant is missing")]
    Campaign,
    /// There is no such egress source.
    #[error("there is no egress source {0:?}")]
    Source(String),
    /// Nobody knows where the mail goes.
    #[error("mail for {0} has no delivery plan: {1}")]
    Plan(String, String),
}

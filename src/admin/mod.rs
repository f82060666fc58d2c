//! The admin interface: HTTP and JSON on a Unix socket and over TCP, and the Prometheus listener.
//!
//! The daemon binds with [`bind_unix`], then runs [`serve_unix`], [`serve_tcp`] and [`serve_metrics`] until they are
//! cancelled.
//! The command line is a client of the same interface, so whatever it shows a program can read too:
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 while the process works |
//! | `/readyz` | 200 while messages are accepted and recovery has not failed, else 503 with the reason |
//! | `/v1/status` | [`Status`] |
//! | POST `/v1/reload` | [`Reloaded`]: what the configuration file, read again, has changed; 422 and 409: nothing |
//! | `/v1/spool` | [`Stat`] |
//! | `/v1/places` | [`Places`] |
//! | `/v1/queue` | [`crate::queue::View`]: counts by site and tenant |
//! | `/v1/queue/site?name=` | [`crate::queue::view::SiteDetail`]: one site, by its name or a domain that goes to it |
//! | `/v1/pools` | [`crate::queue::view::Pools`]: connections by source and MX set |
//! | `/v1/queue/entries?domain=&...&in_doubt=&limit=` | [`crate::queue::EntryView`]s that match a [`crate::state::Selection`] |
//! | `/v1/queue/count?domain=&...` | [`crate::queue::Counts`] of them |
//! | POST `/v1/queue/flush` | [`Flush`]: [`crate::queue::Flushed`] |
//! | `/v1/orders`, `/v1/orders/ID` | [`crate::queue::OrderView`]s |
//! | POST `/v1/orders` | [`crate::state::Request`]: [`crate::queue::Placed`] |
//! | DELETE `/v1/orders/ID` | [`crate::queue::Undone`] |
//! | `/v1/limits?site=&source=&limit=` | [`crate::queue::limit_views::PathLimits`]: what is learnt |
//! | `/v1/limits/history?site=&source=&limit=` | [`crate::queue::limit_views::ChangeView`]s, the newest first |
//! | `/v1/limits/explain?address=&tenant=&campaign=&source=` | [`crate::queue::limit_views::Explained`] |
//! | POST `/v1/limits/pin` | [`crate::state::PinRequest`]: [`crate::queue::limit_views::Repinned`] |
//! | POST `/v1/limits/unpin` | [`UnpinRequest`]: [`crate::queue::limit_views::Repinned`] |
//! | POST `/v1/limits/reset` | [`ResetRequest`]: [`crate::queue::limit_views::Forgotten`] |
//! | POST `/v1/limits/undo` | [`UndoRequest`]: [`crate::queue::limit_views::ChangeView`]s |
//! | `/v1/warmup?source=&provider=` | [`crate::queue::warmup_views::WarmupView`]s |
//! | POST `/v1/warmup/pause`, POST `/v1/warmup/resume` | [`SteerRequest`]: [`crate::queue::warmup_views::WarmupView`] |
//! | `/v1/suppression?domain=&tenant=&reason=&limit=` | [`EntryView`]s, the newest first |
//! | `/v1/suppression/show?target=&tenant=&class=` | [`Shown`]: what stands against somebody |
//! | `/v1/suppression/stats` | [`StatsView`] |
//! | POST `/v1/suppression/add` | [`AddRequest`]: [`Changed`] |
//! | POST `/v1/suppression/remove` | [`RemoveRequest`]: [`Changed`] |
//! | POST `/v1/suppression/import?tenant=&class=&reason=&until=&source=&by=` | lines of a list: [`ImportLine`]s, as it goes on |
//! | POST `/v1/suppression/export` | [`ExportRequest`]: lines of the list |
//! | `/v1/message/ID` | [`MessageView`] |
//!
//! Errors are [`Problem`]s: what is wrong and what to do. The socket is mode 0600: whoever may open it may do
//! everything. Over TCP a request needs a token ([`Tokens`]) whose [`Role`] the endpoint takes ([`endpoints()`]). Nothing
//! here is on a message's path.

mod control;
mod endpoints;
mod error;
mod guard;
mod health;
mod limits;
mod message_view;
mod orders;
mod overview;
mod queue_view;
mod reveal;
mod role;
mod server;
mod socket;
pub(crate) mod stream;
mod suppression;
mod tls_reports;
pub mod tokens;
mod trouble;
mod veil;
mod warmup;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::audit::{self, Audit};
use crate::clock::Clock;
use crate::journal::Journal;
use crate::mask::Mask;
use crate::panics::Bulkhead;
use crate::pulse::Standstill;
use crate::queue::Queue;
use crate::queue::view::{Outline, Totals};
use crate::spool::{Spool, Stat};
use crate::state::suppression::Suppression;
use crate::tlsrpt::Tally;
use crate::users::Users;

pub use control::{Change, Control, Drain, Draining, Left, Reload, ReloadRefused, Reloaded};
pub use endpoints::{Endpoint, endpoints};
pub use error::Problem;
pub use limits::{ResetRequest, UndoRequest, UnpinRequest};
pub use message_view::{MessageView, RecipientView};
pub use orders::Flush;
pub use overview::Process;
pub use reveal::{RevealRequest, Revealed};
pub use role::{NoRole, Role};
pub use server::{TcpDoor, serve_metrics, serve_tcp, serve_unix};
pub use socket::{AdminSocket, bind_unix};
pub use suppression::{
    AddRequest, ChangeView, Changed, EntryView, ExportRequest, ImportLine, NewEntry, RemoveRequest, Share, Shown,
    StatsView,
};
pub use tokens::Tokens;
pub use trouble::Trouble;
pub use warmup::{LONGEST as LONGEST_PAUSE, SteerRequest};

/// Where the socket is unless something else is configured.
pub const DEFAULT_SOCKET: &str = "/run/hikyaku/admin.sock";
/// So many searches of the suppression list go on at a time.
pub const SEARCHES: usize = 4;
/// No request of this interface has a body of note.
const LARGEST_BODY: usize = 64 << 10;

/// What the interface shows; made by the daemon.
#[derive(Clone, Debug)]
pub struct State {
    /// What time it is.
    pub clock: Clock,
    /// The daemon as a whole.
    pub control: Control,
    /// When it started.
    pub started: Instant,
    /// Where its files are.
    pub places: Places,
    /// What is kept.
    pub spool: Spool,
    /// What is to be delivered.
    pub queue: Queue,
    /// What happened to recipients.
    pub journal: Journal,
    /// How addresses are shown in it, and here to roles below admin.
    pub mask: Mask,
    /// Who may authenticate.
    pub users: Users,
    /// Who may use this interface over TCP.
    pub tokens: Tokens,
    /// What was changed, and by whom.
    pub audit: Audit,
    /// Who gets no mail.
    pub suppression: Suppression,
    /// A permit for each who may search it at a time: a search holds a segment in memory.
    pub searches: Arc<Semaphore>,
    /// How TLS sessions went.
    pub tally: Tally,
    /// Panics caught since the start.
    pub panics: Arc<AtomicU64>,
    /// Parts that do not move.
    pub still: Standstill,
    /// Around whoever answers.
    pub wall: Bulkhead,
    /// Cancelled by the daemon when it begins to stop.
    pub stopping: CancellationToken,
}

/// Where a daemon's files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// The spool's directory.
    pub spool: PathBuf,
    /// The journal's; none: it keeps none.
    pub journal: Option<PathBuf>,
}

/// The daemon at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its name.
    pub hostname: String,
    /// Of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Since it started.
    pub uptime_seconds: u64,
    /// `accepting`, `recovering` (and accepting), `refusing` or `draining`.
    pub state: &'static str,
    /// What is wrong, the worst first; empty when all is well.
    pub problems: Vec<Trouble>,
    /// Why messages are better sent elsewhere; absent when they are welcome.
    pub not_ready: Option<String>,
    /// What a stop still waits for; absent unless one is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draining: Option<Draining>,
    /// What is to be delivered, counted.
    pub queue: Totals,
    /// Rates, and what holds mail up.
    pub outline: Outline,
    /// The spool in numbers.
    pub spool: Stat,
    /// What the process takes from its machine.
    pub process: Process,
    /// The end of the audit log.
    pub audit: audit::State,
}

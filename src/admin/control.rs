//! What is told to the daemon as a whole: take on the configuration file again; and what it tells of itself.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::State;
use super::error::Refusal;

/// The daemon's side of a reload that was asked for: it takes one after the other and answers each.
pub type Reload = oneshot::Sender<Result<Reloaded, ReloadRefused>>;

/// What the daemon as a whole shows, and can be asked for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Control {
    /// Its own name; written by a reload.
    pub hostname: Arc<Mutex<Arc<str>>>,
    /// Why the last reload failed; written by each.
    pub reload_failure: Arc<Mutex<Option<String>>>,
    /// What is wrong with certificates; written by what watches them.
    pub certificates: Arc<Mutex<Vec<String>>>,
    /// Takes requests for a reload; none: it was not started from a file.
    pub reload: Option<mpsc::Sender<Reload>>,
    /// Set once, when it begins to stop.
    pub drain: Arc<OnceLock<Drain>>,
}

/// A stop that is under way.
#[derive(Debug)]
pub struct Drain {
    /// What is not finished then is given up.
    pub until: Instant,
    /// What is still to be waited for.
    pub left: Box<dyn Left>,
}

/// What a stop waits for; implemented by the daemon.
pub trait Left: std::fmt::Debug + Send + Sync {
    /// Submission sessions.
    fn sessions(&self) -> usize;
    /// Connections to receivers.
    fn connections(&self) -> usize;
    /// Transactions under way and DSNs being stored.
    fn in_flight(&self) -> usize;
}

/// A stop that is under way, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Draining {
    /// Until what is not finished is given up.
    pub seconds_left: u64,
    /// Submission sessions.
    pub sessions: usize,
    /// Connections to receivers.
    pub connections: usize,
    /// Transactions under way and DSNs being stored.
    pub in_flight: usize,
}

impl Control {
    /// Of a daemon that is called `hostname`.
    pub fn new(hostname: Arc<str>, reload: Option<mpsc::Sender<Reload>>) -> Self {
        Self {
            hostname: Arc::new(Mutex::new(hostname)),
            reload_failure: Arc::default(),
            certificates: Arc::default(),
            reload,
            drain: Arc::default(),
        }
    }

    /// What is left of the stop that is under way.
    pub fn draining(&self) -> Option<Draining> {
        let drain = self.drain.get()?;
        Some(Draining {
            seconds_left: drain.until.saturating_duration_since(Instant::now()).as_secs(),
            sessions: drain.left.sessions(),
            connections: drain.left.connections(),
            in_flight: drain.left.in_flight(),
        })
    }
}

/// What a reload did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// The configuration file.
    pub file: String,
    /// Options that hold from now on.
    pub changed: Vec<Change>,
    /// Options that differ in the file but hold only after a restart.
    pub needs_restart: Vec<Change>,
    /// What holds and will not do what it should on this machine.
    pub warnings: Vec<String>,
}

/// One option, or one item of a list, that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The option, in dotted form.
    pub key: String,
    /// Its value before, as TOML; absent: there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// Its value in the file; absent: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
}

/// Why a reload changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadRefused {
    /// The file cannot be read or used: 422. The text names file and key.
    File(String),
    /// Something that it asks for cannot be had now, for example an address to listen on: 409.
    Unavailable(String),
}

/// Has the daemon read its file again.
pub(super) async fn reload(Shared(state): Shared<State>) -> Result<Json<Reloaded>, Refusal> {
    let stopping = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping", "start it again");
    let Some(requests) = &state.control.reload else {
        let hint = "start it by `hikyaku run --config FILE`";
        return Err(Refusal::new(StatusCode::CONFLICT, "this daemon was not started from a file", hint));
    };
    let (answer, answered) = oneshot::channel();
    requests.send(answer).await.map_err(|_| stopping())?;
    match answered.await.map_err(|_| stopping())? {
        Ok(reloaded) => Ok(Json(reloaded)),
        Err(ReloadRefused::File(text)) => {
            let hint = "nothing was changed; `hikyaku check` tells everything that is wrong with a file";
            Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, text, hint))
        }
        Err(ReloadRefused::Unavailable(text)) => Err(Refusal::new(StatusCode::CONFLICT, text, "nothing was changed")),
    }
}

//! Users and tokens: their files read at the start, at a reload and when it has changed, and what they have sent written down.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::admin::tokens::{self, Tokens};
use crate::audit::Audit;
use crate::clock::Clock;
use crate::config::Config;
use crate::metrics::Registry;
use crate::panics::Bulkhead;
use crate::state::Note;
use crate::trusted::watched::LOOK_EVERY;
use crate::users::{self, Prepared, Users};

use super::{Error, settings};

/// How often what users have sent is written down, if it has changed: a crash gives them back at most so much.
const NOTE_EVERY: Duration = Duration::from_secs(10);

/// Reads the users file that a configuration names, where it holds nobody up.
pub(super) async fn prepare(config: &Config) -> Result<Prepared, Error> {
    let (path, policy) = (config.users.path().map(ToOwned::to_owned), settings::sender_policy(config));
    let reading = tokio::task::spawn_blocking(move || users::prepare(path.as_deref(), policy));
    Ok(reading.await.map_err(|error| Error::Thread(error.into()))??)
}

/// Reads the tokens' file that a configuration names, where it holds nobody up.
pub(super) async fn prepare_tokens(config: &Config) -> Result<tokens::Prepared, Error> {
    let (path, networks) = (config.admin.tokens_path().map(ToOwned::to_owned), config.admin.networks.clone());
    let reading = tokio::task::spawn_blocking(move || tokens::prepare(path.as_deref(), &networks));
    Ok(reading.await.map_err(|error| Error::Thread(error.into()))??)
}

/// Makes the users of a file, with what they have sent today.
pub(super) fn begin(prepared: Prepared, note: &Note, clock: Clock, registry: &Registry) -> Result<Users, Error> {
    let users = Users::new(prepared, clock, registry)?;
    if let Some(content) = note.read() {
        users.allowances().restore(&content);
    }
    Ok(users)
}

/// Reads the files again when they have changed, and writes down what users have sent, until `stop`.
pub(super) async fn watch(
    users: Users,
    tokens: Tokens,
    audit: Audit,
    note: Note,
    registry: Registry,
    stop: CancellationToken,
) {
    let wall = Bulkhead::new(&registry, "users");
    let mut written = users.allowances().note();
    let mut written_at = Instant::now();
    loop {
        if stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
        let is_due = written_at.elapsed() >= NOTE_EVERY;
        let (own, note, behind) = (users.clone(), note.clone(), wall.clone());
        let (tokens, audit) = (tokens.clone(), audit.clone());
        let before = written.clone();
        let turn = move || {
            look(&own, &tokens, &audit);
            let text = own.allowances().note();
            if is_due && text != before && write_down(&own, &note) { text } else { before }
        };
        if let Ok(Ok(text)) = tokio::task::spawn_blocking(move || behind.call(turn)).await {
            written = text;
        }
        if is_due {
            written_at = Instant::now();
        }
    }
}

/// Reads both files again if they have changed; that goes on record. Blocks on the disk.
pub(super) fn look(users: &Users, tokens: &Tokens, audit: &Audit) {
    match users.look() {
        Some(Ok((before, after))) => audit.note("users.read", json!({ "users_before": before, "users": after })),
        Some(Err(error)) => audit.note("users.refused", json!({ "error": error })),
        None => {}
    }
    match tokens.look() {
        Some(Ok(changes)) => audit.note("tokens.read", json!(changes)),
        Some(Err(error)) => audit.note("tokens.refused", json!({ "error": error })),
        None => {}
    }
}

/// Writes down what users have sent today. Blocks on the disk.
pub(super) fn write_down(users: &Users, note: &Note) -> bool {
    let written = note.replace(&users.allowances().note());
    if let Err(error) = &written {
        tracing::warn!(%error, "what users have sent today cannot be written down");
    }
    written.is_ok()
}

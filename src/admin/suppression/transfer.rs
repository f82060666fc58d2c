//! Whole lists, in and out, as they come: neither is ever in memory as a whole. A client that goes away ends the work behind what it
//! has stored, and the audit log has how far it was.

use std::io;

use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State as Shared};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{State, filter, reason, scope, until, wrong};
use crate::admin::Problem;
use crate::admin::error::Refusal;
use crate::admin::guard::{Ledger, Peer};
use crate::admin::limits::who;
use crate::admin::server::{Streamed, Works};
use crate::admin::stream::{Inlet, Outlet, Piece, pipe, pump};
use crate::clock::UnixTime;
use crate::journal::{self, Event, SuppressionChange};
use crate::state::suppression::{Counts, Defaults, Filter, ImportError, Imported, Reason, Suppression, Target};

/// Octets that are handed over at a time.
const PIECE: usize = 64 << 10;

/// What an import's lines do not say: its query.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::admin) struct Asked {
    tenant: String,
    class: String,
    reason: String,
    source: String,
    until: Option<u32>,
    by: String,
}

/// Which entries are exported: the body of `/v1/suppression/export`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExportRequest {
    /// About this domain or a mailbox of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Of this tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// For this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A line of the answer to an import. The last one is `Done` or `Failed`: an answer without it has broken off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImportLine {
    /// A line of the list that is no entry.
    Bad {
        /// Its number, from 1 on.
        line: u64,
        /// What is wrong with it.
        error: String,
    },
    /// So much is on stable storage.
    Progress(Counts),
    /// All of it is.
    Done(Counts),
    /// It went no further.
    Failed {
        /// Why.
        #[serde(flatten)]
        problem: Problem,
        /// What is on stable storage, and stays.
        counts: Counts,
    },
}

/// Lines of the answer, on their way.
struct Telling {
    out: Inlet,
    waiting: Vec<u8>,
}

impl Telling {
    fn put(&mut self, line: &ImportLine) {
        // Neither can fail: it is a vector that is written to, and every key is a text.
        let _ = serde_json::to_writer(&mut self.waiting, line);
        self.waiting.push(b'\n');
    }

    /// Hands over what waits. Whoever does not take it any more has gone away, which ends the lines that are read, too.
    fn hand_over(&mut self) {
        let _ = self.out.blocking_send(Ok(Piece::Octets(std::mem::take(&mut self.waiting).into())));
    }
}

/// Reads lines as they come, and tells of them as it goes on.
pub(in crate::admin) async fn import(
    Shared(state): Shared<State>,
    Extension(peer): Extension<Peer>,
    Extension(ledger): Extension<Ledger>,
    Extension(works): Extension<Works>,
    asked: Result<Query<Asked>, QueryRejection>,
    body: Body,
) -> Result<Response, Refusal> {
    let no_default =
        |rejection: QueryRejection| wrong(rejection.body_text(), "say tenant, class, reason, until, source, by");
    let Query(asked) = asked.map_err(no_default)?;
    let (who, now) = (who(&asked.by, peer)?, state.clock.wall());
    let defaults = Defaults {
        scope: scope(&asked.tenant, &asked.class)?,
        reason: if asked.reason.is_empty() { Reason::Import } else { reason(&asked.reason)? },
        until: until(asked.until, now)?,
        source: if asked.source.is_empty() { who.as_str().into() } else { asked.source.as_str().into() },
    };
    let ((inlet, lines), (out, answer)) = (pipe(), pipe());
    works.begin(async move {
        let (list, wall, answer) = (state.suppression.clone(), state.wall.clone(), out.clone());
        let (of_lines, told) = (defaults.clone(), Telling { out: answer, waiting: Vec::new() });
        let work = tokio::task::spawn_blocking(move || wall.call(|| read(&list, lines, &of_lines, now, told)));
        let ((), worked) = tokio::join!(pump(body, inlet, state.stopping.clone()), work);
        let (counts, failure) = match worked {
            Ok(Ok(Ok(counts))) => (counts, None),
            Ok(Ok(Err(error))) => (error.counts(), Some(failed(&error))),
            Ok(Err(_)) | Err(_) => (Counts::default(), Some(panicked())),
        };
        tell(&state.journal, &defaults, &counts, &who);
        let outcome = failure.as_ref().map_or(Ok(()), |problem| Err(problem.error.clone()));
        let failure = match ledger.close(outcome, json!(counts)).await {
            Err(error) if failure.is_none() => Some(unrecorded(&error)),
            _ => failure,
        };
        let last = match failure {
            None => ImportLine::Done(counts),
            Some(problem) => ImportLine::Failed { problem, counts },
        };
        let mut line = serde_json::to_vec(&last).unwrap_or_default();
        line.push(b'\n');
        // A client that is gone needs no answer.
        let _ = out.send(Ok(Piece::Octets(line.into()))).await;
        let _ = out.send(Ok(Piece::End)).await;
    });
    Ok((Extension(Streamed), [(CONTENT_TYPE, "application/x-ndjson")], Body::new(answer)).into_response())
}

fn read(
    list: &Suppression,
    mut lines: Outlet,
    defaults: &Defaults,
    now: UnixTime,
    mut telling: Telling,
) -> Result<Counts, ImportError> {
    let imported = list.import(&mut lines, defaults, now, &mut |told| match told {
        Imported::Bad(line, error) => {
            telling.put(&ImportLine::Bad { line, error: error.to_string() });
            if telling.waiting.len() >= PIECE {
                telling.hand_over();
            }
        }
        Imported::Progress(counts) => {
            telling.put(&ImportLine::Progress(*counts));
            telling.hand_over();
        }
    });
    if !telling.waiting.is_empty() {
        telling.hand_over();
    }
    imported
}

fn problem(error: impl ToString, hint: &str) -> Problem {
    Problem { error: error.to_string(), hint: Some(hint.to_owned()) }
}

fn failed(error: &ImportError) -> Problem {
    let hint = match error {
        ImportError::Read { .. } => {
            "what was read is stored; import it again from the first line: what stands writes nothing"
        }
        ImportError::Store { .. } => "see to the spool's disk, and import it again: what stands writes nothing",
    };
    problem(error, hint)
}

fn panicked() -> Problem {
    problem("the daemon has a bug: its log has the place", "import it again: what stands writes nothing")
}

fn unrecorded(error: &io::Error) -> Problem {
    let told = format!("it was done, but its outcome could not be written to the audit log: {error}");
    problem(told, "that it was begun is on record; see to the disk of `admin.audit`")
}

/// One event for all lines: what each of them said is in the list.
fn tell(journal: &journal::Journal, defaults: &Defaults, counts: &Counts, who: &str) {
    let (tenant, class) = defaults.scope.names();
    let added = counts.added + counts.replaced;
    let target = journal::Suppressed::Imported { lines: counts.lines, added, bad: counts.bad };
    let (reason, source) = (defaults.reason.as_str(), &*defaults.source);
    let change =
        SuppressionChange { action: "import", target, tenant, class, reason, until: defaults.until, source, who };
    journal.tell(&Event::Suppression(change));
}

/// Gives entries as lines that an import reads, in the order of the log.
pub(in crate::admin) async fn export(
    Shared(state): Shared<State>,
    Extension(ledger): Extension<Ledger>,
    Extension(works): Extension<Works>,
    request: Result<Json<ExportRequest>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(ExportRequest { domain, tenant, reason }) = request?;
    let filter = filter(domain.as_deref(), tenant.as_deref(), reason.as_deref())?;
    let (out, answer) = pipe();
    works.begin(async move {
        let (list, wall, now) = (state.suppression.clone(), state.wall.clone(), state.clock.wall());
        let (stop, lines) = (state.stopping.clone(), out.clone());
        let work = tokio::task::spawn_blocking(move || wall.call(|| write(&list, &filter, now, &lines, &stop)));
        let (given, failure) = match work.await {
            Ok(Ok((given, written))) => (given, written.err()),
            Ok(Err(_)) | Err(_) => (0, Some(io::Error::other("the export panicked"))),
        };
        let outcome = failure.as_ref().map_or(Ok(()), |error| Err(error.to_string()));
        let recorded = ledger.close(outcome, json!({ "entries": given })).await;
        // Without its end an answer has broken off: nobody takes a part of the list for the whole.
        let last = failure.or(recorded.err()).map_or(Ok(Piece::End), Err);
        let _ = out.send(last).await;
    });
    let kind = [(CONTENT_TYPE, "text/tab-separated-values; charset=utf-8")];
    Ok((Extension(Streamed), kind, Body::new(answer)).into_response())
}

/// Hands lines over until the end; and how many of them.
fn write(
    list: &Suppression,
    filter: &Filter,
    now: UnixTime,
    out: &Inlet,
    stop: &CancellationToken,
) -> (u64, io::Result<()>) {
    let (mut lines, mut given, mut has_hashes) = (String::with_capacity(PIECE), 0, false);
    let hand_over = |lines: &mut String| {
        let piece = Piece::Octets(std::mem::take(lines).into());
        out.blocking_send(Ok(piece)).map_err(|_| io::Error::other("the client went away"))
    };
    let mut put = || {
        for entry in list.entries(now) {
            if stop.is_cancelled() {
                return Err(io::Error::other("the daemon is being stopped"));
            }
            let entry = entry?;
            if !filter.takes(&entry) {
                continue;
            }
            if matches!(entry.target, Target::Hash(_)) && !std::mem::replace(&mut has_hashes, true) {
                lines += &list.hashes_line();
            }
            entry.put_line(&mut lines);
            given += 1;
            if lines.len() >= PIECE {
                hand_over(&mut lines)?;
            }
        }
        hand_over(&mut lines)
    };
    let written = put();
    (given, written)
}

//! Masked addresses, shown to who may see them. Who looked, at what and why is in the audit log; what was shown is not.

use axum::extract::State as Shared;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::State;
use super::error::Refusal;
use super::guard::Unrecorded;
use crate::mask::{Mask, MaskKey};
use crate::unseen::is_unseen;

/// Texts of one request.
const MOST_TEXTS: usize = 100;

/// Texts with masked addresses in them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevealRequest {
    /// Addresses, or lines of the journal.
    pub texts: Vec<String>,
    /// Why, for the audit log.
    pub reason: String,
}

/// What they say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Revealed {
    /// The texts, with every address that this daemon's key has masked.
    pub texts: Vec<String>,
    /// How many those were.
    pub revealed: usize,
    /// How many look like masked ones and were made with another key.
    pub foreign: usize,
}

impl Revealed {
    /// What a key reveals of texts.
    pub fn by(key: &MaskKey, texts: &[String]) -> Self {
        let mut out = Self { texts: Vec::with_capacity(texts.len()), revealed: 0, foreign: 0 };
        for text in texts {
            let (shown, own, others) = key.reveal_text(text);
            out.texts.push(shown);
            (out.revealed, out.foreign) = (out.revealed + own, out.foreign + others);
        }
        out
    }
}

/// Shows masked addresses.
pub(super) async fn reveal(
    Shared(state): Shared<State>,
    request: Result<Json<RevealRequest>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(RevealRequest { texts, reason }) = request?;
    if reason.trim().is_empty() {
        let hint = "it is written into the audit log: `--reason TEXT`";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "a reason is needed", hint));
    }
    if reason.contains(is_unseen) {
        let told = "a reason with characters that are not seen";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, told, "whoever reads the audit log must see all of it"));
    }
    if texts.is_empty() || texts.len() > MOST_TEXTS {
        let told = format!("{} texts; allowed: 1 to {MOST_TEXTS}", texts.len());
        return Err(Refusal::new(StatusCode::BAD_REQUEST, told, "ask several times"));
    }
    let Mask::Hash(key) = &state.mask else {
        let hint = "only `privacy.mask = \"hash\"` can be turned back";
        return Err(Refusal::new(StatusCode::CONFLICT, "this daemon makes no tokens that could be revealed", hint));
    };
    let answer = Revealed::by(key, &texts);
    let told = Unrecorded(format!("{} revealed, {} made with another key", answer.revealed, answer.foreign));
    Ok((Extension(told), Json(answer)).into_response())
}

//! `hikyaku reveal`: masked addresses, shown by the daemon to who may see them, on record; or to who holds their key.

use std::path::Path;

use anyhow::{Context, anyhow};
use serde_json::Value;

use super::exit::{Exit, Failure};
use super::journal::{KeyFile, Place};
use super::patience::patiently;
use super::table::plain;
use super::{Remote, exit, out, print_json};
use crate::admin::{RevealRequest, Revealed};
use crate::journal::{EventId, Query, search};
use crate::mask::MaskKey;
use crate::trusted::key;

/// Options of `reveal`.
#[derive(Debug, clap::Args)]
pub(super) struct Reveal {
    /// Masked addresses (~TOKEN@DOMAIN), and ids of events in the journal, whose line is then shown with all its addresses
    #[arg(value_name = "TOKEN@DOMAIN|EVENT-ID", required = true)]
    what: Vec<String>,
    /// Why: for the audit log; needed unless there is --key-file
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    key: KeyFile,
    #[command(flatten)]
    remote: Remote,
}

/// What is to be shown.
enum Asked {
    Address(String),
    /// An event's line.
    Event(Value),
}

impl Reveal {
    pub(super) async fn execute(self) -> exit::Result {
        let mut asked = Vec::with_capacity(self.what.len());
        for what in &self.what {
            asked.push(match what.contains('@') {
                true => Asked::Address(what.clone()),
                false => Asked::Event(self.event(what).await?),
            });
        }
        let texts: Vec<String> = asked.iter().flat_map(Asked::texts).collect();
        let (revealed, by) = match &self.key.key_file {
            Some(path) => (with_key(path, &texts)?, path.display().to_string()),
            None => (self.of_daemon(texts.clone()).await?, "the daemon's key".to_owned()),
        };
        let mut shown = texts.iter().zip(revealed.texts);
        let mut lines = Vec::with_capacity(asked.len());
        for (asked, what) in asked.into_iter().zip(&self.what) {
            let told = asked.shown(&mut shown, revealed.foreign);
            lines.push(told.ok_or_else(|| {
                let text = format!("{} with {by}: not made with this key, or changed since", plain(what));
                Failure::usage(anyhow!(text))
            })?);
        }
        if self.remote.json {
            return print_json(&Value::from(lines));
        }
        for line in lines {
            out::line(plain(&line))?;
        }
        Ok(Exit::Ok)
    }

    async fn of_daemon(&self, texts: Vec<String>) -> Result<Revealed, Failure> {
        if self.reason.trim().is_empty() {
            let text =
                "--reason TEXT is needed: the audit log tells who looked and why (--key-file FILE asks no daemon)";
            return Err(Failure::usage(anyhow!(text)));
        }
        let request = RevealRequest { texts, reason: self.reason.clone() };
        let answer = patiently("waiting for the daemon", self.remote.client().post("/v1/reveal", &request)).await?;
        Ok(serde_json::from_value(answer)?)
    }

    /// The line of an event.
    async fn event(&self, what: &str) -> Result<Value, Failure> {
        let id: EventId =
            what.parse().context("neither TOKEN@DOMAIN nor the id of an event").map_err(Failure::usage)?;
        let folder = match self.key.key_file {
            Some(_) => self.place.usual()?,
            None => match self.remote.at.socket() {
                Some(socket) => self.place.folder(Some(&socket)).await?,
                None => self.place.usual()?,
            },
        };
        let query = Query { id: Some(id), limit: 1, ..Query::default() };
        let hits = search(&folder, &query, &mut |_| {}).with_context(|| folder.display().to_string())?;
        let none = || Failure::usage(anyhow!("{}: no such event in {}", plain(what), folder.display()));
        let line = hits.lines.first().ok_or_else(none)?;
        Ok(serde_json::from_slice(line)?)
    }
}

/// What the key of a file reveals.
fn with_key(path: &Path, texts: &[String]) -> Result<Revealed, Failure> {
    let secret = key::read(path).map_err(anyhow::Error::from).map_err(Failure::usage)?;
    let key = MaskKey::new(&secret).ok_or_else(|| anyhow!("this key cannot be used"))?;
    Ok(Revealed::by(&key, texts))
}

impl Asked {
    /// The texts that may have addresses in them.
    fn texts(&self) -> Vec<String> {
        match self {
            Self::Address(address) => vec![address.clone()],
            Self::Event(event) => {
                event.as_object().into_iter().flat_map(|fields| fields.values()).filter_map(masked).collect()
            }
        }
    }

    /// As it is shown, its texts being the next of `shown`; none if it was made with another key.
    fn shown<'a>(self, shown: &mut impl Iterator<Item = (&'a String, String)>, foreign: usize) -> Option<String> {
        match self {
            Self::Address(_) => shown.next().filter(|(masked, plain)| *masked != plain).map(|(_, plain)| plain),
            Self::Event(mut event) => {
                let mut has_changed = false;
                for field in event.as_object_mut().into_iter().flat_map(|fields| fields.values_mut()) {
                    if masked(field).is_some() {
                        let (before, after) = shown.next()?;
                        has_changed |= *before != after;
                        *field = Value::String(after);
                    }
                }
                (has_changed || foreign == 0).then(|| event.to_string())
            }
        }
    }
}

/// A field's text if it may have a masked address in it.
fn masked(field: &Value) -> Option<String> {
    field.as_str().filter(|text| text.contains('~') && text.contains('@')).map(str::to_owned)
}

//! `hikyaku reveal`: masked addresses, shown to who holds their key. Asks no daemon.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use serde_json::Value;

use super::check::DEFAULT_CONFIG;
use super::exit::{Exit, Failure};
use super::journal::Place;
use super::table::plain;
use super::{exit, out};
use crate::config::Config;
use crate::journal::{EventId, Query, search};
use crate::mask::MaskKey;
use crate::trusted::key;

/// Options of `reveal`.
#[derive(Debug, clap::Args)]
pub(super) struct Reveal {
    /// Masked addresses (~TOKEN@DOMAIN), and ids of events in the journal, whose line is then shown with all its addresses
    #[arg(value_name = "TOKEN@DOMAIN|EVENT-ID", required = true)]
    what: Vec<String>,
    #[command(flatten)]
    place: Place,
}

impl Reveal {
    pub(super) fn execute(self) -> exit::Result {
        let (path, secret) = self.key()?;
        let key = MaskKey::new(&secret).ok_or_else(|| anyhow!("this key cannot be used"))?;
        for what in &self.what {
            let shown = match what.contains('@') {
                true => key.reveal(what).map_err(anyhow::Error::from),
                false => self.event(what, &key),
            };
            let shown = shown.with_context(|| format!("{} with {}", plain(what), path.display()));
            out::line(format_args!("{}", plain(&shown.map_err(Failure::usage)?)))?;
        }
        Ok(Exit::Ok)
    }

    fn key(&self) -> Result<(PathBuf, key::Secret), Failure> {
        let path = match &self.place.key_file {
            Some(path) => path.clone(),
            None => {
                let file = self.place.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG));
                let path = Config::load(file).map_err(Failure::usage)?.privacy.key_file;
                if path.as_os_str().is_empty() {
                    let say = format!("{} names no privacy.key_file; --key-file FILE", file.display());
                    return Err(Failure::usage(anyhow!(say)));
                }
                path
            }
        };
        let secret = key::read(&path).map_err(anyhow::Error::from).map_err(Failure::usage)?;
        Ok((path, secret))
    }

    /// The line of an event, its addresses revealed.
    fn event(&self, what: &str, key: &MaskKey) -> anyhow::Result<String> {
        let id: EventId = what.parse().context("neither TOKEN@DOMAIN nor the id of an event")?;
        let folder = self.place.usual().map_err(|_| anyhow!("where the journal is, is not known: --path DIR"))?;
        let query = Query { id: Some(id), limit: 1, ..Query::default() };
        let hits = search(&folder, &query, &mut |_| {}).with_context(|| folder.display().to_string())?;
        let line = hits.lines.first().ok_or_else(|| anyhow!("no such event in {}", folder.display()))?;
        let mut value: Value = serde_json::from_slice(line)?;
        let (mut revealed, mut foreign) = (0, 0);
        for field in value.as_object_mut().into_iter().flat_map(|fields| fields.values_mut()) {
            if let Value::String(text) = field {
                let (shown, own, others) = key.reveal_text(text);
                (*text, revealed, foreign) = (shown, revealed + own, foreign + others);
            }
        }
        if foreign > 0 && revealed == 0 {
            return Err(anyhow!("its addresses were not made with this key, or changed since"));
        }
        Ok(value.to_string())
    }
}

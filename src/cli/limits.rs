//! `hikyaku limits`: what is learnt about receivers, what has changed and why, and how an operator steers it.

mod table;

use std::time::Duration;

use anyhow::anyhow;
use serde::Deserialize;
use serde_json::Value;

use super::client::escaped;
use super::exit::{Exit, Failure};
use super::orders::operator;
use super::patience::patiently;
use super::table::{plain, thousands};
use super::{Remote, exit, now, out, print_json};
use crate::admin::{ResetRequest, UndoRequest, UnpinRequest};
use crate::config::units::Rate;
use crate::state::{PinRequest, Pinned, check_text};
use table::{Change, Path, change_table, limit, path_table};

/// Sub-commands of `limits`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Limits {
    /// Show what is learnt at each site from each egress source, and the last change with its reason
    Show(Show),
    /// List what has changed since the daemon started, and why, the newest first
    History(Show),
    /// Set a limit that is learnt, or bounds for it, until it is unpinned
    Pin(Pin),
    /// End pins: what was learnt holds again
    Unpin(Unpin),
    /// Forget what was learnt: it begins anew
    Reset(Reset),
    /// Take changes back that were learnt: the limit is what it was before, and is learnt from there on
    Undo(Undo),
}

/// Which paths or changes.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Only at this site, or the one that mail of this domain goes to
    #[arg(long)]
    site: Option<String>,
    /// Only from this egress source
    #[arg(long)]
    source: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    remote: Remote,
}

/// Options of `limits pin`.
#[derive(Debug, clap::Args)]
pub(super) struct Pin {
    /// The site as `hikyaku sites` shows it, or a domain whose mail goes to it
    site: String,
    /// From this egress source [default: from each that has no pin of its own]
    #[arg(long)]
    source: Option<String>,
    /// Messages in time, such as 120/min; or bounds: 60/min..120/min, ..120/min, 60/min..
    #[arg(long, value_name = "RATE", value_parser = rates)]
    rate: Option<Range>,
    /// Connections at the same time, or bounds such as ..5
    #[arg(long, value_name = "N", value_parser = numbers)]
    connections: Option<Range>,
    /// Messages over one connection, or bounds such as 10..20
    #[arg(long, value_name = "N", value_parser = numbers)]
    messages_per_connection: Option<Range>,
    /// Why: shown by `limits show` and in the journal
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    remote: Remote,
}

/// Options of `limits unpin`.
#[derive(Debug, clap::Args)]
pub(super) struct Unpin {
    /// The site as `hikyaku sites` shows it, or a domain whose mail goes to it
    site: String,
    /// Only the pin of this egress source
    #[arg(long)]
    source: Option<String>,
    /// Only that of this limit
    #[arg(long, value_parser = pinned)]
    limit: Option<Pinned>,
    #[command(flatten)]
    remote: Remote,
}

/// Options of `limits reset`.
#[derive(Debug, clap::Args)]
pub(super) struct Reset {
    /// The site as `hikyaku sites` shows it, or a domain whose mail goes to it
    site: String,
    /// Only what was learnt from this egress source
    #[arg(long)]
    source: Option<String>,
    /// Only this: rate, connections, messages-per-connection, breaker or hourly-cap
    #[arg(long)]
    limit: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Options of `limits undo`.
#[derive(Debug, clap::Args)]
pub(super) struct Undo {
    /// Their ids, as `limits history` shows them
    #[arg(required = true)]
    ids: Vec<u32>,
    #[command(flatten)]
    remote: Remote,
}

/// A value, or bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    least: Option<f64>,
    most: Option<f64>,
}

fn range(text: &str, parse: impl Fn(&str) -> Result<f64, String>) -> Result<Range, String> {
    let some = |text: &str| if text.trim().is_empty() { Ok(None) } else { parse(text.trim()).map(Some) };
    let (least, most) = match text.split_once("..") {
        Some((least, most)) => (some(least)?, some(most)?),
        None => (some(text)?, some(text)?),
    };
    if least.is_none() && most.is_none() {
        return Err("it is neither a value nor a bound".to_owned());
    }
    Ok(Range { least, most })
}

fn rates(text: &str) -> Result<Range, String> {
    range(text, |text| {
        let rate: Rate = text.parse().map_err(|error: crate::config::units::UnitError| error.to_string())?;
        Ok(f64::from(rate.count) * Duration::from_secs(60).as_secs_f64() / rate.per.as_secs_f64())
    })
}

fn numbers(text: &str) -> Result<Range, String> {
    range(text, |text| text.parse::<u32>().map(f64::from).map_err(|error| error.to_string()))
}

fn pinned(text: &str) -> Result<Pinned, String> {
    let limits = [Pinned::Rate, Pinned::Connections, Pinned::MessagesPerConnection];
    let found = limits.into_iter().find(|limit| limit.what().as_str() == text);
    found.ok_or_else(|| "what can be pinned is rate, connections and messages-per-connection".to_owned())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Repinned {
    site: String,
    pins: Vec<table::Pin>,
    paths: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Forgotten {
    site: String,
    paths: u64,
    kept: u64,
    changes: Vec<Change>,
}

impl Limits {
    pub(super) async fn execute(self) -> exit::Result {
        match self {
            Self::Show(show) => show.paths().await,
            Self::History(show) => show.history().await,
            Self::Pin(pin) => pin.execute().await,
            Self::Unpin(unpin) => unpin.execute().await,
            Self::Reset(reset) => reset.execute().await,
            Self::Undo(undo) => undo.execute().await,
        }
    }
}

impl Show {
    fn query(&self) -> String {
        let values = [("site", &self.site), ("source", &self.source)];
        let given = values.iter().filter_map(|(key, value)| Some((key, value.as_deref()?)));
        given.map(|(key, value)| format!("&{key}={}", escaped(value))).collect()
    }

    async fn paths(self) -> exit::Result {
        let answer: Value = self.remote.get(&format!("/v1/limits?limit={}{}", self.limit, self.query())).await?;
        if self.remote.json {
            return print_json(&answer);
        }
        let paths: Vec<Path> = serde_json::from_value(answer)?;
        if paths.is_empty() {
            out::line("nothing is learnt yet")?;
            return Ok(Exit::Ok);
        }
        path_table(&paths, now()).print()?;
        self.tell_cut(paths.len());
        Ok(Exit::Ok)
    }

    async fn history(self) -> exit::Result {
        let path = format!("/v1/limits/history?limit={}{}", self.limit, self.query());
        let answer: Value = self.remote.get(&path).await?;
        if self.remote.json {
            return print_json(&answer);
        }
        let changes: Vec<Change> = serde_json::from_value(answer)?;
        if changes.is_empty() {
            out::line("no limit has changed since the daemon started")?;
        } else {
            change_table(&changes, now()).print()?;
            self.tell_cut(changes.len());
        }
        out::remark_line("older ones: hikyaku journal search --event limit");
        Ok(Exit::Ok)
    }

    fn tell_cut(&self, count: usize) {
        if u32::try_from(count) == Ok(self.limit) {
            out::remark_line(format_args!("cut at --limit {}", self.limit));
        }
    }
}

impl Pin {
    async fn execute(self) -> exit::Result {
        check_text("reason", &self.reason).map_err(|error| Failure::usage(anyhow!("--{error}")))?;
        let asked = [
            (Pinned::Rate, self.rate),
            (Pinned::Connections, self.connections),
            (Pinned::MessagesPerConnection, self.messages_per_connection),
        ];
        let asked: Vec<_> = asked.into_iter().filter_map(|(limit, range)| Some((limit, range?))).collect();
        if asked.is_empty() {
            return Err(Failure::usage(anyhow!("say what to pin: --rate, --connections or --messages-per-connection")));
        }
        let mut answers = Vec::new();
        for (limit, Range { least, most }) in asked {
            let request = PinRequest {
                site: self.site.as_str().into(),
                source: self.source.as_deref().map(Into::into),
                limit,
                value: None,
                least,
                most,
                reason: self.reason.as_str().into(),
                by: operator().into(),
            };
            let answer: Value = patiently("pinning", self.remote.client().post("/v1/limits/pin", &request)).await?;
            if !self.remote.json {
                let answer: Repinned = serde_json::from_value(answer.clone())?;
                answer
                    .pins
                    .iter()
                    .try_for_each(|pin| out::line(format_args!("{} {}", plain(&answer.site), pin.told())))?;
                out::line(match answer.paths {
                    0 => "nothing has left there lately: it holds when something does".to_owned(),
                    paths => format!("it holds at {} paths now", thousands(paths)),
                })?;
            }
            answers.push(answer);
        }
        if self.remote.json { print_json(&answers) } else { Ok(Exit::Ok) }
    }
}

impl Unpin {
    async fn execute(self) -> exit::Result {
        let Self { site, source, limit, remote } = self;
        let request = UnpinRequest { site, source, limit, by: operator() };
        let answer: Value = patiently("unpinning", remote.client().post("/v1/limits/unpin", &request)).await?;
        if remote.json {
            return print_json(&answer);
        }
        let answer: Repinned = serde_json::from_value(answer)?;
        for pin in &answer.pins {
            out::line(format_args!("ended: {} {}", plain(&answer.site), pin.told()))?;
        }
        Ok(Exit::Ok)
    }
}

impl Reset {
    async fn execute(self) -> exit::Result {
        let Self { site, source, limit, remote } = self;
        let request = ResetRequest { site, source, limit, by: operator() };
        let answer: Value = patiently("forgetting", remote.client().post("/v1/limits/reset", &request)).await?;
        if remote.json {
            return print_json(&answer);
        }
        let Forgotten { site, paths, kept, changes } = serde_json::from_value(answer)?;
        let (paths, kept) = (thousands(paths), thousands(kept));
        out::line(format_args!("{}: {paths} paths begin anew, what was kept of {kept} is forgotten", plain(&site)))?;
        print_changes(&changes)
    }
}

impl Undo {
    async fn execute(self) -> exit::Result {
        let mut answers = Vec::new();
        for id in self.ids {
            let request = UndoRequest { id, by: operator() };
            let answer: Value = patiently("undoing", self.remote.client().post("/v1/limits/undo", &request)).await?;
            if !self.remote.json {
                print_changes(&serde_json::from_value::<Vec<Change>>(answer.clone())?)?;
            }
            answers.push(answer);
        }
        if self.remote.json { print_json(&answers) } else { Ok(Exit::Ok) }
    }
}

fn print_changes(changes: &[Change]) -> exit::Result {
    for change in changes {
        let Change { site, source, limit: what, from, to, .. } = change;
        let (from, to) = (limit(*from), limit(*to));
        out::line(plain(&format!("{site} from {source}: {what} {from} -> {to}")))?;
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_bounds_are_read() {
        let of = |least, most| Ok(Range { least, most });

        assert_eq!(rates("120/min"), of(Some(120.0), Some(120.0)));
        assert_eq!(rates("1/s..120/min"), of(Some(60.0), Some(120.0)));
        assert_eq!((numbers("..5"), numbers("2..")), (of(None, Some(5.0)), of(Some(2.0), None)));
        for wrong in ["", "..", "x", "1.5"] {
            assert!(numbers(wrong).is_err() && rates(wrong).is_err(), "{wrong}");
        }
        assert_eq!(pinned("messages-per-connection"), Ok(Pinned::MessagesPerConnection));
        assert!(pinned("breaker").is_err());
    }
}

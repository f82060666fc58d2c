//! `hikyaku suppress`: who gets no mail, and why. Single entries are changed here, looked at by [`look`]; whole lists go in and out by
//! [`transfer`].

mod look;
mod transfer;

use anyhow::anyhow;
use clap::builder::NonEmptyStringValueParser;
use serde_json::Value;

use super::exit::{Exit, Failure};
use super::orders::operator;
use super::patience::patiently;
use super::table::plain;
use super::{Remote, exit, now, out, print_json};
use crate::admin::{AddRequest, ChangeView, Changed, NewEntry, RemoveRequest};
use crate::clock::UnixTime;
use crate::config::units::Span;
use crate::journal::time;
use crate::state::suppression::{Reason, Scope};

/// Octets of targets in one request: below what the daemon takes, with room for what each entry says beside them.
const AT_ONCE: usize = 8 << 10;

/// Sub-commands of `suppress`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Suppress {
    /// Have somebody get no mail
    Add(Add),
    /// Have somebody get mail again
    Remove(Remove),
    /// Say whether somebody gets mail, and every entry that stands against them
    Show(look::Show),
    /// List entries, the newest first
    List(look::List),
    /// Count entries, and say what they take
    Stats(look::Stats),
    /// Add the entries of a file
    Import(transfer::Import),
    /// Write all entries to a file, as `suppress import` reads them
    Export(transfer::Export),
}

impl Suppress {
    pub(super) async fn execute(self) -> exit::Result {
        match self {
            Self::Add(add) => add.execute().await,
            Self::Remove(remove) => remove.execute().await,
            Self::Show(show) => show.execute().await,
            Self::List(list) => list.execute().await,
            Self::Stats(stats) => stats.execute().await,
            Self::Import(import) => import.execute().await,
            Self::Export(export) => export.execute().await,
        }
    }
}

/// Of whose mail.
#[derive(Clone, Debug, Default, clap::Args)]
struct OfWhom {
    /// Mail of this tenant [default: of all]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    tenant: Option<String>,
    /// Mail of this class of the tenant's campaigns [default: all of it]
    #[arg(long, value_name = "NAME", requires = "tenant", value_parser = NonEmptyStringValueParser::new())]
    class: Option<String>,
}

impl OfWhom {
    /// As a scope, if its names can be kept.
    fn scope(&self) -> Result<Scope, Failure> {
        let usage = |told: String| Failure::usage(anyhow!(told));
        let [tenant, class] = [&self.tenant, &self.class].map(|name| name.as_deref().unwrap_or_default());
        let scope = Scope::of(tenant, class).ok_or_else(|| usage("--class needs --tenant".to_owned()))?;
        scope.check().map_err(|error| usage(format!("--{error}")))?;
        Ok(scope)
    }
}

/// Which entries.
#[derive(Clone, Debug, Default, clap::Args)]
struct Which {
    /// About this domain or a mailbox of it
    #[arg(long)]
    domain: Option<String>,
    /// In the scope of this tenant or of a class of its campaigns
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// For this reason
    #[arg(long, value_parser = reason)]
    reason: Option<Reason>,
}

/// How long entries stand.
#[derive(Clone, Debug, Default, clap::Args)]
struct Lasting {
    /// Until then: 2027-11-25 or 2027-11-25T19:04:45Z (UTC without an offset) [default: until it is removed]
    #[arg(long, value_name = "TIME", value_parser = ahead, conflicts_with = "duration")]
    until: Option<UnixTime>,
    /// So long, such as 12h or 30d
    #[arg(long = "for", value_name = "DURATION")]
    duration: Option<Span>,
}

impl Lasting {
    fn end(&self) -> Option<UnixTime> {
        self.until.or_else(|| Some(clock().plus(self.duration?.0)))
    }
}

fn clock() -> UnixTime {
    UnixTime(u32::try_from(now()).unwrap_or(u32::MAX))
}

/// A time that is not over.
fn ahead(text: &str) -> Result<UnixTime, String> {
    let time = time::parse(text).and_then(|time| u32::try_from(time.as_secs()).ok()).map(UnixTime);
    let time = time.ok_or("not a time such as 2027-11-25T19:04:45Z")?;
    if time <= clock() { Err("this time is over".to_owned()) } else { Ok(time) }
}

fn reason(text: &str) -> Result<Reason, String> {
    Reason::parse(text).ok_or_else(|| format!("not a reason: {}", Reason::ALL.map(Reason::as_str).join(", ")))
}

/// Options of `suppress add`.
#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// Addresses; domains (every mailbox of exactly that domain), with or without `@` before them; `#` and the hash of an address
    #[arg(required = true, value_name = "TARGET")]
    targets: Vec<String>,
    #[command(flatten)]
    of_whom: OfWhom,
    /// Why: hard-bounce, mailbox-full, complaint, unsubscribe, operator or import
    #[arg(long, default_value = "operator", value_parser = reason)]
    reason: Reason,
    #[command(flatten)]
    lasting: Lasting,
    /// The event or person that it comes from [default: who you are]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    source: String,
    #[command(flatten)]
    remote: Remote,
}

/// Options of `suppress remove`.
#[derive(Debug, clap::Args)]
pub(super) struct Remove {
    /// Addresses, domains and hashes, as `suppress show` shows them
    #[arg(required = true, value_name = "TARGET")]
    targets: Vec<String>,
    #[command(flatten)]
    of_whom: OfWhom,
    /// In whatever scope [default: entries against mail of all tenants, or of --tenant and --class]
    #[arg(long, conflicts_with_all = ["tenant", "class"])]
    all_scopes: bool,
    #[command(flatten)]
    remote: Remote,
}

/// As many targets at a time as one request takes.
fn batches(targets: &[String]) -> Vec<&[String]> {
    let (mut rest, mut all) = (targets, Vec::new());
    while !rest.is_empty() {
        let mut octets = 0;
        let fitting = rest.iter().take_while(|target| {
            octets += target.len() + 32;
            octets <= AT_ONCE
        });
        let (batch, others) = rest.split_at(fitting.count().max(1));
        all.push(batch);
        rest = others;
    }
    all
}

impl Add {
    async fn execute(self) -> exit::Result {
        let scope = self.of_whom.scope()?;
        let (tenant, class) = scope.names();
        let until = self.lasting.end().map(|until| until.0);
        let mut changes = Vec::new();
        for batch in batches(&self.targets) {
            let entry = |target: &String| NewEntry {
                target: target.clone(),
                tenant: tenant.to_owned(),
                class: class.to_owned(),
                reason: self.reason.to_string(),
                source: self.source.clone(),
                until,
            };
            let request = AddRequest { entries: batch.iter().map(entry).collect(), by: operator() };
            changes.append(&mut change(&self.remote, "/v1/suppression/add", &request).await?);
        }
        tell(&self.remote, &Changed { changes })
    }
}

impl Remove {
    async fn execute(self) -> exit::Result {
        let scope = self.of_whom.scope()?;
        let (tenant, class) = scope.names();
        let mut changes = Vec::new();
        for batch in batches(&self.targets) {
            let request = RemoveRequest {
                targets: batch.to_vec(),
                tenant: tenant.to_owned(),
                class: class.to_owned(),
                all_scopes: self.all_scopes,
                by: operator(),
            };
            changes.append(&mut change(&self.remote, "/v1/suppression/remove", &request).await?);
        }
        tell(&self.remote, &Changed { changes })
    }
}

async fn change(remote: &Remote, path: &str, request: &impl serde::Serialize) -> Result<Vec<ChangeView>, Failure> {
    let answer: Value = patiently("changing the list", remote.client().post(path, request)).await?;
    Ok(serde_json::from_value::<Changed>(answer)?.changes)
}

/// Prints what became of each; a problem if there was nothing to remove.
fn tell(remote: &Remote, changed: &Changed) -> exit::Result {
    let is_absent = changed.changes.iter().any(|change| change.outcome == "absent");
    if remote.json {
        print_json(changed)?;
    } else {
        changed.changes.iter().try_for_each(|change| out::line(line(change)))?;
    }
    Ok(if is_absent { Exit::Problem } else { Exit::Ok })
}

/// Whose mail a scope is about, for people.
fn of_whom(tenant: &str, class: &str) -> String {
    match (tenant, class) {
        ("", _) => "all tenants".to_owned(),
        (tenant, "") => format!("tenant {}", plain(tenant)),
        (tenant, class) => format!("tenant {}, class {}", plain(tenant), plain(class)),
    }
}

fn line(change: &ChangeView) -> String {
    let ChangeView { target, tenant, class, outcome, entry } = change;
    let reason = entry.as_ref().map_or("", |entry| &*entry.reason);
    let what = match outcome.as_str() {
        "added" => format!("gets no mail from now on ({reason})"),
        "replaced" => format!("gets no mail; this takes the place of what stood before ({reason})"),
        "stands" => format!("got no mail before, for as long and a reason that weighs no less ({reason})"),
        "removed" => format!("gets mail again; what stood was for {reason}"),
        _ => "nothing stands: see `hikyaku suppress show`".to_owned(),
    };
    format!("{} [{}]: {}", plain(target), of_whom(tenant, class), plain(&what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_targets_go_in_as_many_requests_as_they_need_in_their_order() {
        let targets: Vec<String> = (0..1_000).map(|number| format!("user{number}@example.com")).collect();

        let all = batches(&targets);

        assert!(all.len() > 1 && all.iter().all(|batch| batch.len() < 300), "{}", all.len());
        assert_eq!(all.concat(), targets);
        assert_eq!(batches(&["x".repeat(AT_ONCE)]).len(), 1);
    }

    #[test]
    fn a_time_that_is_over_is_none() {
        assert!(ahead("2026-01-01").unwrap_err().contains("over") && ahead("tomorrow").is_err());
        assert_eq!(ahead("2100-01-01"), Ok(UnixTime(4_102_444_800)));
        assert!(reason("because").unwrap_err().contains("hard-bounce, mailbox-full"));
    }
}

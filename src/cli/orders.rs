//! Steering: `queue suspend`, `hold`, `move`, `delete`, `bounce`, `resume` and `flush`, and `orders`.
//!
//! An order is placed by the first five, is listed by `orders`, and ends by its duration, by `queue resume` or by
//! `orders undo`.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use anyhow::anyhow;
use serde::Deserialize;
use serde_json::Value;

use super::exit::{Exit, Failure};
use super::patience::patiently;
use super::selection::{SelectionArguments, query};
use super::table::{Table, below, long, number, plain, span, terminal_width, thousands, wrap};
use super::{Remote, exit, now, out, print_json};
use crate::admin::Flush;
use crate::config::units::Span;
use crate::state::{Action, Order, Request, Selection, check_text};
use crate::unseen::is_unseen;

/// Options that every order has.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    #[command(flatten)]
    selection: SelectionArguments,
    /// Every recipient
    #[arg(long)]
    all: bool,
    /// How long the order stands, such as 2h or 3d [default: until it is undone; delete and bounce: what is accepted by now]
    #[arg(long = "for", value_name = "DURATION")]
    duration: Option<Span>,
    /// Why: shown by `orders`, in the journal, and in the DSN of a bounce
    #[arg(long, default_value = "")]
    reason: String,
    /// Only count the recipients that the order would be about
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before recipients are given up
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Options of `queue move`.
#[derive(Debug, clap::Args)]
pub(super) struct Move {
    /// The egress source to try them from, by its name in the configuration
    #[arg(long, value_name = "SOURCE")]
    to: String,
    #[command(flatten)]
    place: Place,
}

/// Options of `queue resume`.
#[derive(Debug, clap::Args)]
pub(super) struct Resume {
    #[command(flatten)]
    selection: SelectionArguments,
    /// All orders to suspend, whatever they are about
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Options of `queue flush`.
#[derive(Debug, clap::Args)]
pub(super) struct FlushNow {
    #[command(flatten)]
    selection: SelectionArguments,
    /// Every recipient
    #[arg(long)]
    all: bool,
    /// Also recipients that are held as damaged or in doubt
    #[arg(long)]
    held: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Options of `orders`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Orders {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the orders that stand
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Show one order
    Show {
        /// Its id, as `orders` shows it
        id: u32,
        #[command(flatten)]
        remote: Remote,
    },
    /// End orders: what they kept goes on
    Undo {
        /// Their ids, as `orders` shows them
        #[arg(required = true)]
        ids: Vec<u32>,
        #[command(flatten)]
        remote: Remote,
    },
}

/// Recipients by state.
type Counts = BTreeMap<String, u64>;

#[derive(Deserialize)]
struct Placed {
    order: Order,
    counts: Counts,
    ended: u64,
    #[serde(default)]
    unknown: u64,
}

#[derive(Deserialize)]
struct View {
    order: Order,
    #[serde(default)]
    parked: u64,
    /// That it is about and that wait for their time; None: too many to count.
    #[serde(default)]
    scheduled: Option<u64>,
    #[serde(default)]
    is_source_missing: bool,
}

impl View {
    /// What it does; a move says if there is no such source.
    fn action(&self) -> String {
        match &self.order.action {
            Action::Move { source } if self.is_source_missing => format!("move to {source}: no such source now"),
            Action::Move { source } => format!("move to {source}"),
            action => action.as_str().to_owned(),
        }
    }

    /// How many wait for its end; a move keeps nothing.
    fn kept(&self) -> String {
        match &self.order.action {
            Action::Move { .. } => "-".to_owned(),
            _ => thousands(self.parked),
        }
    }

    /// All of it, wrapped to `width` columns.
    fn told(&self, now: u64, width: Option<usize>) -> String {
        const NAMES: usize = 11;
        let Order { id, selection, reason, by, placed_at, until, .. } = &self.order;
        let lines = [
            ("order", id.to_string()),
            ("what", self.action()),
            ("about", selection.to_string()),
            ("kept", self.kept()),
            ("scheduled", self.scheduled.map(thousands).unwrap_or_default()),
            ("placed", format!("{} ago", span(now.saturating_sub(u64::from(*placed_at))))),
            ("left", until.map(|until| span(u64::from(until).saturating_sub(now))).unwrap_or_default()),
            ("by", by.to_string()),
            ("reason", reason.to_string()),
        ];
        let mut text = String::new();
        for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
            let value = plain(value);
            let value = width.map_or_else(
                || vec![value.clone()],
                |width| wrap(&value, width.saturating_sub(NAMES).max(20), usize::MAX),
            );
            for (line, name) in value.iter().zip(std::iter::once(*name).chain(std::iter::repeat(""))) {
                text += &format!("{name:<NAMES$}{line}\n");
            }
        }
        text
    }
}

impl Place {
    /// Places an order of this kind.
    pub(super) async fn execute(self, action: Action) -> exit::Result {
        let selection = self.selection.checked_or_all(self.all)?;
        check_reason(&self.reason)?;
        let client = self.remote.client();
        if self.dry_run || (action.is_final() && !self.yes) {
            let path = format!("/v1/queue/count?{}", query(&selection).trim_start_matches('&'));
            let counts: Counts = patiently("counting", client.get(&path)).await?;
            if self.dry_run && self.remote.json {
                return print_json(&counts);
            }
            if self.dry_run {
                out::line(counted(&counts))?;
                return Ok(Exit::Ok);
            }
            confirm(&action, &selection, &counts)?;
        }
        let seconds = self.duration.map(|span| u32::try_from(span.0.as_secs()).unwrap_or(u32::MAX));
        if seconds == Some(0) {
            return Err(Failure::usage(anyhow!("--for: an order stands for 1s or longer")));
        }
        let request = Request { action, selection, reason: self.reason.into(), by: operator().into(), seconds };
        place(&self.remote, &request).await
    }
}

/// A reason that the daemon would refuse is wrong usage.
fn check_reason(reason: &str) -> Result<(), Failure> {
    check_text("reason", reason).map_err(|error| Failure::usage(anyhow!("--{error}")))
}

/// Places an order and tells what it is about.
pub(super) async fn place(remote: &Remote, request: &Request) -> exit::Result {
    let answer: Value = patiently("placing the order", remote.client().post("/v1/orders", request)).await?;
    if remote.json {
        return print_json(&answer);
    }
    let Placed { order, counts, ended, unknown } = serde_json::from_value(answer)?;
    let (action, about) = (order.action.as_str(), plain(&order.selection.to_string()));
    out::line(format_args!("order {}: {action} {about}{}", order.id, lasting(&order)))?;
    out::line(counted(&counts))?;
    if order.action.is_final() {
        out::line(format_args!("{} given up", thousands(ended)))?;
        if unknown > 0 {
            out::line(format_args!("{} of unknown site or source: judged when they are due", thousands(unknown)))?;
        }
    } else {
        out::line(format_args!("undo it by: hikyaku orders undo {}", order.id))?;
    }
    Ok(Exit::Ok)
}

impl Move {
    pub(super) async fn execute(self) -> exit::Result {
        self.place.execute(Action::Move { source: self.to.into() }).await
    }
}

impl Resume {
    /// Ends the orders to suspend that have this very selection.
    pub(super) async fn execute(self) -> exit::Result {
        let selection = self.selection.checked()?;
        if self.all && !selection.is_everything() {
            return Err(Failure::usage(anyhow!("--all and a selection contradict each other")));
        }
        let views: Vec<View> = self.remote.get("/v1/orders").await?;
        let is_meant = |order: &Order| order.action == Action::Suspend && (self.all || order.selection == selection);
        let ids: Vec<u32> = views.iter().filter(|view| is_meant(&view.order)).map(|view| view.order.id.0).collect();
        if ids.is_empty() {
            return Err(anyhow!("no order suspends {selection}\n`hikyaku orders` lists those that stand").into());
        }
        undo(&self.remote, &ids).await
    }
}

impl FlushNow {
    pub(super) async fn execute(self) -> exit::Result {
        let flush = Flush { selection: self.selection.checked_or_all(self.all)?, held: self.held };
        let answer: Value = patiently("flushing", self.remote.client().post("/v1/queue/flush", &flush)).await?;
        if self.remote.json {
            return print_json(&answer);
        }
        let number = |key: &str| thousands(answer.get(key).and_then(Value::as_u64).unwrap_or(0));
        let kept = match answer.get("kept").and_then(Value::as_u64) {
            None | Some(0) => String::new(),
            Some(kept) => format!(", save {} that an order keeps", thousands(kept)),
        };
        out::line(format_args!(
            "{} scheduled and {} held recipients are tried now{kept}; the back-off of {} sites was ended",
            number("scheduled"),
            number("held"),
            number("sites")
        ))?;
        Ok(Exit::Ok)
    }
}

impl Orders {
    pub(super) async fn execute(self) -> exit::Result {
        match self.command {
            None => list(&self.remote).await,
            Some(Command::List { remote }) => list(&remote).await,
            Some(Command::Show { id, remote }) => {
                let answer: Value = remote.get(&format!("/v1/orders/{id}")).await?;
                if remote.json {
                    return print_json(&answer);
                }
                let view: View = serde_json::from_value(answer)?;
                out::write(view.told(now(), terminal_width()).as_bytes())?;
                Ok(Exit::Ok)
            }
            Some(Command::Undo { ids, remote }) => undo(&remote, &ids).await,
        }
    }
}

async fn list(remote: &Remote) -> exit::Result {
    let answer: Value = remote.get("/v1/orders").await?;
    if remote.json {
        return print_json(&answer);
    }
    let views: Vec<View> = serde_json::from_value(answer)?;
    if views.is_empty() {
        out::line("no orders stand")?;
    } else {
        order_table(&views, now()).print()?;
    }
    Ok(Exit::Ok)
}

/// Ends orders one by one; those before one that fails have ended.
async fn undo(remote: &Remote, ids: &[u32]) -> exit::Result {
    let mut answers = Vec::new();
    for id in ids {
        let path = format!("/v1/orders/{id}");
        let answer: Value = patiently("releasing recipients", remote.client().delete(&path)).await?;
        if !remote.json {
            let released = answer.get("released").and_then(Value::as_u64).unwrap_or(0);
            out::line(format_args!("order {id} undone: {} recipients go on", thousands(released)))?;
        }
        answers.push(answer);
    }
    if remote.json { print_json(&answers) } else { Ok(Exit::Ok) }
}

fn order_table(views: &[View], now: u64) -> Table {
    let mut table = Table::new(&[
        number("ID"),
        long("ORDER"),
        long("ABOUT"),
        number("KEPT"),
        number("SCHEDULED"),
        number("AGE"),
        number("LEFT"),
        below("BY / REASON"),
    ]);
    for view in views {
        let order = &view.order;
        table.row([
            order.id.to_string(),
            view.action(),
            order.selection.to_string(),
            view.kept(),
            view.scheduled.map_or_else(|| "-".to_owned(), thousands),
            span(now.saturating_sub(u64::from(order.placed_at))),
            order.until.map(|until| span(u64::from(until).saturating_sub(now))).unwrap_or_default(),
            [&*order.by, &*order.reason].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": "),
        ]);
    }
    table
}

fn counted(counts: &Counts) -> String {
    if counts.is_empty() {
        return "it is about no recipient that is queued now".to_owned();
    }
    let parts = counts.iter().map(|(state, count)| format!("{} {}", thousands(*count), plain(state)));
    format!("about {}", parts.collect::<Vec<_>>().join(", "))
}

fn lasting(order: &Order) -> String {
    match order.until.filter(|_| !order.is_once()) {
        Some(until) => format!(" for {}", span(u64::from(until).saturating_sub(u64::from(order.placed_at)))),
        None => String::new(),
    }
}

/// Asks before recipients are given up.
fn confirm(action: &Action, selection: &Selection, counts: &Counts) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(anyhow!("nobody can be asked: confirm with --yes (--dry-run counts)")));
    }
    let fate = if *action == Action::Delete { "deleted without a DSN" } else { "bounced" };
    let about = plain(&selection.to_string());
    out::remark(format_args!("{about}: {}. To be {fate}; go on? [y/N] ", counted(counts)));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) { Ok(()) } else { Err(anyhow!("not done").into()) }
}

/// Who gives the order, for those who read it later; not an authentication.
pub(super) fn operator() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let name = named.filter(|name| !name.is_empty() && !name.chars().any(is_unseen));
    name.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

/// A final order about one message.
pub(super) async fn end_message(remote: &Remote, id: &str, action: Action, reason: String) -> exit::Result {
    check_reason(&reason)?;
    let selection = Selection { message: Some(id.into()), ..Selection::default() };
    let request = Request { action, selection, reason: reason.into(), by: operator().into(), seconds: None };
    let counts: Counts = remote.get(&format!("/v1/queue/count?message={id}")).await?;
    if counts.is_empty() {
        return Err(anyhow!(
            "no recipient of message {id} is queued\n`hikyaku journal search` tells what became of it"
        )
        .into());
    }
    place(remote, &request).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::OrderId;

    #[test]
    fn the_table_fits_80_columns_with_the_longest_name_of_a_source() {
        let order = Order {
            id: OrderId(1_000),
            action: Action::Move { source: "s".repeat(64).into() },
            selection: Selection { tenant: Some("a-tenant-with-a-long-name".into()), ..Selection::default() },
            accepted_until: None,
            before: None,
            reason: "maintenance of the other one".into(),
            by: "ops".into(),
            placed_at: 0,
            until: Some(400_000),
        };

        let view = View { order, parked: 1_234_567, scheduled: Some(1_234_567), is_source_missing: false };
        let shown = view.told(300_000, Some(40));
        let table = order_table(&[view], 300_000).render(Some(80));

        assert!(shown.lines().all(|line| line.chars().count() <= 40), "{shown}");
        assert!(shown.contains("reason     maintenance of the other one"), "{shown}");
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        assert!(table.contains("move to sss") && table.contains("ops: maintenance"), "{table}");
    }
}

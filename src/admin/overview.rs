//! The daemon at a glance: what it does, and, first of all, whether anything is wrong and what to look at next.

use axum::Json;
use axum::extract::State as Shared;
use serde::Serialize;

use super::error::Refusal;
use super::health::not_ready;
use super::{State, Status};
use crate::queue::view::{Outline, OverdueView};
use crate::spool::Stat;

/// Causes of being overdue that are a receiver's: it does not answer, or limits towards it hold mail back.
const RECEIVERS: [&str; 5] = ["back-off", "rate", "connection-rate", "no-connection-permit", "busy"];

/// Something that an operator should see to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// What is wrong.
    pub what: String,
    /// What to look at or do next.
    pub next: &'static str,
}

/// What the process takes from its machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Resident memory in octets; 0 where the system does not say.
    pub memory: u64,
    /// Open descriptors; 0 where the system does not say.
    pub descriptors: u64,
    /// Descriptors that may be open.
    pub most_descriptors: Option<u64>,
}

impl Process {
    /// Reads it; walks the table of descriptors, which takes a millisecond for some thousands.
    fn look() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = resident.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        Self {
            memory: kibibytes.unwrap_or(0) << 10,
            descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
            most_descriptors: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        }
    }
}

/// The daemon at a glance.
pub(super) async fn status(Shared(state): Shared<State>) -> Result<Json<Status>, Refusal> {
    let look = move || {
        let (outline, spool, process) = (state.queue.outline(), state.spool.stat(), Process::look());
        let not_ready = not_ready(&state);
        let recovery_failed = state.spool.recovery_failure().is_some();
        let is_stopping = state.stopping.is_cancelled();
        Status {
            hostname: state.control.hostname.lock().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: state.started.elapsed().as_secs(),
            state: state_of(is_stopping, &spool),
            problems: troubles(not_ready.as_deref(), recovery_failed, &outline, &spool, &process),
            not_ready,
            draining: state.control.draining(),
            queue: outline.totals,
            outline,
            spool,
            process,
        }
    };
    Ok(Json(tokio::task::spawn_blocking(look).await?))
}

fn state_of(is_stopping: bool, spool: &Stat) -> &'static str {
    match (is_stopping, spool.fault || spool.full, spool.recovering) {
        (true, _, _) => "draining",
        (_, true, _) => "refusing",
        (_, _, true) => "recovering",
        _ => "accepting",
    }
}

/// Everything that is wrong, the worst first.
fn troubles(
    not_ready: Option<&str>,
    recovery_failed: bool,
    outline: &Outline,
    spool: &Stat,
    process: &Process,
) -> Vec<Trouble> {
    let mut found = Vec::new();
    let mut add = |is_so: bool, what: String, next: &'static str| {
        if is_so {
            found.push(Trouble { what, next });
        }
    };
    if let Some(reason) = not_ready {
        add(true, reason.to_owned(), "hikyaku spool stat; journalctl -u hikyaku");
    }
    let failed = recovery_failed && not_ready.is_none_or(|reason| !reason.contains("recovery"));
    add(failed, "recovery failed: mail of earlier starts waits on disk".to_owned(), "journalctl -u hikyaku; restart");
    let damaged = format!("{} damaged records or messages were met since the start", spool.damaged);
    add(spool.damaged > 0, damaged, "hikyaku spool check; quarantine/ in the spool keeps a copy");
    for held in &outline.held {
        let what = format!("{} recipients are held: {}", held.recipients, held.reason);
        add(true, what, "hikyaku queue list: held ones come first");
    }
    // What a receiver refuses or is spared is told as held up; a problem is what waits for ourselves.
    let ours = |overdue: &&OverdueView| !RECEIVERS.contains(&overdue.cause);
    for overdue in outline.overdue.iter().filter(ours) {
        let what =
            format!("{} recipients are past their time by more than a minute: {}", overdue.entries, overdue.cause);
        add(true, what, "hikyaku sites; hikyaku queue show SITE");
    }
    let is_dns_bad = outline.dns_failing >= 3 && outline.dns_failing * 2 >= outline.dns_domains;
    let dns = format!("DNS gives no plan for {} of {} domains with mail", outline.dns_failing, outline.dns_domains);
    add(is_dns_bad, dns, "dns.resolvers; /etc/resolv.conf; hikyaku queue show DOMAIN");
    let queued = outline.totals.queued;
    let is_nearly_full = outline.capacity > 0 && queued >= outline.capacity - outline.capacity / 10;
    let full = format!("the queue holds {queued} of at most {} recipients", outline.capacity);
    add(is_nearly_full, full, "hikyaku sites; queue.max_recipients: past it submissions get 452");
    if let Some(most) = process.most_descriptors {
        let is_near = process.descriptors >= most - most / 10;
        let what = format!("{} of {most} descriptors are open", process.descriptors);
        add(is_near, what, "LimitNOFILE= of the unit; limits.connections");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::view::{HeldView, Totals};

    fn all(outline: &Outline, spool: &Stat, process: &Process) -> Vec<String> {
        troubles(None, false, outline, spool, process).into_iter().map(|trouble| trouble.what).collect()
    }

    #[test]
    fn a_daemon_that_works_through_a_back_log_has_no_trouble() {
        let totals = Totals { queued: 1_000_000, scheduled: 900_000, ready: 100_000, ..Totals::default() };
        let outline = Outline { totals, capacity: 10_000_000, dns_failing: 2, dns_domains: 50, ..Outline::default() };
        let process = Process { descriptors: 500, most_descriptors: Some(1_024), ..Process::default() };

        assert_eq!(all(&outline, &Stat::default(), &process), Vec::<String>::new());
    }

    #[test]
    fn each_trouble_is_told_with_its_numbers() {
        let outline = Outline {
            totals: Totals { queued: 95, ..Totals::default() },
            capacity: 100,
            held: vec![HeldView { reason: "damaged", recipients: 3 }],
            overdue: vec![
                OverdueView { cause: "timer", entries: 7 },
                OverdueView { cause: "back-off", entries: 1_234 },
            ],
            dns_failing: 30,
            dns_domains: 40,
            ..Outline::default()
        };
        let spool = Stat { damaged: 2, ..Stat::default() };
        let process = Process { descriptors: 990, most_descriptors: Some(1_000), ..Process::default() };

        let told = all(&outline, &spool, &process);

        for part in [
            "2 damaged",
            "3 recipients are held: damaged",
            "7 recipients are past",
            "30 of 40 domains",
            "95 of at most 100",
            "990 of 1000",
        ] {
            assert!(told.iter().any(|what| what.contains(part)), "{part}: {told:?}");
        }
        assert_eq!(told.len(), 6);
    }

    #[test]
    fn the_state_says_what_a_client_would_meet() {
        let spool = |recovering, full| Stat { recovering, full, ..Stat::default() };

        assert_eq!(state_of(true, &spool(true, true)), "draining");
        assert_eq!(state_of(false, &spool(true, true)), "refusing");
        assert_eq!(state_of(false, &spool(true, false)), "recovering");
        assert_eq!(state_of(false, &spool(false, false)), "accepting");
    }

    #[test]
    fn the_process_can_be_seen() {
        let process = Process::look();

        assert!(process.memory > 1 << 20 && process.descriptors > 2, "{process:?}");
    }
}

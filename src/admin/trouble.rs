//! What an operator should see to: made of what every part shows, the worst first.

use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use super::health::NotReady;
use super::overview::Process;
use crate::audit;
use crate::journal::Health;
use crate::queue::view::{Outline, OverdueView, PausedWarmup, is_held_by_receiver};
use crate::spool::Stat;

/// A part that does not move for longer is told: what the alert HikyakuStuck goes by.
const STILL: Duration = Duration::from_secs(30);
/// A gap in the journal is told for so long after its last event; the journal itself tells of it for ever.
const RECENT: Duration = Duration::from_secs(3_600);
/// Fewer slow syncs may be chance.
const SLOW_SYNCS: u64 = 3;

/// Something that an operator should see to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// What is wrong.
    pub what: String,
    /// What to look at or do next.
    pub next: &'static str,
}

/// What is known beside the queue, the spool and the process.
#[derive(Debug, Default)]
pub(super) struct Signs<'a> {
    /// Why messages are better sent elsewhere.
    pub not_ready: Option<&'a NotReady>,
    /// Mail of earlier starts was not all raised.
    pub is_recovery_failed: bool,
    /// Parts that do not move.
    pub still: Vec<(&'static str, Duration)>,
    pub journal: Health,
    /// Why the last reload failed.
    pub reload_failure: Option<String>,
    /// Certificates that have ended, end soon or cannot be read again.
    pub certificates: Vec<String>,
    /// Why the users file as it is now is not in force.
    pub users: Option<String>,
    /// The same of the tokens' file.
    pub tokens: Option<String>,
    /// How the audit log is.
    pub audit: audit::State,
    /// Egress sources with an address that this machine does not have.
    pub foreign: Vec<(String, IpAddr)>,
    /// Caught since the start.
    pub panics: u64,
}

/// Troubles as they are found.
#[derive(Default)]
struct Found(Vec<Trouble>);

impl Found {
    fn add(&mut self, is_so: bool, what: String, next: &'static str) {
        if is_so {
            self.0.push(Trouble { what, next });
        }
    }
}

/// Everything that is wrong, the worst first.
pub(super) fn troubles(signs: &Signs<'_>, outline: &Outline, spool: &Stat, process: &Process) -> Vec<Trouble> {
    let mut found = Found::default();
    of_spool(signs, spool, &mut found);
    for (part, still) in signs.still.iter().filter(|(_, still)| *still >= STILL) {
        let what = format!("{part} has not moved for {} s", still.as_secs());
        found.add(true, what, "journalctl -u hikyaku; docs/runbook.md, HikyakuStuck");
    }
    for (source, address) in &signs.foreign {
        let what = format!("source {source}: {address} is no address of this machine: no mail leaves from it");
        found.add(true, what, "ip address; its [[source]] in the configuration; hikyaku reload");
    }
    for what in &signs.certificates {
        found.add(true, what.clone(), "renew it; it is read again when the file changes; hikyaku check");
    }
    of_queue(outline, &mut found);
    let panics = format!("{} panics were caught since the start: each is a bug", signs.panics);
    found.add(signs.panics > 0, panics, "journalctl -u hikyaku: the place of each; please report it");
    of_journal(&signs.journal, &mut found);
    if let Some(reason) = &signs.reload_failure {
        let what = format!("the last reload failed, the configuration before it holds: {}", in_a_line(reason));
        found.add(true, what, "hikyaku check, then hikyaku reload");
    }
    if let Some(reason) = &signs.users {
        let what = format!("the users file cannot be used, the one before holds: {}", in_a_line(reason));
        found.add(true, what, "hikyaku user list, which tells the same until it is right");
    }
    if let Some(reason) = &signs.tokens {
        let what = format!("the tokens' file cannot be used, the one before holds: {}", in_a_line(reason));
        found.add(true, what, "hikyaku token list, which tells the same until it is right");
    }
    if let Some(reason) = &signs.audit.failure {
        let what = format!("the audit log cannot be written, and changes are refused: {reason}");
        found.add(true, what, "the disk and the mode of admin.audit; docs/runbook.md, HikyakuAuditFailed");
    }
    if let Some(reason) = &signs.audit.broken {
        let what = format!("the audit log's chain was found broken: {reason}");
        found.add(true, what, "hikyaku audit verify; docs/runbook.md, HikyakuAuditBroken");
    }
    if let Some(most) = process.most_descriptors {
        let is_near = process.descriptors >= most - most / 10;
        let what = format!("{} of {most} descriptors are open", process.descriptors);
        found.add(is_near, what, "LimitNOFILE= of the unit; limits.connections");
    }
    found.0
}

/// A text of several lines in one, without the lines in which a parser draws where it stands.
fn in_a_line(text: &str) -> String {
    let is_drawn = |line: &str| line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').starts_with('|');
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !is_drawn(line));
    lines.collect::<Vec<_>>().join(": ")
}

fn of_spool(signs: &Signs<'_>, spool: &Stat, found: &mut Found) {
    if let Some(not_ready) = signs.not_ready {
        found.add(true, not_ready.reason.clone(), "hikyaku spool stat; journalctl -u hikyaku");
    }
    let failed = signs.is_recovery_failed && signs.not_ready.is_none_or(|not_ready| !not_ready.is_recovery);
    let recovery = "recovery failed: mail of earlier starts waits on disk".to_owned();
    found.add(failed, recovery, "journalctl -u hikyaku; restart");
    let damaged = format!("{} damaged records or messages were met since the start", spool.damaged);
    found.add(spool.damaged > 0, damaged, "hikyaku spool check; quarantine/ in the spool keeps a copy");
    let given_up = format!("{} segments were given up since the start: a write or a sync failed", spool.given_up);
    found.add(spool.given_up > 0, given_up, "the spool's disk: dmesg, smartctl; journalctl -u hikyaku");
    // One in a hundred, as the alert HikyakuSyncSlow has it.
    let (all, slow) = (spool.syncs_lately, spool.slow_syncs_lately);
    let is_slow = slow >= SLOW_SYNCS && slow.saturating_mul(100) >= all;
    let what = format!("{slow} of the last {all} syncs of the spool took half a second or more");
    found.add(is_slow, what, "the spool's disk: iostat -x; who else writes to it");
}

fn of_queue(outline: &Outline, found: &mut Found) {
    for held in &outline.held {
        let what = format!("{} recipients are held: {}", held.recipients, held.reason);
        found.add(true, what, "hikyaku queue list: held ones come first");
    }
    // What a receiver refuses or is spared is told as held up; a problem is what waits for ourselves.
    let ours = |overdue: &&OverdueView| !is_held_by_receiver(overdue.cause);
    for overdue in outline.overdue.iter().filter(ours) {
        let what =
            format!("{} recipients are past their time by more than a minute: {}", overdue.entries, overdue.cause);
        found.add(true, what, "hikyaku sites; hikyaku queue show SITE");
    }
    // One that an operator wants is told beside the problems.
    for PausedWarmup { source, provider, reason, .. } in outline.paused_warmups.iter().filter(|it| it.by.is_none()) {
        let what = format!("the warm-up of {source} at {provider} has paused by itself: {reason}");
        found.add(true, what, "hikyaku warmup show; docs/runbook.md, HikyakuWarmupPaused");
    }
    let is_dns_bad = outline.dns_failing >= 3 && outline.dns_failing * 2 >= outline.dns_domains;
    let dns = format!("DNS gives no plan for {} of {} domains with mail", outline.dns_failing, outline.dns_domains);
    found.add(is_dns_bad, dns, "dns.resolvers; /etc/resolv.conf; hikyaku queue show DOMAIN");
    let queued = outline.totals.queued;
    let is_nearly_full = outline.capacity > 0 && queued >= outline.capacity - outline.capacity / 10;
    let full = format!("the queue holds {queued} of at most {} recipients", outline.capacity);
    found.add(is_nearly_full, full, "hikyaku sites; queue.max_recipients: past it submissions get 452");
}

fn of_journal(health: &Health, found: &mut Found) {
    if let Some(reason) = &health.failing {
        let what = format!("the journal cannot be written: {reason}");
        found.add(true, what, "journal.path and its disk; events gather in memory, then are lost");
    }
    if let Some(loss) = health.loss.as_ref().filter(|loss| loss.ago < RECENT) {
        let what = format!(
            "the journal has lost {} events since {}, the last one {} min ago",
            loss.events,
            loss.from,
            loss.ago.as_secs() / 60
        );
        found.add(true, what, "journal.path and its disk; `gap` lines in the journal; journal.buffer");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Loss;
    use crate::queue::view::{HeldView, Totals};

    fn of_signs(signs: &Signs<'_>) -> Vec<String> {
        let found = troubles(signs, &Outline::default(), &Stat::default(), &Process::default());
        found.into_iter().map(|trouble| trouble.what).collect()
    }

    fn all(outline: &Outline, spool: &Stat, process: &Process) -> Vec<String> {
        troubles(&Signs::default(), outline, spool, process).into_iter().map(|trouble| trouble.what).collect()
    }

    #[test]
    fn a_daemon_that_works_through_a_back_log_has_no_trouble() {
        let totals = Totals { queued: 1_000_000, scheduled: 900_000, ready: 100_000, ..Totals::default() };
        let outline = Outline { totals, capacity: 10_000_000, dns_failing: 2, dns_domains: 50, ..Outline::default() };
        let process = Process { descriptors: 500, most_descriptors: Some(1_024), ..Process::default() };

        assert_eq!(all(&outline, &Stat::default(), &process), Vec::<String>::new());
    }

    #[test]
    fn a_warm_up_that_an_operator_has_paused_is_no_trouble() {
        let by = Some("ops (uid 0)".to_owned());
        let paused_warmups = vec![PausedWarmup { by, ..PausedWarmup::default() }];

        let told = all(&Outline { paused_warmups, ..Outline::default() }, &Stat::default(), &Process::default());

        assert_eq!(told, Vec::<String>::new());
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
            paused_warmups: vec![PausedWarmup {
                source: "b1".to_owned(),
                provider: "google".to_owned(),
                reason: "3 of 40 replies".to_owned(),
                ..PausedWarmup::default()
            }],
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
            "the warm-up of b1 at google has paused by itself: 3 of 40 replies",
            "30 of 40 domains",
            "95 of at most 100",
            "990 of 1000",
        ] {
            assert!(told.iter().any(|what| what.contains(part)), "{part}: {told:?}");
        }
        assert_eq!(told.len(), 7);
    }

    #[test]
    fn a_journal_that_fails_is_told_and_a_gap_for_an_hour() {
        let loss = |ago| Some(Loss { events: 696, from: "2026-11-25T19:04:45Z".to_owned(), ago });
        let told = |failing: Option<&str>, loss| {
            let journal = Health { failing: failing.map(str::to_owned), loss };
            of_signs(&Signs { journal, ..Signs::default() })
        };

        let both = told(Some("No space left on device"), loss(Duration::from_secs(130)));

        assert_eq!(both.len(), 2, "{both:?}");
        assert!(both[0].contains("No space left"), "{both:?}");
        assert!(both[1].contains("696 events since 2026-11-25T19:04:45Z, the last one 2 min ago"), "{both:?}");
        assert_eq!(told(None, loss(RECENT)), Vec::<String>::new());
    }

    #[test]
    fn a_reload_that_failed_panics_and_a_part_that_stands_still_are_told() {
        let still = vec![("timers", STILL), ("queue", Duration::from_secs(5))];
        let reload_failure = Some("limits.connections: 0".to_owned());

        let users = Some("users.toml: user \"ann\": name".to_owned());
        let told = of_signs(&Signs { still, reload_failure, users, panics: 2, ..Signs::default() });

        assert_eq!(told.len(), 4, "{told:?}");
        let parts = ["timers has not moved for 30 s", "2 panics", "limits.connections: 0", "user \"ann\": name"];
        for (what, part) in told.iter().zip(parts) {
            assert!(what.contains(part), "{part}: {told:?}");
        }
    }

    #[test]
    fn a_source_whose_address_is_not_ours_is_told_by_name() {
        let foreign = vec![("mta1".to_owned(), "192.0.2.1".parse().unwrap())];

        let told = of_signs(&Signs { foreign, ..Signs::default() });

        assert!(told.len() == 1 && told[0].starts_with("source mta1: 192.0.2.1 is no address"), "{told:?}");
    }

    #[test]
    fn a_parser_s_drawing_becomes_one_line_with_place_and_cause() {
        let text = "x.toml: TOML parse error at line 2, column 1\n  |\n2 | segment_sise = 1\n  | ^^^^\nunknown field `segment_sise`\n";

        let said = in_a_line(text);

        assert_eq!(said, "x.toml: TOML parse error at line 2, column 1: unknown field `segment_sise`");
    }

    #[test]
    fn a_recovery_that_failed_is_told_once_and_beside_whatever_else_refuses_mail() {
        let told = |reason: &str, is_recovery| {
            let not_ready = NotReady { reason: reason.to_owned(), is_recovery };
            of_signs(&Signs { not_ready: Some(&not_ready), is_recovery_failed: true, ..Signs::default() })
        };

        assert_eq!(told("recovery failed: segment 7", true).len(), 1);
        // Its words do not matter.
        let both = told("the spool's disk is at its reserve; recovery goes on", false);
        assert!(both.len() == 2 && both[1].starts_with("recovery failed"), "{both:?}");
    }

    #[test]
    fn a_disk_that_is_slow_or_failed_a_write_is_told_and_a_single_slow_sync_is_not() {
        let told = |syncs_lately, slow_syncs_lately, given_up| {
            let spool = Stat { syncs_lately, slow_syncs_lately, given_up, ..Stat::default() };
            all(&Outline::default(), &spool, &Process::default())
        };

        assert_eq!(told(10, 2, 0), Vec::<String>::new());
        assert_eq!(told(1_000, 9, 0), Vec::<String>::new());
        assert_eq!(told(1_000, 10, 0).len(), 1);
        assert!(told(3, 3, 1)[0].contains("1 segments were given up"));
    }
}

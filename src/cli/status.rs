//! `hikyaku status`: one screen that says whether all is well, and if not, what.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::exit::Exit;
use super::patience::patiently;
use super::queue::Totals;
use super::sites::Site;
use super::spool::Stat;
use super::table::{cut, octets, plain, span, terminal_width, thousands, wrap};
use super::{Remote, client, exit, now, out, print_json};

/// Options of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// Show it again every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u32).range(1..=3_600))]
    watch: Option<u32>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    hostname: String,
    version: String,
    pid: u32,
    uptime_seconds: u64,
    state: String,
    problems: Vec<Trouble>,
    not_ready: Option<String>,
    queue: Totals,
    outline: Outline,
    spool: Stat,
    process: Process,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Trouble {
    what: String,
    next: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Outline {
    sites: u64,
    most_connections: u64,
    in_doubt: u64,
    held: Vec<Held>,
    orders: u64,
    dns_failing: u64,
    dns_domains: u64,
    dns_example: Option<String>,
    rates: Rates,
    holding_up: Vec<Site>,
    paused_warmups: Vec<Paused>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Paused {
    source: String,
    provider: String,
    by: Option<String>,
    reason: String,
    until: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Held {
    reason: String,
    recipients: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Rates {
    over_seconds: f64,
    submitted: f64,
    delivered: f64,
    deferred: f64,
    bounced: f64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Process {
    memory: u64,
    descriptors: u64,
    most_descriptors: Option<u64>,
}

impl Status {
    pub(super) async fn execute(self) -> exit::Result {
        let Some(seconds) = self.watch else { return self.once("").await };
        loop {
            // ED and CUP of ECMA-48: the screen begins anew.
            let clear = if terminal_width().is_some() && !self.remote.json { "\u{1b}[2J\u{1b}[H" } else { "" };
            self.once(clear).await?;
            tokio::time::sleep(Duration::from_secs(seconds.into())).await;
        }
    }

    async fn once(&self, before: &str) -> exit::Result {
        let asked = self.remote.client().within(client::SHORT);
        let answer: Value = patiently("waiting for the daemon", asked.get("/v1/status")).await?;
        let status: Answer = serde_json::from_value(answer.clone())?;
        if self.remote.json {
            print_json(&answer)?;
        } else {
            out::write(format!("{before}{}", status.screen(terminal_width())).as_bytes())?;
        }
        let is_well = status.problems.is_empty() && status.not_ready.is_none();
        Ok(if is_well { Exit::Ok } else { Exit::Problem })
    }
}

impl Answer {
    /// At most 24 lines, cut to `width` on a terminal, problems first.
    fn screen(&self, width: Option<usize>) -> String {
        let mut lines = self.verdict(width);
        lines.push(format!(
            "{}  hikyaku {}  pid {}  up {}  {}",
            self.hostname,
            self.version,
            self.pid,
            span(self.uptime_seconds),
            self.welcome()
        ));
        let rates = &self.outline.rates;
        lines.push(format!(
            "rates     {} submitted, {} delivered, {} deferred, {} bounced a second ({:.0} s)",
            rate(rates.submitted),
            rate(rates.delivered),
            rate(rates.deferred),
            rate(rates.bounced),
            rates.over_seconds
        ));
        let [first, second] = self.queue.summary();
        lines.push(format!("queue     {first}"));
        lines.push(format!("          {second}"));
        lines.push(format!(
            "          {} sites; at most {} connections",
            thousands(self.outline.sites),
            thousands(self.outline.most_connections)
        ));
        lines.push(format!("set aside {}", self.set_aside()));
        lines.push(format!("spool     {}", self.spool.summary()));
        lines.push(format!("dns       {}", self.dns()));
        let process = &self.process;
        let most = process.most_descriptors.map_or_else(|| "unlimited".to_owned(), thousands);
        let descriptors = thousands(process.descriptors);
        lines.push(format!("process   {} of memory, {descriptors} of {most} descriptors", octets(process.memory)));
        lines.extend(self.paused_warmups(now()));
        // What is left of the 24 lines, one left for the prompt; the heading is a line, too.
        let room = 23_usize.saturating_sub(lines.len() + 1);
        if !self.outline.holding_up.is_empty() && room > 2 {
            lines.push("holding up".to_owned());
            let sites = self.outline.holding_up.iter().map(Site::held_up);
            lines.extend(sites.flatten().filter(|line| !line.is_empty()).take(room - 1));
        }
        // Escaping twice changes nothing.
        let fitted =
            lines.iter().map(|line| plain(line)).map(|line| width.map_or(line.clone(), |width| cut(&line, width)));
        fitted.map(|line| line + "\n").collect()
    }

    /// What is wrong, in at most twelve lines.
    fn verdict(&self, width: Option<usize>) -> Vec<String> {
        if self.problems.is_empty() {
            return vec![match &self.not_ready {
                None => "all is well".to_owned(),
                Some(reason) => format!("NOT READY: {reason}"),
            }];
        }
        /// Problems told one by one, two lines each.
        const TOLD: usize = 5;
        let (count, more) = (self.problems.len(), self.problems.len().saturating_sub(TOLD));
        let mut lines = vec![format!("{count} {}", if count == 1 { "PROBLEM" } else { "PROBLEMS" })];
        // Few problems leave room for long ones.
        let mut spare = 2 * (TOLD - count.min(TOLD));
        for trouble in self.problems.iter().take(TOLD) {
            let what = format!("! {}", plain(&trouble.what));
            let told =
                width.map_or_else(|| vec![what.clone()], |width| wrap(&what, width.saturating_sub(2), 1 + spare));
            spare -= (told.len() - 1).min(spare);
            let mut told = told.into_iter();
            lines.extend(told.next());
            lines.extend(told.map(|line| format!("  {line}")));
            lines.push(format!("    look at: {}", trouble.next));
        }
        if more > 0 {
            lines.push(format!("! and {more} more: --json tells all"));
        }
        lines
    }

    fn welcome(&self) -> &str {
        match self.state.as_str() {
            "" | "accepting" => "accepting messages",
            "recovering" => "accepting messages, still raising earlier ones",
            "refusing" => "REFUSING MESSAGES",
            "draining" => "DRAINING",
            other => other,
        }
    }

    /// What no order holds: the queue's line counts that.
    fn set_aside(&self) -> String {
        let held = &self.outline.held;
        let parts = held.iter().map(|held| format!("{} {}", thousands(held.recipients), held.reason));
        let held = match held.is_empty() {
            true => "none damaged or in doubt".to_owned(),
            false => parts.collect::<Vec<_>>().join(", "),
        };
        let orders = match self.outline.orders {
            0 => String::new(),
            1 => "; 1 order stands".to_owned(),
            count => format!("; {} orders stand", thousands(count)),
        };
        format!("{held}; {} tried again in doubt{orders}", thousands(self.outline.in_doubt))
    }

    /// Warm-ups that an operator has paused; those that paused by themselves are problems.
    fn paused_warmups(&self, now: u64) -> Option<String> {
        let mut paused = self.outline.paused_warmups.iter().filter_map(|it| Some((it, it.by.as_deref()?)));
        let (Paused { source, provider, reason, until, .. }, by) = paused.next()?;
        let end = match until {
            Some(until) => format!("for {} more", span(until.saturating_sub(now))),
            None => "until it is resumed".to_owned(),
        };
        let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let more = match paused.count() {
            0 => String::new(),
            count => format!("{count} more paused (hikyaku warmup show); "),
        };
        Some(format!("warm-up   {more}{source} at {provider} is paused by {by} {end}{why}"))
    }

    fn dns(&self) -> String {
        let outline = &self.outline;
        match (outline.dns_failing, &outline.dns_example) {
            (0, _) | (_, None) => "no trouble".to_owned(),
            (count, Some(example)) => {
                format!("{count} of {} domains with mail have no plan, such as {example}", outline.dns_domains)
            }
        }
    }
}

/// A rate for people.
fn rate(a_second: f64) -> String {
    if a_second == 0.0 || a_second >= 10.0 { format!("{a_second:.0}") } else { format!("{a_second:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(value: serde_json::Value) -> Answer {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_healthy_daemon_says_so_first() {
        let screen = answer(serde_json::json!({"hostname": "mta.test", "state": "accepting"})).screen(Some(80));

        assert!(screen.starts_with("all is well\nmta.test"), "{screen}");
    }

    #[test]
    fn the_worst_case_fits_a_screen_and_hostile_text_does_not_reach_the_terminal() {
        let problem = serde_json::json!({"what": "x".repeat(200), "next": "y\u{1b}[2J"});
        let site = serde_json::json!({"site": "a\u{1b}]0;x\u{7}.test", "ready": 9, "last_reply": "z".repeat(300)});
        let screen = answer(serde_json::json!({
            "hostname": "mta.test", "state": "accepting", "problems": vec![problem; 9],
            "outline": {"holding_up": vec![site; 3], "dns_failing": 3, "dns_example": "d\r\n.test: no answer"},
        }))
        .screen(Some(80));

        assert!(screen.lines().count() <= 23, "{screen}");
        assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
        assert!(!screen.contains('\u{1b}') && !screen.contains('\r'), "{screen}");
        assert!(screen.starts_with("9 PROBLEMS") && screen.contains("and 4 more"), "{screen}");
    }

    #[test]
    fn a_warm_up_that_an_operator_has_paused_is_told_and_all_is_well() {
        let own = serde_json::json!({"source": "b1", "provider": "yahoo", "reason": "bad replies"});
        let paused = serde_json::json!({"source": "b1", "provider": "google", "by": "ops", "reason": "ticket 4711"});
        let told = |paused: &[&serde_json::Value]| {
            answer(serde_json::json!({"outline": {"paused_warmups": paused}})).screen(None)
        };

        let (one, two) = (told(&[&own, &paused]), told(&[&paused, &paused]));

        let line = "b1 at google is paused by ops until it is resumed: ticket 4711\n";
        assert!(one.starts_with("all is well\n") && one.contains(&format!("warm-up   {line}")), "{one}");
        assert!(two.contains(&format!("warm-up   1 more paused (hikyaku warmup show); {line}")), "{two}");
        assert!(!told(&[&own]).contains("warm-up"), "{}", told(&[&own]));
    }

    #[test]
    fn a_long_problem_is_wrapped_and_its_end_is_seen() {
        let what = format!("the last reload failed: {}unknown field `segment_sise`", "x.toml: line 2 ".repeat(20));
        let problem = serde_json::json!({"what": what, "next": "hikyaku check"});
        let screen = answer(serde_json::json!({"problems": [problem]})).screen(Some(80));

        assert!(screen.contains("field `segment_sise`\n    look at"), "{screen}");
        assert!(screen.lines().count() <= 23 && screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    }

    #[test]
    fn sites_that_hold_mail_up_are_named_with_their_cause() {
        let screen = answer(serde_json::json!({
            "outline": {"holding_up": [{"site": "big.test", "ready": 5, "scheduled": 1_200, "back_off_seconds": 12,
                "back_off_reason": "greeting at mx: 421 4.7.0 later"}]},
        }))
        .screen(Some(80));

        assert!(screen.contains("  big.test: 1,205 recipients, back-off for 12s\n"), "{screen}");
        assert!(screen.contains("      greeting at mx: 421 4.7.0 later\n"), "{screen}");
    }
}

//! `hikyaku queue show`: one site in every detail.

use serde::Deserialize;
use serde_json::Value;

use super::client::escaped;
use super::exit::Exit;
use super::pools::{Way, way_table};
use super::sites::Site;
use super::table::{Table, cut, extra, long, number, plain, span, terminal_width, text, thousands};
use super::{Remote, exit, out, print_json};

/// Options of `queue show`.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The site as `hikyaku sites` shows it, or a domain whose mail goes to it
    #[arg(value_name = "SITE")]
    name: String,
    /// At most so many connections
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Detail {
    summary: Site,
    depth: Vec<Depth>,
    replies: Vec<Reply>,
    limits: Vec<Limit>,
    paths: Vec<Way>,
    connections: Vec<Connection>,
    next: Vec<Event>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Depth {
    tenant: String,
    lane: String,
    ready: u64,
    scheduled: u64,
    kept: u64,
    in_flight: u64,
    oldest_seconds: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reply {
    reply: String,
    recipients: u64,
    seconds_ago: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Limit {
    what: String,
    of: String,
    most: Option<u64>,
    per_seconds: Option<u64>,
    used: Option<u64>,
    room_in_seconds: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Connection {
    state: String,
    step: Option<String>,
    for_seconds: f64,
    mx_host: Option<String>,
    mx_address: Option<String>,
    source: String,
    tls: bool,
    tls_version: Option<String>,
    tls_verified: Option<String>,
    tls_policy: Option<String>,
    messages: u64,
    age_seconds: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Event {
    in_seconds: Option<f64>,
    event: String,
    cause: Option<String>,
}

impl Show {
    pub(super) async fn execute(self) -> exit::Result {
        let path = format!("/v1/queue/site?name={}", escaped(&self.name));
        let answer: Value = self.remote.get(&path).await?;
        if self.remote.json {
            return print_json(&answer);
        }
        let detail: Detail = serde_json::from_value(answer)?;
        let most = usize::try_from(self.connections).unwrap_or(usize::MAX);
        out::write(detail.text(terminal_width(), most).as_bytes())?;
        Ok(Exit::Ok)
    }
}

impl Detail {
    fn text(&self, width: Option<usize>, most: usize) -> String {
        let line = |text: &str| {
            let text = plain(text);
            width.map_or_else(|| text.clone(), |width| cut(&text, width)) + "\n"
        };
        let summary = &self.summary;
        let kept = match summary.kept {
            0 => String::new(),
            kept => format!("{} kept by orders, ", thousands(kept)),
        };
        let mut text = line(&format!(
            "{}: {} ready, {} scheduled, {kept}{} in flight, {} connections",
            summary.site,
            thousands(summary.ready),
            thousands(summary.scheduled),
            thousands(summary.in_flight),
            thousands(summary.connections)
        ));
        text += &line(&format!(
            "since it was met: {} delivered, {} deferred, {} bounced",
            thousands(summary.delivered),
            thousands(summary.deferred),
            thousands(summary.bounced)
        ));
        // A domain without a site has no counts of replies, but a reason.
        if let Some(reply) = summary.last_reply.as_ref().filter(|_| self.replies.is_empty()) {
            text +=
                &line(&format!("last reply, for {} recipients: {reply}", thousands(summary.ready + summary.scheduled)));
        }
        text += "\nNEXT\n";
        for event in &self.next {
            text += &line(&format!("  {}", event.told()));
            text += &event.cause.as_ref().map(|cause| line(&format!("      because of {cause}"))).unwrap_or_default();
        }
        if self.next.is_empty() {
            text += "  nothing waits\n";
        }
        let tables = [
            (self.depths(), self.depth.len(), self.depth.len()),
            (self.replies(), self.replies.len(), self.replies.len()),
            (self.limits(), self.limits.len(), self.limits.len()),
            (way_table(self.paths.iter()), self.paths.len(), self.paths.len()),
            (self.connections(most), self.connections.len(), most),
        ];
        for (table, rows, most) in tables.iter().filter(|(table, _, _)| !table.is_empty()) {
            text.push('\n');
            text += &table.render(width);
            if rows > most {
                text += &format!("... and {} more\n", rows - most);
            }
        }
        text
    }

    fn depths(&self) -> Table {
        let columns = [
            long("TENANT"),
            text("LANE"),
            number("READY"),
            number("SCHEDULED"),
            number("IN FLIGHT"),
            number("KEPT"),
            number("OLDEST"),
        ];
        let mut table = Table::new(&columns);
        for depth in &self.depth {
            table.row([
                depth.tenant.clone(),
                depth.lane.clone(),
                depth.ready.to_string(),
                depth.scheduled.to_string(),
                depth.in_flight.to_string(),
                depth.kept.to_string(),
                span(depth.oldest_seconds),
            ]);
        }
        table
    }

    fn replies(&self) -> Table {
        let mut table = Table::new(&[number("RECIPIENTS"), number("LAST"), long("REPLY")]);
        for reply in &self.replies {
            let last = format!("{} ago", span(reply.seconds_ago));
            table.row([reply.recipients.to_string(), last, reply.reply.clone()]);
        }
        table
    }

    fn limits(&self) -> Table {
        let mut table = Table::new(&[text("LIMIT"), long("OF"), number("MOST"), number("USED"), text("ROOM")]);
        for limit in &self.limits {
            let most = limit.most.map_or_else(|| "-".to_owned(), |most| most.to_string());
            let most = limit.per_seconds.map_or_else(|| most.clone(), |seconds| format!("{most}/{}", span(seconds)));
            let room = match (limit.room_in_seconds, limit.used, limit.most) {
                (Some(seconds), ..) => format!("in {seconds:.1} s"),
                (None, Some(used), Some(most)) if used >= most => "none".to_owned(),
                _ => String::new(),
            };
            let used = limit.used.map(|used| used.to_string()).unwrap_or_default();
            table.row([limit.what.clone(), limit.of.clone(), most, used, room]);
        }
        table
    }

    fn connections(&self, most: usize) -> Table {
        let mut table = Table::new(&[
            text("CONNECTION"),
            number("FOR"),
            long("MX HOST"),
            extra("ADDRESS"),
            extra("SOURCE"),
            text("TLS"),
            extra("VERIFIED"),
            extra("POLICY"),
            number("MESSAGES"),
            number("AGE"),
        ]);
        for connection in self.connections.iter().take(most) {
            let state = match &connection.step {
                Some(step) => format!("{} {step}", connection.state),
                None => connection.state.clone(),
            };
            table.row([
                state,
                format!("{:.1}s", connection.for_seconds),
                connection.mx_host.clone().unwrap_or_default(),
                connection.mx_address.clone().unwrap_or_default(),
                connection.source.clone(),
                match (&connection.tls_version, connection.tls) {
                    (Some(version), _) => version.clone(),
                    (None, true) => "yes".to_owned(),
                    (None, false) => "no".to_owned(),
                },
                connection.tls_verified.clone().unwrap_or_default(),
                connection.tls_policy.clone().unwrap_or_default(),
                connection.messages.to_string(),
                span(connection.age_seconds),
            ]);
        }
        table
    }
}

impl Event {
    fn told(&self) -> String {
        match self.in_seconds {
            Some(seconds) if seconds < 0.05 => format!("now: {}", self.event),
            Some(seconds) if seconds < 10.0 => format!("in {seconds:.1} s: {}", self.event),
            // Rounded up: it does not happen before.
            Some(seconds) => format!("in {}: {}", span(whole(seconds)), self.event),
            None => self.event.clone(),
        }
    }
}

/// Whole seconds, rounded up.
pub(super) fn whole(seconds: f64) -> u64 {
    std::time::Duration::try_from_secs_f64(seconds.max(0.0).ceil()).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail() -> Detail {
        serde_json::from_value(serde_json::json!({
            "summary": {"site": "big.test", "ready": 3, "scheduled": 1_000, "delivered": 12},
            "depth": [{"tenant": "acme\u{1b}[31m", "lane": "bulk", "ready": 3, "scheduled": 1_000, "oldest_seconds": 90}],
            "replies": [{"reply": "rcpt at mx.big.test: 450 4.2.0 * busy\r\nX", "recipients": 7, "seconds_ago": 5}],
            "limits": [{"what": "connections", "of": "site", "most": 20, "used": 20},
                {"what": "messages", "of": "site", "most": 100, "per_seconds": 60, "room_in_seconds": 2.51}],
            "connections": [{"state": "transaction", "step": "end-of-data", "for_seconds": 4.2,
                "mx_host": "mx.big.test", "mx_address": "192.0.2.1:25", "source": "a", "messages": 9}],
            "next": [{"in_seconds": 11.2, "event": "the back-off ends", "cause": "greeting: 421 4.7.0 later"},
                {"in_seconds": null, "event": "a connection ends"}],
        }))
        .unwrap()
    }

    #[test]
    fn one_site_is_told_in_80_columns_without_control_characters() {
        let text = detail().text(Some(80), 20);

        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains('\r'), "{text}");
        for part in [
            "big.test: 3 ready, 1,000 scheduled",
            "in 12s: the back-off ends",
            "because of greeting: 421 4.7.0 later",
            "transaction end-of-data",
            "in 2.5 s",
            "none",
            "acme\\u{1b}[31m",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn connections_past_the_limit_are_counted() {
        let mut detail = detail();
        detail.connections = (0..5).map(|_| Connection::default()).collect();

        assert!(detail.text(None, 2).ends_with("... and 3 more\n"));
    }
}

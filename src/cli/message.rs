//! `hikyaku message`: one unfinished message, its recipients and its header section; and its end by an operator.

use super::exit::Exit;
use super::find::Find;
use super::queue::Attempt;
use super::table::{Table, below, extra, long, number, octets, plain, span, text};
use super::{Remote, exit, now, orders, out, print_json};
use crate::admin::MessageView;
use crate::message::MessageId;
use crate::state::Action;

/// Sub-commands of `message`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Message {
    /// Show an unfinished message: envelope, recipients and header section
    Show(Show),
    /// Find messages by recipient, sender, tenant or campaign, queued or ended
    Find(Box<Find>),
    /// Give up what is left of a message, without a DSN
    Delete(End),
    /// Give up what is left of a message, with a DSN to its sender
    Bounce(End),
}

/// Options of `message delete` and `message bounce`.
#[derive(Debug, clap::Args)]
pub(super) struct End {
    /// The message's id, as `queue list`, replies to the submission and the log give it
    id: MessageId,
    /// Why: in the journal, and in the DSN
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    remote: Remote,
}

/// Options of `message show`.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The message's id, as `queue list`, replies to the submission and the log give it
    id: MessageId,
    #[command(flatten)]
    remote: Remote,
}

impl Message {
    pub(super) async fn execute(self) -> exit::Result {
        match self {
            Self::Show(show) => show.execute().await,
            Self::Find(find) => find.execute().await,
            Self::Delete(end) => end.execute(Action::Delete).await,
            Self::Bounce(end) => end.execute(Action::Bounce).await,
        }
    }
}

impl End {
    async fn execute(self, action: Action) -> exit::Result {
        orders::end_message(&self.remote, &self.id.to_string(), action, self.reason).await
    }
}

impl Show {
    async fn execute(self) -> exit::Result {
        let view: MessageView = self.remote.get(&format!("/v1/message/{}", self.id)).await?;
        if self.remote.json {
            return print_json(&view);
        }
        let now = now();
        out::write(summary(&view, now).as_bytes())?;
        recipient_table(&view, now).print()?;
        let header: Vec<String> = view.header.split("\r\n").map(header_line).collect();
        out::line(format_args!("\n{}", header.join("\n")))?;
        Ok(Exit::Ok)
    }
}

/// A line of the header section. Folded fields often begin with a tab, which cannot disturb a terminal.
fn header_line(line: &str) -> String {
    line.split('\t').map(plain).collect::<Vec<_>>().join("\t")
}

fn summary(view: &MessageView, now: u64) -> String {
    let age = span(now.saturating_sub(u64::from(view.accepted)));
    let lines = [
        ("message", format!("{} ({}), {}, accepted {age} ago", view.message_id, view.kind, octets(view.size))),
        ("reverse-path", format!("<{}>", view.reverse_path)),
        ("tenant", view.tenant.clone()),
        ("campaign", view.campaign.clone()),
        ("class", view.class.clone()),
        ("lane", view.lane.clone()),
        ("ENVID", view.envid.clone().unwrap_or_default()),
        ("RET", view.ret.clone().unwrap_or_default()),
        ("TLS", wish(view.tls.as_deref()).to_owned()),
    ];
    let said = lines.iter().filter(|(_, value)| !value.is_empty());
    said.map(|(name, value)| format!("{name:<13} {}\n", plain(value))).collect()
}

/// What the sender asks of TLS.
fn wish(tls: Option<&str>) -> &'static str {
    match tls {
        Some("required") => "REQUIRETLS",
        Some("waived") => "TLS-Required: No",
        _ => "",
    }
}

fn recipient_table(view: &MessageView, now: u64) -> Table {
    let mut table = Table::new(&[
        long("FORWARD-PATH"),
        text("STATE"),
        number("ATTEMPTS"),
        number("DUE IN"),
        extra("SITE"),
        extra("NOTIFY"),
        below("NOW / LAST REPLY"),
    ]);
    for recipient in &view.recipients {
        let since = recipient.since.map(u64::from);
        let due = recipient.due.map(u64::from).filter(|_| since.is_none());
        let attempt = Attempt { since, in_doubt: recipient.in_doubt, mx_address: recipient.mx_address.as_deref() };
        table.row([
            recipient.forward_path.clone(),
            recipient.state.clone(),
            recipient.attempts.map(|attempts| attempts.to_string()).unwrap_or_default(),
            due.map(|due| if due > now { span(due - now) } else { "now".to_owned() }).unwrap_or_default(),
            recipient.site.clone().unwrap_or_default(),
            recipient.notify.clone(),
            attempt.describe(recipient.last_reply.as_deref(), now),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_fields_keep_their_tab_and_nothing_else_that_controls() {
        assert_eq!(header_line("\tfolded\u{1b}[1m"), "\tfolded\\u{1b}[1m");
    }

    #[test]
    fn hostile_header_values_are_escaped_and_empty_fields_left_out() {
        let view: MessageView = serde_json::from_value(serde_json::json!({
            "message_id": "0000000000007", "accepted": 940, "reverse_path": "", "tenant": "a\u{1b}[1m", "campaign": "",
            "lane": "normal", "kind": "submitted", "size": 2048, "envid": null, "ret": null, "header": "",
            "recipients": [{"forward_path": "a@x.test", "notify": "", "state": "scheduled", "site": null,
                "attempts": 2, "due": 1060}],
        }))
        .unwrap();

        let text = summary(&view, 1_000);

        assert!(text.contains("(submitted), 2.0 KiB, accepted 1m 0s ago") && text.contains("a\\u{1b}[1m"), "{text}");
        assert!(!text.contains("campaign"), "{text}");
        assert!(recipient_table(&view, 1_000).render(None).contains("scheduled         2   1m 0s"));
    }
}

//! Whether a message is from a mail system that tells of a failure, or from a person.
//!
//! People write about bounces, forward them and attach messages. So what a text says counts only with a sign that a system
//! wrote it.

use super::mail::Mail;
use super::{shape, words};

/// Signs that a message is a bounce.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Evidence {
    /// Its author is a mail system, or somebody who runs one.
    pub is_system: bool,
    /// Its author is MAILER-DAEMON, which writes nothing else.
    pub is_daemon: bool,
    /// It was sent from the null reverse-path.
    pub is_null: bool,
    /// Its subject is that of a notification.
    pub is_notice: bool,
    /// It begins so.
    pub begins_notice: bool,
    /// Its subject has words that notifications have, too.
    pub is_perhaps_notice: bool,
    /// It has X-Failed-Recipients.
    pub has_failed: bool,
    /// It is a multipart/report.
    pub is_delivery_report: bool,
    /// Its text tells of a failure.
    pub tells: bool,
    /// A refusal is quoted in it.
    pub quotes: bool,
    /// A message came back with it.
    pub returns: bool,
    /// It says of itself that it answers (RFC 3834).
    pub is_answer: bool,
    /// A person's program has made it, or it is a newsletter: it answers, or says so.
    pub is_from_person: bool,
    /// A system's notification stands in it, quoted.
    pub quotes_system: bool,
    /// Neither author nor reverse-path nor fields are a mail system's.
    pub is_ordinary: bool,
    /// So it is, with an ordinary reverse-path, and by its subject somebody passes something on.
    pub is_passed_on: bool,
    /// Likewise, and answers.
    pub answers: bool,
    /// It says of itself that it answers nothing (RFC 3834, 5), or begins as people do.
    pub is_by_itself: bool,
}

impl Evidence {
    /// Of a message.
    pub fn of(mail: &Mail) -> Self {
        let from = mail.header.get("from").unwrap_or_default();
        let subject = mail.header.get("subject").unwrap_or_default();
        let value = |name: &str| mail.header.get(name).unwrap_or_default().trim().to_ascii_lowercase();
        let path = value("return-path");
        let quoted = mail.lines.iter().chain(&mail.behind).take(200);
        let quoted = quoted.filter_map(|line| line.trim_start_matches(['>', ' ', '\t']).strip_prefix("From: "));
        let paragraphs = shape::paragraphs(&mail.lines);
        let first = || paragraphs.iter().take(64);
        let is_system = words::is_system(from) || is_list_server(mail, from) || mail.header.has("x-mailerdaemon");
        let is_null = path == "<>" || path.starts_with("<mailer-daemon") || path.starts_with("mailer-daemon");
        let is_ordinary = !is_system && !is_null && !mail.header.has("x-failed-recipients");
        let is_generated = value("auto-submitted").starts_with("auto-generated");
        Self {
            is_system,
            is_daemon: words::is_daemon(from),
            is_null,
            is_notice: words::is_notice(subject),
            begins_notice: words::begins_notice(subject),
            is_perhaps_notice: words::is_perhaps_notice(subject),
            has_failed: mail.header.has("x-failed-recipients"),
            is_delivery_report: matches!(mail.report.as_deref(), Some("delivery-status" | "delivery-report"))
                || !mail.status.is_empty()
                || is_rejection(mail),
            tells: first().any(|text| words::tells_failure(&text.to_lowercase())),
            quotes: first().any(|text| shape::quotes(text)),
            returns: mail.has_returned || !mail.behind.is_empty(),
            is_answer: value("auto-submitted").starts_with("auto-replied"),
            is_from_person: is_from_person(mail),
            quotes_system: quoted.into_iter().any(words::is_system),
            is_ordinary,
            is_passed_on: is_ordinary && !path.is_empty() && words::is_passed_on(subject),
            answers: is_ordinary && !path.is_empty() && words::is_answer(subject),
            is_by_itself: is_generated || first().next().is_some_and(|text| words::is_greeting(text)),
        }
    }

    /// Whether fields of RFC 3464 in it are its own.
    pub fn is_report(&self) -> bool {
        if self.is_passed_on || self.answers {
            return false;
        }
        self.is_delivery_report
            || self.is_system
            || self.is_null
            || self.has_failed
            || self.is_notice && (!self.is_from_person || self.quotes_system)
    }

    /// Whether text alone may make it a bounce.
    pub fn is_enough(&self) -> bool {
        let points = 2 * u8::from(self.is_system)
            + u8::from(self.is_daemon)
            + 2 * u8::from(self.is_notice)
            // In the middle of a subject the words may be about anything, unless the text says so, too.
            + u8::from(self.begins_notice || self.is_notice && self.tells)
            + u8::from(self.is_perhaps_notice && !self.is_notice)
            + 3 * u8::from(self.has_failed)
            + u8::from(self.is_null)
            + 2 * u8::from(self.is_delivery_report)
            + u8::from(self.tells)
            + u8::from(self.quotes || self.returns);
        // Somebody who runs a mail system answers questions, too.
        let is_notification = self.is_daemon
            || self.is_notice
            || self.is_perhaps_notice
            || self.has_failed
            || self.is_delivery_report
            || self.returns;
        let is_from_person =
            self.is_from_person && !self.is_null && !(self.is_system && (is_notification || !self.is_by_itself));
        let is_by_itself = self.is_ordinary && self.is_by_itself && !self.is_delivery_report;
        points >= 4 && !is_from_person && !self.is_passed_on && !is_by_itself
    }

    /// Whether nothing but words say so: no mail system, no reply that is quoted, no message that came back.
    pub fn is_words_only(&self) -> bool {
        self.is_ordinary && !self.quotes && !self.returns && !self.is_delivery_report
    }
}

/// Fields that programs of people, lists and senders of newsletters add. Lists pass bounces on to their owners, too: so none
/// of these counts against a mail system as the author.
const OF_PEOPLE: [&str; 6] = ["in-reply-to", "references", "user-agent", "x-mimeole", "list-id", "list-unsubscribe"];
/// Programs of people, by the beginning of X-Mailer.
const PROGRAMS: [&str; 10] = [
    "microsoft outlook",
    "microsoft office outlook",
    "outlook express",
    "apple mail",
    "iphone mail",
    "ipad mail",
    "mozilla",
    "thunderbird",
    "the bat",
    "roundcube",
];

fn is_from_person(mail: &Mail) -> bool {
    let program = mail.header.get("x-mailer").unwrap_or_default().to_ascii_lowercase();
    OF_PEOPLE.iter().any(|name| mail.header.has(name)) || PROGRAMS.iter().any(|start| program.starts_with(start))
}

/// Whether the manager of a mailing list writes, and not a subscriber.
fn is_list_server(mail: &Mail, from: &str) -> bool {
    let local = super::address::only(from).and_then(|address| address.split('@').next());
    let is_manager = local
        .is_some_and(|local| local.ends_with("-admin") || local.ends_with("-request") || local.ends_with("-owner"));
    is_manager && mail.header.has("x-mlserver")
}

/// Whether a report on the disposition of a message (RFC 8098) says that it was refused, as Dovecot and Sieve (RFC 5429) do.
fn is_rejection(mail: &Mail) -> bool {
    let is_deleted = mail.disposition.iter().any(|line| {
        let lower = line.to_ascii_lowercase();
        lower.starts_with("disposition:") && ["deleted", "failed", "denied"].iter().any(|word| lower.contains(word))
    });
    let is_told = |line: &String| ["rejected", "refused"].iter().any(|word| line.to_lowercase().contains(word));
    is_deleted && mail.lines.iter().any(is_told)
}

//! From what a report says to what it means: one text a recipient, its codes, its class.
//!
//! A report says the same thing several times and not always at the place made for it: a Diagnostic-Code may be cut off or
//! missing while a transcript tells all. The classifier is the judge: the first text decides that says more than a code does.
//!
//! A text is judged once for what is known beside it, and texts that are about nobody in particular are tried once for all
//! recipients of whom the same is known: a report about a thousand of them costs little more than one about one.

use std::sync::Arc;

use super::entry::Entry;
use super::heard::{HashMap, Heard, Place, Quote};
use super::mail::Mail;
use super::result::{Action, Recipient};
use crate::message::Phase;
use crate::provider::Map;
use crate::reply::{Certainty, Class, Classifier, Refusal, Verdict};
use crate::smtp::status::Status;

/// Octets that are judged beside what recipients have of their own: at least, and for each octet of the words for people. The same
/// text is judged again where something else is known beside it.
const LEAST: usize = 64 * 1024;
const TIMES: usize = 4;
/// Longest diagnostic that is kept.
const DIAGNOSTIC_MOST: usize = 2_000;

/// What is known beside a text: the status that the report states, and whose words they are.
type Beside = (Option<Status>, Option<Arc<str>>);

/// Which texts are tried.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Scope {
    /// What is said of the recipient.
    Own,
    /// Replies that stand below a group of addresses.
    Group(usize),
    /// Replies that are about nobody in particular.
    Quotes,
    /// Paragraphs that are about the recipient.
    OwnParagraphs,
    /// Paragraphs that are about nobody in particular.
    Paragraphs,
}

impl Scope {
    /// Whether they may be about anything.
    fn is_anywhere(self) -> bool {
        matches!(self, Self::OwnParagraphs | Self::Paragraphs)
    }

    /// Whether they may be about any recipient.
    fn is_for_all(self) -> bool {
        matches!(self, Self::Quotes | Self::Paragraphs)
    }
}

/// What is said in a report, and who judges it.
pub(super) struct Judge<'a> {
    classifier: &'a Classifier,
    providers: &'a Map,
    heard: Heard,
    verdicts: HashMap<(Place, Option<Phase>, Beside), Option<Verdict>>,
    /// What has come of texts that are about several.
    shared: HashMap<(Scope, Beside), Tried>,
    /// Octets that may still be judged beside what recipients have of their own.
    left: usize,
}

/// A text that may be the reason, judged.
#[derive(Clone)]
struct Reason {
    place: Place,
    verdict: Option<Verdict>,
}

/// What has come of texts that were tried.
#[derive(Clone, Default)]
struct Tried {
    /// The one that decides, else the best of the others.
    best: Option<Reason>,
    is_decided: bool,
}

impl<'a> Judge<'a> {
    /// Of a message.
    pub fn of(classifier: &'a Classifier, providers: &'a Map, mail: &'a Mail) -> Self {
        let octets: usize = mail.lines.iter().map(String::len).sum();
        Self {
            classifier,
            providers,
            heard: Heard::of(mail),
            verdicts: HashMap::default(),
            shared: HashMap::default(),
            left: LEAST + TIMES * octets,
        }
    }

    /// Whether a refusal is quoted anywhere.
    pub fn has_reply(&self) -> bool {
        self.heard.has_reply()
    }

    /// What each entry means.
    pub fn settle(&mut self, entries: Vec<Entry>) -> Vec<Recipient> {
        self.heard.sort(&entries);
        entries.into_iter().map(|entry| self.recipient(entry)).collect()
    }

    fn recipient(&mut self, entry: Entry) -> Recipient {
        let provider = self.provider(&entry);
        let action = entry.action.unwrap_or(match entry.status {
            Some(Status { class: 2, .. }) => Action::Delivered,
            _ if self.heard.is_delay => Action::Delayed,
            _ => Action::Failed,
        });
        let is_refused = matches!(action, Action::Failed | Action::Delayed);
        let address = entry.address.as_deref().unwrap_or_default().to_ascii_lowercase();
        let Reason { place, verdict } = if is_refused {
            self.reason(&entry, &address, provider)
        } else {
            Reason { place: self.heard.texts.keep(&entry.text), verdict: None }
        };
        let (text, diagnostic) = self.heard.texts.at(place);
        // A text without a reply may be the better reason, but a reply that is quoted beside it is a fact.
        let reply_code = if diagnostic.code == 0 && is_refused { self.code_beside(&address) } else { diagnostic.code };
        let status = diagnostic.status.or(entry.status).or_else(|| {
            let mut places = self.facts(&address);
            places.find_map(|place| self.heard.texts.at(place).1.status)
        });
        let end = (0..=text.len().min(DIAGNOSTIC_MOST)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let diagnostic = text.get(..end).unwrap_or_default().to_owned();
        Recipient {
            address: entry.address,
            original: entry.original,
            action: Some(action),
            status,
            reply_code,
            diagnostic,
            remote_mta: entry.remote_mta,
            verdict,
        }
    }

    /// Whose words they are.
    fn provider(&self, entry: &Entry) -> Option<Arc<str>> {
        let of_host = entry.remote_mta.as_deref().and_then(|host| self.providers.find(&host.to_ascii_lowercase()));
        let domain = || {
            entry
                .address
                .as_deref()
                .and_then(|address| address.rsplit_once('@'))
                .map(|(_, domain)| domain.to_ascii_lowercase())
        };
        of_host.or_else(|| self.providers.of_domain(&domain()?)).cloned()
    }

    /// Replies that are about an address, in lower case: by name, then by where they stand.
    fn quotes(&self, address: &str) -> impl Iterator<Item = Quote> + '_ {
        let by_place = self.heard.groups_of(address).flat_map(|group| self.heard.quotes_of_group(group));
        self.heard.quotes_of(address).chain(by_place.copied())
    }

    /// The same; if there is one recipient only, those that name nobody, too.
    fn facts(&self, address: &str) -> impl Iterator<Item = Place> + '_ {
        let of_all = self.heard.quotes_of_all().iter().filter(|_| !self.heard.is_about_several());
        self.quotes(address).chain(of_all.copied()).map(|(place, _)| place)
    }

    fn code_beside(&self, address: &str) -> u16 {
        let places = self.heard.told(address).into_iter().chain(self.facts(address));
        places.map(|place| self.heard.texts.code(place)).find(|code| *code >= 400).unwrap_or(0)
    }

    /// What is the reason for an entry; `address`: its own, in lower case.
    fn reason(&mut self, entry: &Entry, address: &str, provider: Option<Arc<str>>) -> Reason {
        let beside = (entry.status, provider);
        let own = self.heard.texts.keep(&entry.text);
        let told = self.heard.told(address);
        let code = self.heard.texts.code(own);
        let mut quotes = self.quotes(address).chain(self.heard.quotes_of_all().iter().copied());
        let quoted = quotes.find(|(place, step)| step.is_some() && self.heard.texts.code(*place) == code);
        drop(quotes);
        let of_told = told.and_then(|told| self.heard.texts.at(told).1.step);
        let step = entry.step.or(of_told).or(quoted.and_then(|(_, step)| step));
        let mut texts = Vec::new();
        // The list of addresses may have taken another's for it.
        if !(self.heard.is_told_of_others(address) && self.heard.is_told(address, own)) {
            texts.push((own, step));
        }
        texts.extend(told.filter(|told| *told != own).map(|told| (told, None)));
        texts.extend(self.heard.quotes_of(address));
        let mut tried = self.tried(&texts, Scope::Own, &beside);
        let groups: Vec<usize> = self.heard.groups_of(address).collect();
        for scope in groups.into_iter().map(Scope::Group).chain([Scope::Quotes]) {
            if !tried.is_decided {
                tried = tried.or(self.tried_shared(scope, &beside), self);
            }
        }
        // Who quotes a reply has said all; else it may stand anywhere.
        if !tried.is_decided && code == 0 {
            let texts: Vec<Quote> = self.heard.paragraphs_of(address).map(|place| (place, None)).collect();
            tried = tried.or(self.tried(&texts, Scope::OwnParagraphs, &beside), self);
            if !tried.is_decided {
                tried = tried.or(self.tried_shared(Scope::Paragraphs, &beside), self);
            }
        }
        match tried.best {
            Some(best) if tried.is_decided || self.heard.texts.code(best.place) != 0 => best,
            best => {
                // What the report's own status says.
                let nothing = self.heard.texts.keep("");
                let verdict = self.judge(nothing, None, &beside);
                Reason { place: best.map_or(nothing, |best| best.place), verdict }
            }
        }
    }

    /// What comes of texts that are about several recipients, of whom the same is known.
    fn tried_shared(&mut self, scope: Scope, beside: &Beside) -> Tried {
        let key = (scope, beside.clone());
        if let Some(known) = self.shared.get(&key) {
            return known.clone();
        }
        let texts: Vec<Quote> = match scope {
            Scope::Own | Scope::OwnParagraphs => Vec::new(),
            Scope::Group(group) => self.heard.quotes_of_group(group).to_vec(),
            Scope::Quotes => self.heard.quotes_of_all().to_vec(),
            Scope::Paragraphs => self.heard.paragraphs_of_all().iter().map(|place| (*place, None)).collect(),
        };
        let tried = self.tried(&texts, scope, beside);
        self.shared.insert(key, tried.clone());
        tried
    }

    /// Tries texts: the first that decides; else the first that quotes a reply, or the first.
    fn tried(&mut self, texts: &[Quote], scope: Scope, beside: &Beside) -> Tried {
        let mut tried = Tried::default();
        // What finishes one of several, and names none, may be about another.
        let is_perhaps_anothers = scope.is_for_all() && self.heard.is_about_several();
        for (number, (place, step)) in texts.iter().enumerate() {
            let (text, diagnostic) = self.heard.texts.at(*place);
            if text.trim().is_empty() {
                continue;
            }
            let has_code = diagnostic.code != 0;
            let (is_reply, has_occurred) = (has_code || diagnostic.status.is_some(), text.contains("occurred"));
            if (number > 0 || scope != Scope::Own) && !self.verdicts.contains_key(&(*place, *step, beside.clone())) {
                let Some(left) = self.left.checked_sub(text.len()) else { break };
                self.left = left;
            }
            let mut verdict = self.judge(*place, *step, beside);
            if is_perhaps_anothers && verdict.as_ref().is_some_and(Verdict::permanent) {
                continue;
            }
            // "An error occurred" stands at the head of many a report that is about something else.
            let is_fault = verdict.as_ref().is_some_and(|verdict| verdict.class == Class::System);
            if is_fault && !is_reply && (scope.is_anywhere() || has_occurred) {
                verdict = None;
            } else if verdict.as_ref().is_some_and(|verdict| decides(verdict, is_reply)) {
                return Tried { best: Some(Reason { place: *place, verdict }), is_decided: true };
            }
            // Any words of a report are no reason as long as they decide nothing.
            if !scope.is_anywhere() || has_code {
                let found = Tried { best: Some(Reason { place: *place, verdict }), is_decided: false };
                tried = tried.or(found, self);
            }
        }
        tried
    }

    fn judge(&mut self, place: Place, step: Option<Phase>, beside: &Beside) -> Option<Verdict> {
        let key = (place, step, beside.clone());
        if let Some(known) = self.verdicts.get(&key) {
            return known.clone();
        }
        let (_, diagnostic) = self.heard.texts.at(place);
        let (status, provider) = beside;
        // A status that the report adds by itself is about the whole; what a reply says of itself comes first.
        let told = diagnostic.status.or(status.filter(|status| status.class != 2));
        let refusal = Refusal {
            step: step.or(diagnostic.step),
            code: diagnostic.code,
            status: told,
            text: &diagnostic.text,
            provider: provider.as_deref(),
        };
        let verdict = self.classifier.classify(&refusal);
        self.verdicts.insert(key, verdict.clone());
        verdict
    }
}

impl Tried {
    /// What has come of these texts, then of others: one that decides, else one that quotes a reply, else the first.
    fn or(self, other: Self, judge: &Judge<'_>) -> Self {
        let is_reply =
            |tried: &Self| tried.best.as_ref().is_some_and(|reason| judge.heard.texts.code(reason.place) != 0);
        let is_better = self.best.is_none() || !is_reply(&self) && is_reply(&other);
        if !self.is_decided && (other.is_decided || is_better) { other } else { self }
    }
}

/// Whether a verdict rests on more than a code, and on more than a status that the report adds by itself.
fn decides(verdict: &Verdict, is_reply: bool) -> bool {
    let least = if is_reply { Certainty::Status } else { Certainty::Words };
    verdict.class != Class::Unknown && verdict.certainty >= least
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// How many texts are judged of a report that has this to say.
    fn judged(text: &str, entries: Vec<Entry>) -> usize {
        let message = format!("From: MAILER-DAEMON@a.test\nSubject: failure notice\n\nIt was not delivered.\n\n{text}");
        let mail = Mail::read(message.as_bytes());
        let (classifier, providers) = (Classifier::built_in(), Map::built_in().unwrap());
        let mut judge = Judge::of(&classifier, &providers, &mail);
        let entries = if entries.is_empty() { mail.listed().entries.clone() } else { entries };
        let count = entries.len();

        assert_eq!((judge.settle(entries).len(), count), (1_000, 1_000));
        judge.verdicts.len()
    }

    /// A thousand lines.
    fn lines(line: impl Fn(usize) -> String) -> String {
        (0..1_000).fold(String::new(), |mut text, number| {
            writeln!(text, "{}", line(number)).unwrap();
            text
        })
    }

    #[test]
    fn work_for_a_thousand_recipients_grows_with_their_number_only() {
        let words = "some words that decide nothing\n\n".repeat(30);
        let plain = lines(|number| format!("<u{number}@e.test>"));
        let odd = lines(|number| format!("<u{number}@e.test>: it went {number}\n"));
        let below = format!("{plain}{}", "<<< 550 x\n\n".repeat(500));
        let of_fields = |number: usize| {
            let status = Some(Status::new(5, 0, u16::try_from(number).unwrap()));
            Entry { status, ..Entry::of(&format!("u{number}@e.test")) }
        };

        assert!(judged(&format!("{words}{plain}"), Vec::new()) < 60);
        assert!(judged(&below, Vec::new()) < 60);
        assert!(judged(&format!("{words}{odd}"), Vec::new()) < 1_100);
        // Each has another status, and each text may mean something else beside it.
        let long = format!("{}\n\n", "word ".repeat(700)).repeat(24);
        assert!(judged(&long, (0..1_000).map(of_fields).collect()) < 2_000);
    }
}

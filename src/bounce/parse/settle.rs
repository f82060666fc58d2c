//! From what a report says to what it means: one text a recipient, its codes, its class.
//!
//! A report says the same thing several times and not always at the place made for it: a Diagnostic-Code may be cut off or
//! missing while a transcript tells all. The classifier is the judge: the first text decides that says more than a code does.

use std::collections::HashMap;

use super::entry::Entry;
use super::mail::Mail;
use super::result::{Action, Recipient};
use super::transcript::{self, Said};
use super::{shape, words};
use crate::message::Phase;
use crate::provider::Map;
use crate::reply::{Certainty, Class, Classifier, Diagnostic, Refusal, Verdict};
use crate::smtp::status::Status;

/// Most texts that are tried for one recipient.
const TRIED_MOST: usize = 24;
/// Most texts that are tried for one message: a report about a thousand recipients says of each what there is to say.
const TRIED_IN_ALL: usize = 2_000;
/// Longest diagnostic that is kept.
const DIAGNOSTIC_MOST: usize = 2_000;

/// What is said in a report, and who judges it.
pub(super) struct Judge<'a> {
    classifier: &'a Classifier,
    providers: &'a Map,
    said: Vec<Said>,
    /// Which of them name an address, by its lower case, and which name none.
    by_name: HashMap<String, Vec<usize>>,
    of_nobody: Vec<usize>,
    /// What may be the reason where no reply is quoted, in the order in which it is tried.
    anything: Vec<String>,
    /// What the text says of each address, for the steps and words that fields leave out.
    told: HashMap<String, String>,
    is_delay: bool,
    tried: usize,
}

/// A text, and the step that is known beside it.
type Text = (String, Option<Phase>);

/// A text that may be the reason, judged.
struct Reason {
    text: String,
    diagnostic: Diagnostic,
    verdict: Option<Verdict>,
}

impl<'a> Judge<'a> {
    /// Of a message.
    pub fn of(classifier: &'a Classifier, providers: &'a Map, mail: &'a Mail) -> Self {
        let said = transcript::read(&mail.lines);
        let paragraphs = shape::paragraphs(&mail.lines);
        let subject = mail.header.get("subject").unwrap_or_default();
        let lower: Vec<String> = paragraphs.iter().map(|text| text.to_lowercase()).collect();
        let is_over = lower.iter().any(|text| words::tells_end(text));
        let is_late = lower.iter().any(|text| words::tells_delay(text)) || words::tells_delay(&subject.to_lowercase());
        let is_delay = is_late && !is_over;
        let told = shape::entries(&mail.lines).into_iter();
        let told = told.filter_map(|entry| Some((entry.address?.to_ascii_lowercase(), entry.text))).collect();
        let (mut by_name, mut of_nobody) = (HashMap::<_, Vec<usize>>::new(), Vec::new());
        for (place, said) in said.iter().enumerate() {
            let names = said.names();
            if names.is_empty() {
                of_nobody.push(place);
            }
            names.into_iter().for_each(|name| by_name.entry(name).or_default().push(place));
        }
        let anything = anything(&paragraphs, subject);
        Self { classifier, providers, said, by_name, of_nobody, anything, told, is_delay, tried: 0 }
    }

    /// Whether a refusal is quoted anywhere.
    pub fn has_reply(&self) -> bool {
        !self.said.is_empty() || self.anything.iter().any(|text| diagnostic(text).code >= 400)
    }

    /// What each entry means.
    pub fn settle(&mut self, entries: Vec<Entry>) -> Vec<Recipient> {
        entries.into_iter().map(|entry| self.recipient(entry)).collect()
    }

    fn recipient(&mut self, entry: Entry) -> Recipient {
        let provider = self.provider(&entry);
        let action = entry.action.unwrap_or(match entry.status {
            Some(Status { class: 2, .. }) => Action::Delivered,
            _ if self.is_delay => Action::Delayed,
            _ => Action::Failed,
        });
        let is_refused = matches!(action, Action::Failed | Action::Delayed);
        let reason = if is_refused { self.reason(&entry, provider.as_deref()) } else { plain(&entry) };
        let Reason { text, diagnostic, verdict } = reason;
        let address = entry.address.as_deref().unwrap_or_default();
        // A text without a reply may be the better reason, but a reply that is quoted beside it is a fact.
        let reply_code = if diagnostic.code == 0 && is_refused { self.code_beside(address) } else { diagnostic.code };
        let status = diagnostic.status.or(entry.status);
        let status = status.or_else(|| self.about(address).find_map(|said| Diagnostic::parse(&said.reply).status));
        let mut diagnostic = text;
        if diagnostic.len() > DIAGNOSTIC_MOST {
            let end = (0..=DIAGNOSTIC_MOST).rev().find(|at| diagnostic.is_char_boundary(*at)).unwrap_or(0);
            diagnostic.truncate(end);
        }
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
    fn provider(&self, entry: &Entry) -> Option<String> {
        let of_host = entry.remote_mta.as_deref().and_then(|host| self.providers.find(&host.to_ascii_lowercase()));
        let domain = || {
            entry
                .address
                .as_deref()
                .and_then(|address| address.rsplit_once('@'))
                .map(|(_, domain)| domain.to_ascii_lowercase())
        };
        of_host.or_else(|| self.providers.of_domain(&domain()?)).map(ToString::to_string)
    }

    /// What is quoted about an address: by name first, then what names nobody.
    fn about<'s>(&'s self, address: &str) -> impl Iterator<Item = &'s Said> {
        let by_name = self.by_name.get(&address.to_ascii_lowercase()).into_iter().flatten();
        by_name.chain(&self.of_nobody).filter_map(|place| self.said.get(*place)).take(TRIED_MOST)
    }

    fn code_beside(&self, address: &str) -> u16 {
        let told = self.told.get(&address.to_ascii_lowercase()).into_iter();
        let texts = told.chain(self.about(address).map(|said| &said.reply));
        texts.map(|text| diagnostic(text).code).find(|code| *code >= 400).unwrap_or(0)
    }

    fn reason(&mut self, entry: &Entry, provider: Option<&str>) -> Reason {
        let address = entry.address.clone().unwrap_or_default();
        let told = self.told.get(&address.to_ascii_lowercase()).cloned().unwrap_or_default();
        let quoted = self
            .about(&address)
            .find(|said| said.step.is_some() && Diagnostic::parse(&said.reply).code == diagnostic(&entry.text).code);
        let step = entry.step.or_else(|| Diagnostic::parse(&told).step).or(quoted.and_then(|said| said.step));
        let mut texts: Vec<Text> = vec![(entry.text.clone(), step)];
        if told != entry.text {
            texts.push((told, None));
        }
        texts.extend(self.about(&address).map(|said| (said.reply.clone(), said.step)));
        let by_place = texts.len();
        // Who quotes a reply has said all; else it may stand anywhere.
        if diagnostic(&entry.text).code == 0 {
            texts.extend(self.anything.iter().map(|text| (text.clone(), None)));
        }
        self.first(texts, by_place, entry, provider)
    }

    /// The first text that decides; else one that quotes a reply; else what the report's own status says.
    fn first(&mut self, texts: Vec<Text>, by_place: usize, entry: &Entry, provider: Option<&str>) -> Reason {
        let mut first: Option<Reason> = None;
        for (place, (text, step)) in texts.into_iter().enumerate().filter(|(_, (text, _))| !text.trim().is_empty()) {
            if self.tried > TRIED_IN_ALL && place > 0 {
                break;
            }
            self.tried += 1;
            let mut reason = self.judge(text, step, entry.status, provider);
            let is_reply = reason.diagnostic.code != 0 || reason.diagnostic.status.is_some();
            // "An error occurred" stands at the head of many a report that is about something else.
            let is_fault = reason.verdict.as_ref().is_some_and(|verdict| verdict.class == Class::System);
            if is_fault && !is_reply && (place >= by_place || reason.text.contains("occurred")) {
                reason.verdict = None;
            } else if reason.verdict.as_ref().is_some_and(|verdict| decides(verdict, is_reply)) {
                return reason;
            }
            let is_reply = |reason: &Reason| reason.diagnostic.code != 0;
            if place >= by_place && !is_reply(&reason) {
                // Any words of a report are no reason as long as they decide nothing.
                continue;
            }
            if first.as_ref().is_none_or(|first| !is_reply(first) && is_reply(&reason)) {
                first = Some(reason);
            }
        }
        let by_status = self.judge(String::new(), None, entry.status, provider);
        match first {
            Some(first) if first.diagnostic.code != 0 => first,
            Some(first) => Reason { verdict: by_status.verdict, ..first },
            None => by_status,
        }
    }

    fn judge(&self, text: String, step: Option<Phase>, status: Option<Status>, provider: Option<&str>) -> Reason {
        let diagnostic = diagnostic(&text);
        // A status that the report adds by itself is about the whole; what a reply says of itself comes first.
        let told = diagnostic.status.or(status.filter(|status| status.class != 2));
        let refusal = Refusal {
            step: step.or(diagnostic.step),
            code: diagnostic.code,
            status: told,
            text: &diagnostic.text,
            provider,
        };
        let verdict = self.classifier.classify(&refusal);
        Reason { text, diagnostic, verdict }
    }
}

/// Paragraphs of a text, those that quote a reply first; then the subject.
fn anything(paragraphs: &[String], subject: &str) -> Vec<String> {
    let first = paragraphs.iter().take(TRIED_MOST);
    let (replies, others): (Vec<_>, Vec<_>) = first.partition(|text| diagnostic(text).code != 0);
    let (failures, rest): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|text| words::tells_failure(&text.to_lowercase()));
    let texts = replies.into_iter().chain(failures).chain(rest).map(String::as_str);
    texts.chain([subject]).map(str::to_owned).collect()
}

/// Whether a verdict rests on more than a code, and on more than a status that the report adds by itself.
fn decides(verdict: &Verdict, is_reply: bool) -> bool {
    let least = if is_reply { Certainty::Status } else { Certainty::Words };
    verdict.class != Class::Unknown && verdict.certainty >= least
}

/// Of what is no refusal.
fn plain(entry: &Entry) -> Reason {
    Reason { text: entry.text.clone(), diagnostic: diagnostic(&entry.text), verdict: None }
}

/// A text, taken apart; of a reply within a reply, the inner one: `554 4.4.7 Message expired: ...<421 4.4.2 Connection timed
/// out>` says what happened at last.
fn diagnostic(text: &str) -> Diagnostic {
    if let Some(inner) =
        text.trim_end().strip_suffix('>').and_then(|text| text.rsplit_once('<')).map(|(_, inner)| inner)
    {
        let parsed = Diagnostic::parse(inner);
        if transcript::code(inner).is_some() && parsed.status.is_some() {
            return parsed;
        }
    }
    let mut found = Diagnostic::parse(behind_reply(text));
    if found.code == 0 {
        found.code = labelled_code(text).unwrap_or(0);
        found.status = found.status.or_else(|| status_in(text).filter(|status| status.class != 2));
    }
    found
}

/// What relays add to the last reply, and is no part of it.
const ADDED: [&str; 3] = ["I'm not going to try again", "Giving up on ", "I'm going to give up"];

fn behind_reply(text: &str) -> &str {
    let has_reply = text.contains("said:");
    let end = ADDED.iter().filter_map(|added| text.find(added)).min().filter(|_| has_reply);
    end.and_then(|end| text.get(..end)).unwrap_or(text)
}

/// `ERROR_CODE :550`, `ResponseCode 421`, `SMTP Error Code 550`.
fn labelled_code(text: &str) -> Option<u16> {
    let lower = text.to_ascii_lowercase();
    lower.match_indices("code").find_map(|(at, word)| {
        let rest = lower.get(at + word.len()..)?.trim_start_matches([' ', ':', '=', '#', '-']);
        let digits = rest.get(..3)?;
        let is_end = rest.as_bytes().get(3).is_none_or(|octet| !octet.is_ascii_alphanumeric());
        digits.parse().ok().filter(|code| is_end && (400..600).contains(code))
    })
}

/// The first enhanced status code that stands as a word, in brackets or behind `#`.
fn status_in(text: &str) -> Option<Status> {
    text.split_whitespace().find_map(|word| {
        let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        super::status::status(word).filter(|status| word == status.to_string())
    })
}

//! Counts for people: what a site said lately, and rates of the whole daemon over the last minute.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::message::{Outcome, Report};

/// Distinct replies kept of a site.
const KINDS: usize = 8;
/// Characters kept of a reply's text.
const LONGEST: usize = 120;

/// A reply that was not a success, with what differs from message to message left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// For people, made by [`super::settle::describe`] and cut down.
    pub text: Box<str>,
    /// For how many recipients.
    pub count: u64,
    /// When it was said the last time.
    pub last: Instant,
}

/// What a site said that was not a success, by kind. A new kind takes the place of the one not heard for longest.
#[derive(Debug, Default)]
pub(super) struct Sayings(Vec<Said>);

impl Sayings {
    /// Counts replies, prepared by [`refusals`].
    pub fn add(&mut self, heard: Vec<(Box<str>, u32)>, now: Instant) {
        for (text, count) in heard {
            if let Some(known) = self.0.iter_mut().find(|said| said.text == text) {
                known.count = known.count.saturating_add(u64::from(count));
                known.last = now;
                continue;
            }
            if self.0.len() >= KINDS
                && let Some((oldest, _)) = self.0.iter().enumerate().min_by_key(|(_, said)| said.last)
            {
                self.0.swap_remove(oldest);
            }
            self.0.push(Said { text, count: u64::from(count), last: now });
        }
    }

    /// All kinds, the last heard first.
    pub fn all(&self) -> Vec<Said> {
        let mut all = self.0.clone();
        all.sort_by_key(|said| std::cmp::Reverse(said.last));
        all
    }
}

/// The refusals among outcomes, by kind and with how many recipients each is about. Costs nothing where there is none.
pub(super) fn refusals(outcomes: &[Outcome]) -> Vec<(Box<str>, u32)> {
    let mut heard: Vec<(Box<str>, u32)> = Vec::new();
    let mut last: Option<&Report> = None;
    for outcome in outcomes.iter().filter(|outcome| outcome.is_refusal()) {
        let report = outcome.report();
        // Recipients of one transaction are mostly told the same.
        if last != Some(report) {
            let text = kind(&super::settle::describe(report));
            if heard.last().is_none_or(|(before, _)| *before != text) {
                heard.push((text, 0));
            }
            last = Some(report);
        }
        if let Some((_, count)) = heard.last_mut() {
            *count = count.saturating_add(1);
        }
    }
    heard
}

/// A reply without what differs from message to message: addresses and words with many digits become `*`.
fn kind(text: &str) -> Box<str> {
    let mut out = String::with_capacity(text.len().min(LONGEST));
    let mut length = 0;
    for (number, word) in text.split_whitespace().enumerate() {
        // The step, the host and the codes stand first and are kept.
        let is_variable = number > 4 && is_variable(word);
        let word = if is_variable { "*" } else { word };
        let room = LONGEST.saturating_sub(length);
        if room == 0 {
            out.push('…');
            break;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        let cut: String = word.chars().take(room).collect();
        length += cut.chars().count() + 1;
        out.push_str(&cut);
    }
    out.into_boxed_str()
}

/// Whether a word is an address, or looks like an identifier: four digits and more, or digits within a long word.
fn is_variable(word: &str) -> bool {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    word.contains('@') || digits >= 4 || (digits >= 2 && word.len() >= 12)
}

/// What recipients of the whole daemon came to, since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub submitted: u64,
    pub delivered: u64,
    pub deferred: u64,
    pub bounced: u64,
}

/// Counts that only go up, and samples of them.
#[derive(Debug, Default)]
pub(super) struct Flowing {
    submitted: AtomicU64,
    delivered: AtomicU64,
    deferred: AtomicU64,
    bounced: AtomicU64,
    /// Taken every few seconds, the oldest first.
    samples: Mutex<VecDeque<(Instant, Counts)>>,
}

/// Rates are told over this long.
const WINDOW: Duration = Duration::from_secs(60);

impl Flowing {
    /// Recipients were submitted.
    pub fn submit(&self, recipients: usize) {
        self.submitted.fetch_add(u64::try_from(recipients).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// An attempt's outcomes.
    pub fn settle(&self, delivered: u64, deferred: u64, bounced: u64) {
        // Most attempts have one kind of outcome.
        for (counter, count) in [(&self.delivered, delivered), (&self.deferred, deferred), (&self.bounced, bounced)] {
            if count > 0 {
                counter.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    fn counts(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            submitted: load(&self.submitted),
            delivered: load(&self.delivered),
            deferred: load(&self.deferred),
            bounced: load(&self.bounced),
        }
    }

    /// Takes a sample; those that are too old go.
    pub fn sample(&self, now: Instant) {
        let counts = self.counts();
        let mut samples = self.samples.lock();
        samples.push_back((now, counts));
        while samples.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW) {
            samples.pop_front();
        }
    }

    /// What came since the oldest sample, in the first minute since `started`, and how long that is.
    pub fn lately(&self, started: Instant, now: Instant) -> (Counts, Duration) {
        let begun = (started, Counts::default());
        let is_young = now.saturating_duration_since(started) <= WINDOW;
        let oldest = if is_young { None } else { self.samples.lock().front().copied() };
        let (since, before) = oldest.unwrap_or(begun);
        let all = self.counts();
        let counts = Counts {
            submitted: all.submitted.saturating_sub(before.submitted),
            delivered: all.delivered.saturating_sub(before.delivered),
            deferred: all.deferred.saturating_sub(before.deferred),
            bounced: all.bounced.saturating_sub(before.bounced),
        };
        (counts, now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_that_differ_by_recipient_or_identifier_are_of_one_kind() {
        let texts = [
            "rcpt at mx.test: 450 4.2.0 <anna@a.test>: greylisted, id 4bXq1z9911, try later",
            "rcpt at mx.test: 450 4.2.0 <bert@a.test>: greylisted, id 77ab231c2d, try later",
        ];

        assert_eq!(kind(texts[0]), kind(texts[1]));
        assert_eq!(&*kind(texts[0]), "rcpt at mx.test: 450 4.2.0 * greylisted, id * try later");
        assert_ne!(kind(texts[0]), kind("rcpt at mx.test: 451 4.3.0 busy"));
    }

    #[test]
    fn an_endless_reply_is_cut() {
        let cut = kind(&"word ".repeat(1_000));

        assert!(cut.chars().count() <= LONGEST + 2 && cut.ends_with('…'), "{cut}");
        assert!(kind(&"x".repeat(10_000)).chars().count() <= LONGEST);
    }

    #[test]
    fn a_site_with_ever_new_replies_keeps_the_last_ones() {
        let (mut sayings, now) = (Sayings::default(), Instant::now());

        for number in 0..100_u64 {
            let at = now + Duration::from_secs(number);
            sayings.add(vec![(format!("reply {}", number % 50).into(), 2)], at);
        }

        let all = sayings.all();
        assert_eq!(all.len(), KINDS);
        assert_eq!((&*all[0].text, all[0].count), ("reply 49", 2));
    }

    #[test]
    fn in_the_first_minute_everything_counts() {
        let (flowing, start) = (Flowing::default(), Instant::now());
        flowing.submit(7);
        flowing.sample(start + Duration::from_secs(2));

        let (counts, over) = flowing.lately(start, start + Duration::from_secs(10));

        assert_eq!((counts.submitted, over), (7, Duration::from_secs(10)));
    }

    #[test]
    fn rates_are_of_the_last_minute_only() {
        let (flowing, start) = (Flowing::default(), Instant::now());
        flowing.submit(1_000);
        for second in (0..=120).step_by(2) {
            flowing.submit(20);
            flowing.settle(10, 4, 2);
            flowing.sample(start + Duration::from_secs(second));
        }

        let (counts, over) = flowing.lately(start, start + Duration::from_secs(121));

        assert_eq!(over, Duration::from_secs(61));
        assert_eq!(counts, Counts { submitted: 600, delivered: 300, deferred: 120, bounced: 60 });
    }
}

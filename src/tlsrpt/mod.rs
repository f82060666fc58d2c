//! TLS reports (RFC 8460): how sessions with a domain's MX hosts went, counted by policy and UTC day, and told to who asks.
//!
//! [`Tally`] counts, [`record`] is what a domain publishes, [`report`] what it is told, as JSON and as a message. Who asks DNS
//! and sends is the daemon. Memory is bounded: [`MOST_DOMAINS`] a day, [`MOST_DETAILS`] kinds of failures each.

pub mod record;
pub mod report;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::metrics::Counter;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::metrics::Registry;
use report::{Report, Reporter};

/// Domains that are counted a day.
pub const MOST_DOMAINS: usize = 20_000;
/// Kinds of failures that are told apart under one policy; what is beyond is told without hosts and addresses.
pub const MOST_DETAILS: usize = 100;
/// Policies of one domain that are told apart a day: it may change them.
const MOST_POLICIES: usize = 8;
/// Days whose reports wait to be sent.
const MOST_DAYS: usize = 2;

/// Seconds of a day.
pub const DAY: u32 = 86_400;

/// Which kind of policy a session was under (RFC 8460, 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// DANE.
    #[serde(rename = "tlsa")]
    Tlsa,
    /// MTA-STS.
    #[serde(rename = "sts")]
    Sts,
    /// The domain publishes nothing.
    #[serde(rename = "no-policy-found")]
    NotFound,
}

/// The policy that a session was under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its kind.
    pub kind: Kind,
    /// TLSA records, or the lines of the MTA-STS policy.
    pub lines: Vec<String>,
    /// Hosts that the MTA-STS policy names.
    pub hosts: Vec<String>,
}

/// One kind of failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A result type of RFC 8460, 4.3.
    pub result: String,
    /// From where the session was tried.
    pub sending_ip: Option<IpAddr>,
    /// The MX host.
    pub mx_host: Option<String>,
    /// Its address.
    pub receiving_ip: Option<IpAddr>,
    /// What went wrong, in other words.
    pub reason: Option<String>,
}

/// A kind of failure with how often it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// What.
    #[serde(flatten)]
    pub failure: Failure,
    /// How often.
    pub count: u64,
}

/// Sessions under one policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// Which.
    pub policy: Policy,
    /// Those that were as it asks.
    pub successes: u64,
    /// Those that were not.
    pub failures: u64,
    /// What went wrong with these.
    pub details: Vec<Detail>,
}

/// What is known of a domain on one day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// By policy.
    pub policies: Vec<Sessions>,
    /// Not to be looked at again before, in seconds since 1970.
    pub not_before: u32,
}

type Day = HashMap<Box<str>, Counts>;

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    days: BTreeMap<u32, Day>,
    #[serde(skip)]
    has_changed: bool,
}

/// Counts sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tally {
    inner: Arc<Inner>,
}

struct Inner {
    is_on: AtomicBool,
    reporter: Mutex<Arc<Reporter>>,
    /// Held briefly, once for each connection that is opened.
    state: Mutex<State>,
    clock: Clock,
    counted: Counter,
    dropped: Counter,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("is_on", &self.is_on).finish_non_exhaustive()
    }
}

impl Tally {
    /// One that counts nothing until it is switched on.
    pub fn new(clock: Clock, registry: &Registry) -> Self {
        let sessions = |result| {
            let help =
                "TLS sessions for reports of RFC 8460, by what became of them: counted, or dropped for want of room.";
            registry.counter("hikyaku_tls_report_sessions_total", help, &[("result", result)])
        };
        let (counted, dropped) = (sessions("counted"), sessions("dropped"));
        let (is_on, reporter, state) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        let inner = Inner { is_on, reporter, state, clock, counted, dropped };
        Self { inner: Arc::new(inner) }
    }

    /// Whether it counts.
    pub fn is_on(&self) -> bool {
        self.inner.is_on.load(Ordering::Relaxed)
    }

    /// Has it count for this reporter, or, none, no longer; what was counted stays until it is reported or too old.
    pub fn apply(&self, reporter: Option<Reporter>) {
        self.inner.is_on.store(reporter.is_some(), Ordering::Relaxed);
        if let Some(reporter) = reporter {
            *self.inner.reporter.lock() = Arc::new(reporter);
        }
    }

    /// Who reports.
    pub fn reporter(&self) -> Arc<Reporter> {
        self.inner.reporter.lock().clone()
    }

    /// What is known of each domain, or of one, as the report that would be sent of it now.
    pub fn pending(&self, domain: Option<&str>) -> Vec<serde_json::Value> {
        let by = self.reporter();
        let all = self.all(domain);
        all.iter().map(|(day, domain, counts)| Report { domain, day: *day, counts, by: &by }.json()).collect()
    }

    /// A session for a domain's mail was as `policy` asks, or failed.
    pub fn count(&self, domain: &str, policy: Policy, failure: Option<Failure>) {
        if !self.is_on() {
            return;
        }
        let today = self.inner.clock.wall().0 / DAY;
        let mut state = self.inner.state.lock();
        state.forget(today);
        let day = state.days.entry(today).or_default();
        if day.len() >= MOST_DOMAINS && !day.contains_key(domain) {
            self.inner.dropped.increment(1);
            return;
        }
        day.entry(domain.into()).or_default().count(policy, failure);
        state.has_changed = true;
        self.inner.counted.increment(1);
    }

    /// Domains of days that are over and whose time has come, with the day: `delay` says how long after its end that is.
    pub fn due(&self, most: usize, delay: impl Fn(&str, u32) -> u32) -> Vec<(u32, Box<str>, Counts)> {
        let now = self.inner.clock.wall().0;
        let today = now / DAY;
        let mut state = self.inner.state.lock();
        state.forget(today);
        let past = state.days.range(..today).flat_map(|(day, domains)| domains.iter().map(|found| (*day, found)));
        let is_due = |day: u32, domain: &str, counts: &Counts| {
            now >= counts.not_before && now >= (day + 1) * DAY + delay(domain, day)
        };
        past.filter(|(day, (domain, counts))| is_due(*day, domain, counts))
            .map(|(day, (domain, counts))| (day, domain.clone(), counts.clone()))
            .take(most)
            .collect()
    }

    /// A domain's day was reported, or there is nobody to report it to.
    pub fn done(&self, day: u32, domain: &str) {
        let mut state = self.inner.state.lock();
        if let Some(domains) = state.days.get_mut(&day) {
            domains.remove(domain);
            if domains.is_empty() {
                state.days.remove(&day);
            }
            state.has_changed = true;
        }
    }

    /// Nobody can say now whether a domain's day is to be reported: not before `time`.
    pub fn postpone(&self, day: u32, domain: &str, time: u32) {
        let mut state = self.inner.state.lock();
        if let Some(counts) = state.days.get_mut(&day).and_then(|domains| domains.get_mut(domain)) {
            counts.not_before = time;
            state.has_changed = true;
        }
    }

    /// What has not been reported, today's included; of one domain, or of all, sorted.
    pub fn all(&self, domain: Option<&str>) -> Vec<(u32, Box<str>, Counts)> {
        let state = self.inner.state.lock();
        let every = state.days.iter().flat_map(|(day, domains)| domains.iter().map(|found| (*day, found)));
        let mut found: Vec<_> = every
            .filter(|(_, (name, _))| domain.is_none_or(|domain| *domain == ***name))
            .map(|(day, (name, counts))| (day, name.clone(), counts.clone()))
            .collect();
        found.sort_unstable_by(|(a, b, _), (c, d, _)| (a, b).cmp(&(c, d)));
        found
    }

    /// All of it, to be kept over a restart, if it has changed since it was asked the last time.
    pub fn changes(&self) -> Option<Vec<u8>> {
        let mut state = self.inner.state.lock();
        if !std::mem::take(&mut state.has_changed) {
            return None;
        }
        serde_json::to_vec(&*state).ok()
    }

    /// What was given could not be kept.
    pub fn not_kept(&self) {
        self.inner.state.lock().has_changed = true;
    }

    /// Takes up what was kept; damage is as nothing.
    pub fn restore(&self, content: &[u8]) {
        if let Ok(kept) = serde_json::from_slice(content) {
            *self.inner.state.lock() = kept;
        }
    }
}

impl State {
    /// Days that nobody could report in time.
    fn forget(&mut self, today: u32) {
        let oldest = today.saturating_sub(u32::try_from(MOST_DAYS).unwrap_or_default());
        let before = self.days.len();
        self.days.retain(|day, _| *day >= oldest);
        self.has_changed |= self.days.len() != before;
    }
}

impl Counts {
    fn count(&mut self, policy: Policy, failure: Option<Failure>) {
        let place = self.policies.iter().position(|known| known.policy == policy);
        let place = place.unwrap_or_else(|| {
            if self.policies.len() >= MOST_POLICIES {
                return self.policies.len() - 1;
            }
            self.policies.push(Sessions { policy, successes: 0, failures: 0, details: Vec::new() });
            self.policies.len() - 1
        });
        let Some(sessions) = self.policies.get_mut(place) else { return };
        match failure {
            None => sessions.successes += 1,
            Some(failure) => {
                sessions.failures += 1;
                sessions.detail(failure);
            }
        }
    }
}

impl Sessions {
    fn detail(&mut self, failure: Failure) {
        if let Some(known) = self.details.iter_mut().find(|known| known.failure == failure) {
            known.count += 1;
        } else if self.details.len() < MOST_DETAILS {
            self.details.push(Detail { failure, count: 1 });
        } else {
            let (sending_ip, mx_host, receiving_ip, reason) = (None, None, None, None);
            let plain = Failure { result: failure.result, sending_ip, mx_host, receiving_ip, reason };
            match self.details.iter_mut().find(|known| known.failure == plain) {
                Some(known) => known.count += 1,
                // There are fewer result types than this is more.
                None => self.details.push(Detail { failure: plain, count: 1 }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(kind: Kind) -> Policy {
        Policy { kind, lines: Vec::new(), hosts: Vec::new() }
    }

    fn failure(host: usize) -> Failure {
        let (sending_ip, receiving_ip) = (Some([192, 0, 2, 1].into()), Some([192, 0, 2, 2].into()));
        let mx_host = Some(format!("mx{host}.a.test"));
        Failure { result: "certificate-expired".into(), sending_ip, mx_host, receiving_ip, reason: None }
    }

    fn tally() -> Tally {
        let tally = Tally::new(Clock::of_runtime(), &Registry::new().unwrap());
        tally.apply(Some(Reporter::default()));
        tally
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_are_counted_by_policy_and_failures_by_all_that_is_known_of_them() {
        let tally = tally();
        for host in [1, 1, 2] {
            tally.count("a.test", policy(Kind::Sts), Some(failure(host)));
        }
        tally.count("a.test", policy(Kind::Sts), None);
        tally.count("a.test", policy(Kind::Tlsa), None);
        tally.apply(None);
        tally.count("b.test", policy(Kind::Tlsa), None);

        let all = tally.all(None);

        assert_eq!((all.len(), &*all[0].1), (1, "a.test"));
        let [sts, tlsa] = &all[0].2.policies[..] else { panic!("{all:?}") };
        assert_eq!((sts.successes, sts.failures, tlsa.successes, tlsa.failures), (1, 3, 1, 0));
        let counts: Vec<_> = sts.details.iter().map(|detail| detail.count).collect();
        assert_eq!(counts, [2, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_no_failure_goes_uncounted() {
        let tally = tally();
        for host in 0..MOST_DETAILS + 50 {
            tally.count("a.test", policy(Kind::Sts), Some(failure(host)));
        }
        for domain in 0..MOST_DOMAINS + 10 {
            tally.count(&format!("{domain}.test"), policy(Kind::NotFound), None);
        }

        let all = tally.all(Some("a.test"));
        let sessions = &all[0].2.policies[0];

        assert_eq!(tally.all(None).len(), MOST_DOMAINS);
        assert_eq!(sessions.details.len(), MOST_DETAILS + 1);
        assert_eq!(sessions.details.iter().map(|detail| detail.count).sum::<u64>(), sessions.failures);
        assert_eq!(sessions.details.last().unwrap().count, 50);
    }

    #[tokio::test(start_paused = true)]
    async fn a_day_is_due_after_its_end_and_its_delay_and_kept_over_a_restart() {
        let tally = tally();
        let to_midnight = DAY - tally.inner.clock.wall().0 % DAY;
        tally.count("a.test", policy(Kind::Sts), Some(failure(1)));
        let delay = |_: &str, _: u32| 600;
        assert_eq!(tally.due(10, delay), []);
        let kept = tally.changes().unwrap();
        assert_eq!(tally.changes(), None, "nothing has changed since");

        tokio::time::sleep(std::time::Duration::from_secs((to_midnight + 590).into())).await;
        assert_eq!(tally.due(10, delay), []);
        tokio::time::sleep(std::time::Duration::from_secs(20)).await;

        let again = Tally::new(tally.inner.clock, &Registry::new().unwrap());
        again.restore(&kept);
        let due = again.due(10, delay);
        assert_eq!(due, tally.due(10, delay));
        let (day, domain, _) = due[0].clone();
        again.postpone(day, &domain, tally.inner.clock.wall().0 + 5);
        assert_eq!(again.due(10, delay), []);
        tokio::time::sleep(std::time::Duration::from_secs(6)).await;
        assert_eq!(again.due(10, delay).len(), 1);
        again.done(day, &domain);
        assert_eq!((again.due(10, delay), again.all(None)), (vec![], vec![]));
        tokio::time::sleep(std::time::Duration::from_secs(3 * 86_400)).await;
        assert_eq!(tally.due(10, delay), [], "too old to be of use");
    }

    #[test]
    fn a_damaged_file_is_as_none() {
        let tally = Tally::new(Clock::system(), &Registry::new().unwrap());

        tally.restore(b"{\"days\":");

        assert_eq!(tally.all(None), []);
    }
}

//! What is remembered about MX hosts while the daemon runs: habits that cost a connection to find out.
//!
//! Written by connection tasks when a host closes inside a look-ahead or fails a TLS handshake, read when they connect.
//! Bounded: at [`CAPACITY`] hosts the memory starts anew, which costs a connection for each at most.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Hosts remembered; those with such habits are few.
const CAPACITY: usize = 10_000;

#[derive(Clone, Copy, Debug, Default)]
struct Habits {
    closes_in_look_ahead: bool,
    tls_failed_at: Option<Instant>,
    /// After so many messages it ended a session with 421 instead of taking another MAIL.
    session_limit: Option<u32>,
}

/// Habits by MX host name.
#[derive(Debug, Default)]
pub struct Hosts {
    habits: Mutex<HashMap<Arc<str>, Habits, foldhash::fast::RandomState>>,
}

impl Hosts {
    /// The host closed while a transaction that was begun ahead was under way.
    pub fn closed_in_look_ahead(&self, host: &Arc<str>) {
        self.change(host, |habits| habits.closes_in_look_ahead = true);
    }

    /// Whether it ever did.
    pub fn closes_in_look_ahead(&self, host: &str) -> bool {
        self.habits.lock().get(host).is_some_and(|habits| habits.closes_in_look_ahead)
    }

    /// The host ended a session after `messages`.
    pub fn ended_session(&self, host: &Arc<str>, messages: u32) {
        self.change(host, |habits| habits.session_limit = Some(messages));
    }

    /// After how many messages it ended a session last.
    pub fn session_limit(&self, host: &str) -> Option<u32> {
        self.habits.lock().get(host).and_then(|habits| habits.session_limit)
    }

    /// A session went beyond the limit that was remembered: there is none, or it is another one.
    pub fn exceeded_session_limit(&self, host: &Arc<str>) {
        self.change(host, |habits| habits.session_limit = None);
    }

    /// STARTTLS or the handshake failed.
    pub fn tls_failed(&self, host: &Arc<str>, now: Instant) {
        self.change(host, |habits| habits.tls_failed_at = Some(now));
    }

    /// Whether STARTTLS failed within the last `memory`.
    pub fn avoids_tls(&self, host: &str, now: Instant, memory: Duration) -> bool {
        let failed_at = self.habits.lock().get(host).and_then(|habits| habits.tls_failed_at);
        failed_at.is_some_and(|at| now.saturating_duration_since(at) < memory)
    }

    fn change(&self, host: &Arc<str>, change: impl FnOnce(&mut Habits)) {
        let mut habits = self.habits.lock();
        if habits.len() >= CAPACITY && !habits.contains_key(host) {
            habits.clear();
        }
        change(habits.entry(Arc::clone(host)).or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tls_failure_is_forgotten_after_a_while() {
        let (hosts, now) = (Hosts::default(), Instant::now());
        let memory = Duration::from_secs(60);

        hosts.tls_failed(&Arc::from("mx.test"), now);

        assert!(hosts.avoids_tls("mx.test", now + Duration::from_secs(59), memory));
        assert!(!hosts.avoids_tls("mx.test", now + Duration::from_secs(60), memory));
        assert!(!hosts.avoids_tls("other.test", now, memory));
    }

    #[test]
    fn the_memory_is_bounded() {
        let hosts = Hosts::default();

        for number in 0..=CAPACITY {
            hosts.closed_in_look_ahead(&Arc::from(format!("mx{number}.test")));
        }

        assert!(hosts.habits.lock().len() <= CAPACITY);
        assert!(hosts.closes_in_look_ahead(&format!("mx{CAPACITY}.test")));
    }
}

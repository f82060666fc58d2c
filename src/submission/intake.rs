//! What one listener takes from whom: sessions at once, sessions and messages a minute.
//!
//! An address is an IPv4 address or the /64 of an IPv6 one. Rates are governor's, which fits here because nothing is ever
//! given back. What is held about addresses is forgotten by [`Intake::forget`], called every minute by the listener.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;

use super::Settings;
use super::refusal::{self, Refusal};

type PerAddress = RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>;

/// One listener's counts.
#[derive(Debug)]
pub struct Intake {
    /// Replaced by [`Intake::apply`]; the counts go on.
    limits: ArcSwap<Limits>,
    /// Sessions that are open; written when a [`Place`] is made and dropped.
    open: AtomicUsize,
    /// The same by address, for addresses that have any.
    open_by_address: Mutex<HashMap<IpAddr, u32>>,
}

/// What is allowed, and the rates that are used up.
#[derive(Debug)]
struct Limits {
    max_sessions: usize,
    max_sessions_per_address: Option<NonZeroU32>,
    sessions: PerMinute,
    messages: PerMinute,
}

/// A rate by address; shared with the limits after it as long as it is the same.
#[derive(Clone, Debug)]
struct PerMinute {
    most: Option<NonZeroU32>,
    limiter: Option<Arc<PerAddress>>,
}

impl PerMinute {
    fn new(most: Option<NonZeroU32>) -> Self {
        let limiter = |most| Arc::new(RateLimiter::hashmap(Quota::per_minute(most)));
        Self { most, limiter: most.map(limiter) }
    }

    fn is_used_up(&self, address: &IpAddr) -> bool {
        self.limiter.as_ref().is_some_and(|limiter| limiter.check_key(address).is_err())
    }
}

/// Room for one session; given back when dropped.
#[derive(Debug)]
pub struct Place {
    intake: Arc<Intake>,
    address: IpAddr,
}

impl Intake {
    /// As `settings` say.
    pub fn new(settings: &Settings) -> Arc<Self> {
        let limits = Limits {
            max_sessions: settings.max_sessions,
            max_sessions_per_address: settings.max_sessions_per_address,
            sessions: PerMinute::new(settings.sessions_per_minute),
            messages: PerMinute::new(settings.messages_per_minute),
        };
        Arc::new(Self {
            limits: ArcSwap::from_pointee(limits),
            open: AtomicUsize::new(0),
            open_by_address: Mutex::new(HashMap::new()),
        })
    }

    /// Allows what `settings` say from now on; who is inside stays. A rate that changes begins afresh.
    pub fn apply(&self, settings: &Settings) {
        let before = self.limits.load();
        let rate = |before: &PerMinute, most| if before.most == most { before.clone() } else { PerMinute::new(most) };
        self.limits.store(Arc::new(Limits {
            max_sessions: settings.max_sessions,
            max_sessions_per_address: settings.max_sessions_per_address,
            sessions: rate(&before.sessions, settings.sessions_per_minute),
            messages: rate(&before.messages, settings.messages_per_minute),
        }));
    }

    /// Sessions that are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes a place for a new session.
    pub fn enter(self: &Arc<Self>, client: IpAddr) -> Result<Place, Refusal> {
        let (address, limits) = (key(client), self.limits.load());
        if self.open.fetch_add(1, Ordering::Relaxed) >= limits.max_sessions {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(refusal::OVERLOAD);
        }
        *self.open_by_address.lock().entry(address).or_default() += 1;
        let place = Place { intake: Arc::clone(self), address };
        let here = self.open_by_address.lock().get(&address).copied().unwrap_or_default();
        if limits.max_sessions_per_address.is_some_and(|most| here > most.get()) {
            return Err(refusal::OVERLOAD_BY_ADDRESS);
        }
        if limits.sessions.is_used_up(&address) { Err(refusal::SESSION_RATE) } else { Ok(place) }
    }

    /// Whether `client` may send one more message this minute.
    pub fn message(&self, client: IpAddr) -> Result<(), Refusal> {
        if self.limits.load().messages.is_used_up(&key(client)) { Err(refusal::MESSAGE_RATE) } else { Ok(()) }
    }

    /// Forgets the rates of addresses that have been quiet.
    pub fn forget(&self) {
        let limits = self.limits.load();
        let limiters = [&limits.sessions, &limits.messages].into_iter().filter_map(|rate| rate.limiter.as_ref());
        limiters.for_each(|limiter| limiter.retain_recent());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.intake.open.fetch_sub(1, Ordering::Relaxed);
        let mut open = self.intake.open_by_address.lock();
        if let Some(here) = open.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// Whoever has one IPv6 address has its whole /64.
fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn places_are_limited_in_all_and_by_address_and_come_back() {
        let settings =
            Settings { max_sessions: 3, max_sessions_per_address: NonZeroU32::new(2), ..Settings::default() };
        let intake = Intake::new(&settings);

        let first = intake.enter(address("127.0.0.1")).unwrap();
        let _second = intake.enter(address("::ffff:127.0.0.1")).unwrap();
        assert_eq!(intake.enter(address("127.0.0.1")).unwrap_err(), refusal::OVERLOAD_BY_ADDRESS);
        let _third = intake.enter(address("127.0.0.2")).unwrap();
        assert_eq!(intake.enter(address("127.0.0.3")).unwrap_err(), refusal::OVERLOAD);
        drop(first);

        assert!(intake.enter(address("127.0.0.1")).is_ok());
    }

    #[test]
    fn an_ipv6_network_of_64_bits_counts_as_one_address() {
        let settings = Settings { sessions_per_minute: NonZeroU32::new(1), ..Settings::default() };
        let intake = Intake::new(&settings);

        assert!(intake.enter(address("2001:db8::1")).is_ok());
        assert_eq!(intake.enter(address("2001:db8::2")).unwrap_err(), refusal::SESSION_RATE);
        assert!(intake.enter(address("2001:db8:0:1::1")).is_ok());
    }

    #[test]
    fn messages_are_limited_by_address() {
        let settings = Settings { messages_per_minute: NonZeroU32::new(2), ..Settings::default() };
        let intake = Intake::new(&settings);

        let results: Vec<_> = (0..3).map(|_| intake.message(address("127.0.0.1")).is_ok()).collect();

        assert_eq!(results, [true, true, false]);
        assert!(intake.message(address("127.0.0.2")).is_ok());
    }

    #[test]
    fn changed_limits_hold_for_those_to_come_and_a_rate_that_stays_is_not_begun_afresh() {
        let rate = NonZeroU32::new(1);
        let settings = Settings { max_sessions: 1, messages_per_minute: rate, ..Settings::default() };
        let intake = Intake::new(&settings);
        let _inside = intake.enter(address("127.0.0.1")).unwrap();
        assert!(intake.message(address("127.0.0.1")).is_ok());

        intake.apply(&Settings { max_sessions: 2, ..settings.clone() });

        assert!(intake.message(address("127.0.0.1")).is_err());
        let _second = intake.enter(address("127.0.0.1")).unwrap();
        intake.apply(&Settings { messages_per_minute: NonZeroU32::new(5), ..settings });
        assert!(intake.message(address("127.0.0.1")).is_ok());
        assert_eq!(intake.enter(address("127.0.0.1")).unwrap_err(), refusal::OVERLOAD);
        assert_eq!(intake.open(), 2);
    }

    #[test]
    fn places_refused_by_rate_are_given_back() {
        let settings = Settings {
            max_sessions: 1,
            sessions_per_minute: NonZeroU32::new(1),
            max_sessions_per_address: NonZeroU32::new(1),
            ..Settings::default()
        };
        let intake = Intake::new(&settings);
        drop(intake.enter(address("127.0.0.1")).unwrap());

        assert!(intake.enter(address("127.0.0.1")).is_err());

        assert!(intake.enter(address("127.0.0.2")).is_ok());
    }
}

//! The MTA-STS policies that are known, kept over restarts: what protects a domain must not be forgotten by a crash
//! (RFC 8461, 3.3 and 10.1).
//!
//! Changed in memory, written to the file about a second later as a whole. A file that is lost or damaged costs a fetch for
//! each domain.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::settings::Keeper;
use super::sts::Policy;
use crate::clock::{Clock, UnixTime};

/// Domains with a policy that are remembered; a million domains have far fewer.
const CAPACITY: usize = 20_000;
/// How long changes are collected before they are written.
const DELAY: Duration = Duration::from_secs(1);

/// A policy with the time that it was fetched at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub policy: Arc<Policy>,
    /// Seconds since 1970.
    pub fetched: u32,
}

impl Known {
    /// How long it still holds.
    pub fn left(&self, now: UnixTime) -> Duration {
        let end = u64::from(self.fetched).saturating_add(self.policy.max_age);
        Duration::from_secs(end.saturating_sub(now.0.into()))
    }
}

#[derive(Serialize, Deserialize)]
struct Entry {
    domain: Box<str>,
    #[serde(flatten)]
    known: Entered,
}

/// Flat, and without shared pointers.
#[derive(Serialize, Deserialize)]
struct Entered {
    #[serde(flatten)]
    policy: Policy,
    fetched: u32,
}

/// Policies by domain.
#[derive(Debug)]
pub(super) struct Store {
    known: Mutex<HashMap<Box<str>, Known>>,
    keeper: Arc<dyn Keeper>,
    is_saving: AtomicBool,
    clock: Clock,
}

impl Store {
    /// With what was kept. Blocks on the disk.
    pub fn open(keeper: Arc<dyn Keeper>, clock: Clock) -> Arc<Self> {
        let entries: Vec<Entry> =
            keeper.read().and_then(|content| serde_json::from_slice(&content).ok()).unwrap_or_default();
        let known = entries
            .into_iter()
            .take(CAPACITY)
            .map(|Entry { domain, known }| (domain, Known { policy: Arc::new(known.policy), fetched: known.fetched }));
        Arc::new(Self { known: Mutex::new(known.collect()), keeper, is_saving: AtomicBool::new(false), clock })
    }

    /// The policy of a domain, if it still holds.
    pub fn get(&self, domain: &str) -> Option<Known> {
        let now = self.clock.wall();
        self.known.lock().get(domain).filter(|known| !known.left(now).is_zero()).cloned()
    }

    /// A policy was fetched. Must be called inside a Tokio runtime.
    pub fn put(self: &Arc<Self>, domain: &str, policy: Policy) -> Known {
        let now = self.clock.wall();
        let known = Known { policy: Arc::new(policy), fetched: now.0 };
        let mut all = self.known.lock();
        if all.len() >= CAPACITY && !all.contains_key(domain) {
            all.retain(|_, known| !known.left(now).is_zero());
            if all.len() >= CAPACITY
                && let Some(oldest) = all.iter().min_by_key(|(_, known)| known.fetched).map(|(name, _)| name.clone())
            {
                all.remove(&oldest);
            }
        }
        all.insert(domain.into(), known.clone());
        drop(all);
        self.save();
        known
    }

    /// Domains whose policy was fetched so many seconds ago or more, and still holds.
    pub fn older_than(&self, seconds: u32) -> Vec<Box<str>> {
        let now = self.clock.wall();
        let is_due = |known: &Known| now.0.saturating_sub(known.fetched) >= seconds && !known.left(now).is_zero();
        let known = self.known.lock();
        known.iter().filter(|(_, known)| is_due(known)).map(|(domain, _)| domain.clone()).collect()
    }

    /// A policy that is announced cannot be had.
    pub fn failed(&self, domain: &str, result: &'static str, why: &str) {
        self.keeper.failed(domain, result, why);
    }

    fn save(self: &Arc<Self>) {
        if self.is_saving.swap(true, Ordering::AcqRel) {
            return;
        }
        let own = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(DELAY).await;
            // What changes from here on is saved by the next task.
            own.is_saving.store(false, Ordering::Release);
            let writing = tokio::task::spawn_blocking(move || own.keeper.replace(&own.content()));
            if let Ok(Err(error)) = writing.await {
                tracing::warn!(%error, "MTA-STS policies could not be kept");
            }
        });
    }

    fn content(&self) -> Vec<u8> {
        let entries: Vec<Entry> = self
            .known
            .lock()
            .iter()
            .map(|(domain, known)| Entry {
                domain: domain.clone(),
                known: Entered { policy: (*known.policy).clone(), fetched: known.fetched },
            })
            .collect();
        serde_json::to_vec(&entries).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Memory(Mutex<Option<Vec<u8>>>);

    impl Keeper for Memory {
        fn read(&self) -> Option<Vec<u8>> {
            self.0.lock().clone()
        }

        fn replace(&self, content: &[u8]) -> std::io::Result<()> {
            *self.0.lock() = Some(content.to_vec());
            Ok(())
        }
    }

    fn policy(max_age: u64) -> Policy {
        let text = format!("version: STSv1\nmode: enforce\nmx: mx.a.test\nmax_age: {max_age}\n");
        Policy::parse(text.as_bytes(), "id1").unwrap()
    }

    #[tokio::test]
    async fn policies_are_there_after_a_restart_until_they_end() {
        let memory = Arc::new(Memory::default());
        let store = Store::open(memory.clone(), Clock::system());
        store.put("a.test", policy(1_000));
        store.put("b.test", policy(0));

        memory.replace(&store.content()).unwrap();
        let again = Store::open(memory, Clock::system());

        assert_eq!(again.get("a.test").map(|known| known.policy), Some(Arc::new(policy(1_000))));
        assert_eq!(again.get("b.test"), None);
    }

    #[test]
    fn a_damaged_file_is_as_none() {
        let memory = Arc::new(Memory(Mutex::new(Some(b"{".to_vec()))));

        assert_eq!(Store::open(memory, Clock::system()).get("a.test"), None);
    }
}

//! A bounded cache of answers that share one look-up.
//!
//! [`Cache::get`] is the hot path: one hash, one short shard lock, one clone. [`Cache::get_or_make`] lets one caller do
//! the work while the others wait for its answer. Expired answers stay until they are replaced or evicted, so that they
//! can still serve when the resolver fails ([`Cache::peek`]). If the working caller is dropped, a waiting one takes over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use quick_cache::sync::Cache as Table;
use tokio::sync::watch;

/// An answer with an end.
pub trait Timed: Clone {
    /// When it must be asked again.
    fn valid_until(&self) -> Instant;
}

/// Answers by name.
#[derive(Debug)]
pub struct Cache<V: Timed> {
    table: Table<Arc<str>, V>,
    /// Look-ups under way. Written by the caller that does one, read by those who want the same; its guard removes it.
    flights: Mutex<HashMap<Arc<str>, watch::Receiver<Option<V>>>>,
}

impl<V: Timed> Cache<V> {
    /// A cache of about `capacity` answers.
    pub fn new(capacity: usize) -> Self {
        let weight = u64::try_from(capacity).unwrap_or(u64::MAX);
        // The table grows as it fills; estimating few items keeps an idle daemon small.
        let table = Table::with(1_024, weight, quick_cache::UnitWeighter, Default::default(), Default::default());
        Self { table, flights: Mutex::default() }
    }

    /// The answer for `name`, if it is still good at `now`.
    pub fn get(&self, name: &str, now: Instant) -> Option<V> {
        self.table.get(name).filter(|answer| answer.valid_until() > now)
    }

    /// The answer for `name`, good or expired.
    pub fn peek(&self, name: &str) -> Option<V> {
        self.table.get(name)
    }

    /// How many answers are held.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Octets of the table, without what its keys and answers point to.
    #[cfg(test)]
    pub fn octets(&self) -> usize {
        self.table.memory_used().total()
    }

    /// The answer for `name`: from the cache, from the caller that is already looking, or from `make`, which is given the
    /// name as the cache keeps it, to share it.
    pub async fn get_or_make<F>(&self, name: &str, now: impl Fn() -> Instant, make: impl Fn(Arc<str>) -> F) -> V
    where
        F: Future<Output = V>,
    {
        loop {
            if let Some(answer) = self.get(name, now()) {
                return answer;
            }
            match self.join(name) {
                Flight::Follow(mut answer) => {
                    // An error says that the caller at work was dropped: try again, perhaps as the one at work.
                    if let Ok(answer) = answer.wait_for(Option::is_some).await.map(|answer| answer.clone())
                        && let Some(answer) = answer
                    {
                        return answer;
                    }
                }
                Flight::Lead(guard, sender) => {
                    let answer = make(guard.name.clone()).await;
                    self.table.insert(guard.name.clone(), answer.clone());
                    sender.send_replace(Some(answer.clone()));
                    drop(guard);
                    return answer;
                }
            }
        }
    }

    fn join(&self, name: &str) -> Flight<'_, V> {
        let mut flights = self.flights.lock();
        if let Some(receiver) = flights.get(name) {
            return Flight::Follow(receiver.clone());
        }
        let (sender, receiver) = watch::channel(None);
        let name: Arc<str> = name.into();
        flights.insert(name.clone(), receiver);
        Flight::Lead(Guard { name, flights: &self.flights }, sender)
    }
}

enum Flight<'a, V> {
    Lead(Guard<'a, V>, watch::Sender<Option<V>>),
    Follow(watch::Receiver<Option<V>>),
}

struct Guard<'a, V> {
    name: Arc<str>,
    flights: &'a Mutex<HashMap<Arc<str>, watch::Receiver<Option<V>>>>,
}

impl<V> Drop for Guard<'_, V> {
    fn drop(&mut self) {
        self.flights.lock().remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Answer(u32, Instant);

    impl Timed for Answer {
        fn valid_until(&self) -> Instant {
            self.1
        }
    }

    #[tokio::test]
    async fn an_answer_serves_until_its_end_and_can_be_seen_after_it() {
        let (cache, start) = (Cache::new(10), Instant::now());
        let end = start + Duration::from_secs(30);

        cache.get_or_make("x", || start, |_| async { Answer(1, end) }).await;

        assert_eq!(cache.get("x", start), Some(Answer(1, end)));
        assert_eq!(cache.get("x", end), None);
        assert_eq!(cache.peek("x"), Some(Answer(1, end)));
    }

    #[tokio::test]
    async fn callers_at_the_same_time_share_one_look_up() {
        let (cache, made) = (Arc::new(Cache::new(10)), Arc::new(AtomicU32::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (cache, made) = (cache.clone(), made.clone());
            tasks.spawn(async move {
                let make = |_| async {
                    tokio::task::yield_now().await;
                    let number = made.fetch_add(1, Ordering::Relaxed);
                    Answer(number, Instant::now() + Duration::from_secs(30))
                };
                cache.get_or_make("x", Instant::now, make).await.0
            });
        }

        let answers = tasks.join_all().await;

        assert_eq!(answers, vec![0; 50]);
        assert!(cache.flights.lock().is_empty());
    }

    #[tokio::test]
    async fn when_the_caller_at_work_goes_away_another_takes_over() {
        let cache = Arc::new(Cache::new(10));
        let stuck = {
            let cache = cache.clone();
            tokio::spawn(async move { cache.get_or_make("x", Instant::now, |_| std::future::pending()).await })
        };
        tokio::task::yield_now().await;
        let end = Instant::now() + Duration::from_secs(30);
        let waiting = {
            let cache = cache.clone();
            tokio::spawn(async move { cache.get_or_make("x", Instant::now, |_| async { Answer(2, end) }).await })
        };
        tokio::task::yield_now().await;

        stuck.abort();

        assert_eq!(waiting.await.unwrap(), Answer(2, end));
    }
}

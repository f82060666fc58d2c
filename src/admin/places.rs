//! The places for connections of a listener. When all are taken, who comes gets that of the connection that has been quiet
//! for longest: clients that stall must not lock an operator out.
//!
//! A connection is quiet while no request of it is being answered: it is idle, or its request does not arrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A connection that has just come, or whose answer is on its way, keeps its place for so long.
const GRACE: Duration = Duration::from_secs(1);

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    taken: Mutex<Vec<Arc<Seat>>>,
    /// Told when a place becomes free or a connection quiet.
    changed: Notify,
}

#[derive(Debug)]
struct Seat {
    /// A request is being answered; written by its [`Answering`].
    is_answering: AtomicBool,
    quiet_since: Mutex<Instant>,
    /// Cancelled when somebody else has got the place.
    lost: CancellationToken,
}

/// A place; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    seat: Arc<Seat>,
}

/// While it lives, the place is not given away.
#[derive(Debug)]
pub(super) struct Answering {
    places: Arc<Places>,
    seat: Arc<Seat>,
}

impl Places {
    /// So many, all free.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default(), changed: Notify::new() })
    }

    /// A place; waits while every other connection is being answered or has just come.
    pub async fn take(self: &Arc<Self>) -> Place {
        loop {
            let changed = self.changed.notified();
            let wait = match self.try_take() {
                Ok(place) => return place,
                Err(wait) => wait,
            };
            let _ = tokio::time::timeout(wait, changed).await;
        }
    }

    /// A place, or after what time one can be had unless something changes.
    fn try_take(self: &Arc<Self>) -> Result<Place, Duration> {
        let mut taken = self.taken.lock();
        if taken.len() >= self.most {
            let quiet = taken.iter().enumerate().filter(|(_, seat)| !seat.is_answering.load(Ordering::Acquire));
            let longest = quiet.map(|(at, seat)| (*seat.quiet_since.lock(), at)).min().ok_or(GRACE)?;
            let (since, at) = longest;
            match GRACE.checked_sub(since.elapsed()).filter(|wait| !wait.is_zero()) {
                Some(wait) => return Err(wait),
                None => taken.swap_remove(at).lost.cancel(),
            }
        }
        let seat = Seat {
            is_answering: AtomicBool::new(false),
            quiet_since: Mutex::new(Instant::now()),
            lost: CancellationToken::new(),
        };
        let seat = Arc::new(seat);
        taken.push(seat.clone());
        Ok(Place { places: self.clone(), seat })
    }
}

impl Place {
    /// Resolves when somebody else has got the place.
    pub async fn lost(&self) {
        self.seat.lost.cancelled().await;
    }

    /// Keeps the place for an answer.
    pub fn answer(&self) -> Answering {
        self.seat.is_answering.store(true, Ordering::Release);
        Answering { places: self.places.clone(), seat: self.seat.clone() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.lock().retain(|seat| !Arc::ptr_eq(seat, &self.seat));
        self.places.changed.notify_one();
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        *self.seat.quiet_since.lock() = Instant::now();
        self.seat.is_answering.store(false, Ordering::Release);
        self.places.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_comes_to_a_full_house_gets_the_place_that_was_quiet_for_longest() {
        let places = Places::new(3);
        let answered = places.take().await;
        let _answering = answered.answer();
        let first = places.take().await;
        tokio::time::advance(Duration::from_millis(10)).await;
        let second = places.take().await;
        let begun = Instant::now();

        let _third = places.take().await;

        assert!(begun.elapsed() >= Duration::from_millis(980) && begun.elapsed() < Duration::from_millis(1_010));
        assert!(first.seat.lost.is_cancelled() && !second.seat.lost.is_cancelled());
        assert!(!answered.seat.lost.is_cancelled());
        drop(first);
        assert_eq!(places.taken.lock().len(), 3, "who lost his place frees no other");
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_becomes_free_is_had_at_once() {
        let places = Places::new(1);
        let only = places.take().await;
        let answering = only.answer();
        let waiting = tokio::spawn({
            let places = places.clone();
            async move { places.take().await }
        });
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!waiting.is_finished(), "an answer is not cut off");
        let begun = Instant::now();

        drop((answering, only));

        waiting.await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}

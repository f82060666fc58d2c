//! The seats of a listener's connections. When all are taken, who comes gets that of the connection that has been quiet
//! for longest: clients that stall must not lock an operator out.
//!
//! A connection is quiet while no request of it is being answered: it is idle, or its request does not arrive. Who is
//! answered keeps his seat: whether that is so, and who has lost his, is said under one lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A connection that has just come, or whose answer is on its way, keeps its seat for so long.
/// It is what each of those may hold up whoever comes after them, and a handshake over a continent fits in.
const GRACE: Duration = Duration::from_millis(250);

/// All seats.
#[derive(Debug)]
pub struct Seats {
    most: usize,
    taken: Mutex<Taken>,
    /// Told when a seat becomes free or a connection quiet.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    /// Seats given so far.
    count: u64,
    /// Those that are taken, by number.
    seats: HashMap<u64, Sitter>,
}

/// Who has a seat.
#[derive(Debug)]
struct Sitter {
    /// None: a request is being answered.
    quiet_since: Option<Instant>,
    /// Cancelled when somebody else gets the seat.
    lost: CancellationToken,
}

/// A seat; free again when dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    number: u64,
    lost: CancellationToken,
}

/// While it lives, the seat is not given away.
#[derive(Debug)]
pub struct Answering {
    seats: Arc<Seats>,
    number: u64,
}

impl Seats {
    /// So many, all free.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default(), changed: Notify::new() })
    }

    /// A seat; waits while every other connection is being answered or has just come.
    pub async fn take(self: &Arc<Self>) -> Seat {
        loop {
            let changed = self.changed.notified();
            let wait = match self.try_take() {
                Ok(seat) => return seat,
                Err(wait) => wait,
            };
            let _ = tokio::time::timeout(wait, changed).await;
        }
    }

    /// A seat, or after what time one can be had unless something changes.
    fn try_take(self: &Arc<Self>) -> Result<Seat, Duration> {
        let mut taken = self.taken.lock();
        if taken.seats.len() >= self.most {
            let quiet = taken.seats.iter().filter_map(|(number, sitter)| Some((sitter.quiet_since?, *number)));
            let (since, number) = quiet.min().ok_or(GRACE)?;
            if let Some(wait) = GRACE.checked_sub(since.elapsed()).filter(|wait| !wait.is_zero()) {
                return Err(wait);
            }
            if let Some(sitter) = taken.seats.remove(&number) {
                sitter.lost.cancel();
            }
        }
        taken.count += 1;
        let (number, lost) = (taken.count, CancellationToken::new());
        taken.seats.insert(number, Sitter { quiet_since: Some(Instant::now()), lost: lost.clone() });
        Ok(Seat { seats: self.clone(), number, lost })
    }
}

impl Seat {
    /// Resolves when somebody else has got the seat.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Keeps the seat for an answer; none: somebody else has got it.
    pub fn answer(&self) -> Option<Answering> {
        self.seats.taken.lock().seats.get_mut(&self.number)?.quiet_since = None;
        Some(Answering { seats: self.seats.clone(), number: self.number })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken.lock().seats.remove(&self.number);
        self.seats.changed.notify_one();
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(sitter) = self.seats.taken.lock().seats.get_mut(&self.number) {
            sitter.quiet_since = Some(Instant::now());
        }
        self.seats.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_comes_to_a_full_house_gets_the_seat_that_was_quiet_for_longest() {
        let seats = Seats::new(3);
        let answered = seats.take().await;
        let _answering = answered.answer();
        let first = seats.take().await;
        tokio::time::advance(Duration::from_millis(10)).await;
        let second = seats.take().await;
        let begun = Instant::now();

        let _third = seats.take().await;

        assert!(
            begun.elapsed() >= GRACE - Duration::from_millis(20) && begun.elapsed() < GRACE + Duration::from_millis(10)
        );
        assert!(first.lost.is_cancelled() && !second.lost.is_cancelled());
        assert!(!answered.lost.is_cancelled());
        drop(first);
        assert_eq!(seats.taken.lock().seats.len(), 3, "who lost his seat frees no other");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_comes_when_the_seat_is_lost_is_not_answered() {
        let seats = Seats::new(1);
        let first = seats.take().await;
        let second = seats.take().await;

        assert!(first.lost.is_cancelled() && first.answer().is_none());
        let answering = second.answer();
        assert!(answering.is_some());
        let third = tokio::time::timeout(Duration::from_secs(60), seats.take()).await;
        assert!(third.is_err() && !second.lost.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_seat_that_becomes_free_is_had_at_once() {
        let seats = Seats::new(1);
        let only = seats.take().await;
        let answering = only.answer();
        let waiting = tokio::spawn({
            let seats = seats.clone();
            async move { seats.take().await }
        });
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!waiting.is_finished(), "an answer is not cut off");
        let begun = Instant::now();

        drop((answering, only));

        waiting.await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}

//! One timer for a whole connection.
//!
//! [`Deadline::set`] only stores when the wait ends: the timer itself ticks at most every `tick`, which is no longer than
//! the shortest time-out, and looks at the stored instant. So the steady state touches tokio's timer wheel a few times
//! a minute and not once an operation.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// When the present wait for the receiver ends.
#[derive(Debug)]
pub struct Deadline {
    sleep: Pin<Box<Sleep>>,
    due: Instant,
    tick: Duration,
}

impl Deadline {
    /// A deadline for waits of at least `tick`.
    pub fn new(tick: Duration) -> Self {
        let now = Instant::now();
        Self { sleep: Box::pin(sleep_until(now + tick)), due: now + tick, tick }
    }

    /// The wait that begins now ends after `timeout`.
    pub fn set(&mut self, timeout: Duration) {
        self.due = Instant::now() + timeout;
    }

    /// Ready when the wait has ended.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(context));
            let now = Instant::now();
            if now >= self.due {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(self.due.min(now + self.tick));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_set_time_counts() {
        let start = Instant::now();
        let mut deadline = Deadline::new(Duration::from_secs(2));

        deadline.set(Duration::from_secs(600));
        tokio::time::sleep(Duration::from_secs(5)).await;
        deadline.set(Duration::from_secs(120));
        poll_fn(|context| deadline.poll(context)).await;

        assert_eq!(start.elapsed().as_secs(), 125);
    }
}

//! How late this machine is: what a thread waits beyond what it asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What is asked for.
const WAIT: Duration = Duration::from_millis(10);

/// Found in a while.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    mean: Duration,
}

impl Noise {
    /// Of a time that two threads are woken for, one after the other.
    pub fn share_of(self, time: Duration) -> f64 {
        2.0 * self.mean.as_secs_f64() / time.as_secs_f64()
    }
}

/// Measures until it is asked.
#[derive(Debug)]
pub struct Listener {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Noise>,
}

impl Listener {
    pub fn start() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let (mut late, mut count) = (Duration::ZERO, 0);
            while !ends.load(Ordering::Relaxed) {
                let begun = Instant::now();
                thread::sleep(WAIT);
                late += begun.elapsed().saturating_sub(WAIT);
                count += 1;
            }
            Noise { mean: late / count.max(1) }
        });
        Self { is_over, thread }
    }

    pub fn end(self) -> Noise {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

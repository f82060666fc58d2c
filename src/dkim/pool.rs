//! Threads that sign: RSA takes hundreds of microseconds, for which no runtime's thread may be held.
//!
//! As many threads as there are cores, begun with the first key. Jobs wait in one line that is bounded: who comes to a full
//! one waits, without a thread, for a place in it. A panic in a job is caught and counted; its message is not signed.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread;

use metrics::Gauge;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::panics::Bulkhead;

/// Jobs that wait for each thread: enough that none waits for the next session to be woken, and no more, since each holds
/// its message in memory.
const WAITING_PER_THREAD: usize = 32;

type Job = Box<dyn FnOnce() + Send>;

/// The threads. They end when it is dropped, after the job in hand.
pub(super) struct Pool {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
}

struct Shared {
    line: Mutex<Line>,
    /// Rung for one thread when a job has come, for all when no more will.
    bell: Condvar,
    length: Gauge,
}

#[derive(Default)]
struct Line {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// Starts `threads`.
    pub fn start(threads: usize, length: Gauge, wall: &Bulkhead) -> io::Result<Self> {
        let shared = Arc::new(Shared { line: Mutex::default(), bell: Condvar::new(), length });
        let pool = Self { shared, places: Arc::new(Semaphore::new(threads * WAITING_PER_THREAD)) };
        for _ in 0..threads {
            let (shared, wall) = (Arc::clone(&pool.shared), wall.clone());
            thread::Builder::new().name("hikyaku-sign".to_owned()).spawn(move || {
                while let Some(job) = shared.next() {
                    // The caller learns of a panic by its answer's end, which is dropped with the job.
                    let _ = wall.call(job);
                }
            })?;
        }
        Ok(pool)
    }

    /// Does `work` on a thread; none if it panicked.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        let (answer, answered) = oneshot::channel();
        self.shared.put(job(work, answer, place));
        answered.await.ok()
    }
}

/// The place in the line is free again once the job is done, so that the messages in hand are bounded, too.
fn job<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
    answer: oneshot::Sender<T>,
    place: OwnedSemaphorePermit,
) -> Job {
    Box::new(move || {
        let _place = place;
        // Who asked may be gone.
        let _ = answer.send(work());
    })
}

impl Shared {
    fn put(&self, job: Job) {
        self.line.lock().jobs.push_back(job);
        self.length.increment(1.0);
        self.bell.notify_one();
    }

    fn next(&self) -> Option<Job> {
        let mut line = self.line.lock();
        loop {
            if line.is_closed {
                return None;
            }
            if let Some(job) = line.jobs.pop_front() {
                self.length.decrement(1.0);
                return Some(job);
            }
            self.bell.wait(&mut line);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut line = self.shared.line.lock();
        line.is_closed = true;
        let jobs = std::mem::take(&mut line.jobs);
        drop(line);
        self.shared.bell.notify_all();
        drop(jobs);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn jobs_run_side_by_side_and_more_than_the_line_holds_all_end() {
        let pool = Arc::new(Pool::start(2, Gauge::noop(), &Bulkhead::default()).unwrap());
        let (barrier, done) = (Arc::new(Barrier::new(2)), Arc::new(AtomicUsize::new(0)));

        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..WAITING_PER_THREAD * 2 * 4 {
            let (pool, barrier, done) = (pool.clone(), barrier.clone(), done.clone());
            tasks.spawn(async move {
                // Only ends if another thread is in a job at the same time.
                pool.run(move || {
                    barrier.wait();
                    done.fetch_add(1, Ordering::Relaxed)
                })
                .await
            });
        }
        let answers = tasks.join_all().await;

        assert!(answers.iter().all(Option::is_some));
        assert_eq!(done.load(Ordering::Relaxed), WAITING_PER_THREAD * 2 * 4);
    }

    #[tokio::test]
    async fn a_panic_ends_its_job_alone() {
        let pool = Pool::start(1, Gauge::noop(), &Bulkhead::default()).unwrap();

        assert_eq!(pool.run(|| panic!("in a job")).await.map(|()| 0), None);

        assert_eq!(pool.run(|| 1).await, Some(1));
    }
}

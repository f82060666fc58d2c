//! Panics: what a bug in one task may do to the others, which is nothing.
//!
//! A [`Bulkhead`] runs a future or a closure, catches its panic, counts it under its task's name and hands it to the
//! caller, who knows what was in the task's hands. [`log_panics`] has the place of each panic written to the log, once.
//!
//! What is behind a bulkhead is assumed to be unwind safe. The locks here (parking_lot) do not poison, so whoever changes
//! something under one in several steps must leave it sound after each: see "Panics" in `docs/endurance.md`.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::thread;

use ::metrics::Counter;

use crate::metrics::Registry;

/// Longest message of a panic that is kept: it goes into replies and tables.
const LONGEST: usize = 200;

/// A panic that was caught; shows as `panic: ` and its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panic {
    message: Box<str>,
}

impl Panic {
    fn of(payload: &(dyn Any + Send)) -> Self {
        let text = match (payload.downcast_ref::<&'static str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => text,
            (None, Some(text)) => text.as_str(),
            (None, None) => "without a message",
        };
        // One line, since it is shown in tables and in replies.
        let message: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
        Self { message: message.into() }
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panic: {}", self.message)
    }
}

impl std::error::Error for Panic {}

/// A wall around tasks of one kind. Cheap to clone.
#[derive(Clone)]
pub struct Bulkhead {
    panics: Panics,
}

/// Where they are counted.
#[derive(Clone)]
struct Panics {
    of_task: Counter,
    /// Those of all tasks of the daemon.
    all: Arc<AtomicU64>,
}

impl Panics {
    fn add(&self) {
        self.of_task.increment(1);
        self.all.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Bulkhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bulkhead").finish_non_exhaustive()
    }
}

/// Counts nowhere.
impl Default for Bulkhead {
    fn default() -> Self {
        Self { panics: Panics { of_task: Counter::noop(), all: Arc::default() } }
    }
}

impl Bulkhead {
    /// The wall around tasks that metrics call `task`.
    pub fn new(registry: &Registry, task: &'static str) -> Self {
        let help = "Panics caught, by the task that they ended: each is a bug, and the log has its place.";
        let of_task = registry.counter("hikyaku_task_panics_total", help, &[("task", task)]);
        // Shown from the start: an alert needs the zero.
        of_task.increment(0);
        Self { panics: Panics { of_task, all: registry.panics() } }
    }

    /// Runs `future` to its end or to its panic. Costs one allocation.
    pub fn run<F: Future>(&self, future: F) -> impl Future<Output = Result<F::Output, Panic>> + use<F> {
        let panics = self.panics.clone();
        let mut future = Box::pin(future);
        poll_fn(move |context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(payload) => Poll::Ready(Err(caught(&panics, &*payload))),
        })
    }

    /// Runs `act` to its end or to its panic. Costs nothing.
    pub fn call<T>(&self, act: impl FnOnce() -> T) -> Result<T, Panic> {
        catch_unwind(AssertUnwindSafe(act)).map_err(|payload| caught(&self.panics, &*payload))
    }

    /// Counts a panic that was caught elsewhere.
    pub fn note(&self) {
        self.panics.add();
    }
}

/// Something that is called with the id of a message at a certain point of its way. Settings have none, save in tests of
/// what a panic at that point does.
#[derive(Clone)]
pub struct Probe(pub Arc<dyn Fn(u64) + Send + Sync>);

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").finish_non_exhaustive()
    }
}

impl PartialEq for Probe {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Probe {}

fn caught(panics: &Panics, payload: &(dyn Any + Send)) -> Panic {
    panics.add();
    Panic::of(payload)
}

/// From now on panics of this process go to its log instead of standard error. For the program, once: a library or a test
/// leaves the hook alone.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let panic = Panic::of(info.payload());
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        // Only with RUST_BACKTRACE.
        let trace = Backtrace::capture();
        match trace.status() {
            BacktraceStatus::Captured => tracing::error!(place, thread, %trace, "{panic}"),
            _ => tracing::error!(place, thread, "{panic}"),
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(registry: &Registry) -> String {
        let text = registry.render();
        let line = text.lines().find(|line| line.starts_with("hikyaku_task_panics_total")).unwrap();
        line.to_owned()
    }

    #[tokio::test]
    async fn a_panic_is_caught_counted_and_told() {
        let registry = Registry::new().unwrap();
        let bulkhead = Bulkhead::new(&registry, "test");
        assert_eq!(count(&registry), "hikyaku_task_panics_total{task=\"test\"} 0");

        let late = async {
            tokio::task::yield_now().await;
            panic!("late\nin {}", "life")
        };
        let of_future: Result<(), Panic> = bulkhead.run(late).await;
        let of_call = bulkhead.call(|| panic!("at once"));
        bulkhead.note();

        assert_eq!(of_future.unwrap_err().to_string(), "panic: late in life");
        assert_eq!(of_call.map(|()| 0).unwrap_err().to_string(), "panic: at once");
        assert_eq!(count(&registry), "hikyaku_task_panics_total{task=\"test\"} 3");
        assert_eq!(registry.panics().load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn what_does_not_panic_passes() {
        let registry = Registry::new().unwrap();
        let bulkhead = Bulkhead::new(&registry, "test");

        assert_eq!(bulkhead.run(async { 1 }).await, Ok(1));
        assert_eq!(bulkhead.call(|| 2), Ok(2));
        assert_eq!(count(&registry), "hikyaku_task_panics_total{task=\"test\"} 0");
    }

    #[test]
    fn a_long_message_is_cut_and_other_payloads_are_allowed() {
        let registry = Registry::new().unwrap();
        let bulkhead = Bulkhead::new(&registry, "test");

        let long = bulkhead.call(|| panic!("{}", "x".repeat(1_000))).map(|()| 0).unwrap_err();
        let odd = bulkhead.call(|| std::panic::panic_any(7)).map(|()| 0).unwrap_err();

        assert_eq!(long.to_string().len(), LONGEST + "panic: ".len());
        assert_eq!(odd.to_string(), "panic: without a message");
    }
}

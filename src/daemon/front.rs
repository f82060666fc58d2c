//! The front: a runtime of its own for the listeners and the sessions behind them.
//!
//! On the runtime that delivers, a session would wait for its turn among thousands of connections that all have
//! something to do when a wave of retries is due. Here it waits for other sessions alone, and for the kernel, which is
//! quick to run a thread that mostly sleeps. Sessions give work to the queue in their own thread; tasks that come of it
//! run where deliveries do.

use tokio::runtime::{Builder, Handle, Runtime};

use super::Error;

/// Two, so that one goes on while the other waits for the disk with a message that it commits itself.
const THREADS: usize = 2;

/// The runtime; ended when dropped, without waiting: what still runs then has had its time.
#[derive(Debug)]
pub(super) struct Front {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Front {
    /// Starts its threads.
    pub fn start() -> Result<Self, Error> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(THREADS).enable_all().thread_name("hikyaku-front").build();
        let runtime = runtime.map_err(Error::Thread)?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Where its tasks run.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // Waiting for the threads is forbidden in a task, and this is dropped in one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

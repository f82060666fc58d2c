//! Look-ups of delivery plans: a bounded number at the same time, one for each domain that entries wait for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::domain::Domain;
use super::engine::Engine;

/// Domains whose plan is wanted, and who works on them.
#[derive(Debug)]
pub(super) struct Lookups {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Domains marked as looked up that no worker has taken yet.
    asked: VecDeque<Arc<Domain>>,
    workers: usize,
}

impl Lookups {
    /// At most `most` at the same time.
    pub fn new(most: usize) -> Self {
        Self { most: most.max(1), state: Mutex::default() }
    }

    /// Has a domain looked up. The caller has marked it.
    pub fn ask(&self, engine: &Arc<Engine>, domain: &Arc<Domain>) {
        self.state.lock().asked.push_back(domain.clone());
        self.kick(engine);
    }

    /// Starts a worker if there is work for one more. Before the queue is started the domains wait.
    pub fn kick(&self, engine: &Arc<Engine>) {
        let Some(handle) = engine.handle() else { return };
        loop {
            {
                let mut state = self.state.lock();
                if state.workers >= self.most || state.workers >= state.asked.len() {
                    return;
                }
                state.workers += 1;
            }
            engine.tasks.spawn_on(work(engine.clone()), handle);
        }
    }

    /// The next domain; None: the worker ends.
    fn next(&self) -> Option<Arc<Domain>> {
        let mut state = self.state.lock();
        let next = state.asked.pop_front();
        if next.is_none() {
            state.workers -= 1;
        }
        next
    }
}

async fn work(engine: Arc<Engine>) {
    while let Some(domain) = engine.lookups.next() {
        let planned = tokio::select! {
            planned = engine.planner.plan(&domain.name) => planned,
            // The entries stay where they are; the spool has them.
            () = engine.stopped.cancelled() => return,
        };
        let entries = {
            let mut state = domain.state.lock();
            state.is_looked_up = false;
            std::mem::take(&mut state.waiting)
        };
        engine.waiting_for_dns.fetch_sub(entries.len(), Ordering::Relaxed);
        engine.follow(&domain, planned, entries, engine.clock.now());
        tokio::task::consume_budget().await;
    }
}

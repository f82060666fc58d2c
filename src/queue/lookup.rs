//! Look-ups of delivery plans: a bounded number at the same time, one for each domain that entries wait for.
//!
//! A resolver that does not answer takes seconds. So a look-up that takes long gives its worker's place back and goes on
//! beside the others, under a second, larger bound: hundreds of silent domains do not hold up one that answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

use super::domain::Domain;
use super::engine::Engine;
use super::salvage::Blame;

/// A look-up that has taken this long is slow: a resolver that must ask others itself usually answers within it.
const PATIENCE: Duration = Duration::from_secs(1);
/// Slow look-ups at the same time: what the workers begin while one that is never answered (10 s by default) lasts.
const MOST_SLOW: usize = 1_024;

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
    /// Look-ups that go on without a worker.
    slow: usize,
}

impl Lookups {
    /// At most `most` at the same time, beside slow ones.
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

    /// Whether one more may go on without a worker.
    fn begin_slow(&self) -> bool {
        let mut state = self.state.lock();
        let has_room = state.slow < MOST_SLOW;
        state.slow += usize::from(has_room);
        has_room
    }

    fn end_slow(&self) {
        self.state.lock().slow -= 1;
    }
}

async fn work(engine: Arc<Engine>) {
    while let Some(domain) = engine.lookups.next() {
        let mut look_up = Box::pin(look_up(engine.clone(), domain));
        if tokio::time::timeout(PATIENCE, &mut look_up).await.is_err() {
            if engine.lookups.begin_slow() {
                let ended = engine.clone();
                engine.tasks.spawn(async move {
                    look_up.await;
                    ended.lookups.end_slow();
                });
            } else {
                look_up.await;
            }
        }
        if engine.stopped.is_cancelled() {
            return;
        }
        tokio::task::consume_budget().await;
    }
}

async fn look_up(engine: Arc<Engine>, domain: Arc<Domain>) {
    let asked = engine.walls.lookups.run({
        let (engine, domain) = (engine.clone(), domain.clone());
        async move {
            tokio::select! {
                found = engine.plan(&domain.name) => Some(found),
                // The entries stay where they are; the spool has them.
                () = engine.stopped.cancelled() => None,
            }
        }
    });
    let (planner, planned) = match asked.await {
        Ok(Some(found)) => found,
        Ok(None) => return,
        Err(panic) => (engine.planner().clone(), engine.failed_lookup(&panic)),
    };
    let _outing = engine.outings.begin();
    let entries = {
        let mut state = domain.state.lock();
        state.is_looked_up = false;
        std::mem::take(&mut state.waiting)
    };
    engine.waiting_for_dns.fetch_sub(entries.len(), Ordering::Relaxed);
    let keys = entries.iter().map(|entry| (entry.id, entry.recipient)).collect();
    let follow = || engine.follow(&domain, &planner, planned, entries, engine.clock.now());
    if let Err(panic) = engine.walls.lookups.call(follow) {
        engine.salvage(keys, Blame::Shared, panic);
    }
}

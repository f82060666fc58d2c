//! Where warm-ups are, kept over restarts, and over reloads that take a plan out for a time.
//!
//! While the daemon runs the file says that it does. One that says so at a start was left by a kill: what went since it was written is
//! not known, and all that may have gone counts as gone ([`Warmup::after_kill`]). So no day has more than its volume, however often
//! the daemon is killed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::limit::warmup::{Progress, Warmup};
use crate::state::Note;

use super::engine::Engine;
use super::warmup::{EVERYWHERE, Rule, Standing, Warming};

/// A plan that was taken out is remembered for so long: longer than an operator needs to see that it was a mistake, and than
/// the replies count.
const REMEMBERED: Duration = Duration::from_secs(2 * 86_400);

/// The file, and plans that are in no table.
#[derive(Debug, Default)]
pub(super) struct Store {
    note: Note,
    /// Held while the file is written: what is older must not replace what is newer. True: what the stop has written stays.
    is_closed: Mutex<bool>,
    /// The file is not as it is to be: a plan came or went, or it could not be written.
    is_owed: AtomicBool,
    /// Plans that a reload took out: put back, they go on. Taken before the state of any plan or site, never after one.
    apart: Mutex<Vec<Apart>>,
}

/// A plan that is configured no more.
#[derive(Clone, Debug)]
struct Apart {
    source: Arc<str>,
    provider: Option<Arc<str>>,
    state: Arc<Mutex<Standing>>,
    /// When it was taken out, as the time since 1970-01-01 UTC.
    since: Duration,
}

/// What is in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// It was written at the stop: nothing has been sent since.
    is_final: bool,
    plans: Vec<Stored>,
}

/// A plan's progress as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    source: Box<str>,
    provider: Box<str>,
    progress: Progress,
    /// Since when it is configured no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    apart_since: Option<Duration>,
}

impl Apart {
    fn new(plan: &Arc<Warming>, since: Duration) -> Self {
        Self { source: plan.source.clone(), provider: plan.provider.clone(), state: plan.state.clone(), since }
    }

    fn recalled(stored: &Stored, wall: Duration) -> Self {
        let provider = Some(&*stored.provider).filter(|provider| *provider != EVERYWHERE);
        Self {
            source: (*stored.source).into(),
            provider: provider.map(Arc::from),
            state: Arc::new(Mutex::new(Standing::new(Warmup::put_by(stored.progress.clone())))),
            since: stored.apart_since.unwrap_or(wall),
        }
    }
}

impl Stored {
    fn new(source: &str, provider: &str, state: &Mutex<Standing>, apart_since: Option<Duration>) -> Self {
        let progress = state.lock().warmup.progress().clone();
        Self { source: source.into(), provider: provider.into(), progress, apart_since }
    }
}

impl Engine {
    /// Goes by the plans of the settings; where a plan stands stays so, if it was taken out and is put back, too.
    pub fn reload_warmups(&self, now: Instant) {
        let mut apart = self.warmups.store.apart.lock();
        let wall = self.clock.wall_at(now);
        apart.extend(self.warmups.all().iter().map(|plan| Apart::new(plan, wall)));
        let kept = |rule: &Rule, wall: Duration| {
            let known = apart.iter().find(|plan| plan.source == rule.source && plan.provider == rule.provider)?;
            let mut state = known.state.lock();
            state.warmup.follow(rule.plan.clone(), wall);
            // They were at the pace of the plan before.
            state.turns.clear();
            Some(known.state.clone())
        };
        self.set_warmups(now, kept);
        let plans = self.warmups.all();
        apart.retain(|plan| !plans.iter().any(|known| Arc::ptr_eq(&known.state, &plan.state)));
        self.warmups.store.is_owed.store(!apart.is_empty() || !plans.is_empty(), Ordering::Relaxed);
    }

    /// Forgets plans that were taken out long ago.
    pub fn forget_apart(&self, wall: Duration) {
        let store = &self.warmups.store;
        let mut apart = store.apart.lock();
        let before = apart.len();
        apart.retain(|plan| wall < plan.since + REMEMBERED);
        if apart.len() < before {
            store.is_owed.store(true, Ordering::Relaxed);
        }
    }

    /// Takes up where plans were before the start. Blocks on the disk.
    pub fn recall_warmups(&mut self, note: Note) {
        let kept: Option<Kept> = note.read().and_then(|text| serde_json::from_slice(&text).ok());
        let was_killed = kept.as_ref().is_some_and(|kept| !kept.is_final);
        let mut stored = kept.unwrap_or_default().plans;
        self.warmups.store.note = note;
        let now = self.clock.now();
        let wall = self.clock.wall_at(now);
        stored.retain(|stored| stored.apart_since.is_none_or(|since| wall < since + REMEMBERED));
        let find = |rule: &Rule| {
            let provider = rule.provider.as_deref().unwrap_or(EVERYWHERE);
            stored.iter().find(|stored| *stored.source == *rule.source && *stored.provider == *provider)
        };
        self.set_warmups(now, |rule, wall| {
            let (plan, progress) = (rule.plan.clone(), find(rule)?.progress.clone());
            let warmup = match was_killed {
                true => Warmup::after_kill(plan, progress, wall),
                false => Warmup::new(plan, Some(progress), wall),
            };
            Some(Arc::new(Mutex::new(Standing::new(warmup))))
        });
        let plans = self.warmups.all();
        let is_apart =
            |it: &&Stored| !plans.iter().any(|plan| *plan.source == *it.source && *plan.provider() == *it.provider);
        let apart = stored.iter().filter(is_apart).map(|stored| Apart::recalled(stored, wall));
        *self.warmups.store.apart.lock() = apart.collect();
        if !plans.is_empty() || !stored.is_empty() {
            // From here on a kill is seen.
            self.warmups.store.is_owed.store(true, Ordering::Relaxed);
            self.save_warmups(false);
        }
    }

    /// Keeps where plans are, if that has changed. `is_final`: at the stop, when nothing is sent any more. Blocks on the disk.
    pub fn save_warmups(&self, is_final: bool) {
        if let Err(error) = self.write_warmups(false, is_final) {
            tracing::warn!(%error, "where warm-ups are cannot be kept over a restart");
        }
    }

    /// Keeps where plans are; when it returns, that is on stable storage.
    pub fn store_warmups(&self) -> io::Result<()> {
        self.write_warmups(true, false)
    }

    fn write_warmups(&self, has_news: bool, is_final: bool) -> io::Result<()> {
        let store = &self.warmups.store;
        let mut is_closed = store.is_closed.lock();
        let is_owed = store.is_owed.swap(false, Ordering::Relaxed);
        let (plans, apart) = {
            // A reload holds it meanwhile: else a plan could be missed, or be on both sides.
            let apart = store.apart.lock();
            (self.warmups.all(), apart.clone())
        };
        let states = plans.iter().map(|plan| &plan.state).chain(apart.iter().map(|plan| &plan.state));
        let news: Vec<bool> = states.map(|state| state.lock().warmup.take_news()).collect();
        let has_news = has_news || is_owed || news.contains(&true) || (is_final && !news.is_empty());
        if !has_news || *is_closed {
            return Ok(());
        }
        let stored = plans.iter().map(|plan| Stored::new(&plan.source, plan.provider(), &plan.state, None));
        let put_by = apart.iter().map(|plan| {
            let provider = plan.provider.as_deref().unwrap_or(EVERYWHERE);
            Stored::new(&plan.source, provider, &plan.state, Some(plan.since))
        });
        let kept = Kept { is_final, plans: stored.chain(put_by).collect() };
        let written = store.note.replace(&serde_json::to_vec(&kept).unwrap_or_default());
        store.is_owed.fetch_or(written.is_err(), Ordering::Relaxed);
        *is_closed = is_final && written.is_ok();
        written
    }
}

//! Windows of connections that sites share: the global one and one for each egress source that has a ceiling.
//!
//! A site that finds one full queues up at it; each release wakes one site.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use crate::limit::window::Window;

use super::engine::Engine;
use super::site::Site;
use super::source::Source;

/// A shared window and who waits for it.
#[derive(Debug)]
pub(super) struct Gate {
    pub window: Window,
    waiting: Mutex<VecDeque<Weak<Site>>>,
    /// Length of `waiting`, to be looked at without its lock.
    waiters: AtomicUsize,
}

/// All shared windows.
#[derive(Debug)]
pub(super) struct Gates {
    global: Gate,
    sources: Vec<Option<Gate>>,
    /// Connections that were told to make way for a waiting site and have not ended yet.
    asked: AtomicUsize,
    /// Sites that had connections without work when they came here.
    idle: Mutex<VecDeque<Weak<Site>>>,
}

/// Sites that are asked for an idle connection at one refusal.
const PATIENCE: usize = 16;

impl Gate {
    fn new(ceiling: u32) -> Self {
        Self { window: Window::new(ceiling), waiting: Mutex::default(), waiters: AtomicUsize::new(0) }
    }

    fn wake(&self, engine: &Arc<Engine>, now: Instant) {
        while self.waiters.load(Ordering::Acquire) > 0 && self.window.look() {
            let Some(site) = self.waiting.lock().pop_front() else { return };
            self.waiters.fetch_sub(1, Ordering::AcqRel);
            if let Some(site) = site.upgrade() {
                site.on_gate(engine, now);
            }
        }
    }
}

impl Gates {
    /// The windows of the settings.
    pub fn new(connections: u32, sources: &[Arc<Source>]) -> Self {
        let gates = sources.iter().map(|source| source.connections.map(Gate::new));
        Self {
            global: Gate::new(connections),
            sources: gates.collect(),
            asked: AtomicUsize::new(0),
            idle: Mutex::default(),
        }
    }

    /// The window of everything.
    pub fn global(&self) -> &Gate {
        &self.global
    }

    /// The window of a source, if it has one.
    pub fn of(&self, source: u16) -> Option<&Gate> {
        self.sources.get(usize::from(source)).and_then(Option::as_ref)
    }

    /// Gives the places of one connection back.
    pub fn release(&self, source: u16) {
        self.global.window.release();
        if let Some(gate) = self.of(source) {
            gate.window.release();
        }
    }

    /// Wakes sites that wait, as far as there is room. No lock may be held.
    pub fn wake(&self, source: u16, engine: &Arc<Engine>, now: Instant) {
        self.global.wake(engine, now);
        if let Some(gate) = self.of(source) {
            gate.wake(engine, now);
        }
    }

    /// Queues a site up at the gate of `source`, or at the global one; wakes it at once if there is room meanwhile.
    pub fn join(&self, source: Option<u16>, site: &Arc<Site>, engine: &Arc<Engine>) {
        let gate = source.and_then(|source| self.of(source)).unwrap_or(&self.global);
        gate.waiting.lock().push_back(Arc::downgrade(site));
        gate.waiters.fetch_add(1, Ordering::AcqRel);
        // A release between the refusal and the line above found nobody to wake.
        gate.wake(engine, engine.clock.now());
        if gate.waiters.load(Ordering::Acquire) > 0 {
            self.reclaim(source, engine);
        }
    }

    /// Lists a site that has connections without work; it marks itself as listed.
    pub fn list_idle(&self, site: &Arc<Site>) {
        self.idle.lock().push_back(Arc::downgrade(site));
    }

    /// Has some site end a connection without work.
    fn reclaim(&self, source: Option<u16>, engine: &Arc<Engine>) {
        for _ in 0..PATIENCE {
            let Some(listed) = self.idle.lock().pop_front() else { return };
            let Some(site) = listed.upgrade() else { continue };
            let (has_found, has_more) = site.reclaim_idle(engine, source);
            if has_more {
                self.list_idle(&site);
            }
            if has_found {
                return;
            }
        }
    }

    /// Whether a busy connection from this source is to make way for a site that waits; it must then tell when it has
    /// ended ([`Gates::made_way`]). One is asked for each site that waits.
    pub fn ask(&self, source: u16) -> bool {
        let waiters = |gate: &Gate| gate.waiters.load(Ordering::Relaxed);
        let waiting = waiters(&self.global) + self.of(source).map_or(0, waiters);
        let one_more = |asked: usize| (asked < waiting).then_some(asked + 1);
        waiting > 0 && self.asked.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more).is_ok()
    }

    /// A connection that was asked has ended.
    pub fn made_way(&self) {
        self.asked.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether sites wait for a connection that this source, or everything, may have.
    pub fn are_contended(&self, source: u16) -> bool {
        let waits = |gate: &Gate| gate.waiters.load(Ordering::Relaxed) > 0;
        waits(&self.global) || self.of(source).is_some_and(waits)
    }
}

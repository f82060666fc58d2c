//! Warm-ups as people see and steer them: the admin interface serializes it, metrics show it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::limit::warmup::days;
use crate::metrics::sheet::{Family, Row};

use super::engine::Engine;
use super::limit_views::ScopeLimit;
use super::path::Cause;
use super::view::PausedWarmup;
use super::warmup::Warming;

/// What is shown of every plan; [`WarmupView::values`] has their order.
pub(super) const FAMILIES: [Family; 9] = [
    family("hikyaku_warmup_day", "Day of the warm-up, the first being 1; 0: it has not begun.", "gauge"),
    family("hikyaku_warmup_length", "Days that the warm-up has.", "gauge"),
    family("hikyaku_warmup_volume_messages", "Messages that the warm-up allows today; once it is done: 0.", "gauge"),
    family("hikyaku_warmup_sent_messages", "Messages that went today (UTC).", "gauge"),
    family(
        "hikyaku_warmup_overflow_total",
        "Messages that the warm-up had no room for and that went by its overflow.",
        "counter",
    ),
    family("hikyaku_warmup_held_recipients", "Recipients that are ready and wait for room in the warm-up.", "gauge"),
    family("hikyaku_warmup_bad_ratio", "Bad replies of the last 24 hours as a share of all, 0 to 1.", "gauge"),
    Family { label: Some(("by", "itself")), ..PAUSED },
    Family { label: Some(("by", "operator")), ..PAUSED },
];
const PAUSED: Family = family("hikyaku_warmup_paused", "1: the warm-up is paused, by whom.", "gauge");

const fn family(name: &'static str, help: &'static str, kind: &'static str) -> Family {
    Family { name, help, kind, label: None }
}

/// Which plans are asked about.
#[derive(Clone, Debug, Default)]
pub struct WarmupFilter {
    /// Only of this source.
    pub source: Option<String>,
    /// Only of this provider.
    pub provider: Option<String>,
}

/// One plan and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WarmupView {
    /// The egress source.
    pub source: String,
    /// The provider; `default`: every site for which the source has no plan of its own.
    pub provider: String,
    /// `waiting`, `running`, `paused` or `done`.
    pub state: &'static str,
    /// The first day.
    pub start: String,
    /// The number of the day; 0: it has not begun.
    pub day: u32,
    /// Days of the plan.
    pub days: usize,
    /// Days that did not count, because it was paused on them.
    pub held_days: u32,
    /// What the day allows; none: no limit.
    pub volume: Option<u32>,
    /// What went today.
    pub sent: u32,
    /// What may go at once; none: no limit.
    pub room: Option<u32>,
    /// Why nothing may go now.
    pub waits_for: Option<&'static str>,
    /// When something may go, if that is known.
    pub room_in_seconds: Option<f64>,
    /// Where what has no room goes; none: it waits.
    pub overflow: Option<String>,
    /// What went there today.
    pub overflowed: u32,
    /// The same since the daemon started.
    pub overflowed_since_start: u64,
    /// Recipients that are ready and wait for room.
    pub held: usize,
    /// Bad replies of the last 24 hours.
    pub bad: u32,
    /// All replies of the last 24 hours.
    pub replies: u32,
    /// The share of bad ones at which it pauses by itself, between 0 and 1; 0: never.
    pub pause_at: f64,
    /// The last bad reply; empty: none.
    pub last_bad: String,
    /// The pause that it is in.
    pub pause: Option<PauseView>,
    /// Times that it paused by itself since the daemon started.
    pub own_pauses: u64,
    /// When the next day begins, in seconds since 1970.
    pub next_day: u64,
}

/// A pause.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PauseView {
    /// Who wants it; none: it paused by itself.
    pub by: Option<String>,
    /// Why.
    pub reason: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// When it ends by itself, in seconds since 1970; none: when it is resumed.
    pub until: Option<u64>,
}

/// What an operator wants of a plan.
#[derive(Clone, Debug)]
pub struct Steering {
    /// Of this source.
    pub source: String,
    /// And this provider.
    pub provider: String,
    /// It is to pause, so long if that is said; else it is to go on.
    pub pause: Option<Option<Duration>>,
    /// Who asks.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// Why a plan cannot be steered so.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// There is no such plan.
    #[error("there is no warm-up of {0:?} at {1:?}")]
    Unknown(String, String),
    /// It is not paused.
    #[error("the warm-up of {0:?} at {1:?} is not paused")]
    NotPaused(String, String),
    /// It cannot be kept.
    #[error("it cannot be stored: {0}")]
    Store(#[from] io::Error),
}

impl WarmupView {
    fn values(&self) -> Vec<f64> {
        let ratio = if self.replies == 0 { 0.0 } else { f64::from(self.bad) / f64::from(self.replies) };
        let is_own = self.pause.as_ref().is_some_and(|pause| pause.by.is_none());
        let is_set = |is_so: bool| f64::from(u8::from(is_so));
        vec![
            f64::from(self.day),
            count(self.days),
            f64::from(self.volume.unwrap_or(0)),
            f64::from(self.sent),
            self.overflowed_since_start as f64,
            count(self.held),
            ratio,
            is_set(is_own),
            is_set(self.pause.is_some() && !is_own),
        ]
    }
}

fn count(value: usize) -> f64 {
    u32::try_from(value).map_or(f64::from(u32::MAX), f64::from)
}

impl Engine {
    /// Where each plan stands, in the order of the configuration.
    pub fn warmup_views(&self, filter: &WarmupFilter) -> Vec<WarmupView> {
        let is_wanted = |warming: &Arc<Warming>| {
            filter.source.as_deref().is_none_or(|source| *source == *warming.source)
                && filter.provider.as_deref().is_none_or(|provider| *provider == *warming.provider())
        };
        let wanted: Vec<_> = self.warmups.all().into_iter().filter(is_wanted).collect();
        if wanted.is_empty() {
            return Vec::new();
        }
        let (now, held) = (self.clock.now(), self.held_by_warmups());
        wanted.iter().map(|warming| self.warmup_view(warming, held_of(&held, warming), now)).collect()
    }

    /// Recipients that wait, by source and plan.
    fn held_by_warmups(&self) -> HashMap<*const Warming, usize> {
        let mut held = HashMap::new();
        if !self.warmups.is_on() {
            return held;
        }
        for site in self.all_sites() {
            let state = site.state.lock();
            for path in state.paths.iter().flatten().filter(|path| path.cause == Some(Cause::Warmup)) {
                if let Some(warming) = self.warmups.of(path.key.source, &site.name) {
                    *held.entry(Arc::as_ptr(&warming)).or_default() += path.ready.len();
                }
            }
        }
        held
    }

    fn warmup_view(&self, warming: &Warming, held: usize, now: Instant) -> WarmupView {
        let wall = self.clock.wall_at(now);
        let mut state = warming.state.lock();
        let (overflowed_since_start, own_pauses) = (state.overflowed, state.pauses);
        let warmup = &mut state.warmup;
        let (room, wait) = (warmup.room(wall), warmup.look(wall).err());
        let (bad, replies) = warmup.recent(wall);
        let (plan, progress) = (warmup.plan(), warmup.progress());
        let pause = progress.pause.as_ref().map(|pause| PauseView {
            by: Some(pause.by.to_string()).filter(|by| !by.is_empty()),
            reason: pause.reason.to_string(),
            since: pause.since.as_secs(),
            until: pause.until.map(|until| until.as_secs()),
        });
        let until = wait.map_or(Some(wall), |wait| wait.until);
        WarmupView {
            source: warming.source.to_string(),
            provider: warming.provider().to_owned(),
            state: warmup.state().as_str(),
            start: plan.start.to_string(),
            day: warmup.day(),
            days: plan.volumes.len(),
            held_days: progress.held_days(),
            volume: warmup.volume(),
            sent: progress.sent,
            room,
            waits_for: wait.map(|wait| wait.halt.as_str()),
            room_in_seconds: until.map(|until| until.saturating_sub(wall).as_secs_f64()),
            overflow: warming.overflow.as_ref().map(|(_, name)| name.to_string()),
            overflowed: progress.overflowed,
            overflowed_since_start,
            held,
            bad,
            replies,
            pause_at: plan.pause_at.ratio(),
            last_bad: progress.last_bad.to_string(),
            pause,
            own_pauses,
            next_day: warmup.next_day().as_secs(),
        }
    }

    /// Sets the metrics of every plan.
    pub(super) fn show_warmups(&self) {
        let views = self.warmup_views(&WarmupFilter::default());
        let row = |view: WarmupView| {
            let values = view.values();
            Row { labels: vec![("source", view.source), ("provider", view.provider)], values }
        };
        self.warmups.sheet.set(views.into_iter().map(row).collect());
    }

    /// Those that are paused.
    pub(super) fn paused_warmups(&self) -> Vec<PausedWarmup> {
        let now = self.clock.now();
        let views = self.warmups.all().into_iter().map(|warming| self.warmup_view(&warming, 0, now));
        let paused = views.filter_map(|WarmupView { source, provider, pause, .. }| {
            let PauseView { by, reason, until, .. } = pause?;
            Some(PausedWarmup { source, provider, by, reason, until })
        });
        paused.collect()
    }

    /// Where a plan stands, in words.
    pub(super) fn warmup_words(&self, warming: &Warming, now: Instant) -> String {
        let view = self.warmup_view(warming, 0, now);
        let of = format!("warm-up of {} at {}, day {} of {}", view.source, view.provider, view.day, view.days);
        let volume = view.volume.map_or_else(|| "no limit".to_owned(), |volume| volume.to_string());
        let why = view.pause.map(|pause| format!(": {}", pause.reason)).unwrap_or_default();
        let halt = view.waits_for.map(|halt| format!("; {halt}{why}")).unwrap_or_default();
        format!("{of}: {} of {volume} messages went today{halt}", view.sent)
    }

    /// The limit that a plan is for mail from a source to a site.
    pub(super) fn warmup_line(&self, source: u16, site: &str, now: Instant) -> Option<ScopeLimit> {
        let warming = self.warmups.of(source, site)?;
        let view = self.warmup_view(&warming, 0, now);
        let beyond = match &view.overflow {
            Some(overflow) => format!("what has no room leaves from {overflow}"),
            None => "what has no room waits".to_owned(),
        };
        let set_by = match view.state {
            "done" => format!("[[warmup]], done after {}", days(view.days)),
            state => format!("[[warmup]], {state}, day {} of {}; {beyond}", view.day, view.days),
        };
        Some(ScopeLimit {
            scope: "warm-up",
            of: format!("{} at {}", view.source, view.provider),
            what: "messages",
            most: view.volume.map(f64::from),
            per_seconds: Some(86_400.0),
            set_by,
            used: Some(view.sent.into()),
            room: view.room.map(u64::from),
            room_in_seconds: view.room_in_seconds,
            waits_for: view.waits_for,
        })
    }

    /// Has a plan pause or go on; on stable storage when it returns.
    pub fn steer_warmup(self: &Arc<Self>, request: &Steering) -> Result<WarmupView, SteerError> {
        let Steering { source, provider, pause, by, reason } = request;
        let names = || (source.clone(), provider.clone());
        let is_it = |warming: &Arc<Warming>| *warming.source == **source && *warming.provider() == **provider;
        let Some(warming) = self.warmups.all().into_iter().find(is_it) else {
            let (source, provider) = names();
            return Err(SteerError::Unknown(source, provider));
        };
        let now = self.clock.now();
        let wall = self.clock.wall_at(now);
        let (before, is_paused) = {
            let warmup = &mut warming.state.lock().warmup;
            let before = warmup.clone();
            let is_paused = match pause {
                Some(lasts) => {
                    warmup.pause(by, reason, lasts.map(|lasts| wall + lasts), wall);
                    true
                }
                None => warmup.resume(by, reason, wall),
            };
            (before, is_paused)
        };
        if !is_paused {
            let (source, provider) = names();
            return Err(SteerError::NotPaused(source, provider));
        }
        if let Err(error) = self.store_warmups() {
            // Neither now nor after a restart.
            warming.state.lock().warmup = before;
            return Err(error.into());
        }
        self.tell_warmup(&warming);
        self.wake_warming(warming.index);
        Ok(self.warmup_view(&warming, held_of(&self.held_by_warmups(), &warming), now))
    }

    /// Has every path from a source looked at again: its plan has changed.
    fn wake_warming(self: &Arc<Self>, source: u16) {
        let now = self.clock.now();
        for site in self.all_sites() {
            site.with(self, now, |context, state, out| {
                state.on_warmup(context, now, out);
                for place in 0..u32::try_from(state.paths.len()).unwrap_or(u32::MAX) {
                    if state.path(place).is_some_and(|path| path.key.source == source && !path.ready.is_empty()) {
                        state.pump(context, place, out);
                    }
                }
            });
        }
    }
}

fn held_of(held: &HashMap<*const Warming, usize>, warming: &Arc<Warming>) -> usize {
    held.get(&Arc::as_ptr(warming)).copied().unwrap_or_default()
}

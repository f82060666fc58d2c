//! What becomes of mail for which the warm-up of its source has no room.
//!
//! | the plan's overflow | what has no room | when there is room again |
//! |---|---|---|
//! | a source | leaves from that one, at once | one that still waits there, and was meant for this source, is taken back |
//! | none | waits at its path, in turn with other paths | the path is served |

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::UnixTime;

use super::engine::Engine;
use super::entry::Entry;
use super::matcher::Whereabouts;
use super::orders::Standing;
use super::path::{Cause, Wait};
use super::pump::{Reach, Step};
use super::site::{Alarm, Context, Outbox, SiteState};
use super::source::Chooser;
use super::warmup::{Halted, Warming};

/// Of the foremost entries of a line so many are looked at for one that was meant for another source.
const WITHIN: usize = 64;
/// Messages that are taken back at once.
const MOST_BACK: u32 = 64;
/// What could not be taken back is looked at again after this.
const LATER: Duration = Duration::from_secs(10);

impl Engine {
    /// The source that an entry leaves from where `chosen` was chosen, and `chosen` if that is another one.
    pub fn diverted(&self, entry: &Entry, chosen: u16, site: &str, wall: UnixTime) -> (u16, Option<u16>) {
        // Greylisting keys on the source that it was tried from, however far along the chain that is.
        let tried = entry.marks.source().filter(|_| Chooser::is_sticky(entry, wall));
        let mut left = tried.map_or(0, |tried| self.steps_to(tried, chosen, site));
        let mut source = chosen;
        for (warming, overflow) in self.onward(chosen, site) {
            if left == 0 && warming.look(site, self.clock.now()).is_ok() {
                break;
            }
            left = left.saturating_sub(1);
            source = overflow;
        }
        (source, (source != chosen).then_some(chosen))
    }

    /// The plans that mail from a source passes at a site while none of them has room, each with the source that it goes on by.
    fn onward(&self, from: u16, site: &str) -> impl Iterator<Item = (Arc<Warming>, u16)> {
        let step = move |at: u16| {
            let warming = self.warmups.of(at, site)?;
            let overflow = warming.overflow.as_ref()?.0;
            Some((warming, overflow))
        };
        // The configuration has no circles; one that a reload makes of indexes ends here.
        std::iter::successors(step(from), move |(_, at)| step(*at)).take(super::entry::MOST_SOURCES)
    }

    /// How many plans mail from a source passes to leave from `to`; 0: it never does.
    fn steps_to(&self, to: u16, from: u16, site: &str) -> usize {
        self.onward(from, site).position(|(_, at)| at == to).map_or(0, |before| before + 1)
    }

    /// The same, noted at the entry.
    pub fn divert(&self, entry: &mut Entry, chosen: u16, site: &str, wall: UnixTime) -> u16 {
        if !self.warmups.is_on() {
            return chosen;
        }
        let (source, meant) = self.diverted(entry, chosen, site, wall);
        entry.marks = entry.marks.with_meant(meant);
        source
    }

    /// The plans that have no room for mail which was meant for a source and leaves from another one: each by whose overflow it
    /// went on. After a reload the way may be another: then it is the first plan only.
    pub fn passed_by(&self, meant: u16, source: u16, site: &str) -> Vec<Arc<Warming>> {
        let most = self.steps_to(source, meant, site).max(1);
        let own = self.warmups.of(meant, site).filter(|_| meant != source);
        let further = self.onward(meant, site).map(|(plan, _)| plan).take(most).skip(1);
        own.into_iter().chain(further).collect()
    }

    /// Plans that hold at a site and have an overflow.
    fn overflowing(&self, site: &str) -> Vec<Arc<Warming>> {
        if !self.warmups.is_on() {
            return Vec::new();
        }
        let holds = |plan: &Arc<Warming>| self.warmups.of(plan.index, site).is_some_and(|own| Arc::ptr_eq(&own, plan));
        self.warmups.all().into_iter().filter(|plan| plan.overflow.is_some() && holds(plan)).collect()
    }

    /// What a path waits for at the warm-up of its source: the seconds, and why.
    pub fn warmup_wait(&self, source: u16, site: &str, now: Instant) -> (Option<f64>, Option<String>) {
        let Some(warming) = self.warmups.of(source, site) else { return (None, None) };
        let left = warming.until(now).map(|until| until.saturating_duration_since(now).as_secs_f64());
        (left, Some(self.warmup_words(&warming, now)))
    }
}

impl SiteState {
    /// Keeps a path with work to the warm-up of its source; what its step has come to, if that has no room.
    pub fn keep_to_warmup(&mut self, context: &Context<'_>, place: u32, out: &mut Outbox) -> Option<Step> {
        if !context.engine.warmups.is_on() {
            return None;
        }
        let path = self.path(place)?;
        let source = path.key.source;
        let is_in_back_off = path.pause.as_ref().is_some_and(|pause| pause.until > context.now);
        let is_down = path.connections == 0 && is_in_back_off;
        let warming = context.engine.warmups.of(source, &context.site.name)?;
        if is_down && warming.has_turns() {
            // It could not use a turn.
            return None;
        }
        let halted = warming.look(&context.site.name, context.now).err()?;
        Some(self.halt(place, halted, out))
    }

    /// No message may go from a path's source: its work finds another, or it waits.
    pub fn halt(&mut self, place: u32, halted: Halted, out: &mut Outbox) -> Step {
        if halted.has_overflow {
            self.evict(place, out);
            return Step::Rest;
        }
        self.set_cause(place, Some(Cause::Warmup));
        if let Some(until) = halted.until {
            self.arm_warmup(until, place, out);
        }
        Step::Refused(Wait::Warming, Reach::Source)
    }

    /// After a step of a path that sent nothing: its turn at the warm-up of its source is the next one's.
    pub fn pass_turn(&mut self, context: &Context<'_>, place: u32, step: Step) {
        if !context.engine.warmups.is_on() || matches!(step, Step::Served | Step::Refused(Wait::Warming, _)) {
            return;
        }
        let Some(path) = self.path(place) else { return };
        let source = path.key.source;
        // What its connections do now may be done soon.
        let is_busy = step == Step::Rest && path.connections > 0 && !path.ready.is_empty();
        if is_busy || self.has_warming(source) {
            return;
        }
        if let Some(pass) = context.engine.pass(source, &context.site.name) {
            pass.leave();
        }
    }

    fn arm_warmup(&mut self, at: Instant, place: u32, out: &mut Outbox) {
        if self.warmup_alarm.is_none_or(|alarm| at < alarm) {
            self.warmup_alarm = Some(at);
            self.arm(at, place, Alarm::Warmup, out);
        }
    }

    /// A plan may have room again.
    pub fn on_warmup(&mut self, context: &Context<'_>, at: Instant, out: &mut Outbox) {
        if self.warmup_alarm.is_some_and(|alarm| alarm <= at) {
            self.warmup_alarm = None;
        }
        self.resume(context, Wait::Warming, out);
        for warming in context.engine.overflowing(&context.site.name) {
            self.take_back(context, &warming, out);
        }
        self.await_warmups(context, out);
    }

    /// Has plans looked at again when they have room, if something waits elsewhere that was meant for them.
    pub fn await_warmups(&mut self, context: &Context<'_>, out: &mut Outbox) {
        for warming in context.engine.overflowing(&context.site.name) {
            let mut others = self.paths.iter().flatten().filter(|path| path.key.source != warming.index);
            if !others.any(|path| !path.ready.is_empty()) {
                continue;
            }
            if let Some(until) = warming.until(context.now) {
                // Room that there is now could not be used.
                let until = if until > context.now { until } else { context.now + LATER };
                self.arm_warmup(until, 0, out);
            }
        }
    }

    /// Takes entries back that wait at other sources for want of a plan's room, as many as there is room for now.
    fn take_back(&mut self, context: &Context<'_>, warming: &Warming, out: &mut Outbox) {
        let room = warming.room(context.now).min(MOST_BACK);
        // It has work that it does not get done, or none can be done.
        let mut own = self.paths.iter().flatten().filter(|path| path.key.source == warming.index);
        let is_busy = own.any(|path| !path.ready.is_empty() || path.pause.is_some());
        if room == 0 || is_busy {
            return;
        }
        let (orders, wall) = (context.engine.orders.standing(), context.engine.clock.wall());
        let name = &*warming.source;
        let others = context.engine.overflowing(&context.site.name);
        let mut places = Vec::new();
        let mut found = Vec::new();
        for path in self.paths.iter_mut().flatten().filter(|path| path.key.source != warming.index) {
            // Its own mail, and that of plans before it in a chain which went on by it.
            let went_on = |plan: &&Arc<Warming>| {
                let passed = context.engine.passed_by(plan.index, path.key.source, &context.site.name);
                plan.index == warming.index || passed.iter().any(|passed| passed.index == warming.index)
            };
            let meant: Vec<u16> = others.iter().filter(went_on).map(|plan| plan.index).collect();
            let here = Some(path.key.source);
            let may_go = |entry: &Entry| {
                let at = Whereabouts { site: Some(&context.site.name), source: Some(name) };
                let was_tried_here = entry.marks.source() == here && Chooser::is_sticky(entry, wall);
                let is_meant = entry.marks.meant().is_some_and(|index| meant.contains(&index));
                is_meant && !was_tried_here && !is_ordered(&orders, entry, at)
            };
            while found.len() < usize::try_from(room).unwrap_or_default()
                && let Some(entry) = path.ready.take_first(WITHIN, may_go)
            {
                found.push((path.plan.clone(), entry));
            }
        }
        for (plan, mut entry) in found {
            // The first plan of a chain may take it back still.
            let meant = entry.marks.meant().filter(|meant| *meant != warming.index);
            entry.marks = entry.marks.with_meant(meant);
            let place = self.path_of(&plan, warming.index, entry.marks.assurance());
            out.homeless.extend(self.push(place, entry));
            if !places.contains(&place) {
                places.push(place);
            }
        }
        for place in places {
            self.pump(context, place, out);
        }
    }
}

/// Whether an order may be about an entry if it left from there: then it stays where it is.
fn is_ordered(orders: &[Arc<Standing>], entry: &Entry, at: Whereabouts<'_>) -> bool {
    orders.iter().any(|standing| standing.may_concern(entry, at))
}

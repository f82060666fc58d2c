//! Orders that end mail once: to delete or bounce what has been accepted, not what comes.
//!
//! Such an order is about messages whose identity is below a bound, the first one that was not given when it was placed.
//! Messages that had theirs, and no 250 yet, are waited for before it is stored, so that none of them gets its 250 after
//! the order's answer and is ended by it all the same.
//!
//! | stage | the order | ends when |
//! |---|---|---|
//! | trying | has gone over every place; ends what comes back deferred | no recipient that it is about is being tried |
//! | passing | stands on for what was between two places | all that was has arrived; then it goes over every place again, and back to trying if any of it is being tried by now |
//! | swept | stands on for what was taken out before that | all that was has been asked; then it is done, or, if it asks for a site or a source, unless some are left of which neither is known |
//! | done | is kept until what it did is on stable storage, DSNs included | all that was under way has been noted, the log is synced, and the end of the order is stored |
//!
//! The end is stored before anybody is told of it: a start that found the order again would judge anew by what nobody
//! knows any more, such as where a recipient was tried the last time, and end what the order never was about.
//!
//! All of this takes milliseconds unless something that the order is about is being tried, or waits and nobody can tell yet
//! whether the order is about it: that is judged as it becomes ready, and every ten seconds the order begins again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::clock::UnixTime;
use crate::message::MessageId;
use crate::state::{OrderId, PlaceError};

use super::engine::Engine;
use super::entry::Entry;
use super::in_hand::Taken;
use super::matcher::Whereabouts;
use super::orders::Standing;
use super::passage::Mark;

/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(1);
/// Between two looks at who waits whose site or source is not known: each goes over every place.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Looks that must find nobody unknown, one after the other: who is between two places at one of them is found by the next.
const CLEAR: u8 = 2;
/// Looks before the rest is left to the upkeep.
const LOOKS: u32 = 20;
/// Orders that go over every place in one go: each takes some tens of milliseconds for a million recipients.
const SWEEPS: usize = 16;
/// Looks at messages that are being stored: the spool gives up one that takes longer than its deadline, a minute.
const ARRIVAL_LOOKS: u32 = 70_000;

/// An order that ends mail once and is not done yet.
#[derive(Debug)]
pub(super) struct Once {
    pub id: OrderId,
    stage: Stage,
    /// Not begun again before.
    rests_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Trying,
    Passing(Mark),
    /// With how many looks have found nobody unknown.
    Swept(Mark, u8),
    Done(Mark),
}

impl Once {
    /// One that has gone over every place, or of an earlier run.
    pub fn new(id: OrderId) -> Self {
        Self { id, stage: Stage::Trying, rests_until: None }
    }
}

impl Engine {
    /// The bound of an order that ends mail once. When it returns, every message below it has been put, or never will be.
    /// Blocks for as long as these take to be synced.
    pub fn bound(&self) -> Result<MessageId, PlaceError> {
        // In this order: who has an identity below the bound had begun before the page was turned.
        let bound = self.spool.frontier();
        let mark = self.arrivals.turn();
        for _ in 0..ARRIVAL_LOOKS {
            if self.arrivals.is_over(mark) {
                return Ok(bound);
            }
            std::thread::sleep(LOOK);
        }
        Err(PlaceError::Store(io::Error::new(io::ErrorKind::TimedOut, "messages that are being stored take too long")))
    }

    /// Ends an order that was just applied as soon as it is done, if that takes a moment only.
    pub fn finish_once(self: &Arc<Self>, id: OrderId) {
        self.orders.once.lock().push(Once::new(id));
        self.finish_if(|once| once.id == id);
    }

    /// The last thing before the spool is closed: orders of which nothing is being tried any more end. Blocks on the disk.
    pub fn finish_all_once(self: &Arc<Self>) {
        self.finish_if(|_| true);
    }

    fn finish_if(self: &Arc<Self>, is_meant: impl Fn(&Once) -> bool) {
        for _ in 0..LOOKS {
            self.tend_once();
            // Until what is being tried has its outcome may be long.
            if !self.orders.once.lock().iter().any(|once| is_meant(once) && once.stage != Stage::Trying) {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Leads each order that ends mail once to its next stage; those that are done end. May block on the disk.
    pub fn tend_once(self: &Arc<Self>) {
        // What is raised from the disk is asked as it comes.
        if self.spool.is_recovering() {
            return;
        }
        // Somebody else may be at it, for seconds if a million recipients are queued: the upkeep has more to do.
        let Some(mut once) = self.orders.once.try_lock() else { return };
        if once.is_empty() {
            return;
        }
        let orders = self.orders.standing();
        let find = |id: OrderId| orders.iter().find(|standing| standing.order.id == id);
        // One that was undone is gone.
        once.retain(|once| find(once.id).is_some());
        let now = self.clock.now();
        let is_free = |once: &&mut Once| {
            once.stage == Stage::Trying
                && once.rests_until.is_none_or(|until| until <= now)
                && find(once.id).is_some_and(|standing| !self.is_trying(standing))
        };
        let free: Vec<&mut Once> = once.iter_mut().filter(is_free).collect();
        if !free.is_empty() {
            let mark = self.outings.turn();
            free.into_iter().for_each(|once| once.stage = Stage::Passing(mark));
        }
        let is_past = |once: &&mut Once| matches!(once.stage, Stage::Passing(mark) if self.outings.is_over(mark));
        let mut swept = Vec::new();
        for once in once.iter_mut().filter(is_past).take(SWEEPS) {
            let Some(standing) = find(once.id) else { continue };
            self.apply(standing);
            // What became ready as the order was placed may have been drawn at once.
            match self.is_trying(standing) {
                true => once.stage = Stage::Trying,
                false => swept.push(once),
            }
        }
        if !swept.is_empty() {
            let mark = self.outings.turn();
            swept.into_iter().for_each(|once| once.stage = Stage::Swept(mark, 0));
        }
        for once in once.iter_mut() {
            if let Some(standing) = find(once.id).filter(|standing| standing.matcher.asks_whereabouts()) {
                self.look_for_unknown(once, standing);
            }
        }
        let is_done = |once: &&mut Once| {
            let is_clear = |clear| clear >= CLEAR || find(once.id).is_some_and(|it| !it.matcher.asks_whereabouts());
            matches!(once.stage, Stage::Swept(mark, clear) if is_clear(clear) && self.outings.is_over(mark))
        };
        let done: Vec<&mut Once> = once.iter_mut().filter(is_done).collect();
        if !done.is_empty() {
            // What a bounce has led to began behind the last turn.
            let mark = self.outings.turn();
            done.into_iter().for_each(|once| once.stage = Stage::Done(mark));
        }
        self.end_done(&mut once);
    }

    /// Orders whose work is on stable storage end there too; where that fails they are done again until it succeeds.
    fn end_done(&self, once: &mut Vec<Once>) {
        let is_noted = |once: &&Once| matches!(once.stage, Stage::Done(mark) if self.outings.is_over(mark));
        let done: Vec<OrderId> = once.iter().filter(is_noted).map(|once| once.id).collect();
        // A DSN that waits for the next start leaves the recipients unfinished that it reports.
        if done.is_empty() || self.has_left_notices.load(Ordering::Acquire) || !self.spool.sync_blocking() {
            return;
        }
        if let Err(error) = self.orders.book.end(&done) {
            return tracing::warn!(%error, "the end of an order cannot be stored; a restart now would go by it again");
        }
        once.retain(|once| !done.contains(&once.id));
        self.orders.reread();
    }

    /// An order that asks for a site or a source stays while some wait of which it cannot tell.
    fn look_for_unknown(&self, once: &mut Once, standing: &Standing) {
        let Stage::Swept(mark, clear) = once.stage else { return };
        if clear >= CLEAR || !self.outings.is_over(mark) {
            return;
        }
        once.stage = match self.unknown(standing) {
            0 => Stage::Swept(self.outings.turn(), clear + 1),
            _ => {
                once.rests_until = Some(self.clock.now() + LOOK_AGAIN);
                Stage::Trying
            }
        };
    }

    /// Whether a recipient that the order is about is being tried. May block on the disk.
    fn is_trying(&self, standing: &Standing) -> bool {
        self.all_sites().into_iter().any(|site| {
            let mut taken: Vec<(Option<u16>, Taken)> = Vec::new();
            for path in site.state.lock().paths.iter().flatten() {
                let of_path = path.in_hand.iter().filter(|taken| standing.matcher.may_match_message(taken.id));
                taken.extend(of_path.map(|taken| (Some(path.key.source), taken.clone())));
            }
            taken.into_iter().any(|(source, taken)| {
                let source = source.and_then(|source| self.source(source)).map(|source| source.name.clone());
                let at = Whereabouts { site: Some(&site.name), source: source.as_deref() };
                self.is_about(standing, &taken, at)
            })
        })
    }

    fn is_about(&self, standing: &Standing, taken: &Taken, at: Whereabouts<'_>) -> bool {
        let Standing { order, matcher } = standing;
        if !order.has_bound_above(taken.id) {
            return false;
        }
        // One that cannot be read now comes back all the same.
        self.envelope_of(taken.id).is_none_or(|envelope| {
            let matches = |index: &u32| matcher.matches_taken(taken.id, &envelope, *index, at);
            order.is_for(taken.id, envelope.accepted_at) && taken.recipients.as_slice().iter().any(matches)
        })
    }

    /// Entries go back to the timers, save those that an order ends.
    pub fn schedule_spared(self: &Arc<Self>, mut entries: Vec<Entry>) {
        if !self.orders.is_empty() {
            let mut spared = Vec::with_capacity(entries.len());
            for entry in entries {
                match self.doom_of(&entry) {
                    Some(standing) => self.give_up(&standing, vec![entry]),
                    None => spared.push(entry),
                }
            }
            entries = spared;
        }
        self.timers.schedule(entries.into_iter());
    }

    /// Tells of the orders whose time was over before this start.
    pub fn tell_ended_while_down(&self) {
        let ended = self.orders.book.take_ended_while_down();
        if ended.is_empty() {
            return;
        }
        for order in ended {
            let until = order.until.map(UnixTime);
            tracing::info!(order = %order.id, action = order.action.as_str(), ?until,
                "an order's time was over before the start");
            self.tell_order(&order, "over");
        }
        self.save_orders();
    }

    /// So that the next start does not find orders that have ended. Until it succeeds they are told again there.
    pub fn save_orders(&self) {
        if let Err(error) = self.orders.book.save() {
            tracing::warn!(%error, "the end of an order cannot be stored; the next start tells of it again");
        }
    }
}

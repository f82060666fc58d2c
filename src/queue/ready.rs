//! Ready entries of one path in fair order: tenants, within a tenant lanes, within a lane campaigns.
//!
//! The unit of fairness is one recipient. A tenant's account belongs to the site, so that what it got through one path
//! counts in the others; lanes and campaigns are weighed within the path. A tenant or a campaign whose purse is empty is
//! away until its time: it leaves the order and is not asked again before.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::clock::UnixTime;
use crate::limit::fair::{Fair, Standing};
use crate::limit::turns::Turns;
use crate::message::Lane;

use super::entry::{Entry, Marks};
use super::flow::{Flow, Tenant};
use super::line::Line;
use super::purse::{Empty, Purses};

/// A tenant's virtual time at a site; written under the site's lock.
pub(super) type Account = Arc<AtomicU64>;

/// Ready entries in fair order.
#[derive(Debug, Default)]
pub(super) struct Ready {
    tenants: Fair<TenantPart>,
    len: usize,
    /// Those that a delay DSN is wanted for.
    owed_delay: usize,
    ages_from: UnixTime,
    away: Absent,
}

/// Who is away, the one that comes back first on top. Boxed: most paths never have any.
type Absent = Option<Box<BinaryHeap<Reverse<(Instant, Away)>>>>;

/// Who is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Away {
    Tenant(usize),
    Campaign { tenant: usize, lane: usize, flow: usize },
}

#[derive(Debug)]
struct TenantPart {
    tenant: Arc<Tenant>,
    account: Account,
    lanes: Fair<LanePart>,
    len: usize,
    /// Its purse is empty. Else it may be away because all its campaigns are.
    is_away: bool,
    /// Its turns at purses that others share.
    turns: Turns,
}

#[derive(Debug, Default)]
struct LanePart {
    campaigns: Fair<Line>,
    len: usize,
}

/// What one transaction may carry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Take {
    /// Recipients at most.
    pub most: usize,
    /// Entries whose age counts from before this time have expired.
    pub dead_before: UnixTime,
    /// When.
    pub now: Instant,
}

/// Whose turn it is at a path.
#[derive(Clone, Debug)]
pub(super) struct Best {
    /// The tenant's virtual time.
    pub time: u64,
    /// Its key.
    pub tenant: usize,
    /// Its account at the site.
    pub account: Account,
    /// The next message is of the urgent lane.
    pub is_urgent: bool,
}

/// The share of a lane beside the others.
const fn weight(lane: Lane) -> u32 {
    match lane {
        Lane::Urgent => 16,
        Lane::Normal => 4,
        Lane::Bulk => 1,
    }
}

const fn lane_key(lane: Lane) -> usize {
    match lane {
        Lane::Urgent => 0,
        Lane::Normal => 1,
        Lane::Bulk => 2,
    }
}

fn lane_standing(lane: &LanePart) -> Standing {
    match lane.len {
        0 => Standing::Empty,
        _ if lane.campaigns.is_deserted() => Standing::Away,
        _ => Standing::Backlogged,
    }
}

fn line_standing(line: &Line) -> Standing {
    if line.is_empty() { Standing::Empty } else { Standing::Backlogged }
}

fn tenant_standing(tenant: &TenantPart) -> Standing {
    match tenant.len {
        0 => Standing::Empty,
        _ if tenant.is_stuck() => Standing::Away,
        _ => Standing::Elsewhere(tenant.account.load(Ordering::Relaxed)),
    }
}

impl Ready {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds one. `account` is asked for when its tenant had nothing here, `now` is the site's virtual time.
    pub fn push(&mut self, entry: Entry, now: u64, account: impl FnOnce() -> Account) {
        let flow = entry.flow.clone();
        self.owed_delay += usize::from(entry.is_owed_delay());
        self.ages_from = match self.len {
            0 => entry.ages_from(),
            _ => self.ages_from.min(entry.ages_from()),
        };
        let tenant = self.tenants.child(flow.tenant.key, flow.tenant.weight(), now, || {
            let account = account();
            account.fetch_max(now, Ordering::Relaxed);
            TenantPart {
                tenant: flow.tenant.clone(),
                account,
                lanes: Fair::default(),
                len: 0,
                is_away: false,
                turns: Turns::default(),
            }
        });
        let lane = tenant.lanes.child(lane_key(flow.lane), weight(flow.lane), 0, LanePart::default);
        lane.campaigns.child(flow.key(), 1, 0, Line::default).push(entry);
        lane.len += 1;
        tenant.len += 1;
        self.len += 1;
        if self.away.is_some() {
            // All campaigns of the lane may be away, but this one may be another.
            tenant.lanes.recall(lane_key(flow.lane));
            if !tenant.is_away {
                self.tenants.recall(flow.tenant.key);
            }
        }
    }

    /// Has those whose time has come stand in their orders again.
    pub fn recall(&mut self, now: Instant) {
        let Some(away) = &mut self.away else { return };
        while let Some(Reverse((until, who))) = away.peek().copied() {
            if until > now {
                return;
            }
            away.pop();
            let (Away::Tenant(key) | Away::Campaign { tenant: key, .. }) = who;
            let Some(tenant) = self.tenants.place(key).and_then(|place| self.tenants.item(place)) else { continue };
            match who {
                Away::Tenant(_) => tenant.is_away = false,
                Away::Campaign { lane, flow, .. } => {
                    if let Some(part) = tenant.lanes.place(lane).and_then(|place| tenant.lanes.item(place)) {
                        part.campaigns.recall(flow);
                    }
                    tenant.lanes.recall(lane);
                }
            }
            if !tenant.is_away {
                self.tenants.recall(key);
            }
        }
        self.away = None;
    }

    /// When the first of those comes back that are away.
    pub fn next_recall(&self) -> Option<Instant> {
        self.away.as_ref()?.peek().map(|Reverse((until, _))| *until)
    }

    /// Everyone stands in the orders again: purses have changed.
    pub fn recall_all(&mut self) {
        if let Some(away) = &mut self.away
            && let Some(last) = away.iter().map(|Reverse((until, _))| *until).max()
        {
            self.recall(last);
        }
    }

    /// The tenant whose turn it is.
    pub fn best(&mut self) -> Option<Best> {
        let place = self.tenants.next(tenant_standing)?;
        let time = self.tenants.time(place);
        let tenant = self.tenants.item(place)?;
        let next = tenant.lanes.next(lane_standing);
        let is_urgent = next.is_some() && next == tenant.lanes.place(lane_key(Lane::Urgent));
        Some(Best { time, tenant: tenant.tenant.key, account: tenant.account.clone(), is_urgent })
    }

    /// Takes recipients of one message in one domain, whose turn it is and whose purses have room; those that expired go to
    /// `expired`. The site's virtual time `now` is advanced.
    pub fn pop(
        &mut self,
        take: Take,
        purses: &mut Purses,
        now: &mut u64,
        expired: &mut Vec<Entry>,
    ) -> Option<Vec<Entry>> {
        self.recall(take.now);
        while let Some(place) = self.tenants.next(tenant_standing) {
            let tenant = self.tenants.item(place)?;
            let before = expired.len();
            let batch = tenant.pop(take, purses, expired, &mut self.away);
            let gone = batch.len() + expired.len() - before;
            tenant.len = tenant.len.saturating_sub(gone);
            self.len = self.len.saturating_sub(gone);
            if self.owed_delay > 0 {
                let gone = batch.iter().chain(expired.get(before..).unwrap_or_default());
                self.owed_delay -= gone.filter(|entry| entry.is_owed_delay()).count();
            }
            if batch.is_empty() {
                if gone == 0 && !tenant.is_stuck() {
                    return None;
                }
                continue;
            }
            let account = tenant.account.clone();
            *now = (*now).max(self.tenants.time(place));
            account.store(self.tenants.charge(place, batch.len()), Ordering::Relaxed);
            return Some(batch);
        }
        None
    }

    /// Gives tenants other shares, by their key.
    pub fn reweigh(&mut self, weight: impl Fn(usize) -> Option<u32>) {
        self.tenants.reweigh(weight);
    }

    /// All, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.lines().flat_map(Line::iter)
    }

    /// By tenant and lane: how many there are, and the first of one of its flows.
    pub fn depths(&self) -> impl Iterator<Item = (usize, &Entry)> {
        let lanes = self.tenants.items().flat_map(|tenant| tenant.lanes.items());
        lanes.filter_map(|lane| Some((lane.len, lane.campaigns.items().find_map(Line::front)?)))
    }

    fn lines(&self) -> impl Iterator<Item = &Line> {
        let lanes = self.tenants.items().flat_map(|tenant| tenant.lanes.items());
        lanes.flat_map(|lane| lane.campaigns.items())
    }

    /// When the oldest due was due, and the oldest acceptance among the first of each flow.
    pub fn oldest(&self) -> Option<(UnixTime, UnixTime)> {
        let firsts = self.lines().filter_map(Line::front).map(|first| (first.due, first.accepted));
        firsts.reduce(|a, b| (a.0.min(b.0), a.1.min(b.1)))
    }

    /// How many were due before `time`.
    pub fn due_before(&self, time: UnixTime) -> usize {
        self.lines().map(|line| line.due_before(time)).sum()
    }

    /// Whether a delay DSN is wanted for one of them.
    pub fn owes_delay(&self) -> bool {
        self.owed_delay > 0
    }

    /// No entry's age counts from before this.
    pub fn ages_from(&self) -> UnixTime {
        self.ages_from
    }

    /// Takes one of the foremost that is wanted: of the tenant that is owed most, in the order of the lanes. Nobody is charged.
    pub fn take_first(&mut self, within: usize, is_wanted: impl Fn(&Entry) -> bool) -> Option<Entry> {
        let mut tenants: Vec<_> = self.tenants.items_mut().filter(|tenant| tenant.len > 0 && !tenant.is_away).collect();
        tenants.sort_by_key(|tenant| tenant.account.load(Ordering::Relaxed));
        let entry = tenants.into_iter().find_map(|tenant| {
            let lanes = [Lane::Urgent, Lane::Normal, Lane::Bulk].map(lane_key);
            let entry = lanes.into_iter().find_map(|key| {
                let lane = tenant.lanes.place(key).and_then(|place| tenant.lanes.item(place))?;
                let entry = lane.campaigns.items_mut().find_map(|line| line.take_first(within, &is_wanted))?;
                lane.len -= 1;
                Some(entry)
            })?;
            tenant.len -= 1;
            Some(entry)
        })?;
        self.len -= 1;
        self.owed_delay -= usize::from(entry.is_owed_delay());
        Some(entry)
    }

    /// Takes out those that `is_wanted` does not want.
    pub fn extract(&mut self, is_wanted: impl Fn(&Entry) -> bool, out: &mut Vec<Entry>) {
        self.len = 0;
        for tenant in self.tenants.items_mut() {
            tenant.len = 0;
            for lane in tenant.lanes.items_mut() {
                lane.len = 0;
                for line in lane.campaigns.items_mut() {
                    line.extract(&is_wanted, out);
                    lane.len += line.len();
                }
                tenant.len += lane.len;
            }
            self.len += tenant.len;
        }
        self.owed_delay = self.iter().filter(|entry| entry.is_owed_delay()).count();
        self.ages_from = self.iter().map(Entry::ages_from).min().unwrap_or_default();
    }
}

impl TenantPart {
    /// Whether nothing of it may be taken now.
    fn is_stuck(&self) -> bool {
        self.is_away || self.lanes.is_deserted()
    }

    /// Takes a batch from the lane and campaign whose turn it is; empty if all that was looked at had expired, or is away now.
    fn pop(&mut self, take: Take, purses: &mut Purses, expired: &mut Vec<Entry>, away: &mut Absent) -> Vec<Entry> {
        while let Some(lane_place) = self.lanes.next(lane_standing) {
            let Some(lane) = self.lanes.item(lane_place) else { return Vec::new() };
            let before = expired.len();
            match lane.pop(take, (purses, &mut self.turns), expired, away) {
                Ok(batch) => {
                    lane.len = lane.len.saturating_sub(batch.len() + expired.len() - before);
                    self.lanes.charge(lane_place, batch.len());
                    return batch;
                }
                Err(Some(until)) => {
                    self.is_away = true;
                    leave(away, until, Away::Tenant(self.tenant.key));
                    return Vec::new();
                }
                Err(None) => self.lanes.dismiss(lane_place),
            }
        }
        Vec::new()
    }
}

impl LanePart {
    /// Takes a batch from the campaign whose turn it is. An error: all its campaigns are away, or their tenant until then.
    fn pop(
        &mut self,
        take: Take,
        (purses, turns): (&mut Purses, &mut Turns),
        expired: &mut Vec<Entry>,
        away: &mut Absent,
    ) -> Result<Vec<Entry>, Option<Instant>> {
        while let Some(place) = self.campaigns.next(line_standing) {
            let Some(line) = self.campaigns.item(place) else { break };
            let Some(flow) = line.front().map(|first| first.flow.clone()) else { break };
            let most = match purses.take(&flow, turns, take.now) {
                Ok(most) => most.min(take.most),
                Err(Empty::Tenant(until)) => return Err(Some(until)),
                Err(Empty::Campaign(until)) => {
                    self.campaigns.dismiss(place);
                    let (tenant, lane, flow) = (flow.tenant.key, lane_key(flow.lane), Flow::key(&flow));
                    leave(away, until, Away::Campaign { tenant, lane, flow });
                    continue;
                }
            };
            let batch = pop_batch(line, Take { most, ..take }, expired);
            if batch.is_empty() {
                purses.refund(&flow);
            }
            self.campaigns.charge(place, batch.len());
            return Ok(batch);
        }
        Err(None)
    }
}

fn leave(away: &mut Absent, until: Instant, who: Away) {
    away.get_or_insert_default().push(Reverse((until, who)));
}

/// Takes the first entry that has not expired, and those behind it of the same message and domain.
fn pop_batch(line: &mut Line, take: Take, expired: &mut Vec<Entry>) -> Vec<Entry> {
    let mut batch: Vec<Entry> = Vec::new();
    while let Some(next) = line.front() {
        let is_dead = next.ages_from() < take.dead_before;
        if let Some(first) = batch.first()
            && (is_dead || batch.len() >= take.most || !are_one_transaction(first, next))
        {
            break;
        }
        match line.pop() {
            Some(entry) if is_dead => expired.push(entry),
            Some(entry) => {
                if batch.is_empty() {
                    batch.reserve_exact(1);
                }
                batch.push(entry);
            }
            None => break,
        }
        // One look at the clock and the lock must not turn into a walk through a whole dead campaign.
        if expired.len() >= 1_000 {
            break;
        }
    }
    batch
}

/// Whether both may be recipients of one transaction. Those in doubt go alone: each has its own address.
fn are_one_transaction(a: &Entry, b: &Entry) -> bool {
    let is_in_doubt = a.marks.has(Marks::IN_DOUBT) || b.marks.has(Marks::IN_DOUBT);
    a.id == b.id && Arc::ptr_eq(&a.domain, &b.domain) && !is_in_doubt
}

//! Metrics by a label whose values are many and not ours, such as sites: a row for each of the busiest, one for the
//! others.
//!
//! A table has so many rows and one more, `other`. An owner (a site, a tenant) holds a [`Place`], which names its row;
//! what is counted at a place that has none is counted as `other`. Counting is one addition to an atomic and looks
//! nothing up. Who has a row is decided now and then by [`Bounded::judge`]:
//!
//! | row | becomes | when |
//! |---|---|---|
//! | free | an owner's | of those without a row that have any work, it has the most |
//! | an owner's | free | it had no work for [`IDLE`], or another had over twice its work for [`PERSISTENCE`] looks |
//!
//! Work is depth and traffic since the last look; an owner with a row is judged by its running mean. So a series is
//! monotone as long as it exists, begins at zero, ends when its row is freed, and one look later the row may be
//! another's. Nothing is counted twice, and nothing moves between `other` and a row.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::text;

/// The label's value of what has no row. An owner of this name never gets one.
pub const OTHER: &str = "other";
/// A row without work is kept as long as a rate over ten minutes can see it.
pub const IDLE: Duration = Duration::from_secs(600);
/// A minute of looks every two seconds.
pub const PERSISTENCE: u32 = 30;
/// The weight of the newest look in a running mean: about 20 looks count.
const NEWEST: f64 = 0.05;
/// Work that is not worth a change of rows, whatever the weakest row has.
const LITTLE: f64 = 10.0;
/// Octets of a label's value. A name may be all the MX hosts of a domain.
const LABEL_MOST: usize = 96;

/// One metric of every row.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Columns of one name follow each other and differ in `label`.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// A label beside the table's.
    pub label: Option<(&'static str, &'static str)>,
    /// How it changes.
    pub kind: Kind,
}

/// How a column changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By [`Bounded::count`].
    Counter,
    /// By [`Bounded::judge`]; that of `other` is the sum of those without a row.
    Sum,
    /// By [`Bounded::judge`]; that of `other` is the greatest of those without a row.
    Most,
}

/// Where an owner is counted. Written by [`Bounded::judge`], read by whoever counts; as long-lived as its owner.
#[derive(Debug, Default)]
pub struct Place {
    /// Its row; 0: `other`.
    row: AtomicU32,
    /// Counted since the last look.
    traffic: AtomicU32,
}

/// An owner as it is at a look.
#[derive(Clone, Debug)]
pub struct Owner<'a> {
    /// The value of the label.
    pub name: &'a str,
    /// Where it is counted.
    pub place: &'a Place,
    /// What waits.
    pub depth: usize,
    /// The values of the columns that are not counters, in their order.
    pub values: Vec<u64>,
}

/// A table.
#[derive(Debug)]
pub struct Bounded {
    label: &'static str,
    columns: &'static [Column],
    /// That of `other` first.
    rows: Box<[Row]>,
    policy: Mutex<Policy>,
}

#[derive(Debug)]
struct Row {
    values: Box<[AtomicU64]>,
}

#[derive(Debug, Default)]
struct Policy {
    /// Which row a name has.
    names: HashMap<Box<str>, u32>,
    /// What is known of each row that is taken.
    taken: HashMap<u32, Tenure>,
    /// Rows that nobody has and that nobody counts in any more.
    free: Vec<u32>,
    /// Rows freed at the last look: somebody may just be counting there.
    freed: Vec<u32>,
    /// Names without a row that would deserve one, with the looks running at which they did.
    challengers: HashMap<Box<str>, u32>,
}

#[derive(Debug)]
struct Tenure {
    mean: f64,
    idle_since: Option<Instant>,
}

impl Bounded {
    /// A table of `rows` rows and one for the others; the label is called `label`.
    pub fn new(label: &'static str, columns: &'static [Column], rows: u32) -> Self {
        let row = |_| Row { values: columns.iter().map(|_| AtomicU64::new(0)).collect() };
        let policy = Policy { free: (1..=rows).rev().collect(), ..Policy::default() };
        Self { label, columns, rows: (0..=rows).map(row).collect(), policy: Mutex::new(policy) }
    }

    /// Counts `more` in a column.
    pub fn count(&self, place: &Place, column: usize, more: u32) {
        place.traffic.fetch_add(more, Ordering::Relaxed);
        if let Some(value) = self.row(place.row.load(Ordering::Relaxed)).and_then(|row| row.values.get(column)) {
            value.fetch_add(u64::from(more), Ordering::Relaxed);
        }
    }

    /// Names that have a row. Their owners, as far as they exist, must be among those that are judged.
    pub fn names(&self) -> Vec<Box<str>> {
        self.policy.lock().names.keys().cloned().collect()
    }

    /// Decides who has a row, and sets the values that are not counted. `owners` are all that have any work or a row,
    /// each once.
    pub fn judge(&self, now: Instant, owners: &[Owner<'_>]) {
        let mut policy = self.policy.lock();
        let freed = std::mem::take(&mut policy.freed);
        policy.free.extend(freed);
        let work: Vec<f64> = owners.iter().map(Owner::take_work).collect();
        self.review(&mut policy, now, owners, &work);
        let mut candidates: Vec<(f64, &Owner<'_>)> = Vec::new();
        for (owner, work) in owners.iter().zip(work) {
            if work > 0.0 && owner.name != OTHER && !policy.names.contains_key(owner.name) {
                candidates.push((work, owner));
            }
        }
        candidates.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let rest = self.admit(&mut policy, &candidates);
        self.challenge(&mut policy, rest);
        self.show(&policy, owners);
    }

    fn row(&self, number: u32) -> Option<&Row> {
        self.rows.get(usize::try_from(number).ok()?)
    }

    /// Takes note of the work of each row's owner, and frees the rows of those that have had none for long.
    fn review(&self, policy: &mut Policy, now: Instant, owners: &[Owner<'_>], work: &[f64]) {
        let mut of_row: HashMap<u32, f64> = HashMap::new();
        for (owner, work) in owners.iter().zip(work) {
            if let Some(row) = policy.names.get(owner.name) {
                of_row.insert(*row, *work);
            }
        }
        let mut idle = HashSet::new();
        for (row, tenure) in &mut policy.taken {
            let work = of_row.get(row).copied().unwrap_or_default();
            tenure.mean += (work - tenure.mean) * NEWEST;
            if work > 0.0 {
                tenure.idle_since = None;
            } else if now.saturating_duration_since(*tenure.idle_since.get_or_insert(now)) >= IDLE {
                idle.insert(*row);
            }
        }
        idle.into_iter().for_each(|row| policy.release(row));
    }

    /// Gives free rows to the first candidates; returns the others.
    fn admit<'a, 'b>(&self, policy: &mut Policy, candidates: &'a [(f64, &'b Owner<'b>)]) -> &'a [(f64, &'b Owner<'b>)] {
        let count = policy.free.len().min(candidates.len());
        let (admitted, rest) = candidates.split_at(count);
        for (work, owner) in admitted {
            let Some(number) = policy.free.pop() else { break };
            for value in self.row(number).into_iter().flat_map(|row| &row.values) {
                value.store(0, Ordering::Relaxed);
            }
            policy.challengers.remove(owner.name);
            policy.names.insert(owner.name.into(), number);
            policy.taken.insert(number, Tenure { mean: *work, idle_since: None });
        }
        rest
    }

    /// Frees the weakest row if somebody has long had much more work.
    fn challenge(&self, policy: &mut Policy, candidates: &[(f64, &Owner<'_>)]) {
        let weakest = policy.taken.iter().min_by(|(_, a), (_, b)| a.mean.total_cmp(&b.mean));
        let Some((weakest, mean)) = weakest.map(|(row, tenure)| (*row, tenure.mean)) else { return };
        let before = std::mem::take(&mut policy.challengers);
        // More than there are rows need not be remembered.
        let strong = candidates.iter().take(self.rows.len()).filter(|(work, _)| *work > 2.0 * mean + LITTLE);
        for (_, owner) in strong {
            let looks = before.get(owner.name).copied().unwrap_or_default() + 1;
            policy.challengers.insert(owner.name.into(), looks);
        }
        // One a look, and none while the last one's row is still to be taken.
        if policy.freed.is_empty() && policy.challengers.values().any(|looks| *looks >= PERSISTENCE) {
            policy.release(weakest);
        }
    }

    /// Tells owners their rows and sets the columns that are not counted.
    fn show(&self, policy: &Policy, owners: &[Owner<'_>]) {
        let gauges: Vec<(usize, Kind)> = (0..)
            .zip(self.columns)
            .filter(|(_, column)| column.kind != Kind::Counter)
            .map(|(at, column)| (at, column.kind))
            .collect();
        let mut others = vec![0_u64; gauges.len()];
        let mut seen = HashSet::new();
        for owner in owners {
            let number = policy.names.get(owner.name).copied().unwrap_or_default();
            owner.place.row.store(number, Ordering::Relaxed);
            if number == 0 {
                for ((value, other), (_, kind)) in owner.values.iter().zip(&mut others).zip(&gauges) {
                    *other = if *kind == Kind::Most { *value.max(other) } else { other.saturating_add(*value) };
                }
            } else {
                seen.insert(number);
                self.set(number, &gauges, &owner.values);
            }
        }
        self.set(0, &gauges, &others);
        // Their owners are forgotten.
        let gone = policy.taken.keys().filter(|row| !seen.contains(row));
        gone.for_each(|row| self.set(*row, &gauges, &vec![0; gauges.len()]));
    }

    fn set(&self, row: u32, gauges: &[(usize, Kind)], values: &[u64]) {
        let Some(row) = self.row(row) else { return };
        for ((column, _), value) in gauges.iter().zip(values) {
            if let Some(cell) = row.values.get(*column) {
                cell.store(*value, Ordering::Relaxed);
            }
        }
    }

    /// Appends the series of every row that is taken, and of `other`.
    pub(super) fn render(&self, out: &mut String) {
        let policy = self.policy.lock();
        let mut names: Vec<(u32, Cow<'_, str>)> = vec![(0, OTHER.into())];
        names.extend(policy.names.iter().map(|(name, row)| (*row, label_of(name))));
        let mut last = "";
        for (at, column) in self.columns.iter().enumerate() {
            if last != column.name {
                let kind = if column.kind == Kind::Counter { "counter" } else { "gauge" };
                text::head(out, column.name, column.help, kind);
                last = column.name;
            }
            for (row, name) in &names {
                let value = self.row(*row).and_then(|row| row.values.get(at));
                let value = value.map_or(0, |value| value.load(Ordering::Relaxed));
                let mut labels = vec![(self.label, &**name)];
                labels.extend(column.label);
                text::line(out, column.name, &text::labels(&labels), &value.to_string());
            }
        }
    }
}

impl Policy {
    fn release(&mut self, row: u32) {
        self.names.retain(|_, own| *own != row);
        if self.taken.remove(&row).is_some() {
            self.freed.push(row);
        }
    }
}

impl Owner<'_> {
    /// Depth, and traffic since the last look.
    fn take_work(&self) -> f64 {
        let depth = u32::try_from(self.depth).unwrap_or(u32::MAX);
        f64::from(depth) + f64::from(self.place.traffic.swap(0, Ordering::Relaxed))
    }
}

/// A name as a label's value: a long one is cut, with a hash so that it stays unique.
fn label_of(name: &str) -> Cow<'_, str> {
    if name.len() <= LABEL_MOST {
        return name.into();
    }
    let hash = foldhash::quality::FixedState::default().hash_one(name);
    let room = (0..=LABEL_MOST - 20).rev().find_map(|end| name.get(..end)).unwrap_or_default();
    format!("{room}...{hash:016x}").into()
}

#[cfg(test)]
mod tests;

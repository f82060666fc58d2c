//! Every order that stands: in memory for the queue, on stable storage for the next start.
//!
//! Few and rarely changed, so the whole set is one file that is replaced. A file that cannot be read as it was written
//! is an error at the start: mail that somebody had held would otherwise leave unseen.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::clock::UnixTime;
use crate::log::storage::Storage;

use super::file::{self, Found};
use super::order::{Action, Order, OrderId, Selection, SelectionError};

/// The file's name within the spool.
const FILE: &str = "state/orders";
/// Orders that may stand at the same time: each is asked about every recipient that becomes ready.
const MOST: usize = 1_000;
/// Longest reason, in characters: it goes into DSNs, tables and the journal.
const LONGEST_REASON: usize = 500;

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What is to be done.
    pub action: Action,
    /// With which recipients.
    #[serde(default)]
    pub selection: Selection,
    /// Why.
    #[serde(default)]
    pub reason: Box<str>,
    /// Who asks.
    #[serde(default)]
    pub by: Box<str>,
    /// For how many seconds; absent: until it is undone, and for orders that end recipients: those accepted by now.
    #[serde(default)]
    pub seconds: Option<u32>,
}

/// Why the orders of an earlier run cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk gave an error.
    #[error("cannot read the operators' orders: {0}")]
    Io(#[from] io::Error),
    /// The file is not what was written.
    #[error(
        "the operators' orders are damaged: mail that was held or suspended would leave; look at `state/orders` in the \
         spool, and move it away to start without orders"
    )]
    Damaged,
    /// The file is of a version that knows more than this one.
    #[error(
        "the operators' orders cannot be understood ({0}); an older program must not start on a newer one's orders"
    )]
    Unknown(#[from] serde_json::Error),
}

/// Why an order is not taken.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Its selection is wrong.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// A text that cannot be shown.
    #[error("{0}: at most {LONGEST_REASON} characters, none of them a control character")]
    Text(&'static str),
    /// There is no such egress source to move to.
    #[error("there is no egress source {0:?}")]
    Source(Box<str>),
    /// Too many stand.
    #[error("{MOST} orders stand already: undo some of them")]
    TooMany,
    /// It is not known to be on stable storage, so it does not stand.
    #[error("the order cannot be stored: {0}")]
    Store(#[from] io::Error),
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    /// The next order's id.
    next: u32,
    orders: Vec<Order>,
}

/// Orders that stand. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Orders {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    storage: Arc<dyn Storage>,
    /// The oldest first. Written with `next` locked, so that memory and file change in the same order.
    standing: RwLock<Arc<[Arc<Order>]>>,
    /// The next order's id; held while the file is written.
    next: Mutex<u32>,
}

impl Orders {
    /// Takes up the orders of an earlier run; those whose time is over by `now` are left out. Blocks on the disk. The
    /// storage is the spool's, which has claimed it.
    pub fn open(storage: Arc<dyn Storage>, now: UnixTime) -> Result<Self, OpenError> {
        let content = match file::read(&*storage, FILE)? {
            Found::Nothing => Content { next: 1, orders: Vec::new() },
            Found::Content(content) => serde_json::from_slice(&content)?,
            Found::Damaged => return Err(OpenError::Damaged),
        };
        let standing = content.orders.into_iter().filter(|order| !order.is_over(now)).map(Arc::new).collect();
        let shared = Shared { storage, standing: RwLock::new(standing), next: Mutex::new(content.next) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Those that stand, the oldest first.
    pub fn standing(&self) -> Arc<[Arc<Order>]> {
        self.shared.standing.read().clone()
    }

    /// Makes an order stand; when it returns, the order is on stable storage. `watch` is how long an order that ends
    /// recipients and has no duration goes on for those that are being tried now. Blocks on the disk.
    pub fn place(&self, request: Request, now: UnixTime, watch: Duration) -> Result<Arc<Order>, PlaceError> {
        let Request { action, selection, reason, by, seconds } = request;
        let selection = selection.checked()?;
        for (name, text) in [("reason", &reason), ("by", &by)] {
            if text.chars().count() > LONGEST_REASON || text.chars().any(char::is_control) {
                return Err(PlaceError::Text(name));
            }
        }
        let is_once = action.is_final() && seconds.is_none();
        let until = seconds.map(|seconds| now.0.saturating_add(seconds)).or(is_once.then(|| now.plus(watch).0));
        let mut next = self.shared.next.lock();
        let before = self.standing();
        if before.len() >= MOST {
            return Err(PlaceError::TooMany);
        }
        let order = Arc::new(Order {
            id: OrderId(*next),
            action,
            selection,
            accepted_until: is_once.then_some(now.0),
            reason,
            by,
            placed_at: now.0,
            until,
        });
        let after: Arc<[Arc<Order>]> = before.iter().chain([&order]).cloned().collect();
        self.store(next.saturating_add(1), &after)?;
        *next = next.saturating_add(1);
        *self.shared.standing.write() = after;
        Ok(order)
    }

    /// Ends an order; None if there is no such one. Blocks on the disk.
    pub fn end(&self, id: OrderId) -> io::Result<Option<Arc<Order>>> {
        let next = self.shared.next.lock();
        let before = self.standing();
        let Some(ended) = before.iter().find(|order| order.id == id).cloned() else { return Ok(None) };
        let after: Arc<[Arc<Order>]> = before.iter().filter(|order| order.id != id).cloned().collect();
        self.store(*next, &after)?;
        *self.shared.standing.write() = after;
        Ok(Some(ended))
    }

    /// Ends the orders whose time is over, and gives them. The file is left for the next change: a start leaves them out.
    pub fn end_over(&self, now: UnixTime) -> Vec<Arc<Order>> {
        if !self.shared.standing.read().iter().any(|order| order.is_over(now)) {
            return Vec::new();
        }
        let _next = self.shared.next.lock();
        let (over, after): (Vec<_>, Vec<_>) = self.standing().iter().cloned().partition(|order| order.is_over(now));
        *self.shared.standing.write() = after.into();
        over
    }

    fn store(&self, next: u32, orders: &[Arc<Order>]) -> io::Result<()> {
        let content = Content { next, orders: orders.iter().map(|order| (**order).clone()).collect() };
        let text = serde_json::to_vec_pretty(&content)?;
        file::replace(&*self.shared.storage, FILE, &text)
    }
}

#[cfg(test)]
mod tests {
    use crate::log::simulated::Simulated;

    use super::*;

    const NOW: UnixTime = UnixTime(1_000);
    const WATCH: Duration = Duration::from_secs(60);

    fn storage(seed: u64) -> Arc<Simulated> {
        let storage = Simulated::new(seed);
        storage.claim(&["state"]).unwrap();
        Arc::new(storage)
    }

    fn request(action: Action, seconds: Option<u32>) -> Request {
        let selection = Selection { tenant: Some("shop".into()), ..Selection::default() };
        Request { action, selection, reason: "why".into(), by: "ops".into(), seconds }
    }

    fn ids(orders: &Orders) -> Vec<u32> {
        orders.standing().iter().map(|order| order.id.0).collect()
    }

    #[test]
    fn orders_survive_a_restart_and_ids_are_not_given_twice() {
        let storage = storage(1);
        let orders = Orders::open(storage.clone(), NOW).unwrap();
        orders.place(request(Action::Suspend, None), NOW, WATCH).unwrap();
        let held = orders.place(request(Action::Hold, Some(50)), NOW, WATCH).unwrap();
        orders.place(request(Action::Bounce, None), NOW, WATCH).unwrap();
        orders.end(OrderId(3)).unwrap().unwrap();

        let again = Orders::open(Arc::new(storage.after_kill()), UnixTime(1_050)).unwrap();
        let later = Orders::open(Arc::new(storage.after_kill()), UnixTime(1_051)).unwrap();

        assert_eq!((ids(&again), ids(&later)), (vec![1, 2], vec![1]));
        assert_eq!(again.standing()[1], held);
        assert_eq!(later.place(request(Action::Suspend, None), NOW, WATCH).unwrap().id, OrderId(4));
    }

    #[test]
    fn an_order_that_was_confirmed_survives_a_power_cut_at_any_time() {
        for seed in 0..200 {
            let storage = storage(seed);
            let orders = Orders::open(storage.clone(), NOW).unwrap();
            orders.place(request(Action::Suspend, None), NOW, WATCH).unwrap();
            storage.die_at(storage.calls() + seed % 8);
            let second = orders.place(request(Action::Hold, None), NOW, WATCH).is_ok();

            let found = ids(&Orders::open(Arc::new(storage.crash(seed)), NOW).unwrap());

            // One that failed may stand all the same, whole.
            assert!(found == [1, 2] || (found == [1] && !second), "{seed}: {found:?}");
            assert_eq!(ids(&orders).len(), 1 + usize::from(second), "{seed}");
        }
    }

    #[test]
    fn a_damaged_file_is_refused_rather_than_forgotten() {
        let storage = storage(1);
        let orders = Orders::open(storage.clone(), NOW).unwrap();
        orders.place(request(Action::Hold, None), NOW, WATCH).unwrap();

        for at in [0, 20, 60] {
            let damaged = storage.after_kill();
            damaged.damage(FILE, |octets| octets[at] ^= 1).unwrap();
            assert!(matches!(Orders::open(Arc::new(damaged), NOW), Err(OpenError::Damaged)), "{at}");
        }
    }

    #[test]
    fn an_order_that_ends_recipients_is_for_those_there_unless_it_has_a_duration() {
        let orders = Orders::open(storage(1), NOW).unwrap();

        let once = orders.place(request(Action::Delete, None), NOW, WATCH).unwrap();
        let lasting = orders.place(request(Action::Delete, Some(10)), NOW, WATCH).unwrap();
        let suspension = orders.place(request(Action::Suspend, None), NOW, WATCH).unwrap();

        assert_eq!((once.accepted_until, once.until), (Some(1_000), Some(1_060)));
        assert_eq!((lasting.accepted_until, lasting.until), (None, Some(1_010)));
        assert_eq!((suspension.accepted_until, suspension.until), (None, None));
        assert_eq!(orders.end_over(UnixTime(1_059)), [lasting]);
        assert_eq!(ids(&orders), [1, 3]);
    }

    #[test]
    fn texts_that_would_disturb_a_terminal_are_refused() {
        let orders = Orders::open(storage(1), NOW).unwrap();
        let wrong = Request { reason: "a\u{1b}[1m".into(), ..request(Action::Hold, None) };

        assert!(matches!(orders.place(wrong, NOW, WATCH), Err(PlaceError::Text("reason"))));
    }
}

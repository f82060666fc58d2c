//! Every order that stands: in memory for the queue, on stable storage for the next start.
//!
//! Few and rarely changed, so the whole set is one file that is replaced. A file that cannot be read as it was written
//! is an error at the start: mail that somebody had held would otherwise leave unseen.

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::clock::UnixTime;
use crate::log::storage::Storage;
use crate::message::MessageId;
use crate::unseen::is_unseen;

use super::file::{self, Found};
use super::order::{Action, Order, OrderId, Selection, SelectionError};

/// Orders that may stand at the same time: each is asked about every recipient that becomes ready.
const MOST: usize = 1_000;
/// Orders that end mail once and are not done yet, for the same reason.
const MOST_ONCE: usize = 1_000;
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
    /// For how many seconds; absent: until it is undone, and for orders that end recipients: those accepted by now, once.
    #[serde(default)]
    pub seconds: Option<u32>,
}

/// Why the orders of an earlier run cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk gave an error. Not its source, or it would be told twice; likewise below.
    #[error("the operators' orders cannot be read ({0}): mail that they keep would leave; {WAY_OUT}")]
    Io(io::Error),
    /// The file is not what was written.
    #[error("the operators' orders are damaged: mail that they keep would leave; {WAY_OUT}")]
    Damaged,
    /// The file is of a version that knows more than this one.
    #[error("the operators' orders cannot be understood ({0}): start the newer program that wrote them, or {WAY_OUT}")]
    Unknown(serde_json::Error),
}

impl OpenError {
    /// The error with the file that it is about, of the spool in this folder.
    pub fn of_spool(&self, spool: &Path) -> String {
        format!("{}: {self}", spool.join(Orders::FILE).display())
    }
}

const WAY_OUT: &str = "put a copy of the file in its place, or move it away to start without orders";

/// Why an order is not taken.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Its selection is wrong.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// A text that cannot be shown.
    #[error("{0}: at most {LONGEST_REASON} characters, none of them a control character or one that is not seen")]
    Text(&'static str),
    /// It would be over at once.
    #[error("seconds: an order stands for 1 second or longer")]
    Seconds,
    /// There is no such egress source to move to.
    #[error("there is no egress source {0:?}")]
    Source(Box<str>),
    /// Too many stand.
    #[error("{MOST} orders stand already: undo some of them")]
    TooMany,
    /// Too many that end mail once are not done yet.
    #[error("{MOST_ONCE} orders to delete or bounce wait for what is being tried: give more of them later")]
    TooManyOnce,
    /// It is not known to be on stable storage, so it does not stand.
    #[error("the order cannot be stored: {0}")]
    Store(#[from] io::Error),
}

impl Request {
    /// Whether it is about what has been accepted, not about what comes.
    pub fn is_once(&self) -> bool {
        self.action.is_final() && self.seconds.is_none()
    }
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
    /// The oldest first. Written with `book` locked, so that memory and file change in the same order.
    standing: RwLock<Arc<[Arc<Order>]>>,
    /// Held while the file is written.
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Book {
    /// The next order's id.
    next: u32,
    /// Those whose time was over at the start.
    ended_while_down: Vec<Arc<Order>>,
}

/// Whether a text that goes with an order, `reason` or `by`, can be shown.
pub fn check_text(name: &'static str, text: &str) -> Result<(), PlaceError> {
    let is_right = text.chars().count() <= LONGEST_REASON && !text.chars().any(is_unseen);
    is_right.then_some(()).ok_or(PlaceError::Text(name))
}

fn read(storage: &dyn Storage) -> Result<Content, OpenError> {
    match file::read(storage, Orders::FILE).map_err(OpenError::Io)? {
        Found::Nothing => Ok(Content { next: 1, orders: Vec::new() }),
        Found::Content(content) => serde_json::from_slice(&content).map_err(OpenError::Unknown),
        Found::Damaged => Err(OpenError::Damaged),
    }
}

impl Orders {
    /// The file's name within the spool.
    pub const FILE: &str = "state/orders";

    /// Whether a daemon could take up what is there. Reads only, also beside a daemon.
    pub fn check(storage: &dyn Storage) -> Result<(), OpenError> {
        read(storage).map(drop)
    }

    /// Takes up the orders of an earlier run; those whose time is over by `now` are left out. Blocks on the disk. The
    /// storage is the spool's, which has claimed it.
    pub fn open(storage: Arc<dyn Storage>, now: UnixTime) -> Result<Self, OpenError> {
        let content = read(&*storage)?;
        let orders = content.orders.into_iter().map(Arc::new);
        let (ended, standing): (Vec<_>, Vec<_>) = orders.partition(|order| order.is_over(now));
        let ended_while_down = ended.into_iter().filter(|order| !order.is_once()).collect();
        let book = Book { next: content.next, ended_while_down };
        let shared = Shared { storage, standing: RwLock::new(standing.into()), book: Mutex::new(book) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The orders, save those that end mail once, whose time was over when they were opened; once. They are in the file
    /// until the next change, or [`Orders::save`].
    pub fn take_ended_while_down(&self) -> Vec<Arc<Order>> {
        std::mem::take(&mut self.shared.book.lock().ended_while_down)
    }

    /// Those that stand, the oldest first.
    pub fn standing(&self) -> Arc<[Arc<Order>]> {
        self.shared.standing.read().clone()
    }

    /// Makes an order stand; when it returns, the order is on stable storage. One that ends mail once is about messages
    /// `before` this one. Blocks on the disk.
    pub fn place(&self, request: Request, now: UnixTime, before: MessageId) -> Result<Arc<Order>, PlaceError> {
        let is_once = request.is_once();
        let Request { action, selection, reason, by, seconds } = request;
        let selection = selection.checked()?;
        for (name, text) in [("reason", &reason), ("by", &by)] {
            check_text(name, text)?;
        }
        if seconds == Some(0) {
            return Err(PlaceError::Seconds);
        }
        let mut book = self.shared.book.lock();
        let standing = self.standing();
        let alike = standing.iter().filter(|order| order.is_once() == is_once).count();
        match is_once {
            true if alike >= MOST_ONCE => return Err(PlaceError::TooManyOnce),
            false if alike >= MOST => return Err(PlaceError::TooMany),
            _ => {}
        }
        let order = Arc::new(Order {
            id: OrderId(book.next),
            action,
            selection,
            before: is_once.then_some(before),
            accepted_until: None,
            reason,
            by,
            placed_at: now.0,
            until: seconds.map(|seconds| now.0.saturating_add(seconds)),
        });
        let after: Arc<[Arc<Order>]> = standing.iter().chain([&order]).cloned().collect();
        let next = book.next.saturating_add(1);
        self.store(next, &after)?;
        book.next = next;
        *self.shared.standing.write() = after;
        Ok(order)
    }

    /// Ends orders, those of them that stand, and gives these; when it returns, their end is on stable storage. What orders
    /// did that end mail must be there before: the next start does not do them again. Blocks on the disk.
    pub fn end(&self, ids: &[OrderId]) -> io::Result<Vec<Arc<Order>>> {
        let book = self.shared.book.lock();
        let (ended, after): (Vec<_>, Vec<_>) =
            self.standing().iter().cloned().partition(|order| ids.contains(&order.id));
        if ended.is_empty() {
            return Ok(ended);
        }
        self.store(book.next, &after)?;
        *self.shared.standing.write() = after.into();
        Ok(ended)
    }

    /// Ends the orders whose time is over, and gives them. The file is left for the next change, or [`Orders::save`].
    pub fn end_over(&self, now: UnixTime) -> Vec<Arc<Order>> {
        if !self.shared.standing.read().iter().any(|order| order.is_over(now)) {
            return Vec::new();
        }
        let _book = self.shared.book.lock();
        let (over, after): (Vec<_>, Vec<_>) = self.standing().iter().cloned().partition(|order| order.is_over(now));
        *self.shared.standing.write() = after.into();
        over
    }

    /// Writes what stands now. Blocks on the disk.
    pub fn save(&self) -> io::Result<()> {
        let book = self.shared.book.lock();
        self.store(book.next, &self.standing())
    }

    fn store(&self, next: u32, standing: &[Arc<Order>]) -> io::Result<()> {
        let orders = standing.iter().map(|order| (**order).clone()).collect();
        let text = serde_json::to_vec_pretty(&Content { next, orders })?;
        file::replace(&*self.shared.storage, Self::FILE, &text)
    }
}

#[cfg(test)]
mod tests {
    use crate::log::simulated::Simulated;

    use super::*;

    const NOW: UnixTime = UnixTime(1_000);
    const BEFORE: MessageId = MessageId(7);

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
        orders.place(request(Action::Suspend, None), NOW, BEFORE).unwrap();
        let held = orders.place(request(Action::Hold, Some(50)), NOW, BEFORE).unwrap();
        orders.place(request(Action::Bounce, None), NOW, BEFORE).unwrap();
        assert_eq!(orders.end(&[OrderId(3), OrderId(9)]).unwrap().len(), 1);
        assert_eq!(orders.end(&[OrderId(3)]).unwrap(), []);

        let again = Orders::open(Arc::new(storage.after_kill()), UnixTime(1_050)).unwrap();
        let later = Orders::open(Arc::new(storage.after_kill()), UnixTime(1_051)).unwrap();

        assert_eq!((ids(&again), ids(&later)), (vec![1, 2], vec![1]));
        assert_eq!(again.standing()[1], held);
        assert_eq!(later.place(request(Action::Suspend, None), NOW, BEFORE).unwrap().id, OrderId(4));
    }

    #[test]
    fn an_order_that_was_confirmed_survives_a_power_cut_at_any_time() {
        for seed in 0..200 {
            let storage = storage(seed);
            let orders = Orders::open(storage.clone(), NOW).unwrap();
            orders.place(request(Action::Suspend, None), NOW, BEFORE).unwrap();
            storage.die_at(storage.calls() + seed % 8);
            let second = orders.place(request(Action::Hold, None), NOW, BEFORE).is_ok();

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
        orders.place(request(Action::Hold, None), NOW, BEFORE).unwrap();

        for at in [0, 20, 60] {
            let damaged = storage.after_kill();
            damaged.damage(Orders::FILE, |octets| octets[at] ^= 1).unwrap();
            assert!(matches!(Orders::open(Arc::new(damaged), NOW), Err(OpenError::Damaged)), "{at}");
        }
    }

    #[test]
    fn an_order_that_ends_recipients_is_for_those_there_unless_it_has_a_duration() {
        let orders = Orders::open(storage(1), NOW).unwrap();

        let once = orders.place(request(Action::Delete, None), NOW, BEFORE).unwrap();
        let lasting = orders.place(request(Action::Delete, Some(10)), NOW, BEFORE).unwrap();
        let suspension = orders.place(request(Action::Suspend, None), NOW, BEFORE).unwrap();

        assert_eq!((once.before, once.until), (Some(BEFORE), None));
        assert_eq!((lasting.before, lasting.until), (None, Some(1_010)));
        assert_eq!((suspension.before, suspension.until), (None, None));
        assert!(once.is_for(MessageId(6), NOW) && !once.is_for(BEFORE, NOW) && lasting.is_for(MessageId(8), NOW));
        assert_eq!(orders.end_over(UnixTime(1_011)), [lasting]);
        assert_eq!(ids(&orders), [1, 3]);
    }

    #[test]
    fn an_order_that_has_ended_does_not_come_back_and_one_whose_end_cannot_be_stored_stands() {
        for seed in 0..200 {
            let storage = storage(seed);
            let orders = Orders::open(storage.clone(), NOW).unwrap();
            for action in [Action::Delete, Action::Suspend, Action::Bounce] {
                orders.place(request(action, None), NOW, BEFORE).unwrap();
            }
            storage.die_at(storage.calls() + seed % 8);
            let has_ended = orders.end(&[OrderId(1), OrderId(3)]).is_ok();

            let found = ids(&Orders::open(Arc::new(storage.crash(seed)), NOW).unwrap());

            assert_eq!(ids(&orders), if has_ended { vec![2] } else { vec![1, 2, 3] }, "{seed}");
            assert!(found == [2] || (found == [1, 2, 3] && !has_ended), "{seed}: {found:?}");
        }
    }

    #[test]
    fn orders_that_end_mail_once_leave_room_for_those_that_stand() {
        let orders = Orders::open(storage(1), NOW).unwrap();
        for number in 1..=1_000 {
            assert_eq!(orders.place(request(Action::Bounce, None), NOW, BEFORE).unwrap().id, OrderId(number));
        }

        let refused = orders.place(request(Action::Delete, None), NOW, BEFORE);
        assert!(matches!(refused, Err(PlaceError::TooManyOnce)), "{refused:?}");
        orders.place(request(Action::Suspend, None), NOW, BEFORE).unwrap();
        orders.end(&[OrderId(1)]).unwrap();
        orders.place(request(Action::Delete, None), NOW, BEFORE).unwrap();
    }

    #[test]
    fn an_order_of_an_earlier_version_spares_what_may_be_later_than_it() {
        let storage = storage(1);
        let old = r#"{"next": 9, "orders": [{"id": 8, "action": "delete", "selection": {}, "accepted_until": 1000,
            "reason": "", "by": "ops", "placed_at": 1000, "until": 3490}]}"#;
        file::replace(&*storage, Orders::FILE, old.as_bytes()).unwrap();

        let order = Orders::open(storage, NOW).unwrap().standing()[0].clone();

        assert!(order.is_once() && order.is_for(MessageId(1), UnixTime(999)) && !order.is_for(MessageId(1), NOW));
    }

    #[test]
    fn what_ended_while_nobody_looked_is_given_until_it_is_saved() {
        let storage = storage(1);
        let orders = Orders::open(storage.clone(), NOW).unwrap();
        let held = orders.place(request(Action::Hold, Some(50)), NOW, BEFORE).unwrap();

        let again = Orders::open(Arc::new(storage.after_kill()), UnixTime(1_051)).unwrap();
        assert_eq!((again.take_ended_while_down(), again.take_ended_while_down()), (vec![held], vec![]));

        let later = Orders::open(storage.clone(), UnixTime(1_051)).unwrap();
        later.save().unwrap();
        assert_eq!(Orders::open(storage, UnixTime(1_051)).unwrap().take_ended_while_down(), []);
    }

    #[test]
    fn texts_that_would_disturb_a_terminal_are_refused() {
        let orders = Orders::open(storage(1), NOW).unwrap();
        let wrong = Request { reason: "a\u{1b}[1m".into(), ..request(Action::Hold, None) };

        assert!(matches!(orders.place(wrong, NOW, BEFORE), Err(PlaceError::Text("reason"))));
    }

    #[test]
    fn an_order_that_is_over_at_once_is_refused() {
        let orders = Orders::open(storage(1), NOW).unwrap();

        assert!(matches!(orders.place(request(Action::Hold, Some(0)), NOW, BEFORE), Err(PlaceError::Seconds)));
    }

    #[test]
    fn what_is_wrong_with_the_file_is_told_once_and_with_a_way_out() {
        let storage = storage(1);
        file::replace(&*storage, Orders::FILE, b"{\"next\": 1, \"orders\": 7}").unwrap();

        let error = Orders::check(&*storage).unwrap_err();

        assert!(std::error::Error::source(&error).is_none() && error.to_string().contains("move it away"), "{error}");
    }
}

//! State that operators make and that must not be lost: their orders. Beside it what was learnt, which may be.
//!
//! [`Orders`] holds every order that stands, in memory and in one small file in the spool. A change is on stable storage
//! before it takes effect. What an order does to queued mail is `queue`'s business; this module knows nothing of it. [`Pins`]
//! are the same for limits that are learnt. [`suppression`] is the list of those who get no mail, which is long and has a log of its
//! own.

mod file;
mod learnt;
mod note;
pub mod order;
mod orders;
mod pins;
pub mod suppression;

pub use learnt::LearntStore;
pub use note::Note;
pub use order::{Action, Order, OrderId, Selection, SelectionError};
pub use orders::{OpenError, Orders, PlaceError, Request, check_text};
pub use pins::{Pin, PinError, PinRequest, Pinned, Pins, PinsOpenError};

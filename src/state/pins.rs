//! Pins: bounds that operators set to limits which are learnt, in memory for the queue and on stable storage for the next
//! start.
//!
//! Few and rarely changed, so the whole set is one file that is replaced. A file that cannot be read as it was written is
//! an error at the start: mail would leave faster than somebody has ordered.

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::clock::UnixTime;
use crate::limit::controller::{Bounds, Orders as ControllerOrders, What};
use crate::log::storage::Storage;
use crate::unseen::is_unseen;

use super::file::{self, Found};
use super::orders::{PlaceError, check_text};

/// Pins that may stand at the same time.
const MOST: usize = 10_000;
/// Longest name of a site, in characters: it may be all the MX hosts of a domain.
const LONGEST_SITE: usize = 1_024;
/// The slowest that a controller keeps to, in messages a minute: what it has sent is forgotten when it has been quiet for a while.
const LEAST_RATE: f64 = 1.0;
/// Above every rate that a machine reaches, in messages a minute.
const MOST_RATE: f64 = 1e9;
/// As `limits.site_connections`.
const MOST_CONNECTIONS: f64 = 100_000.0;
const MOST_MESSAGES: f64 = 4_000_000_000.0;

/// Which limit is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pinned {
    /// Messages a minute.
    Rate,
    /// Connections at the same time.
    Connections,
    /// Messages over one connection.
    MessagesPerConnection,
}

impl Pinned {
    /// The limit.
    pub const fn what(self) -> What {
        match self {
            Self::Rate => What::Rate,
            Self::Connections => What::Connections,
            Self::MessagesPerConnection => What::MessagesPerConnection,
        }
    }

    fn allows(self, value: f64) -> bool {
        let is_whole = value >= 1.0 && value.fract() == 0.0;
        match self {
            Self::Rate => (LEAST_RATE..=MOST_RATE).contains(&value),
            Self::Connections => is_whole && value <= MOST_CONNECTIONS,
            Self::MessagesPerConnection => is_whole && value <= MOST_MESSAGES,
        }
    }
}

/// Bounds of one limit at a site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The site.
    pub site: Box<str>,
    /// From this egress source; absent: from each that has no pin of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Box<str>>,
    /// Of what.
    pub limit: Pinned,
    /// Not below this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub least: Option<f64>,
    /// Not above this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<f64>,
    /// Why, in the operator's words.
    #[serde(default)]
    pub reason: Box<str>,
    /// Who set it.
    #[serde(default)]
    pub by: Box<str>,
    /// When, in seconds since 1970.
    pub placed_at: u32,
}

impl Pin {
    fn is_of(&self, site: &str, source: Option<&str>, limit: Pinned) -> bool {
        *self.site == *site && self.source.as_deref() == source && self.limit == limit
    }

    /// As tables, metrics and the journal show it.
    pub fn describe(&self) -> String {
        let Self { by, reason, .. } = self;
        if reason.is_empty() { format!("pinned by {by}") } else { format!("pinned by {by}: {reason}") }
    }
}

/// What an operator asks for: either `value`, or one or both of the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    /// The site, or a domain whose mail goes to it.
    pub site: Box<str>,
    /// From this egress source; absent: from each.
    #[serde(default)]
    pub source: Option<Box<str>>,
    /// Of what.
    pub limit: Pinned,
    /// Exactly this: a rate in messages a minute, or a number.
    #[serde(default)]
    pub value: Option<f64>,
    /// Not below this.
    #[serde(default)]
    pub least: Option<f64>,
    /// Not above this.
    #[serde(default)]
    pub most: Option<f64>,
    /// Why.
    #[serde(default)]
    pub reason: Box<str>,
    /// Who asks.
    #[serde(default)]
    pub by: Box<str>,
}

/// Why the pins of an earlier run cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum PinsOpenError {
    /// The disk gave an error. Not its source, or it would be told twice; likewise below.
    #[error("the pins of limits cannot be read ({0}): mail would leave at another pace than was ordered; {WAY_OUT}")]
    Io(io::Error),
    /// The file is not what was written.
    #[error("the pins of limits are damaged: mail would leave at another pace than was ordered; {WAY_OUT}")]
    Damaged,
    /// The file is of a version that knows more than this one.
    #[error("the pins of limits cannot be understood ({0}): start the newer program that wrote them, or {WAY_OUT}")]
    Unknown(serde_json::Error),
}

const WAY_OUT: &str = "put a copy of the file in its place, or move it away to start without pins";

impl PinsOpenError {
    /// The error with the file that it is about, of the spool in this folder.
    pub fn of_spool(&self, spool: &Path) -> String {
        format!("{}: {self}", spool.join(Pins::FILE).display())
    }
}

/// Why a pin is not taken.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// A text that cannot be shown.
    #[error(transparent)]
    Text(PlaceError),
    /// A site of no name.
    #[error(
        "site: a name has 1 to {LONGEST_SITE} characters, none of them a control character or one that is not seen"
    )]
    Site,
    /// Neither a value nor bounds, or both.
    #[error("a pin has either a value, or the least, the most or both")]
    Bounds,
    /// A number that the limit cannot have.
    #[error(
        "{0} is no such limit: a rate is 1 to 1000000000 messages a minute (slower ones are for [[limits.rule]]), connections are \
         1 to 100000, messages over one connection 1 to 4000000000"
    )]
    Value(f64),
    /// The least is above the most.
    #[error("the least, {0}, is above the most, {1}")]
    Order(f64, f64),
    /// There is no such egress source.
    #[error("there is no egress source {0:?}")]
    Source(Box<str>),
    /// Nobody knows a site or a domain of this name.
    #[error("{0:?} is no site that is known, and mail for such a domain goes nowhere: {1}")]
    Nowhere(Box<str>, Box<str>),
    /// Nothing is learnt, so there is nothing to pin.
    #[error("limits are not learnt (limits.learn = false)")]
    NotLearnt,
    /// Too many stand.
    #[error("{MOST} pins stand already")]
    TooMany,
    /// It is not known to be on stable storage, so it does not stand.
    #[error("the pin cannot be stored: {0}")]
    Store(#[from] io::Error),
}

impl PinRequest {
    /// The bounds asked for, if they make sense.
    fn bounds(&self) -> Result<(Option<f64>, Option<f64>), PinError> {
        let bounds = match (self.value, self.least, self.most) {
            (Some(value), None, None) => (Some(value), Some(value)),
            (None, None, None) | (Some(_), ..) => return Err(PinError::Bounds),
            (None, least, most) => (least, most),
        };
        if let Some(wrong) = [bounds.0, bounds.1].into_iter().flatten().find(|value| !self.limit.allows(*value)) {
            return Err(PinError::Value(wrong));
        }
        match bounds {
            (Some(least), Some(most)) if least > most => Err(PinError::Order(least, most)),
            bounds => Ok(bounds),
        }
    }
}

/// Pins that stand. Cheap to clone; the default keeps them in memory only.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    storage: Option<Arc<dyn Storage>>,
    /// Written with `writing` locked, so that memory and file change in the same order.
    standing: RwLock<Arc<[Arc<Pin>]>>,
    /// Held while the file is written.
    writing: Mutex<()>,
}

fn read(storage: &dyn Storage) -> Result<Vec<Pin>, PinsOpenError> {
    match file::read(storage, Pins::FILE).map_err(PinsOpenError::Io)? {
        Found::Nothing => Ok(Vec::new()),
        Found::Content(content) => serde_json::from_slice(&content).map_err(PinsOpenError::Unknown),
        Found::Damaged => Err(PinsOpenError::Damaged),
    }
}

impl Pins {
    /// The file's name within the spool.
    pub const FILE: &str = "state/pins";

    /// Whether a daemon could take up what is there. Reads only, also beside a daemon.
    pub fn check(storage: &dyn Storage) -> Result<(), PinsOpenError> {
        read(storage).map(drop)
    }

    /// Takes up the pins of an earlier run. Blocks on the disk. The storage is the spool's, which has claimed it.
    pub fn open(storage: Arc<dyn Storage>) -> Result<Self, PinsOpenError> {
        let standing: Arc<[_]> = read(&*storage)?.into_iter().map(Arc::new).collect();
        let shared = Shared { storage: Some(storage), standing: RwLock::new(standing), writing: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Those that stand, the oldest first.
    pub fn standing(&self) -> Arc<[Arc<Pin>]> {
        self.shared.standing.read().clone()
    }

    /// Sets a pin in place of the one before of the same limit; when it returns, the pin is on stable storage. Blocks.
    pub fn place(&self, request: PinRequest, now: UnixTime) -> Result<Arc<Pin>, PinError> {
        let (least, most) = request.bounds()?;
        let PinRequest { site, source, limit, reason, by, .. } = request;
        if !(1..=LONGEST_SITE).contains(&site.chars().count()) || site.chars().any(is_unseen) {
            return Err(PinError::Site);
        }
        for (name, text) in [("reason", &reason), ("by", &by)] {
            check_text(name, text).map_err(PinError::Text)?;
        }
        let pin = Arc::new(Pin { site, source, limit, least, most, reason, by, placed_at: now.0 });
        let _writing = self.shared.writing.lock();
        let standing = self.standing();
        let others = standing.iter().filter(|other| !other.is_of(&pin.site, pin.source.as_deref(), pin.limit));
        let after: Arc<[_]> = others.chain([&pin]).cloned().collect();
        if after.len() > MOST {
            return Err(PinError::TooMany);
        }
        self.store(&after)?;
        *self.shared.standing.write() = after;
        Ok(pin)
    }

    /// Ends the pins of a site: of `source` (none: those of every source as well as those of single ones) and of `limit`
    /// (none: all). Blocks.
    pub fn end(&self, site: &str, source: Option<&str>, limit: Option<Pinned>) -> io::Result<Vec<Arc<Pin>>> {
        let _writing = self.shared.writing.lock();
        let is_meant = |pin: &Arc<Pin>| {
            *pin.site == *site
                && source.is_none_or(|source| pin.source.as_deref() == Some(source))
                && limit.is_none_or(|limit| pin.limit == limit)
        };
        let (ended, left): (Vec<_>, Vec<_>) = self.standing().iter().cloned().partition(is_meant);
        if !ended.is_empty() {
            let after: Arc<[_]> = left.into();
            self.store(&after)?;
            *self.shared.standing.write() = after;
        }
        Ok(ended)
    }

    /// All of them.
    pub fn all(&self) -> Arc<[Arc<Pin>]> {
        self.standing()
    }

    /// The pin that holds for a limit of a source at a site.
    pub fn find(&self, source: &str, site: &str, limit: Pinned) -> Option<Arc<Pin>> {
        let standing = self.standing();
        let find = |source: Option<&str>| standing.iter().find(|pin| pin.is_of(site, source, limit)).cloned();
        find(Some(source)).or_else(|| find(None))
    }

    /// All that hold for a source at a site, as its controller takes them.
    pub fn orders(&self, source: &str, site: &str) -> ControllerOrders {
        let bounds = |limit: Pinned, per: f64| {
            let pin = self.find(source, site, limit);
            let bound = |of: fn(&Pin) -> Option<f64>| pin.as_deref().and_then(of).map(|value| value / per);
            Bounds { least: bound(|pin| pin.least), most: bound(|pin| pin.most) }
        };
        if self.shared.standing.read().is_empty() {
            return ControllerOrders::default();
        }
        ControllerOrders {
            rate: bounds(Pinned::Rate, 60.0),
            connections: bounds(Pinned::Connections, 1.0),
            messages_per_connection: bounds(Pinned::MessagesPerConnection, 1.0),
        }
    }

    fn store(&self, standing: &[Arc<Pin>]) -> io::Result<()> {
        let Some(storage) = &self.shared.storage else { return Ok(()) };
        let pins: Vec<&Pin> = standing.iter().map(Arc::as_ref).collect();
        file::replace(&**storage, Self::FILE, &serde_json::to_vec_pretty(&pins)?)
    }
}

#[cfg(test)]
mod tests {
    use crate::log::simulated::Simulated;

    use super::*;

    const NOW: UnixTime = UnixTime(1_000);

    fn storage(seed: u64) -> Arc<Simulated> {
        let storage = Simulated::new(seed);
        storage.claim(&["state"]).unwrap();
        Arc::new(storage)
    }

    fn request(source: Option<&str>, limit: Pinned, value: f64) -> PinRequest {
        let source = source.map(Into::into);
        let value = Some(value);
        let (reason, by) = ("why".into(), "ops".into());
        PinRequest { site: "mx.test".into(), source, limit, value, least: None, most: None, reason, by }
    }

    #[test]
    fn pins_survive_a_restart_and_that_of_a_source_comes_before_that_of_all() {
        let storage = storage(1);
        let pins = Pins::open(storage.clone()).unwrap();
        pins.place(request(None, Pinned::Rate, 600.0), NOW).unwrap();
        pins.place(request(None, Pinned::Rate, 120.0), NOW).unwrap();
        pins.place(request(Some("a"), Pinned::Rate, 60.0), NOW).unwrap();
        let bounds = PinRequest { value: None, most: Some(4.0), ..request(None, Pinned::Connections, 1.0) };
        pins.place(bounds, NOW).unwrap();

        let again = Pins::open(Arc::new(storage.after_kill())).unwrap();

        assert_eq!(again.standing().len(), 3, "the second one took the place of the first");
        let (a, b) = (again.orders("a", "mx.test"), again.orders("b", "mx.test"));
        assert_eq!((a.rate, b.rate), (Bounds::pin(1.0), Bounds::pin(2.0)));
        assert_eq!(a.connections, Bounds { least: None, most: Some(4.0) });
        assert_eq!(again.orders("a", "other.test"), ControllerOrders::default());
        assert_eq!(again.end("mx.test", Some("a"), None).unwrap().len(), 1);
        assert_eq!(again.orders("a", "mx.test").rate, Bounds::pin(2.0));
        assert_eq!(again.end("mx.test", None, None).unwrap().len(), 2);
        assert!(again.standing().is_empty());
    }

    #[test]
    fn a_damaged_file_is_refused_rather_than_forgotten() {
        let storage = storage(1);
        let pins = Pins::open(storage.clone()).unwrap();
        pins.place(request(None, Pinned::Rate, 600.0), NOW).unwrap();

        for at in [0, 20, 60] {
            let damaged = storage.after_kill();
            damaged.damage(Pins::FILE, |octets| octets[at] ^= 1).unwrap();
            assert!(matches!(Pins::open(Arc::new(damaged)), Err(PinsOpenError::Damaged)), "{at}");
        }
    }

    #[test]
    fn a_pin_that_was_confirmed_survives_a_power_cut_at_any_time() {
        for seed in 0..100 {
            let storage = storage(seed);
            let pins = Pins::open(storage.clone()).unwrap();
            pins.place(request(None, Pinned::Rate, 60.0), NOW).unwrap();
            storage.die_at(storage.calls() + seed % 8);
            let second = pins.place(request(None, Pinned::Connections, 3.0), NOW).is_ok();

            let found = Pins::open(Arc::new(storage.crash(seed))).unwrap().standing().len();

            assert!(found == 2 || (found == 1 && !second), "{seed}: {found}");
            assert_eq!(pins.standing().len(), 1 + usize::from(second), "{seed}");
        }
    }

    #[test]
    fn numbers_that_no_limit_has_are_refused() {
        let pins = Pins::default();
        let place = |request: PinRequest| pins.place(request, NOW);

        for value in [0.0, -1.0, 0.99, 1.0 / 1_440.0, f64::NAN, f64::INFINITY, 2e9] {
            assert!(matches!(place(request(None, Pinned::Rate, value)), Err(PinError::Value(_))), "{value}");
        }
        assert!(matches!(place(request(None, Pinned::Connections, 1.5)), Err(PinError::Value(_))));
        let slow = PinRequest { value: None, most: Some(0.5), ..request(None, Pinned::Rate, 1.0) };
        let told = place(slow).unwrap_err().to_string();
        assert!(told.contains("a rate is 1 to 1000000000 messages a minute"), "{told}");
        let both = PinRequest { least: Some(1.0), ..request(None, Pinned::Rate, 1.0) };
        let neither = PinRequest { value: None, ..request(None, Pinned::Rate, 1.0) };
        let crossed = PinRequest { value: None, least: Some(2.0), most: Some(1.0), ..neither.clone() };
        assert!(matches!(place(both), Err(PinError::Bounds)) && matches!(place(neither), Err(PinError::Bounds)));
        assert!(matches!(place(crossed), Err(PinError::Order(..))));
        let nameless = PinRequest { site: "".into(), ..request(None, Pinned::Rate, 1.0) };
        assert!(matches!(place(nameless), Err(PinError::Site)));
    }
}

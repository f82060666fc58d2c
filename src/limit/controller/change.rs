//! What the controller tells of itself: each change of a limit with its reason, and why something has to wait.

use std::fmt;
use std::time::Instant;

/// Which limit changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// Messages a minute.
    Rate,
    /// Connections at the same time.
    Connections,
    /// Messages over one connection.
    MessagesPerConnection,
    /// A rest from the whole site, in seconds.
    Breaker,
    /// Messages an hour.
    Cap,
}

impl What {
    /// Every limit.
    pub const ALL: [Self; 5] = [Self::Rate, Self::Connections, Self::MessagesPerConnection, Self::Breaker, Self::Cap];

    /// The limit of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|what| what.as_str() == name)
    }

    /// As journal, metrics and tables show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Connections => "connections",
            Self::MessagesPerConnection => "messages-per-connection",
            Self::Breaker => "breaker",
            Self::Cap => "hourly-cap",
        }
    }
}

/// One change of a limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Of which.
    pub what: What,
    /// What it was; None: no limit.
    pub from: Option<f64>,
    /// What it is; None: no limit.
    pub to: Option<f64>,
    /// What the receiver had been measured to allow before, where that is another number than `from`; None: it was not known.
    pub limit_before: Option<f64>,
    /// Why, with the reply that caused it, if one did.
    pub reason: String,
}

/// Changes, none on most calls: an empty one takes no memory.
pub type Changes = Vec<Change>;

/// Why a message or a connection has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The learnt or configured rate.
    Rate,
    /// A pause after a refusal.
    Pause,
    /// One message tries whether the receiver takes mail again; the others wait for its reply.
    Gate,
    /// The receiver refused us as such; the site rests.
    Breaker,
    /// The count of this hour is used up.
    Cap,
    /// As many connections as are learnt, configured or worth it.
    Connections,
    /// The pace of new connections.
    Openings,
}

impl Cause {
    /// As tables and metrics show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Pause => "pause",
            Self::Gate => "gate",
            Self::Breaker => "breaker",
            Self::Cap => "hourly-cap",
            Self::Connections => "connections",
            Self::Openings => "connection-pace",
        }
    }
}

/// Not now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Why.
    pub cause: Cause,
    /// When to ask again. None: when a reply comes or a connection ends.
    pub until: Option<Instant>,
}

/// Messages a minute as people read them: one decimal where that says something.
pub(super) struct PerMinute(pub f64);

impl fmt::Display for PerMinute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.0 * 60.0;
        if rate < 1000.0 { write!(f, "{rate:.1}/min") } else { write!(f, "{rate:.0}/min") }
    }
}

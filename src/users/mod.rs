//! Who may send: the users file, and telling true claims from false ones.
//!
//! [`Users`] holds the file in memory and reads it again when it has changed ([`Users::look`]); a bad one leaves the one
//! before in force. [`sasl`] is the protocol, without I/O; its claims are told true from false by [`Users::verify`].
//! [`Allowances`] are what a user may send. [`edit`] changes the file for the command line.
//!
//! What an attacker learns from verifying: nothing but the answer. A name that nobody has, one that is disabled and one
//! without a password cost one hash like any other, comparisons take the same time whatever differs, and the reply does not
//! tell the reason. The one difference left: hashes of another cost than most of the file's take another time.

pub mod allowance;
pub(crate) mod backoff;
mod cache;
pub mod edit;
pub mod file;
pub mod metrics;
pub mod password;
pub mod prep;
pub mod sasl;
pub mod scram;
pub mod sender;
#[cfg(test)]
mod tests;
mod verify;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use aws_lc_rs::rand;
use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::metrics::Registry;
use crate::smtp::address::Address;
use crate::trusted::watched::{Change, Content, Reading, Watched};

pub use allowance::{Allowances, Spent, Taken};
pub use file::{CertificateName, FileError, Table, User};
pub use verify::Denial;

use backoff::BackOff;
use cache::Verified;
use metrics::Metrics;
use sasl::Directory;
use scram::Keys;

/// Attempts that may wait for a hash: at 20 ms each on two threads, the last one waits 5 s. More are told to come again.
const WAITING_MOST: usize = 512;
/// Hashes at once: each takes 19 MiB and a core, and delivery needs cores too.
const HASHES_MOST: usize = 4;

/// Users. Cheap to clone.
#[derive(Clone)]
pub struct Users {
    inner: Arc<Inner>,
}

/// Keys are in it.
impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users").field("file", &self.inner.file).finish_non_exhaustive()
    }
}

struct Inner {
    clock: Clock,
    metrics: Metrics,
    file: Watched<Table>,
    /// Mail from an address that is not the user's is refused. Written by [`Users::apply`].
    is_strict: AtomicBool,
    cache: Verified,
    backoff: BackOff,
    /// Makes the same salt of a name that nobody has each time.
    secret: [u8; 32],
    hashes: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    allowances: Allowances,
}

/// What becomes of mail from an address that is not the user's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SenderPolicy {
    /// It is refused.
    #[default]
    Enforce,
    /// It is accepted, counted and logged.
    Allow,
}

/// A users file that has been read, to be put in force by [`Users::apply`].
#[derive(Debug)]
pub struct Prepared {
    reading: Reading<Table>,
    policy: SenderPolicy,
}

/// Reads a users file; without one there are no users. Blocks on the disk.
pub fn prepare(path: Option<&Path>, policy: SenderPolicy) -> Result<Prepared, FileError> {
    Ok(Prepared { reading: Reading::of(path)?, policy })
}

/// The system gives no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandom;

impl Users {
    /// Those of a file that has been read.
    pub fn new(prepared: Prepared, clock: Clock, registry: &Registry) -> Result<Self, NoRandom> {
        let key = || -> Result<[u8; 32], NoRandom> {
            let mut key = [0; 32];
            rand::fill(&mut key).map_err(|_| NoRandom)?;
            Ok(key)
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let inner = Inner {
            clock,
            metrics: Metrics::new(registry),
            file: Watched::new(prepared.reading, metrics::gauges(registry)),
            is_strict: AtomicBool::new(prepared.policy == SenderPolicy::Enforce),
            cache: Verified::new(&key()?),
            backoff: BackOff::new(&key()?),
            secret: key()?,
            hashes: Arc::new(Semaphore::new(cores.div_ceil(2).min(HASHES_MOST))),
            waiting: Arc::new(Semaphore::new(WAITING_MOST)),
            allowances: Allowances::new(clock),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Puts a file in force that has been read. Sessions go on with the user that they have.
    pub fn apply(&self, prepared: Prepared) {
        self.inner.is_strict.store(prepared.policy == SenderPolicy::Enforce, Ordering::Relaxed);
        self.inner.file.apply(prepared.reading);
    }

    /// Reads the file again if it has changed; gives how many users there were and are. A bad one changes nothing, and is
    /// told once. Blocks on the disk.
    pub fn look(&self) -> Option<Result<(usize, usize), String>> {
        let looked = self.inner.file.look()?;
        match &looked {
            Ok(Change { path, after, .. }) => {
                let users = after.entries();
                tracing::info!(path = %path.display(), users, "the users file has been read again");
            }
            Err(error) => tracing::error!(%error, "the users file cannot be used; the one before stays in force"),
        }
        Some(looked.map(|change| (change.before.entries(), change.after.entries())))
    }

    /// Why the file as it is now is not in force.
    pub fn error(&self) -> Option<String> {
        self.inner.file.error()
    }

    /// Whether there is a users file at all: without one, AUTH is not offered.
    pub fn is_configured(&self) -> bool {
        self.inner.file.has_file()
    }

    /// Whether anybody has keys for SCRAM.
    pub fn has_scram(&self) -> bool {
        self.inner.file.load().has_scram
    }

    /// An exchange broke the rules or was given up.
    pub fn malformed(&self, mechanism: sasl::Mechanism) {
        self.inner.metrics.attempt(mechanism, metrics::Result::Malformed);
    }

    /// The users in force.
    pub fn table(&self) -> Arc<Table> {
        self.inner.file.load_full()
    }

    /// A user as the file has them now, who may still come in.
    pub fn current(&self, name: &str) -> Option<Arc<User>> {
        self.inner.file.load().get(name).filter(|user| !user.is_disabled).cloned()
    }

    fn policy(&self) -> SenderPolicy {
        match self.inner.is_strict.load(Ordering::Relaxed) {
            true => SenderPolicy::Enforce,
            false => SenderPolicy::Allow,
        }
    }

    /// Whether mail from this address may go on: it is the user's, or the policy is to allow others, which is counted and
    /// logged. `place` is where it stands: the reverse-path or the From field.
    /// An address that cannot be read is nobody's.
    pub fn may_send_from(&self, user: &User, address: Option<&Address>, place: &'static str) -> bool {
        if address.map_or(user.senders.contains(&sender::Sender::All), |address| user.may_send_from(address)) {
            return true;
        }
        let is_allowed = self.policy() == SenderPolicy::Allow;
        if is_allowed {
            self.inner.metrics.foreign_senders.increment(1);
            let address = address.map(Address::as_str);
            tracing::warn!(user = &*user.name, address, place, "the address is not the user's; the policy allows it");
        }
        is_allowed
    }

    /// What users may send.
    pub fn allowances(&self) -> &Allowances {
        &self.inner.allowances
    }

    /// Hashes worked out so far.
    pub fn hashes(&self) -> u64 {
        self.inner.metrics.hashes()
    }

    fn now(&self) -> Instant {
        self.inner.clock.now()
    }
}

impl Directory for Users {
    fn keys(&self, name: &str) -> Keys {
        let table = self.inner.file.load();
        let keys = table.get(name).and_then(|user| user.scram.clone());
        let iterations = table.iterations.unwrap_or(std::num::NonZeroU32::MIN);
        keys.unwrap_or_else(|| Keys::of_nobody(&self.inner.secret, name, iterations))
    }
}

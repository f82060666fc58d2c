//! DKIM signatures (RFC 6376, RFC 8301, RFC 8463): each message is signed once, when it is accepted.
//!
//! A [`Signer`] has the keys that hold ([`Ring`], replaced by a reload) and a pool of threads. [`Signer::sign`] is for
//! sessions: it judges the message at once, and where keys sign it, waits for a thread without holding one. The body's hash
//! ([`BodyHash`]) is taken while a large body is written to its file, or here. Signing is the last thing that is done to a
//! message: every field that is added must be there, since nothing may change afterwards. Verifying is none of our work.

mod author;
mod body;
mod header;
mod key;
mod pool;
pub mod record;
mod ring;
mod signature;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram};
use arc_swap::ArcSwap;
use bytes::Bytes;

pub use body::BodyHash;
pub use key::{Algorithm, Key, KeyError, Strength, Ungenerated, fingerprint, generate};
use pool::Pool;
pub use ring::{KeyFile, Ring, Settings};
use ring::{Keys, Verdict};
use signature::Draft;

use crate::clock::{Clock, UnixTime};
use crate::message::Content;
use crate::metrics::Registry;
use crate::panics::Bulkhead;

/// Octets of a body that are read at once where its hash was not taken before.
const READ: usize = 256 * 1024;
/// Room for a field by a key of 4096 bits.
const FIELD_MOST: usize = 2_048;

/// Why a message is not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// Its From domain must be signed, or may be one that must, and no key is for it.
    #[error("no key signs for the From domain, which must be signed")]
    NoKey,
    /// The body cannot be read, or the library failed.
    #[error("the message cannot be signed now")]
    Failed,
}

/// Who signed a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Signatures {
    /// Nobody: there are no keys, and no domain must be signed.
    #[default]
    Off,
    /// Nobody: no key is for its From domain, or it has none.
    NoKey,
    /// Keys of these names, joined by commas.
    By(Arc<str>),
}

impl Signatures {
    /// As the journal has it; empty: it says nothing.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Off => "",
            Self::NoKey => "no-key",
            Self::By(names) => names,
        }
    }
}

/// Signs what is accepted. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Signer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Replaced by [`Signer::apply`].
    ring: ArcSwap<Ring>,
    pool: OnceLock<Pool>,
    threads: usize,
    clock: Clock,
    wall: Bulkhead,
    meters: Meters,
}

/// What is counted.
#[derive(Debug)]
struct Meters {
    /// In the order of [`Algorithm::ALL`].
    made: [Counter; 2],
    failed: [Counter; 2],
    signed: Counter,
    unsigned: Counter,
    refused: Counter,
    error: Counter,
    waiting: Gauge,
    seconds: Histogram,
}

impl Meters {
    fn new(registry: &Registry) -> Self {
        let signatures = |result| {
            Algorithm::ALL.map(|algorithm| {
                let labels = [("result", result), ("algorithm", algorithm.as_str())];
                registry.counter("hikyaku_dkim_signatures_total", "DKIM signatures, by result and algorithm.", &labels)
            })
        };
        let messages = |result| {
            let help = "Messages that came to be signed while there were keys or domains that must be, by what became of them.";
            registry.counter("hikyaku_dkim_messages_total", help, &[("result", result)])
        };
        let seconds = "From the end of admission to the message being signed, waiting for a thread included.";
        Self {
            made: signatures("ok"),
            failed: signatures("failed"),
            signed: messages("signed"),
            unsigned: messages("unsigned"),
            refused: messages("refused"),
            error: messages("failed"),
            waiting: registry.gauge("hikyaku_dkim_queue", "Messages that wait for a thread that signs.", &[]),
            seconds: registry.histogram("hikyaku_dkim_seconds", seconds, &[]),
        }
    }

    fn count(&self, algorithm: Algorithm, is_made: bool) {
        let [rsa, ed25519] = if is_made { &self.made } else { &self.failed };
        match algorithm {
            Algorithm::Rsa => rsa.increment(1),
            Algorithm::Ed25519 => ed25519.increment(1),
        }
    }
}

impl Signer {
    /// A signer without keys, which will have so many threads once it has.
    pub fn new(threads: usize, clock: Clock, registry: &Registry) -> Self {
        let inner = Inner {
            ring: ArcSwap::default(),
            pool: OnceLock::new(),
            threads: threads.max(1),
            clock,
            wall: Bulkhead::new(registry, "sign"),
            meters: Meters::new(registry),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Starts the threads if `ring` has keys and they do not run yet.
    pub fn prepare(&self, ring: &Ring) -> io::Result<()> {
        let Inner { pool, threads, wall, meters, .. } = &*self.inner;
        if ring.keys().is_empty() || pool.get().is_some() {
            return Ok(());
        }
        // Of two that come here at once one starts threads that end again.
        let _ = pool.set(Pool::start(*threads, meters.waiting.clone(), wall)?);
        Ok(())
    }

    /// Signs with the keys of `ring` from now on; [`Signer::prepare`] was called with it.
    pub fn apply(&self, ring: Arc<Ring>) {
        self.inner.ring.store(ring);
    }

    /// The keys that hold.
    pub fn ring(&self) -> Arc<Ring> {
        self.inner.ring.load_full()
    }

    /// Whether messages go as they are: there are no keys, and no domain must be signed.
    pub fn is_idle(&self) -> bool {
        self.inner.ring.load().is_idle()
    }

    /// The message with its signatures on top, or as it is where no key is for it.
    /// `body_hash` is that of its whole body, if it has been taken.
    pub async fn sign(
        &self,
        content: Content,
        body_hash: Option<BodyHash>,
        time: UnixTime,
    ) -> Result<(Content, Signatures), SignError> {
        let ring = self.inner.ring.load();
        if ring.is_idle() {
            return Ok((content, Signatures::Off));
        }
        let meters = &self.inner.meters;
        let keys = match ring.judge(header_of(&content)) {
            Verdict::Sign(keys) => keys,
            Verdict::Leave => {
                meters.unsigned.increment(1);
                return Ok((content, Signatures::NoKey));
            }
            Verdict::Refuse => {
                meters.refused.increment(1);
                return Err(SignError::NoKey);
            }
        };
        let (expiry, names) = (ring.expiry, Arc::clone(&keys.names));
        drop(ring);
        let begun = self.inner.clock.now();
        let inner = Arc::clone(&self.inner);
        let work = move || inner.sign(&keys, content, body_hash, time, expiry);
        let signed = match self.inner.pool.get() {
            Some(pool) => pool.run(work).await.flatten(),
            None => None,
        };
        meters.seconds.record(self.inner.clock.now().duration_since(begun));
        match signed {
            Some(content) => {
                meters.signed.increment(1);
                Ok((content, Signatures::By(names)))
            }
            None => {
                meters.error.increment(1);
                Err(SignError::Failed)
            }
        }
    }

    /// The same for a message of our own, on a thread that may block. It goes unsigned also where it must be signed, since
    /// there is nobody to refuse it to.
    pub fn sign_own(&self, content: Bytes, time: UnixTime) -> Result<(Bytes, Signatures), SignError> {
        let ring = self.inner.ring.load();
        if ring.keys().is_empty() {
            return Ok((content, Signatures::Off));
        }
        let Verdict::Sign(keys) = ring.judge(&content) else { return Ok((content, Signatures::NoKey)) };
        let by = Signatures::By(Arc::clone(&keys.names));
        match self.inner.sign(&keys, Content::Memory(content), None, time, ring.expiry) {
            Some(Content::Memory(signed)) => Ok((signed, by)),
            _ => Err(SignError::Failed),
        }
    }
}

impl Inner {
    /// Signs, which takes long; none if it cannot be done.
    fn sign(
        &self,
        keys: &Keys,
        content: Content,
        body_hash: Option<BodyHash>,
        time: UnixTime,
        expiry: Option<Duration>,
    ) -> Option<Content> {
        let header = header_of(&content);
        let body_hash = match body_hash {
            Some(body_hash) => body_hash,
            None => hash_body(&content, header).ok()?,
        };
        let draft = Draft::new(header, &body_hash.finish(), time, expiry);
        let (Content::Memory(first) | Content::File { prefix: first, .. }) = &content;
        let mut out = Vec::with_capacity(keys.len() * FIELD_MOST + first.len());
        for key in keys.iter() {
            let is_made = draft.write(key, &mut out);
            self.meters.count(key.algorithm(), is_made);
            if !is_made {
                return None;
            }
        }
        out.extend_from_slice(first);
        Some(match content {
            Content::Memory(_) => Content::Memory(out.into()),
            Content::File { file, offset, length, .. } => Content::File { prefix: out.into(), file, offset, length },
        })
    }
}

/// What is in memory of a content: it holds the whole header section.
fn header_of(content: &Content) -> &[u8] {
    match content {
        Content::Memory(bytes) => bytes,
        Content::File { prefix, .. } => prefix,
    }
}

/// The hash of the body behind the header section. Reads a file, and blocks on its disk.
fn hash_body(content: &Content, in_memory: &[u8]) -> io::Result<BodyHash> {
    let mut fields = crate::message::header::fields(in_memory);
    fields.by_ref().for_each(drop);
    let mut hash = BodyHash::default();
    hash.update(in_memory.get(fields.body()..).unwrap_or_default());
    if let Content::File { prefix, .. } = content {
        let mut at = prefix.len() as u64;
        while at < content.len() {
            let chunk = content.chunk(at, READ)?;
            if chunk.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hash.update(&chunk);
            at += chunk.len() as u64;
        }
    }
    Ok(hash)
}

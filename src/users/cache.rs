//! Passwords that were right a short time ago, so that clients which connect anew for each message do not wait for Argon2.
//!
//! What is kept is an HMAC-SHA256 under a key that only this process has, and the entry of the file that it was right for:
//! when that entry changes, in whatever, it is worth nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use quick_cache::sync::Cache;

use super::file::User;

/// How long a password is taken for right.
const LIFE: Duration = Duration::from_secs(300);
/// Passwords that are remembered.
const ENTRIES: usize = 65_536;

/// Passwords that were right.
pub(super) struct Verified {
    key: hmac::Key,
    entries: Cache<[u8; 32], Entry>,
}

#[derive(Clone)]
struct Entry {
    user: Arc<User>,
    until: Instant,
}

impl Verified {
    /// None yet. `key` is random.
    pub fn new(key: &[u8]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), entries: Cache::new(ENTRIES) }
    }

    /// Whether this password was right for this entry.
    pub fn has(&self, user: &Arc<User>, password: &str, now: Instant) -> bool {
        let entry = self.entries.get(&self.tag(user, password));
        entry.is_some_and(|entry| Arc::ptr_eq(&entry.user, user) && now < entry.until)
    }

    /// It is right.
    pub fn put(&self, user: &Arc<User>, password: &str, now: Instant) {
        self.entries.insert(self.tag(user, password), Entry { user: Arc::clone(user), until: now + LIFE });
    }

    fn tag(&self, user: &User, password: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        // A prepared name has no NUL.
        [user.name.as_bytes(), &[0], password.as_bytes()].into_iter().for_each(|part| context.update(part));
        context.sign().as_ref().try_into().unwrap_or([0; 32])
    }
}

//! Whom an entry is about of which only the hash is known: what the journal has of its message says it.
//!
//! Links and reverse-paths hold hashes of mailboxes. An entry by hash suppresses at once, but a person cannot read it, and it means
//! nothing under another key.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::UnixTime;
use crate::journal::{self, Journal, Origin};
use crate::message::MessageId;
use crate::smtp::address::Address;
use crate::state::suppression::{self, Change, Entry, MailboxHash, Suppression, Target};

/// Seconds of a day.
const DAY: u32 = 86_400;

/// Asks the journal, and gives addresses to entries. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Naming {
    list: Suppression,
    journal: Journal,
    /// The journal's folder; none: there is none.
    folder: Option<Arc<PathBuf>>,
}

impl Naming {
    /// Of entries of `list`; `folder` is the journal's.
    pub fn new(list: Suppression, journal: Journal, folder: Option<PathBuf>) -> Self {
        Self { list, journal, folder: folder.map(Arc::new) }
    }

    /// What the journal has of the recipients of these messages, which were accepted on this day (since 1970) or later. Reads all lines
    /// since then, however many messages there are; blocks on the disk.
    pub fn origins(&self, messages: &HashSet<MessageId>, since: u16) -> HashMap<MessageId, Vec<Origin>> {
        let Some(folder) = self.folder.as_ref().filter(|_| !messages.is_empty()) else { return HashMap::new() };
        let found = journal::origins(folder, messages, UnixTime(u32::from(since).saturating_mul(DAY)));
        found.unwrap_or_else(|error| {
            tracing::warn!(%error, "the journal cannot be asked about messages");
            HashMap::new()
        })
    }

    /// Which of a message's recipients has this mailbox.
    pub fn of_mailbox<'o>(&self, known: &'o [Origin], mailbox: MailboxHash) -> Option<&'o Origin> {
        let is_it = |origin: &&Origin| {
            let address: Option<Address> = origin.recipient.parse().ok();
            address.is_some_and(|address| self.list.hash(&address) == mailbox)
        };
        // A masked address has another hash; of the only one there is no doubt.
        let only = if let [only] = known { Some(only) } else { None };
        known.iter().find(is_it).or_else(|| only.filter(|_| self.journal.is_masked()))
    }

    /// Gives entries by hash, each as it was made, the address that the journal has, all with one sync. Nothing is lost where that fails.
    /// Tells of each whether it has its address now.
    pub fn name(&self, made: &[(&Entry, Option<&Origin>)], now: UnixTime) -> Vec<Option<Address>> {
        let mut changes = Vec::new();
        let named = made.iter().map(|(made, origin)| {
            if self.journal.is_masked() {
                return None;
            }
            let address = origin.and_then(|origin| origin.recipient.parse::<Address>().ok())?;
            let entry = self.by_hash(made, now)?;
            let (target, scope) = (entry.target.clone(), entry.scope.clone());
            changes.push(Change::Remove { target, scope });
            changes.push(Change::Add(Entry { target: Target::Address(address.clone()), ..entry }));
            Some(address)
        });
        let named = named.collect();
        if !changes.is_empty()
            && let Err(error) = self.list.apply_from(suppression::Origin::Naming, &changes, now)
        {
            tracing::warn!(%error, "suppressed recipients are known by their hashes only");
        }
        named
    }

    /// What stands where this was made, if it is an entry by hash: what stood before may say more.
    fn by_hash(&self, made: &Entry, now: UnixTime) -> Option<Entry> {
        let Entry { target: target @ Target::Hash(_), scope, .. } = made else { return None };
        let stands = self.list.entry(target, scope, now).ok().flatten();
        stands.filter(|entry| matches!(entry.target, Target::Hash(_)))
    }
}

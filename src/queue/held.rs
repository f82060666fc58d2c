//! Entries that are held: not tried, not expired, kept in the spool until an operator has seen to them.
//!
//! Kept in memory only: after a restart each is found again when it is first tried, or by recovery. `sweep` frees them.

use parking_lot::Mutex;

use super::entry::Entry;

/// Why an entry is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// The message cannot be read back as it was accepted; a copy is in quarantine.
    Damaged,
    /// An attempt before the last start has no outcome, and its tenant's policy is to hold such recipients.
    InDoubt,
}

impl Hold {
    /// Every reason.
    pub const ALL: [Self; 2] = [Self::Damaged, Self::InDoubt];

    /// As metrics and tables show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::InDoubt => "in-doubt",
        }
    }
}

/// Every held entry.
#[derive(Debug, Default)]
pub(super) struct Held {
    entries: Mutex<Vec<(Entry, Hold)>>,
}

impl Held {
    /// Holds entries.
    pub fn add(&self, entries: impl IntoIterator<Item = Entry>, hold: Hold) {
        self.entries.lock().extend(entries.into_iter().map(|entry| (entry, hold)));
    }

    /// How many there are for this reason.
    pub fn count(&self, hold: Hold) -> usize {
        self.entries.lock().iter().filter(|(_, reason)| *reason == hold).count()
    }

    /// Takes entries for which `is_taken` says so.
    pub fn extract(&self, mut is_taken: impl FnMut(&Entry, Hold) -> bool) -> Vec<(Entry, Hold)> {
        self.entries.lock().extract_if(.., |(entry, hold)| is_taken(entry, *hold)).collect()
    }

    /// Calls `each` with every entry, under a lock, until it returns false.
    pub fn for_each(&self, mut each: impl FnMut(&Entry, Hold) -> bool) {
        let _ = self.entries.lock().iter().all(|(entry, hold)| each(entry, *hold));
    }
}

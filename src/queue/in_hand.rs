//! What is in no line of the queue at the moment: recipients that are being tried, or whose DSN is being stored.
//!
//! For people only: nothing is decided by it. A table is kept under a lock that whoever changes it holds anyway, and its
//! places are used again, so that an assignment costs one write when it is drawn and one when it ends.

use std::sync::Arc;
use std::time::Instant;

use crate::message::MessageId;

/// Recipients of one message: indexes into its envelope. Nearly always there is one.
#[derive(Clone, Debug)]
pub(super) enum Recipients {
    One([u32; 1]),
    Many(Arc<[u32]>),
}

impl Recipients {
    /// As they come.
    pub fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(one) => one,
            Self::Many(many) => many,
        }
    }
}

impl FromIterator<u32> for Recipients {
    fn from_iter<I: IntoIterator<Item = u32>>(indexes: I) -> Self {
        let mut indexes = indexes.into_iter();
        match (indexes.next(), indexes.next()) {
            (Some(one), None) => Self::One([one]),
            (first, second) => Self::Many(first.into_iter().chain(second).chain(indexes).collect()),
        }
    }
}

/// Recipients in somebody's hand.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub id: MessageId,
    pub recipients: Recipients,
    /// When they were taken.
    pub since: Instant,
}

/// A table of them.
#[derive(Debug, Default)]
pub(super) struct InHand {
    places: Vec<Option<Taken>>,
    free: Vec<u32>,
}

impl InHand {
    /// Notes what was taken, and says under which place.
    pub fn insert(&mut self, taken: Taken) -> u32 {
        if let Some(place) = self.free.pop() {
            if let Some(empty) = self.places.get_mut(super::site::index(place)) {
                *empty = Some(taken);
            }
            return place;
        }
        self.places.push(Some(taken));
        u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
    }

    /// It was put back, or has come to an end.
    pub fn remove(&mut self, place: u32) {
        if self.places.get_mut(super::site::index(place)).and_then(Option::take).is_some() {
            self.free.push(place);
        }
    }

    /// The same if `place` still is of message `id`; whether it was.
    pub fn remove_of(&mut self, place: u32, id: MessageId) -> bool {
        let kept = self.places.get(super::site::index(place)).and_then(Option::as_ref);
        let is_kept = kept.is_some_and(|taken| taken.id == id);
        if is_kept {
            self.remove(place);
        }
        is_kept
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Taken> {
        self.places.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(id: u64, recipients: &[u32]) -> Taken {
        Taken { id: MessageId(id), recipients: recipients.iter().copied().collect(), since: Instant::now() }
    }

    #[test]
    fn places_are_used_again_and_ended_ones_are_not_shown() {
        let mut table = InHand::default();
        let first = table.insert(taken(1, &[0]));
        let second = table.insert(taken(2, &[3, 4]));

        table.remove(first);
        table.remove(first);
        let third = table.insert(taken(3, &[]));

        assert_eq!((third, table.places.len()), (first, 2));
        let shown: Vec<_> = table.iter().map(|taken| (taken.id.0, taken.recipients.as_slice().to_vec())).collect();
        assert_eq!(shown, [(3, vec![]), (2, vec![3, 4])]);
        table.remove(second);
        assert_eq!(table.iter().count(), 1);
    }
}

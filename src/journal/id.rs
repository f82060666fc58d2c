//! Identity of an event, and the cursor of whoever reads the journal.

use std::fmt;
use std::str::FromStr;

use crate::message::MessageId;

/// Identifies an event for ever within one journal: 20 bits of start count, 44 bits of counter, so later ones are
/// greater, across restarts too. It stands in the line and is the same each time the line is read.
///
/// Written like a [`MessageId`], in 13 characters that sort as the numbers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub u64);

impl EventId {
    /// The `count`-th event of the `start`-th start.
    pub fn new(start: u32, count: u64) -> Self {
        Self(MessageId::new(start, count).0)
    }

    /// The start of the daemon that gave it.
    pub fn start(self) -> u32 {
        MessageId(self.0).start()
    }

    /// Appends its text.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        MessageId(self.0).write(out);
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        MessageId(self.0).fmt(f)
    }
}

/// Not the id of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of an event: 13 characters of 0-9 and a-z without i, l, o, u")]
pub struct EventIdError;

impl FromStr for EventId {
    type Err = EventIdError;

    fn from_str(text: &str) -> Result<Self, EventIdError> {
        text.parse().map(|id: MessageId| Self(id.0)).map_err(|_| EventIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_later_start_are_greater_and_their_texts_sort_alike() {
        let (early, late) = (EventId::new(1, 1 << 40), EventId::new(2, 0));
        let mut text = Vec::new();
        late.write(&mut text);

        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(text, late.to_string().as_bytes());
        assert_eq!(late.to_string().parse(), Ok(late));
        assert_eq!("".parse::<EventId>(), Err(EventIdError));
    }
}

//! What the index holds of an entry, in 8 octets.
//!
//! ```text
//! 61..64  reason; 0: removed
//! 60      by domain
//! 58..60  scope
//! 32..58  the minute since 1970 in which it is over; all bits: never
//! 20..32  the segment's number, of which these bits suffice: fewer than 4,096 are there at a time
//!  0..20  where in the segment, in units of 8 octets
//! ```

use crate::clock::UnixTime;
use crate::log::Position;

use super::entry::{Reach, Reason};

/// Octets of a segment at most: what 20 bits reach.
pub const MOST_SEGMENT: u64 = 8 << 20;
/// Numbers of segments that can be told apart.
pub const SLOTS: u32 = 1 << 12;

const NEVER: u32 = (1 << 26) - 1;

/// Of an entry, or of its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brief(u64);

/// When a time is over, in the minutes that are kept: rounded up.
fn minute(until: Option<UnixTime>) -> u32 {
    until.map_or(NEVER, |until| until.0.div_ceil(60).min(NEVER - 1))
}

/// A time as it is kept: the full minute that begins then or later.
pub fn to_the_minute(until: UnixTime) -> UnixTime {
    UnixTime(minute(Some(until)).saturating_mul(60))
}

impl Brief {
    /// Of an entry that is not in the log yet; without a reason, of its removal.
    pub fn new(reason: Option<Reason>, reach: Reach, until: Option<UnixTime>) -> Self {
        let reason = reason.map_or(0, Reason::code);
        let bits = u64::from(reason) << 61 | u64::from(reach.code()) << 58 | u64::from(minute(until)) << 32;
        Self(bits)
    }

    /// The same at a place in the log.
    pub fn at(self, position: Position) -> Self {
        let slot = u64::from(position.segment % SLOTS);
        Self(self.0 & (u64::MAX << 32) | slot << 20 | (position.offset / 8) & 0xf_ffff)
    }

    /// The number of the segment, by its lowest bits.
    pub fn slot(self) -> u32 {
        u32::try_from(self.0 >> 20 & u64::from(SLOTS - 1)).unwrap_or_default()
    }

    /// Where in the segment.
    pub fn offset(self) -> u64 {
        (self.0 & 0xf_ffff) * 8
    }

    /// Whether this is what stands at a place.
    pub fn is_at(self, position: Position) -> bool {
        self.slot() == position.segment % SLOTS && self.offset() == position.offset
    }

    /// Why; `None`: it was removed.
    pub fn reason(self) -> Option<Reason> {
        Reason::of_code(u8::try_from(self.0 >> 61).unwrap_or_default())
    }

    /// What it is about.
    pub fn reach(self) -> Reach {
        Reach::of_code(u8::try_from(self.0 >> 58 & 7).unwrap_or_default())
    }

    /// When it is over.
    pub fn until(self) -> Option<UnixTime> {
        let minute = self.minute();
        (minute != NEVER).then(|| UnixTime(minute.saturating_mul(60)))
    }

    fn minute(self) -> u32 {
        u32::try_from(self.0 >> 32 & u64::from(NEVER)).unwrap_or_default()
    }

    /// Why, if it stands at this time.
    pub fn stands(self, now: UnixTime) -> Option<Reason> {
        let minute = self.minute();
        self.reason().filter(|_| minute == NEVER || now.0 / 60 < minute)
    }

    /// Whether this one stands longer than `other`, or as long and for a weightier reason: then it takes its place.
    pub fn outweighs(self, other: Self) -> bool {
        let weight = |brief: Self| (brief.minute(), brief.reason().map(Reason::weight));
        weight(self) > weight(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_again() {
        for reason in Reason::ALL.into_iter().map(Some).chain([None]) {
            for reach in Reach::ALL {
                for until in [None, Some(UnixTime(60)), Some(UnixTime(1_800_000_060)), Some(UnixTime(4_000_000_020))] {
                    let position = Position { segment: 5 * SLOTS + 4_095, offset: MOST_SEGMENT - 8 };
                    let brief = Brief::new(reason, reach, until).at(Position::default()).at(position);

                    assert_eq!((brief.reason(), brief.reach(), brief.until()), (reason, reach, until));
                    assert!(brief.is_at(position) && !brief.is_at(Position { segment: 5, ..position }));
                }
            }
        }
    }

    #[test]
    fn a_time_is_over_with_the_minute_that_it_is_rounded_up_to() {
        let brief = Brief::new(Some(Reason::Complaint), Reach::ALL[0], Some(UnixTime(1_001)));

        assert_eq!(brief.until(), Some(to_the_minute(UnixTime(1_001))));
        assert_eq!(brief.stands(UnixTime(1_019)), Some(Reason::Complaint));
        assert_eq!(brief.stands(UnixTime(1_020)), None);
        // Later than can be kept is not for ever.
        assert!(Brief::new(None, Reach::ALL[0], Some(UnixTime(u32::MAX))).until().is_some());
    }
}

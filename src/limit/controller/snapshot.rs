//! What a controller has learnt, as octets that survive a restart: at most 100 of them, with a checksum.
//!
//! Little-endian, in this order: version (1), when it was taken (8, seconds since 1970), rate (8, messages a second, as a
//! float), whether that is a limit (1), gap (4, seconds), connections (4), their limit (4), their gap (4, seconds), messages per connection (4), end of
//! the breaker (8, seconds since 1970), its trips (1), messages an hour (4), CRC32C of all before it (4).

use std::time::Duration;

use super::change::What;

/// Of the layout above.
const VERSION: u8 = 1;
/// Older than this, a receiver may be another one.
pub const TOO_OLD: Duration = Duration::from_secs(14 * 86_400);
/// Trust falls to a half over so long.
const HALF_TRUST: Duration = Duration::from_secs(7 * 86_400);
/// Octets of the layout above.
pub const SIZE: usize = 55;

/// What outlives a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Learnt {
    /// When it was taken, as the time since 1970.
    pub at: Duration,
    /// Messages a second: the measured limit, or what was reached without one; 0: nothing is known.
    pub rate: f64,
    /// It is a limit.
    pub is_limit: bool,
    /// Seconds between probes of it.
    pub gap: u32,
    /// Connections in use at most.
    pub connections: u32,
    /// Connections that the receiver was found to allow; 0: not known.
    pub connection_limit: u32,
    /// Seconds between probes of it.
    pub connection_gap: u32,
    /// Messages over one connection; 0: no limit known.
    pub messages_per_connection: u32,
    /// When the breaker's rest ends, as the time since 1970; 0: it is closed.
    pub rest_until: u64,
    /// How often it tripped in the last day.
    pub trips: u8,
    /// Messages a clock hour; 0: no limit known.
    pub hourly_cap: u32,
}

/// Why octets are no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Another length than a snapshot has.
    #[error("a snapshot has {SIZE} octets, this has {0}")]
    Length(usize),
    /// The checksum does not fit.
    #[error("the checksum does not fit")]
    Checksum,
    /// Written by another version.
    #[error("layout {0} is not known")]
    Version(u8),
    /// A number that no controller writes.
    #[error("a value is out of its range")]
    Range,
}

impl Learnt {
    /// Forgets one limit.
    pub fn forget(&mut self, what: What) {
        match what {
            What::Rate => (self.rate, self.is_limit, self.gap) = (0.0, false, 0),
            What::Connections => (self.connections, self.connection_limit, self.connection_gap) = (0, 0, 0),
            What::MessagesPerConnection => self.messages_per_connection = 0,
            What::Breaker => (self.rest_until, self.trips) = (0, 0),
            What::Cap => self.hourly_cap = 0,
        }
    }

    /// As octets.
    pub fn encode(&self) -> [u8; SIZE] {
        let mut out = [0; SIZE];
        let fields: [&[u8]; 12] = [
            &[VERSION],
            &self.at.as_secs().to_le_bytes(),
            &self.rate.to_le_bytes(),
            &[u8::from(self.is_limit)],
            &self.gap.to_le_bytes(),
            &self.connections.to_le_bytes(),
            &self.connection_limit.to_le_bytes(),
            &self.connection_gap.to_le_bytes(),
            &self.messages_per_connection.to_le_bytes(),
            &self.rest_until.to_le_bytes(),
            &[self.trips],
            &self.hourly_cap.to_le_bytes(),
        ];
        for (to, from) in out.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        let (body, sum) = out.split_at_mut(SIZE - 4);
        sum.copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
        out
    }

    /// From octets. An error means: start cold.
    pub fn decode(octets: &[u8]) -> Result<Self, SnapshotError> {
        if octets.len() != SIZE {
            return Err(SnapshotError::Length(octets.len()));
        }
        let (body, sum) = octets.split_at(SIZE - 4);
        if crc32c::crc32c(body).to_le_bytes() != sum {
            return Err(SnapshotError::Checksum);
        }
        let mut rest = body;
        let [version] = take(&mut rest);
        if version != VERSION {
            return Err(SnapshotError::Version(version));
        }
        let learnt = Self {
            at: Duration::from_secs(u64::from_le_bytes(take(&mut rest))),
            rate: f64::from_le_bytes(take(&mut rest)),
            is_limit: take::<1>(&mut rest) != [0],
            gap: u32::from_le_bytes(take(&mut rest)),
            connections: u32::from_le_bytes(take(&mut rest)),
            connection_limit: u32::from_le_bytes(take(&mut rest)),
            connection_gap: u32::from_le_bytes(take(&mut rest)),
            messages_per_connection: u32::from_le_bytes(take(&mut rest)),
            rest_until: u64::from_le_bytes(take(&mut rest)),
            trips: u8::from_le_bytes(take(&mut rest)),
            hourly_cap: u32::from_le_bytes(take(&mut rest)),
        };
        // Without a limit where that is how learning began: a relay.
        let is_unlimited = learnt.rate == f64::INFINITY && !learnt.is_limit;
        let is_right = is_unlimited || (0.0..1e9).contains(&learnt.rate);
        if is_right { Ok(learnt) } else { Err(SnapshotError::Range) }
    }

    /// How much of the rate is still trusted at `now` since 1970; None: too old for anything.
    pub(super) fn trust(&self, now: Duration) -> Option<f64> {
        let age = now.saturating_sub(self.at);
        (age <= TOO_OLD).then(|| (1.0 - age.as_secs_f64() / HALF_TRUST.as_secs_f64()).max(0.5))
    }
}

/// The first octets, which are taken away.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let Some((first, after)) = rest.split_first_chunk() else { return [0; N] };
    *rest = after;
    *first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Learnt {
        Learnt {
            at: Duration::from_secs(1_000_000),
            rate: 9.8,
            is_limit: true,
            gap: 480,
            connections: 4,
            connection_limit: 5,
            connection_gap: 3600,
            messages_per_connection: 20,
            rest_until: 1_000_900,
            trips: 1,
            hourly_cap: 3000,
        }
    }

    #[test]
    fn what_was_learnt_survives_as_at_most_a_hundred_octets() {
        let octets = sample().encode();

        assert_eq!(Learnt::decode(&octets), Ok(sample()));
        const { assert!(SIZE <= 100) };
    }

    #[test]
    fn what_was_learnt_beside_an_unlimited_rate_survives_too() {
        let unlimited = Learnt { rate: f64::INFINITY, is_limit: false, ..sample() };
        let (limit, unknown) = (Learnt { is_limit: true, ..unlimited }, Learnt { rate: f64::NAN, ..unlimited });

        assert_eq!(Learnt::decode(&unlimited.encode()), Ok(unlimited));
        assert_eq!(Learnt::decode(&limit.encode()), Err(SnapshotError::Range));
        assert_eq!(Learnt::decode(&unknown.encode()), Err(SnapshotError::Range));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let octets = sample().encode();

        for bit in 0..SIZE * 8 {
            let mut damaged = octets;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Learnt::decode(&damaged), Err(SnapshotError::Checksum), "bit {bit}");
        }
        assert_eq!(Learnt::decode(&octets[1..]), Err(SnapshotError::Length(SIZE - 1)));
        assert_eq!(Learnt::decode(&[]), Err(SnapshotError::Length(0)));
    }

    #[test]
    fn trust_fades_and_ends() {
        let trust = |days: u64| sample().trust(sample().at + Duration::from_secs(days * 86_400));

        assert_eq!((trust(0), trust(7), trust(14), trust(15)), (Some(1.0), Some(0.5), Some(0.5), None));
    }
}

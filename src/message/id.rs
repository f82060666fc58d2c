//! Message identity.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Identifies a message for ever within one spool: 20 bits of start count, 44 bits of counter.
///
/// Needs no clock, so a clock step cannot repeat one. Written as 13 digits of Crockford's base 32 in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u64);

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl MessageId {
    /// The identity of the `count`-th message of the `start`-th start of the daemon on a spool.
    pub fn new(start: u32, count: u64) -> Self {
        Self((u64::from(start) << 44) | (count & ((1 << 44) - 1)))
    }

    /// The start of the daemon that gave it.
    pub fn start(self) -> u32 {
        u32::try_from(self.0 >> 44).unwrap_or(u32::MAX)
    }

    /// Appends its text form.
    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.digits());
    }

    fn digits(self) -> [u8; 13] {
        let mut digits = [b'0'; 13];
        let mut left = self.0;
        for place in digits.iter_mut().rev() {
            let digit = usize::try_from(left & 31).unwrap_or_default();
            *place = DIGITS.get(digit).copied().unwrap_or(b'0');
            left >>= 5;
        }
        digits
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digits().into_iter().try_for_each(|digit| fmt::Write::write_char(f, char::from(digit)))
    }
}

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Not a message id: it has 13 digits of `0-9a-z` without i, l, o and u.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message id: 13 characters of 0-9 and a-z without i, l, o, u")]
pub struct MessageIdError;

impl FromStr for MessageId {
    type Err = MessageIdError;

    fn from_str(text: &str) -> Result<Self, MessageIdError> {
        if text.len() != 13 {
            return Err(MessageIdError);
        }
        let mut value: u128 = 0;
        for byte in text.bytes() {
            let lower = byte.to_ascii_lowercase();
            let digit = DIGITS.iter().position(|&d| d == lower).ok_or(MessageIdError)?;
            value = (value << 5) | u128::try_from(digit).map_err(|_| MessageIdError)?;
        }
        u64::try_from(value).map(Self).map_err(|_| MessageIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        for value in [0, 1, u64::MAX, MessageId::new(7, 123_456_789).0] {
            let id = MessageId(value);

            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn malformed_text_is_refused() {
        for bad in ["", "0", "zzzzzzzzzzzzz", "000000000000u", "0000000000000 "] {
            assert_eq!(bad.parse::<MessageId>(), Err(MessageIdError), "{bad:?}");
        }
    }
}

//! Tokens that come back: what a reverse-path of ours, or a link in a message, says about the message and the recipient.
//!
//! A [`Token`] is 31 octets, the last eight of which are a message authentication code, written as 50 letters and digits of base 32
//! (RFC 4648) in lower case: it is the same whatever a system on the way does to the case, and with a prefix of two it fits the 64 octets
//! of a local-part (RFC 5321, 4.5.3.1.1).
//!
//! ```text
//!  0..8   message id
//!  8..18  hash of the recipient's mailbox, as the suppression list has it
//! 18..21  hash of the tenant's name
//! 21..23  day since 1970 on which the message was accepted
//! 23..31  code over all before it, and over what the token is for
//! ```
//!
//! Pure: the code is computed by whoever has the key, as a function of octets.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use data_encoding::BASE32_NOPAD;

use crate::clock::UnixTime;
use crate::message::MessageId;

/// Octets before the code.
const BODY: usize = 23;
/// All octets.
const WHOLE: usize = BODY + 8;
/// Characters of the text form: 31 octets are 248 bits, 5 to each.
pub const LENGTH: usize = 50;

/// What a token is for: one for something else is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A reverse-path to which what comes back is about one recipient (VERP).
    ReversePath,
    /// A link, or an address, by which one recipient wants no more.
    Unsubscribe,
}

impl Purpose {
    const fn octet(self) -> u8 {
        match self {
            Self::ReversePath => 1,
            Self::Unsubscribe => 2,
        }
    }
}

/// What comes back in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The message.
    pub message: MessageId,
    /// The hash of the recipient's mailbox.
    pub mailbox: [u8; 10],
    /// The hash of the tenant's name.
    pub tenant: [u8; 3],
    /// The day since 1970 on which the message was accepted.
    pub day: u16,
}

/// Why a token is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not what a token looks like.
    #[error("not a token")]
    Form,
    /// The code is not ours.
    #[error("the token is not ours")]
    Forged,
    /// It is of a day too long ago, or yet to come.
    #[error("the token's time is over")]
    Stale,
}

/// The day of a time, since 1970.
pub fn day_of(time: UnixTime) -> u16 {
    u16::try_from(time.0 / 86_400).unwrap_or(u16::MAX)
}

impl Token {
    fn body(&self) -> [u8; BODY] {
        let mut octets = [0; BODY];
        let parts = [&self.message.0.to_be_bytes()[..], &self.mailbox, &self.tenant, &self.day.to_be_bytes()];
        octets.iter_mut().zip(parts.into_iter().flatten()).for_each(|(octet, value)| *octet = *value);
        octets
    }

    /// The text form, for `purpose`. `extra` is what else the code holds together with it; `seal` computes the code.
    pub fn write(&self, purpose: Purpose, extra: &[u8], seal: &dyn Fn(&[u8]) -> u128) -> String {
        let body = self.body();
        let code = code(&body, purpose, extra, seal);
        let mut text = BASE32_NOPAD.encode(&[&body[..], &code].concat());
        text.make_ascii_lowercase();
        text
    }

    /// Reads the text form, in any case.
    pub fn read(text: &str, purpose: Purpose, extra: &[u8], seal: &dyn Fn(&[u8]) -> u128) -> Result<Self, TokenError> {
        if text.len() != LENGTH {
            return Err(TokenError::Form);
        }
        let octets = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).map_err(|_| TokenError::Form)?;
        let octets: [u8; WHOLE] = octets.try_into().map_err(|_| TokenError::Form)?;
        let (body, given) = octets.split_at(BODY);
        verify_slices_are_equal(&code(body, purpose, extra, seal), given).map_err(|_| TokenError::Forged)?;
        let mut parts = Parts(body);
        Ok(Self {
            message: MessageId(u64::from_be_bytes(parts.take())),
            mailbox: parts.take(),
            tenant: parts.take(),
            day: u16::from_be_bytes(parts.take()),
        })
    }

    /// Whether it may still be answered: not older than `days`, nor of more than a day ahead (a clock that was set back).
    pub fn check_age(&self, now: UnixTime, days: u16) -> Result<(), TokenError> {
        let today = day_of(now);
        let is_right = self.day <= today.saturating_add(1) && today <= self.day.saturating_add(days);
        is_right.then_some(()).ok_or(TokenError::Stale)
    }
}

fn code(body: &[u8], purpose: Purpose, extra: &[u8], seal: &dyn Fn(&[u8]) -> u128) -> [u8; 8] {
    let sealed = seal(&[&[purpose.octet()], body, extra].concat());
    sealed.to_be_bytes().first_chunk().copied().unwrap_or_default()
}

/// Octets that are taken off the front.
struct Parts<'a>(&'a [u8]);

impl Parts<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_first_chunk::<N>().map_or(([0; N], self.0), |(taken, rest)| (*taken, rest));
        self.0 = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Good enough to tell changed octets, and to keep the tests apart from any key.
    fn seal(octets: &[u8]) -> u128 {
        octets.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, octet| {
            (hash ^ u128::from(*octet)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        })
    }

    fn token() -> Token {
        Token { message: MessageId::new(5, 77), mailbox: *b"0123456789", tenant: [1, 2, 255], day: 20_783 }
    }

    #[test]
    fn it_fits_a_local_part_with_its_prefix() {
        let text = token().write(Purpose::ReversePath, b"", &seal);

        assert_eq!(text.len(), LENGTH);
        assert!(text.bytes().all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit()), "{text}");
        assert!(format!("b+{text}").len() <= 64);
    }

    #[test]
    fn a_changed_character_another_purpose_or_another_extra_makes_it_forged() {
        let text = token().write(Purpose::ReversePath, b"x", &seal);
        let read = |text: &str, purpose, extra: &[u8]| Token::read(text, purpose, extra, &seal);

        assert_eq!(read(&text, Purpose::ReversePath, b"x"), Ok(token()));
        assert_eq!(read(&text, Purpose::Unsubscribe, b"x"), Err(TokenError::Forged));
        assert_eq!(read(&text, Purpose::ReversePath, b""), Err(TokenError::Forged));
        for at in 0..LENGTH {
            let other = if &text[at..=at] == "a" { "b" } else { "a" };
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(read(&changed, Purpose::ReversePath, b"x").is_err(), "{at}");
        }
        for wrong in ["", "a", &text[1..], &format!("{text}a"), &"8".repeat(LENGTH), &"ü".repeat(LENGTH / 2)] {
            assert_eq!(read(wrong, Purpose::ReversePath, b"x"), Err(TokenError::Form), "{wrong}");
        }
    }

    #[test]
    fn it_is_good_for_so_many_days_and_not_before_its_own() {
        let at = |day: u32| UnixTime(day * 86_400 + 5);
        let check = |day| token().check_age(at(day), 30);

        assert_eq!((check(20_783), check(20_813), check(20_782)), (Ok(()), Ok(()), Ok(())));
        assert_eq!((check(20_814), check(20_781)), (Err(TokenError::Stale), Err(TokenError::Stale)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_in_any_case(
            message in any::<u64>(),
            mailbox in any::<[u8; 10]>(),
            tenant in any::<[u8; 3]>(),
            day in any::<u16>(),
            upper in any::<u64>(),
        ) {
            let token = Token { message: MessageId(message), mailbox, tenant, day };
            let text = token.write(Purpose::Unsubscribe, b"", &seal);
            let mixed: String = text
                .char_indices()
                .map(|(at, c)| if upper >> at & 1 == 1 { c.to_ascii_uppercase() } else { c })
                .collect();

            prop_assert_eq!(Token::read(&mixed, Purpose::Unsubscribe, b"", &seal), Ok(token));
        }

        #[test]
        fn nothing_read_panics(text in "\\PC{0,60}") {
            let _ = Token::read(&text, Purpose::ReversePath, b"", &seal);
        }
    }
}

//! Dates as header fields write them (RFC 5322, 3.3), always in UTC.
//!
//! No time zone is looked up and no clock is read: a [`UnixTime`] goes in, text comes out.

use std::fmt;

use crate::clock::UnixTime;
use crate::text::{four, two};

const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// Displays as `Sun, 22 Nov 2026 03:38:16 +0000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailDate(pub UnixTime);

impl MailDate {
    /// Its text, which is always ASCII.
    pub fn octets(self) -> [u8; 31] {
        let (days, second) = (self.0.0 / 86_400, self.0.0 % 86_400);
        let (year, month, day) = civil(days);
        let name = |names: &[&'static [u8; 3]], index: u32| {
            usize::try_from(index).ok().and_then(|index| names.get(index)).copied().copied().unwrap_or_default()
        };
        let ([a, b, c], [d, e]) = (name(&DAYS, days % 7), two(day));
        let ([f, g, h], [i, j, k, l]) = (name(&MONTHS, month - 1), four(year));
        let ([m, n], [o, p], [q, r]) = (two(second / 3_600), two(second / 60 % 60), two(second % 60));
        [
            a, b, c, b',', b' ', d, e, b' ', f, g, h, b' ', i, j, k, l, b' ', m, n, b':', o, p, b':', q, r, b' ', b'+',
            b'0', b'0', b'0', b'0',
        ]
    }
}

impl fmt::Display for MailDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.octets()))
    }
}

/// Year, month and day of a count of days since 1970-01-01, by H. Hinnant's `civil_from_days`, for days after 1970 only.
pub fn civil(days: u32) -> (u32, u32, u32) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u32::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (time, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (1_795_318_696, "Sun, 22 Nov 2026 03:38:16 +0000"),
            (1_798_761_599, "Thu, 31 Dec 2026 23:59:59 +0000"),
            (u32::MAX, "Sun, 07 Feb 2106 06:28:15 +0000"),
        ] {
            assert_eq!(MailDate(UnixTime(time)).to_string(), text);
        }
    }
}

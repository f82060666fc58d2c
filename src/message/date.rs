//! Dates as header fields write them (RFC 5322, 3.3), always in UTC.
//!
//! No time zone is looked up and no clock is read: a [`UnixTime`] goes in, text comes out.

use std::fmt;

use crate::clock::UnixTime;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Displays as `Sun, 22 Nov 2026 03:38:16 +0000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailDate(pub UnixTime);

impl fmt::Display for MailDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0.0 / 86_400, self.0.0 % 86_400);
        let (year, month, day) = civil(days);
        let name = |names: &[&'static str], index: u32| -> &'static str {
            usize::try_from(index).ok().and_then(|index| names.get(index)).copied().unwrap_or_default()
        };
        let (weekday, month) = (name(&DAYS, days % 7), name(&MONTHS, month - 1));
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} +0000")
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

//! Times as the journal writes them: RFC 3339, in UTC.

use std::time::Duration;

use crate::clock::UnixTime;
use crate::message::date::civil;
use crate::text::{four, two};

const DAY: u32 = 86_400;

/// Appends `2026-11-25T19:04:45Z`.
pub(super) fn write_seconds(out: &mut Vec<u8>, time: UnixTime) {
    out.extend_from_slice(&to_the_second(time));
    out.push(b'Z');
}

/// `2026-11-25T19:04:45Z`; the time is since 1970-01-01 UTC.
pub(super) fn seconds(time: Duration) -> String {
    let mut text = Vec::new();
    write_seconds(&mut text, UnixTime(u32::try_from(time.as_secs()).unwrap_or(u32::MAX)));
    String::from_utf8_lossy(&text).into_owned()
}

/// Appends `2026-11-25T19:04:45.123Z`; the time is since 1970-01-01 UTC.
pub fn write_millis(out: &mut Vec<u8>, time: Duration) {
    out.extend_from_slice(&to_the_second(UnixTime(u32::try_from(time.as_secs()).unwrap_or(u32::MAX))));
    let [_, a, b, c] = four(time.subsec_millis());
    out.extend_from_slice(&[b'.', a, b, c, b'Z']);
}

fn to_the_second(time: UnixTime) -> [u8; 19] {
    let (days, second) = (time.0 / DAY, time.0 % DAY);
    let (year, month, day) = civil(days);
    let ([a, b, c, d], [e, f], [g, h]) = (four(year), two(month), two(day));
    let ([i, j], [k, l], [m, n]) = (two(second / 3_600), two(second / 60 % 60), two(second % 60));
    [a, b, c, d, b'-', e, f, b'-', g, h, b'T', i, j, b':', k, l, b':', m, n]
}

/// Reads what the functions above write, and the same without parts of the time or with an offset: `2026-11-25`,
/// `2026-11-25T19:04`, `2026-11-25 19:04:45+02:00`. Without an offset it is UTC.
pub fn parse(text: &str) -> Option<Duration> {
    let (date, time) = text.split_at_checked(10)?;
    let [year, month, day] = numbers(date, '-')?.try_into().ok()?;
    if !(1970..=2105).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // The first day of the month is at most 31 days after any day of it that `civil` gives.
    let (estimate, month, day) = ((year - 1970) * 365, u32::try_from(month).ok()?, u32::try_from(day).ok()?);
    let from = u32::try_from(estimate).ok()?;
    let days = (from..from + 400).find(|days| civil(*days) == (u32::try_from(year).unwrap_or_default(), month, day))?;
    let (clock, offset) = split_offset(time)?;
    let of_day = match clock.strip_prefix(['T', 't', ' ']) {
        None if clock.is_empty() => Duration::ZERO,
        None => return None,
        Some(clock) => time_of_day(clock)?,
    };
    let local = Duration::from_secs(u64::from(days) * u64::from(DAY)) + of_day;
    let (is_ahead, offset) = offset;
    if is_ahead { local.checked_sub(offset) } else { local.checked_add(offset) }
}

/// What precedes the offset; whether the offset is ahead of UTC; how much.
fn split_offset(text: &str) -> Option<(&str, (bool, Duration))> {
    if let Some(clock) = text.strip_suffix(['Z', 'z']) {
        return Some((clock, (true, Duration::ZERO)));
    }
    let Some(at) = text.rfind(['+', '-']) else { return Some((text, (true, Duration::ZERO))) };
    let (clock, offset) = text.split_at_checked(at)?;
    let [hours, minutes] = numbers(offset.get(1..)?, ':')?.try_into().ok()?;
    let is_offset = hours <= 14 && minutes <= 59;
    is_offset.then(|| (clock, (offset.starts_with('+'), Duration::from_secs(hours * 3_600 + minutes * 60))))
}

fn time_of_day(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let parts = numbers(whole, ':')?;
    let (hour, minute) = (*parts.first()?, *parts.get(1)?);
    let second = parts.get(2).copied().unwrap_or_default();
    if parts.len() > 3 || hour > 23 || minute > 59 || second > 60 || fraction.len() > 9 {
        return None;
    }
    let nanos = format!("{fraction:0<9}").parse().ok()?;
    Some(Duration::new(hour * 3_600 + minute * 60 + second, nanos))
}

fn numbers(text: &str, separator: char) -> Option<Vec<u64>> {
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    text.split(separator).map(|part| Some(part).filter(is_number)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(time: Duration) -> String {
        let mut out = Vec::new();
        write_millis(&mut out, time);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_those_of_the_calendar_and_read_back() {
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_001, "2000-02-29T00:00:00.001Z"),
            (1_795_633_485_123, "2026-11-25T19:04:45.123Z"),
            (4_102_444_799_999, "2099-12-31T23:59:59.999Z"),
        ] {
            let time = Duration::from_millis(millis);
            let mut seconds = Vec::new();
            write_seconds(&mut seconds, UnixTime(u32::try_from(time.as_secs()).unwrap()));

            assert_eq!(text(time), expected);
            assert_eq!(parse(expected), Some(time));
            assert_eq!(String::from_utf8(seconds).unwrap(), format!("{}Z", &expected[..19]));
        }
    }

    #[test]
    fn parts_may_be_left_out_and_offsets_count() {
        let midnight = parse("2026-11-25").unwrap();

        assert_eq!(text(midnight), "2026-11-25T00:00:00.000Z");
        assert_eq!(parse("2026-11-25T19:04"), Some(midnight + Duration::from_secs(19 * 3_600 + 240)));
        assert_eq!(parse("2026-11-25 02:00:00+02:00"), Some(midnight));
        assert_eq!(parse("2026-11-24T22:30-01:30"), Some(midnight));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "yesterday",
            "2026-13-01",
            "2026-02-30",
            "2026-11-25T",
            "2026-11-25T25:00",
            "2026-11-25x",
            "é026-11-25",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}

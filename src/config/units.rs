//! Durations, sizes, rates, networks, days and shares as the configuration writes them: `"1h 30m"`, `"64MiB"`, `"300/min"`,
//! `"10.0.0.0/8"`, `"2026-12-01"`, `"3%"`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration written with units: ms, s, m, h, d. Several parts may follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

/// A size in octets written with a unit: B, KiB, MiB, GiB, TiB (powers of 1024), or KB, MB, GB, TB (powers of 1000).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// So many per period: `"50/s"`, `"300/min"`, `"10000/h"`, `"500000/d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many; at least 1.
    pub count: u32,
    /// Per this long.
    pub per: Duration,
}

/// Rates that hold at the same time: one, or a list of them, at most one a period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates(pub Vec<Rate>);

/// So many octets a second: `"10MB/s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRate(pub u32);

/// A network in CIDR form: `10.0.0.0/8`, `::1/128`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A day, as `"2026-12-01"`; it begins and ends at midnight UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub u32);

/// A part of a whole, in hundredths of a percent: `"3%"`, `"0.5%"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(pub u32);

/// A text that is not a duration, a size, a rate, a network, a day or a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a duration.
    #[error("not a duration; write for example \"500ms\", \"30s\", \"5m\", \"1h 30m\" or \"4d\"")]
    Span,
    /// Not a size.
    #[error("not a size; write for example \"64KiB\", \"50MB\" or \"1GiB\"")]
    ByteSize,
    /// Not a rate.
    #[error("not a rate; write for example \"50/s\", \"300/min\", \"10000/h\" or \"500000/d\"")]
    Rate,
    /// Two rates over one period.
    #[error("two rates over the same period; write one a period, for example [\"50/s\", \"500000/d\"]")]
    Rates,
    /// Not a rate of octets.
    #[error("not a rate of octets; write for example \"500KB/s\" or \"10MiB/s\", at most 1GB/s")]
    ByteRate,
    /// Not a network.
    #[error("not a network; write for example \"127.0.0.0/8\", \"10.1.2.3\" or \"2001:db8::/32\"")]
    Network,
    /// Not a day.
    #[error("not a day; write for example \"2026-12-01\"")]
    Day,
    /// Not a share.
    #[error("not a share; write for example \"3%\" or \"0.5%\"")]
    Share,
}

const SPAN_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const RATE_UNITS: [(&str, u64); 4] = [("s", 1), ("min", 60), ("h", 3_600), ("d", 86_400)];
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Splits `30s rest` into number, unit and rest.
fn part(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, rest) = text.split_at_checked(digits)?;
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at_checked(end)?;
    Some((number.parse().ok()?, unit, rest.trim_start()))
}

fn scaled(number: u64, unit: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let mut rest = text.trim();
        let mut total: u64 = 0;
        if rest.is_empty() {
            return Err(UnitError::Span);
        }
        while !rest.is_empty() {
            let (number, unit, after) = part(rest).ok_or(UnitError::Span)?;
            let millis = scaled(number, unit, &SPAN_UNITS).ok_or(UnitError::Span)?;
            total = total.checked_add(millis).ok_or(UnitError::Span)?;
            rest = after;
        }
        Ok(Self(Duration::from_millis(total)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if left == 0 {
            return f.write_str("0s");
        }
        let mut is_first = true;
        for (unit, factor) in SPAN_UNITS {
            if left >= factor {
                write!(f, "{}{}{unit}", if is_first { "" } else { " " }, left / factor)?;
                left %= factor;
                is_first = false;
            }
        }
        Ok(())
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit, rest) = part(text.trim()).ok_or(UnitError::ByteSize)?;
        if !rest.is_empty() {
            return Err(UnitError::ByteSize);
        }
        scaled(number, unit, &SIZE_UNITS).map(Self).ok_or(UnitError::ByteSize)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fitting = SIZE_UNITS.iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        let (unit, factor) = fitting.copied().unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (count, unit) = text.split_once('/').ok_or(UnitError::Rate)?;
        let count = count.trim().parse().ok().filter(|count| *count > 0).ok_or(UnitError::Rate)?;
        let seconds = scaled(1, unit.trim(), &RATE_UNITS).ok_or(UnitError::Rate)?;
        Ok(Self { count, per: Duration::from_secs(seconds) })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = RATE_UNITS.iter().find(|(_, seconds)| *seconds == self.per.as_secs());
        write!(f, "{}/{}", self.count, unit.map_or("s", |(unit, _)| unit))
    }
}

impl Rates {
    /// Rates of different periods, none given twice.
    pub fn new(rates: Vec<Rate>) -> Result<Self, UnitError> {
        let is_twice = |(at, rate): (usize, &Rate)| rates.iter().take(at).any(|other| other.per == rate.per);
        if rates.iter().enumerate().any(is_twice) { Err(UnitError::Rates) } else { Ok(Self(rates)) }
    }
}

impl FromStr for Rates {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        Ok(Self(vec![text.parse()?]))
    }
}

impl<'de> Deserialize<'de> for Rates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Rates;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate such as \"50/s\", or a list of them")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Rates, E> {
                text.parse().map_err(|error| E::custom(format_args!("{text:?}: {error}")))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Rates, A::Error> {
                let mut rates = Vec::new();
                while let Some(rate) = items.next_element()? {
                    rates.push(rate);
                }
                Rates::new(rates).map_err(serde::de::Error::custom)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Serialize for Rates {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            all => all.serialize(serializer),
        }
    }
}

impl FromStr for ByteRate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let size: ByteSize = text
            .strip_suffix("/s")
            .and_then(|size| size.trim_end().parse().ok())
            .filter(|size: &ByteSize| (1..=1_000_000_000).contains(&size.0))
            .ok_or(UnitError::ByteRate)?;
        u32::try_from(size.0).map(Self).map_err(|_| UnitError::ByteRate)
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", ByteSize(self.0.into()))
    }
}

impl Day {
    /// The length of every day.
    pub const LENGTH: Duration = Duration::from_secs(86_400);

    /// The one in which a time lies; `wall` is since 1970-01-01 UTC.
    pub fn at(wall: Duration) -> Self {
        Self(u32::try_from(wall.as_secs() / Self::LENGTH.as_secs()).unwrap_or(u32::MAX))
    }

    /// When it begins, since 1970-01-01 UTC.
    pub fn begin(self) -> Duration {
        Self::LENGTH.saturating_mul(self.0)
    }

    /// The one so many days later.
    pub fn plus(self, days: u32) -> Self {
        Self(self.0.saturating_add(days))
    }

    /// Year, month and day of the month in the Gregorian calendar. Counted in eras of 400 years from the first of March, so
    /// that the odd day is the last of a year.
    fn civil(self) -> (u32, u32, u32) {
        let days = u64::from(self.0) + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = year + era * 400 + u64::from(month <= 2);
        let whole = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        (whole(year), whole(month), whole(day))
    }
}

impl FromStr for Day {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let is_plain =
            |(at, octet): (usize, u8)| if at == 4 || at == 7 { octet == b'-' } else { octet.is_ascii_digit() };
        if text.len() != 10 || !text.bytes().enumerate().all(is_plain) {
            return Err(UnitError::Day);
        }
        let mut parts = text.split('-').map(|part| part.parse::<u32>().unwrap_or_default());
        let (year, month, day) =
            (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if !(1970..=2105).contains(&year) {
            return Err(UnitError::Day);
        }
        // No year begins earlier; a day of the calendar is within it.
        let from = (year - 1970) * 365;
        (from..from + 401).map(Self).find(|found| found.civil() == (year, month, day)).ok_or(UnitError::Day)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

impl Share {
    /// All of it.
    pub const WHOLE: Self = Self(10_000);

    /// Between 0 and 1.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / f64::from(Self::WHOLE.0)
    }
}

impl FromStr for Share {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let number = text.trim().strip_suffix('%').ok_or(UnitError::Share)?.trim_end();
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
        if !is_number(whole) || !is_number(part) || part.len() > 2 {
            return Err(UnitError::Share);
        }
        let (whole, part): (u32, u32) = (
            whole.parse().map_err(|_| UnitError::Share)?,
            format!("{part:0<2}").parse().map_err(|_| UnitError::Share)?,
        );
        let share = whole.checked_mul(100).and_then(|whole| whole.checked_add(part)).ok_or(UnitError::Share)?;
        Ok(Self(share))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, part) if part % 10 == 0 => write!(f, "{whole}.{}%", part / 10),
            (whole, part) => write!(f, "{whole}.{part:02}%"),
        }
    }
}

impl Network {
    /// The loopback networks, 127.0.0.0/8 and ::1.
    pub fn loopback() -> [Self; 2] {
        let v4 = Self { address: IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 0)), prefix: 8 };
        [v4, Self { address: IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), prefix: 128 }]
    }

    /// Whether `address` lies in it. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let prefix = u32::from(self.prefix);
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                (u32::from(ours) ^ u32::from(theirs)).checked_shr(32 - prefix).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                (u128::from(ours) ^ u128::from(theirs)).checked_shr(128 - prefix).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| UnitError::Network)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(most), str::parse).map_err(|_| UnitError::Network)?;
        if prefix > most {
            return Err(UnitError::Network);
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Serde by `FromStr` and `Display`.
macro_rules! serde_by_text {
    ($name:ident) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(|error| serde::de::Error::custom(format_args!("{text:?}: {error}")))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

serde_by_text!(Span);
serde_by_text!(ByteSize);
serde_by_text!(Rate);
serde_by_text!(ByteRate);
serde_by_text!(Network);
serde_by_text!(Day);
serde_by_text!(Share);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_add_their_parts_and_print_back() {
        let span: Span = "1h 30m".parse().unwrap();

        assert_eq!(span.0, Duration::from_secs(5400));
        assert_eq!(span.to_string(), "1h 30m");
        assert_eq!("250ms".parse::<Span>().unwrap().to_string(), "250ms");
    }

    #[test]
    fn sizes_print_in_the_largest_exact_unit() {
        assert_eq!("64MiB".parse::<ByteSize>().unwrap(), ByteSize(64 << 20));
        assert_eq!(ByteSize(50_000_000).to_string(), "50MB");
        assert_eq!(ByteSize(0).to_string(), "0B");
    }

    #[test]
    fn rates_keep_their_period() {
        let rate: Rate = "300/min".parse().unwrap();

        assert_eq!(rate, Rate { count: 300, per: Duration::from_secs(60) });
        assert_eq!(rate.to_string(), "300/min");
        assert!("0/s".parse::<Rate>().is_err() && "5".parse::<Rate>().is_err() && "5/week".parse::<Rate>().is_err());
    }

    #[test]
    fn rates_are_one_or_a_list_with_one_a_period() {
        let read = |text: &str| toml::from_str::<std::collections::HashMap<String, Rates>>(text);
        let rates = |text: &str| read(text).unwrap().remove("a").unwrap();

        assert_eq!(rates("a = \"5/s\""), "5/s".parse().unwrap());
        assert_eq!(rates("a = [\"5/s\", \"9/d\"]").0.len(), 2);
        assert_eq!(rates("a = []"), Rates::default());
        assert!(read("a = [\"5/s\", \"6/s\"]").unwrap_err().to_string().contains("same period"));
        assert_eq!("10MB/s".parse::<ByteRate>().map(|rate| rate.to_string()), Ok("10MB/s".to_owned()));
        assert!("0B/s".parse::<ByteRate>().is_err() && "10MB".parse::<ByteRate>().is_err());
    }

    #[test]
    fn networks_contain_what_their_prefix_says() {
        let [loopback, _] = Network::loopback();

        assert!(loopback.contains("127.200.1.1".parse().unwrap()));
        assert!(loopback.contains("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!loopback.contains("128.0.0.1".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains("9.9.9.9".parse().unwrap()));
        assert!("10.0.0.0/33".parse::<Network>().is_err());
    }

    #[test]
    fn days_are_those_of_the_calendar_and_nothing_else() {
        for (text, days) in [("1970-01-01", 0), ("2000-02-29", 11_016), ("2026-12-01", 20_788), ("2100-03-01", 47_541)]
        {
            assert_eq!(text.parse(), Ok(Day(days)), "{text}");
            assert_eq!(Day(days).to_string(), text);
        }
        for bad in
            ["", "2026-02-29", "2026-13-01", "2026-1-1", "1969-12-31", "2100-02-29", "2026-12-01T00:00", "+026-12-01"]
        {
            assert!(bad.parse::<Day>().is_err(), "{bad:?}");
        }
        let noon = Duration::from_secs(11_016 * 86_400 + 43_200);
        assert_eq!((Day::at(noon), Day::at(noon).begin()), (Day(11_016), noon - Day::LENGTH / 2));
    }

    #[test]
    fn shares_are_percentages_with_two_places_at_most() {
        for (text, share) in [("3%", 300), ("0.5%", 50), ("12.34%", 1_234), ("100%", 10_000), ("0%", 0)] {
            assert_eq!(text.parse::<Share>(), Ok(Share(share)), "{text}");
            assert_eq!(Share(share).to_string(), text);
        }
        assert!((Share(300).ratio() - 0.03).abs() < 1e-9);
        for bad in ["3", "%", "-1%", "1.234%", ".5%", "3 percent", "99999999999%"] {
            assert!(bad.parse::<Share>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bare_numbers_and_overflow_are_refused() {
        for bad in ["", "5", "s", "-1s", "5 m", "99999999999999999999d", "5x"] {
            assert!(bad.parse::<Span>().is_err(), "{bad:?}");
        }
        assert!("18446744073709551615TiB".parse::<ByteSize>().is_err());
    }
}

//! Numbers, addresses and times as text, appended to a buffer; octets in hexadecimal digits.
//!
//! The first are for what is written for every message: `core::fmt` costs it some 8,000 instructions, a fifteenth of all.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};

/// Appends a number in decimal digits.
pub fn decimal(out: &mut Vec<u8>, mut value: u64) {
    if value < 10 {
        return out.push(digit(value));
    }
    // 20 digits: u64::MAX.
    let mut digits = [b'0'; 20];
    let mut used = 0;
    for place in digits.iter_mut().rev() {
        *place = digit(value % 10);
        value /= 10;
        used += 1;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

/// The last two decimal digits of a number.
pub const fn two(value: u32) -> [u8; 2] {
    [digit((value / 10 % 10) as u64), digit((value % 10) as u64)]
}

/// The last four decimal digits of a number.
pub const fn four(value: u32) -> [u8; 4] {
    let ([a, b], [c, d]) = (two(value / 100), two(value));
    [a, b, c, d]
}

/// A number below 10 as a digit.
const fn digit(value: u64) -> u8 {
    let [low, ..] = value.to_le_bytes();
    b'0' + low
}

/// Appends an address as people write it (RFC 5952 for IPv6), without brackets.
pub fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => ipv4(out, address),
        // Writing to a `Vec` cannot fail.
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

/// Appends an IPv4 address.
pub fn ipv4(out: &mut Vec<u8>, address: Ipv4Addr) {
    for (at, octet) in address.octets().into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        decimal(out, octet.into());
    }
}

/// Octets in hexadecimal digits.
pub fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The octets that hexadecimal digits, in either case, stand for; none: they are not just so many.
pub fn unhex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    for (octet, pair) in out.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        *octet = u8::try_from(high? << 4 | low?).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_read_back_from_their_digits_and_from_nothing_else() {
        assert_eq!(hex(&[0, 0x7f, 0xff]), "007fff");
        assert_eq!(unhex("007fFF"), Some([0, 0x7f, 0xff]));
        for wrong in ["", "007ff", "007fff0", "007fff00", "+07fff", "007f f", "007fg0", "00é0"] {
            assert_eq!(unhex::<3>(wrong), None, "{wrong}");
        }
    }

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_and_addresses_are_written_as_the_formatter_writes_them() {
        for value in [0, 9, 10, 99, 100, 12_345, u64::MAX / 10, u64::MAX] {
            assert_eq!(text(|out| decimal(out, value)), value.to_string());
        }
        for (value, last) in [(0, "0000"), (7, "0007"), (2026, "2026"), (12_345, "2345"), (u32::MAX, "7295")] {
            assert_eq!(four(value), last.as_bytes());
            assert_eq!(two(value), last.as_bytes()[2..]);
        }
        for value in ["0.0.0.0", "192.0.2.10", "255.255.255.255", "::1", "2001:db8::a:0:1"] {
            assert_eq!(text(|out| address(out, value.parse().unwrap())), value);
        }
    }
}

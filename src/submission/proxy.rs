//! The PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt): who the client of a balancer is.
//!
//! Only who connects from [`Settings::proxy_networks`](super::Settings::proxy_networks) is believed, and must send a header.
//! [`Header`] is pure: it takes octets in pieces of any size, and none that is behind the header, since what follows may be
//! a TLS handshake. TLVs are read over.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The header comes with the connection.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Octets that are looked at ahead of reading them: every header but one with many TLVs.
const AHEAD: usize = 256;
/// How a header of version 1 begins (proxy-protocol.txt, 2.1).
const TEXT: &[u8] = b"PROXY ";
/// The longest header of version 1, CRLF included (2.1).
const TEXT_MOST: usize = 107;
/// How a header of version 2 begins (2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// What follows the signature: version and command, family, length.
const FIXED: usize = 4;
/// The longest header of version 2 that is taken; addresses take 216 octets, the rest is for TLVs, which nobody reads here.
const BINARY_MOST: usize = 4_096;

/// What was sent is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a PROXY header")]
pub struct Malformed;

/// A header that is being read.
#[derive(Clone, Debug, Default)]
pub struct Header {
    octets: Vec<u8>,
}

impl Header {
    /// Takes what belongs to the header from what comes next; tells how many octets that is. An error as soon as it cannot
    /// become a header any more.
    pub fn take(&mut self, next: &[u8]) -> Result<usize, Malformed> {
        for (taken, octet) in next.iter().enumerate() {
            if self.is_complete() {
                return Ok(taken);
            }
            self.octets.push(*octet);
            if !self.may_become_one() {
                return Err(Malformed);
            }
        }
        Ok(next.len())
    }

    /// Whether nothing more belongs to it.
    pub fn is_complete(&self) -> bool {
        match self.binary_length() {
            Some(length) => self.octets.len() >= length,
            None => self.octets.starts_with(TEXT) && self.octets.ends_with(b"\n"),
        }
    }

    /// The client that a complete header names; none if the balancer speaks for itself (LOCAL) or does not know it (UNKNOWN,
    /// UNSPEC).
    pub fn client(&self) -> Result<Option<IpAddr>, Malformed> {
        match self.octets.strip_prefix(SIGNATURE) {
            Some(rest) => of_binary(rest),
            None => of_text(&self.octets),
        }
        .ok_or(Malformed)
    }

    /// The length of a header of version 2, once it is known.
    fn binary_length(&self) -> Option<usize> {
        let [_, _, high, low, ..] = self.octets.strip_prefix(SIGNATURE)? else { return None };
        Some(SIGNATURE.len() + FIXED + usize::from(u16::from_be_bytes([*high, *low])))
    }

    fn may_become_one(&self) -> bool {
        let begins = |start: &[u8]| start.iter().zip(&self.octets).all(|(wanted, octet)| wanted == octet);
        let is_text = begins(TEXT) && (self.octets.len() < TEXT_MOST || self.is_complete());
        is_text || begins(SIGNATURE) && self.binary_length().is_none_or(|length| length <= BINARY_MOST)
    }
}

/// Version 1 (2.1). None: not a header.
fn of_text(header: &[u8]) -> Option<Option<IpAddr>> {
    let line = std::str::from_utf8(header).ok()?.strip_suffix("\r\n")?;
    let mut words = line.split(' ');
    match (words.next()?, words.next()?) {
        ("PROXY", "TCP4") => Some(Some(source::<Ipv4Addr>(words)?.into())),
        ("PROXY", "TCP6") => Some(Some(source::<Ipv6Addr>(words)?.into())),
        // Whatever follows must be ignored.
        ("PROXY", "UNKNOWN") => Some(None),
        _ => None,
    }
}

/// The first of two addresses that two ports follow.
fn source<A: FromStr>(words: std::str::Split<'_, char>) -> Option<A> {
    let words: Vec<&str> = words.collect();
    let [source, destination, from, to] = words.as_slice() else { return None };
    let (source, _) = (source.parse::<A>().ok()?, destination.parse::<A>().ok()?);
    (is_port(from) && is_port(to)).then_some(source)
}

/// A decimal number without sign and leading zeros.
fn is_port(word: &str) -> bool {
    let is_decimal = word.bytes().all(|octet| octet.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    is_decimal && word.parse::<u16>().is_ok()
}

/// What follows the signature of version 2 (2.2). None: not a header.
fn of_binary(rest: &[u8]) -> Option<Option<IpAddr>> {
    let ([command, family, ..], addresses) = rest.split_first_chunk::<FIXED>()?;
    match (command, family >> 4, family & 0x0f) {
        // LOCAL: the family must be ignored, and so must addresses.
        (0x20, ..) => Some(None),
        // PROXY over no protocol, a stream, or datagrams.
        (0x21, 0, 0..=2) => Some(None),
        (0x21, 1, 0..=2) => Some(Some(first::<4>(addresses)?.into())),
        (0x21, 2, 0..=2) => Some(Some(first::<16>(addresses)?.into())),
        // A client of a Unix socket has no address that networks could be about.
        _ => None,
    }
}

/// The first of two addresses that two ports follow.
fn first<const N: usize>(addresses: &[u8]) -> Option<[u8; N]> {
    addresses.get(..2 * N + 4)?.first_chunk().copied()
}

/// Reads the header from the socket; gives the address of the client, none if the balancer speaks for itself.
pub(super) async fn client(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let header = tokio::time::timeout(TIMEOUT, header(stream)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    header.client().map_err(malformed)
}

async fn header(stream: &mut TcpStream) -> io::Result<Header> {
    let mut header = Header::default();
    let mut ahead = [0; AHEAD];
    while !header.is_complete() {
        let seen = stream.peek(&mut ahead).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken = header.take(ahead.get(..seen).unwrap_or_default()).map_err(malformed)?;
        stream.read_exact(ahead.get_mut(..taken).unwrap_or_default()).await?;
    }
    Ok(header)
}

fn malformed(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, addresses].concat()
    }

    /// Of the whole connection.
    fn client(wire: &[u8]) -> Result<Option<IpAddr>, Malformed> {
        let mut header = Header::default();
        let taken = header.take(wire)?;
        assert!(header.is_complete() && taken == wire.len(), "{wire:?}");
        header.client()
    }

    #[test]
    fn both_versions_tell_the_client() {
        let v4 = Ok(Some(IpAddr::from([192, 0, 2, 7])));
        assert_eq!(client(b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 25\r\n"), v4);
        let v6 = Ok(Some("2001:db8::7".parse().unwrap()));
        assert_eq!(client(b"PROXY TCP6 2001:db8::7 2001:db8::1 5000 25\r\n"), v6);
        assert_eq!(client(&binary(0x21, 0x11, &[192, 0, 2, 7, 198, 51, 100, 1, 0, 1, 0, 25])), v4);
        let six = [[0x20, 1, 0x0d, 0xb8].as_slice(), &[0; 11], &[7], &[0; 20]].concat();
        assert_eq!(client(&binary(0x21, 0x21, &[&six, b"\x03\0\x01x".as_slice()].concat())), v6, "with a TLV");
    }

    #[test]
    fn a_balancer_may_speak_for_itself() {
        let balancer = [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::1 ffff::1 65535 65535 and more than anybody reads\r\n".to_vec(),
            binary(0x21, 0, b""),
            binary(0x20, 0, b""),
            // Whatever family and addresses are told.
            binary(0x20, 0x11, b""),
            binary(0x20, 0xff, b"x"),
        ];
        for header in balancer {
            assert_eq!(client(&header), Ok(None), "{}", String::from_utf8_lossy(&header));
        }
    }

    #[test]
    fn what_is_no_header_tells_nobody() {
        for bad in [
            &b"PROXY TCP4 192.0.2.7\r\n"[..],
            b"PROXY TCP4 192.0.2.300 198.51.100.1 5000 25\r\n",
            b"EHLO client.test\r\n",
            b"PROXY TCP4 2001:db8::7 2001:db8::1 5000 25\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 25 x\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 25\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 25 \n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 +5000 25\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 05000 25\r\n",
            b"PROXY UNKNOWN \n",
            &binary(0x21, 0x31, &[0; 216]),
            &binary(0x21, 0x11, &[0; 11]),
            &binary(0x22, 0x11, &[0; 12]),
            &binary(0x11, 0x11, &[0; 12]),
        ] {
            assert_eq!(client(bad), Err(Malformed), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn it_is_told_as_soon_as_it_cannot_become_a_header() {
        let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; TEXT_MOST]].concat();
        let large = binary(0x20, 0, &[0; BINARY_MOST]);
        for (bad, at) in [(b"PROXy".as_slice(), 5), (b"\r\n\r\n\r", 5), (&long, TEXT_MOST), (&large, 16)] {
            assert_eq!(Header::default().take(&bad[..at - 1]), Ok(at - 1));
            assert_eq!(Header::default().take(&bad[..at]), Err(Malformed), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn nothing_behind_the_header_is_taken() {
        for header in [b"PROXY UNKNOWN\r\n".to_vec(), binary(0x20, 0, b"tlv")] {
            let mut read = Header::default();
            for (at, octet) in header.iter().enumerate() {
                assert!(!read.is_complete(), "{at}");
                assert_eq!(read.take(&[*octet]), Ok(1));
            }
            assert_eq!(read.take(b"EHLO client.test\r\n"), Ok(0));
            assert_eq!(read.client(), Ok(None));
        }
    }
}

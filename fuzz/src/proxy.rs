//! What a balancer says before its client does.

use std::net::IpAddr;

use hikyaku::submission::proxy::Header;
use ppp::HeaderResult;

use super::pieces;

/// Octets of the longest header.
const MOST: usize = 4_096;

/// What a connection came to.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// It ends before its header does.
    Unfinished,
    Malformed,
    /// How many octets are of the header, and the client that it names.
    Header(usize, Option<IpAddr>),
}

/// What is on a connection; the first octet says how it is cut. Who is named does not depend on that, nor on what follows
/// the header, of which nothing is taken. Another reader of the protocol, the crate ppp, names the same where it is as strict.
/// A client that was named is named by headers of both versions.
pub fn proxy(octets: &[u8]) {
    let Some((&size, wire)) = octets.split_first() else { return };

    let seen = read(std::iter::once(wire));

    assert_eq!(read(pieces(wire, size)), seen, "by {size}");
    let other = other(wire);
    match seen {
        Seen::Header(taken, client) => {
            assert_eq!(read(std::iter::once(&wire[..taken])), seen, "whatever follows");
            // It does not read addresses of nobody, where it should not look at them.
            let is_same = other == Some(client) || other.is_none() && client.is_none();
            assert!(is_same, "{seen:?}, not {other:?}: {:?}", String::from_utf8_lossy(wire));
            for written in client.iter().flat_map(|client| written(*client)) {
                assert_eq!(read(pieces(&written, size)), Seen::Header(written.len(), client), "{written:?}");
            }
        }
        Seen::Unfinished => {
            assert!(other.is_none() && wire.len() < MOST, "{other:?}: {:?}", String::from_utf8_lossy(wire))
        }
        Seen::Malformed => assert_eq!(other, None, "{:?}", String::from_utf8_lossy(wire)),
    }
}

fn read<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Seen {
    let (mut header, mut taken) = (Header::default(), 0);
    for part in parts {
        match header.take(part) {
            Ok(more) => taken += more,
            Err(_) => return Seen::Malformed,
        }
        if header.is_complete() {
            return header.client().map_or(Seen::Malformed, |client| Seen::Header(taken, client));
        }
        assert_eq!(header.take(&[]), Ok(0));
    }
    Seen::Unfinished
}

/// What ppp makes of it, without what is no header to us: headers that are too long or of Unix sockets; lines that end by LF
/// alone, or have a sign before a port.
fn other(wire: &[u8]) -> Option<Option<IpAddr>> {
    match HeaderResult::parse(wire) {
        HeaderResult::V1(header) => {
            let header = header.ok()?;
            let line = header.header.strip_suffix("\r\n").filter(|line| !line.contains(['\n', '+']))?;
            assert!(line.starts_with("PROXY "));
            Some(match header.addresses {
                ppp::v1::Addresses::Tcp4(addresses) => Some(addresses.source_address.into()),
                ppp::v1::Addresses::Tcp6(addresses) => Some(addresses.source_address.into()),
                ppp::v1::Addresses::Unknown => None,
            })
        }
        HeaderResult::V2(header) => {
            let header = header.ok().filter(|header| header.header.len() <= MOST)?;
            match header.addresses {
                _ if header.command == ppp::v2::Command::Local => Some(None),
                ppp::v2::Addresses::IPv4(addresses) => Some(Some(addresses.source_address.into())),
                ppp::v2::Addresses::IPv6(addresses) => Some(Some(addresses.source_address.into())),
                ppp::v2::Addresses::Unspecified => Some(None),
                ppp::v2::Addresses::Unix(_) => None,
            }
        }
    }
}

/// Headers that name the client.
fn written(client: IpAddr) -> [Vec<u8>; 2] {
    let (word, family, octets) = match client {
        IpAddr::V4(address) => ("TCP4", 0x11, address.octets().to_vec()),
        IpAddr::V6(address) => ("TCP6", 0x21, address.octets().to_vec()),
    };
    let text = format!("PROXY {word} {client} {client} 65535 0\r\n");
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    binary.extend([family, 0, 2 * octets.len() as u8 + 4]);
    binary.extend([octets.as_slice(), &octets, &[0; 4]].concat());
    [text.into_bytes(), binary]
}

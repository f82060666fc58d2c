//! The PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt): who the client of a balancer is.
//!
//! Only who connects from [`Settings::proxy_networks`](super::Settings::proxy_networks) is believed, and must send a header.
//! Exactly the header is read from the socket: what follows may be a TLS handshake.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use ppp::HeaderResult;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The header comes with the connection.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest header of version 1, CRLF included (proxy-protocol.txt, 2.1).
const TEXT_MOST: usize = 107;
/// The longest header of version 2 that is taken; addresses take 216 octets, the rest is for TLVs, which nobody reads here.
const BINARY_MOST: usize = 4_096;
/// How a header of version 2 begins (2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Reads the header; gives the address of the client, none if the balancer speaks for itself (LOCAL, UNKNOWN).
pub(super) async fn client(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let header = tokio::time::timeout(TIMEOUT, header(stream)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    parse(&header).ok_or_else(malformed)
}

async fn header(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut header = vec![0; SIGNATURE.len()];
    // Every header of either version is longer.
    stream.read_exact(&mut header).await?;
    if header == SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        header.extend_from_slice(&rest);
        let [_, _, high, low] = rest;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if header.len() + length > BINARY_MOST {
            return Err(malformed());
        }
        let begun = header.len();
        header.resize(begun + length, 0);
        stream.read_exact(header.get_mut(begun..).unwrap_or_default()).await?;
        return Ok(header);
    }
    if !header.starts_with(b"PROXY ") {
        return Err(malformed());
    }
    while !header.ends_with(b"\n") {
        let mut ahead = [0; TEXT_MOST];
        let room = ahead.get_mut(..TEXT_MOST.saturating_sub(header.len())).unwrap_or_default();
        // An empty room would look like a client that has gone.
        let seen = if room.is_empty() { return Err(malformed()) } else { stream.peek(room).await? };
        let seen = room.get(..seen).unwrap_or_default();
        if seen.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = memchr::memchr(b'\n', seen).map_or(seen.len(), |at| at + 1);
        let begun = header.len();
        header.resize(begun + length, 0);
        stream.read_exact(header.get_mut(begun..).unwrap_or_default()).await?;
    }
    Ok(header)
}

/// None: not a header.
fn parse(header: &[u8]) -> Option<Option<IpAddr>> {
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(header)) => Some(match header.addresses {
            ppp::v1::Addresses::Tcp4(addresses) => Some(addresses.source_address.into()),
            ppp::v1::Addresses::Tcp6(addresses) => Some(addresses.source_address.into()),
            ppp::v1::Addresses::Unknown => None,
        }),
        HeaderResult::V2(Ok(header)) if header.command == ppp::v2::Command::Local => Some(None),
        HeaderResult::V2(Ok(header)) => match header.addresses {
            ppp::v2::Addresses::IPv4(addresses) => Some(Some(addresses.source_address.into())),
            ppp::v2::Addresses::IPv6(addresses) => Some(Some(addresses.source_address.into())),
            ppp::v2::Addresses::Unspecified => Some(None),
            // A client of a Unix socket has no address that networks could be about.
            ppp::v2::Addresses::Unix(_) => None,
        },
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => None,
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a PROXY header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_tell_the_client() {
        let v4 = Some(Some(IpAddr::from([192, 0, 2, 7])));
        assert_eq!(parse(b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 25\r\n"), v4);
        let v6 = Some(Some("2001:db8::7".parse().unwrap()));
        assert_eq!(parse(b"PROXY TCP6 2001:db8::7 2001:db8::1 5000 25\r\n"), v6);
        let mut binary = SIGNATURE.to_vec();
        binary.extend_from_slice(&[0x21, 0x11, 0, 12, 192, 0, 2, 7, 198, 51, 100, 1, 0, 1, 0, 25]);
        assert_eq!(parse(&binary), v4);
        binary[12] = 0x20;
        assert_eq!(parse(&binary), Some(None), "LOCAL");
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Some(None));
    }

    #[test]
    fn what_is_no_header_tells_nobody() {
        for bad in [
            &b"PROXY TCP4 192.0.2.7\r\n"[..],
            b"PROXY TCP4 192.0.2.300 198.51.100.1 5000 25\r\n",
            b"EHLO client.test\r\n",
            b"PROXY TCP4 2001:db8::7 2001:db8::1 5000 25\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 25 x\n",
        ] {
            assert_eq!(parse(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}

//! The fields that a submission server adds: Received (RFC 5321, 4.4), Date and Message-ID (RFC 6409, 8).
//!
//! Whatever stands in a [`Trace`] has been checked before: the EHLO name is a domain or an address literal, the addresses
//! are [`Address`]es. So nothing here is escaped, and nothing a client sent can end a field.

use std::net::IpAddr;

use super::MessageId;
use super::date::MailDate;
use crate::clock::UnixTime;
use crate::smtp::address::Address;
use crate::text;

/// What the Received field tells.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// What the client called itself.
    pub ehlo_name: &'a str,
    /// Where it connected from.
    pub client: IpAddr,
    /// Our name.
    pub hostname: &'a str,
    /// `SMTP`, `ESMTP` or `UTF8SMTP`, with an S under TLS (RFC 5321, 4.4; RFC 3848; RFC 6531, 4.3).
    pub protocol: &'static str,
    /// The cipher suite of TLS (RFC 8314, 4.3).
    pub cipher: Option<&'static str>,
    /// The message's identity in our spool.
    pub id: MessageId,
    /// The recipient, if there is only one: with several, `for` would tell one of another.
    pub recipient: Option<&'a Address>,
    /// Now.
    pub time: UnixTime,
}

/// Appends the Received field.
pub fn received(out: &mut Vec<u8>, trace: &Trace<'_>) {
    let Trace { ehlo_name, client, hostname, protocol, cipher, id, recipient, time } = trace;
    put(out, &["Received: from ", ehlo_name, if client.is_ipv6() { " ([IPv6:" } else { " ([" }]);
    text::address(out, *client);
    put(out, &["])\r\n\tby ", hostname, " with ", protocol, " id "]);
    id.write(out);
    if let Some(recipient) = recipient {
        put(out, &["\r\n\tfor <", recipient.as_str(), ">"]);
    }
    if let Some(cipher) = cipher {
        put(out, &["\r\n\ttls ", cipher]);
    }
    put(out, &[";\r\n\t"]);
    out.extend_from_slice(&MailDate(*time).octets());
    put(out, &["\r\n"]);
}

/// Appends a Date field.
pub fn date(out: &mut Vec<u8>, time: UnixTime) {
    put(out, &["Date: "]);
    out.extend_from_slice(&MailDate(time).octets());
    put(out, &["\r\n"]);
}

/// Appends a Message-ID field. The identity alone is unique within one spool; the time makes it so across spools.
pub fn message_id(out: &mut Vec<u8>, id: MessageId, time: UnixTime, hostname: &str) {
    put(out, &["Message-ID: <"]);
    id.write(out);
    put(out, &[&format!(".{:08x}@", time.0), hostname, ">\r\n"]);
}

fn put(out: &mut Vec<u8>, parts: &[&str]) {
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(recipient: Option<&Address>, client: IpAddr) -> String {
        let mut out = Vec::new();
        let trace = Trace {
            ehlo_name: "client.test",
            client,
            hostname: "mx.test",
            protocol: "ESMTP",
            cipher: None,
            id: MessageId(7),
            recipient,
            time: UnixTime(0),
        };
        received(&mut out, &trace);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn received_has_the_clauses_of_rfc_5321() {
        let address: Address = "u@d.test".parse().unwrap();

        let expected = "Received: from client.test ([127.0.0.1])\r\n\tby mx.test with ESMTP id 0000000000007\r\n\
                        \tfor <u@d.test>;\r\n\tThu, 01 Jan 1970 00:00:00 +0000\r\n";
        assert_eq!(text(Some(&address), [127, 0, 0, 1].into()), expected);
    }

    #[test]
    fn several_recipients_are_not_told_of_each_other_and_ipv6_is_tagged() {
        let text = text(None, "2001:db8::1".parse().unwrap());

        assert!(!text.contains("for"), "{text}");
        assert!(text.contains("from client.test ([IPv6:2001:db8::1])\r\n"), "{text}");
    }

    #[test]
    fn date_and_message_id_are_whole_fields() {
        let mut out = Vec::new();
        date(&mut out, UnixTime(1));
        message_id(&mut out, MessageId(7), UnixTime(255), "mx.test");

        let expected = "Date: Thu, 01 Jan 1970 00:00:01 +0000\r\nMessage-ID: <0000000000007.000000ff@mx.test>\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

//! Mailboxes, reverse-paths and forward-paths (RFC 5321, 4.1.2).
//!
//! An [`Address`] is parsed from what stands between the angle brackets, without source route. Whoever holds one may write
//! it into a command, a trace field, a DSN or a log line as it is: it has no control character, no line separator and
//! nothing that turns the direction of text. It says nothing about whether the mailbox exists.

use std::fmt;

/// A mailbox: local-part and domain. Valid by construction: no control character, no CR, LF or NUL.
///
/// The local-part is kept as it was written (quoted strings included); the domain is lower case without a final dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    text: Box<str>,
    at: u16,
}

impl Address {
    /// The part before the last `@`, as written.
    pub fn local_part(&self) -> &str {
        self.text.get(..usize::from(self.at)).unwrap_or_default()
    }

    /// The domain or address literal, lower case.
    pub fn domain(&self) -> &str {
        self.text.get(usize::from(self.at) + 1..).unwrap_or_default()
    }

    /// The whole mailbox, `local@domain`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Where failures are reported to: RFC 5321, 4.1.1.2.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: a notification; nothing is ever reported about it.
    Null,
    /// A mailbox.
    Mailbox(Address),
}

impl ReversePath {
    /// Whether this is the null reverse-path.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The mailbox text, empty for the null reverse-path.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Null => "",
            Self::Mailbox(address) => address.as_str(),
        }
    }
}

/// An address that does not follow the grammar; the reason is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No `@`, or nothing on one side of it.
    #[error("not of the form local-part@domain")]
    Form,
    /// Over 64 octets of local-part, 255 of domain or 254 in all (RFC 5321, 4.5.3.1).
    #[error("too long")]
    Length,
    /// A character the grammar does not allow there.
    #[error("a character that is not allowed")]
    Character,
}

impl std::str::FromStr for Address {
    type Err = AddressError;

    /// Parses `local@domain` without angle brackets or source route. UTF-8 is accepted in both parts: whether SMTPUTF8
    /// was asked for is the session's concern.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let at = text.rfind('@').ok_or(AddressError::Form)?;
        let (local, domain) = (text.get(..at).unwrap_or_default(), text.get(at + 1..).unwrap_or_default());
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        if local.is_empty() || domain.is_empty() {
            return Err(AddressError::Form);
        }
        if local.len() > 64 || domain.len() > 255 {
            return Err(AddressError::Length);
        }
        let at = u16::try_from(local.len()).map_err(|_| AddressError::Length)?;
        let mut text = String::with_capacity(local.len() + 1 + domain.len());
        text.push_str(local);
        text.push('@');
        if domain.is_ascii() {
            text.extend(domain.chars().map(|c| c.to_ascii_lowercase()));
        } else {
            text.push_str(&domain.to_lowercase());
        }
        // What is kept must be a domain, too: some letters take more octets in lower case.
        if !is_local_part(local) || !is_domain(text.get(local.len() + 1..).unwrap_or_default()) {
            return Err(AddressError::Character);
        }
        if text.len() > PATH_MOST - "<>".len() {
            return Err(AddressError::Length);
        }
        Ok(Self { text: text.into(), at })
    }
}

impl Address {
    /// The address of a path as people write it, in angle brackets or without; what is none, such as the null
    /// reverse-path, is given back without the brackets.
    pub fn of_path(path: &str) -> Result<Self, &str> {
        let bare = path.strip_prefix('<').and_then(|path| path.strip_suffix('>')).unwrap_or(path);
        bare.parse().map_err(|_| bare)
    }
}

/// A path is at most 256 octets with its punctuation (RFC 5321, 4.5.3.1.3).
const PATH_MOST: usize = 256;

fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || is_plain_utf8(c)
}

/// Non-ASCII that cannot disturb a terminal, a log line or a command: no controls, no white space, no line or paragraph
/// separators, no marks that turn the direction of text, no tags, nothing that is never seen.
pub(crate) fn is_plain_utf8(c: char) -> bool {
    let is_filler = matches!(c, '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}');
    let is_format = matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{ffff}' | '\u{e0000}'..='\u{e0fff}');
    !c.is_ascii() && !c.is_control() && !c.is_whitespace() && !is_filler && !is_format
}

fn is_local_part(local: &str) -> bool {
    if let Some(inner) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        return is_quoted_content(inner);
    }
    local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

fn is_quoted_content(inner: &str) -> bool {
    let mut characters = inner.chars();
    while let Some(c) = characters.next() {
        let c = if c == '\\' {
            match characters.next() {
                Some(c) => c,
                None => return false,
            }
        } else if c == '"' {
            return false;
        } else {
            c
        };
        if !(matches!(c, ' '..='~') || is_plain_utf8(c)) {
            return false;
        }
    }
    true
}

/// A domain name without final dot (underscores are tolerated, U-labels too) or an address literal.
pub(crate) fn is_domain(domain: &str) -> bool {
    if let Some(literal) = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let v6 = literal.get(..5).filter(|tag| tag.eq_ignore_ascii_case("ipv6:")).and_then(|_| literal.get(5..));
        return match v6 {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => literal.parse::<std::net::Ipv4Addr>().is_ok(),
        };
    }
    domain.split('.').all(|label| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(is_label_character)
    })
}

/// Not the full stops of other scripts, nor ASCII in full width: what maps names to ASCII makes ASCII of them (UTS 46, 4), so
/// that another name would be looked up than the one that is written.
fn is_label_character(c: char) -> bool {
    let is_mapped = matches!(c, '\u{3002}' | '\u{ff01}'..='\u{ff5e}' | '\u{ff61}');
    c.is_ascii_alphanumeric() || c == '-' || c == '_' || is_plain_utf8(c) && !is_mapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domain_is_lower_case_and_without_a_final_dot() {
        let address: Address = "Ann.Smith@Example.COM.".parse().unwrap();

        assert_eq!((address.local_part(), address.domain()), ("Ann.Smith", "example.com"));
    }

    #[test]
    fn quoted_local_parts_and_literals_are_addresses() {
        for good in ["\"a b\"@x.test", "\"a\\\"b@c\"@x.test", "a@[127.0.0.1]", "a@[IPv6:::1]", "ü@x.test"] {
            assert!(good.parse::<Address>().is_ok(), "{good}");
        }
    }

    #[test]
    fn injected_and_malformed_addresses_are_refused() {
        for bad in [
            "a",
            "@x",
            "a@",
            "a b@x",
            "a\r\nRCPT@x",
            "a@x\ny",
            "a@x\0",
            "a..b@x",
            ".a@x",
            "a@-x",
            "a@x..y",
            "\"a@x",
            "a@[1.2.3]",
            "a\u{2028}b@x",
            "<a@x>",
            "a@x y",
            "a\u{202e}b@x",
            "a@x\u{200b}y",
            "a\u{a0}b@x",
            "a@x\u{3002}\u{85}",
            "a@x\u{3002}test",
            "a@x\u{ff0e}test",
            "a@x\u{ff61}test",
            "a\u{61c}b@x",
            "a@x\u{61c}y",
            "a\u{ad}b@x",
            "a@x\u{ad}y",
            "a@x\u{ff20}y",
            "a@\u{ff58}",
            "a\u{3164}b@x",
            "a@x\u{ffa0}y",
            "a\u{180e}b@x",
            "a@x\u{180e}y",
            "a@x,b@y",
            "a;b(c)@x",
            "\"a\rb\"@x",
            "\"a\\\nb\"@x",
            "a@[127.0.0.1",
            "a@[IPv6:zz]",
            "a@x/y",
            "a@x..",
            "a@.",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lengths_are_those_of_rfc_5321() {
        let address = |local: usize, domain: usize| {
            let label = "d".repeat(49) + ".";
            format!("{}@{}", "l".repeat(local), label.repeat(6).get(..domain).unwrap()).parse::<Address>()
        };

        assert!(address(64, 189).is_ok());
        assert_eq!(address(64, 191), Err(AddressError::Length));
        assert_eq!(address(65, 10), Err(AddressError::Length));
        assert_eq!(format!("a@{}.x", "d".repeat(64)).parse::<Address>(), Err(AddressError::Character));
    }

    #[test]
    fn a_domain_that_grows_in_lower_case_is_measured_by_what_is_kept() {
        let address = |label: usize| format!("a@{}\u{130}.test", "x".repeat(label)).parse::<Address>();

        let kept = address(60).unwrap();
        assert_eq!((kept.domain().find('.'), kept.as_str().parse().as_ref()), (Some(63), Ok(&kept)));
        assert_eq!(address(61), Err(AddressError::Character));
    }

    #[test]
    fn a_local_part_keeps_its_shell_and_relay_characters_as_text() {
        for harmless in ["a%b@x.test", "a!b@x.test", "$a`b|c@x.test", "%0aRCPT@x.test", "\"a@b\"@x.test"] {
            assert_eq!(harmless.parse::<Address>().unwrap().as_str(), harmless);
        }
    }
}

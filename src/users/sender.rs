//! What addresses a user may send from: `ann@example.com`, `*@example.com`, `*@*.example.com`, `*`.

use std::fmt;
use std::str::FromStr;

use crate::smtp::address::{Address, is_domain};

/// Addresses that a user may send from. Case matters neither in domains nor in local-parts: a mailbox that differs from
/// another only in the case of its local-part is not known to exist anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Every address.
    All,
    /// One.
    Address(Address),
    /// Every one of a domain.
    Domain(Box<str>),
    /// Every one of the domains below one; not of that one itself.
    Below(Box<str>),
}

/// Not of a form that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("allowed: \"ann@example.com\", \"*@example.com\", \"*@*.example.com\", \"*\"")]
pub struct SenderError;

impl Sender {
    /// Whether it takes in `address`.
    pub fn has(&self, address: &Address) -> bool {
        let domain = address.domain();
        match self {
            Self::All => true,
            Self::Domain(own) => **own == *domain,
            Self::Below(own) => domain.strip_suffix(&**own).is_some_and(|head| head.ends_with('.')),
            Self::Address(own) => own.domain() == domain && own.local_part().eq_ignore_ascii_case(address.local_part()),
        }
    }
}

impl FromStr for Sender {
    type Err = SenderError;

    fn from_str(text: &str) -> Result<Self, SenderError> {
        if text == "*" {
            return Ok(Self::All);
        }
        let Some(domain) = text.strip_prefix("*@") else {
            let address: Address = text.parse().map_err(|_| SenderError)?;
            // A pattern that would be read as an address with a star in it is a mistake.
            return if text.contains('*') { Err(SenderError) } else { Ok(Self::Address(address)) };
        };
        let (name, is_below) = domain.strip_prefix("*.").map_or((domain, false), |name| (name, true));
        let name = name.strip_suffix('.').unwrap_or(name).to_lowercase();
        if name.contains('*') || !is_domain(&name) {
            return Err(SenderError);
        }
        Ok(if is_below { Self::Below(name.into()) } else { Self::Domain(name.into()) })
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Address(address) => address.fmt(f),
            Self::Domain(domain) => write!(f, "*@{domain}"),
            Self::Below(domain) => write!(f, "*@*.{domain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(pattern: &str, address: &str) -> bool {
        pattern.parse::<Sender>().unwrap().has(&address.parse().unwrap())
    }

    #[test]
    fn each_form_takes_in_what_it_says() {
        for (pattern, inside, outside) in [
            ("*", "a@b.test", ""),
            ("Ann@Example.com", "ann@example.com", "bob@example.com"),
            ("ann@example.com", "ANN@EXAMPLE.COM", "ann@example.org"),
            ("*@example.com", "x@example.com", "x@sub.example.com"),
            ("*@example.com", "x@EXAMPLE.com.", "x@badexample.com"),
            ("*@*.example.com", "x@a.b.example.com", "x@example.com"),
            ("*@*.example.com", "x@a.example.com", "x@badexample.com"),
            ("*@\u{fc}.test", "x@\u{dc}.test", "x@u.test"),
        ] {
            assert!(has(pattern, inside), "{pattern} {inside}");
            assert!(outside.is_empty() || !has(pattern, outside), "{pattern} {outside}");
        }
        let quoted = "\"ann@example.com\"@evil.test";
        assert!(!has("*@example.com", quoted) && !has("ann@example.com", quoted));
    }

    #[test]
    fn other_forms_are_refused() {
        for text in
            ["", "example.com", "@example.com", "*example.com", "a*@example.com", "*@*", "*@*.*.com", "*@", "*@a b"]
        {
            assert_eq!(text.parse::<Sender>(), Err(SenderError), "{text:?}");
        }
    }
}

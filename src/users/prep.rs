//! Names and passwords as they are compared: SASLprep (RFC 4013), which RFC 4616 and RFC 5802 ask for.

use crate::smtp::address::is_plain_utf8;

/// Octets of a name or a password (RFC 4616, 2: 255 characters; more than anybody types).
pub const LENGTH_MOST: usize = 1_024;

/// A name or a password, prepared; none: it cannot be one. Characters that Unicode 3.2 does not know are refused too, in what
/// clients send as in what is stored, so that both sides agree.
pub fn prepare(text: &str) -> Option<String> {
    let prepared = stringprep::saslprep(text).ok()?;
    let is_right = !prepared.is_empty() && text.len() <= LENGTH_MOST;
    is_right.then(|| prepared.into_owned())
}

/// Whether a prepared name may be a user's: it stands in trace fields, logs and the journal.
pub fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_graphic() || is_plain_utf8(c);
    (1..=128).contains(&name.len()) && name.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_4013_are_prepared_as_it_says() {
        for (text, prepared) in [
            ("I\u{ad}X", Some("IX")),
            ("user", Some("user")),
            ("USER", Some("USER")),
            ("\u{aa}", Some("a")),
            ("\u{2168}", Some("IX")),
            ("\u{7}", None),
            ("\u{627}\u{31}", None),
            ("", None),
            ("\u{ad}", None),
        ] {
            assert_eq!(prepare(text).as_deref(), prepared, "{text:?}");
        }
        assert_eq!(prepare(&"x".repeat(LENGTH_MOST + 1)), None);
    }

    #[test]
    fn names_have_nothing_that_disturbs_a_line() {
        for (name, is_right) in
            [("ann@example.com", true), ("\u{fc}n", true), ("a b", false), ("a\u{202e}", false), ("", false)]
        {
            assert_eq!(is_name(name), is_right, "{name:?}");
        }
    }
}

//! Which header fields a signature covers, and their relaxed form (RFC 6376, 3.4.2 and 5.4).
//!
//! All occurrences of a name are covered, from the bottom up. Names that decide what a reader sees, or what a click does,
//! are named once more than they occur: one that is added on the way breaks the signature (RFC 6376, 8.15).

use std::cmp::Reverse;

use crate::message::header::{Field, fields};

/// Covered also where they are absent.
const OVERSIGNED: [&str; 7] =
    ["From", "To", "Subject", "Date", "Message-ID", "List-Unsubscribe", "List-Unsubscribe-Post"];

/// Covered where they occur: those of RFC 6376, 5.4.1, what MIME readers and replies go by, what mailing lists and feedback
/// loops must have signed (RFC 9477, 3.1.4), and what marks an automatic answer. Never Return-Path, Received, Bcc or ours.
const USUAL: [&str; 28] = [
    "Sender",
    "Reply-To",
    "Cc",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-ID",
    "Content-Description",
    "Content-Disposition",
    "Content-Language",
    "Auto-Submitted",
    "Resent-Date",
    "Resent-From",
    "Resent-Sender",
    "Resent-To",
    "Resent-Cc",
    "Resent-Message-ID",
    "List-Id",
    "List-Help",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
    "CFBL-Address",
    "CFBL-Feedback-ID",
    "Feedback-ID",
];

/// What a signature covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Covered {
    /// Names as the tag `h` lists them.
    pub names: Vec<&'static str>,
    /// The relaxed form of the fields, in that order.
    pub form: Vec<u8>,
}

impl Covered {
    /// What is covered of the header section that `content` begins with.
    pub fn of(content: &[u8]) -> Self {
        let place = |name: &[u8]| {
            let is_it = |known: &&&str| known.as_bytes().eq_ignore_ascii_case(name);
            OVERSIGNED.iter().chain(&USUAL).enumerate().find(|(_, known)| is_it(known)).map(|(place, _)| place)
        };
        let mut found: Vec<(usize, Reverse<usize>, Field<'_>)> =
            fields(content).filter_map(|field| Some((place(field.name)?, Reverse(field.start), field))).collect();
        found.sort_unstable_by_key(|(place, start, _)| (*place, *start));
        let mut covered = Self::default();
        let mut found = found.into_iter().peekable();
        for (at, name) in OVERSIGNED.into_iter().chain(USUAL).enumerate() {
            while let Some((.., field)) = found.next_if(|(place, ..)| *place == at) {
                covered.names.push(name);
                relaxed(&mut covered.form, field.name, field.value);
                covered.form.extend_from_slice(b"\r\n");
            }
            if at < OVERSIGNED.len() {
                covered.names.push(name);
            }
        }
        covered
    }
}

/// Appends the relaxed form of a field, without its line end.
pub(super) fn relaxed(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend(name.iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let start = out.len();
    let mut octets = value.iter().peekable();
    let mut has_space = false;
    while let Some(octet) = octets.next() {
        match octet {
            b'\r' if octets.next_if_eq(&&b'\n').is_some() => {}
            b' ' | b'\t' => has_space = true,
            text => {
                if has_space && out.len() > start {
                    out.push(b' ');
                }
                has_space = false;
                out.push(*text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(field: &str) -> String {
        let mut out = Vec::new();
        for field in fields(field.as_bytes()) {
            relaxed(&mut out, field.name, field.value);
            out.extend_from_slice(b"\r\n");
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn fields_have_the_form_of_rfc_6376() {
        // 3.4.5.
        assert_eq!(form("A: X\r\nB : Y\t\r\n\tZ  \r\n"), "a:X\r\nb:Y Z\r\n");
        assert_eq!(form("Subject:\r\n\t \r\n x\t\ty \r\nTo:\r\n"), "subject:x y\r\nto:\r\n");
    }

    #[test]
    fn occurrences_are_covered_from_the_bottom_up_and_once_more() {
        let covered =
            Covered::of(b"X-A: 1\r\nTo: a\r\nCC: c\r\nfrom: f\r\nTo: b\r\nReceived: r\r\n\r\nSubject: body\r\n");

        let expected = "From From To To To Subject Date Message-ID List-Unsubscribe List-Unsubscribe-Post Cc";
        assert_eq!(covered.names.join(" "), expected);
        assert_eq!(String::from_utf8(covered.form).unwrap(), "from:f\r\nto:b\r\nto:a\r\ncc:c\r\n");
    }

    #[test]
    fn trace_fields_and_ours_are_never_covered() {
        let never = ["Return-Path", "Received", "Bcc", "Resent-Bcc", "DKIM-Signature", "Authentication-Results"];

        assert!(OVERSIGNED.iter().chain(&USUAL).all(|name| !never.contains(name) && !name.starts_with("X-")));
    }
}

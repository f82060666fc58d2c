//! What the body of a POST asks for.
//!
//! Programs send `List-Unsubscribe=One-Click`, as multipart/form-data or as application/x-www-form-urlencoded (RFC 8058, 3.2);
//! our own page sends its field in the latter. Anything else asks for nothing: a POST that was not meant must not act.

use memchr::memmem;

use super::page;

/// How somebody asks to be taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A program, for who pressed its button.
    OneClick,
    /// Somebody who pressed the button of our page.
    Page,
}

/// The field of a program, and its value (RFC 8058, 3.2).
const ONE_CLICK: (&str, &str) = ("List-Unsubscribe", "One-Click");

impl Wish {
    /// As the journal and metrics have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OneClick => "one-click",
            Self::Page => "page",
        }
    }

    /// Reads a body. Without a Content-Type it is taken as that of a form.
    pub fn read(content_type: &str, body: &[u8]) -> Option<Self> {
        match boundary(content_type) {
            Some(boundary) => parts(boundary, body).find_map(|(name, value)| Self::of(&name, &value)),
            None => {
                let pairs = body.split(|octet| *octet == b'&').map(|pair| {
                    let mut halves = pair.splitn(2, |octet| *octet == b'=').map(decoded);
                    (halves.next().unwrap_or_default(), halves.next().unwrap_or_default())
                });
                pairs.into_iter().find_map(|(name, value)| Self::of(&name, &value))
            }
        }
    }

    fn of(name: &[u8], value: &[u8]) -> Option<Self> {
        let is = |(field, wanted): (&str, &str)| {
            name.eq_ignore_ascii_case(field.as_bytes()) && value.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes())
        };
        match () {
            () if is(ONE_CLICK) => Some(Self::OneClick),
            () if is(page::FIELD) => Some(Self::Page),
            () => None,
        }
    }
}

/// Undoes `%` and `+` (URL Standard, 5.1). What is no escape stays as it is.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        match (*first, after) {
            (b'+', _) => out.push(b' '),
            (b'%', [high, low, behind @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |octet: &u8| char::from(*octet).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                out.push(digit(high).unwrap_or_default() << 4 | digit(low).unwrap_or_default());
                rest = behind;
            }
            (octet, _) => out.push(octet),
        }
    }
    out
}

/// The boundary of a multipart/form-data (RFC 7578, 4.1), if it is one.
fn boundary(content_type: &str) -> Option<&str> {
    let mut parts = content_type.split(';').map(str::trim);
    parts.next().filter(|kind| kind.eq_ignore_ascii_case("multipart/form-data"))?;
    let boundary = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.eq_ignore_ascii_case("boundary").then_some(value.trim_matches('"'))
    });
    Some(boundary.unwrap_or_default())
}

/// The fields of a multipart body with their values. There are none without a boundary.
fn parts<'a>(boundary: &str, body: &'a [u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + use<'a> {
    let delimiter = format!("--{boundary}").into_bytes();
    let starts: Vec<usize> = match boundary {
        "" => Vec::new(),
        _ => memmem::find_iter(body, &delimiter).collect(),
    };
    let length = delimiter.len();
    let ends: Vec<usize> = starts.iter().copied().skip(1).chain([body.len()]).collect();
    starts.into_iter().zip(ends).filter_map(move |(start, end)| {
        let part = body.get(start + length..end)?;
        let head_end = memmem::find(part, b"\r\n\r\n")?;
        let (head, value) = (part.get(..head_end)?, part.get(head_end + 4..)?);
        let head = String::from_utf8_lossy(head);
        let disposition = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.trim().eq_ignore_ascii_case("Content-Disposition").then_some(value)
        })?;
        let name = disposition.split(';').find_map(|part| part.trim().strip_prefix("name="))?;
        Some((name.trim_matches('"').as_bytes().to_vec(), value.trim_ascii().to_vec()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "application/x-www-form-urlencoded";

    #[test]
    fn one_click_is_understood_in_both_forms_of_rfc_8058() {
        let multipart =
            "--X1\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--X1--\r\n";
        // RFC 8058, 8.2, has another field before it.
        let second = format!("--X1\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb\r\n{multipart}");

        for (kind, body) in [
            (FORM, "List-Unsubscribe=One-Click"),
            (FORM, "List-Unsubscribe=One-Click\r\n"),
            ("", "list-unsubscribe=one-click"),
            (FORM, "a=b&List%2DUnsubscribe=One%2dClick"),
            ("multipart/form-data; boundary=X1", multipart),
            ("Multipart/Form-Data; charset=utf-8; Boundary=\"X1\"", &second),
        ] {
            assert_eq!(Wish::read(kind, body.as_bytes()), Some(Wish::OneClick), "{kind} {body}");
        }
    }

    #[test]
    fn our_page_is_told_from_it() {
        let (name, value) = page::FIELD;

        assert_eq!(Wish::read(FORM, format!("{name}={value}").as_bytes()), Some(Wish::Page));
    }

    #[test]
    fn nothing_else_is_a_wish() {
        let multipart =
            "--X1\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--X1--\r\n";

        for (kind, body) in [
            (FORM, ""),
            (FORM, "List-Unsubscribe"),
            (FORM, "List-Unsubscribe=Two-Clicks"),
            (FORM, "One-Click=List-Unsubscribe"),
            (FORM, "%=%&+=%zz&confirm="),
            ("multipart/form-data", multipart),
            ("multipart/form-data; boundary=X2", multipart),
            ("multipart/form-data; boundary=\"\"", multipart),
            ("multipart/form-data; boundary=X1", "--X1\r\nContent-Disposition: form-data\r\n\r\nOne-Click"),
            ("multipart/form-data; boundary=X1", "--X1--X1--X1\r\n\r\n"),
        ] {
            assert_eq!(Wish::read(kind, body.as_bytes()), None, "{kind} {body}");
        }
    }
}

//! Addresses in running text.
//!
//! [`find`] finds them in a line, [`only`] takes the one a field's value has. They are kept as written; whether two are the
//! same is asked by [`same`].

/// Longest address that is believed (RFC 5321, 4.5.3.1: 64 and 255).
const LONGEST: usize = 320;
/// Most addresses of one line.
const LINE_MOST: usize = 64;

/// Where addresses stand in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The octets of the address.
    pub start: usize,
    /// Behind it.
    pub end: usize,
}

/// Every address of a line.
pub(super) fn find(line: &str) -> Vec<Place> {
    let mut found: Vec<Place> = Vec::new();
    for (at, _) in line.match_indices('@') {
        let from = found.last().map_or(0, |place| place.end);
        if at < from || found.len() == LINE_MOST {
            continue;
        }
        let Some(start) = start(line.get(from..at).unwrap_or_default()).map(|start| from + start) else { continue };
        let end = end(line, at + 1);
        let is_domain = line.get(at + 1..end).is_some_and(is_domain);
        if is_domain && end - start <= LONGEST {
            found.push(Place { start, end });
        }
    }
    found
}

/// Where the local part at the end of `before` begins.
fn start(before: &str) -> Option<usize> {
    if let Some(inner) = before.strip_suffix('"') {
        // A quoted string (RFC 5321, 4.1.2).
        let open = inner.rfind('"')?;
        return (open + 1 < inner.len()).then_some(open);
    }
    let allowed = |c: char| {
        c.is_ascii_alphanumeric() || "!#$%&*+-/=?^_`{|}~.".contains(c) || !c.is_ascii() && c.is_alphanumeric()
    };
    // `宛先ann@a.test`: writing without spaces runs into the address.
    let is_ascii = before.ends_with(|c: char| c.is_ascii());
    let allowed = |c: char| allowed(c) && !(is_ascii && is_unspaced(c));
    let mut start = before.char_indices().rev().take_while(|(_, c)| allowed(*c)).last().map(|(at, _)| at)?;
    // X.400 and others: `dda:SMTP=ann@a.test`, `smtp:ann@a.test`.
    for prefix in ["SMTP=", "RFC-822=", "RFC822=", "smtp=", "rfc822="] {
        if before.get(start..).is_some_and(|local| local.starts_with(prefix)) {
            start += prefix.len();
        }
    }
    let local = before.get(start..)?;
    start += local.len() - local.trim_start_matches(['*', '|', '`', '=', '/', '.', '-', '>']).len();
    (start < before.len()).then_some(start)
}

/// Where the domain that begins at `from` ends.
fn end(line: &str, from: usize) -> usize {
    let rest = line.get(from..).unwrap_or_default();
    if rest.starts_with('[') {
        return rest.find(']').map_or(from, |close| from + close + 1);
    }
    let allowed =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') || !c.is_ascii() && c.is_alphanumeric();
    let is_ascii = rest.starts_with(|c: char| c.is_ascii());
    let length = rest.find(|c| !allowed(c) || is_ascii && is_unspaced(c)).unwrap_or(rest.len());
    let domain = rest.get(..length).unwrap_or_default();
    // `ann@a.test...User unknown`.
    let domain = domain.split("..").next().unwrap_or(domain);
    from + domain.trim_end_matches(['.', '-', '_']).len()
}

/// Whether a character is of a writing that puts no space between words.
fn is_unspaced(c: char) -> bool {
    c >= '\u{2e80}'
}

fn is_domain(text: &str) -> bool {
    text.starts_with('[') || text.chars().any(char::is_alphanumeric) && text.starts_with(char::is_alphanumeric)
}

/// The address that a value is, or has in it: `<a@b>`, `Ann <a@b>`, `a@b`, or a local part alone in angle brackets.
pub(super) fn only(value: &str) -> Option<&str> {
    let value = value.trim();
    let place = find(value).into_iter().next();
    if let Some(address) = place.and_then(|place| value.get(place.start..place.end)) {
        return Some(address);
    }
    let inner = value.split_once('<').map_or(value, |(_, rest)| rest.split('>').next().unwrap_or(rest)).trim();
    let is_one = !inner.is_empty() && inner.len() <= LONGEST && !inner.contains(char::is_whitespace);
    is_one.then_some(inner)
}

/// Every address of a field's value.
pub(super) fn all(value: &str) -> impl Iterator<Item = &str> {
    find(value).into_iter().filter_map(|place| value.get(place.start..place.end))
}

/// Whether two are the same, as nearly all mail systems see it.
pub(super) fn same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// Whether somebody who runs a mail system is addressed, and no customer.
pub(super) fn is_role(address: &str) -> bool {
    let local = address.split('@').next().unwrap_or_default().to_ascii_lowercase();
    let known = [
        "postmaster",
        "mailer-daemon",
        "mailer_daemon",
        "abuse",
        "support",
        "hostmaster",
        "helpdesk",
        "mailmaster",
        "mailadmin",
    ];
    known.contains(&local.as_str())
}

/// The first address in a text.
pub(super) fn only_in(text: &str) -> Option<String> {
    find(text).first().and_then(|place| text.get(place.start..place.end)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> Vec<&str> {
        all(line).collect()
    }

    #[test]
    fn addresses_are_found_in_running_text() {
        for (line, wanted) in [
            ("<ann@a.test>: no such user", vec!["ann@a.test"]),
            ("ann@a.test, \"bob b\"@b.test; carl@c.test.", vec!["ann@a.test", "\"bob b\"@b.test", "carl@c.test"]),
            ("dda:SMTP=ann@a.test;", vec!["ann@a.test"]),
            ("b+x=y.test@s.test", vec!["b+x=y.test@s.test"]),
            ("ann@a.test...User unknown", vec!["ann@a.test"]),
            ("宛先ann@a.test様", vec!["ann@a.test"]),
            ("jörg@bücher.test", vec!["jörg@bücher.test"]),
            ("ann@[192.0.2.1]", vec!["ann@[192.0.2.1]"]),
            ("a@@b @c d@ @", vec![]),
            ("meet @ noon", vec![]),
        ] {
            assert_eq!(found(line), wanted, "{line}");
        }
    }

    #[test]
    fn a_value_is_its_address_or_a_name_alone() {
        assert_eq!(only("Ann <ann@a.test>"), Some("ann@a.test"));
        assert_eq!(only("<ann>"), Some("ann"));
        assert_eq!(only("no address here"), None);
        assert_eq!(only(""), None);
    }
}

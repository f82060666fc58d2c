//! The TXT record at `_smtp._tls.DOMAIN`: where reports go (RFC 8460, 3).

/// Addresses of one record that are reported to.
const MOST: usize = 5;

/// Where a report goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// By mail, to this address.
    Mail(Box<str>),
    /// By a POST to this URI.
    Https(Box<str>),
}

/// Where reports about a domain go; none: it has no record, or not one alone.
pub fn destinations(records: &[Vec<u8>]) -> Vec<Destination> {
    let mut own = records.iter().filter_map(|record| record_of(record));
    match (own.next(), own.next()) {
        (Some(rua), None) => rua.split(',').filter_map(|uri| destination(uri.trim())).take(MOST).collect(),
        // Several: as if there were none (3).
        _ => Vec::new(),
    }
}

/// The field `rua` of a record that is one of ours.
fn record_of(record: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(record).ok()?;
    let mut fields = text.split(';').map(str::trim);
    let (name, version) = fields.next()?.split_once('=')?;
    if name.trim() != "v" || version.trim() != "TLSRPTv1" {
        return None;
    }
    fields
        .filter_map(|field| field.split_once('='))
        .find_map(|(name, value)| (name.trim() == "rua").then(|| value.trim()))
}

fn destination(uri: &str) -> Option<Destination> {
    let (scheme, rest) = uri.split_once(':')?;
    if scheme.eq_ignore_ascii_case("mailto") {
        // Header fields that an URI may bring along (RFC 6068) are left out.
        let address = decoded(rest.split('?').next()?)?;
        return Some(Destination::Mail(address.into()));
    }
    let is_plain = uri.bytes().all(|octet| matches!(octet, b'!'..=b'~'));
    (scheme.eq_ignore_ascii_case("https") && rest.starts_with("//") && is_plain)
        .then(|| Destination::Https(decoded_separators(uri).into()))
}

/// `,` and `;` of the URI stand as their codes in the record (3).
fn decoded_separators(uri: &str) -> String {
    uri.replace("%2C", ",").replace("%2c", ",").replace("%3B", ";").replace("%3b", ";")
}

/// Octets in place of their codes (RFC 3986, 2.1); none where that is no text without control characters.
fn decoded(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'%' => {
                let code = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&code).ok()?, 16).ok()?
            }
            octet => octet,
        });
    }
    String::from_utf8(octets).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(records: &[&str]) -> Vec<String> {
        let records: Vec<Vec<u8>> = records.iter().map(|record| record.as_bytes().to_vec()).collect();
        let shown = |destination| match destination {
            Destination::Mail(to) => format!("mail {to}"),
            Destination::Https(to) => format!("post {to}"),
        };
        destinations(&records).into_iter().map(shown).collect()
    }

    #[test]
    fn every_address_of_the_one_record_is_reported_to() {
        let two = "v=TLSRPTv1; rua=mailto:r%2Ba@a.test?subject=x , https://r.a.test/v1?a=b%2Cc;";

        assert_eq!(of(&["v=spf1 -all", two]), ["mail r+a@a.test", "post https://r.a.test/v1?a=b,c"]);
        assert_eq!(of(&["v=TLSRPTv1;rua=MAILTO:r@a.test"]), ["mail r@a.test"]);
        assert_eq!(of(&["v=TLSRPTv1; x=y; rua=mailto:r@a.test"]), ["mail r@a.test"]);
    }

    #[test]
    fn what_is_no_record_is_reported_to_nobody() {
        let one = "v=TLSRPTv1; rua=mailto:r@a.test";
        for records in [
            &[][..],
            &["v=TLSRPTv2; rua=mailto:r@a.test"],
            &["rua=mailto:r@a.test; v=TLSRPTv1"],
            &["v=TLSRPTv1"],
            &["v=TLSRPTv1; rua=ftp://a.test, http://a.test, https:a, mailto:a%0d%0ab@a.test, mailto:%4"],
            &[one, one],
        ] {
            assert_eq!(of(records), Vec::<String>::new(), "{records:?}");
        }
    }
}

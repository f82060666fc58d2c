//! The DNS record of a key: how it is written into a zone, and whether what DNS has is it (RFC 6376, 3.6.1).

use super::key::Key;

/// Octets of one string of a TXT record (RFC 1035, 3.3).
const STRING_MOST: usize = 255;

/// What DNS has for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its record.
    Right,
    /// No record.
    Nothing,
    /// Several records: which one a verifier takes is undefined.
    Several(usize),
    /// Its record, with `t=y`: verifiers treat the domain as unsigned.
    Testing,
    /// The key was revoked: the tag `p` is empty.
    Revoked,
    /// Another record, and what is wrong with it.
    Other(&'static str),
}

/// The record as a line of a zone file, in strings that DNS can take.
pub fn zone_line(key: &Key) -> String {
    let record = key.record();
    let mut strings = Vec::new();
    let mut rest = record.as_str();
    while !rest.is_empty() {
        let (string, after) = rest.split_at(rest.len().min(STRING_MOST));
        strings.push(format!("\"{string}\""));
        rest = after;
    }
    let name = key.record_name();
    match strings.as_slice() {
        [only] => format!("{name}. IN TXT {only}"),
        several => format!("{name}. IN TXT ( {} )", several.join(" ")),
    }
}

/// Judges the TXT records of the key's name, their strings joined.
pub fn judge(key: &Key, records: &[String]) -> Found {
    let record = match records {
        [] => return Found::Nothing,
        [record] => record,
        several => return Found::Several(several.len()),
    };
    let Some(tags) = tags(record) else { return Found::Other("it is no list of tags") };
    let tag = |name: &str| tags.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
    let kind = key.algorithm().kind();
    let has = |name: &str, wanted: &str| tag(name).is_none_or(|list| list.split(':').any(|one| one == wanted));
    if tags.iter().position(|(name, _)| *name == "v").is_some_and(|place| place > 0)
        || tag("v").is_some_and(|v| v != "DKIM1")
    {
        return Found::Other("it does not begin with v=DKIM1");
    }
    match tag("p") {
        None => return Found::Other("it has no key (tag p)"),
        Some("") => return Found::Revoked,
        _ if tag("k").unwrap_or("rsa") != kind => return Found::Other("it is of another algorithm (tag k)"),
        Some(public) if public != key.public() => return Found::Other("it is another key (tag p)"),
        Some(_) => {}
    }
    if !has("h", "sha256") {
        return Found::Other("it does not allow sha256 (tag h)");
    }
    let services: Vec<&str> = tag("s").unwrap_or("*").split(':').collect();
    if !services.contains(&"*") && !services.contains(&"email") {
        return Found::Other("it is not for mail (tag s)");
    }
    match tag("t").is_some_and(|flags| flags.split(':').any(|flag| flag == "y")) {
        true => Found::Testing,
        false => Found::Right,
    }
}

/// Names and values, white space taken out of the values: none of those that matter has any.
fn tags(record: &str) -> Option<Vec<(&str, String)>> {
    let parts = record.trim().trim_end_matches(';').split(';');
    parts
        .map(|part| part.split_once('=').map(|(name, value)| (name.trim(), value.split_whitespace().collect())))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::key::{Strength, generate};
    use super::*;

    fn key(strength: Strength) -> Key {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k.pem");
        std::fs::write(&path, generate(strength).unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        Key::read("a.test", "s", &path).unwrap()
    }

    #[test]
    fn a_long_record_is_written_in_strings_that_join_to_it() {
        let key = key(Strength::Rsa2048);

        let line = zone_line(&key);

        let strings: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        assert!(line.starts_with("s._domainkey.a.test. IN TXT ( \"v=DKIM1; ") && line.ends_with("\" )"), "{line}");
        assert!(strings.len() == 2 && strings.iter().all(|string| string.len() <= 255));
        assert_eq!(strings.concat(), key.record());
    }

    #[test]
    fn what_dns_has_is_judged() {
        let key = key(Strength::Ed25519);
        let p = key.public();
        let judge = |record: String| judge(&key, &[record]);

        for good in [
            key.record(),
            format!("p={p}; k=ed25519"),
            format!("v=DKIM1;k=ed25519;h=sha1:sha256;s=email;t=s;\n p={} {};", &p[..9], &p[9..]),
        ] {
            assert_eq!(judge(good.clone()), Found::Right, "{good}");
        }
        assert_eq!(judge(format!("{}; t=y:s", key.record())), Found::Testing);
        assert_eq!(judge("v=DKIM1; k=ed25519; p=".to_owned()), Found::Revoked);
        for (bad, tag) in [
            (format!("p={p}"), "tag k"),
            (key.record().replace(p, "QUJD"), "tag p"),
            ("v=DKIM1; k=ed25519".to_owned(), "tag p"),
            (format!("{}; h=sha1", key.record()), "tag h"),
            (format!("{}; s=tlsrpt", key.record()), "tag s"),
            (format!("k=ed25519; p={p}; v=DKIM1"), "v=DKIM1"),
            ("v=spf1 -all".to_owned(), "v=DKIM1"),
            ("hello".to_owned(), "no list"),
        ] {
            let Found::Other(why) = judge(bad.clone()) else { panic!("{bad}") };
            assert!(why.contains(tag), "{bad}: {why}");
        }
        assert_eq!(super::judge(&key, &[]), Found::Nothing);
        assert_eq!(super::judge(&key, &[key.record(), key.record()]), Found::Several(2));
    }
}

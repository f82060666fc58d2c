//! The messages of `tests/data/bounces` and their labels.

use std::collections::BTreeMap;

/// Messages by their names.
pub type Mails = BTreeMap<String, Vec<u8>>;

const SISIMAI: &[u8] = include_bytes!("../data/bounces/sisimai/mail.zst");
const NOT: &[u8] = include_bytes!("../data/bounces/sisimai/not-a-bounce.zst");
const FLUFL: &[u8] = include_bytes!("../data/bounces/flufl/mail.zst");
const SISIMAI_LABELS: &str = include_str!("../data/bounces/sisimai/labels.tsv");
const FLUFL_LABELS: &str = include_str!("../data/bounces/flufl/labels.tsv");

/// As `tests/bounces/pack` packs them.
fn unpacked(packed: &[u8]) -> Mails {
    let octets = zstd::decode_all(packed).unwrap();
    let mut mails = Mails::new();
    let mut rest = octets.as_slice();
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest).unwrap();
        let (name, length) = std::str::from_utf8(&rest[..end]).unwrap().split_once('\t').unwrap();
        let (mail, behind) = rest[end + 1..].split_at(length.parse().unwrap());
        mails.insert(name.to_owned(), mail.to_vec());
        rest = behind;
    }
    mails
}

/// Sisimai's.
pub fn sisimai() -> Mails {
    unpacked(SISIMAI)
}

/// Mail that is no bounce.
pub fn not_a_bounce() -> Mails {
    unpacked(NOT)
}

/// GNU Mailman's.
pub fn flufl() -> Mails {
    unpacked(FLUFL)
}

/// What Sisimai's author says of one recipient.
#[derive(Clone, Debug)]
pub struct Label {
    pub status: &'static str,
    pub reply: &'static str,
    pub reason: &'static str,
    pub is_hard: bool,
}

/// Labels of Sisimai's messages, in the order of the recipients.
pub fn labels() -> BTreeMap<&'static str, Vec<Label>> {
    let mut labels: BTreeMap<_, Vec<Label>> = BTreeMap::new();
    for line in SISIMAI_LABELS.lines().skip(1) {
        let [file, _, status, reply, reason, hard, _] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        labels.entry(file).or_default().push(Label { status, reply, reason, is_hard: hard == "true" });
    }
    labels
}

/// Addresses of GNU Mailman's messages; several detectors may say something of one.
pub fn addresses() -> BTreeMap<&'static str, Vec<String>> {
    let mut labels: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for line in FLUFL_LABELS.lines().skip(1) {
        let fields: Vec<_> = line.split('\t').collect();
        let addresses = fields[3].split([' ', ',']).filter(|address| !address.is_empty()).map(str::to_lowercase);
        let of_file = labels.entry(fields[0]).or_default();
        of_file.extend(addresses);
        of_file.sort();
        of_file.dedup();
    }
    labels
}

/// FNV-1a; one file in five is held out.
pub fn is_held_out(file: &str) -> bool {
    file.bytes().fold(0x811c_9dc5_u32, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193)) % 5 == 0
}

/// The coarse class of one of Sisimai's reasons.
pub fn coarse_of_reason(reason: &str) -> &'static str {
    match reason {
        "userunknown" | "hasmoved" | "filtered" => "recipient",
        "mailboxfull" | "suspend" | "exceedlimit" => "mailbox-state",
        "hostunknown" | "notaccept" => "domain",
        "networkerror" | "expired" => "network",
        "blocked" | "badreputation" | "requireptr" => "reputation",
        "authfailure" | "failedstarttls" | "securityerror" => "auth",
        "policyviolation" | "rejected" | "spamdetected" | "virusdetected" | "contenterror" | "notcompliantrfc"
        | "mesgtoobig" | "norelaying" => "content-policy",
        "toomanyconn" | "speeding" => "rate",
        "systemerror" | "systemfull" | "mailererror" | "syntaxerror" => "system",
        "delivered" | "vacation" | "feedback" => "not-a-failure",
        "undefined" | "onhold" => "unknown",
        other => panic!("{other}"),
    }
}

/// The coarse class of one of ours.
pub fn coarse_of_class(class: &str) -> &'static str {
    match class {
        "bad-mailbox" | "mailbox-moved" | "recipient-rejected" => "recipient",
        "mailbox-full" | "inactive-mailbox" => "mailbox-state",
        "bad-domain" => "domain",
        "dns" | "network" | "timeout" | "expired" => "network",
        "reputation" | "greylisted" => "reputation",
        "authentication" | "tls-required" => "auth",
        "spam-content" | "virus" | "policy" | "protocol" | "message-too-large" | "relaying-denied"
        | "sender-rejected" => "content-policy",
        "rate-limited" | "too-many-connections" | "connection-used-up" | "recipient-limit" => "rate",
        "system" => "system",
        "unknown" => "unknown",
        other => panic!("{other}"),
    }
}

//! What the receivers' files say: who a message came from and to, and its content below the added trace fields.

use std::path::Path;

/// Fields that hikyaku, the receivers' delivery agents and smtp-sink's dumps put above the content.
const ADDED: [&str; 11] = [
    "received",
    "return-path",
    "envelope-to",
    "delivered-to",
    "x-original-to",
    "x-client-addr",
    "x-client-proto",
    "x-helo-args",
    "x-mail-args",
    "x-rcpt-args",
    "x-client-name",
];

/// One message as one recipient has it. Sent ones have the same form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival {
    pub recipient: String,
    pub reverse_path: String,
    /// With LF line ends, as receivers keep it.
    pub content: Vec<u8>,
}

/// Everything in a folder; files that are still being written have other names or folders.
pub fn read(folder: &Path) -> Vec<Arrival> {
    let is_sink = folder.ends_with("sink");
    let mut arrivals = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("temp.") {
            continue;
        }
        // It may have been renamed since it was listed.
        let Ok(octets) = std::fs::read(&path) else { continue };
        arrivals.extend(parse(&octets, is_sink));
    }
    arrivals
}

fn parse(octets: &[u8], is_sink: bool) -> Vec<Arrival> {
    let (mut rest, mut recipients, mut reverse_path) = (octets, Vec::new(), String::new());
    while let Some((name, value, next)) = field(rest).filter(|(name, ..)| ADDED.contains(&name.as_str())) {
        let address = || value.split(['<', '>']).nth(1).unwrap_or(value.trim()).to_owned();
        match name.as_str() {
            "envelope-to" | "x-rcpt-args" | "x-original-to" => recipients.push(address()),
            "return-path" | "x-mail-args" => reverse_path = address(),
            _ => {}
        }
        rest = next;
    }
    // smtp-sink ends each dump with an empty line of its own.
    let content = if is_sink { rest.strip_suffix(b"\n").unwrap_or(rest) } else { rest };
    let arrival = |recipient| Arrival { recipient, reverse_path: reverse_path.clone(), content: content.to_vec() };
    recipients.into_iter().map(arrival).collect()
}

/// The first field: its name in lower case, its value, and what follows it.
fn field(octets: &[u8]) -> Option<(String, String, &[u8])> {
    let mut end = octets.iter().position(|&octet| octet == b'\n')? + 1;
    while octets.get(end).is_some_and(|octet| b" \t".contains(octet)) {
        end += octets[end..].iter().position(|&octet| octet == b'\n')? + 1;
    }
    let (first, next) = octets.split_at(end);
    let text = String::from_utf8_lossy(first);
    let (name, value) = text.split_once(':')?;
    Some((name.to_ascii_lowercase(), value.to_owned(), next))
}

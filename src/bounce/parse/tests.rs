//! Families by their examples, and what no input may do.

use std::fmt::Write as _;

use super::*;

const FAMILIES: &str = include_str!("families.txt");

/// Example: its name, what is wanted of it, and the message.
fn examples() -> Vec<(&'static str, Vec<&'static str>, &'static str)> {
    let examples = FAMILIES.split("===== ").skip(1);
    let taken_apart = examples.map(|example| {
        let (first, message) = example.split_once('\n').unwrap();
        let mut wanted = first.split(" | ");
        (wanted.next().unwrap(), wanted.collect(), message)
    });
    taken_apart.collect()
}

/// As the examples write it.
fn told(parsed: &Parsed) -> Vec<String> {
    let mut out = vec![parsed.kind.to_string()];
    for recipient in &parsed.recipients {
        let mut line = recipient.address.clone().unwrap_or_default();
        let class = recipient.verdict.as_ref().map_or("-", |verdict| verdict.class.as_str());
        let permanent = if recipient.is_permanent() { "permanent" } else { "-" };
        let status = recipient.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
        let code = if recipient.reply_code == 0 { "-".to_owned() } else { recipient.reply_code.to_string() };
        write!(line, " {class} {permanent} {status} {code}").unwrap();
        out.push(line);
    }
    out
}

#[test]
fn every_family_reads_its_example() {
    let parser = Parser::built_in().unwrap();
    let mut wrong = Vec::new();

    for (name, wanted, message) in examples() {
        // Both line ends, since files have either.
        for message in [message.to_owned(), message.replace('\n', "\r\n")] {
            let told = told(&parser.parse(message.as_bytes()));
            if told != wanted {
                wrong.push(format!("{name}: {told:?}, wanted {wanted:?}"));
            }
        }
    }

    assert!(wrong.is_empty(), "{wrong:#?}");
}

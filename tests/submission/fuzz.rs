//! S8: the parsers take anything without a panic, and what they accept keeps its promises.

use hikyaku::message::header::{fields, length};
use hikyaku::smtp::address::Address;
use hikyaku::smtp::command::{Command, parse};
use hikyaku::smtp::data::Decoder;
use proptest::prelude::*;

/// Lines that are almost commands.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("MAIL FROM:<".to_owned()),
        Just("RCPT TO:<".to_owned()),
        Just("EHLO ".to_owned()),
        Just("BDAT ".to_owned()),
        Just("@x.test> ".to_owned()),
        Just("SIZE=".to_owned()),
        Just("ENVID=".to_owned()),
        Just("ORCPT=utf-8;\\x{".to_owned()),
        Just("ORCPT=rfc822;+".to_owned()),
        Just("NOTIFY=SUCCESS,".to_owned()),
        "[ -~]{0,8}",
        "\\PC{0,4}",
        "[@<>\"\\\\:,;=+\\[\\] \r\n\t\0]{0,4}",
    ];
    prop_oneof![
        prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..200),
    ]
}

fn is_plain(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn accepted_commands_hold_no_control_character(line in line()) {
        match parse(&line) {
            Ok(Command::Mail(path, parameters)) => {
                prop_assert!(is_plain(path.as_str()));
                prop_assert!(parameters.envid.as_deref().is_none_or(is_plain));
                prop_assert!(parameters.smtputf8 || path.as_str().is_ascii());
            }
            Ok(Command::Rcpt(_, parameters)) => prop_assert!(parameters.orcpt.as_deref().is_none_or(is_plain)),
            Ok(Command::Ehlo(name) | Command::Helo(name)) => prop_assert!(name.is_ascii() && is_plain(name)),
            _ => {}
        }
    }

    #[test]
    fn accepted_addresses_parse_back_to_themselves(text in "[a-zA-Zü.\"\\\\ @<>\\[\\]:0-9\r\n-]{0,30}") {
        if let Ok(address) = text.parse::<Address>() {
            prop_assert!(is_plain(address.as_str()));
            prop_assert_eq!(format!("{}@{}", address.local_part(), address.domain()), address.as_str());
            prop_assert_eq!(address.as_str().parse::<Address>(), Ok(address.clone()));
        }
    }

    #[test]
    fn fields_cover_the_header_section_without_gap(content in "([A-C]: ?[a-b]{0,3}|[ \t]x|:|x)?(\r\n)?(([A-C]: ?[a-b]{0,3}|[ \t]x|:|x)?\r\n){0,6}") {
        let content = content.as_bytes();
        let mut walk = fields(content);
        let mut at = 0;
        for field in walk.by_ref() {
            prop_assert_eq!(field.start, at);
            prop_assert!(field.end > field.start && field.end <= content.len());
            at = field.end;
        }
        prop_assert_eq!(walk.end(), at);
        prop_assert!(length(content).is_none_or(|length| length == at || length == at + 2));
    }

    #[test]
    fn decoded_content_is_never_longer_than_the_input(pieces in prop::collection::vec("[\r\n.a]{0,12}", 0..12)) {
        let (mut decoder, mut given, mut taken) = (Decoder::default(), 0, 0);
        for piece in &pieces {
            let decoded = decoder.decode(piece.as_bytes(), |part| taken += part.len());
            given += decoded.used;
            prop_assert!(decoded.used <= piece.len() && taken <= given);
            if decoded.has_ended {
                break;
            }
        }
    }
}

//! Tests of the command parser.

use super::super::extension::{BodyType, Notify};
use super::*;

fn reverse_path(line: &str) -> Result<String, CommandError> {
    match parse(line.as_bytes())? {
        Command::Mail(path, _) => Ok(path.as_str().to_owned()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn verbs_are_matched_without_case_and_trailing_spaces_are_tolerated() {
    assert_eq!(parse(b"quit  "), Ok(Command::Quit));
    assert_eq!(parse(b"DaTa"), Ok(Command::Data));
    assert_eq!(parse(b"bdat 12 last"), Ok(Command::Bdat(12, true)));
    assert_eq!(parse(b"EHLO client.test."), Ok(Command::Ehlo("client.test")));
    assert_eq!(parse(b"helo [127.0.0.1]"), Ok(Command::Helo("[127.0.0.1]")));
    assert_eq!(parse(b"NOOP whatever <it> is"), Ok(Command::Noop));
}

#[test]
fn unknown_verbs_are_told_from_those_not_offered() {
    for unknown in ["", " QUIT", "QUITX", "MAILFROM:<a@b>", "GET / HTTP/1.1", "X-LONGER-THAN-ANY"] {
        assert_eq!(parse(unknown.as_bytes()), Err(CommandError::Unrecognized), "{unknown:?}");
    }
    for unsupported in ["EXPN list", "ETRN x", "TURN"] {
        assert_eq!(parse(unsupported.as_bytes()), Ok(Command::Unsupported), "{unsupported:?}");
    }
}

#[test]
fn control_characters_and_bad_utf8_are_refused_wherever_they_stand() {
    for bad in [&b"NOOP\r"[..], b"NOOP\n", b"MAIL FROM:<a\0@b.test>", b"EHLO a\tb", b"VRFY \x7f", b"EHLO \xff", b"\x80"]
    {
        assert_eq!(parse(bad), Err(CommandError::Characters), "{bad:?}");
    }
    assert_eq!(parse(b"RCPT TO:<\xff@b.test>"), Err(CommandError::NonAscii));
    assert_eq!(parse(b"BDAT 1\n0"), Err(CommandError::ChunkSize));
}

#[test]
fn mail_keeps_path_and_parameters() {
    let Ok(Command::Mail(path, parameters)) = parse(b"MAIL FROM:<A.B@Example.COM> SIZE=10 BODY=8BITMIME") else {
        panic!("not MAIL");
    };

    assert_eq!(path.as_str(), "A.B@example.com");
    assert_eq!((parameters.size, parameters.body), (Some(10), Some(BodyType::EightBitMime)));
}

#[test]
fn null_reverse_path_and_loose_spacing_are_taken() {
    assert_eq!(reverse_path("MAIL FROM:<>").as_deref(), Ok(""));
    assert_eq!(reverse_path("mail from: <a@b.test>").as_deref(), Ok("a@b.test"));
    assert_eq!(reverse_path("MAIL FROM:<\"a>b\"@c.test> RET=FULL").as_deref(), Ok("\"a>b\"@c.test"));
}

#[test]
fn source_routes_are_checked_and_dropped() {
    assert_eq!(reverse_path("MAIL FROM:<@a.test,@b.test:u@c.test>").as_deref(), Ok("u@c.test"));
    for bad in
        ["MAIL FROM:<@a.test>", "MAIL FROM:<@:u@c.test>", "MAIL FROM:<@a test:u@c.test>", "MAIL FROM:<@a:@b:u@c>"]
    {
        assert!(matches!(reverse_path(bad), Err(CommandError::ReversePath(_))), "{bad}");
    }
}

#[test]
fn paths_out_of_their_grammar_are_refused() {
    for bad in [
        "RCPT TO:a@b.test",
        "RCPT TO:<a@b.test",
        "RCPT TO:<a@b.test>x",
        "RCPT TO:<a@b.test>NOTIFY=NEVER",
        "RCPT TO:<<a@b.test>>",
        "RCPT TO:<a b@c.test>",
        "RCPT TO:<>",
        "RCPT TO:<a@b.test,c@d.test>",
        "RCPT TO:<a@>",
        "RCPT TO:<\"a@b.test>",
        "RCPT TO:<a\u{2028}b@c.test>",
    ] {
        assert!(matches!(parse(bad.as_bytes()), Err(CommandError::ForwardPath(_))), "{bad}");
    }
    for bad in ["RCPT", "RCPT <a@b.test>", "MAIL FROM", "MAIL TO:<a@b.test>", "DATA x", "RSET now", "QUIT x", "VRFY"] {
        assert_eq!(parse(bad.as_bytes()), Err(CommandError::Argument), "{bad}");
    }
}

#[test]
fn bare_postmaster_is_a_recipient() {
    let parameters = RcptParameters { notify: Notify::UNSPECIFIED, orcpt: None };

    assert_eq!(parse(b"RCPT TO:<PostMaster>"), Ok(Command::Rcpt(Recipient::Postmaster, parameters)));
}

#[test]
fn non_ascii_addresses_need_smtputf8() {
    assert_eq!(reverse_path("MAIL FROM:<ü@b.test>"), Err(CommandError::NonAscii));
    assert_eq!(reverse_path("MAIL FROM:<ü@b.test> SMTPUTF8").as_deref(), Ok("ü@b.test"));
}

#[test]
fn a_chunk_size_that_cannot_be_read_is_an_error_of_its_own() {
    for bad in [
        "BDAT",
        "BDAT x",
        "BDAT -1",
        "BDAT 1 LAS",
        "BDAT 1 LAST x",
        "BDAT 99999999999999999999",
        "BDAT +1",
        "BDAT 0x10",
    ] {
        assert_eq!(parse(bad.as_bytes()), Err(CommandError::ChunkSize), "{bad}");
    }
}

#[test]
fn ehlo_names_that_would_soil_a_trace_field_are_refused() {
    for bad in [
        "",
        "a b",
        "a(b)",
        "a;b",
        "\"a\"",
        "<a>",
        "a\u{2028}b",
        "$(id)",
        "`id`",
        "[1.2.3]",
        "a..b",
        "-a",
        "ü.test",
        "a%0ab",
    ] {
        assert_eq!(parse(format!("EHLO {bad}").as_bytes()), Err(CommandError::Name), "{bad:?}");
    }
}

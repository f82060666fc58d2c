//! The mechanisms by the examples of their RFCs, and their dialogs out of order.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;

/// The user, password and salt of RFC 7677, 3.
struct Example;

impl Directory for Example {
    fn keys(&self, name: &str) -> Keys {
        assert!(matches!(name, "user" | "a,b=c"), "{name}");
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        Keys::with("pencil", salt, NonZeroU32::new(4_096).unwrap())
    }
}

fn exchange(mechanism: Mechanism) -> Exchange {
    Exchange::new(mechanism, [7; 18], false)
}

fn turn(mechanism: Mechanism, response: &[u8]) -> Turn {
    exchange(mechanism).respond(response, &Channel::default(), &Example)
}

/// What a client of `pencil` says after the server's first message.
fn last(bare: &str, challenge: &[u8], binding: &[u8]) -> String {
    let challenge = std::str::from_utf8(challenge).unwrap();
    let nonce = challenge.split(',').next().unwrap();
    let without = format!("c={},{nonce}", STANDARD.encode(binding));
    let message = format!("{bare},{challenge},{without}");
    let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    format!("{without},p={}", STANDARD.encode(proof("pencil", &salt, 4_096, message.as_bytes())))
}

/// RFC 5802, 3, by the client's side of the formulas.
fn proof(password: &str, salt: &[u8], iterations: u32, message: &[u8]) -> Vec<u8> {
    use aws_lc_rs::{digest, hmac, pbkdf2};
    let mac = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec();
    let mut salted = [0; 32];
    let rounds = NonZeroU32::new(iterations).unwrap();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, password.as_bytes(), &mut salted);
    let key = mac(&salted, b"Client Key");
    let signature = mac(digest::digest(&digest::SHA256, &key).as_ref(), message);
    key.iter().zip(signature).map(|(key, signature)| key ^ signature).collect()
}

fn is_right(turn: &Turn) -> bool {
    matches!(turn, Turn::Verify(Claim::Proof { name, is_right: true, .. }) if name == "user")
}

#[test]
fn the_example_of_rfc_7677_is_followed_to_the_octet() {
    // The server's nonce of the example is no base64 of 18 octets, so its messages are computed with the keys alone.
    let said = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let proof = STANDARD.decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").unwrap();

    let keys = Example.keys("user");

    assert!(keys.is_proof(said.as_bytes(), &proof));
    assert!(!keys.is_proof(said.replace("biws", "eSws").as_bytes(), &proof));
    assert!(!keys.is_proof(said.as_bytes(), proof.get(..31).unwrap()) && !keys.is_proof(said.as_bytes(), &[]));
    assert_eq!(STANDARD.encode(keys.signature(said.as_bytes())), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn scram_proves_both_sides_and_ends_with_an_empty_answer() {
    let (bare, mut exchange) = ("n=user,r=fyko+d2lbbFgONRv9qkxdawL", exchange(Mechanism::ScramSha256));
    let channel = Channel::default();

    let Turn::Challenge(first) = exchange.respond(format!("n,,{bare}").as_bytes(), &channel, &Example) else {
        panic!()
    };
    let claimed = exchange.respond(last(bare, &first, b"n,,").as_bytes(), &channel, &Example);
    let told = exchange.verified();
    let end = exchange.respond(b"", &channel, &Example);

    assert!(String::from_utf8_lossy(&first).starts_with("r=fyko+d2lbbFgONRv9qkxdawLBwcH"));
    assert!(is_right(&claimed));
    assert!(matches!(told, Turn::Challenge(told) if told.starts_with(b"v=")));
    assert_eq!(end, Turn::Done);
}

#[test]
fn plus_is_bound_to_the_channel_it_runs_on() {
    let channel = Channel { exporter: Some([9; 32]), server_end_point: Some(vec![8; 32]), certificate: None };
    let bare = "n=user,r=abc";
    for (flag, data, is_bound) in [
        ("p=tls-exporter", [9; 32], true),
        ("p=tls-exporter", [8; 32], false),
        ("p=tls-server-end-point", [8; 32], true),
        ("p=tls-server-end-point", [9; 32], false),
    ] {
        let mut exchange = Exchange::new(Mechanism::ScramSha256Plus, [7; 18], true);
        let header = format!("{flag},,");
        let Turn::Challenge(first) = exchange.respond(format!("{header}{bare}").as_bytes(), &channel, &Example) else {
            panic!("{flag}")
        };
        let binding = [header.as_bytes(), &data].concat();

        let claimed = exchange.respond(last(bare, &first, &binding).as_bytes(), &channel, &Example);

        assert_eq!(is_right(&claimed), is_bound, "{flag}");
        assert!(matches!(claimed, Turn::Verify(Claim::Proof { .. })), "{flag}");
    }
}

#[test]
fn a_client_that_was_told_of_no_plus_is_refused_where_it_was_offered() {
    let channel = Channel { exporter: Some([9; 32]), ..Channel::default() };
    for (mechanism, is_offered, flag, is_taken) in [
        (Mechanism::ScramSha256, true, "y", false),
        (Mechanism::ScramSha256, false, "y", true),
        (Mechanism::ScramSha256, true, "n", true),
        (Mechanism::ScramSha256, true, "p=tls-exporter", false),
        (Mechanism::ScramSha256Plus, true, "n", false),
        (Mechanism::ScramSha256Plus, true, "y", false),
        (Mechanism::ScramSha256Plus, true, "p=tls-unique", false),
        (Mechanism::ScramSha256Plus, true, "p=tls-server-end-point", false),
        (Mechanism::ScramSha256Plus, true, "p=tls-exporter", true),
    ] {
        let mut exchange = Exchange::new(mechanism, [7; 18], is_offered);

        let turn = exchange.respond(format!("{flag},,n=user,r=abc").as_bytes(), &channel, &Example);

        assert_eq!(matches!(turn, Turn::Challenge(_)), is_taken, "{mechanism:?} {flag}");
    }
}

#[test]
fn a_scram_message_that_breaks_its_grammar_is_no_claim() {
    for first in [
        "",
        "n",
        "n,,",
        "n,,n=user",
        "n,,n=,r=abc",
        "n,,n=user,r=",
        "n,,r=abc,n=user",
        "n,,m=x,n=user,r=abc",
        "x,,n=user,r=a",
        "n,b=x,n=user,r=abc",
        "n,,n=us=er,r=abc",
        "n,,n=us=2cer,r=abc",
        "n,,n=user,r=a b",
        "n,,n=us\0er,r=abc",
    ] {
        assert_eq!(turn(Mechanism::ScramSha256, first.as_bytes()), Turn::Malformed, "{first:?}");
    }
    assert!(matches!(turn(Mechanism::ScramSha256, b"n,,n=a=2Cb=3Dc,r=abc"), Turn::Challenge(_)));
    for last in ["", "c=biws", "c=biws,r=abc", "c=*,r=abc,p=AAAA", "c=biws,r=abc,p=*", "r=abc,c=biws,p=AAAA"] {
        let mut exchange = exchange(Mechanism::ScramSha256);
        exchange.respond(b"n,,n=user,r=abc", &Channel::default(), &Example);

        assert_eq!(exchange.respond(last.as_bytes(), &Channel::default(), &Example), Turn::Malformed, "{last:?}");
    }
}

#[test]
fn another_nonce_a_changed_header_and_another_identity_make_a_wrong_proof() {
    let bare = "n=user,r=abc";
    for (header, change, binding) in
        [("n,,", ("r=abc", "r=abd"), "n,,"), ("n,,", ("", ""), "y,,"), ("n,a=other,", ("", ""), "n,a=other,")]
    {
        let mut exchange = exchange(Mechanism::ScramSha256);
        let channel = Channel::default();
        let Turn::Challenge(first) = exchange.respond(format!("{header}{bare}").as_bytes(), &channel, &Example) else {
            panic!("{header}")
        };
        let first = String::from_utf8(first).unwrap().replace(change.0, change.1);

        let claimed = exchange.respond(last(bare, first.as_bytes(), binding.as_bytes()).as_bytes(), &channel, &Example);

        assert!(matches!(claimed, Turn::Verify(Claim::Proof { is_right: false, .. })), "{header} {change:?}");
    }
}

#[test]
fn plain_takes_three_parts_and_tells_who_wants_to_be_another() {
    let claim = |own| Turn::Verify(Claim::Password { name: "ann".into(), password: "pw".into(), is_own: own });

    assert_eq!(turn(Mechanism::Plain, b"\0ann\0pw"), claim(true));
    assert_eq!(turn(Mechanism::Plain, b"ann\0ann\0pw"), claim(true));
    assert_eq!(turn(Mechanism::Plain, b"bob\0ann\0pw"), claim(false));
    for bad in [&b""[..], b"ann", b"\0ann", b"\0\0pw", b"\0ann\0", b"\0ann\0p\0w", b"\0ann\0\xff"] {
        assert_eq!(turn(Mechanism::Plain, bad), Turn::Malformed, "{bad:?}");
    }
}

#[test]
fn login_asks_for_name_and_password() {
    let mut exchange = exchange(Mechanism::Login);
    assert_eq!(exchange.challenge(), b"Username:");

    let asked = exchange.respond(b"ann", &Channel::default(), &Example);
    let claimed = exchange.respond(b"pw", &Channel::default(), &Example);

    assert_eq!(asked, Turn::Challenge(b"Password:".to_vec()));
    assert!(matches!(claimed, Turn::Verify(Claim::Password { is_own: true, .. })));
    assert_eq!(exchange.verified(), Turn::Done);
    assert_eq!(exchange.verified(), Turn::Malformed, "once");
}

#[test]
fn external_gives_the_certificate_and_who_they_want_to_be() {
    let certificate = Some(Certificate { sha256: [1; 32], names: vec!["c.test".into()] });
    let channel = Channel { certificate: certificate.clone(), ..Channel::default() };

    for (response, name) in [("", None), ("ann", Some("ann".to_owned()))] {
        let claimed = exchange(Mechanism::External).respond(response.as_bytes(), &channel, &Example);

        assert_eq!(claimed, Turn::Verify(Claim::Certificate { certificate: certificate.clone(), name }));
    }
    assert_eq!(turn(Mechanism::External, b"a\0b"), Turn::Malformed);
}

#[test]
fn nothing_is_shown_of_a_password() {
    let mut exchange = exchange(Mechanism::Login);
    exchange.respond(b"secret", &Channel::default(), &Example);
    let claim = Claim::Password { name: "ann".into(), password: "secret".into(), is_own: true };

    assert!(!format!("{exchange:?}{claim:?}{:?}", Turn::Verify(claim.clone())).contains("secret"));
}

#[test]
fn mechanisms_are_found_by_name_in_any_case() {
    for (at, mechanism) in Mechanism::ALL.into_iter().enumerate() {
        assert_eq!(Mechanism::parse(&mechanism.as_str().to_lowercase()), Some(mechanism));
        assert_eq!(mechanism.index(), at);
    }
    assert_eq!(Mechanism::parse("CRAM-MD5"), None);
}

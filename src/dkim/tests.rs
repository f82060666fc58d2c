//! Signatures against the examples of RFC 8463 and a verifier of their own.

use std::os::unix::fs::PermissionsExt;

use aws_lc_rs::digest::{Context, Digest, SHA256};
use aws_lc_rs::signature::{
    ED25519, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::header::relaxed;
use super::*;
use crate::message::header::fields;

/// RFC 8463, A.3, with both signatures above it.
const RFC_8463: &str = include_str!("../../tests/data/dkim/rfc8463.eml");
const RFC_8463_RSA: &str = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qv\
                            x/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT\
                            +l/K4w3QIDAQAB";
/// RFC 8463, A.2: the seed behind the beginning of a PKCS#8 document.
const RFC_8463_SEED: &str = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";

fn crlf(text: &str) -> Vec<u8> {
    text.replace('\n', "\r\n").into_bytes()
}

fn tag(value: &[u8], name: &str) -> Option<String> {
    let text: String = String::from_utf8(value.to_vec()).unwrap().split_whitespace().collect();
    text.split(';').find_map(|tag| tag.strip_prefix(&format!("{name}="))).map(str::to_owned)
}

/// What a verifier hashes for the DKIM-Signature field of this place, and the field's value (RFC 6376, 3.7).
fn verifier_hash(message: &[u8], place: usize) -> (Vec<u8>, Vec<u8>) {
    let all: Vec<_> = fields(message).collect();
    let own = all.iter().filter(|field| field.is("DKIM-Signature")).nth(place).unwrap();
    let mut input = Vec::new();
    let mut left: Vec<_> = all.iter().rev().collect();
    for name in tag(own.value, "h").unwrap().split(':') {
        if let Some(at) = left.iter().position(|field| field.is(name)) {
            let field = left.remove(at);
            relaxed(&mut input, field.name, field.value);
            input.extend_from_slice(b"\r\n");
        }
    }
    let start = own.value.windows(2).rposition(|two| two == b"b=").unwrap() + 2;
    relaxed(&mut input, own.name, &own.value[..start]);
    (input, own.value.to_vec())
}

fn body_hash(message: &[u8]) -> String {
    let mut fields = fields(message);
    fields.by_ref().for_each(drop);
    STANDARD.encode(BodyHash::of(&message[fields.body()..]))
}

fn verifies(message: &[u8], place: usize, algorithm: &'static dyn VerificationAlgorithm, public: &[u8]) -> bool {
    let (input, value) = verifier_hash(message, place);
    let hashed = aws_lc_rs::digest::digest(&SHA256, &input);
    let signature = STANDARD.decode(tag(&value, "b").unwrap()).unwrap();
    let key = UnparsedPublicKey::new(algorithm, public);
    let is_good = match tag(&value, "a").as_deref() {
        Some("ed25519-sha256") => key.verify(hashed.as_ref(), &signature).is_ok(),
        _ => key.verify(&input, &signature).is_ok(),
    };
    is_good && tag(&value, "bh").unwrap() == body_hash(message)
}

fn write_key(folder: &std::path::Path, pem: &str) -> std::path::PathBuf {
    let path = folder.join("k.pem");
    std::fs::write(&path, pem).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn read_key(pem: &str) -> Key {
    let folder = tempfile::tempdir().unwrap();
    Key::read("football.example.com", "brisbane", &write_key(folder.path(), pem)).unwrap()
}

#[test]
fn the_ed25519_signature_of_rfc_8463_is_made_to_the_octet() {
    let der = [
        &[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20][..],
        &STANDARD.decode(RFC_8463_SEED).unwrap(),
    ]
    .concat();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der));
    let key = read_key(&pem);
    let (input, value) = verifier_hash(&crlf(RFC_8463), 0);

    let signature = key.sign(&hash_of(&input)).unwrap();

    assert_eq!(key.record(), "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
    assert_eq!(STANDARD.encode(signature), tag(&value, "b").unwrap());
    assert_eq!(body_hash(&crlf(RFC_8463)), tag(&value, "bh").unwrap());
}

fn hash_of(input: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(input);
    context.finish()
}

#[test]
fn the_rsa_signature_of_rfc_8463_verifies_over_our_forms() {
    let public = STANDARD.decode(RFC_8463_RSA).unwrap();

    assert!(verifies(&crlf(RFC_8463), 1, &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, &public));
    let changed = crlf(&RFC_8463.replace("hungry", "angry"));
    assert!(!verifies(&changed, 1, &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, &public));
}

/// A signer with an RSA and an Ed25519 key for a.test, and their public halves.
fn signer(required: &[&str], expiry: Option<Duration>) -> (Signer, Vec<Vec<u8>>) {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = Vec::new();
    for (selector, strength) in [("rsa", Strength::Rsa2048), ("ed", Strength::Ed25519)] {
        let place = folder.path().join(selector);
        std::fs::create_dir(&place).unwrap();
        let path = write_key(&place, &generate(strength).unwrap());
        keys.push(KeyFile { domain: "a.test".to_owned(), selector: selector.to_owned(), path });
    }
    let required = required.iter().map(|name| (*name).to_owned()).collect();
    let ring = Arc::new(Ring::read(&Settings { keys, required, expiry }).unwrap());
    let signer = Signer::new(2, Clock::system(), &Registry::new().unwrap());
    signer.prepare(&ring).unwrap();
    let public = ring.keys().iter().map(|key| STANDARD.decode(key.public()).unwrap()).collect();
    signer.apply(ring);
    (signer, public)
}

const MESSAGE: &str =
    "Received: x\r\nFrom: A <x@news.a.test>\r\nTo : b@c.test\r\nSubject: two  \r\n words\r\n\r\nbody  text \r\n \r\n";

async fn signed(signer: &Signer, content: Content, hash: Option<BodyHash>) -> Vec<u8> {
    let (content, by) = signer.sign(content, hash, UnixTime(1_700_000_000)).await.unwrap();
    assert_eq!(matches!(by, Signatures::By(_)), content.chunk(0, 5).unwrap().starts_with(b"DKIM-"));
    let mut out = Vec::new();
    while out.len() < usize::try_from(content.len()).unwrap() {
        out.extend_from_slice(&content.chunk(out.len() as u64, 1 << 20).unwrap());
    }
    out
}

fn memory(text: &str) -> Content {
    Content::Memory(text.to_owned().into())
}

#[tokio::test]
async fn both_keys_sign_on_top_and_nothing_else_changes() {
    let (signer, public) = signer(&[], None);

    let out = signed(&signer, memory(MESSAGE), None).await;

    assert!(out.ends_with(MESSAGE.as_bytes()));
    assert!(verifies(&out, 0, &RSA_PKCS1_2048_8192_SHA256, &public[0]));
    assert!(verifies(&out, 1, &ED25519, &public[1]));
    let text = String::from_utf8(out).unwrap();
    assert!(text.split("\r\n").all(|line| line.len() <= 78), "{text}");
    assert!(text.contains("d=a.test;") && text.contains("t=1700000000;") && !text.contains("x="), "{text}");
}

#[tokio::test]
async fn what_a_reader_sees_cannot_be_changed_or_added_to() {
    let (signer, public) = signer(&[], None);
    let text = String::from_utf8(signed(&signer, memory(MESSAGE), None).await).unwrap();
    let verifies = |text: &str| {
        verifies(text.as_bytes(), 0, &RSA_PKCS1_2048_8192_SHA256, &public[0])
            && verifies(text.as_bytes(), 1, &ED25519, &public[1])
    };

    assert!(verifies(&text.replace("Received: x", "Received: y")) && verifies(&text.replace("To : b", "TO:\tb")));
    for (old, new) in
        [("words", "other"), ("body  text", "bodytext"), ("b@c.test", "d@c.test"), ("t=1700000000", "t=1700000001")]
    {
        assert!(!verifies(&text.replace(old, new)), "{old}");
    }
    for name in ["From", "To", "Subject", "Date", "Message-ID", "List-Unsubscribe", "List-Unsubscribe-Post"] {
        for added in [format!("{name}: x\r\n{text}"), text.replace("\r\n\r\n", &format!("\r\n{name}: x\r\n\r\n"))] {
            assert!(!verifies(&added), "{added}");
        }
    }
}

#[tokio::test]
async fn a_body_in_a_file_has_the_same_signature_with_its_hash_taken_before_or_now() {
    let (signer, public) = signer(&[], Some(Duration::from_secs(60)));
    let body = "line  one \r\n".repeat(60_000);
    let header = "From: x@a.test\r\nSubject: s\r\n\r\n";
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, body.as_bytes(), 0).unwrap();
    let content = Content::File { prefix: header.into(), file: Arc::new(file), offset: 0, length: body.len() as u64 };
    let mut hash = BodyHash::default();
    body.as_bytes().chunks(1_000).for_each(|piece| hash.update(piece));

    let before = signed(&signer, content.clone(), Some(hash)).await;
    let now = signed(&signer, content, None).await;
    let whole = signed(&signer, memory(&format!("{header}{body}")), None).await;

    assert!(before == now && now == whole);
    assert!(verifies(&whole, 1, &ED25519, &public[1]));
    assert!(String::from_utf8(whole).unwrap().contains("t=1700000000; x=1700000060;"));
}

#[tokio::test]
async fn what_no_key_is_for_goes_as_it_is_or_not_at_all() {
    let (signer, _) = signer(&["b.test"], None);
    let other = MESSAGE.replace("a.test", "c.test");
    let required = MESSAGE.replace("news.a.test", "b.test");

    assert_eq!(signed(&signer, memory(&other), None).await, other.as_bytes());
    assert_eq!(signer.sign(memory(&required), None, UnixTime(0)).await.unwrap_err(), SignError::NoKey);

    let unsigned = signer.sign_own(required.clone().into(), UnixTime(0)).unwrap();
    assert_eq!(unsigned, (required.into(), Signatures::NoKey));
    let (own, by) = signer.sign_own(MESSAGE.into(), UnixTime(1_700_000_000)).unwrap();
    let names: Vec<_> = signer.ring().keys().iter().map(|key| key.record_name()).collect();
    assert_eq!(by.as_str(), names.join(","));
    assert_eq!(own, signed(&signer, memory(MESSAGE), None).await);
}

#[tokio::test]
async fn a_message_is_not_passed_on_when_its_body_cannot_be_read() {
    let (signer, _) = signer(&[], None);
    let file = Arc::new(tempfile::tempfile().unwrap());
    let content = Content::File { prefix: "From: x@a.test\r\n\r\n".into(), file, offset: 0, length: 5 };

    assert_eq!(signer.sign(content, None, UnixTime(0)).await.unwrap_err(), SignError::Failed);
}

//! Signatures, checked by a slow verifier that is written as RFC 6376 has it.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, LazyLock};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hikyaku::clock::{Clock, UnixTime};
use hikyaku::dkim::{Algorithm, BodyHash, Key, KeyFile, Ring, Settings, Signatures, Signer, Strength, generate};
use hikyaku::message::header::fields;
use hikyaku::metrics::Registry;
use hikyaku::smtp::content::normalize;

use super::{is_plain, pieces};

/// What nobody may add to a signed message.
const OVERSIGNED: [&str; 7] =
    ["From", "To", "Subject", "Date", "Message-ID", "List-Unsubscribe", "List-Unsubscribe-Post"];
/// When it is signed.
const TIME: UnixTime = UnixTime(1_795_318_696);

/// Signs for ed.test by Ed25519, and for both.test by RSA, too.
static SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = [("ed.test", "ed", Strength::Ed25519), ("both.test", "rsa", Strength::Rsa2048)];
    let keys = keys.into_iter().chain([("both.test", "ed", Strength::Ed25519)]).map(|(domain, selector, strength)| {
        let path = folder.path().join(format!("{selector}.{domain}"));
        std::fs::write(&path, generate(strength).expect("a key")).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a file of ours");
        KeyFile { domain: domain.to_owned(), selector: selector.to_owned(), path }
    });
    let settings = Settings { keys: keys.collect(), required: Vec::new(), expiry: None };
    let signer = Signer::new(1, Clock::system(), &Registry::new().expect("a registry"));
    signer.apply(Arc::new(Ring::read(&settings).expect("keys that were just made")));
    signer
});

/// Any message, its line ends made whole and its header section ended as admission does. The first octet puts a From field on
/// top, or does not, and says how the body is cut while it is hashed. Who reads a signed message by the RFC finds each
/// signature good, and none of them once a field that is signed beyond its last is added.
pub fn dkim(octets: &[u8]) {
    let Some((&choice, text)) = octets.split_first() else { return };
    let mut submitted = match choice % 4 {
        0 => b"From: x@ed.test\r\n".to_vec(),
        1 => b"From: X <x@news.both.test>\r\n".to_vec(),
        _ => Vec::new(),
    };
    normalize(text, &mut 0, &mut submitted);
    let (header, body) = parts(&submitted);
    let message = [header, b"\r\n", body].concat();

    let mut hash = BodyHash::default();
    pieces(body, choice).for_each(|piece| hash.update(piece));
    let expected = digest(&SHA256, &relaxed_body(body));
    assert_eq!(hash.finish().as_ref(), expected.as_ref(), "by {choice}");
    assert_eq!(BodyHash::of(body).as_ref(), expected.as_ref());

    let (signed, by) = SIGNER.sign_own(message.clone().into(), TIME).expect("a body in memory");
    let Signatures::By(names) = by else {
        assert!(signed == message, "it goes as it is");
        return;
    };
    let added = signed.strip_suffix(message.as_slice()).expect("nothing else changes");
    let added = String::from_utf8(added.to_vec()).expect("fields are text");
    assert!(added.split("\r\n").all(|line| line.len() <= 78 && is_plain(&line.replace('\t', " "))), "{added:?}");
    let ring = SIGNER.ring();
    let keys: Vec<&Key> = names.split(',').map(|name| key(&ring, name)).collect();
    for (place, key) in keys.iter().enumerate() {
        assert_eq!(verify(&signed, place, key), Ok(()), "{added:?} on {:?}", String::from_utf8_lossy(&message));
    }
    let name = OVERSIGNED[usize::from(choice / 4) % OVERSIGNED.len()];
    let (header, body) = parts(&signed);
    let changed = [header, name.as_bytes(), b": x\r\n\r\n", body].concat();
    assert_eq!(verify(&changed, 0, keys[0]), Err("signature"), "{name} can be added");
}

fn key<'a>(ring: &'a Ring, name: &str) -> &'a Key {
    ring.keys().iter().find(|key| key.record_name() == name).expect("a key of this name")
}

/// The fields, and what follows the empty line.
fn parts(message: &[u8]) -> (&[u8], &[u8]) {
    let mut walk = fields(message);
    walk.by_ref().for_each(drop);
    (&message[..walk.end()], &message[walk.body()..])
}

/// What is wrong with the signature of this place, from the top (RFC 6376, 6.1).
fn verify(message: &[u8], place: usize, key: &Key) -> Result<(), &'static str> {
    let own = fields(message).filter(|field| field.is("DKIM-Signature")).nth(place).ok_or("field")?;
    let value = std::str::from_utf8(own.value).map_err(|_| "text")?;
    let tags: Vec<(&str, String)> = value
        .split(';')
        .map(|tag| tag.split_once('=').map(|(name, value)| (name.trim(), value.split_whitespace().collect())))
        .collect::<Option<_>>()
        .ok_or("tags")?;
    let tag = |name: &str| {
        let mut found = tags.iter().filter(|(known, _)| *known == name).map(|(_, value)| value.as_str());
        found.next().filter(|_| found.next().is_none())
    };
    for (name, wanted) in [
        ("v", "1"),
        ("a", key.algorithm().as_str()),
        ("c", "relaxed/relaxed"),
        ("d", &*key.domain),
        ("s", &*key.selector),
        ("t", &TIME.0.to_string()),
    ] {
        if tag(name) != Some(wanted) {
            return Err("tag");
        }
    }
    if tag("bh") != Some(&STANDARD.encode(digest(&SHA256, &relaxed_body(parts(message).1)))) {
        return Err("body");
    }

    // 5.4.2: each name takes the lowest field that is left, and nothing where none is.
    let mut left: Vec<_> = fields(message).collect();
    let mut input = Vec::new();
    for name in tag("h").ok_or("names")?.split(':') {
        if let Some(at) = left.iter().rposition(|field| field.is(name)) {
            let field = left.remove(at);
            input.extend(relaxed_field(field.name, field.value));
        }
    }
    // 3.7: its own field last, with an empty tag b, which stands last in it, and no line end.
    let last = value.rfind(';').ok_or("b")?;
    let end = value[last..].find("b=").map(|at| last + at + 2).ok_or("b")?;
    let own = relaxed_field(own.name, &own.value[..end]);
    input.extend_from_slice(own.trim_ascii_end());
    let signature = STANDARD.decode(tag("b").ok_or("b")?).map_err(|_| "base64")?;
    let hashed = digest(&SHA256, &input);
    // RFC 8463, 3: what Ed25519 signs is the hash.
    let (algorithm, signed): (&dyn VerificationAlgorithm, &[u8]) = match key.algorithm() {
        Algorithm::Rsa => (&RSA_PKCS1_2048_8192_SHA256, &input),
        Algorithm::Ed25519 => (&ED25519, hashed.as_ref()),
    };
    let public = STANDARD.decode(key.public()).map_err(|_| "key")?;
    UnparsedPublicKey::new(algorithm, &public).verify(signed, &signature).map_err(|_| "signature")
}

/// 3.4.2, with the line end that follows.
fn relaxed_field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let unfolded: Vec<u8> = lines(value).concat();
    let mut form = name.to_ascii_lowercase();
    form.push(b':');
    form.extend(words(&unfolded).join(&b' '));
    form.extend_from_slice(b"\r\n");
    form
}

/// 3.4.4.
fn relaxed_body(body: &[u8]) -> Vec<u8> {
    let form = |line: &[u8]| {
        let words = words(line);
        let is_indented = line.starts_with(b" ") || line.starts_with(b"\t");
        [if is_indented && !words.is_empty() { b" ".as_slice() } else { b"" }, &words.join(&b' ')].concat()
    };
    let mut forms: Vec<Vec<u8>> = lines(body).into_iter().map(form).collect();
    while forms.last().is_some_and(Vec::is_empty) {
        forms.pop();
    }
    forms.into_iter().flat_map(|form| [form, b"\r\n".to_vec()].concat()).collect()
}

/// What is between line ends.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    lines
}

/// What is between runs of white space.
fn words(text: &[u8]) -> Vec<&[u8]> {
    text.split(|octet| matches!(octet, b' ' | b'\t')).filter(|word| !word.is_empty()).collect()
}

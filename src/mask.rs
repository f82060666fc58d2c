//! Addresses as others than their owners may see them: in the journal, the log and views of the queue.
//!
//! [`Mask::Hash`] puts a token in place of the local-part: AES-256-GCM-SIV of it under a key of the operator's, with a
//! fixed nonce, the domain being bound to it. The same address has the same token everywhere, so that events still join, and who
//! holds the key can ask for the address back ([`MaskKey::reveal`]). Without the key a token tells that two addresses are
//! equal, and how long the local-part is to within 16 octets; it cannot be guessed at, as a plain hash could. [`Mask::Partial`]
//! leaves the first character.
//!
//! Domains stay. Text from elsewhere (replies) is searched for addresses; it is masked rather too much than too little: a
//! Message-ID looks like an address.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::trusted::key::Secret;

/// What a token begins with.
const MARK: char = '~';
/// Local-parts are padded to a multiple of so many octets.
const BLOCK: usize = 16;
/// Ends what is padded (ISO/IEC 7816-4).
const END: u8 = 0x80;
/// What addresses are called where `=` stands before them: in selections, and in replies.
const NAMES: [&str; 9] = ["recipient", "sender", "to", "from", "rcpt", "orcpt", "user", "email", "address"];
/// A local-part that is shorter is not looked for where it stands without its domain: it would be found in every text.
const LEAST_WORD: usize = 2;

/// How addresses are shown.
#[derive(Clone, Debug, Default)]
pub enum Mask {
    /// As they are.
    #[default]
    None,
    /// `t***@example.com`.
    Partial,
    /// `~token@example.com`.
    Hash(Arc<MaskKey>),
}

/// The key of tokens. Never shown.
pub struct MaskKey(LessSafeKey);

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskKey")
    }
}

/// Why a token is not revealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevealError {
    /// It has another form.
    #[error("not a masked address: ~TOKEN@DOMAIN")]
    Form,
    /// It was made with another key or for another domain, or was changed.
    #[error("not made with this key, or changed since")]
    Key,
}

impl MaskKey {
    /// The key for tokens that a key file gives; `None` cannot be, since its length is right.
    pub fn new(secret: &Secret) -> Option<Self> {
        let key: [u8; 32] = secret.derive(&[b"hikyaku address mask"]);
        UnboundKey::new(&AES_256_GCM_SIV, &key).ok().map(LessSafeKey::new).map(Self)
    }

    /// The token in place of a local-part; `None` cannot be.
    fn token(&self, local: &str, domain: &str) -> Option<String> {
        let mut octets = local.as_bytes().to_vec();
        octets.push(END);
        octets.resize(octets.len().next_multiple_of(BLOCK), 0);
        let bound = Aad::from(domain.to_lowercase());
        self.0.seal_in_place_append_tag(nonce(), bound, &mut octets).ok()?;
        Some(format!("{MARK}{}", URL_SAFE_NO_PAD.encode(octets)))
    }

    fn local_part(&self, token: &str, domain: &str) -> Result<String, RevealError> {
        let encoded = token.strip_prefix(MARK).ok_or(RevealError::Form)?;
        let mut octets = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| RevealError::Form)?;
        let bound = Aad::from(domain.to_lowercase());
        let padded = self.0.open_in_place(nonce(), bound, &mut octets).map_err(|_| RevealError::Key)?;
        let end = padded.iter().rposition(|octet| *octet == END).ok_or(RevealError::Key)?;
        let local = padded.get(..end).unwrap_or_default();
        std::str::from_utf8(local).map(str::to_owned).map_err(|_| RevealError::Key)
    }

    /// The address that was masked.
    pub fn reveal(&self, masked: &str) -> Result<String, RevealError> {
        let bare = masked.strip_prefix('<').and_then(|path| path.strip_suffix('>')).unwrap_or(masked);
        let (token, domain) = bare.rsplit_once('@').ok_or(RevealError::Form)?;
        Ok(format!("{}@{domain}", self.local_part(token, domain)?))
    }

    /// A text with all addresses revealed that this key has masked; how many of them, and how many look so and are not.
    pub fn reveal_text(&self, text: &str) -> (String, usize, usize) {
        let (mut revealed, mut foreign) = (0, 0);
        let reveal = |local: &str, domain: &str| match self.local_part(local, domain) {
            Ok(plain) => {
                revealed += 1;
                Some(format!("{plain}@{domain}"))
            }
            Err(RevealError::Key) => {
                foreign += 1;
                None
            }
            Err(RevealError::Form) => None,
        };
        let out = rewrite(text, reveal, |between| between.into()).into_owned();
        (out, revealed, foreign)
    }
}

/// Fixed: one address must have one token. GCM-SIV bears that (RFC 8452, 9), telling equality only.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

impl Mask {
    /// Tokens under the key of this secret.
    pub fn hash(secret: &Secret) -> Self {
        // There is always a key; should there be none, less is shown, not more.
        MaskKey::new(secret).map_or(Self::Partial, |key| Self::Hash(Arc::new(key)))
    }

    /// Whether addresses are shown as they are.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// An address as it is shown; the null reverse-path stays what it is.
    pub fn masked<'a>(&self, address: &'a str) -> Cow<'a, str> {
        match address.rsplit_once('@') {
            Some((local, domain)) if !self.is_none() => self.shown(local, domain).into(),
            _ => address.into(),
        }
    }

    fn shown(&self, local: &str, domain: &str) -> String {
        let local: Cow<'_, str> = match self {
            Self::None => local.into(),
            Self::Partial => match local.chars().next().filter(|_| local.chars().nth(1).is_some()) {
                Some(first) => format!("{first}***").into(),
                None => "***".into(),
            },
            // Nothing would be worse than the address itself.
            Self::Hash(key) => key.token(local, domain).map_or_else(|| "***".into(), Cow::Owned),
        };
        format!("{local}@{domain}")
    }

    /// A text with every address in it masked.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.text_about(text, &[])
    }

    /// [`Mask::text`] of a text about these addresses, whose local-parts are masked where they stand alone, too.
    pub fn text_about<'a>(&self, text: &'a str, addresses: &[&str]) -> Cow<'a, str> {
        if self.is_none() {
            return text.into();
        }
        let known = addresses.iter().filter_map(|address| {
            let (local, domain) = address.rsplit_once('@')?;
            let word = local.strip_prefix('"').and_then(|local| local.strip_suffix('"')).unwrap_or(local);
            (word.len() >= LEAST_WORD).then(|| (word.to_ascii_lowercase(), self.shown(local, domain)))
        });
        let words: Vec<(String, String)> = known.collect();
        let mask = |local: &str, domain: &str| {
            let is_masked = match self {
                Self::Hash(key) => key.local_part(local, domain).is_ok(),
                _ => local.ends_with("***"),
            };
            Some(if is_masked { format!("{local}@{domain}") } else { self.shown(local, domain) })
        };
        rewrite(text, mask, |between| replace_words(between, &words))
    }
}

/// A text with words replaced, each given in lower case with what it becomes, wherever they stand between what is neither
/// letter nor digit.
fn replace_words<'a>(text: &'a str, words: &[(String, String)]) -> Cow<'a, str> {
    if words.is_empty() {
        return text.into();
    }
    let lower = text.to_ascii_lowercase();
    let is_part = |c: char| c.is_alphanumeric();
    let stands_alone = |at: usize, end: usize| {
        let before = text.get(..at).and_then(|before| before.chars().next_back());
        let after = text.get(end..).and_then(|after| after.chars().next());
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    };
    let next = |from: usize| {
        let of = |(word, with): &(String, String)| {
            let mut places = lower.get(from..)?.match_indices(word.as_str()).map(|(at, _)| from + at);
            let at = places.find(|at| stands_alone(*at, at + word.len()))?;
            Some((at, at + word.len(), with.clone()))
        };
        words.iter().filter_map(of).min_by_key(|(at, end, _)| (*at, usize::MAX - end))
    };
    let (mut out, mut done) = (String::new(), 0);
    while let Some((at, end, with)) = next(done) {
        out.push_str(text.get(done..at).unwrap_or_default());
        out.push_str(&with);
        done = end;
    }
    if done == 0 {
        return text.into();
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out.into()
}

/// Puts what `address` makes of local-part and domain in place of all that looks like an address and that it wants to change,
/// and what `between` makes of it in place of the rest.
fn rewrite<'a>(
    text: &'a str,
    mut address: impl FnMut(&str, &str) -> Option<String>,
    between: impl for<'b> Fn(&'b str) -> Cow<'b, str>,
) -> Cow<'a, str> {
    let (mut out, mut done, mut from) = (String::new(), 0, 0);
    while let Some((at, length)) = separator(text, from) {
        from = at + length;
        let start = local_start(text.get(done..at).unwrap_or_default()) + done;
        let domain = domain_of(text.get(from..).unwrap_or_default());
        let local = text.get(start..at).unwrap_or_default();
        if local.is_empty() || domain.is_empty() {
            continue;
        }
        if let Some(changed) = address(local, domain) {
            out.push_str(&between(text.get(done..start).unwrap_or_default()));
            out.push_str(&changed);
            done = from + domain.len();
            from = done;
        }
    }
    if done == 0 {
        return between(text);
    }
    out.push_str(&between(text.get(done..).unwrap_or_default()));
    out.into()
}

/// The next `@`, or the same as URLs have it.
fn separator(text: &str, from: usize) -> Option<(usize, usize)> {
    let rest = text.get(from..)?;
    let places = [("@", rest.find('@')), ("%40", rest.find("%40"))];
    let found = places.into_iter().filter_map(|(what, at)| Some((from + at?, what.len())));
    found.min()
}

/// Where the local-part begins that ends a text.
fn local_start(text: &str) -> usize {
    if let Some(quoted) = text.strip_suffix('"') {
        // The nearest quote that is not escaped; without one it is none.
        let opening = quoted
            .char_indices()
            .rev()
            .find(|(at, c)| *c == '"' && !quoted.get(..*at).is_some_and(|before| before.ends_with('\\')));
        if let Some((at, _)) = opening {
            return at;
        }
    }
    let is_local = |c: char| c.is_alphanumeric() || ".!#$%&'*+-/=?^_`{|}~".contains(c);
    let end = text.char_indices().rev().find(|(_, c)| !is_local(*c));
    let start = end.map_or(0, |(at, c)| at + c.len_utf8());
    // A name of what stands behind it is none of the address, which else had another token than everywhere else.
    let named = text.get(start..).and_then(|local| local.split_once('=')).map(|(name, _)| name);
    let is_name = |name: &&str| NAMES.iter().any(|known| known.eq_ignore_ascii_case(name));
    start + named.filter(is_name).map_or(0, |name| name.len() + 1)
}

/// The domain that begins a text.
fn domain_of(text: &str) -> &str {
    if text.starts_with('[') {
        return text.find(']').and_then(|end| text.get(..=end)).unwrap_or_default();
    }
    let is_domain = |c: char| c.is_alphanumeric() || c == '-' || c == '.';
    let end = text.find(|c| !is_domain(c)).unwrap_or(text.len());
    text.get(..end).unwrap_or_default().trim_end_matches(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> Arc<MaskKey> {
        Arc::new(MaskKey::new(&Secret::new([number; 32])).unwrap())
    }

    #[test]
    fn a_token_is_the_same_for_the_same_address_and_gives_it_back_to_its_key_only() {
        let mask = Mask::Hash(key(1));
        for address in ["tom@example.com", "\"a b\"@x.test", "T\u{e9}a@x.test", "a-local-part-of-more-than-16@x.test"] {
            let masked = mask.masked(address);
            let (local, domain) = address.rsplit_once('@').unwrap();

            assert!(!masked.contains(local) && masked.ends_with(&format!("@{domain}")), "{masked}");
            assert_eq!(masked, mask.masked(address));
            assert_eq!(key(1).reveal(&masked).as_deref(), Ok(address));
            assert_eq!(key(2).reveal(&masked), Err(RevealError::Key));
            assert_eq!(key(1).reveal(&masked.replace(domain, "other.test")), Err(RevealError::Key));
        }
        assert_eq!(key(1).reveal("tom@example.com"), Err(RevealError::Form));
    }

    #[test]
    fn lengths_are_told_in_steps_of_sixteen() {
        let mask = Mask::Hash(key(1));
        let length = |local: &str| mask.masked(&format!("{local}@x.test")).len();

        assert_eq!(length("a"), length("fifteen-octets."));
        assert!(length("a") < length("sixteen-octets.."));
    }

    #[test]
    fn every_address_in_a_text_is_masked_and_the_rest_stays() {
        let text = "5.1.1 <Tom.O'Neil+x@Example.COM>: mailto:tom%40example.com, \"a b\"@[192.0.2.1] or a@b.test. x";

        let masked = Mask::Partial.text(text);

        let expected = "5.1.1 <T***@Example.COM>: mailto:t***@example.com, \"***@[192.0.2.1] or ***@b.test. x";
        assert_eq!(masked, expected);
        assert_eq!(Mask::Partial.text(&masked), masked);
        assert_eq!(Mask::None.text(text), text);
        for plain in ["no address", "@", "a @ b", "@example.com", "tom@"] {
            assert_eq!(Mask::Partial.text(plain), plain);
        }
    }

    #[test]
    fn an_address_has_its_token_behind_a_name_too_and_comes_back() {
        let mask = Mask::Hash(key(1));
        let (token, text) = (mask.masked("tom@x.test"), "recipient=tom@x.test sender=\"a b\"@x.test To=tom@x.test");

        let masked = mask.text(text);

        assert_eq!(masked.matches(&format!("={token}")).count(), 2, "{masked}");
        assert!(
            masked.starts_with("recipient=~") && masked.contains("sender=~") && !masked.contains("a b"),
            "{masked}"
        );
        assert_eq!(key(1).reveal_text(&masked).0, text);
        // As a whole: whoever has such an address is not told apart from who has `x`.
        assert!(mask.text("other=x@x.test").starts_with('~'));
    }

    #[test]
    fn local_parts_are_masked_where_they_stand_alone() {
        let about = |text| Mask::Partial.text_about(text, &["tom@x.test"]).into_owned();

        assert_eq!(
            about("user Tom unknown: TOM, tom=x.test"),
            "user t***@x.test unknown: t***@x.test, t***@x.test=x.test"
        );
        assert_eq!(about("customs tomorrow"), "customs tomorrow");
        assert_eq!(Mask::Partial.text_about("a user", &["a@x.test"]), "a user");
    }

    #[test]
    fn a_text_is_revealed_as_a_whole_and_what_another_key_made_is_counted() {
        let (mask, other) = (Mask::Hash(key(1)), Mask::Hash(key(2)));
        let text = format!("{} and {}", mask.text("<tom@x.test>: no"), other.masked("eve@x.test"));

        let (revealed, count, foreign) = key(1).reveal_text(&text);

        assert!(revealed.starts_with("<tom@x.test>: no and ~"), "{revealed}");
        assert_eq!((count, foreign), (1, 1));
        // Masked once is masked enough.
        assert_eq!(mask.text(&mask.text("<tom@x.test>")), mask.text("<tom@x.test>"));
    }
}

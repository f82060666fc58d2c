//! Keys of the log: which there are, and the cipher of one segment.
//!
//! Records of an encrypted segment are sealed with AES-256-GCM under a key of that segment alone: HKDF-SHA256 of the key
//! file's secret over the segment's number and a random salt of 256 bits in its header ([`Binding`]).
//!
//! The nonce is the record's offset in the segment and the number of the part (0 header and fields, 1 content). Under one
//! key it never comes twice:
//!
//! * A salt is made with the file, by the process that then writes to it; no other process ever writes to that file:
//!   recovery reads the segments of earlier starts and leaves their torn tails as they are, and what it says about them
//!   goes to a new segment with a salt of its own.
//! * Within the process the tail's offset only grows, and only one thread at a time has the tail. An offset is used again
//!   only if a write failed; then the tail is `broken`, nothing more is written to that segment, and what it held is
//!   encrypted anew, from the plain records in memory, for the next one (`log::tail`).
//! * Octets that a power cut tears were written once; nothing is written over them.
//!
//! So the worst that a crash leaves is a part of one ciphertext.

use std::fmt;
use std::io;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::text::hex;
use crate::trusted::key::Secret;

use super::segment;
use super::wire::put_at;

/// Octets of an authentication tag.
pub const TAG: usize = 16;

/// Names a key without telling anything about it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl KeyId {
    /// The id of a secret.
    pub fn of(secret: &Secret) -> Self {
        Self(secret.derive(&[b"hikyaku spool key id"]))
    }
}

/// What a segment's header says about its encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The key file's key.
    pub key: KeyId,
    /// Random, made for this file.
    pub salt: [u8; 32],
}

/// A segment is encrypted with a key that is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is encrypted with key {key}, which is not there; {}", segment::path(*segment), .known)]
pub struct MissingKey {
    /// The segment.
    pub segment: u32,
    /// Its key.
    pub key: KeyId,
    /// The keys that are there, in words.
    pub known: String,
}

impl From<MissingKey> for io::Error {
    fn from(error: MissingKey) -> Self {
        Self::new(io::ErrorKind::PermissionDenied, error)
    }
}

/// The keys that a log is read with, and the one that it is written with.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    all: Arc<[(KeyId, Secret)]>,
    writes: bool,
}

impl Keys {
    /// All of them read; the first one writes, if new segments are to be encrypted at all.
    pub fn new(secrets: impl IntoIterator<Item = Secret>, writes: bool) -> Self {
        let all = secrets.into_iter().map(|secret| (KeyId::of(&secret), secret)).collect();
        Self { all, writes }
    }

    /// Whether new segments are encrypted.
    pub fn writes(&self) -> bool {
        self.writes && !self.all.is_empty()
    }

    /// A binding for a new segment, if it is to be encrypted.
    pub fn bind(&self) -> io::Result<Option<Binding>> {
        let Some((key, _)) = self.all.first().filter(|_| self.writes) else { return Ok(None) };
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(io::Error::other)?;
        Ok(Some(Binding { key: *key, salt }))
    }

    /// The cipher of a segment; `None` if it is not encrypted.
    pub fn cipher(&self, segment: u32, binding: Option<&Binding>) -> Result<Option<Arc<Cipher>>, MissingKey> {
        let Some(Binding { key, salt }) = binding else { return Ok(None) };
        let Some((_, secret)) = self.all.iter().find(|(id, _)| id == key) else {
            return Err(MissingKey { segment, key: *key, known: self.known() });
        };
        let derived = secret.derive(&[b"hikyaku spool segment", &segment.to_le_bytes(), salt]);
        Ok(Some(Arc::new(Cipher::new(&derived))))
    }

    fn known(&self) -> String {
        let ids: Vec<String> = self.all.iter().map(|(id, _)| id.to_string()).collect();
        if ids.is_empty() { "no key was given".into() } else { format!("the keys given are {}", ids.join(", ")) }
    }
}

/// Encrypts and authenticates under one key, which nothing else uses.
pub struct Cipher(Option<LessSafeKey>);

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher")
    }
}

impl Cipher {
    /// AES-256-GCM with this key.
    pub fn new(key: &[u8; 32]) -> Self {
        // A key of the right length is never refused.
        Self(UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new))
    }

    /// Encrypts `octets`, whose last [`TAG`] are room for the tag. `place` and `part` must come once under this key.
    #[must_use]
    pub fn seal(&self, place: u64, part: u32, bound: &[u8], octets: &mut [u8]) -> bool {
        let Some((plain, room)) = octets.split_last_chunk_mut::<TAG>() else {
            return false;
        };
        let Some(key) = &self.0 else { return false };
        let Ok(tag) = key.seal_in_place_separate_tag(nonce(place, part), Aad::from(bound), plain) else { return false };
        room.copy_from_slice(tag.as_ref());
        true
    }

    /// Decrypts what [`Cipher::seal`] left; the room of the tag is zeroed. False if it is not that: then nobody knows what
    /// `octets` hold.
    #[must_use]
    pub fn open(&self, place: u64, part: u32, bound: &[u8], octets: &mut [u8]) -> bool {
        let is_sound =
            self.0.as_ref().is_some_and(|key| key.open_in_place(nonce(place, part), Aad::from(bound), octets).is_ok());
        if let Some(room) = octets.last_chunk_mut::<TAG>() {
            *room = [0; TAG];
        }
        is_sound
    }
}

fn nonce(place: u64, part: u32) -> Nonce {
    let mut octets = [0; 12];
    put_at(&mut octets, 0, &place.to_le_bytes());
    put_at(&mut octets, 8, &part.to_le_bytes());
    Nonce::assume_unique_for_key(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_at_its_place_only() {
        let cipher = Cipher::new(&[7; 32]);
        let mut octets = b"content".to_vec();
        octets.resize(7 + TAG, 0);
        assert!(cipher.seal(4096, 1, b"header", &mut octets));

        for (place, part, bound) in [(4104, 1, &b"header"[..]), (4096, 0, b"header"), (4096, 1, b"Header")] {
            assert!(!cipher.open(place, part, bound, &mut octets.clone()));
        }
        assert!(!Cipher::new(&[8; 32]).open(4096, 1, b"header", &mut octets.clone()));
        assert!(cipher.open(4096, 1, b"header", &mut octets));
        assert_eq!(octets, [b"content".as_slice(), &[0; TAG]].concat());
    }

    #[test]
    fn the_first_key_writes_and_all_read() {
        let (old, new) = (Secret::new([1; 32]), Secret::new([2; 32]));
        let before = Keys::new([old.clone()], true).bind().unwrap().unwrap();
        let keys = Keys::new([new.clone(), old], true);

        let now = keys.bind().unwrap().unwrap();

        assert_eq!(now.key, KeyId::of(&new));
        assert!([before, now].iter().all(|binding| keys.cipher(1, Some(binding)).unwrap().is_some()));
        let missing = Keys::new([new], true).cipher(9, Some(&before)).unwrap_err().to_string();
        for part in ["segments/0000000000000009.seg", &before.key.to_string(), &now.key.to_string()] {
            assert!(missing.contains(part), "{missing}");
        }
        assert!(Keys::new([Secret::new([1; 32])], false).bind().unwrap().is_none());
    }
}

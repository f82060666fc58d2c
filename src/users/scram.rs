//! What a server keeps for SCRAM-SHA-256 (RFC 5802, 3; RFC 7677), written as RFC 5803 does:
//! `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
//!
//! Weaker than Argon2id against who has the file, and enough to play the server: so it is by choice for each user.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Rounds of a key that is made here, and the least that the file may have.
pub const ITERATIONS: u32 = 100_000;
/// The client works them all out: more are a mistake.
const ITERATIONS_MOST: u32 = 10_000_000;
/// Octets of SHA-256.
const LENGTH: usize = 32;

/// A user's keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Rounds of PBKDF2.
    pub iterations: NonZeroU32,
    /// Told to everybody who asks.
    pub salt: Vec<u8>,
    stored: [u8; LENGTH],
    server: [u8; LENGTH],
}

/// Why a text gives no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// Not of the form.
    #[error("not of the form SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey> (RFC 5803)")]
    Form,
    /// Too few or too many rounds.
    #[error("a number of iterations that is not allowed: 100000 to 10000000")]
    Iterations,
    /// The system gives no random numbers.
    #[error("no random numbers")]
    Random,
}

impl Keys {
    /// Keys of a password, prepared, with a new salt. Takes some 20 ms.
    pub fn new(password: &str) -> Result<Self, KeysError> {
        let mut salt = vec![0; 16];
        rand::fill(&mut salt).map_err(|_| KeysError::Random)?;
        Ok(Self::with(password, salt, NonZeroU32::new(ITERATIONS).unwrap_or(NonZeroU32::MIN)))
    }

    /// The same with a salt and a number of rounds.
    pub fn with(password: &str, salt: Vec<u8>, iterations: NonZeroU32) -> Self {
        let mut salted = [0; LENGTH];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
        let client = mac(&salted, b"Client Key");
        Self { iterations, salt, stored: sha256(&client), server: mac(&salted, b"Server Key") }
    }

    /// Keys that no password has, for users that there are not: `secret` makes the same salt of a name each time.
    pub fn of_nobody(secret: &[u8], name: &str, iterations: NonZeroU32) -> Self {
        let part = |what: &str| mac(secret, format!("{what}\0{name}").as_bytes());
        let salt = part("salt").get(..16).unwrap_or_default().to_vec();
        Self { iterations, salt, stored: part("stored"), server: part("server") }
    }

    /// Whether a client's proof is of this password (RFC 5802, 3).
    pub fn is_proof(&self, message: &[u8], proof: &[u8]) -> bool {
        let signature = mac(&self.stored, message);
        let client: Vec<u8> = proof.iter().zip(signature).map(|(proof, signature)| proof ^ signature).collect();
        let is_right = constant_time::verify_slices_are_equal(&sha256(&client), &self.stored).is_ok();
        proof.len() == LENGTH && is_right
    }

    /// What shows the client that we are the server.
    pub fn signature(&self, message: &[u8]) -> [u8; LENGTH] {
        mac(&self.server, message)
    }
}

fn mac(key: &[u8], message: &[u8]) -> [u8; LENGTH] {
    array(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref())
}

fn sha256(message: &[u8]) -> [u8; LENGTH] {
    array(digest::digest(&digest::SHA256, message).as_ref())
}

/// SHA-256 has that many octets.
fn array(octets: &[u8]) -> [u8; LENGTH] {
    octets.try_into().unwrap_or([0; LENGTH])
}

impl FromStr for Keys {
    type Err = KeysError;

    fn from_str(text: &str) -> Result<Self, KeysError> {
        let rest = text.strip_prefix("SCRAM-SHA-256$").ok_or(KeysError::Form)?;
        let (head, keys) = rest.split_once('$').ok_or(KeysError::Form)?;
        let (iterations, salt) = head.split_once(':').ok_or(KeysError::Form)?;
        let (stored, server) = keys.split_once(':').ok_or(KeysError::Form)?;
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| KeysError::Form);
        let key = |text: &str| decode(text)?.try_into().map_err(|_| KeysError::Form);
        let is_number = !iterations.is_empty() && iterations.bytes().all(|octet| octet.is_ascii_digit());
        let iterations: u32 =
            if is_number { iterations.parse().unwrap_or(u32::MAX) } else { return Err(KeysError::Form) };
        if !(ITERATIONS..=ITERATIONS_MOST).contains(&iterations) {
            return Err(KeysError::Iterations);
        }
        let iterations = NonZeroU32::new(iterations).ok_or(KeysError::Iterations)?;
        let salt = decode(salt)?;
        if !(8..=64).contains(&salt.len()) {
            return Err(KeysError::Form);
        }
        Ok(Self { iterations, salt, stored: key(stored)?, server: key(server)? })
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encode = |octets: &[u8]| STANDARD.encode(octets);
        let (salt, stored, server) = (encode(&self.salt), encode(&self.stored), encode(&self.server));
        write!(f, "SCRAM-SHA-256${}:{salt}${stored}:{server}", self.iterations)
    }
}

/// Logs must not have them.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_being_written_and_show_nothing() {
        let keys = Keys::new("pencil").unwrap();

        let text = keys.to_string();

        assert_eq!(text.parse(), Ok(keys.clone()));
        assert!(text.starts_with("SCRAM-SHA-256$100000:"));
        assert_eq!(format!("{keys:?}"), "Keys { iterations: 100000, .. }");
    }

    #[test]
    fn too_few_rounds_and_other_forms_are_refused() {
        let good = Keys::new("pencil").unwrap().to_string();
        for (text, error) in [
            (good.replace("$100000:", "$99999:"), KeysError::Iterations),
            (good.replace("$100000:", "$99999999999:"), KeysError::Iterations),
            (good.replace("$100000:", "$-1:"), KeysError::Form),
            (good.replace("SHA-256", "SHA-1"), KeysError::Form),
            (good.replace('=', ""), KeysError::Form),
            ("x".to_owned(), KeysError::Form),
        ] {
            assert_eq!(text.parse::<Keys>(), Err(error), "{text}");
        }
    }

    #[test]
    fn nobody_has_the_same_salt_each_time_and_another_than_others() {
        let rounds = NonZeroU32::new(ITERATIONS).unwrap();
        let salt = |name| Keys::of_nobody(b"secret", name, rounds).salt;

        assert_eq!(salt("ann"), salt("ann"));
        assert_ne!(salt("ann"), salt("bob"));
    }
}

//! Passwords as Argon2id hashes (RFC 9106), written as PHC strings: `$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>`.

use std::fmt;
use std::str::FromStr;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Octets of a salt that is made here (RFC 9106, 3.1).
const SALT_LENGTH: usize = 16;
/// Octets of a hash that is made here.
const HASH_LENGTH: usize = 32;
/// KiB of memory that a hash of the file may ask for: 256 MiB. Several are worked out at the same time.
const MEMORY_MOST: u32 = 256 << 10;
/// Passes and lanes that a hash of the file may ask for.
const PASSES_MOST: u32 = 64;
const LANES_MOST: u32 = 16;

/// What a hash costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cost {
    /// KiB of memory.
    pub memory: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

/// OWASP's password storage cheat sheet, 2025: Argon2id with 19 MiB, 2 passes, 1 lane.
impl Default for Cost {
    fn default() -> Self {
        Self { memory: 19_456, passes: 2, lanes: 1 }
    }
}

/// A hashed password.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash {
    cost: Cost,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

/// Why a text is no hash that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Not of the form.
    #[error("not of the form $argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>; `hikyaku user passwd` writes one")]
    Form,
    /// A cost that would stop the daemon, or none.
    #[error("a cost that is not allowed: m 8 to 262144 (KiB), at least 8 for each of p; t 1 to 64; p 1 to 16")]
    Cost,
    /// Salt or hash too short or too long.
    #[error("salt or hash of a length that is not allowed: salt 8 to 64 octets, hash 16 to 64")]
    Length,
    /// The system gives no random numbers.
    #[error("no random numbers")]
    Random,
}

impl Hash {
    /// Hashes a password, prepared, with a new salt. Takes about 20 ms and 19 MiB.
    pub fn new(password: &str) -> Result<Self, HashError> {
        let mut salt = vec![0; SALT_LENGTH];
        rand::fill(&mut salt).map_err(|_| HashError::Random)?;
        Self::with(password.as_bytes(), Cost::default(), salt, HASH_LENGTH)
    }

    fn with(password: &[u8], cost: Cost, salt: Vec<u8>, length: usize) -> Result<Self, HashError> {
        let mut hash = vec![0; length];
        let params = Params::new(cost.memory, cost.passes, cost.lanes, Some(length)).map_err(|_| HashError::Cost)?;
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon.hash_password_into(password, &salt, &mut hash).map_err(|_| HashError::Length)?;
        Ok(Self { cost, salt, hash })
    }

    /// A hash that nothing matches but that costs as much to compare with: for users that there are not.
    pub fn of_nobody(cost: Cost) -> Self {
        Self { cost, salt: vec![0x5a; SALT_LENGTH], hash: vec![0; HASH_LENGTH] }
    }

    /// What it costs.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Whether it is of this password. Blocks as long as [`Self::cost`] says.
    pub fn matches(&self, password: &[u8]) -> bool {
        let own = Self::with(password, self.cost, self.salt.clone(), self.hash.len());
        own.is_ok_and(|own| verify_slices_are_equal(&own.hash, &self.hash).is_ok())
    }
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        let mut parts = text.strip_prefix("$argon2id$v=19$").ok_or(HashError::Form)?.split('$');
        let (Some(costs), Some(salt), Some(hash), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(HashError::Form);
        };
        let mut costs = costs.split(',');
        let mut number = |name: &str| {
            let value = costs.next()?.strip_prefix(name)?;
            let is_plain = !value.is_empty() && value.bytes().all(|octet| octet.is_ascii_digit());
            is_plain.then(|| value.parse().ok()).flatten()
        };
        let (Some(memory), Some(passes), Some(lanes)) = (number("m="), number("t="), number("p=")) else {
            return Err(HashError::Form);
        };
        if costs.next().is_some() {
            return Err(HashError::Form);
        }
        let is_allowed = (1..=LANES_MOST).contains(&lanes)
            && (1..=PASSES_MOST).contains(&passes)
            && (8 * lanes..=MEMORY_MOST).contains(&memory);
        if !is_allowed {
            return Err(HashError::Cost);
        }
        let decode = |text: &str| STANDARD_NO_PAD.decode(text).map_err(|_| HashError::Form);
        let (salt, hash) = (decode(salt)?, decode(hash)?);
        if !(8..=64).contains(&salt.len()) || !(16..=64).contains(&hash.len()) {
            return Err(HashError::Length);
        }
        Ok(Self { cost: Cost { memory, passes, lanes }, salt, hash })
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cost { memory, passes, lanes } = self.cost;
        let (salt, hash) = (STANDARD_NO_PAD.encode(&self.salt), STANDARD_NO_PAD.encode(&self.hash));
        write!(f, "$argon2id$v=19$m={memory},t={passes},p={lanes}${salt}${hash}")
    }
}

/// Logs must not have it.
impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hash").field("cost", &self.cost).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_its_password_only_and_survives_being_written() {
        let hash = Hash::new("correct horse").unwrap();

        let read: Hash = hash.to_string().parse().unwrap();

        assert!(hash.to_string().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert_eq!(read, hash);
        assert!(read.matches(b"correct horse") && !read.matches(b"correct hors") && !read.matches(b""));
        assert!(!Hash::of_nobody(Cost::default()).matches(b"correct horse"));
    }

    #[test]
    fn hashes_of_the_reference_implementation_match() {
        // phc-winner-argon2, test.c: version 0x13, Argon2id.
        for (text, password) in [
            ("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "password"),
            ("$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc", "password"),
        ] {
            let hash: Hash = text.parse().unwrap();

            assert!(hash.matches(password.as_bytes()), "{text}");
            assert_eq!(hash.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_hash_or_costs_too_much_is_refused() {
        let tail = "c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        for (text, error) in [
            ("secret".to_owned(), HashError::Form),
            (format!("$argon2i$v=19$m=65536,t=2,p=1${tail}"), HashError::Form),
            (format!("$argon2id$v=16$m=65536,t=2,p=1${tail}"), HashError::Form),
            (format!("$argon2id$v=19$m=+8,t=2,p=1${tail}"), HashError::Form),
            (format!("$argon2id$v=19$t=2,m=65536,p=1${tail}"), HashError::Form),
            (format!("$argon2id$v=19$m=65536,t=2,p=1${tail}$x"), HashError::Form),
            (format!("$argon2id$v=19$m=4194304,t=2,p=1${tail}"), HashError::Cost),
            (format!("$argon2id$v=19$m=15,t=2,p=2${tail}"), HashError::Cost),
            (format!("$argon2id$v=19$m=65536,t=0,p=1${tail}"), HashError::Cost),
            ("$argon2id$v=19$m=65536,t=2,p=1$c29t$CTFh".to_owned(), HashError::Length),
        ] {
            assert_eq!(text.parse::<Hash>(), Err(error), "{text}");
        }
    }
}

//! Key files: one secret of 256 bits in a line of text, `hikyaku-key-1 <base64>`.
//!
//! A file holds nothing else, so that its mode and owner are those of the key. Each use derives keys of its own from the
//! secret under a name of its own; nothing is encrypted or signed with the secret itself.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::Holds;

/// Octets of a secret.
pub const LENGTH: usize = 32;
/// What the line begins with: the version of the format.
const MARK: &str = "hikyaku-key-1 ";
/// Separates what is derived here from what others may derive from the same octets (RFC 5869, 3.1).
const DOMAIN: &[u8] = b"hikyaku key file 1";

/// Why a key file is not taken, or cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not to be trusted, or cannot be read.
    #[error(transparent)]
    File(#[from] super::Error),
    /// It does not hold a key.
    #[error("{path} holds no key: it must be one line as `hikyaku spool key generate` writes it")]
    Content {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be made.
    #[error("cannot make {path}: {error}")]
    Make {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// The secret of a key file. Never shown.
#[derive(Clone)]
pub struct Secret([u8; LENGTH]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// How many octets are derived.
struct Octets(usize);

impl KeyType for Octets {
    fn len(&self) -> usize {
        self.0
    }
}

impl Secret {
    /// A secret of these octets, which must be random.
    pub fn new(octets: [u8; LENGTH]) -> Self {
        Self(octets)
    }

    /// A new one from the system's random numbers.
    pub fn random() -> io::Result<Self> {
        let mut octets = [0; LENGTH];
        getrandom::fill(&mut octets).map_err(io::Error::other)?;
        Ok(Self(octets))
    }

    /// Derives `N` octets for a purpose by HKDF-SHA256 (RFC 5869): the parts of `info` are joined, so that all but the last
    /// must have fixed lengths for each name that they begin with.
    pub fn derive<const N: usize>(&self, info: &[&[u8]]) -> [u8; N] {
        let mut out = [0; N];
        let prk = Salt::new(HKDF_SHA256, DOMAIN).extract(&self.0);
        // HKDF gives up to 8,160 octets; a purpose asks for a key.
        let filled = prk.expand(info, Octets(N)).and_then(|okm| okm.fill(&mut out));
        debug_assert!(filled.is_ok());
        out
    }
}

/// Reads a key file, after the checks of [`super::read`].
pub fn read(path: &Path) -> Result<Secret, Error> {
    read_as(path, rustix::process::geteuid().as_raw())
}

/// The same for a daemon that will run as this user, whose it may be.
pub fn read_as(path: &Path, user: u32) -> Result<Secret, Error> {
    let content = super::read_as(path, Holds::Secret, user)?;
    let octets = std::str::from_utf8(&content).ok().and_then(|text| {
        let encoded = text.trim_end().strip_prefix(MARK)?;
        STANDARD_NO_PAD.decode(encoded).ok()?.try_into().ok()
    });
    octets.map(Secret).ok_or_else(|| Error::Content { path: path.to_owned() })
}

/// Makes a key file of mode 0600 that does not exist yet; it is on stable storage on return.
pub fn generate(path: &Path) -> Result<Secret, Error> {
    let make = || {
        let secret = Secret::random()?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(format!("{MARK}{}\n", STANDARD_NO_PAD.encode(secret.0)).as_bytes())?;
        file.sync_all()?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(secret)
    };
    make().map_err(|error| Error::Make { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_that_was_made_is_read_back_and_never_made_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");

        let made = generate(&path).unwrap();

        assert_eq!(read(&path).unwrap().0, made.0);
        assert!(
            matches!(generate(&path), Err(Error::Make { error, .. }) if error.kind() == io::ErrorKind::AlreadyExists)
        );
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(format!("{made:?}"), "Secret");
    }

    #[test]
    fn what_is_no_key_or_can_be_read_by_others_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "hikyaku-key-1 c2hvcnQ\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();

        let short = read(&path).unwrap_err().to_string();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let open = read(&path).unwrap_err().to_string();

        assert!(short.contains("holds no key") && short.contains(&path.display().to_string()), "{short}");
        assert!(open.contains("0644"), "{open}");
    }

    #[test]
    fn what_is_derived_depends_on_the_secret_and_on_the_purpose() {
        let (one, other) = (Secret::new([1; 32]), Secret::new([2; 32]));

        let derived: [u8; 32] = one.derive(&[b"a", b"b"]);

        assert_eq!(derived, one.derive(&[b"ab"]));
        assert_ne!(derived, one.derive::<32>(&[b"ac"]));
        assert_ne!(derived, other.derive::<32>(&[b"ab"]));
    }
}

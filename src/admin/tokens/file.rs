//! The tokens' file: one line a token, `name role sha256:HEX [network,network...]`; empty lines and those that begin with
//! `#` say nothing.
//!
//! What is kept of a token is its SHA-256. A password needs a slow hash because it can be guessed; a token is 256 random
//! bits, which nobody guesses at any speed, so a fast hash shuts out who reads the file just as well and costs a request
//! nothing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::admin::Role;
use crate::config::units::Network;
use crate::text;
use crate::trusted;
use crate::trusted::watched::Content;
use crate::users::NoRandom;

/// What every token begins with: those who look for leaked secrets know by it what they have found.
const PREFIX: &str = "hikyaku_";
/// The longest name.
const NAME_MOST: usize = 64;
/// More tokens than a daemon has operators and programs; each is compared at every request.
const TOKENS_MOST: usize = 1_000;

/// One token, without the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What the audit log calls its owner.
    pub name: Box<str>,
    /// What it may do.
    pub role: Role,
    /// Of the secret.
    pub sha256: [u8; 32],
    /// From where; empty: from wherever the interface may be used.
    pub networks: Vec<Network>,
}

/// Why a tokens' file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read, or others could have written or read it.
    #[error(transparent)]
    Read(#[from] trusted::Error),
    /// A line is wrong.
    #[error("{}: line {line}: {text}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong and what is allowed.
        text: String,
    },
}

/// All tokens of a file.
#[derive(Clone, Debug, Default)]
pub struct Table {
    tokens: Vec<std::sync::Arc<Token>>,
}

impl Token {
    /// A new one, and its secret, which is nowhere else.
    pub fn generate(name: &str, role: Role, networks: Vec<Network>) -> Result<(Self, String), NoRandom> {
        let mut secret = [0; 32];
        rand::fill(&mut secret).map_err(|_| NoRandom)?;
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
        Ok((Self { name: name.into(), role, sha256: hash(&text), networks }, text))
    }

    /// Its line.
    pub fn line(&self) -> String {
        let networks = self.networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let line = format!("{} {} sha256:{} {networks}", self.name, self.role, text::hex(&self.sha256));
        line.trim_end().to_owned()
    }

    /// Reads a line; none: it says nothing.
    pub fn parse(line: &str) -> Option<Result<Self, String>> {
        let line = line.trim();
        (!line.is_empty() && !line.starts_with('#')).then(|| Self::of_words(line))
    }

    fn of_words(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let mut word = || words.next().unwrap_or_default();
        let (name, role, sha256, networks) = (word(), word(), word(), word());
        if !word().is_empty() {
            return Err("too many words; allowed: NAME ROLE sha256:HEX [NETWORK,NETWORK...]".to_owned());
        }
        if !is_name(name) {
            return Err(format!("{name:?} is no name; allowed: 1 to {NAME_MOST} of a-z, A-Z, 0-9, '.', '_', '-'"));
        }
        let role = role.parse().map_err(|error: crate::admin::NoRole| error.to_string())?;
        let sha256 = sha256.strip_prefix("sha256:").and_then(text::unhex);
        let sha256 = sha256.ok_or("allowed after the role: sha256: and 64 hexadecimal digits")?;
        let network = |text: &str| text.parse().map_err(|_| format!("{text:?} is no network; allowed: 192.0.2.0/24"));
        let networks = networks.split(',').filter(|text| !text.is_empty()).map(network).collect::<Result<_, _>>()?;
        Ok(Self { name: name.into(), role, sha256, networks })
    }

    /// Whether it may be used from there.
    pub fn may_come_from(&self, client: std::net::IpAddr) -> bool {
        self.networks.is_empty() || self.networks.iter().any(|network| network.contains(client))
    }
}

impl Content for Table {
    type Error = FileError;

    fn parse(text: &str, path: &Path) -> Result<Self, FileError> {
        let wrong = |line, text: String| FileError::Line { path: path.to_owned(), line, text };
        let mut tokens = Vec::new();
        let (mut names, mut hashes) = (HashSet::new(), HashSet::new());
        for (line, token) in (1..).zip(text.lines()).filter_map(|(line, text)| Some((line, Token::parse(text)?))) {
            let token = token.map_err(|text| wrong(line, text))?;
            if !names.insert(token.name.clone()) || !hashes.insert(token.sha256) {
                return Err(wrong(line, format!("the name or the hash of {:?} stands above already", token.name)));
            }
            if tokens.len() == TOKENS_MOST {
                return Err(wrong(line, format!("more than {TOKENS_MOST} tokens")));
            }
            tokens.push(std::sync::Arc::new(token));
        }
        Ok(Self { tokens })
    }

    fn entries(&self) -> usize {
        self.tokens.len()
    }
}

impl Table {
    /// The token with this secret. All are compared, each in the same time, whichever it is.
    pub fn find(&self, secret: &str) -> Option<std::sync::Arc<Token>> {
        let sha256 = hash(secret);
        let mut found = None;
        for token in &self.tokens {
            if verify_slices_are_equal(&token.sha256, &sha256).is_ok() {
                found = Some(token);
            }
        }
        found.cloned()
    }

    /// Each, in the order of the file.
    pub fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.tokens.iter().map(|token| &**token)
    }

    /// The one of this name.
    pub fn named(&self, name: &str) -> Option<&Token> {
        self.tokens().find(|token| *token.name == *name)
    }
}

/// Whether it can be the name of a token.
pub fn is_name(name: &str) -> bool {
    (1..=NAME_MOST).contains(&name.len())
        && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"._-".contains(&octet))
}

fn hash(secret: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        Table::parse(text, Path::new("tokens")).unwrap_err().to_string()
    }

    #[test]
    fn a_token_is_found_by_its_secret_and_by_nothing_that_is_written() {
        let networks = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let (token, secret) = Token::generate("deploy", Role::Operator, networks).unwrap();
        let text = format!("# ours\n\n{}\n", token.line());

        let table = Table::parse(&text, Path::new("tokens")).unwrap();

        assert_eq!(table.find(&secret).as_deref(), Some(&token));
        assert!(!text.contains(&secret) && secret.len() == PREFIX.len() + 43);
        assert_eq!(table.find(&text::hex(&token.sha256)), None);
        assert_eq!(table.find(""), None);
        assert!(
            token.may_come_from("192.0.2.9".parse().unwrap()) && !token.may_come_from("192.0.3.9".parse().unwrap())
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let hash = "0".repeat(64);
        for (text, part) in [
            (format!("# x\na viewer sha256:{hash} 1.2.3.4 x\n"), "line 2: too many"),
            (format!("a/b viewer sha256:{hash}\n"), "is no name"),
            (format!("a root sha256:{hash}\n"), "is no role"),
            ("a viewer secret\n".to_owned(), "64 hexadecimal"),
            (format!("a viewer sha256:{}\n", "+f".repeat(32)), "64 hexadecimal"),
            (format!("a viewer sha256:{hash} 1.2.3\n"), "is no network"),
            (format!("a viewer sha256:{hash}\nb admin sha256:{hash}\n"), "line 2: the name or the hash"),
        ] {
            let told = said(&text);

            assert!(told.contains(part), "{text}: {told}");
        }
    }
}

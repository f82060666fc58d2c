//! The users file: `[[user]]` tables of TOML, read whole and checked whole.
//!
//! ```toml
//! [[user]]
//! name = "shop"
//! tenant = "shop"
//! password = "$argon2id$v=19$m=19456,t=2,p=1$...$..."
//! senders = ["*@shop.example"]
//! ```
//!
//! Errors name the file, the user and the key, and never show what stands there: it may be a secret.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;

use super::password::{Cost, Hash};
use super::prep;
use super::scram::{ITERATIONS, Keys};
use super::sender::Sender;
use crate::config::units::Network;
use crate::smtp::address::Address;
use crate::text::unhex;
use crate::trusted;
use crate::trusted::watched::Content;

/// One who may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Prepared as SASL asks.
    pub name: Box<str>,
    /// Whose messages theirs are.
    pub tenant: Box<str>,
    /// For PLAIN and LOGIN.
    pub password: Option<Hash>,
    /// For SCRAM.
    pub scram: Option<Keys>,
    /// What addresses they may send from.
    pub senders: Vec<Sender>,
    /// Where they may come from; empty: from everywhere.
    pub networks: Vec<Network>,
    /// Messages a minute.
    pub messages_per_minute: Option<NonZeroU32>,
    /// Recipients a day, which begins at midnight UTC.
    pub recipients_per_day: Option<NonZeroU32>,
    /// Client certificates that stand for them.
    pub certificates: Vec<CertificateName>,
    /// They may not come in.
    pub is_disabled: bool,
}

impl User {
    /// Whether they may send from an address.
    pub fn may_send_from(&self, address: &Address) -> bool {
        self.senders.iter().any(|sender| sender.has(address))
    }

    /// Whether they come in by what they came in by then: a session that a stolen password has opened ends with it.
    pub fn is_proved_as(&self, then: &Self) -> bool {
        std::ptr::eq(self, then)
            || (self.password == then.password
                && self.scram == then.scram
                && self.certificates == then.certificates
                && self.networks == then.networks)
    }
}

/// What a client certificate is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CertificateName {
    /// SHA-256 of its DER form.
    Sha256([u8; 32]),
    /// A name in it, lower case.
    Name(Box<str>),
}

impl FromStr for CertificateName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let Some(hex) = text.strip_prefix("sha256:") else {
            let is_plain = (1..=255).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_graphic());
            return if is_plain { Ok(Self::Name(text.to_ascii_lowercase().into())) } else { Err(()) };
        };
        unhex(&hex.replace(':', "")).map(Self::Sha256).ok_or(())
    }
}

/// Everybody of a file.
#[derive(Debug, Default)]
pub struct Table {
    users: HashMap<Box<str>, Arc<User>>,
    certificates: HashMap<CertificateName, Arc<User>>,
    /// What most hashes cost: as much is spent on names that nobody has.
    pub cost: Cost,
    /// Anybody has keys for SCRAM.
    pub has_scram: bool,
    /// The same as `cost` for SCRAM.
    pub iterations: Option<NonZeroU32>,
}

/// Why a users file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read, or others may have written it.
    #[error(transparent)]
    Read(#[from] trusted::Error),
    /// It is no TOML, or has something else than users.
    #[error("{}: {text}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where.
        text: String,
    },
    /// Something about one user.
    #[error("{}: user {user}: {text}", path.display())]
    User {
        /// The file.
        path: PathBuf,
        /// Their name, or place in the file.
        user: String,
        /// Key, and what is wrong with it.
        text: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    #[serde(default)]
    user: Vec<toml::Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    tenant: String,
    password: Option<String>,
    scram: Option<String>,
    #[serde(default)]
    senders: Vec<String>,
    #[serde(default)]
    networks: Vec<String>,
    messages_per_minute: Option<u32>,
    recipients_per_day: Option<u32>,
    #[serde(default)]
    certificates: Vec<String>,
    #[serde(default)]
    disabled: bool,
}

impl Content for Table {
    type Error = FileError;

    fn parse(text: &str, path: &Path) -> Result<Self, FileError> {
        let whole: Whole = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1);
            let place = line.map_or(String::new(), |line| format!("line {line}: "));
            FileError::Syntax { path: path.to_owned(), text: format!("{place}{}", error.message()) }
        })?;
        let mut table = Self::default();
        for (at, entry) in whole.user.into_iter().enumerate() {
            let name = entry.get("name").and_then(toml::Value::as_str).map(str::to_owned);
            let told = name.map_or_else(|| format!("no. {}", at + 1), |name| format!("{name:?}"));
            let add = user(entry).and_then(|user| table.add(user));
            add.map_err(|text| FileError::User { path: path.to_owned(), user: told, text })?;
        }
        table.cost = most_common(table.users.values().filter_map(|user| Some(user.password.as_ref()?.cost())))
            .unwrap_or_default();
        table.has_scram = table.users.values().any(|user| user.scram.is_some() && !user.is_disabled);
        table.iterations = most_common(table.users.values().filter_map(|user| Some(user.scram.as_ref()?.iterations)))
            .or(NonZeroU32::new(ITERATIONS));
        Ok(table)
    }

    fn entries(&self) -> usize {
        self.users.len()
    }

    /// Who has not changed stays who they are: a password that has been found right stays so.
    fn after(mut self, before: &Self) -> Self {
        let keep = |user: &mut Arc<User>| {
            if let Some(old) = before.users.get(&user.name).filter(|old| **old == *user) {
                *user = Arc::clone(old);
            }
        };
        self.users.values_mut().for_each(keep);
        self.certificates.values_mut().for_each(keep);
        self
    }
}

impl Table {
    fn add(&mut self, user: User) -> Result<(), String> {
        let user = Arc::new(user);
        for certificate in &user.certificates {
            if let Some(other) = self.certificates.insert(certificate.clone(), Arc::clone(&user)) {
                return Err(format!("certificates: one is {:?}'s too; allowed: one user each", other.name));
            }
        }
        match self.users.insert(user.name.clone(), user) {
            Some(_) => Err("name: it occurs twice; allowed: once".to_owned()),
            None => Ok(()),
        }
    }

    /// The user of a prepared name.
    pub fn get(&self, name: &str) -> Option<&Arc<User>> {
        self.users.get(name)
    }

    /// The user that a certificate stands for.
    pub fn of_certificate(&self, name: &CertificateName) -> Option<&Arc<User>> {
        self.certificates.get(name)
    }

    /// Everybody, in no order.
    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.values()
    }
}

fn most_common<T: Copy + Eq + std::hash::Hash + std::fmt::Debug>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: HashMap<T, usize> = HashMap::new();
    values.for_each(|value| *counts.entry(value).or_default() += 1);
    counts.into_iter().max_by_key(|(value, count)| (*count, format!("{value:?}"))).map(|(value, _)| value)
}

fn user(entry: toml::Table) -> Result<User, String> {
    let raw: Raw = toml::Value::Table(entry).try_into().map_err(|error: toml::de::Error| error.message().to_owned())?;
    let name = prep::prepare(&raw.name).filter(|name| prep::is_name(name));
    let name = name.ok_or("name: allowed: 1 to 128 octets of printable characters without spaces")?;
    if !is_tenant(&raw.tenant) {
        return Err("tenant: allowed: 1 to 64 characters of a-z, 0-9, '.', '_', '-'".to_owned());
    }
    let positive = |key: &str, value: Option<u32>| match value.map(NonZeroU32::new) {
        None => Ok(None),
        Some(Some(value)) => Ok(Some(value)),
        Some(None) => Err(format!("{key}: allowed: 1 to {}, or no such key: no limit", u32::MAX)),
    };
    let user = User {
        name: name.into(),
        tenant: raw.tenant.into(),
        password: raw.password.map(|text| text.parse().map_err(|error| format!("password: {error}"))).transpose()?,
        scram: raw.scram.map(|text| text.parse().map_err(|error| format!("scram: {error}"))).transpose()?,
        senders: list("senders", &raw.senders, |error: super::sender::SenderError| error.to_string())?,
        networks: list("networks", &raw.networks, |_| "allowed: \"192.0.2.0/24\", \"2001:db8::/32\"".to_owned())?,
        messages_per_minute: positive("messages_per_minute", raw.messages_per_minute)?,
        recipients_per_day: positive("recipients_per_day", raw.recipients_per_day)?,
        certificates: list("certificates", &raw.certificates, |()| {
            "allowed: \"sha256:\" and 64 hexadecimal digits, or a name in the certificate".to_owned()
        })?,
        is_disabled: raw.disabled,
    };
    if user.password.is_none() && user.scram.is_none() && user.certificates.is_empty() {
        return Err("no way to come in; needed: password, scram or certificates".to_owned());
    }
    Ok(user)
}

fn list<T: FromStr>(key: &str, texts: &[String], explain: impl Fn(T::Err) -> String) -> Result<Vec<T>, String> {
    let read = |(at, text): (usize, &String)| {
        text.parse().map_err(|error| format!("{key}[{at}]: {text:?}; {}", explain(error)))
    };
    texts.iter().enumerate().map(read).collect()
}

/// Whether this may be a tenant's name, as in the configuration.
pub fn is_tenant(name: &str) -> bool {
    let is_plain = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || b"._-".contains(&octet);
    (1..=64).contains(&name.len()) && name.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc";

    fn entry(name: &str, more: &str) -> String {
        format!("[[user]]\nname = \"{name}\"\ntenant = \"t\"\npassword = \"{HASH}\"\n{more}\n")
    }

    fn said(text: &str) -> String {
        Table::parse(text, Path::new("users.toml")).map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn everything_of_a_user_is_read() {
        let hex = "ab".repeat(32);
        let more = format!(
            "senders = [\"*@a.test\"]\nnetworks = [\"192.0.2.0/24\"]\nmessages_per_minute = 5\nrecipients_per_day = 6\n\
             certificates = [\"sha256:{hex}\", \"Client.Test\"]\ndisabled = true"
        );

        let table = Table::parse(&entry("ann", &more), Path::new("x")).unwrap();

        let user = table.get("ann").unwrap();
        assert_eq!((&*user.tenant, user.is_disabled, user.networks.len()), ("t", true, 1));
        assert_eq!((user.messages_per_minute.unwrap().get(), user.recipients_per_day.unwrap().get()), (5, 6));
        assert!(user.may_send_from(&"x@a.test".parse().unwrap()) && !user.may_send_from(&"x@b.test".parse().unwrap()));
        assert!(table.of_certificate(&CertificateName::Sha256([0xab; 32])).is_some());
        assert!(table.of_certificate(&CertificateName::Name("client.test".into())).is_some());
        assert_eq!(table.cost, Cost { memory: 256, passes: 2, lanes: 2 });
    }

    #[test]
    fn names_are_prepared_so_that_two_spellings_are_one_user() {
        let table = Table::parse(&entry("I\u{ad}X", ""), Path::new("x")).unwrap();

        assert!(table.get("IX").is_some());
        assert!(said(&(entry("I\u{ad}X", "") + &entry("\u{2168}", ""))).contains("name: it occurs twice"));
    }

    #[test]
    fn mistakes_name_file_user_and_key_and_no_secret() {
        for (text, words) in [
            (entry("ann", "sender = []"), "users.toml: user \"ann\": unknown field `sender`"),
            (entry("ann", "senders = [\"*\", \"a.test\"]"), "user \"ann\": senders[1]: \"a.test\"; allowed"),
            (entry("ann", "networks = [\"10.0.0.0/99\"]"), "user \"ann\": networks[0]: "),
            (entry("ann", "recipients_per_day = 0"), "user \"ann\": recipients_per_day: allowed"),
            (entry("ann", "certificates = [\"sha256:xy\"]"), "user \"ann\": certificates[0]: "),
            (entry("a b", ""), "user \"a b\": name: allowed"),
            (entry("ann", "").replace("\"t\"", "\"A B\""), "user \"ann\": tenant: allowed"),
            (entry("ann", "").replace("m=256", "m=1"), "user \"ann\": password: a cost"),
            (entry("ann", "scram = \"x\""), "user \"ann\": scram: not of the form"),
            (entry("ann", "").replace("password", "#"), "no way to come in"),
            ("[[user]]\ntenant = \"t\"\n".to_owned(), "user no. 1: missing field `name`"),
            (
                entry("ann", "certificates = [\"c\"]") + &entry("bob", "certificates = [\"C\"]"),
                "user \"bob\": certificates",
            ),
            ("[[users]]\n".to_owned(), "users.toml: line 1: unknown field `users`"),
            (format!("{}x = \n", entry("ann", "")), "users.toml: line "),
        ] {
            let said = said(&text);

            assert!(said.contains(words) && !said.contains("c29tZXNhbHQ"), "{words}: {said}");
        }
    }

    #[test]
    fn who_has_not_changed_stays_the_same_entry() {
        let table = |more| Table::parse(&(entry("ann", "") + &entry("bob", more)), Path::new("x")).unwrap();
        let before = table("");

        let after = table("disabled = true").after(&before);

        let is_same = |name| Arc::ptr_eq(before.get(name).unwrap(), after.get(name).unwrap());
        assert_eq!((is_same("ann"), is_same("bob")), (true, false));
    }
}

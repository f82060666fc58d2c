//! `hikyaku user`: who may authenticate. Changes the users file; the daemon reads it again within seconds.
//!
//! No daemon is asked: the file is the one of `--file`, or of `users.file` in the configuration. A password is read from the
//! terminal without being shown, or from standard input, or made; never from an argument, which others see.

mod password;

use anyhow::Context;
use serde::Serialize;

use super::exit::{self, Exit, Failure};
use super::places::{Place, UsersFile};
use super::table::{Table, below, long, text};
use super::{out, print_json};
use crate::trusted::rewrite;
use crate::users::edit::{Edit, EditError, NewUser, edit, read};
use crate::users::prep::prepare;
use crate::users::{password::Hash, scram::Keys};
use password::Secret;

/// Sub-commands.
#[derive(Debug, clap::Subcommand)]
pub(super) enum User {
    /// Add a user
    Add(Add),
    /// Give a user another password
    Passwd(Passwd),
    /// Remove a user
    Remove(One),
    /// Keep a user out without forgetting them
    Disable(One),
    /// Let a user in again
    Enable(One),
    /// List users
    List(List),
}

/// Where the password comes from.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(super) struct Source {
    /// Read the password from standard input: the first line
    #[arg(long)]
    password_stdin: bool,
    /// Make a password and print it
    #[arg(long)]
    generate: bool,
}

/// Options of `user add`.
#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// Their name
    name: String,
    /// Whose messages theirs are
    #[arg(long)]
    tenant: String,
    /// An address that they may send from: ann@example.com, *@example.com, *@*.example.com or *; as often as needed
    #[arg(long = "sender", value_name = "PATTERN")]
    senders: Vec<String>,
    /// A network that they may come from; as often as needed [default: everywhere]
    #[arg(long = "network", value_name = "NETWORK")]
    networks: Vec<String>,
    /// A client certificate that stands for them: sha256:HEX, or a name in it; as often as needed
    #[arg(long = "certificate", value_name = "CERTIFICATE")]
    certificates: Vec<String>,
    /// Most messages a minute [default: no limit]
    #[arg(long, value_name = "COUNT")]
    messages_per_minute: Option<u32>,
    /// Most recipients a day [default: no limit]
    #[arg(long, value_name = "COUNT")]
    recipients_per_day: Option<u32>,
    /// Keep keys for SCRAM-SHA-256 too: weaker than the hash against who has the file
    #[arg(long)]
    scram: bool,
    /// They have no password: a certificate must stand for them
    #[arg(long, requires = "certificates", conflicts_with_all = ["scram", "password_stdin", "generate"])]
    no_password: bool,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    place: Place<UsersFile>,
}

/// Options of `user passwd`.
#[derive(Debug, clap::Args)]
pub(super) struct Passwd {
    /// Their name
    name: String,
    /// Keep keys for SCRAM-SHA-256 too; without it such keys are removed
    #[arg(long)]
    scram: bool,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    place: Place<UsersFile>,
}

/// Options of `user remove`, `user disable` and `user enable`.
#[derive(Debug, clap::Args)]
pub(super) struct One {
    /// Their name
    name: String,
    #[command(flatten)]
    place: Place<UsersFile>,
}

/// Options of `user list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Print them as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place<UsersFile>,
}

/// A user without what is secret.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    tenant: String,
    disabled: bool,
    /// `password`, `scram`, `certificate`.
    ways: Vec<&'static str>,
    senders: Vec<String>,
    networks: Vec<String>,
    messages_per_minute: Option<u32>,
    recipients_per_day: Option<u32>,
}

impl User {
    pub(super) fn execute(self) -> exit::Result {
        match self {
            Self::Add(command) => command.execute(),
            Self::Passwd(command) => command.execute(),
            Self::Remove(One { name, place }) => change(&place, &Edit::Remove(name), "removed"),
            Self::Disable(One { name, place }) => change(&place, &Edit::Disable(name, true), "disabled"),
            Self::Enable(One { name, place }) => change(&place, &Edit::Disable(name, false), "enabled"),
            Self::List(command) => command.execute(),
        }
    }
}

fn change(place: &Place<UsersFile>, change: &Edit, done: &str) -> exit::Result {
    let path = place.find()?;
    edit(&path, change, place.reader()).map_err(told)?;
    let (Edit::Add(NewUser { name, .. }) | Edit::Password { name, .. } | Edit::Remove(name) | Edit::Disable(name, _)) =
        change;
    let line = format!("{}: {name}: {done}; the daemon reads it within seconds", path.display());
    out::remark_line(super::table::plain(&line));
    Ok(Exit::Ok)
}

/// A file with a mistake, and options that would make one, are wrong usage; the rest is a problem.
fn told(error: EditError) -> Failure {
    match error {
        EditError::File(_) | EditError::Rewrite(rewrite::Error::File(_)) => Failure::usage(error),
        error => error.into(),
    }
}

impl Source {
    /// A password and its hash, and keys for SCRAM if wanted.
    fn take(&self, is_scram: bool) -> Result<(Secret, String, Option<String>), Failure> {
        let secret = match (self.generate, self.password_stdin) {
            (true, _) => Secret::generated()?,
            (_, true) => Secret::from_input()?,
            _ => Secret::asked()?,
        };
        let prepared = prepare(&secret.text).context("the password has characters that cannot be typed everywhere");
        let prepared = prepared.map_err(Failure::usage)?;
        let hash = Hash::new(&prepared)?.to_string();
        let keys = if is_scram { Some(Keys::new(&prepared)?.to_string()) } else { None };
        Ok((secret, hash, keys))
    }
}

impl Add {
    fn execute(self) -> exit::Result {
        // Before anybody is asked for a password.
        self.place.find()?;
        let mut user = NewUser {
            name: self.name,
            tenant: self.tenant,
            senders: self.senders,
            networks: self.networks,
            certificates: self.certificates,
            messages_per_minute: self.messages_per_minute,
            recipients_per_day: self.recipients_per_day,
            ..NewUser::default()
        };
        let mut secret = None;
        if !self.no_password {
            let (taken, hash, keys) = self.source.take(self.scram)?;
            (user.password, user.scram, secret) = (Some(hash), keys, Some(taken));
        }
        let has_senders = !user.senders.is_empty();
        let exit = change(&self.place, &Edit::Add(user), "added")?;
        if !has_senders {
            out::remark_line("they may send from no address yet: add `senders` to their entry");
        }
        secret.map_or(Ok(()), |secret| secret.print())?;
        Ok(exit)
    }
}

impl Passwd {
    fn execute(self) -> exit::Result {
        let path = self.place.find()?;
        let users = read(&path).map_err(told)?;
        let is_known = prepare(&self.name).is_some_and(|name| users.get(&name).is_some());
        if !is_known {
            return Err(EditError::Unknown { path, name: self.name }.into());
        }
        let (secret, password, scram) = self.source.take(self.scram)?;
        let exit = change(&self.place, &Edit::Password { name: self.name, password, scram }, "has another password")?;
        secret.print()?;
        Ok(exit)
    }
}

impl List {
    fn execute(self) -> exit::Result {
        let path = self.place.find()?;
        let users = read(&path).map_err(told)?;
        let mut shown: Vec<Shown> = users.users().map(|user| Shown::of(user)).collect();
        shown.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        if self.json {
            return print_json(&shown);
        }
        let mut table = Table::new(&[
            text("USER"),
            text("TENANT"),
            text("STATE"),
            long("COMES BY"),
            long("FROM"),
            below("SENDS AS"),
        ]);
        for user in shown {
            let state = if user.disabled { "disabled" } else { "enabled" };
            let networks = if user.networks.is_empty() { "everywhere".to_owned() } else { user.networks.join(", ") };
            let senders = if user.senders.is_empty() { "nobody".to_owned() } else { user.senders.join(", ") };
            table.row(vec![user.name, user.tenant, state.to_owned(), user.ways.join(", "), networks, senders]);
        }
        table.print()?;
        Ok(Exit::Ok)
    }
}

impl Shown {
    fn of(user: &crate::users::User) -> Self {
        let ways = [
            ("password", user.password.is_some()),
            ("scram", user.scram.is_some()),
            ("certificate", !user.certificates.is_empty()),
        ];
        Self {
            name: user.name.to_string(),
            tenant: user.tenant.to_string(),
            disabled: user.is_disabled,
            ways: ways.into_iter().filter(|(_, has)| *has).map(|(way, _)| way).collect(),
            senders: user.senders.iter().map(ToString::to_string).collect(),
            networks: user.networks.iter().map(ToString::to_string).collect(),
            messages_per_minute: user.messages_per_minute.map(std::num::NonZeroU32::get),
            recipients_per_day: user.recipients_per_day.map(std::num::NonZeroU32::get),
        }
    }
}

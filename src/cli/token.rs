//! `hikyaku token`: who may use the admin interface over TCP. Changes the tokens' file; the daemon reads it again within
//! seconds.
//!
//! No daemon is asked: the file is the one of `--file`, or of `admin.tokens` in the configuration. A token's secret is
//! printed when it is made, and is nowhere else.

use serde::Serialize;

use super::exit::{self, Exit, Failure};
use super::places::{Place, TokensFile};
use super::table::{Table, long, plain, text};
use super::{out, print_json};
use crate::admin::Role;
use crate::admin::tokens::edit::{self, EditError};
use crate::admin::tokens::{Token, is_name};
use crate::config::units::Network;
use crate::trusted::rewrite;

/// Sub-commands.
#[derive(Debug, clap::Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token and print it, once
    Add(Add),
    /// List tokens: names, roles and networks
    List(List),
    /// Remove a token: it is refused within seconds
    Remove(Remove),
}

/// Options of `token add`.
#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// What the audit log calls its owner
    name: String,
    /// What it may do: viewer (look), operator (steer) or admin (everything)
    #[arg(long)]
    role: Role,
    /// A network that it may come from; as often as needed [default: wherever admin.networks allows]
    #[arg(long = "network", value_name = "NETWORK", value_parser = network)]
    networks: Vec<Network>,
    #[command(flatten)]
    place: Place<TokensFile>,
}

/// Options of `token list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Print them as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place<TokensFile>,
}

/// Options of `token remove`.
#[derive(Debug, clap::Args)]
pub(super) struct Remove {
    /// Its name
    name: String,
    #[command(flatten)]
    place: Place<TokensFile>,
}

/// A token without its hash.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    role: &'static str,
    networks: Vec<String>,
}

fn network(text: &str) -> Result<Network, String> {
    text.parse().map_err(|_| "allowed: 192.0.2.0/24, 2001:db8::/32, 192.0.2.1".to_owned())
}

impl TokenCommand {
    pub(super) fn execute(self) -> exit::Result {
        match self {
            Self::Add(command) => command.execute(),
            Self::List(command) => command.execute(),
            Self::Remove(command) => command.execute(),
        }
    }
}

/// A file with a mistake and a wrong name are wrong usage; the rest is a problem.
fn told(error: EditError) -> Failure {
    match error {
        EditError::File(_) | EditError::Rewrite(rewrite::Error::File(_)) | EditError::Name(_) => Failure::usage(error),
        error => error.into(),
    }
}

impl Add {
    fn execute(self) -> exit::Result {
        if !is_name(&self.name) {
            return Err(told(EditError::Name(self.name)));
        }
        let path = self.place.find()?;
        let (token, secret) = Token::generate(&self.name, self.role, self.networks)?;
        edit::add(&path, &token, self.place.reader()).map_err(told)?;
        out::line(&secret)?;
        let line = format!(
            "{}: {}: added as {}; this is its only copy: keep it in a file of mode 0600 for --token-file, or in HIKYAKU_TOKEN",
            path.display(),
            token.name,
            token.role
        );
        out::remark_line(plain(&line));
        Ok(Exit::Ok)
    }
}

impl List {
    fn execute(self) -> exit::Result {
        let tokens = edit::read(&self.place.find()?).map_err(told)?;
        let shown: Vec<Shown> = tokens.tokens().map(Shown::of).collect();
        if self.json {
            return print_json(&shown);
        }
        let mut table = Table::new(&[text("TOKEN"), text("ROLE"), long("FROM")]);
        for token in shown {
            let networks =
                if token.networks.is_empty() { "admin.networks".to_owned() } else { token.networks.join(", ") };
            table.row(vec![token.name, token.role.to_owned(), networks]);
        }
        table.print()?;
        Ok(Exit::Ok)
    }
}

impl Remove {
    fn execute(self) -> exit::Result {
        let path = self.place.find()?;
        edit::remove(&path, &self.name).map_err(told)?;
        out::remark_line(plain(&format!(
            "{}: {}: removed; the daemon reads it within seconds",
            path.display(),
            self.name
        )));
        Ok(Exit::Ok)
    }
}

impl Shown {
    fn of(token: &Token) -> Self {
        Self {
            name: token.name.to_string(),
            role: token.role.as_str(),
            networks: token.networks.iter().map(ToString::to_string).collect(),
        }
    }
}

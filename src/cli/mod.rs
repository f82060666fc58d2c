//! The command line: one sub-command a file, most of them clients of the admin interface.
//!
//! Exit codes are in [`exit`]. Errors go to standard error, results to standard output; `--json` prints exactly what
//! the admin interface answered.

mod at;
mod audit;
mod bench;
mod bounce;
mod check;
pub mod client;
mod completions;
mod confine;
mod demo;
mod dkim;
pub mod exit;
mod find;
mod journal;
mod limits;
mod man;
mod message;
mod notify;
mod orders;
mod out;
mod patience;
mod places;
mod pools;
mod privileges;
mod queue;
mod reload;
mod reply;
mod reveal;
mod run;
mod selection;
mod simulate;
mod site;
mod sites;
mod spool;
mod status;
mod suppress;
pub mod table;
mod tls;
mod token;
mod top;
mod user;
mod warmup;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use at::At;
use client::Client;
use exit::{Exit, Failure};

use crate::clock::Clock;

/// A mail delivery daemon: durable by default, fast, and able to explain itself.
#[derive(Debug, Parser)]
#[command(name = "hikyaku", version, after_help = AFTER_HELP, max_term_width = 80)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "Exit codes: 0 ok, 1 a problem was found, 2 wrong usage or configuration, 3 the daemon \
                          cannot be reached.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground
    Run(run::Run),
    /// Check a configuration file and say what is wrong with it
    Check(check::Check),
    /// Have the daemon read its configuration file again, without dropping a connection
    Reload(reload::Reload),
    /// Say on one screen whether all is well with the running daemon, and if not, what
    Status(status::Status),
    /// Watch sites and tenants live
    Top(top::Top),
    /// Show every site: what is ready, what waits for its time, connections, back-off, last reply
    Sites(sites::Sites),
    /// Show connections by egress source and MX set
    Pools(pools::Pools),
    /// Show what waits to be delivered, and why
    #[command(subcommand)]
    Queue(queue::Queue),
    /// List and undo the orders that `queue suspend`, `hold`, `move`, `delete` and `bounce` placed
    Orders(orders::Orders),
    /// See and steer what is learnt about receivers: rates, connections, and why
    #[command(subcommand)]
    Limits(limits::Limits),
    /// See and steer how much sources may send while they are new to a provider
    #[command(subcommand)]
    Warmup(warmup::Warmup),
    /// See and change who gets no mail, and why: the suppression list
    #[command(subcommand)]
    Suppress(suppress::Suppress),
    /// See and change who may authenticate: the users file
    #[command(subcommand)]
    User(user::User),
    /// See and change who may use the admin interface over TCP: the tokens' file
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// See who has changed what through the admin interface, and check that record
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Look at single messages, and end them
    #[command(subcommand)]
    Message(message::Message),
    /// Read the journal: what happened to each recipient
    #[command(subcommand)]
    Journal(journal::Journal),
    /// Ask what a receiver's reply means
    #[command(subcommand)]
    Reply(reply::Reply),
    /// Read what comes back: bounces, complaints, automatic responses
    #[command(subcommand)]
    Bounce(bounce::Bounce),
    /// Show addresses that were masked: to admins, on record, or to who holds the key
    Reveal(reveal::Reveal),
    /// Ask what TLS a domain's mail goes out by
    #[command(subcommand)]
    Tls(tls::Tls),
    /// Make keys that sign, and compare their records with what DNS has
    #[command(subcommand)]
    Dkim(dkim::Dkim),
    /// Show the state of the spool
    #[command(subcommand)]
    Spool(spool::Spool),
    /// Send many messages through a daemon on loopback and account for each of them
    Demo(demo::Demo),
    /// Measure this machine: a load, a sink, and a daemon between them
    Bench(bench::Bench),
    /// Try the limits' controller against a simulated receiver, in no time
    Simulate(simulate::Simulate),
    /// Print the script by which a shell completes the command's words
    Completions(completions::Completions),
    /// Print a manual page, or write all of them into a directory
    Man(man::Manual),
}

/// Which daemon to ask, and how to print.
#[derive(Clone, Debug, Args)]
pub struct Remote {
    #[command(flatten)]
    at: At,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

impl Remote {
    fn client(&self) -> Client {
        self.at.client()
    }
}

impl Remote {
    /// Asks the daemon; something moves on the terminal while it takes long.
    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, client::ClientError> {
        patience::patiently("waiting for the daemon", self.client().get(path)).await
    }
}

impl Arguments {
    /// Reads the command line. Wrong usage ends the program with 2 and is told, but nothing that it quotes reaches the
    /// terminal raw: names from the network end up in arguments, too.
    pub fn read() -> Self {
        Self::try_parse().unwrap_or_else(|error| {
            let told = error.to_string();
            if !error.use_stderr() || table::plain_lines(&told) == told {
                error.exit();
            }
            out::remark_line(format_args!("{}", table::plain_lines(told.trim_end())));
            std::process::exit(error.exit_code());
        })
    }
}

/// Runs the command and gives its exit code; tells errors on standard error.
pub fn execute(arguments: Arguments) -> ExitCode {
    let result = match arguments.command {
        Command::Run(command) => command.execute(),
        Command::Check(command) => command.execute(),
        Command::Reload(command) => wait(command.execute()),
        Command::Status(command) => wait(command.execute()),
        Command::Top(command) => command.execute(),
        Command::Sites(command) => wait(command.execute()),
        Command::Pools(command) => wait(command.execute()),
        Command::Queue(command) => wait(command.execute()),
        Command::Orders(command) => wait(command.execute()),
        Command::Limits(command) => wait(command.execute()),
        Command::Warmup(command) => wait(command.execute()),
        Command::Suppress(command) => wait(command.execute()),
        Command::User(command) => command.execute(),
        Command::Token(command) => command.execute(),
        Command::Audit(command) => command.execute(),
        Command::Message(command) => wait(command.execute()),
        Command::Journal(command) => wait(command.execute()),
        Command::Reply(command) => command.execute(),
        Command::Bounce(command) => command.execute(),
        Command::Reveal(command) => wait(command.execute()),
        Command::Tls(command) => command.execute(),
        Command::Dkim(command) => command.execute(),
        Command::Spool(command) => wait(command.execute()),
        Command::Demo(command) => command.execute(),
        Command::Bench(command) => command.execute(),
        Command::Simulate(command) => command.execute(),
        Command::Completions(command) => command.execute(),
        Command::Man(command) => command.execute(),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(Failure { error, .. }) if out::is_closed(&error) => Exit::Ok.into(),
        Err(Failure { exit, error }) => {
            out::remark_line(format_args!("hikyaku: {}", table::plain_lines(&told(&error))));
            exit.into()
        }
    }
}

/// An error with its causes, leaving out those that the text before already ends with.
fn told(error: &anyhow::Error) -> String {
    let mut out = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if out.is_empty() {
            out = cause;
        } else if !out.ends_with(&cause) {
            out = format!("{out}: {cause}");
        }
    }
    out
}

/// Runs a client command on a runtime of this thread.
fn wait(command: impl Future<Output = exit::Result>) -> exit::Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(command)
}

/// Prints a value as JSON for scripts.
fn print_json(value: &impl serde::Serialize) -> exit::Result {
    out::write(format!("{}\n", serde_json::to_string_pretty(value)?).as_bytes())?;
    Ok(Exit::Ok)
}

/// Seconds since 1970, as the daemon tells times.
fn now() -> u64 {
    Clock::system().wall_precise().as_secs()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn causes_are_told_once() {
        let error = anyhow::Error::new(std::io::Error::other("no disk")).context("cannot read: no disk").context("x");

        assert_eq!(told(&error), "x: cannot read: no disk");
    }

    #[test]
    fn command_line_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    /// Every command below `command` that has none below itself, by its full name.
    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            let path = format!("{path} {}", below.get_name());
            found.push((path.clone(), below.clone()));
            leaves(below, &path, found);
        }
    }

    #[test]
    fn every_command_and_option_is_in_its_document() {
        let document = include_str!("../../docs/cli.md");
        let mut commands = Vec::new();
        leaves(&Arguments::command(), "hikyaku", &mut commands);
        assert!(commands.len() > 15);

        for (name, command) in commands {
            let heading = format!("\n## {name}\n");
            let Some((_, section)) = document.split_once(&heading) else { panic!("docs/cli.md has no `## {name}`") };
            let section = section.split("\n## ").next().unwrap_or_default();
            // What groups of commands share is told once, at the top.
            let mut shared = vec!["socket", "admin", "token-file", "admin-ca", "json", "help"];
            if section.to_lowercase().contains("[which recipients](#which-recipients)") {
                shared.extend(["domain", "site", "tenant", "campaign", "lane", "source", "sender", "recipient"]);
            }
            let own = command.get_arguments().filter_map(clap::Arg::get_long);
            for option in own.filter(|option| !shared.contains(option)) {
                assert!(section.contains(&format!("`--{option}")), "docs/cli.md, {name}: no `--{option}`");
            }
        }
    }
}

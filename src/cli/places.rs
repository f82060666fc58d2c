//! Where the journal and the spool are: as the command line says, as a configuration file says, or as a running daemon says.
//! The files of users and tokens are no daemon's to tell.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use anyhow::anyhow;

use super::at::{elsewhere, is_elsewhere_by_environment, socket_named};
use super::check::DEFAULT_CONFIG;
use super::client;
use super::exit::Failure;
use super::patience::patiently;
use super::privileges;
use crate::admin::Places;
use crate::config::Config;

/// Option of commands that read files and need no daemon.
#[derive(Debug, clap::Args)]
pub(super) struct Socket {
    /// Admin socket of a daemon that tells where it is, if no option names a place [default: HIKYAKU_SOCKET]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// What the options say.
pub(super) struct Named<'a> {
    /// The place itself.
    pub place: Option<&'a Path>,
    /// The configuration that names it.
    pub config: Option<&'a Path>,
    /// A daemon that knows it.
    pub socket: Option<&'a Path>,
}

impl Named<'_> {
    /// The place: `of_config` and `of_daemon` pick it. A daemon is asked only if one was named.
    pub(super) async fn find(
        self,
        of_config: impl FnOnce(Config) -> PathBuf,
        of_daemon: impl FnOnce(Places) -> Option<PathBuf>,
    ) -> Result<PathBuf, Failure> {
        if let Some(place) = self.place {
            return Ok(place.to_owned());
        }
        if self.config.is_none() && self.socket.is_none() && is_elsewhere_by_environment() {
            return Err(Failure::usage(elsewhere("what this reads")));
        }
        if self.config.is_none()
            && let Some(socket) = socket_named(self.socket)
        {
            let client = client::Client::new(&socket).within(client::SHORT);
            let places: Places = patiently("waiting for the daemon", client.get("/v1/places")).await?;
            return of_daemon(places).ok_or_else(|| anyhow!("this daemon keeps no journal").into());
        }
        self.of_file(of_config)
    }

    /// The same without asking a daemon.
    pub(super) fn of_file(self, of_config: impl FnOnce(Config) -> PathBuf) -> Result<PathBuf, Failure> {
        match self.place {
            Some(place) => Ok(place.to_owned()),
            None => {
                let file = self.config.unwrap_or(Path::new(DEFAULT_CONFIG));
                Ok(of_config(Config::load(file).map_err(Failure::usage)?))
            }
        }
    }
}

/// A file of accounts that the configuration names.
pub(super) trait Accounts: std::fmt::Debug {
    /// What `--file` is about.
    const HELP: &'static str;
    /// The option that names it.
    const KEY: &'static str;

    fn of(config: Config) -> PathBuf;
}

/// The users file.
#[derive(Debug)]
pub(super) struct UsersFile;

impl Accounts for UsersFile {
    const HELP: &'static str = "The users file [default: users.file of the configuration]";
    const KEY: &'static str = "users.file";

    fn of(config: Config) -> PathBuf {
        config.users.file
    }
}

/// The tokens' file.
#[derive(Debug)]
pub(super) struct TokensFile;

impl Accounts for TokensFile {
    const HELP: &'static str = "The tokens' file [default: admin.tokens of the configuration]";
    const KEY: &'static str = "admin.tokens";

    fn of(config: Config) -> PathBuf {
        config.admin.tokens
    }
}

/// Which file of accounts.
#[derive(Debug, clap::Args)]
pub(super) struct Place<A: Accounts> {
    #[arg(long, value_name = "FILE", help = A::HELP)]
    file: Option<PathBuf>,
    /// The configuration that names it [default: /etc/hikyaku/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[arg(skip)]
    accounts: PhantomData<A>,
}

impl<A: Accounts> Place<A> {
    pub(super) fn find(&self) -> Result<PathBuf, Failure> {
        let named = Named { place: self.file.as_deref(), config: self.config.as_deref(), socket: None };
        let path = named.of_file(A::of)?;
        if path.as_os_str().is_empty() {
            return Err(Failure::usage(anyhow!("the configuration has no {}; set it, or give --file", A::KEY)));
        }
        Ok(path)
    }

    /// The group that is to read a new file, where root makes it.
    pub(super) fn reader(&self) -> Option<u32> {
        let config = self.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG));
        let config = Config::load(config).ok().filter(|_| rustix::process::geteuid().is_root())?;
        privileges::daemon_user(&config)?.1.first().copied()
    }
}

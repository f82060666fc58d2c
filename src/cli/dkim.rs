//! `hikyaku dkim`: makes keys that sign, tells the DNS records that belong to the configured ones, and compares them with
//! what DNS has. Reads the configuration and the key files, and asks no daemon.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::Serialize;

use super::check::DEFAULT_CONFIG;
use super::exit::{self, Exit, Failure};
use super::patience::patiently;
use super::table::plain;
use super::{out, print_json};
use crate::config::Config;
use crate::config::names::is_host_name;
use crate::daemon;
use crate::dkim::record::{Found, judge, zone_line};
use crate::dkim::{Key, Strength, fingerprint, generate};
use crate::dns::TextRecords;
use crate::dns::settings::Forgetful;

/// For all questions together.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sub-commands of `dkim`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Dkim {
    /// Make a private key, and print the DNS record of its public half
    Generate(Generate),
    /// Print the DNS records that belong to the configured keys
    Show(Show),
    /// Ask DNS whether it has the records of the configured keys
    Check(Check),
}

/// What may be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Algorithm {
    /// What every receiver knows
    Rsa2048,
    /// Four times as slow to sign; not every DNS server takes its record
    Rsa4096,
    /// A tenth of the cost; not every receiver knows it, so it stands beside an RSA key
    Ed25519,
}

/// Options of `dkim generate`.
#[derive(Debug, clap::Args)]
pub(super) struct Generate {
    /// The domain to sign for, with those below it
    #[arg(long, value_parser = host_name)]
    domain: String,
    /// What the DNS record is found by: SELECTOR._domainkey.DOMAIN
    #[arg(long, value_parser = selector)]
    selector: String,
    /// The kind of the key
    #[arg(long, value_enum, default_value = "rsa2048")]
    algorithm: Algorithm,
    /// Where the private key goes; nothing is overwritten [default: DOMAIN.SELECTOR.pem in this directory]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Options of `dkim show`.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The configuration that names the keys
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print the records as JSON
    #[arg(long)]
    json: bool,
}

/// Options of `dkim check`.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The configuration that names the keys, and the resolvers
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

/// A key as it is shown.
#[derive(Debug, Serialize)]
struct Record<'a> {
    domain: &'a str,
    selector: &'a str,
    algorithm: &'static str,
    bits: usize,
    key: &'a Path,
    name: String,
    record: String,
    /// What DNS has: "right", "testing", "missing", "wrong" or "unknown"; only `check` asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<&'static str>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

impl Dkim {
    pub(super) fn execute(self) -> exit::Result {
        match self {
            Self::Generate(command) => command.execute(),
            Self::Show(command) => command.execute(),
            Self::Check(command) => command.execute(),
        }
    }
}

impl Generate {
    fn execute(self) -> exit::Result {
        let path = self.out.unwrap_or_else(|| format!("{}.{}.pem", self.domain, self.selector).into());
        let path = std::path::absolute(&path).unwrap_or(path);
        let strength = match self.algorithm {
            Algorithm::Rsa2048 => Strength::Rsa2048,
            Algorithm::Rsa4096 => Strength::Rsa4096,
            Algorithm::Ed25519 => Strength::Ed25519,
        };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = file.with_context(|| format!("cannot create {}", path.display()))?;
        let made = generate(strength).map_err(anyhow::Error::from).and_then(|pem| {
            file.write_all(pem.as_bytes()).and_then(|()| file.sync_all())?;
            Ok(Key::read(&self.domain, &self.selector, &path)?)
        });
        let key = made.inspect_err(|_| {
            // What is in it is of no use.
            let _ = std::fs::remove_file(&path);
        });
        let key = key.with_context(|| format!("cannot make {}", path.display()))?;
        out::line(zone_line(&key))?;
        let Key { domain, selector, .. } = &key;
        out::remark_line(format_args!(
            "The private key is in {}. For the configuration:",
            plain(&path.to_string_lossy())
        ));
        let section = format!("\n[[dkim]]\ndomain = \"{domain}\"\nselector = \"{selector}\"\nkey = {:?}\n", path);
        out::remark_line(section);
        Ok(Exit::Ok)
    }
}

impl Show {
    fn execute(self) -> exit::Result {
        let (_, keys) = keys(&self.config)?;
        if self.json {
            return print_json(&keys.iter().map(|key| shown(key, None)).collect::<Vec<_>>());
        }
        for key in &keys {
            let kind = key.algorithm().as_str();
            let file = key.path.to_string_lossy();
            out::line(format_args!("; {kind}, {} bits, {}", key.bits(), plain(&file)))?;
            out::line(zone_line(key))?;
        }
        if keys.is_empty() {
            out::remark_line("no [[dkim]] in the configuration: nothing is signed");
        }
        Ok(Exit::Ok)
    }
}

impl Check {
    fn execute(self) -> exit::Result {
        let (config, keys) = keys(&self.config)?;
        let settings = daemon::dns_settings(&config, &daemon::hostname(&config), Arc::new(Forgetful))
            .map_err(|error| Failure::usage(anyhow!("{error}")))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the runtime")?;
        let answers = runtime.block_on(async {
            let dns = TextRecords::new(&settings)?;
            let asking = async {
                let end = tokio::time::Instant::now() + PATIENCE;
                let mut answers = Vec::new();
                for key in &keys {
                    let name = key.record_name();
                    let asked = tokio::time::timeout_at(end, dns.of(&name)).await;
                    answers.push(asked.unwrap_or(Err("the resolver did not answer in time")));
                }
                answers
            };
            Ok::<_, crate::dns::Error>(patiently("asking DNS about keys", asking).await)
        })?;
        let records: Vec<Record<'_>> =
            keys.iter().zip(&answers).map(|(key, answer)| shown(key, Some(told(key, answer)))).collect();
        let is_fine = records.iter().all(|record| record.found == Some("right"));
        let exit = if is_fine { Exit::Ok } else { Exit::Problem };
        if self.json {
            print_json(&records)?;
            return Ok(exit);
        }
        for record in &records {
            let text = record.text.as_deref().unwrap_or_default();
            out::line(format_args!("{} ({}): {}", record.name, record.algorithm, plain(text)))?;
        }
        if keys.is_empty() {
            out::remark_line("no [[dkim]] in the configuration: nothing is signed");
        }
        Ok(exit)
    }
}

/// The configuration and its keys, read.
fn keys(path: &Path) -> Result<(Config, Vec<Arc<Key>>), Failure> {
    let config = Config::load(path).map_err(Failure::usage)?;
    let ring = config.ring().map_err(Failure::usage)?;
    Ok((config, ring.keys().to_vec()))
}

fn shown<'a>(key: &'a Key, found: Option<(&'static str, String)>) -> Record<'a> {
    let (found, text) = found.unzip();
    Record {
        domain: &key.domain,
        selector: &key.selector,
        algorithm: key.algorithm().as_str(),
        bits: key.bits(),
        key: &key.path,
        name: key.record_name(),
        record: key.record(),
        found,
        text,
    }
}

/// What DNS has, in a word and in a sentence.
fn told(key: &Key, answer: &Result<Vec<String>, &'static str>) -> (&'static str, String) {
    let records = match answer {
        Ok(records) => records,
        Err(why) => return ("unknown", format!("not known: {why}")),
    };
    match judge(key, records) {
        Found::Right => ("right", format!("ok, key {}", fingerprint(key.public()))),
        Found::Testing => {
            ("testing", "the right key, but marked as a test (t=y): receivers treat it as unsigned".into())
        }
        Found::Nothing => ("missing", "DNS has no such record: signatures by this key fail".into()),
        Found::Revoked => ("wrong", "DNS has revoked the key (empty tag p): signatures by it fail".into()),
        Found::Several(count) => ("wrong", format!("DNS has {count} records; there must be one")),
        Found::Other(why) => ("wrong", format!("DNS has another record: {why}")),
    }
}

fn host_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if is_host_name(&name) { Ok(name) } else { Err("is no domain".to_owned()) }
}

fn selector(text: &str) -> Result<String, String> {
    let is_right = is_host_name(&text.replace('_', "a"));
    if is_right {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("is no selector: letters, digits, '-', '_', '.'".to_owned())
    }
}

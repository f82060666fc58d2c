//! `hikyaku check`: what is wrong with a configuration, all of it at once, and what is suspicious on this machine.
//!
//! Nothing is opened but the file: a check beside the running daemon disturbs nothing. DNS is asked for the names of
//! egress addresses unless `--offline` is given. Errors are what the daemon would refuse to read or to start with (exit code
//! 2); warnings are what it would do, or stumble over, and you may regret (exit code 0).

mod bounces;
mod egress;
mod files;
mod security;
mod tls;
mod unsubscribe;
mod warmup;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::exit::{self, Exit};
use super::privileges;
use super::table::plain_lines;
use super::{out, print_json};
use crate::config::{Config, ConfigError};
use crate::dkim::KeyError;
use crate::dns::network::is_local;
use crate::trusted;

/// Where packages and the unit file put the configuration.
pub(super) const DEFAULT_CONFIG: &str = "/etc/hikyaku/config.toml";

/// Options of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Do not ask DNS whether egress addresses and EHLO names agree
    #[arg(long)]
    offline: bool,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

/// Everything that was found.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Findings {
    file: String,
    /// The daemon would not start.
    errors: Vec<String>,
    /// You may regret it.
    warnings: Vec<String>,
    /// What could not be looked at.
    notes: Vec<String>,
}

impl Check {
    pub(super) fn execute(self) -> exit::Result {
        let findings = self.look();
        let exit = if findings.errors.is_empty() { Exit::Ok } else { Exit::Usage };
        if self.json {
            print_json(&findings)?;
            return Ok(exit);
        }
        let kinds = [("error", &findings.errors), ("warning", &findings.warnings), ("note", &findings.notes)];
        for (kind, texts) in kinds {
            texts.iter().for_each(|text| out::remark_line(format_args!("{kind}: {}", plain_lines(text))));
        }
        if exit == Exit::Ok {
            let found = match findings.warnings.len() {
                0 => "ok".to_owned(),
                1 => "usable; 1 warning".to_owned(),
                count => format!("usable; {count} warnings"),
            };
            out::line(format_args!("{}: {found}", self.config.display()))?;
        }
        Ok(exit)
    }

    fn look(&self) -> Findings {
        let (errors, config) = errors(&self.config);
        let mut findings = Findings { file: self.config.display().to_string(), errors, ..Findings::default() };
        if let Some(config) = &config {
            let is_usable = findings.errors.is_empty();
            findings.errors.extend(refusals(config));
            findings.errors.extend(files::orders(&config.spool.path));
            findings.errors.extend(files::pins(&config.spool.path));
            findings.warnings = warnings(config);
            files::look(&self.config, config, &mut findings);
            if !self.offline && is_usable {
                let (warnings, notes) = egress::names(config);
                findings.warnings.extend(warnings);
                findings.notes = notes;
            }
        }
        findings
    }
}

/// What makes the file unusable, with file and key; and what could be read of it.
fn errors(path: &Path) -> (Vec<String>, Option<Config>) {
    let (mistakes, config) = Config::mistakes(path);
    let mut errors: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    if let Some(config) = config.as_ref().filter(|_| errors.is_empty()) {
        match config.replies.classifier() {
            Ok(_) => {}
            Err(ConfigError::Rules { path, error }) => {
                errors.extend(error.each().iter().map(|mistake| format!("{}: {mistake}", path.display())));
            }
            Err(error) => errors.push(error.to_string()),
        }
        let daemon = files::Daemon::of(config);
        errors.extend(
            config.ring().err().filter(|error| !is_of_daemon(error, daemon.as_ref())).map(|error| error.to_string()),
        );
    }
    (errors, config)
}

/// Whether a file is refused only because who checks is not the daemon's user, whose it is.
fn is_of_daemon(error: &ConfigError, daemon: Option<&files::Daemon>) -> bool {
    let ConfigError::Key(KeyError::File(trusted::Error::Owner { owner, .. })) = error else { return false };
    files::Daemon::is_of(*owner, daemon)
}

/// What this machine cannot give, so that the daemon would not start on it.
fn refusals(config: &Config) -> Vec<String> {
    let mut out: Vec<String> = privileges::account_problem(config).into_iter().collect();
    // A socket unit may bind what is none of this machine's (FreeBind=).
    let own = config.listeners.iter().enumerate().filter(|(_, listener)| listener.socket_name.is_empty());
    let mut places: Vec<_> =
        own.map(|(index, listener)| (format!("listener[{index}].address"), listener.address.ip())).collect();
    let clicks = config.unsubscribe.listen.iter().enumerate();
    places.extend(clicks.map(|(index, address)| (format!("unsubscribe.listen[{index}]"), address.ip())));
    if config.metrics.enabled {
        places.push(("metrics.address".to_owned(), config.metrics.address.ip()));
    }
    for (key, address) in places.into_iter().filter(|(_, address)| !is_local(*address)) {
        out.push(format!("{key}: {address} is no address of this machine: the daemon will not start"));
    }
    out
}

/// What the daemon would accept and an operator should know.
fn warnings(config: &Config) -> Vec<String> {
    let mut out = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        if !listener.socket_name.is_empty() && !is_local(listener.address.ip()) {
            let text = "is no address of this machine: the daemon starts only on a socket that was bound for it";
            out.push(format!("listener[{index}].address: {} {text}", listener.address.ip()));
        }
        if listener.networks.is_empty() {
            out.push(format!("listener[{index}].networks: empty: nobody may submit"));
        }
        if let Some(network) = security::everybody(&listener.networks) {
            let text = "lets the whole world send through you (open relay)";
            out.push(format!("listener[{index}].networks: {network} {text}"));
        }
    }
    for (index, source) in config.sources.iter().enumerate() {
        let addresses = [("ipv4", source.ipv4.map(IpAddr::V4)), ("ipv6", source.ipv6.map(IpAddr::V6))];
        for (key, address) in addresses {
            if let Some(address) = address.filter(|address| !is_local(*address)) {
                let text = "is no address of this machine: every connection from it will fail";
                out.push(format!("source[{index}].{key}: {address} {text}"));
            }
        }
    }
    out.extend(warmup::warnings(config));
    out.extend(bounces::warnings(config));
    out.extend(security::warnings(config));
    out.extend(unsubscribe::warnings(config));
    let mut warn = |is_suspicious: bool, text: &str| {
        if is_suspicious {
            out.push(text.to_owned());
        }
    };
    let is_root = rustix::process::geteuid().is_root();
    warn(is_root && config.user.is_empty(), "user: empty: started as root, the daemon stays root");
    warn(!config.spool.sync, "spool.sync: false: a power cut loses accepted messages; for benchmarks only");
    warn(config.delivery.port != 25, "delivery.port: not 25: for demonstrations and tests only");
    let is_short = !config.signing.expiry.0.is_zero() && config.signing.expiry < config.retry.max_age;
    warn(
        is_short,
        "signing.expiry: shorter than retry.max_age: what is delivered late has signatures that hold no more",
    );
    let is_exposed = config.metrics.enabled && !config.metrics.address.ip().is_loopback();
    warn(is_exposed, "metrics.address: not loopback: anybody who reaches it may read it");
    warn(
        !config.hostname.is_empty() && !config.hostname.contains('.'),
        "hostname: not a full domain name: receivers refuse such an EHLO name",
    );
    warn(config.admin.socket.as_os_str().is_empty(), "admin.socket: empty: no command but `run` and `check` will work");
    out.extend(descriptor_warning(config));
    out
}

/// Sessions and connections need a descriptor each; segments, DNS and listeners some more.
fn descriptor_warning(config: &Config) -> Option<String> {
    // DNS queries: see the resolver's bound.
    const BESIDE: u64 = 2_048;
    let sessions: u64 = config.listeners.iter().map(|listener| u64::from(listener.max_sessions)).sum();
    let needed = sessions + u64::from(config.limits.connections) + BESIDE;
    let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum?;
    (needed > allowed).then(|| {
        format!("up to {needed} descriptors may be needed and {allowed} are allowed here (ulimit -Hn, LimitNOFILE=)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn every_wrong_value_is_told_with_file_and_key() {
        let (_folder, path) = file("[spool]\nsegment_size = \"1KiB\"\n[limits]\nconnections = 0\n");

        let (errors, _) = errors(&path);

        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors[0].contains("config.toml: spool.segment_size"), "{errors:?}");
        assert!(errors[1].contains("config.toml: limits.connections"), "{errors:?}");
    }

    #[test]
    fn missing_file_and_syntax_are_errors() {
        assert_eq!(errors(Path::new("/nonexistent/config.toml")).0.len(), 1);
        let (_folder, path) = file("hostnam = \"x\"\n");
        assert!(errors(&path).0[0].contains("hostnam"));
    }

    #[test]
    fn what_this_machine_cannot_give_is_an_error() {
        let text = "user = \"no-such-user-here\"\n[[listener]]\naddress = \"192.0.2.1:25\"\n[metrics]\nenabled = true\naddress = \"198.51.100.2:9\"\n";
        let (_folder, path) = file(text);

        let refused = refusals(&errors(&path).1.unwrap());

        assert_eq!(refused.len(), 3, "{refused:?}");
        let starts =
            ["user: there is no user", "listener[0].address: 192.0.2.1 is", "metrics.address: 198.51.100.2 is"];
        assert!(refused.iter().zip(starts).all(|(said, start)| said.starts_with(start)), "{refused:?}");
    }

    #[test]
    fn foreign_egress_address_and_open_relay_are_warned_of() {
        let (_folder, path) = file(
            "[[listener]]\nnetworks = [\"0.0.0.0/0\"]\n[[listener]]\naddress = \"127.0.0.1:2526\"\nnetworks = []\n[[source]]\nname = \"a\"\nipv4 = \"192.0.2.1\"\n\
             [[source]]\nname = \"b\"\nipv4 = \"127.0.0.9\"\n",
        );

        let (errors, config) = errors(&path);
        let warnings = warnings(&config.unwrap());

        assert!(errors.is_empty(), "{errors:?}");
        assert!(warnings.iter().any(|warning| warning == "listener[1].networks: empty: nobody may submit"));
        assert!(warnings.iter().any(|warning| warning.contains("open relay")), "{warnings:?}");
        assert!(warnings.iter().any(|warning| warning.starts_with("source[0].ipv4: 192.0.2.1")), "{warnings:?}");
        assert!(!warnings.iter().any(|warning| warning.starts_with("source[1]")), "{warnings:?}");
    }
}

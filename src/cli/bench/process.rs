//! The daemon of a bench: a process of its own, so that its CPU time can be told from the load's and the sink's.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::client::Client;
use crate::cli::exit::Failure;
use crate::config::units::ByteSize;
use crate::config::{Config, Route};
use crate::demo::content::reverse_path;
use crate::demo::folder::Folder;

/// For the daemon's start: its spool is new.
const START: Duration = Duration::from_secs(20);
/// For its drain after SIGTERM.
const STOP: Duration = Duration::from_secs(40);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A running daemon in a folder of its own; killed when dropped.
pub(super) struct Child {
    process: tokio::process::Child,
    submission: SocketAddr,
    _folder: Folder,
}

impl Child {
    /// Starts it and waits until it answers. Each domain goes to its address at `port`.
    pub(super) async fn start<'a>(
        dir: Option<&Path>,
        ways: impl Iterator<Item = (&'a str, Ipv4Addr)>,
        port: u16,
        connections: u32,
    ) -> Result<Self, Failure> {
        let folder = Folder::make(dir).context("cannot make a temporary folder").map_err(Failure::usage)?;
        // The listener's port must be known before the daemon starts.
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let config = config(folder.path(), free, ways, port, connections);
        let file = folder.path().join("config.toml");
        std::fs::write(&file, toml::to_string(&config)?)?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let process = tokio::process::Command::new(std::env::current_exe()?)
            .args(["run", "--config"])
            .arg(&file)
            .stdin(std::process::Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a daemon")?;
        let mut child = Self { process, submission: free, _folder: folder };
        child.wait_until_it_answers(&config).await?;
        Ok(child)
    }

    async fn wait_until_it_answers(&mut self, config: &Config) -> anyhow::Result<()> {
        let client = Client::new(&config.admin.socket);
        let end = Instant::now() + START;
        while client.get::<serde_json::Value>("/v1/status").await.is_err() {
            if let Some(status) = self.process.try_wait()? {
                let log = config.admin.socket.with_file_name("log");
                bail!("the daemon ended with {status}: {}", std::fs::read_to_string(log).unwrap_or_default());
            }
            if Instant::now() > end {
                bail!("the daemon does not answer after {} s", START.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    pub(super) fn submission(&self) -> SocketAddr {
        self.submission
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Ends it in order.
    pub(super) async fn stop(mut self) {
        let pid = self.process.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(STOP, self.process.wait()).await.is_err() {
            let _ = self.process.kill().await;
        }
    }
}

fn config<'a>(
    folder: &Path,
    listener: SocketAddr,
    ways: impl Iterator<Item = (&'a str, Ipv4Addr)>,
    port: u16,
    connections: u32,
) -> Config {
    let mut config = Config { hostname: "bench.hikyaku.test".to_owned(), ..Config::default() };
    for section in &mut config.listeners {
        section.address = listener;
        section.tenant = "bench".to_owned();
        section.max_message_size = ByteSize(64 << 20);
    }
    config.spool.path = folder.join("spool");
    config.journal.path = folder.join("journal");
    config.admin.socket = folder.join("admin.sock");
    config.metrics.enabled = false;
    config.delivery.tls = crate::config::TlsMode::None;
    config.limits.site_connections = connections;
    let route = |domain: &str, next_hop: String| Route { domain: domain.to_owned(), next_hop };
    config.routes = ways.map(|(domain, address)| route(domain, format!("smtp://{address}:{port}"))).collect();
    // DSNs, should there be any: they are counted as what they are, something that came twice.
    let first = config.routes.first().map(|route| route.next_hop.clone()).unwrap_or_default();
    if let Some((_, sender)) = reverse_path(0).split_once('@') {
        config.routes.push(route(sender, first));
    }
    config.log.filter = "error".to_owned();
    config
}

/// CPU time of a process, of user and system together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpu(u64);

impl Cpu {
    /// Of a process of this machine.
    pub(super) fn of(pid: u32) -> Option<Self> {
        // proc(5): the name in parentheses may hold anything; utime and stime are fields 14 and 15.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self(ticks(11)? + ticks(12)?))
    }

    /// Time since `before`.
    pub(super) fn since(self, before: Self) -> Duration {
        let a_second = rustix::param::clock_ticks_per_second().max(1);
        Duration::from_secs_f64(self.0.saturating_sub(before.0) as f64 / a_second as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_seen_to_work() {
        let before = Cpu::of(std::process::id()).unwrap();
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(100) {}

        assert!(Cpu::of(std::process::id()).unwrap().since(before) > Duration::ZERO);
        assert!(Cpu::of(u32::MAX).is_none());
    }

    #[test]
    fn the_configuration_of_the_daemon_is_one_that_it_accepts() {
        let folder = tempfile::tempdir().unwrap();
        let ways = [("d0.bench.test", Ipv4Addr::new(127, 78, 0, 0))];

        let config = config(folder.path(), "127.0.0.1:2525".parse().unwrap(), ways.into_iter(), 4_000, 50);

        let text = toml::to_string(&config).unwrap();
        Config::parse(&text, Path::new("config.toml")).unwrap();
        assert!(text.contains("sender.test"), "{text}");
    }
}

//! A daemon in a folder of its own, with routes to scripted next hops, and the command beside it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hikyaku::config::{Config, Route};
use hikyaku::daemon::Daemon;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::daemon;

pub const GRACE: Duration = Duration::from_secs(5);

/// How a next hop behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Character {
    /// Takes everything.
    Takes,
    /// Turns every recipient away for now, with the recipient in the reply and an escape sequence.
    Defers,
    /// Takes the content and does not answer its end.
    Stalls,
    /// Greets with 421.
    Busy,
    /// Takes a few messages, then says that they come too often.
    Throttles,
}

/// A daemon and where to ask it.
pub struct Running {
    pub daemon: Daemon,
    pub folder: tempfile::TempDir,
}

impl Running {
    /// A daemon with a route for each domain.
    pub async fn start(routes: &[(&str, Character)]) -> Self {
        Self::start_with(routes, |_| {}).await
    }

    /// The same with a changed configuration.
    pub async fn start_with(routes: &[(&str, Character)], change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = daemon::config(folder.path());
        for (domain, character) in routes {
            let next_hop = format!("smtp://{}", next_hop(*character).await);
            config.routes.push(Route { domain: (*domain).to_owned(), next_hop });
        }
        change(&mut config);
        Self { daemon: Daemon::start(config).await.unwrap(), folder }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// Submits one message to some recipients.
    pub async fn submit(&self, recipients: &[&str]) {
        let address = self.daemon.submission_addresses()[0];
        let reply = daemon::submit(address, "a@sender.test", recipients, "Subject: x").await;
        assert!(reply.starts_with("250"), "{reply}");
    }

    /// Runs the command; its exit code, standard output and standard error.
    pub async fn command(&self, arguments: &[&str]) -> (i32, String, String) {
        let output: Output = tokio::process::Command::new(env!("CARGO_BIN_EXE_hikyaku"))
            .args(arguments)
            .env("HIKYAKU_SOCKET", self.socket())
            .output()
            .await
            .unwrap();
        let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    /// The standard output of a command, once it satisfies; with its exit code.
    pub async fn until(&self, arguments: &[&str], is_wanted: impl Fn(&str) -> bool) -> (i32, String) {
        let mut last = String::new();
        for _ in 0..300 {
            let (code, text, errors) = self.command(arguments).await;
            if is_wanted(&text) {
                return (code, text);
            }
            last = text + &errors;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{arguments:?} never said what was wanted, but\n{last}");
    }

    /// The same as JSON.
    pub async fn until_json(
        &self,
        arguments: &[&str],
        is_wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let arguments = [arguments, &["--json"]].concat();
        let is_wanted = |text: &str| serde_json::from_str(text).is_ok_and(|value| is_wanted(&value));
        let (_, text) = self.until(&arguments, is_wanted).await;
        serde_json::from_str(&text).unwrap()
    }

    /// The daemon of the same configuration and spool after a stop.
    pub async fn restarted(self) -> Self {
        let Self { daemon, folder } = self;
        let config = daemon.config().clone();
        daemon.stop(GRACE).await;
        let begun = std::time::Instant::now();
        let daemon = loop {
            match Daemon::start(config.clone()).await {
                Ok(daemon) => break daemon,
                // The connection of the last command may still have the spool of the daemon before.
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(10), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        Self { daemon, folder }
    }

    pub async fn stop(self) {
        self.daemon.stop(GRACE).await;
    }
}

/// A next hop on a port of its own, until the runtime ends.
async fn next_hop(character: Character) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let messages = Arc::new(AtomicU32::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream, character, messages.clone()));
        }
    });
    address
}

async fn converse(stream: TcpStream, character: Character, messages: Arc<AtomicU32>) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    if character == Character::Busy {
        return writer.write_all(b"421 4.7.0 too many connections\r\n").await;
    }
    writer.write_all(b"220 mx.test ESMTP\r\n").await?;
    let mut is_content = false;
    while let Some(line) = lines.next_line().await? {
        let reply = match line.split(' ').next().unwrap_or_default() {
            "." if is_content => {
                is_content = false;
                if character == Character::Stalls {
                    continue;
                }
                "250 2.0.0 taken\r\n".to_owned()
            }
            _ if is_content => continue,
            "EHLO" => "250-mx.test\r\n250 SIZE 10000000\r\n".to_owned(),
            "RCPT" if character == Character::Defers => {
                format!("450 4.2.0 {} \u{1b}[31mis busy, id 1234567\r\n", line.trim_start_matches("RCPT TO:"))
            }
            "MAIL" if character == Character::Throttles => match messages.fetch_add(1, Ordering::Relaxed) {
                ..5 => "250 2.1.0 ok\r\n".to_owned(),
                _ => return writer.write_all(b"421 4.7.28 unusual rate of mail \x1b[31m\r\n").await,
            },
            "DATA" => {
                is_content = true;
                "354 go ahead\r\n".to_owned()
            }
            "QUIT" => return writer.write_all(b"221 2.0.0 bye\r\n").await,
            _ => "250 2.0.0 ok\r\n".to_owned(),
        };
        writer.write_all(reply.as_bytes()).await?;
    }
    Ok(())
}

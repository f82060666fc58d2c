//! Messages signed by the running daemon hold for two verifiers that are not ours; changed on the way they do not. What
//! must be signed and cannot be is refused, DSNs are signed, and keys are taken on by a reload.
//!
//! Needs python3 with venv, PyPI and apt-get; without, the case of the verifiers prints SKIPPED and why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod command;
#[path = "../common/daemon.rs"]
mod daemon;
#[path = "../common/fake_mx.rs"]
mod fake_mx;
mod messages;
#[path = "../interop/packages.rs"]
#[allow(dead_code)]
mod packages;
#[path = "../common/skip.rs"]
mod skip;
mod verifiers;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fake_mx::{FakeMx, Received, Running, Step};
use hikyaku::config::{Config, Dkim, Route, TlsMode};
use hikyaku::daemon::Daemon;
use hikyaku::dkim::{Strength, generate};
use messages::{Sample, sample};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use verifiers::{Verdicts, Verifiers};

const SAMPLES: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(60);

/// A new key in a file.
fn key(folder: &Path, domain: &str, selector: &str, strength: Strength) -> Dkim {
    let path = folder.join(format!("{domain}.{selector}.pem"));
    write_key(&path, strength);
    Dkim { domain: domain.to_owned(), selector: selector.to_owned(), key: path }
}

fn write_key(path: &Path, strength: Strength) {
    std::fs::write(path, generate(strength).unwrap()).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Everything goes to `sink`.
fn config(folder: &Path, sink: &Running, keys: Vec<Dkim>) -> Config {
    let mut config = daemon::config(folder);
    let next_hop = format!("smtp://{}", sink.address);
    config.routes = vec![Route { domain: "*".to_owned(), next_hop }];
    config.delivery.tls = TlsMode::None;
    config.dkim = keys;
    config
}

async fn arrivals(sink: &Running, count: usize) -> Vec<Received> {
    let begun = Instant::now();
    while sink.transactions().len() < count && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let arrivals = sink.transactions();
    assert_eq!(arrivals.len(), count);
    arrivals
}

/// A client that says what it must and expects what it should.
struct Client {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let (reader, writer) = TcpStream::connect(address).await.unwrap().into_split();
        let mut client = Self { lines: BufReader::new(reader).lines(), writer };
        assert!(client.reply().await.starts_with("220"));
        client.say("EHLO client.test\r\n", "250").await;
        client
    }

    async fn reply(&mut self) -> String {
        loop {
            let line = self.lines.next_line().await.unwrap().unwrap();
            if line.as_bytes().get(3) != Some(&b'-') {
                return line;
            }
        }
    }

    async fn say(&mut self, octets: impl AsRef<[u8]>, expected: &str) {
        self.writer.write_all(octets.as_ref()).await.unwrap();
        let reply = self.reply().await;
        assert!(reply.starts_with(expected), "{reply}");
    }

    async fn send(&mut self, to: &str, sample: &Sample) {
        self.say("MAIL FROM:<x@a.test> BODY=8BITMIME\r\n", "250").await;
        self.say(format!("RCPT TO:<{to}>\r\n"), "250").await;
        let Some(chunks) = sample.chunks else {
            self.say("DATA\r\n", "354").await;
            let text = [b"\r\n", sample.content.as_slice()].concat();
            let mut stuffed = Vec::with_capacity(text.len());
            for octet in text {
                let is_first = octet == b'.' && stuffed.ends_with(b"\r\n");
                stuffed.push(octet);
                if is_first {
                    stuffed.push(b'.');
                }
            }
            stuffed.extend_from_slice(b".\r\n");
            return self.say(&stuffed[2..], "250").await;
        };
        let size = sample.content.len().div_ceil(chunks).max(1);
        let mut pieces = sample.content.chunks(size).peekable();
        while let Some(piece) = pieces.next() {
            let last = if pieces.peek().is_none() { " LAST" } else { "" };
            let command = format!("BDAT {}{last}\r\n", piece.len());
            self.say([command.as_bytes(), piece].concat(), "250").await;
        }
    }
}

fn write_all(folder: &Path, contents: impl IntoIterator<Item = (String, Vec<u8>)>) -> usize {
    std::fs::create_dir(folder).unwrap();
    let written = contents.into_iter().map(|(name, content)| std::fs::write(folder.join(name), content).unwrap());
    written.count()
}

/// Every message has so many signatures, all of which hold, or none of which does.
fn assert_all(verdicts: &Verdicts, messages: usize, signatures: usize, holds: bool, who: &str) {
    let wrong: Vec<_> = verdicts.iter().filter(|(_, all)| **all != vec![holds; signatures]).collect();
    assert!(wrong.is_empty(), "{who}: {} wrong: {wrong:?}", wrong.len());
    assert_eq!(verdicts.len(), messages, "{who}");
}

/// The changes of a signed message that must be seen.
fn changed(name: &str, content: &[u8]) -> Vec<(String, Vec<u8>)> {
    let text = String::from_utf8_lossy(content);
    let end = text.find("\r\n\r\n").unwrap();
    let add = |field: &str| format!("{}\r\n{field}{}", &text[..end], &text[end..]);
    let all = [
        ("body", format!("{text}more\r\n")),
        ("from", format!("From: y@evil.test\r\n{text}")),
        ("subject", add("Subject: another")),
        ("click", add("List-Unsubscribe-Post: List-Unsubscribe=One-Click")),
        ("to", text.replace("@sink.test", "@other.test")),
    ];
    all.into_iter().map(|(kind, text)| (format!("{name}-{kind}"), text.into_bytes())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_verifiers_accept_what_was_signed_and_nothing_that_was_changed() {
    let folder = tempfile::tempdir().unwrap();
    let verifiers = match Verifiers::prepare(folder.path()) {
        Ok(verifiers) => verifiers,
        Err(reason) => {
            return skip::skip("two_verifiers_accept_what_was_signed_and_nothing_that_was_changed", &reason);
        }
    };
    let sink = FakeMx::new().start().await;
    let keys = [("rsa", Strength::Rsa2048), ("ed", Strength::Ed25519)];
    let keys = keys.map(|(selector, strength)| key(folder.path(), "a.test", selector, strength)).to_vec();
    let config = config(folder.path(), &sink, keys);
    let records = records(&config, folder.path());
    let daemon = Daemon::start(config).await.unwrap();

    let mut client = Client::connect(daemon.submission_addresses()[0]).await;
    for number in 0..SAMPLES {
        client.send(&format!("{number}@sink.test"), &sample(number)).await;
    }
    let count = usize::try_from(SAMPLES).unwrap();
    let arrived = arrivals(&sink, count).await;
    let metrics = daemon.registry().render();
    daemon.stop(Duration::from_secs(5)).await;

    let spilled = arrived.iter().filter(|arrival| arrival.content.len() > 300_000).count();
    assert!(spilled >= 5, "{spilled}");
    let named =
        |arrival: &Received| (arrival.rcpts[0].split(['<', '>']).nth(1).unwrap().to_owned(), arrival.content.clone());
    let signed = folder.path().join("signed");
    write_all(&signed, arrived.iter().map(named));
    assert_all(&verifiers.dkimpy(&records, &signed), count, 2, true, "dkimpy");
    assert_all(&verifiers.opendkim(&records, &signed), count, 2, true, "OpenDKIM");
    let small = arrived.iter().filter(|arrival| arrival.content.len() < 20_000).take(20).map(named);
    let bad = folder.path().join("changed");
    let changed = write_all(&bad, small.flat_map(|(name, content)| changed(&name, &content)));
    assert!(changed >= 90);
    assert_all(&verifiers.dkimpy(&records, &bad), changed, 2, false, "dkimpy, changed");
    assert_all(&verifiers.opendkim(&records, &bad), changed, 2, false, "OpenDKIM, changed");
    for algorithm in ["rsa-sha256", "ed25519-sha256"] {
        let line = format!("hikyaku_dkim_signatures_total{{result=\"ok\",algorithm=\"{algorithm}\"}} {SAMPLES}");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

/// The records of the configured keys in a file, a line each.
fn records(config: &Config, folder: &Path) -> PathBuf {
    let ring = config.ring().unwrap();
    let lines = ring.keys().iter().map(|key| format!("{} {}\n", key.record_name(), key.record()));
    let path = folder.join("records");
    std::fs::write(&path, lines.collect::<String>()).unwrap();
    path
}

/// The tag `s` of the signatures of a content.
fn selectors(content: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(content);
    let header = text.split("\r\n\r\n").next().unwrap();
    header
        .split("DKIM-Signature:")
        .skip(1)
        .map(|field| {
            let tag = field.split_once("\ts=").unwrap().1;
            tag.split(';').next().unwrap().to_owned()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_be_signed_is_refused_without_a_key_and_dsns_are_signed() {
    let folder = tempfile::tempdir().unwrap();
    let sink = FakeMx::new().on(Step::Rcpt, "550 5.1.1 unknown").start().await;
    let keys = vec![key(folder.path(), "mta.test", "dsn", Strength::Ed25519)];
    let mut config = config(folder.path(), &sink, keys);
    config.signing.required = vec!["*.b.test".to_owned(), "mta.test".to_owned()];
    let daemon = Daemon::start(config).await.unwrap();
    let address = daemon.submission_addresses()[0];

    let refused = daemon::submit(address, "x@b.test", &["r@sink.test"], "From: x@shop.b.test").await;
    let unreadable = daemon::submit(address, "x@b.test", &["r@sink.test"], "From: somebody").await;
    let taken = daemon::submit(address, "x@b.test", &["r@sink.test"], "From: x@b.test").await;
    let dsn = arrivals(&sink, 1).await.remove(0);
    let metrics = daemon.registry().render();
    daemon.stop(Duration::from_secs(5)).await;

    assert!(refused.starts_with("550 5.7.20 ") && unreadable.starts_with("550 5.7.20 "), "{refused} {unreadable}");
    assert!(taken.starts_with("250 "), "{taken}");
    assert!(dsn.mail.contains("FROM:<>"), "{}", dsn.mail);
    assert_eq!(selectors(&dsn.content), ["dsn"]);
    for (name, value) in [
        ("hikyaku_submission_rejected_total{cause=\"signature\"}", 2),
        ("hikyaku_dkim_messages_total{result=\"refused\"}", 2),
        ("hikyaku_dkim_messages_total{result=\"unsigned\"}", 1),
    ] {
        assert!(metrics.contains(&format!("{name} {value}\n")), "{name}: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_keys_on_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let sink = FakeMx::new().start().await;
    let keys = vec![key(folder.path(), "a.test", "one", Strength::Ed25519)];
    let file = keys[0].key.clone();
    let plain = config(folder.path(), &sink, Vec::new());
    let one = config(folder.path(), &sink, keys.clone());
    let mut daemon = Daemon::start(plain.clone()).await.unwrap();
    let address = daemon.submission_addresses()[0];
    // Of before the keys: sessions that are open sign as well.
    let mut client = Client::connect(address).await;
    let message = Sample { content: b"From: x@a.test\r\n\r\nbody\r\n".to_vec(), chunks: None };

    client.send("1@sink.test", &message).await;
    let (changed, _) = daemon.reload(one.clone()).await.unwrap();
    assert_eq!(changed.len(), 1, "{changed:?}");
    client.send("2@sink.test", &message).await;
    assert!(daemon.reload(one.clone()).await.unwrap().0.is_empty());
    let before = one.ring().unwrap().keys()[0].record();
    write_key(&file, Strength::Ed25519);
    let (changed, _) = daemon.reload(one.clone()).await.unwrap();
    assert_eq!(changed.iter().map(|change| change.key.as_str()).collect::<Vec<_>>(), ["dkim"]);
    assert_ne!(one.ring().unwrap().keys()[0].record(), before);
    std::fs::write(&file, "no key").unwrap();
    let error = daemon.reload(one.clone()).await.unwrap_err().to_string();
    client.send("3@sink.test", &message).await;
    let (changed, _) = daemon.reload(plain).await.unwrap();
    assert_eq!(changed.len(), 1, "{changed:?}");
    client.send("4@sink.test", &message).await;
    let mut arrived = arrivals(&sink, 4).await;
    daemon.stop(Duration::from_secs(5)).await;

    assert!(error.contains(file.to_str().unwrap()), "{error}");
    arrived.sort_by_key(|arrival| arrival.rcpts[0].clone());
    let signed: Vec<usize> = arrived.iter().map(|arrival| selectors(&arrival.content).len()).collect();
    assert_eq!(signed, [0, 1, 1, 0]);
    let start = Daemon::start(one).await.map(|_| ()).unwrap_err().to_string();
    assert!(start.contains(file.to_str().unwrap()), "{start}");
}

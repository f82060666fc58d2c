//! The receiver of everything: notes each arrival before it answers the final dot.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Result, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use memchr::memmem;
use parking_lot::Mutex;

use super::ledger::{Arrival, Ledger};
use super::letter::{of_address, scrambled};

/// It listens until it is dropped.
#[derive(Debug)]
pub struct Sink {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Shared {
    ledger: Arc<Ledger>,
    /// Of the recipients that are taken at the second try.
    tried: Mutex<HashSet<String>>,
}

impl Sink {
    pub fn start(ledger: Arc<Ledger>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let shared = Arc::new(Shared { ledger, tried: Mutex::default() });
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else { continue };
                // A session ends with its client, which may be killed at any moment.
                thread::spawn(move || Session::new(&shared).serve(stream));
            }
        });
        Self { address, stop }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
    }
}

struct Session<'a> {
    shared: &'a Shared,
    recipients: Vec<String>,
}

impl<'a> Session<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self { shared, recipients: Vec::new() }
    }

    fn serve(&mut self, stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut writer = stream.try_clone()?;
        let mut reader = BufReader::with_capacity(64 << 10, stream);
        let mut replies = b"220 sink.test ESMTP\r\n".to_vec();
        let mut line = Vec::new();
        loop {
            if reader.buffer().is_empty() {
                writer.write_all(&replies)?;
                replies.clear();
            }
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            let reply = match text.get(..4).unwrap_or_default() {
                "EHLO" => "250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 0",
                "MAIL" => {
                    self.recipients.clear();
                    "250 2.1.0 ok"
                }
                "RCPT" => self.recipient(&text),
                "DATA" if self.recipients.is_empty() => "554 5.5.1 no valid recipients",
                "DATA" => {
                    replies.extend_from_slice(b"354 go on\r\n");
                    writer.write_all(&replies)?;
                    replies.clear();
                    let Some(content) = content(&mut reader)? else { return Ok(()) };
                    self.arrived(&content);
                    "250 2.0.0 ok"
                }
                "RSET" => "250 2.0.0 ok",
                "QUIT" => return writer.write_all(b"221 2.0.0 bye\r\n"),
                _ => "500 5.5.2 what?",
            };
            replies.extend_from_slice(format!("{reply}\r\n").as_bytes());
        }
    }

    fn recipient(&mut self, line: &str) -> &'static str {
        let address = line.split(['<', '>']).nth(1).unwrap_or_default();
        if address.starts_with("refused-") {
            return "550 5.1.1 no such user";
        }
        if address.starts_with("later-") && self.shared.tried.lock().insert(address.to_owned()) {
            return "450 4.2.0 later";
        }
        self.recipients.push(address.to_owned());
        "250 2.1.5 ok"
    }

    fn arrived(&mut self, content: &[u8]) {
        let at = Instant::now();
        for recipient in &self.recipients {
            let letter = of_address(recipient);
            let (id, is_intact) = if recipient.starts_with("sender-") {
                let refused = letter.map(|letter| format!("refused-{}-", letter.0)).unwrap_or_default();
                (after(content, b"Message-ID: "), memmem::find(content, refused.as_bytes()).is_some())
            } else {
                let start = memmem::find(content, b"X-Seq: ").unwrap_or(content.len());
                let sum = crc32c::crc32c(&content[start..]);
                (after(content, b" with ESMTP id "), letter.is_some_and(|letter| letter.sum() == sum))
            };
            self.shared.ledger.note_arrival(recipient, Arrival { id, is_intact, at });
        }
        // So that now and then a kill falls between the arrival and its reply.
        thread::sleep(Duration::from_micros(scrambled(content.len() as u64) % 4_000));
    }
}

/// The word behind `mark`.
fn after(content: &[u8], mark: &[u8]) -> String {
    let start = memmem::find(content, mark).map_or(content.len(), |start| start + mark.len());
    let word = content[start..].split(|octet| b" ;\r\n".contains(octet)).next().unwrap_or_default();
    String::from_utf8_lossy(word).into_owned()
}

/// Up to the final dot, without dot-stuffing; nothing if the connection ends before.
fn content(reader: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    loop {
        let start = content.len();
        if reader.read_until(b'\n', &mut content)? == 0 {
            return Ok(None);
        }
        if &content[start..] == b".\r\n" {
            content.truncate(start);
            return Ok(Some(content));
        }
        if content[start] == b'.' {
            content.remove(start);
        }
    }
}

//! The receiver of everything: notes each arrival before it answers the final dot. It can be in a bad mood.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use memchr::memmem;
use parking_lot::Mutex;

use crate::checker::{Arrival, Checker};
use crate::letter::{of_address, scrambled};

/// Between two looks of a silent session at whether it is over.
const LOOK: Duration = Duration::from_millis(50);

/// What it does to mail. DSNs are always taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Normal,
    /// 450 to RCPT.
    Defer,
    /// 550 to RCPT.
    Refuse,
    /// When content begins it reads nothing more.
    SilentInContent,
    /// It takes the message and does not say so.
    SilentAfterDot,
    /// It does not answer MAIL.
    SilentAtMail,
}

/// When a trap is sprung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The first line of content has come.
    Content,
    /// The final dot has come, and the arrival is noted.
    EndOfData,
}

type Trap = (Moment, Box<dyn FnOnce() + Send>);

/// It listens until it is dropped.
#[derive(Debug)]
pub struct Sink {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    checker: Arc<Checker>,
    mood: Mutex<Mood>,
    trap: Mutex<Option<Trap>>,
    /// By recipient: how often it was tried.
    tried: Mutex<HashMap<String, u32>>,
    /// When recipients were tried again.
    retries: Mutex<Vec<Instant>>,
    stop: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("mood", &self.mood).finish_non_exhaustive()
    }
}

impl Sink {
    /// On loopback.
    pub fn start(checker: Arc<Checker>) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), checker)
    }

    pub fn start_at(address: IpAddr, checker: Arc<Checker>) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            checker,
            mood: Mutex::default(),
            trap: Mutex::default(),
            tried: Mutex::default(),
            retries: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let sink = Self { address, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else { continue };
                // A session ends with its client, which may be killed at any moment.
                thread::spawn(move || Session { shared: &shared, recipients: Vec::new() }.serve(stream));
            }
        });
        sink
    }

    /// Sessions that are silent stay so until they are over; a new mood is for the commands that come.
    pub fn set_mood(&self, mood: Mood) {
        *self.shared.mood.lock() = mood;
    }

    /// Does something, once, at the next such moment of any session.
    pub fn set_trap(&self, moment: Moment, action: impl FnOnce() + Send + 'static) {
        *self.shared.trap.lock() = Some((moment, Box::new(action)));
    }

    /// When recipients were tried again, without those of DSNs.
    pub fn retries(&self) -> Vec<Instant> {
        self.shared.retries.lock().clone()
    }

    /// Recipients that were tried, without those of DSNs.
    pub fn tried(&self) -> usize {
        self.shared.tried.lock().len()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn mood(&self) -> Mood {
        *self.mood.lock()
    }

    fn spring(&self, now: Moment) {
        let trap = self.trap.lock().take_if(|(moment, _)| *moment == now);
        if let Some((_, action)) = trap {
            action();
        }
    }

    /// Says nothing until the other side has gone, or this sink has; if it does not read, until its mood has changed.
    fn be_silent(&self, mut stream: &TcpStream, reads: bool) -> Result<()> {
        stream.set_read_timeout(Some(LOOK))?;
        let mut buffer = [0; 1_024];
        let mood = self.mood();
        while !self.stop.load(Ordering::Acquire) {
            if reads {
                if matches!(stream.read(&mut buffer), Ok(0)) {
                    return Ok(());
                }
            } else if self.mood() == mood {
                thread::sleep(LOOK);
            } else {
                return Ok(());
            }
        }
        Ok(())
    }
}

struct Session<'a> {
    shared: &'a Shared,
    recipients: Vec<String>,
}

impl Session<'_> {
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
                "MAIL" if self.shared.mood() == Mood::SilentAtMail => return self.shared.be_silent(&writer, true),
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
                    if self.shared.mood() == Mood::SilentInContent {
                        return self.shared.be_silent(&writer, false);
                    }
                    let Some(content) = content(&mut reader, self.shared)? else { return Ok(()) };
                    self.arrived(&content);
                    self.shared.spring(Moment::EndOfData);
                    if self.shared.mood() == Mood::SilentAfterDot {
                        return self.shared.be_silent(&writer, true);
                    }
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
        if !address.starts_with("sender-") {
            let mut tried = self.shared.tried.lock();
            let count = tried.entry(address.to_owned()).or_default();
            *count += 1;
            if *count > 1 {
                self.shared.retries.lock().push(Instant::now());
            }
            match self.shared.mood() {
                Mood::Defer => return "450 4.2.0 not now",
                Mood::Refuse => return "550 5.1.1 nobody here",
                _ if address.starts_with("refused-") => return "550 5.1.1 no such user",
                _ if address.starts_with("later-") && *count == 1 => return "450 4.2.0 later",
                _ => {}
            }
        }
        self.recipients.push(address.to_owned());
        "250 2.1.5 ok"
    }

    fn arrived(&mut self, content: &[u8]) {
        let at = Instant::now();
        for recipient in &self.recipients {
            let letter = of_address(recipient);
            let is_dsn = recipient.starts_with("sender-");
            let (id, is_intact) = if is_dsn {
                let refused = letter.map(|letter| format!("refused-{}-", letter.0)).unwrap_or_default();
                (after(content, b"Message-ID: "), memmem::find(content, refused.as_bytes()).is_some())
            } else {
                let start = memmem::find(content, b"X-Seq: ").unwrap_or(content.len());
                let sum = crc32c::crc32c(&content[start..]);
                (after(content, b" with ESMTP id "), letter.is_some_and(|letter| letter.sum() == sum))
            };
            let statuses = if is_dsn { statuses(content) } else { Vec::new() };
            self.shared.checker.note_arrival(recipient, Arrival { id, is_intact, statuses, at });
        }
        // So that now and then a kill falls between the arrival and its reply.
        thread::sleep(Duration::from_micros(scrambled(content.len() as u64) % 4_000));
    }
}

/// The Status fields of a DSN.
fn statuses(content: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(content);
    text.lines().filter_map(|line| line.strip_prefix("Status: ")).map(str::to_owned).collect()
}

/// The word behind `mark`.
fn after(content: &[u8], mark: &[u8]) -> String {
    let start = memmem::find(content, mark).map_or(content.len(), |start| start + mark.len());
    let word = content[start..].split(|octet| b" ;\r\n".contains(octet)).next().unwrap_or_default();
    String::from_utf8_lossy(word).into_owned()
}

/// Up to the final dot, without dot-stuffing; nothing if the connection ends before.
fn content(reader: &mut impl BufRead, shared: &Shared) -> Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    loop {
        let start = content.len();
        if reader.read_until(b'\n', &mut content)? == 0 {
            return Ok(None);
        }
        if start == 0 {
            shared.spring(Moment::Content);
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

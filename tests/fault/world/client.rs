//! The load: sends one message after the other and notes what it was told.

use std::io::{BufRead, BufReader, Error, ErrorKind, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::checker::{Answer, Checker};
use crate::letter::{Kind, Letter};

/// A daemon that says nothing for so long hangs; the case then fails by what is missing.
const TIMEOUT: Duration = Duration::from_secs(20);
/// After a reply that ends a session.
const PAUSE: Duration = Duration::from_millis(20);

/// Numbers of messages; each is tried once, whatever becomes of it.
#[derive(Debug)]
pub struct Numbers {
    next: AtomicU32,
}

impl Numbers {
    pub fn from(first: u32) -> Arc<Self> {
        Arc::new(Self { next: AtomicU32::new(first) })
    }

    /// All of one kind.
    pub fn of(kind: Kind) -> Arc<Self> {
        Self::from(kind.first())
    }

    pub fn next(&self) -> u32 {
        self.next.load(Ordering::Relaxed)
    }

    fn take(&self, end: u32) -> Option<Letter> {
        let taken =
            self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| (next < end).then_some(next + 1));
        taken.ok().map(Letter)
    }
}

/// How clients send.
#[derive(Clone, Debug)]
pub struct Plan {
    pub connections: u32,
    pub numbers: Arc<Numbers>,
    /// They stop before this number,
    pub end: u32,
    /// or by themselves after each message wait this long.
    pub pause: Duration,
    /// How long they wait for a reply.
    pub timeout: Duration,
}

impl Plan {
    /// Without end or pause.
    pub fn endless(connections: u32, numbers: &Arc<Numbers>) -> Self {
        let (end, pause) = (u32::MAX, Duration::ZERO);
        Self { connections, numbers: Arc::clone(numbers), end, pause, timeout: TIMEOUT }
    }

    /// The next `count` messages.
    pub fn of(count: u32, connections: u32, numbers: &Arc<Numbers>) -> Self {
        Self { end: numbers.next() + count, ..Self::endless(connections, numbers) }
    }
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Starts clients, which end with their numbers, or when nobody listens any more.
    pub fn start(plan: &Plan, server: SocketAddr, checker: &Arc<Checker>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |_| {
            let client = Client { plan: plan.clone(), checker: Arc::clone(checker), stop: Arc::clone(&stop) };
            thread::spawn(move || client.run(server))
        };
        Self { threads: (0..plan.connections).map(start).collect(), stop }
    }

    /// Waits for their end.
    pub fn join(self) {
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    /// Lets each finish its message.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}

struct Client {
    plan: Plan,
    checker: Arc<Checker>,
    stop: Arc<AtomicBool>,
}

impl Client {
    fn run(&self, server: SocketAddr) {
        while !self.stop.load(Ordering::Relaxed)
            && let Ok(mut connection) = Connection::open(server, self.plan.timeout)
        {
            match connection.send(self) {
                Ok(()) => return,
                Err(error) => {
                    if connection.is_greeted && error.kind() != ErrorKind::Other {
                        self.checker.note_broken();
                    }
                    thread::sleep(PAUSE);
                }
            }
        }
    }

    fn next(&self) -> Option<Letter> {
        if self.stop.load(Ordering::Relaxed) { None } else { self.plan.numbers.take(self.plan.end) }
    }
}

struct Connection {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    is_greeted: bool,
}

impl Connection {
    fn open(server: SocketAddr, timeout: Duration) -> Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { writer: stream.try_clone()?, reader: BufReader::new(stream), is_greeted: false })
    }

    fn send(&mut self, client: &Client) -> Result<()> {
        self.expect('2')?;
        self.is_greeted = true;
        self.writer.write_all(b"EHLO client.test\r\n")?;
        self.expect('2')?;
        while let Some(letter) = client.next() {
            self.transact(letter, &client.checker)?;
            thread::sleep(client.plan.pause);
        }
        self.writer.write_all(b"QUIT\r\n")
    }

    fn transact(&mut self, letter: Letter, checker: &Checker) -> Result<()> {
        checker.note_answer(letter, Answer::Unfinished);
        let recipients = letter.forward_paths();
        let mut envelope = format!("MAIL FROM:<{}>\r\n", letter.reverse_path());
        for recipient in &recipients {
            envelope.push_str(&format!("RCPT TO:<{recipient}>\r\n"));
        }
        envelope.push_str("DATA\r\n");
        self.writer.write_all(envelope.as_bytes())?;
        for _ in 0..=recipients.len() {
            self.expect('2')?;
        }
        self.expect('3')?;
        let mut stuffed = Vec::new();
        for line in letter.content().split_inclusive(|octet| *octet == b'\n') {
            if line.starts_with(b".") {
                stuffed.push(b'.');
            }
            stuffed.extend_from_slice(line);
        }
        stuffed.extend_from_slice(b".\r\n");
        checker.note_answer(letter, Answer::Unknown);
        self.writer.write_all(&stuffed)?;
        let sent = Instant::now();
        match self.reply()? {
            '2' => {
                checker.note_acceptance(letter, sent.elapsed());
                Ok(())
            }
            _ => {
                checker.note_answer(letter, Answer::Refused);
                Err(ErrorKind::Other.into())
            }
        }
    }

    fn expect(&mut self, digit: char) -> Result<()> {
        let found = self.reply()?;
        if found == digit { Ok(()) } else { Err(Error::other(format!("{found} instead of {digit}"))) }
    }

    /// The first digit of the next reply.
    fn reply(&mut self) -> Result<char> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.reader.read_line(&mut line)? == 0 || !line.ends_with('\n') {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line.chars().next().unwrap_or('0'));
            }
        }
    }
}

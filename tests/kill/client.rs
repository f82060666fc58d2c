//! The load: sends one message after the other and notes what it was told.

use std::io::{BufRead, BufReader, Error, ErrorKind, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::ledger::{Answer, Ledger};
use super::letter::Letter;

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

    pub fn next(&self) -> u32 {
        self.next.load(Ordering::Relaxed)
    }

    fn take(&self, end: u32) -> Option<Letter> {
        let taken =
            self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| (next < end).then_some(next + 1));
        taken.ok().map(Letter)
    }
}

/// Starts `connections` of them, which end when numbers reach `end` or nobody listens any more.
pub fn start(
    connections: u32,
    server: SocketAddr,
    numbers: &Arc<Numbers>,
    end: u32,
    ledger: &Arc<Ledger>,
) -> Vec<JoinHandle<()>> {
    let start = |_| {
        let (numbers, ledger) = (Arc::clone(numbers), Arc::clone(ledger));
        thread::spawn(move || {
            while let Ok(connection) = Connection::open(server) {
                match connection.send(&numbers, end, &ledger) {
                    Ok(()) => return,
                    Err(_) => thread::sleep(PAUSE),
                }
            }
        })
    };
    (0..connections).map(start).collect()
}

struct Connection {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Connection {
    fn open(server: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self { writer: stream.try_clone()?, reader: BufReader::new(stream) })
    }

    fn send(mut self, numbers: &Numbers, end: u32, ledger: &Ledger) -> Result<()> {
        self.expect('2')?;
        self.writer.write_all(b"EHLO client.test\r\n")?;
        self.expect('2')?;
        while let Some(letter) = numbers.take(end) {
            self.transact(letter, ledger)?;
        }
        self.writer.write_all(b"QUIT\r\n")
    }

    fn transact(&mut self, letter: Letter, ledger: &Ledger) -> Result<()> {
        ledger.note_answer(letter, Answer::Unfinished);
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
        ledger.note_answer(letter, Answer::Unknown);
        self.writer.write_all(&stuffed)?;
        match self.reply()? {
            '2' => {
                ledger.note_answer(letter, Answer::Accepted);
                Ok(())
            }
            _ => {
                ledger.note_answer(letter, Answer::Refused);
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

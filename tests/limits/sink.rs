//! A receiver that follows a policy, and remembers what it took in which order.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// When it is asked what to do.
#[derive(Clone, Copy, Debug)]
pub enum At {
    /// A connection; so many others are open.
    Greeting { others: usize },
    /// MAIL; counts over all connections from 0.
    Mail { number: usize },
}

/// What it does.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    Take,
    Say(&'static str),
    /// Says it, then FIN.
    Close(&'static str),
    /// FIN without a word.
    Hang,
    /// RST.
    Reset,
}

/// A message that got its 250.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The reverse-path.
    pub from: String,
    pub at: Instant,
}

struct Shared {
    policy: Box<dyn Fn(At) -> Act + Send + Sync>,
    /// Before each reply to the end of data.
    delay: Duration,
    open: AtomicUsize,
    mails: AtomicUsize,
    arrivals: Mutex<Vec<Arrival>>,
    is_over: AtomicBool,
}

/// Listens until it is dropped.
pub struct Sink {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Sink {
    /// One that takes everything at once.
    pub fn taking() -> Self {
        Self::start(Duration::ZERO, |_| Act::Take)
    }

    pub fn start(delay: Duration, policy: impl Fn(At) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            policy: Box::new(policy),
            delay,
            open: AtomicUsize::new(0),
            mails: AtomicUsize::new(0),
            arrivals: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let kept = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if kept.is_over.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(stream), shared) = (stream, kept.clone()) else { continue };
                // In the order in which they came, so that the number of others is exact.
                let others = shared.open.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    let _ = serve(&stream, &shared, others);
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, shared }
    }

    /// MAIL commands so far.
    pub fn mails(&self) -> usize {
        self.shared.mails.load(Ordering::SeqCst)
    }

    pub fn taken(&self) -> usize {
        self.shared.arrivals.lock().len()
    }

    pub fn arrivals(&self) -> Vec<Arrival> {
        self.shared.arrivals.lock().clone()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

/// Follows the policy; None: the connection is over.
fn follow(stream: &mut &TcpStream, act: Act, taken: &str) -> std::io::Result<Option<()>> {
    match act {
        Act::Take => stream.write_all(format!("{taken}\r\n").as_bytes())?,
        Act::Say(reply) => stream.write_all(format!("{reply}\r\n").as_bytes())?,
        Act::Close(reply) => {
            stream.write_all(format!("{reply}\r\n").as_bytes())?;
            stream.shutdown(Shutdown::Write)?;
            // Closed with octets unread it would be a reset, which may overtake the reply.
            std::io::copy(&mut stream.take(1 << 20), &mut std::io::sink())?;
            return Ok(None);
        }
        Act::Hang => {
            stream.shutdown(Shutdown::Both)?;
            return Ok(None);
        }
        Act::Reset => {
            socket2::SockRef::from(*stream).set_linger(Some(Duration::ZERO))?;
            return Ok(None);
        }
    }
    Ok(Some(()))
}

fn serve(mut stream: &TcpStream, shared: &Shared, others: usize) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut lines = BufReader::new(stream);
    if follow(&mut stream, (shared.policy)(At::Greeting { others }), "220 sink.test ESMTP")?.is_none() {
        return Ok(());
    }
    let (mut from, mut is_refused, mut line) = (String::new(), false, String::new());
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        match &*verb {
            "EHLO" => stream.write_all(b"250-sink.test\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES\r\n")?,
            "MAIL" => {
                from = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                let act = (shared.policy)(At::Mail { number: shared.mails.fetch_add(1, Ordering::SeqCst) });
                is_refused = !matches!(act, Act::Take);
                if follow(&mut stream, act, "250 2.1.0 ok")?.is_none() {
                    return Ok(());
                }
            }
            "RCPT" | "DATA" if is_refused => stream.write_all(b"503 5.5.1 MAIL first\r\n")?,
            "RCPT" => stream.write_all(b"250 2.1.5 ok\r\n")?,
            "DATA" => {
                stream.write_all(b"354 go on\r\n")?;
                while line != ".\r\n" {
                    line.clear();
                    if lines.read_line(&mut line)? == 0 {
                        return Ok(());
                    }
                }
                thread::sleep(shared.delay);
                shared.arrivals.lock().push(Arrival { from: from.clone(), at: Instant::now() });
                stream.write_all(b"250 2.0.0 ok\r\n")?;
            }
            "QUIT" => return stream.write_all(b"221 2.0.0 bye\r\n"),
            _ => stream.write_all(b"250 2.0.0 ok\r\n")?,
        }
    }
}

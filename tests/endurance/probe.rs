//! A client that submits one small message after the other, each over a connection of its own, and how long each took.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two messages.
const PAUSE: Duration = Duration::from_millis(5);

/// A session with the daemon.
pub struct Session {
    stream: BufReader<TcpStream>,
}

impl Session {
    /// Greeted and EHLO said.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let mut session = Self { stream: BufReader::new(stream) };
        session.expect("220");
        session.say("EHLO probe.test\r\n");
        session.expect("250");
        session
    }

    fn say(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn expect(&mut self, code: &str) {
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            assert!(line.starts_with(code), "{line:?} in place of {code}");
            if line.as_bytes()[3] == b' ' {
                return;
            }
        }
    }

    /// One message, to its 250; how long that took from the end of data on.
    pub fn submit(&mut self, to: &[String]) -> Duration {
        let rcpts: String = to.iter().map(|to| format!("RCPT TO:<{to}>\r\n")).collect();
        self.say(&format!("MAIL FROM:<>\r\n{rcpts}DATA\r\n"));
        for _ in 0..=to.len() {
            self.expect("250");
        }
        self.expect("354");
        let begun = Instant::now();
        self.say("Subject: probe\r\n\r\nHello.\r\n.\r\n");
        self.expect("250");
        begun.elapsed()
    }

    pub fn quit(mut self) {
        self.say("QUIT\r\n");
        self.expect("221");
    }
}

/// A client at work, and beside it a thread that only sleeps: what it oversleeps the machine is to blame for.
pub struct Probe {
    is_over: Arc<AtomicBool>,
    /// Until EHLO is answered, the envelope, from the end of data on.
    client: JoinHandle<Vec<[Duration; 3]>>,
    sleeper: JoinHandle<Vec<Duration>>,
}

impl Probe {
    pub fn start(address: SocketAddr) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let client = thread::spawn(move || {
            let mut took = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let mut session = Session::open(address);
                let opened = begun.elapsed();
                let stored = session.submit(&["a@discard.test".to_owned()]);
                took.push([opened, begun.elapsed() - opened - stored, stored]);
                session.quit();
                thread::sleep(PAUSE);
            }
            took
        });
        let over = is_over.clone();
        let sleeper = thread::spawn(move || {
            let mut took = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                thread::sleep(PAUSE);
                took.push(begun.elapsed().saturating_sub(PAUSE));
            }
            took
        });
        Self { is_over, client, sleeper }
    }

    /// Ends it and prints what it saw.
    pub fn end(self, name: &str) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        let took = self.client.join().unwrap();
        print(&format!("{name}: connection to 250"), took.iter().map(|steps| steps.iter().sum()).collect());
        for (step, what) in ["connection to EHLO", "envelope", "end of data to 250 (a sync)"].iter().enumerate() {
            print(&format!("{name}:   {what}"), took.iter().map(|steps| steps[step]).collect());
        }
        print(&format!("{name}: a thread that only sleeps"), self.sleeper.join().unwrap());
        took.len()
    }
}

fn print(name: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |part: f64| took.get(((took.len() as f64 - 1.0) * part) as usize).copied().unwrap_or_default();
    let bounds = [5, 10, 20, 50, 100, 200, 500, u64::MAX];
    let mut below = 0;
    let histogram: Vec<String> = bounds
        .iter()
        .map(|bound| {
            let count = took.iter().filter(|one| one.as_millis() < u128::from(*bound)).count();
            let inside = count - std::mem::replace(&mut below, count);
            let bound = if *bound == u64::MAX { "more".to_owned() } else { format!("<{bound}ms") };
            format!("{bound} {inside}")
        })
        .collect();
    println!(
        "{name}: {} samples, p50 {:.1?} p99 {:.1?} p99.9 {:.1?} max {:.1?}; {}",
        took.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        histogram.join(", ")
    );
}

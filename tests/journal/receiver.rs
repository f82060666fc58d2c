//! A receiver that does what the local-part of a recipient says.
//!
//! | begins with | then |
//! |---|---|
//! | `bounce` | 550 to RCPT |
//! | `defer` | 450 to RCPT |
//! | `throttle` | 421 to RCPT |
//! | `quote-bounce`, `quote-defer` | 550 or 450 to RCPT, whose text names the address in several ways |
//! | `silent` | no reply to the end of data |
//! | anything else | 250 |

use std::io::{BufRead, BufReader, Result, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// What it does to one recipient after the other; the first word and the code.
pub const BOUNCE: &str = "550 5.1.1 no \"such\" user";
pub const DEFER: &str = "450 4.2.1 mailbox busy";
pub const THROTTLE: &str = "421 4.7.0 slow down";
pub const TAKEN: &str = "250 2.0.0 taken";

#[derive(Debug, Default)]
struct Counts {
    taken: AtomicUsize,
    silent: AtomicUsize,
    is_over: AtomicBool,
}

/// It listens until it is dropped.
#[derive(Debug)]
pub struct Receiver {
    pub address: SocketAddr,
    counts: Arc<Counts>,
}

impl Receiver {
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let counts = Arc::new(Counts::default());
        let shared = counts.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.is_over.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(stream), counts) = (stream, shared.clone()) else { continue };
                // A session ends with its client, which may be killed at any moment.
                thread::spawn(move || serve(stream, &counts));
            }
        });
        Self { address, counts }
    }

    /// Messages that got 250.
    pub fn taken(&self) -> usize {
        self.counts.taken.load(Ordering::Acquire)
    }

    /// Messages that got no reply.
    pub fn silent(&self) -> usize {
        self.counts.silent.load(Ordering::Acquire)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.counts.is_over.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
    }
}

/// A refusal as receivers word them.
fn quote(path: &str) -> String {
    let (local, domain) = path.split_once('@').unwrap_or((path, ""));
    let code = if path.contains("bounce") { "550 5.1.1" } else { "450 4.2.1" };
    let upper = local.to_uppercase();
    format!("{code} <{path}>: {local} unknown; {upper}@{domain}, see https://x.test/?{local}%40{domain} ({local})")
}

fn serve(stream: TcpStream, counts: &Counts) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    writer.write_all(b"220 mx.test ESMTP\r\n")?;
    let (mut line, mut is_silent) = (String::new(), false);
    let mut quoting;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let verb = line.get(..4).unwrap_or_default().to_owned();
        let reply = match verb.as_str() {
            "EHLO" => "250-mx.test\r\n250 SIZE 0",
            "RCPT" => {
                let path = line.split(['<', '>']).nth(1).unwrap_or_default();
                is_silent = path.starts_with("silent");
                quoting = quote(path);
                [("bounce", BOUNCE), ("defer", DEFER), ("throttle", THROTTLE), ("quote", &quoting)]
                    .into_iter()
                    .find_map(|(name, reply)| path.starts_with(name).then_some(reply))
                    .unwrap_or("250 2.1.5 ok")
            }
            "DATA" => {
                writer.write_all(b"354 go on\r\n")?;
                while line != ".\r\n" {
                    line.clear();
                    if reader.read_line(&mut line)? == 0 {
                        return Ok(());
                    }
                }
                if is_silent {
                    counts.silent.fetch_add(1, Ordering::AcqRel);
                    // Until the client goes away.
                    return reader.read_line(&mut line).map(drop);
                }
                counts.taken.fetch_add(1, Ordering::AcqRel);
                TAKEN
            }
            _ => "250 2.0.0 ok",
        };
        writer.write_all(format!("{reply}\r\n").as_bytes())?;
        if reply == THROTTLE || verb == "QUIT" {
            return Ok(());
        }
    }
}

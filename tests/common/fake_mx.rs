//! A scripted receiver on loopback.
//!
//! Says what a well-behaved MX host says unless a step is scripted ([`FakeMx::on`]); records every command, every read and
//! every transaction that reached its end of data. Replies to commands that came in one read go out in one write.
#![allow(dead_code)]

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

#[path = "fake_mx_wire.rs"]
mod wire;

pub use wire::Certificate;
use wire::{acceptor, end_of_data, unstuffed};

/// Where a script can interfere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// On connection.
    Greeting,
    /// EHLO.
    Ehlo,
    /// HELO.
    Helo,
    /// STARTTLS.
    StartTls,
    /// In place of the handshake, after 220.
    Handshake,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// When the first octets of content have come.
    Content,
    /// The end of data, by dot or BDAT LAST.
    EndOfData,
    /// RSET.
    Rset,
    /// QUIT.
    Quit,
    /// Right after the reply to an end of data.
    Idle,
}

/// What is done there.
#[derive(Clone, Debug)]
pub enum Act {
    /// What a well-behaved receiver does.
    Normal,
    /// Sends this, CRLF appended to each line. A 421 closes afterwards.
    Reply(String),
    /// Sends these octets and goes on.
    Raw(Vec<u8>),
    /// FIN.
    Fin,
    /// RST.
    Rst,
    /// Says nothing more, reads nothing more, keeps the connection.
    Silence,
    /// Waits, then does what is normal.
    Delay(Duration),
    /// Sends this, then FIN.
    ReplyAndFin(String),
    /// Sends a reply that never ends, an octet now and then, and reads nothing more.
    Drip,
}

impl From<&str> for Act {
    fn from(reply: &str) -> Self {
        Self::Reply(reply.into())
    }
}

/// What ends a line, and so the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// CRLF only.
    #[default]
    Strict,
    /// A bare LF too.
    Lf,
    /// A bare CR too.
    Cr,
}

/// A transaction that reached its end of data and got 2yz.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Counted from 0.
    pub connection: usize,
    /// The MAIL command.
    pub mail: String,
    /// The RCPT commands that got 2yz.
    pub rcpts: Vec<String>,
    /// The content, dots taken off.
    pub content: Vec<u8>,
    /// Under TLS.
    pub tls: bool,
}

#[derive(Debug, Default)]
struct Log {
    connections: usize,
    peers: Vec<IpAddr>,
    commands: Vec<(usize, String)>,
    reads: Vec<(usize, Vec<u8>)>,
    transactions: Vec<Received>,
}

/// The script and how to start it.
#[derive(Default)]
pub struct FakeMx {
    extensions: Vec<String>,
    acts: HashMap<Step, VecDeque<Act>>,
    dialect: Dialect,
    delay: Duration,
    certificate: Certificate,
}

/// A running receiver; stops when dropped.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    log: Arc<Mutex<Log>>,
    task: JoinHandle<()>,
}

impl FakeMx {
    /// Announces PIPELINING, 8BITMIME and SIZE.
    pub fn new() -> Self {
        Self::with(&["PIPELINING", "8BITMIME", "SIZE 0"])
    }

    /// Announces exactly these.
    pub fn with(extensions: &[&str]) -> Self {
        Self { extensions: extensions.iter().map(|&line| line.to_owned()).collect(), ..Self::default() }
    }

    /// Does `act` the first time that `step` comes; called again: the second time, and so on. Afterwards all is normal.
    pub fn on(mut self, step: Step, act: impl Into<Act>) -> Self {
        self.acts.entry(step).or_default().push_back(act.into());
        self
    }

    /// Does `act` the next `count` times that `step` comes.
    pub fn always(mut self, step: Step, act: impl Into<Act>) -> Self {
        let act = act.into();
        self.acts.entry(step).or_default().extend(std::iter::repeat_n(act, 1000));
        self
    }

    /// What ends a line here.
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// What it shows under TLS.
    pub fn certificate(mut self, certificate: Certificate) -> Self {
        self.certificate = certificate;
        self
    }

    /// Waits this long before each batch of replies: a distance.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Listens on 127.0.0.1.
    pub async fn start(self) -> Running {
        self.start_at(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).await
    }

    /// Listens on `address`, port 0 for any.
    pub async fn start_at(self, address: IpAddr, port: u16) -> Running {
        let listener = TcpListener::bind((address, port)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Log::default()));
        let shared = Arc::new(Shared {
            extensions: self.extensions,
            acts: Mutex::new(self.acts),
            dialect: self.dialect,
            delay: self.delay,
            certificate: self.certificate,
            log: Arc::clone(&log),
        });
        let task = tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let number = {
                    let mut log = shared.log.lock();
                    log.connections += 1;
                    log.peers.push(peer.ip());
                    log.connections - 1
                };
                sessions.spawn(serve(Arc::clone(&shared), stream, number));
            }
        });
        Running { address, log, task }
    }
}

impl Running {
    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.log.lock().connections
    }

    /// From where they came.
    pub fn peers(&self) -> Vec<IpAddr> {
        self.log.lock().peers.clone()
    }

    /// Commands so far, without CRLF.
    pub fn commands(&self) -> Vec<String> {
        self.log.lock().commands.iter().map(|(_, command)| command.clone()).collect()
    }

    /// What came in one read each, with the connection.
    pub fn reads(&self) -> Vec<(usize, Vec<u8>)> {
        self.log.lock().reads.clone()
    }

    /// Transactions that got 2yz at their end.
    pub fn transactions(&self) -> Vec<Received> {
        self.log.lock().transactions.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Shared {
    extensions: Vec<String>,
    acts: Mutex<HashMap<Step, VecDeque<Act>>>,
    dialect: Dialect,
    delay: Duration,
    certificate: Certificate,
    log: Arc<Mutex<Log>>,
}

impl Shared {
    fn act(&self, step: Step) -> Act {
        self.acts.lock().get_mut(&step).and_then(VecDeque::pop_front).unwrap_or(Act::Normal)
    }
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// How a session goes on after a step.
#[derive(Debug, PartialEq, Eq)]
enum Flow {
    /// With this first digit of the reply.
    On(u8),
    Close,
    Reset,
    Freeze,
    Drip,
    Secure,
}

struct Session<'a> {
    shared: &'a Shared,
    number: usize,
    input: Vec<u8>,
    output: Vec<u8>,
    mail: Option<String>,
    rcpts: Vec<String>,
    content: Vec<u8>,
    tls: bool,
}

async fn serve(shared: Arc<Shared>, stream: TcpStream, number: usize) {
    let linger = socket2::SockRef::from(&stream).try_clone().unwrap();
    let mut session = Session {
        shared: &shared,
        number,
        input: Vec::new(),
        output: Vec::new(),
        mail: None,
        rcpts: Vec::new(),
        content: Vec::new(),
        tls: false,
    };
    let mut stream: Box<dyn Wire> = match plain(&mut session, stream).await {
        Ended::Secured(stream) => stream,
        Ended::As(flow, stream) => return end(flow, stream, &linger).await,
    };
    session.tls = true;
    let flow = session.run(&mut stream).await;
    end(flow, stream, &linger).await;
}

enum Ended {
    Secured(Box<dyn Wire>),
    As(Flow, Box<dyn Wire>),
}

async fn plain(session: &mut Session<'_>, mut stream: TcpStream) -> Ended {
    let greeting = session.say(Step::Greeting, "220 mx.test ESMTP").await;
    let flow = match greeting {
        Flow::On(2) => session.run(&mut stream).await,
        flow => {
            session.flush(&mut stream).await;
            flow
        }
    };
    if flow != Flow::Secure {
        return Ended::As(flow, Box::new(stream));
    }
    match session.shared.act(Step::Handshake) {
        Act::Fin => return Ended::As(Flow::Close, Box::new(stream)),
        Act::Rst => return Ended::As(Flow::Reset, Box::new(stream)),
        Act::Silence => return Ended::As(Flow::Freeze, Box::new(stream)),
        Act::Raw(octets) => {
            // After the client has begun its handshake: before that, it would look like an injection.
            stream.read_exact(&mut [0; 1]).await.ok();
            stream.write_all(&octets).await.ok();
            return Ended::As(Flow::Freeze, Box::new(stream));
        }
        _ => {}
    }
    match acceptor(session.shared.certificate).accept(stream).await {
        Ok(stream) => Ended::Secured(Box::new(stream)),
        Err(_) => std::future::pending().await,
    }
}

async fn end(flow: Flow, mut stream: Box<dyn Wire>, socket: &socket2::Socket) {
    match flow {
        Flow::Freeze => std::future::pending().await,
        Flow::Drip => {
            while stream.write_all(b"x").await.is_ok() && stream.flush().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Flow::Reset => socket.set_linger(Some(Duration::ZERO)).unwrap(),
        _ => {
            stream.shutdown().await.ok();
        }
    }
}

impl Session<'_> {
    async fn run(&mut self, stream: &mut (impl Wire + ?Sized)) -> Flow {
        loop {
            while let Some(line) = self.line() {
                match self.command(&line, stream).await {
                    Flow::On(_) => {}
                    flow => {
                        self.flush(stream).await;
                        return flow;
                    }
                }
            }
            self.flush(stream).await;
            if !self.read(stream).await {
                return Flow::Close;
            }
        }
    }

    async fn read(&mut self, stream: &mut (impl Wire + ?Sized)) -> bool {
        let before = self.input.len();
        let mut chunk = vec![0; 1 << 16];
        let Ok(count @ 1..) = stream.read(&mut chunk).await else {
            return false;
        };
        self.input.extend_from_slice(&chunk[..count]);
        self.shared.log.lock().reads.push((self.number, self.input[before..].to_vec()));
        true
    }

    async fn flush(&mut self, stream: &mut (impl Wire + ?Sized)) {
        if !self.output.is_empty() {
            if !self.shared.delay.is_zero() {
                tokio::time::sleep(self.shared.delay).await;
            }
            stream.write_all(&self.output).await.ok();
            stream.flush().await.ok();
            self.output.clear();
        }
    }

    fn line(&mut self) -> Option<String> {
        let end = self.input.windows(2).position(|two| two == b"\r\n")?;
        let line = String::from_utf8_lossy(&self.input[..end]).into_owned();
        self.input.drain(..end + 2);
        self.shared.log.lock().commands.push((self.number, line.clone()));
        Some(line)
    }

    /// Does what the script or else custom says at `step`.
    async fn say(&mut self, step: Step, normal: &str) -> Flow {
        let mut text = normal.to_owned();
        match self.shared.act(step) {
            Act::Normal => {}
            Act::Delay(delay) => tokio::time::sleep(delay).await,
            Act::Reply(reply) => text = reply,
            Act::ReplyAndFin(reply) => {
                self.reply(&reply);
                return Flow::Close;
            }
            Act::Raw(octets) => {
                self.output.extend_from_slice(&octets);
                return Flow::On(octets.first().map_or(0, |digit| digit.wrapping_sub(b'0')));
            }
            Act::Fin => return Flow::Close,
            Act::Rst => return Flow::Reset,
            Act::Silence => return Flow::Freeze,
            Act::Drip => {
                self.output.extend_from_slice(b"250-");
                return Flow::Drip;
            }
        }
        self.reply(&text);
        if text.starts_with("421") {
            Flow::Close
        } else {
            Flow::On(text.as_bytes().first().map_or(2, |digit| digit - b'0'))
        }
    }

    fn reply(&mut self, text: &str) {
        for line in text.lines() {
            self.output.extend_from_slice(line.as_bytes());
            self.output.extend_from_slice(b"\r\n");
        }
    }

    async fn command(&mut self, line: &str, stream: &mut (impl Wire + ?Sized)) -> Flow {
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => self.ehlo().await,
            "HELO" => self.say(Step::Helo, "250 mx.test").await,
            "STARTTLS" => match self.say(Step::StartTls, "220 2.0.0 go ahead").await {
                Flow::On(2) => Flow::Secure,
                flow => flow,
            },
            "MAIL" => {
                let normal = if self.mail.is_some() { "503 5.5.1 nested MAIL" } else { "250 2.1.0 ok" };
                let flow = self.say(Step::Mail, normal).await;
                if flow == Flow::On(2) {
                    self.mail = Some(line.to_owned());
                }
                flow
            }
            "RCPT" => {
                let normal = if self.mail.is_some() { "250 2.1.5 ok" } else { "503 5.5.1 MAIL first" };
                let flow = self.say(Step::Rcpt, normal).await;
                if flow == Flow::On(2) {
                    self.rcpts.push(line.to_owned());
                }
                flow
            }
            "DATA" => self.data(stream).await,
            "BDAT" => self.bdat(line, stream).await,
            "RSET" => {
                self.forget();
                self.say(Step::Rset, "250 2.0.0 ok").await
            }
            "QUIT" => match self.say(Step::Quit, "221 2.0.0 bye").await {
                Flow::On(_) => Flow::Close,
                flow => flow,
            },
            _ => self.say(Step::Quit, "500 5.5.2 what?").await,
        }
    }

    async fn ehlo(&mut self) -> Flow {
        let mut lines = vec!["mx.test".to_owned()];
        lines.extend(self.shared.extensions.iter().filter(|line| !(self.tls && *line == "STARTTLS")).cloned());
        let last = lines.len() - 1;
        let text: Vec<String> = lines
            .iter()
            .enumerate()
            .map(|(number, line)| format!("250{}{line}", if number == last { ' ' } else { '-' }))
            .collect();
        self.say(Step::Ehlo, &text.join("\n")).await
    }

    async fn data(&mut self, stream: &mut (impl Wire + ?Sized)) -> Flow {
        let normal = if self.rcpts.is_empty() { "554 5.5.1 no valid recipients" } else { "354 go ahead" };
        let flow = self.say(Step::Data, normal).await;
        if flow != Flow::On(3) {
            if matches!(flow, Flow::On(4 | 5)) && self.rcpts.is_empty() {
                return flow;
            }
            self.forget();
            return flow;
        }
        self.flush(stream).await;
        let mut begun = false;
        loop {
            if !self.input.is_empty() && !begun {
                begun = true;
                if let Some(flow) = self.interfere().await {
                    return flow;
                }
            }
            if let Some(end) = end_of_data(&self.input, self.shared.dialect) {
                let wire: Vec<u8> = self.input.drain(..end).collect();
                self.content = unstuffed(&wire, self.shared.dialect);
                return self.finish(stream).await;
            }
            if !self.read(stream).await {
                return Flow::Close;
            }
        }
    }

    async fn bdat(&mut self, line: &str, stream: &mut (impl Wire + ?Sized)) -> Flow {
        let mut words = line.split(' ').skip(1);
        let size: usize = words.next().unwrap().parse().unwrap();
        let last = words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        if size > 0
            && let Some(flow) = self.interfere().await
        {
            return flow;
        }
        while self.input.len() < size {
            if !self.read(stream).await {
                return Flow::Close;
            }
        }
        let chunk: Vec<u8> = self.input.drain(..size).collect();
        if self.rcpts.is_empty() {
            // Like Exim: the reverse-path stays.
            self.reply("503 5.5.1 no valid recipients");
            return Flow::On(5);
        }
        self.content.extend_from_slice(&chunk);
        if last { self.finish(stream).await } else { self.say(Step::Data, "250 2.0.0 chunk").await }
    }

    async fn interfere(&mut self) -> Option<Flow> {
        let before = self.output.len();
        match self.say(Step::Content, "").await {
            Flow::On(_) if self.output.len() == before => None,
            // Refused in the middle of it: nothing more is read.
            Flow::On(_) => Some(Flow::Freeze),
            flow => Some(flow),
        }
    }

    async fn finish(&mut self, stream: &mut (impl Wire + ?Sized)) -> Flow {
        let flow = self.say(Step::EndOfData, "250 2.0.0 queued").await;
        if flow == Flow::On(2) {
            let received = Received {
                connection: self.number,
                mail: self.mail.clone().unwrap_or_default(),
                rcpts: self.rcpts.clone(),
                content: self.content.clone(),
                tls: self.tls,
            };
            self.shared.log.lock().transactions.push(received);
            self.forget();
            return match self.shared.act(Step::Idle) {
                Act::Normal => flow,
                Act::Fin => Flow::Close,
                Act::Rst => Flow::Reset,
                Act::Silence => Flow::Freeze,
                Act::Reply(text) | Act::ReplyAndFin(text) => {
                    // Apart from the reply to the end of data, as a time-out would come.
                    self.flush(stream).await;
                    self.reply(&text);
                    Flow::Close
                }
                _ => flow,
            };
        }
        self.forget();
        flow
    }

    fn forget(&mut self) {
        self.mail = None;
        self.rcpts.clear();
        self.content.clear();
    }
}

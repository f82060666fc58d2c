//! Receivers on every address of 127/8 at one port: each address is a receiver of its own, and all are one thread.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// What one receiver saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub open: usize,
    pub most_open: usize,
    /// When each message came, from its MAIL on.
    pub arrivals: Vec<SystemTime>,
}

#[derive(Default)]
struct State {
    receivers: Mutex<HashMap<IpAddr, Seen>>,
    open: AtomicUsize,
    most_open: AtomicUsize,
    recipients: AtomicU64,
}

/// All receivers.
pub struct Sink {
    pub port: u16,
    state: Arc<State>,
    /// False: the replies to the end of data wait.
    answers: watch::Sender<bool>,
    _runtime: Runtime,
}

/// The address of receiver `number`.
pub fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x7f01_0000 + u32::try_from(number).unwrap())
}

impl Sink {
    pub fn start(answers: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (answers, answering) = watch::channel(answers);
        let state: Arc<State> = Arc::default();
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&std::net::SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into()).unwrap();
        socket.listen(4_096).unwrap();
        let (listener, shared) = (std::net::TcpListener::from(socket), state.clone());
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(serve(stream, shared.clone(), answering.clone()));
            }
        });
        Self { port, state, answers, _runtime: runtime }
    }

    pub fn answer(&self) {
        self.answers.send_replace(true);
    }

    pub fn recipients(&self) -> u64 {
        self.state.recipients.load(Ordering::Relaxed)
    }

    /// Connections now, and most at once.
    pub fn open(&self) -> (usize, usize) {
        (self.state.open.load(Ordering::SeqCst), self.state.most_open.load(Ordering::SeqCst))
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.receivers.lock().values().cloned().collect()
    }
}

/// A connection that is counted; until QUIT, which comes before the daemon counts it as closed.
struct Counted(Option<(Arc<State>, IpAddr)>);

impl Counted {
    fn new(state: &Arc<State>, address: IpAddr) -> Self {
        let open = state.open.fetch_add(1, Ordering::SeqCst) + 1;
        state.most_open.fetch_max(open, Ordering::SeqCst);
        let mut receivers = state.receivers.lock();
        let seen = receivers.entry(address).or_default();
        seen.open += 1;
        seen.most_open = seen.most_open.max(seen.open);
        drop(receivers);
        Self(Some((state.clone(), address)))
    }

    fn end(&mut self) {
        if let Some((state, address)) = self.0.take() {
            state.open.fetch_sub(1, Ordering::SeqCst);
            state.receivers.lock().entry(address).or_default().open -= 1;
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.end();
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>, mut answering: watch::Receiver<bool>) -> Option<()> {
    let address = stream.local_addr().ok()?.ip();
    let mut counted = Counted::new(&state, address);
    stream.set_nodelay(true).ok()?;
    stream.write_all(b"220 sink.test ESMTP\r\n").await.ok()?;
    let (mut input, mut is_content, mut recipients) = (Vec::new(), false, 0);
    loop {
        let mut replies: Vec<u8> = Vec::new();
        loop {
            let end: &[u8] = if is_content { b"\r\n.\r\n" } else { b"\r\n" };
            let Some(at) = input.windows(end.len()).position(|window| window == end) else { break };
            let line: Vec<u8> = input.drain(..at + end.len()).collect();
            if is_content {
                is_content = false;
                stream.write_all(&std::mem::take(&mut replies)).await.ok()?;
                answering.wait_for(|answers| *answers).await.ok()?;
                state.recipients.fetch_add(recipients, Ordering::Relaxed);
                replies.extend_from_slice(b"250 2.0.0 ok\r\n");
                continue;
            }
            let verb = line.first_chunk::<4>().copied().unwrap_or_default();
            replies.extend_from_slice(match &verb {
                b"EHLO" => b"250-sink.test\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES\r\n".as_slice(),
                b"MAIL" => {
                    recipients = 0;
                    state.receivers.lock().entry(address).or_default().arrivals.push(SystemTime::now());
                    b"250 2.1.0 ok\r\n"
                }
                b"RCPT" => {
                    recipients += 1;
                    b"250 2.1.5 ok\r\n"
                }
                b"DATA" => {
                    is_content = true;
                    // The end may follow at once: it is looked for from the line end of the command on.
                    input.splice(..0, *b"\r\n");
                    b"354 go on\r\n"
                }
                b"QUIT" => {
                    counted.end();
                    stream.write_all(&replies).await.ok()?;
                    stream.write_all(b"221 2.0.0 bye\r\n").await.ok()?;
                    return Some(());
                }
                _ => b"250 2.0.0 ok\r\n",
            });
        }
        stream.write_all(&replies).await.ok()?;
        if stream.read_buf(&mut input).await.ok()? == 0 {
            return None;
        }
    }
}

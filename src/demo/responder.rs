//! A small authoritative DNS responder on loopback, for the demonstration and for tests.
//!
//! [`Responder::start`] binds UDP and TCP on one port and answers from a [`Zone`], which can be changed while it runs
//! ([`Responder::change`]). It is no resolver: it asks nobody, knows no zone transfer and no DNSSEC. Its tasks end when
//! it is dropped.

mod zone;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use parking_lot::{Mutex, RwLock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use zone::Answer;
pub use zone::{Fault, Kind, Zone};

/// How long a TCP connection may be idle (RFC 7766, 6.2.3: seconds).
const IDLE: Duration = Duration::from_secs(10);
/// How often a free port is looked for that UDP and TCP can share.
const PORT_TRIES: usize = 20;

/// A running responder.
#[derive(Debug)]
pub struct Responder {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// The UDP and the TCP task; aborted on drop.
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Written by [`Responder::change`], read for every query.
    zone: RwLock<Zone>,
    /// How often each name was asked, whatever the type. Written for every query.
    asked: Mutex<HashMap<String, u64>>,
}

impl Responder {
    /// Listens at `at` (port 0: any free one) and answers from `zone`. Must be called inside a Tokio runtime.
    pub async fn start(at: SocketAddr, zone: Zone) -> io::Result<Self> {
        let (udp, tcp) = bind(at).await?;
        let address = udp.local_addr()?;
        let shared = Arc::new(Shared { zone: RwLock::new(zone), asked: Mutex::default() });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(Arc::new(udp), shared.clone()));
        tasks.spawn(serve_tcp(tcp, shared.clone()));
        Ok(Self { address, shared, _tasks: tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the zone; the next query sees it.
    pub fn change(&self, change: impl FnOnce(&mut Zone)) {
        change(&mut self.shared.zone.write());
    }

    /// How many queries there were for a name (lower case, no final dot), repeated ones included.
    pub fn asked(&self, name: &str) -> u64 {
        self.shared.asked.lock().get(name).copied().unwrap_or_default()
    }

    /// How many queries there were.
    pub fn queries(&self) -> u64 {
        self.shared.asked.lock().values().sum()
    }
}

/// UDP and TCP on the same port.
async fn bind(at: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tries = 0;
    loop {
        let udp = UdpSocket::bind(at).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if at.port() != 0 || tries == PORT_TRIES => return Err(error),
            Err(_) => tries += 1,
        }
    }
}

/// Octets to send, and how long to wait before.
struct Sending {
    octets: Vec<u8>,
    after: Duration,
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut buffer = vec![0; 4_096];
    let mut delayed = JoinSet::new();
    loop {
        // An error here is an ICMP message about an earlier answer: the asker has gone.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        while delayed.try_join_next().is_some() {}
        let Some(sending) = buffer.get(..length).and_then(|octets| reply(octets, &shared, true)) else { continue };
        if sending.after.is_zero() {
            let _sent = socket.send_to(&sending.octets, from).await;
        } else {
            let socket = socket.clone();
            delayed.spawn(async move {
                tokio::time::sleep(sending.after).await;
                let _sent = socket.send_to(&sending.octets, from).await;
            });
        }
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                connections.spawn(async move {
                    let _ended = serve_stream(stream, &shared).await;
                });
            }
            // Out of descriptors or the like: others must get a chance to free some.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_stream(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    loop {
        let length = tokio::time::timeout(IDLE, stream.read_u16()).await??;
        let mut octets = vec![0; usize::from(length)];
        tokio::time::timeout(IDLE, stream.read_exact(&mut octets)).await??;
        let Some(sending) = reply(&octets, shared, false) else { continue };
        tokio::time::sleep(sending.after).await;
        let mut framed = u16::try_from(sending.octets.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
        framed.extend_from_slice(&sending.octets);
        stream.write_all(&framed).await?;
    }
}

/// What to send for a query, if anything.
fn reply(octets: &[u8], shared: &Shared, is_udp: bool) -> Option<Sending> {
    let request = Message::from_vec(octets).ok().filter(|message| message.message_type == MessageType::Query)?;
    let query: &Query = request.queries.first()?;
    let name = query.name().to_ascii().to_ascii_lowercase();
    *shared.asked.lock().entry(name.trim_end_matches('.').to_owned()).or_default() += 1;
    let Answer { mut message, fault } = shared.zone.read().answer(query);
    message.metadata.id = request.id;
    message.metadata.recursion_desired = request.recursion_desired;
    if let Some(edns) = &request.edns {
        message.set_edns(edns.clone());
    }
    let mut after = Duration::ZERO;
    match fault {
        Some(Fault::Silent) => return None,
        Some(Fault::Garbage(garbage)) => {
            let octets = [&request.id.to_be_bytes(), garbage.as_slice()].concat();
            return Some(Sending { octets, after });
        }
        Some(Fault::TruncateAlways) => message = message.truncate(),
        Some(Fault::Truncate) if is_udp => message = message.truncate(),
        Some(Fault::Delay(delay)) => after = delay,
        _ => {}
    }
    let most = if is_udp { usize::from(request.max_payload()) } else { usize::from(u16::MAX) };
    let mut octets = encoded(message, most, is_udp);
    if let Some(Fault::Damage(seed)) = fault {
        damage(&mut octets, seed);
    }
    Some(Sending { octets, after })
}

/// Changes up to four octets after the id (a splitmix64 sequence says which).
fn damage(octets: &mut [u8], seed: u64) {
    let mut state = seed;
    for _ in 0..=seed % 4 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let [place, _, value, ..] = (mixed ^ (mixed >> 27)).to_be_bytes();
        let places = octets.len().saturating_sub(2).max(1);
        if let Some(octet) = octets.get_mut(2 + usize::from(place) % places) {
            *octet ^= value;
        }
    }
}

/// The message in at most `most` octets: over UDP it is truncated when it has more, over TCP it loses its last answers.
fn encoded(mut message: Message, most: usize, is_udp: bool) -> Vec<u8> {
    loop {
        let octets = message.to_vec().unwrap_or_default();
        // Bit 1 of the third octet is TC; the encoder sets it when not all records fit.
        let is_whole = octets.get(2).is_some_and(|flags| flags & 2 == 0) || message.truncation;
        if is_whole && octets.len() <= most {
            return octets;
        }
        if is_udp {
            message = message.truncate();
        } else if message.answers.is_empty() {
            message = Message::error_msg(message.id, message.op_code, ResponseCode::ServFail);
        } else {
            let keep = message.answers.len() * 7 / 8;
            message.answers.truncate(keep);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn udp_and_tcp_share_a_port_and_changes_are_seen() {
        let responder = Responder::start(([127, 0, 0, 1], 0).into(), Zone::new()).await.unwrap();
        let (query, asker) = (question("a.test."), UdpSocket::bind("127.0.0.1:0").await.unwrap());
        responder.change(|zone| {
            zone.address("a.test", [192, 0, 2, 1]);
        });

        let mut buffer = [0; 512];
        asker.send_to(&query, responder.address()).await.unwrap();
        let length = asker.recv(&mut buffer).await.unwrap();
        let mut stream = TcpStream::connect(responder.address()).await.unwrap();
        stream.write_u16(u16::try_from(query.len()).unwrap()).await.unwrap();
        stream.write_all(&query).await.unwrap();
        let framed = stream.read_u16().await.unwrap();

        assert_eq!(usize::from(framed), length);
        assert_eq!(Message::from_vec(&buffer[..length]).unwrap().answers.len(), 1);
        assert_eq!(responder.asked("a.test"), 2);
    }

    fn question(name: &str) -> Vec<u8> {
        let mut message = Message::query();
        message.add_query(Query::query(name.parse().unwrap(), hickory_proto::rr::RecordType::A));
        message.to_vec().unwrap()
    }
}

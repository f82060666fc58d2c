//! F10: thousands of clients that do next to nothing, and slowly. They are thrown out, those of one address are never too
//! many, and good clients go on.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::letter::Kind;
use super::row::{Row, in_parallel, sized};
use super::world::client::{Numbers, Plan};
use super::world::{Caps, Ending, World};

/// Clients from one address, a fifth more than may be there.
const BY_ADDRESS: usize = 120;
const CAP: usize = 100;
/// How long a session waits for its client.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Between two octets of a slow client.
const DRIP: Duration = Duration::from_millis(500);
/// For the time without slow clients.
const USUAL: Duration = Duration::from_secs(2);

/// What a client is slow at.
#[derive(Clone, Copy, Debug)]
pub enum Slow {
    /// It says EHLO octet by octet, and never ends the line.
    Ehlo,
    /// It sends content octet by octet, never so slowly that a single wait is too long.
    Content,
    /// It says nothing at all.
    Everything,
}

/// How the clients ended.
#[derive(Debug, Default)]
pub struct Counts {
    /// Greeted.
    open: AtomicUsize,
    /// Told 421 instead of being greeted.
    turned_away: AtomicUsize,
    /// Ended by the daemon after it had greeted them.
    thrown_out: AtomicUsize,
}

/// One slow client, until the daemon ends it.
async fn be_slow(slow: Slow, from: Ipv4Addr, server: SocketAddr, counts: Arc<Counts>) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let mut stream = socket.connect(server).await?;
    let mut reply = [0; 512];
    let length = stream.read(&mut reply).await?;
    if !reply[..length].starts_with(b"220") {
        counts.turned_away.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    }
    counts.open.fetch_add(1, Ordering::Relaxed);
    if matches!(slow, Slow::Content) {
        let opening = b"EHLO a\r\nMAIL FROM:<slow@slow.test>\r\nRCPT TO:<slow@slow.test>\r\nDATA\r\n";
        stream.write_all(opening).await?;
    }
    drip(slow, &mut stream).await;
    counts.thrown_out.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Sends an octet now and then until the other side has closed.
async fn drip(slow: Slow, stream: &mut TcpStream) {
    let (mut reader, mut writer) = stream.split();
    let mut tick = tokio::time::interval(DRIP);
    let mut reply = [0; 512];
    loop {
        tokio::select! {
            read = reader.read(&mut reply) => if matches!(read, Ok(0) | Err(_)) {
                return;
            },
            _ = tick.tick() => if !matches!(slow, Slow::Everything) && writer.write_all(b"E").await.is_err() {
                return;
            },
        }
    }
}

/// The clients are all in this process.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

fn run(slow: Slow, count: usize, row: &Mutex<Row>) -> Ending {
    raise_descriptor_limit();
    let mut world = World::with(&format!("slow at {slow:?}"), Numbers::of(Kind::Plain), |options| {
        options.set("listener.timeout", format!("{}s", TIMEOUT.as_secs()));
        options.set("listener.max_sessions", count as i64 + 500);
        options.set("listener.max_sessions_per_address", CAP as i64);
    });
    world.caps = Caps { memory: 512 << 20, descriptors: count as u64 + 400 };
    let (daemon, address) = world.start();
    let plan = Plan { pause: Duration::from_millis(10), ..Plan::endless(4, &world.numbers) };
    let clients = world.load(&plan, address);
    let begun = Instant::now();
    thread::sleep(USUAL);
    let usual = world.checker.p99(begun);
    let (begun, before) = (Instant::now(), world.checker.accepted());
    let counts = Arc::new(Counts::default());
    let is_over = flood(slow, count, address, &counts);
    let p99 = world.checker.p99(begun);
    let served = world.checker.accepted() - before;
    clients.stop();

    let [open, turned_away, thrown_out] =
        [&counts.open, &counts.turned_away, &counts.thrown_out].map(|count| count.load(Ordering::Relaxed));
    let told = format!("{slow:?}: {open} slow clients, {turned_away} turned away, p99 {p99:.1?}, usually {usual:.1?}");
    row.lock().note(&told);
    let addresses = count / BY_ADDRESS;
    assert!(is_over && thrown_out == open, "{thrown_out} of {open} were thrown out");
    assert_eq!(open + turned_away, addresses * BY_ADDRESS, "somebody was told nothing");
    assert_eq!(turned_away, addresses * (BY_ADDRESS - CAP), "the cap of each address holds");
    assert!(served > 50, "good clients are not served: {served} messages");
    let ending = world.finish_with(daemon);
    assert_eq!((ending.broken, ending.refused), (0, 0), "{ending}");
    ending
}

/// Slow clients from many addresses, all at once; whether all were over in time.
pub fn flood(slow: Slow, count: usize, server: SocketAddr, counts: &Arc<Counts>) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for number in 0..count / BY_ADDRESS * BY_ADDRESS {
            let from = Ipv4Addr::from_bits(0x7f02_0001 + (number / BY_ADDRESS) as u32);
            clients.spawn(be_slow(slow, from, server, Arc::clone(counts)));
        }
        tokio::time::timeout(TIMEOUT * 10, clients.join_all()).await.is_ok()
    })
}

#[test]
fn slow_clients_are_thrown_out_and_good_ones_go_on() {
    let row = Mutex::new(Row::of("F10 slow clients"));
    let (cases, count) = (sized(3, 6), sized(480, 5_040));

    // In the full size one after the other, so that the figures are theirs alone.
    let ending = in_parallel(sized(3, 1), cases, |number| {
        run([Slow::Ehlo, Slow::Content, Slow::Everything][number % 3], count, &row)
    });

    row.into_inner().add(cases, ending);
}

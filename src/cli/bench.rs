//! `hikyaku bench`: how fast this machine is. A load, a counting sink, and the daemon between them.
//!
//! Without a sub-command all three: a daemon of its own in a process of its own, or a running one (`--to`). `send` and
//! `sink` are the outer two alone, for two machines. Load, sink and ledger are those of the demonstration.

mod process;
mod report;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::exit::{self, Exit, Failure};
use super::run::{Signals, runtime};
use super::table::thousands;
use super::{out, print_json};
use crate::config::units::{ByteSize, Span};
use crate::demo::content::Shape;
use crate::demo::ledger::Ledger;
use crate::demo::load::{self, Load};
use crate::demo::progress;
use crate::demo::receivers::{self, Receiver};
use crate::demo::sites::{Character, Site};
use process::{Child, Cpu};
use report::Report;

/// Options of `bench`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Bench {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    whole: Whole,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    /// Only submit messages, to a listener that is there
    Send(Send),
    /// Only take messages, and count them
    Sink(Sink),
}

/// What is sent.
#[derive(Clone, Debug, clap::Args)]
struct What {
    /// How many messages
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    messages: u32,
    /// Over how many sessions at once they are submitted
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    sessions: u32,
    /// Size of a message, such as 10KB
    #[arg(long, default_value = "10KB")]
    size: ByteSize,
    /// To how many domains they go in turn
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    domains: u16,
    /// What the domains end in: d0.SUFFIX, d1.SUFFIX ...; with --domains 1 it is the domain
    #[arg(long, default_value = "bench.test")]
    suffix: String,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Options of `bench` itself.
#[derive(Debug, clap::Args)]
struct Whole {
    #[command(flatten)]
    what: What,
    /// Submit to a daemon that runs already, and that routes the domains to --sink [default: start one]
    #[arg(long, value_name = "HOST:PORT", requires = "sink")]
    to: Option<String>,
    /// Where the sink listens for that daemon
    #[arg(long, value_name = "ADDR:PORT", requires = "to")]
    sink: Option<SocketAddr>,
    /// Process id of that daemon, to tell its CPU time
    #[arg(long, requires = "to")]
    pid: Option<u32>,
    /// How long the sink takes for each answer
    #[arg(long, value_name = "DURATION", default_value = "0ms")]
    delay: Span,
    /// The sink offers CHUNKING
    #[arg(long)]
    chunking: bool,
    /// Connections that the daemon that is started may have to each domain
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Where the temporary spool is made; /dev/shm is no disk [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<std::path::PathBuf>,
}

/// Options of `bench send`.
#[derive(Debug, clap::Args)]
struct Send {
    /// The submission listener
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    #[command(flatten)]
    what: What,
}

/// Options of `bench sink`.
#[derive(Debug, clap::Args)]
struct Sink {
    /// Where to listen
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// How long each answer takes
    #[arg(long, value_name = "DURATION", default_value = "0ms")]
    delay: Span,
    /// Offer CHUNKING
    #[arg(long)]
    chunking: bool,
    /// End after so many messages [default: at Ctrl-C]
    #[arg(long)]
    messages: Option<u64>,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

/// Without any progress for this long, what is still open is counted as lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at the ledger.
const LOOK: Duration = Duration::from_millis(10);
/// Between two lines of a sink.
const LINE: Duration = Duration::from_secs(1);

impl Bench {
    pub(super) fn execute(self) -> exit::Result {
        let runtime = runtime(0)?;
        let result = runtime.block_on(async {
            let mut signals = Signals::catch()?;
            let whole = match self.part {
                // A signal is its regular end.
                Some(Part::Sink(sink)) => return sink.execute(&mut signals).await,
                Some(Part::Send(send)) => Err(send),
                None => Ok(self.whole),
            };
            let work = async {
                match whole {
                    Ok(whole) => whole.execute().await,
                    Err(send) => send.execute().await,
                }
            };
            tokio::select! {
                result = work => result,
                () = signals.termination() => Err(anyhow!("interrupted").into()),
            }
        });
        runtime.shutdown_background();
        result
    }
}

impl What {
    fn domains(&self) -> Vec<String> {
        match self.domains {
            1 => vec![self.suffix.clone()],
            count => (0..count).map(|number| format!("d{number}.{}", self.suffix)).collect(),
        }
    }

    fn load(&self, server: SocketAddr) -> Load {
        let size = usize::try_from(self.size.0).unwrap_or(usize::MAX);
        let shape = Shape::Even { domains: self.domains(), size };
        Load { server, messages: self.messages, connections: self.sessions, shape }
    }

    /// A message is in memory once for every session.
    fn check(&self) -> Result<(), Failure> {
        const LARGEST: u64 = 50 << 20;
        if self.size.0 == 0 || self.size.0 > LARGEST {
            return Err(Failure::usage(anyhow!("--size: allowed are 1 to {LARGEST} octets")));
        }
        Ok(())
    }
}

impl Whole {
    async fn execute(self) -> exit::Result {
        self.what.check()?;
        let what = &self.what;
        let ledger = Arc::new(Ledger::new(what.messages));
        let character = Character::Sink { has_chunking: self.chunking, delay: self.delay.0 };
        let server = SinkServer::new(&ledger, character);
        let (child, to, pid) = match &self.to {
            Some(to) => {
                let at = self.sink.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 2525)));
                server.listen(at).await.map_err(Failure::usage)?;
                (None, address_of(to).await?, self.pid)
            }
            None => {
                let addresses: Vec<Ipv4Addr> = (0..what.domains).map(address_of_domain).collect();
                let port = server.listen_on_all(&addresses).await?;
                let domains = what.domains();
                let ways = domains.iter().zip(&addresses).map(|(domain, address)| (domain.as_str(), *address));
                let child = Child::start(self.dir.as_deref(), ways, port, self.connections).await?;
                let (to, pid) = (child.submission(), child.pid());
                (Some(child), to, pid)
            }
        };
        let before = pid.and_then(Cpu::of);
        let began = Instant::now();
        let work = async {
            let submitted = load::submit(what.load(to), &ledger).await?;
            drained(&ledger).await;
            anyhow::Ok(submitted)
        };
        let submitted = tokio::select! {
            submitted = work => submitted?,
            never = progress::show(Arc::clone(&ledger), what.messages) => match never {},
        };
        let took = began.elapsed();
        let cpu = pid.and_then(Cpu::of).zip(before).map(|(after, before)| after.since(before));
        if let Some(child) = child {
            child.stop().await;
        }
        server.stop().await;
        let report = Report::new(&ledger, submitted, took, cpu, what.sessions, what.size.0, what.domains.into());
        report.tell(what.json)
    }
}

impl Send {
    async fn execute(self) -> exit::Result {
        self.what.check()?;
        let what = &self.what;
        let ledger = Arc::new(Ledger::new(what.messages));
        let to = address_of(&self.to).await?;
        let submitted = tokio::select! {
            submitted = load::submit(what.load(to), &ledger) => submitted?,
            never = progress::show(Arc::clone(&ledger), what.messages) => match never {},
        };
        let took = submitted.took;
        Report::sent(&ledger, submitted, took, what.sessions, what.size.0, what.domains.into()).tell(what.json)
    }
}

impl Sink {
    async fn execute(self, signals: &mut Signals) -> exit::Result {
        let ledger = Arc::new(Ledger::new(0));
        let character = Character::Sink { has_chunking: self.chunking, delay: self.delay.0 };
        let server = SinkServer::new(&ledger, character);
        let at = server.listen(self.listen).await.map_err(Failure::usage)?;
        out::remark_line(format_args!("taking messages at {at}; Ctrl-C ends it"));
        let (began, mut last) = (Instant::now(), 0);
        loop {
            tokio::select! {
                () = tokio::time::sleep(LINE) => {}
                () = signals.termination() => break,
            }
            let count = server.count();
            if count > last {
                out::remark_line(format_args!(
                    "{:>5} s  {} messages, {} in the last second, {} connections so far",
                    began.elapsed().as_secs(),
                    thousands(count),
                    thousands(count - last),
                    thousands(server.connections())
                ));
                last = count;
            }
            if self.messages.is_some_and(|messages| count >= messages) {
                break;
            }
        }
        let (messages, connections) = (server.count(), server.connections());
        server.stop().await;
        if self.json {
            return print_json(&serde_json::json!({ "messages": messages, "connections": connections }));
        }
        out::line(format_args!("{} messages over {} connections", thousands(messages), thousands(connections)))?;
        Ok(Exit::Ok)
    }
}

/// A sink on some listeners.
struct SinkServer {
    receiver: Arc<Receiver>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl SinkServer {
    fn new(ledger: &Arc<Ledger>, character: Character) -> Self {
        let site = Site { domain: "sink.test", address: Ipv4Addr::LOCALHOST, character, share: 100 };
        let receiver = Arc::new(Receiver::new(site, Arc::clone(ledger), 0));
        Self { receiver, stop: CancellationToken::new(), tasks: TaskTracker::new() }
    }

    async fn listen(&self, at: SocketAddr) -> anyhow::Result<SocketAddr> {
        let listener = TcpListener::bind(at).await.with_context(|| format!("the sink cannot listen on {at}"))?;
        let address = listener.local_addr()?;
        self.serve(listener);
        Ok(address)
    }

    /// The port of all of them.
    async fn listen_on_all(&self, addresses: &[Ipv4Addr]) -> anyhow::Result<u16> {
        let bound = receivers::bind(addresses).await;
        let (port, listeners) = bound.context("the sink cannot listen on 127.78.x.y; are there enough descriptors?")?;
        listeners.into_iter().for_each(|listener| self.serve(listener));
        Ok(port)
    }

    fn serve(&self, listener: TcpListener) {
        let (receiver, stop, tasks) = (Arc::clone(&self.receiver), self.stop.clone(), self.tasks.clone());
        self.tasks.spawn(receivers::listen(receiver, listener, stop, tasks));
    }

    fn count(&self) -> u64 {
        self.receiver.counts.delivered.load(Ordering::Relaxed)
    }

    fn connections(&self) -> u64 {
        self.receiver.counts.connections.load(Ordering::Relaxed)
    }

    async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Waits until nothing is open, or nothing has happened for too long.
async fn drained(ledger: &Ledger) {
    let (mut before, mut since) = (ledger.tally(), Instant::now());
    while before.open > 0 && since.elapsed() < PATIENCE {
        tokio::time::sleep(LOOK).await;
        let now = ledger.tally();
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
}

async fn address_of(name: &str) -> Result<SocketAddr, Failure> {
    let found = tokio::net::lookup_host(name).await.with_context(|| format!("{name}: HOST:PORT is wanted"));
    let first = found.map_err(Failure::usage)?.next();
    first.ok_or_else(|| Failure::usage(anyhow!("{name} has no address")))
}

/// Where the sink listens for a domain.
fn address_of_domain(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 78, high, low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_domain_is_the_suffix_itself_and_several_lie_below_it() {
        let what = |domains| What {
            messages: 1,
            sessions: 1,
            size: ByteSize(1_000),
            domains,
            suffix: "x.test".to_owned(),
            json: false,
        };

        assert_eq!(what(1).domains(), ["x.test"]);
        assert_eq!(what(3).domains(), ["d0.x.test", "d1.x.test", "d2.x.test"]);
        assert!(What { size: ByteSize(0), ..what(1) }.check().is_err());
    }

    #[test]
    fn every_domain_has_an_address_of_its_own() {
        assert_eq!(address_of_domain(0), Ipv4Addr::new(127, 78, 0, 0));
        assert_eq!(address_of_domain(999), Ipv4Addr::new(127, 78, 3, 231));
    }
}

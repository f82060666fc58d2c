//! Opens connections: TCP from the source's address, the opening dialogue, STARTTLS and its fall-backs.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::Shared;
use super::io::{Io, Stream};
use super::judge::Judge;
use super::opening::{Failure, Opening, Step};
use super::route::Target;
use super::session::{Lost, Session};
use super::transaction::Peer;
use crate::dns::Plan;
use crate::message::Phase;
use crate::queue::{Doing, Watch};
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// A connection on which transactions may begin.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) io: Io,
    pub(super) session: Session,
}

/// How a receiver is approached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Approach<'a> {
    /// Our name.
    pub(super) ehlo_name: &'a str,
    /// With opportunistic TLS.
    pub(super) tls: bool,
    /// Whose replies will be judged.
    pub(super) plan: &'a Plan,
}

/// How an opening may end badly.
enum Trouble {
    Failed(Failure),
    /// STARTTLS or the handshake: another connection in clear may work.
    Tls(Failure),
}

/// Opens a connection to `target`; where TLS fails, in clear on a second connection.
pub(super) async fn open(
    shared: &Shared,
    target: &Target,
    approach: Approach<'_>,
    watch: Option<&Watch>,
) -> Result<Opened, Failure> {
    let memory = shared.settings.tls_failure_memory;
    let tls = approach.tls && !shared.hosts.avoids_tls(&target.host, shared.clock.now(), memory);
    let result = match attempt(shared, target, Approach { tls, ..approach }, watch).await {
        Err(Trouble::Tls(failure)) => {
            shared.meters.failed(&failure);
            shared.hosts.tls_failed(&target.host, shared.clock.now());
            tracing::info!(mx_host = %target.host, mx_address = %target.address, reason = %failure.reply.text,
                "TLS failed, going on in clear");
            attempt(shared, target, Approach { tls: false, ..approach }, watch).await
        }
        result => result,
    };
    result.map_err(|trouble| {
        let (Trouble::Failed(failure) | Trouble::Tls(failure)) = trouble;
        shared.meters.failed(&failure);
        failure
    })
}

async fn attempt(
    shared: &Shared,
    target: &Target,
    approach: Approach<'_>,
    watch: Option<&Watch>,
) -> Result<Opened, Trouble> {
    let timeouts = &shared.settings.timeouts;
    let begun = shared.clock.now();
    if let Some(watch) = watch {
        watch.note_peer(&target.host, target.address, begun);
    }
    let stream = connect(target, timeouts.connect).await.map_err(Trouble::Failed)?;
    shared.meters.connect_seconds.record(begun.elapsed().as_secs_f64());
    let mut io = Io::new(Stream::Plain(stream), timeouts.tick());
    let mut opening = Opening::new(approach.ehlo_name, approach.tls);
    let mut secured = false;
    io.set_deadline(timeouts.of(opening.phase()));
    let (mut phase, mut since) = (opening.phase(), shared.clock.now());
    loop {
        let step = opening.step();
        if opening.phase() != phase || step == Step::Open {
            let now = shared.clock.now();
            shared.meters.passed(phase, since, now);
            (phase, since) = (opening.phase(), now);
        }
        match step {
            Step::Read => {
                let phase = opening.phase();
                if let Some(watch) = watch {
                    watch.note(Doing::Opening(phase), shared.clock.now());
                }
                // Each reply is asked for by output, save the greeting; octets that are no reply yet renew nothing.
                if !opening.output().is_empty() {
                    io.set_deadline(timeouts.of(phase));
                }
                if let Err(lost) = exchange(&mut io, &mut opening).await {
                    // An alert that refuses our side of a TLS 1.3 handshake is seen by the next read.
                    let by_tls = phase == Phase::StartTls || (secured && matches!(lost, Lost::Broken(_)));
                    let failure = Failure { phase, reply: lost.reply(phase), is_violation: false };
                    return Err(if by_tls { Trouble::Tls(failure) } else { Trouble::Failed(failure) });
                }
            }
            Step::Handshake => {
                io = secure(shared, target, io).await.map_err(Trouble::Tls)?;
                opening.secured();
                since = shared.clock.now();
                secured = true;
            }
            Step::Open => break,
            Step::Fail(failure) if failure.phase == Phase::StartTls && !failure.is_violation => {
                return Err(Trouble::Tls(failure));
            }
            Step::Fail(failure) => return Err(Trouble::Failed(failure)),
        }
    }
    shared.meters.connections.increment(1);
    if secured {
        shared.meters.tls.increment(1);
    }
    if let Some(watch) = watch {
        watch.note_open(secured, shared.clock.now());
    }
    let (mut extensions, reader) = opening.into_parts();
    extensions.chunking &= shared.settings.chunking;
    let peer = Peer { host: target.host.clone(), address: target.address, tls: io.tls() };
    let Plan { site, parent, .. } = approach.plan;
    let judge = Judge { classifier: shared.settings.classifier.clone(), site: site.clone(), parent: parent.clone() };
    Ok(Opened { io, session: Session::new(peer, extensions, reader, judge) })
}

async fn exchange(io: &mut Io, opening: &mut Opening) -> Result<(), Lost> {
    let output = std::mem::take(opening.output());
    io.write(&output, opening.room()).await?;
    io.read(opening.room()).await
}

async fn secure(shared: &Shared, target: &Target, io: Io) -> Result<Io, Failure> {
    let failed = |text: String| Failure::local(Phase::StartTls, Status::new(4, 7, 5), text);
    let Some(stream) = io.into_plain() else {
        return Err(failed("already secured".into()));
    };
    let timeouts = &shared.settings.timeouts;
    let begun = shared.clock.now();
    let handshake = shared.tls.handshake(stream, &target.host, target.address);
    let result = in_time(timeouts.starttls, handshake).await;
    let version = result.as_ref().ok().and_then(|stream| stream.get_ref().1.protocol_version());
    shared.meters.shook_hands(begun, shared.clock.now(), version);
    let stream = result.map_err(|error| failed(error.to_string()))?;
    Ok(Io::new(Stream::Tls(Box::new(stream)), timeouts.tick()))
}

async fn connect(target: &Target, wait: Duration) -> Result<TcpStream, Failure> {
    let connecting = async {
        let socket = if target.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(local) = target.local {
            socket.bind(SocketAddr::new(local, 0))?;
        }
        let stream = socket.connect(target.address).await?;
        // One write is one request: nothing is gained by waiting for more.
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    in_time(wait, connecting).await.map_err(|error| {
        // X.4.1: no answer from host.
        let text = format!("cannot connect to {}: {error}", target.address);
        Failure { phase: Phase::Connect, reply: Reply::local(Status::new(4, 4, 1), text), is_violation: false }
    })
}

async fn in_time<T>(wait: Duration, work: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    timeout(wait, work).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

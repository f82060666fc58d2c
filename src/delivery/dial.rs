//! Opens connections: TCP from the source's address, the opening dialogue, STARTTLS and its fall-backs.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::Shared;
use super::io::{Io, Stream};
use super::judge::Judge;
use super::opening::{Failure, Opening, Step, Wanted};
use super::reported::Tried;
use super::route::Target;
use super::session::{Lost, Session};
use super::tls::{Fault, Shaken};
use super::transaction::Peer;
use crate::dns::Plan;
use crate::dns::security::{self, Assurance, Demand, Refusal};
use crate::message::{Phase, Proof};
use crate::queue::{Doing, Watch};
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// A connection on which transactions may begin.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) io: Io,
    pub(super) session: Session,
    /// What would be wrong, were the MTA-STS policy that is tested in force.
    observed: Option<Fault>,
}

/// How a receiver is approached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Approach<'a> {
    /// Our name.
    pub(super) ehlo_name: &'a str,
    /// Whose replies will be judged, and what it asks of TLS.
    pub(super) plan: &'a Plan,
    /// What the messages ask of it.
    pub(super) assurance: Assurance,
}

/// How an opening may end badly.
enum Trouble {
    Failed(Failure),
    /// STARTTLS or the handshake: another connection in clear may work.
    Tls(Failure, Fault, Certainty),
}

/// A connection after the handshake, what the certificate was held to, and what would be wrong with it under the policy that
/// is tested.
type Secured = (Io, Proof, Option<Fault>);

/// Whether the same will be said the next time, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certainty {
    Sure,
    Unsure,
}

/// Opens a connection to `target` as its plan demands; where TLS is no must and fails, in clear on a second connection.
pub(super) async fn open(
    shared: &Shared,
    target: &Target,
    approach: Approach<'_>,
    watch: Option<&Watch>,
) -> Result<Opened, Failure> {
    let assurance = match approach.assurance {
        Assurance::Waived if !shared.settings.honors_waivers => Assurance::Usual,
        assurance => assurance,
    };
    let demand = security::demand(approach.plan, &target.host, assurance);
    let result = match &demand {
        Demand::Refused(refusal) => {
            // X.7.5: cryptographic failure.
            let text = format!("{} is not used: {}", target.host, refusal.text());
            let failure = Failure::local(Phase::StartTls, Status::new(4, 7, 5), text);
            let is_passing = matches!(refusal, Refusal::DnssecInvalid | Refusal::Pending);
            let certainty = if is_passing { Certainty::Unsure } else { Certainty::Sure };
            let fault = Fault::from(*refusal);
            if let Some(tally) = &shared.settings.tally {
                let tried = Tried { approach, target, demand: &demand, local: None };
                tried.count(tally, Some((fault, &failure.reply.text)));
            }
            Err(Trouble::Tls(failure, fault, certainty))
        }
        Demand::Opportunistic | Demand::Observed { encrypted: false, .. } => {
            if_possible(shared, target, approach, &demand, watch).await
        }
        Demand::Clear => attempt(shared, target, approach, (&demand, Wanted::No), watch).await,
        _ => attempt(shared, target, approach, (&demand, Wanted::Must), watch).await,
    };
    result.map_err(|trouble| {
        let failure = match trouble {
            Trouble::Failed(failure) => failure,
            Trouble::Tls(mut failure, fault, certainty) => {
                shared.meters.tls_failed(fault);
                if assurance.requires_tls() && certainty == Certainty::Sure {
                    // RFC 8689, 4.2.1: its sender is told at once. X.7.10: encryption needed.
                    failure.reply = Reply::local(Status::new(5, 7, 10), failure.reply.text);
                }
                failure
            }
        };
        shared.meters.failed(&failure);
        failure
    })
}

/// With TLS if it is offered and works, else in clear.
async fn if_possible(
    shared: &Shared,
    target: &Target,
    approach: Approach<'_>,
    demand: &Demand,
    watch: Option<&Watch>,
) -> Result<Opened, Trouble> {
    let memory = shared.settings.tls_failure_memory;
    if shared.hosts.avoids_tls(&target.host, shared.clock.now(), memory) {
        return attempt(shared, target, approach, (demand, Wanted::No), watch).await;
    }
    match attempt(shared, target, approach, (demand, Wanted::IfOffered), watch).await {
        Err(Trouble::Tls(failure, fault, _)) => {
            shared.meters.failed(&failure);
            shared.meters.tls_failed(fault);
            shared.hosts.tls_failed(&target.host, shared.clock.now());
            tracing::info!(mx_host = %target.host, mx_address = %target.address, reason = %failure.reply.text,
                "TLS failed, going on in clear");
            attempt(shared, target, approach, (demand, Wanted::No), watch).await
        }
        result => result,
    }
}

async fn attempt(
    shared: &Shared,
    target: &Target,
    approach: Approach<'_>,
    (demand, wanted): (&Demand, Wanted),
    watch: Option<&Watch>,
) -> Result<Opened, Trouble> {
    let timeouts = &shared.settings.timeouts;
    let begun = shared.clock.now();
    if let Some(watch) = watch {
        watch.note_peer(&target.host, target.address, begun);
    }
    let stream = connect(target, timeouts.connect).await.map_err(Trouble::Failed)?;
    shared.meters.connect_seconds.record(begun.elapsed().as_secs_f64());
    let local = stream.local_addr().ok().map(|address| address.ip());
    let io = Io::new(Stream::Plain(stream), timeouts.tick());
    let result = dialogue(shared, target, approach, (demand, wanted), io, watch).await;
    if let Some(tally) = shared.settings.tally.as_ref().filter(|_| wanted != Wanted::No) {
        let tried = Tried { approach, target, demand, local };
        match &result {
            Ok(opened) if opened.session.peer().tls.is_some() => {
                tried.count(tally, opened.observed.map(|fault| (fault, "")));
            }
            Ok(_) => tried.count(tally, Some((Fault::NotOffered, ""))),
            Err(Trouble::Tls(failure, fault, _)) => tried.count(tally, Some((*fault, &failure.reply.text))),
            // Not about TLS.
            Err(Trouble::Failed(_)) => {}
        }
    }
    result
}

/// From the connection to the first MAIL.
async fn dialogue(
    shared: &Shared,
    target: &Target,
    approach: Approach<'_>,
    (demand, wanted): (&Demand, Wanted),
    mut io: Io,
    watch: Option<&Watch>,
) -> Result<Opened, Trouble> {
    let timeouts = &shared.settings.timeouts;
    let mut opening = Opening::new(approach.ehlo_name, wanted);
    let (mut proof, mut observed) = (None, None);
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
                    let by_tls = phase == Phase::StartTls || (proof.is_some() && matches!(lost, Lost::Broken(_)));
                    let failure = Failure { phase, reply: lost.reply(phase), is_violation: false };
                    return Err(match by_tls {
                        true => Trouble::Tls(failure, Fault::Validation, Certainty::Unsure),
                        false => Trouble::Failed(failure),
                    });
                }
            }
            Step::Handshake => {
                let (secured, shown, fault) = secure(shared, target, io, demand).await?;
                (io, observed) = (secured, fault);
                opening.secured();
                since = shared.clock.now();
                proof = Some(shown);
            }
            Step::Open => break,
            Step::Fail(failure) if failure.phase == Phase::StartTls && !failure.is_violation => {
                return Err(Trouble::Tls(failure, Fault::NotOffered, Certainty::Sure));
            }
            Step::Fail(failure) => return Err(Trouble::Failed(failure)),
        }
    }
    shared.meters.connections.increment(1);
    if proof.is_some() {
        shared.meters.tls.increment(1);
    }
    let (mut extensions, reader) = opening.into_parts();
    extensions.chunking &= shared.settings.chunking;
    // RFC 8689, 2: never said where the receiver is not known.
    extensions.require_tls &= approach.assurance.requires_tls() && proof.is_some();
    let tls = io.tls(proof.unwrap_or(Proof::None));
    let tls_policy = security::policy_name(approach.plan, &target.host, approach.assurance);
    if let Some(watch) = watch {
        watch.note_open(tls, tls_policy, shared.clock.now());
    }
    let peer = Peer { host: target.host.clone(), address: target.address, tls, tls_policy };
    let Plan { site, parent, .. } = approach.plan;
    let parent = parent.as_ref().map(|parent| parent.0.clone());
    let judge = Judge { classifier: shared.settings.classifier.clone(), site: site.clone(), parent };
    Ok(Opened { io, session: Session::new(peer, extensions, reader, judge), observed })
}

async fn exchange(io: &mut Io, opening: &mut Opening) -> Result<(), Lost> {
    let output = std::mem::take(opening.output());
    io.write(&output, opening.room()).await?;
    io.read(opening.room()).await
}

async fn secure(shared: &Shared, target: &Target, io: Io, demand: &Demand) -> Result<Secured, Trouble> {
    let failed = |fault, text: String, is_lost| {
        let failure = Failure::local(Phase::StartTls, Status::new(4, 7, 5), text);
        Trouble::Tls(failure, fault, if is_lost { Certainty::Unsure } else { Certainty::Sure })
    };
    let Some(stream) = io.into_plain() else {
        return Err(failed(Fault::Validation, "already secured".into(), true));
    };
    let timeouts = &shared.settings.timeouts;
    let begun = shared.clock.now();
    let handshake = shared.tls.handshake(stream, &target.host, target.address, demand, &shared.settings.roots);
    let result = timeout(timeouts.starttls, handshake).await;
    let version = result.as_ref().ok().and_then(|result| result.as_ref().ok());
    let version = version.and_then(|shaken| shaken.stream.get_ref().1.protocol_version());
    shared.meters.shook_hands(begun, shared.clock.now(), version);
    let result = result.map_err(|_| failed(Fault::Validation, "the TLS handshake took too long".into(), true))?;
    let Shaken { stream, proof, observed } = result.map_err(|error| failed(error.fault, error.text, error.is_lost))?;
    if let Some(fault) = observed {
        shared.meters.tls_failed(fault);
    }
    Ok((Io::new(Stream::Tls(Box::new(stream)), timeouts.tick()), proof, observed))
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

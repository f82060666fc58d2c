//! The task of one slot: from its first work until there is none.

use std::sync::Arc;

use super::Shared;
use super::connection::{Connection, Ending};
use super::dial::{self, Approach, Opened};
use super::opening::Failure;
use super::route::{self, Target};
use super::work::{Ticket, Work};
use crate::dns::Transport;
use crate::dns::security::{self, Assurance};
use crate::message::{Outcome, Phase, Report};
use crate::queue::Watch;
use crate::smtp::status::Status;

/// Which hosts a ticket has already been to.
#[derive(Default)]
struct Detour {
    /// MX hosts that cannot take the message as it is.
    excluded: Vec<Arc<str>>,
    /// Each was asked: the next one decides.
    is_over: bool,
}

/// Delivers `first` and what `work` then gives.
pub(super) async fn run<W: Work>(shared: &Shared, mut work: W, first: W::Ticket) {
    if work.plan().transport == Transport::Discard {
        return discard(shared, work, first).await;
    }
    let watch = work.watch();
    let mut ticket = first;
    let mut detour = Detour::default();
    loop {
        let plan = Arc::clone(work.plan());
        let source = Arc::clone(work.source());
        let mut targets = route::targets(&plan, &source, ticket.in_doubt(), &detour.excluded, &shared.shuffle);
        let all = targets.len();
        targets.truncate(shared.settings.addresses);
        let approach = Approach { ehlo_name: &source.ehlo_name, plan: &plan, assurance: work.assurance() };
        let (opened, target) = match connect_at_best(shared, &targets, approach, watch.as_deref()).await {
            Ok(opened) => opened,
            Err(failures) => {
                let outcome = outcome_of(&failures, failures.len() < all, approach);
                if detour.excluded.is_empty() && !detour.is_over {
                    work.connection_failed(ticket, outcome);
                } else {
                    // Other hosts of the site answer: it is this message that has nowhere to go for now.
                    let outcomes = vec![outcome; ticket.recipients().len()];
                    work.report(ticket, outcomes);
                }
                return;
            }
        };
        work.connected();
        let is_other = |host: &Arc<str>| *host != target.host && !detour.excluded.contains(host);
        let alone = detour.is_over || !plan.hosts.iter().any(|host| is_other(&host.name));
        match Connection::new(shared, opened, alone, watch.clone()).converse(&mut work, ticket).await {
            Ending::Over => return,
            Ending::Elsewhere(next, None) => {
                ticket = next;
                detour = Detour::default();
            }
            Ending::Elsewhere(next, Some(_)) => {
                ticket = next;
                detour.excluded.push(target.host);
                if route::targets(&plan, &source, None, &detour.excluded, &shared.shuffle).is_empty() {
                    detour = Detour { excluded: Vec::new(), is_over: true };
                }
            }
        }
    }
}

/// Where REQUIRETLS is only preferred: as it asks if any host can be had so, else as usual.
async fn connect_at_best(
    shared: &Shared,
    targets: &[Target],
    approach: Approach<'_>,
    watch: Option<&Watch>,
) -> Result<(Opened, Target), Vec<(Target, Failure)>> {
    match connect(shared, targets, approach, watch).await {
        Err(failures)
            if approach.assurance == Assurance::Preferred
                && failures.iter().any(|(_, failure)| failure.phase == Phase::StartTls) =>
        {
            connect(shared, targets, Approach { assurance: Assurance::Usual, ..approach }, watch).await
        }
        result => result,
    }
}

/// The first target that can be talked to, or the failure of each that was tried: all that there was time for.
async fn connect(
    shared: &Shared,
    targets: &[Target],
    approach: Approach<'_>,
    watch: Option<&Watch>,
) -> Result<(Opened, Target), Vec<(Target, Failure)>> {
    let begun = shared.clock.now();
    let mut failures = Vec::new();
    for target in targets {
        if !failures.is_empty() && begun.elapsed() >= shared.settings.opening {
            break;
        }
        match dial::open(shared, target, approach, watch).await {
            Ok(opened) => return Ok((opened, target.clone())),
            Err(failure) => {
                tracing::debug!(mx_host = %target.host, mx_address = %target.address, phase = failure.phase.as_str(),
                    reply_code = failure.reply.code, reply = %failure.reply.text, "connection failed");
                failures.push((target.clone(), failure));
            }
        }
    }
    Err(failures)
}

/// Bounced only if every host was asked and said 5yz; of several failures a receiver's own words tell most.
fn outcome_of(failures: &[(Target, Failure)], is_cut: bool, approach: Approach<'_>) -> Outcome {
    let permanent = |failure: &Failure| failure.reply.is_permanent();
    let bounces = !is_cut && !failures.is_empty() && failures.iter().all(|(_, failure)| permanent(failure));
    let transient_words = failures.iter().rev().find(|(_, failure)| failure.reply.code / 100 == 4);
    let words = failures.iter().rev().find(|(_, failure)| failure.reply.code != 0);
    let own = failures.iter().rev().find(|(_, failure)| permanent(failure) == bounces);
    let Some((target, failure)) = transient_words.or(words).or(own) else {
        // X.4.4: unable to route.
        let text = "no address that the egress source can reach";
        return Outcome::Deferred(Report::local(Phase::Connect, Status::new(4, 4, 4), text));
    };
    let report = Report {
        phase: failure.phase,
        reply: failure.reply.clone(),
        mx_host: Some(Arc::clone(&target.host)),
        mx_address: Some(target.address),
        tls: None,
        tls_policy: Some(security::policy_name(approach.plan, &target.host, approach.assurance)),
        relayed_dsn: false,
        in_doubt: false,
        hung_up: false,
    };
    if bounces { Outcome::Bounced(report) } else { Outcome::Deferred(report) }
}

/// The transport that counts mail as delivered and drops it.
async fn discard<W: Work>(shared: &Shared, mut work: W, first: W::Ticket) {
    let mut next = Some(first);
    while let Some(ticket) = next {
        let report = Report::local(Phase::EndOfData, Status::new(2, 0, 0), "discarded");
        let outcomes = vec![Outcome::Delivered(report); ticket.recipients().len()];
        shared.meters.settled(&outcomes);
        work.report(ticket, outcomes);
        next = match work.try_take() {
            Some(ticket) => Some(ticket),
            None => work.take(shared.settings.idle).await,
        };
    }
}

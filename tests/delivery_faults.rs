//! A receiver fails at each step of a delivery with FIN, RST, 421, 4yz, 5yz and silence (`F13` of the fault tests).
//!
//! Each cell has a preferred MX host that fails once and a second one that works. The whole table runs for a receiver with
//! PIPELINING, for one without, and for one with CHUNKING.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/errand.rs"]
mod errand;
#[path = "common/fake_mx.rs"]
mod fake_mx;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use errand::{Log, Run, errand, errand_to};
use fake_mx::{Act, FakeMx, Running, Step};
use hikyaku::message::{Outcome, Phase};

const CONTENT: &[u8] = b"Subject: x\r\n\r\nbody\r\n";
const FAULTS: [Fault; 6] = [Fault::Fin, Fault::Rst, Fault::Silence, Fault::R421, Fault::R4, Fault::R5];
const STEPS: [Step; 11] = [
    Step::Greeting,
    Step::Ehlo,
    Step::StartTls,
    Step::Handshake,
    Step::Mail,
    Step::Rcpt,
    Step::Data,
    Step::Content,
    Step::EndOfData,
    Step::Rset,
    Step::Quit,
];
const MODES: [&[&str]; 3] = [&["PIPELINING", "STARTTLS"], &["STARTTLS"], &["PIPELINING", "CHUNKING", "STARTTLS"]];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Fin,
    Rst,
    Silence,
    R421,
    R4,
    R5,
}

impl Fault {
    fn act(self) -> Act {
        match self {
            Self::Fin => Act::Fin,
            Self::Rst => Act::Rst,
            Self::Silence => Act::Silence,
            Self::R421 => "421 4.3.2 going away".into(),
            Self::R4 => "451 4.3.0 local trouble".into(),
            Self::R5 => "554 5.3.0 never".into(),
        }
    }

    fn is_loss(self) -> bool {
        matches!(self, Self::Fin | Self::Rst | Self::Silence)
    }
}

/// The first receiver on an address of its own, so that the second can have the same port.
async fn pair(first: FakeMx) -> (Running, Running) {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(2, Ordering::Relaxed);
    let address = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(0x7f01_0000 + number));
    let second = FakeMx::new().start_at(address(number + 1), 0).await;
    let first = first.start_at(address(number), second.address.port()).await;
    (first, second)
}

fn run(hosts: &[&Running]) -> Run {
    Run::to(hosts).plan(|plan| plan.tls = hikyaku::dns::TlsPolicy::None)
}

fn only(log: &Log) -> &Outcome {
    assert!(log.failed.is_empty() && log.returned.is_empty(), "{log:?}");
    assert_eq!((log.reports.len(), log.reports[0].1.len()), (1, 1), "{log:?}");
    &log.reports[0].1[0]
}

fn assert_outcome(log: &Log, fault: Fault, phase: Phase, cell: &str) {
    let outcome = only(log);
    let report = outcome.report();
    match (fault, outcome) {
        (Fault::R5, Outcome::Bounced(_)) => assert_eq!(report.reply.code, 554, "{cell}: {log:?}"),
        (Fault::R421, Outcome::Deferred(_)) => assert_eq!(report.reply.code, 421, "{cell}: {log:?}"),
        (Fault::R4, Outcome::Deferred(_)) => assert_eq!(report.reply.code, 451, "{cell}: {log:?}"),
        (_, Outcome::Deferred(_)) if fault.is_loss() => assert_eq!(report.reply.code, 0, "{cell}: {log:?}"),
        _ => panic!("{cell}: {log:?}"),
    }
    assert_eq!(report.phase, phase, "{cell}: {log:?}");
}

async fn before_the_first_transaction(step: Step, fault: Fault, extensions: &[&str], cell: &str) {
    let (a, b) = pair(FakeMx::with(extensions).on(step, fault.act())).await;

    let log = run(&[&a, &b]).ready([errand(1, CONTENT)]).go().await;

    let by_a = step == Step::Ehlo && fault == Fault::R5;
    assert!(matches!(only(&log), Outcome::Delivered(_)), "{cell}: {log:?}");
    assert_eq!((a.transactions().len(), b.transactions().len()), if by_a { (1, 0) } else { (0, 1) }, "{cell}");
}

async fn tls(step: Step, fault: Fault, extensions: &[&str], cell: &str) {
    let act = match (step, fault) {
        // In place of the handshake a reply is garbage.
        (Step::Handshake, Fault::R421 | Fault::R4 | Fault::R5) => Act::Raw(b"454 4.7.0 no TLS now\r\n".to_vec()),
        _ => fault.act(),
    };
    let (a, b) = pair(FakeMx::with(extensions).on(step, act)).await;

    let (log, shared) = Run::to(&[&a, &b]).ready([errand(1, CONTENT)]).go_and_remember().await;

    assert!(matches!(only(&log), Outcome::Delivered(_)), "{cell}: {log:?}");
    let got = a.transactions();
    assert!(got.len() == 1 && !got[0].tls, "{cell}: {got:?}");
    let same = step == Step::StartTls && matches!(fault, Fault::R4 | Fault::R5);
    assert_eq!(a.connections(), if same { 1 } else { 2 }, "{cell}");
    if !same {
        let before = a.commands().len();
        Run::to(&[&a, &b]).remembering(&shared).ready([errand(2, CONTENT)]).go().await;
        let commands = a.commands().split_off(before);
        assert!(!commands.contains(&"STARTTLS".to_owned()), "{cell}: the failure is remembered: {commands:?}");
    }
}

async fn mail(fault: Fault, extensions: &[&str], cell: &str) {
    let (a, b) = pair(FakeMx::with(extensions).on(Step::Mail, fault.act())).await;

    let log = run(&[&a, &b]).ready([errand(1, CONTENT)]).go().await;

    assert_outcome(&log, fault, Phase::Mail, cell);
    assert_eq!(b.connections(), 0, "{cell}");
}

async fn rcpt(fault: Fault, extensions: &[&str], cell: &str) {
    let (a, b) = pair(FakeMx::with(extensions).on(Step::Rcpt, fault.act())).await;

    let recipients = ["a@example.test", "b@example.test"];
    let log = run(&[&a, &b]).ready([errand_to(1, CONTENT, &recipients)]).go().await;

    let outcomes = &log.reports[0].1;
    let fits = match fault {
        Fault::R4 => matches!(outcomes[..], [Outcome::Deferred(_), Outcome::Delivered(_)]),
        Fault::R5 => matches!(outcomes[..], [Outcome::Bounced(_), Outcome::Delivered(_)]),
        // This receiver closes after 421, so the other one is deferred by the loss.
        _ => matches!(outcomes[..], [Outcome::Deferred(_), Outcome::Deferred(_)]),
    };
    assert!(fits && outcomes[0].report().phase == Phase::Rcpt, "{cell}: {log:?}");
    assert_eq!(b.connections(), 0, "{cell}");
}

async fn data(fault: Fault, extensions: &[&str], cell: &str) {
    if extensions.contains(&"CHUNKING") {
        return;
    }
    let (a, b) = pair(FakeMx::with(extensions).on(Step::Data, fault.act())).await;

    let log = run(&[&a, &b]).ready([errand(1, CONTENT)]).go().await;

    assert_outcome(&log, fault, Phase::Data, cell);
    assert!(!only(&log).report().in_doubt, "{cell}");
    assert_eq!(b.connections(), 0, "{cell}");
}

async fn content(fault: Fault, extensions: &[&str], cell: &str) {
    let (a, b) = pair(FakeMx::with(extensions).on(Step::Content, fault.act())).await;
    // More than both kernels' buffers hold.
    let content = [CONTENT, &b"0123456789\r\n".repeat(1_500_000)].concat();

    let log = run(&[&a, &b]).ready([errand(1, &content)]).go().await;

    assert_outcome(&log, fault, Phase::Content, cell);
    assert!(!only(&log).report().in_doubt, "{cell}: the dot has not left");
    assert_eq!(b.connections(), 0, "{cell}");
}

async fn end_of_data(fault: Fault, extensions: &[&str], cell: &str) {
    let (a, b) = pair(FakeMx::with(extensions).on(Step::EndOfData, fault.act())).await;

    let log = run(&[&a, &b]).ready([errand(1, CONTENT)]).go().await;

    assert_outcome(&log, fault, Phase::EndOfData, cell);
    assert_eq!(only(&log).report().in_doubt, fault.is_loss(), "{cell}");
    assert_eq!(b.connections(), 0, "{cell}");
}

async fn rset(fault: Fault, extensions: &[&str], cell: &str) {
    let script = FakeMx::with(extensions).on(Step::Rcpt, "550 5.1.1 no").on(Step::Rset, fault.act());
    let (a, b) = pair(script).await;

    let log = run(&[&a, &b]).ready([errand(1, CONTENT), errand(2, CONTENT)]).go().await;

    assert!(matches!(only(&log), Outcome::Bounced(report) if report.reply.code == 550), "{cell}: {log:?}");
    assert_eq!((a.connections(), b.connections()), (1, 0), "{cell}: the next message is not touched");
    rset_after_accepted_recipients(fault, extensions, cell).await;
}

/// The loss of RSET leaves what was said; a reply that is no success may be the one to the command before.
async fn rset_after_accepted_recipients(fault: Fault, extensions: &[&str], cell: &str) {
    let refused = if extensions.contains(&"CHUNKING") { Step::EndOfData } else { Step::Data };
    let script = FakeMx::with(extensions).on(refused, "554 5.7.1 not this").on(Step::Rset, fault.act());
    let (a, b) = pair(script).await;

    let log = run(&[&a, &b]).ready([errand(1, CONTENT), errand(2, CONTENT)]).go().await;

    let outcome = only(&log);
    assert_eq!(matches!(outcome, Outcome::Bounced(_)), fault.is_loss(), "{cell}: {log:?}");
    assert_eq!((a.connections(), b.connections()), (1, 0), "{cell}: the next message is not touched");
}

async fn quit(fault: Fault, extensions: &[&str], cell: &str) {
    let (a, b) = pair(FakeMx::with(extensions).on(Step::Quit, fault.act())).await;

    let log = run(&[&a, &b]).ready([errand(1, CONTENT)]).go().await;

    assert!(matches!(only(&log), Outcome::Delivered(_)), "{cell}: {log:?}");
}

async fn cell(step: Step, fault: Fault, extensions: &'static [&'static str]) {
    let cell = &format!("{step:?} {fault:?} with {extensions:?}");
    match step {
        Step::Greeting | Step::Ehlo => before_the_first_transaction(step, fault, extensions, cell).await,
        Step::StartTls | Step::Handshake => tls(step, fault, extensions, cell).await,
        Step::Mail => mail(fault, extensions, cell).await,
        Step::Rcpt => rcpt(fault, extensions, cell).await,
        Step::Data => data(fault, extensions, cell).await,
        Step::Content => content(fault, extensions, cell).await,
        Step::EndOfData => end_of_data(fault, extensions, cell).await,
        Step::Rset => rset(fault, extensions, cell).await,
        Step::Quit => quit(fault, extensions, cell).await,
        Step::Helo | Step::Idle => unreachable!(),
    }
}

#[tokio::test]
async fn a_fault_at_any_step_has_the_outcome_of_the_table() {
    let mut cells = tokio::task::JoinSet::new();
    for extensions in MODES {
        for fault in FAULTS {
            for step in STEPS {
                cells.spawn(cell(step, fault, extensions));
            }
        }
    }
    println!("runs: {}", cells.len());
    while let Some(cell) = cells.join_next().await {
        cell.unwrap();
    }
}

#[tokio::test]
async fn a_refused_connection_goes_to_the_next_mx_host() {
    let (a, b) = pair(FakeMx::new()).await;
    let dead = a.address;
    drop(a);

    let log = run(&[&b]).plan(|plan| insert(plan, dead)).ready([errand(1, CONTENT)]).go().await;

    assert!(matches!(only(&log), Outcome::Delivered(_)), "{log:?}");
}

#[tokio::test]
async fn a_connection_that_is_never_answered_goes_to_the_next_mx_host() {
    let b = FakeMx::new().start().await;
    // A full backlog: the kernel drops further SYNs.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let address = SocketAddr::from(([127, 2, 0, 1], b.address.port()));
    listener.bind(&address.into()).unwrap();
    listener.listen(0).unwrap();
    let _waiting: Vec<_> = (0..3)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.connect(&address.into()).ok();
            socket
        })
        .collect();

    let log = run(&[&b]).plan(|plan| insert(plan, address)).ready([errand(1, CONTENT)]).go().await;

    assert!(matches!(only(&log), Outcome::Delivered(_)), "{log:?}");
}

fn insert(plan: &mut hikyaku::dns::Plan, address: SocketAddr) {
    insert_all(plan, vec![address.ip()]);
}

fn insert_all(plan: &mut hikyaku::dns::Plan, addresses: Vec<IpAddr>) {
    let name = "dead.example.test".into();
    let first = hikyaku::dns::MxHost { name, preference: 0, addresses: addresses.as_slice().into() };
    plan.hosts = std::iter::once(first).chain(plan.hosts.clone()).collect();
    plan.hosts[1].preference = 10;
}

#[tokio::test]
async fn the_backup_mx_host_is_reached_behind_many_dead_addresses() {
    let backup = FakeMx::new().start().await;
    let dead = (1..=19).map(|last| IpAddr::from([127, 5, 0, last])).collect();

    let log = run(&[&backup]).plan(|plan| insert_all(plan, dead)).ready([errand(1, CONTENT)]).go().await;

    assert!(matches!(only(&log), Outcome::Delivered(_)), "{log:?}");
}

#[tokio::test]
async fn six_mx_hosts_that_refuse_for_good_bounce_unless_time_was_up_before_all_were_asked() {
    let refusing = || FakeMx::new().always(Step::Greeting, "554 5.7.1 not you");
    let mut hosts = vec![refusing().start_at(IpAddr::from([127, 5, 1, 1]), 0).await];
    for last in 2..=6 {
        hosts.push(refusing().start_at(IpAddr::from([127, 5, 1, last]), hosts[0].address.port()).await);
    }
    let hosts: Vec<&Running> = hosts.iter().collect();

    let all = run(&hosts).ready([errand(1, CONTENT)]).go().await;
    let asked: usize = hosts.iter().map(|host| host.connections()).sum();
    let out_of_time =
        run(&hosts).settings(|settings| settings.opening = Duration::ZERO).ready([errand(1, CONTENT)]).go().await;

    assert!(matches!(all.failed[..], [(1, Outcome::Bounced(_))]), "{all:?}");
    assert!(matches!(out_of_time.failed[..], [(1, Outcome::Deferred(_))]), "{out_of_time:?}");
    let asked_again = hosts.iter().map(|host| host.connections()).sum::<usize>() - asked;
    assert_eq!((asked, asked_again), (6, 1));
}

#[tokio::test]
async fn a_reply_that_drips_in_for_ever_ends_at_the_time_out() {
    let mut cells = tokio::task::JoinSet::new();
    for extensions in MODES {
        for step in [Step::Greeting, Step::Ehlo, Step::Mail, Step::Rcpt, Step::Data, Step::Content, Step::EndOfData] {
            cells.spawn(async move {
                let content = match step {
                    Step::Content => [CONTENT, &b"0123456789\r\n".repeat(1_500_000)].concat(),
                    _ => CONTENT.to_vec(),
                };
                let mx = FakeMx::with(extensions).on(step, Act::Drip).start().await;

                let log = run(&[&mx]).ready([errand(1, &content)]).go().await;

                let outcomes = log.reports.iter().map(|(_, outcomes)| &outcomes[0]);
                let outcomes: Vec<_> = outcomes.chain(log.failed.iter().map(|(_, outcome)| outcome)).collect();
                // Data is not said to a receiver with CHUNKING.
                let fits = match outcomes[..] {
                    [Outcome::Deferred(report)] => report.reply.text.starts_with("no reply in time"),
                    [Outcome::Delivered(_)] => step == Step::Data,
                    _ => false,
                };
                assert!(fits, "{step:?} {extensions:?}: {log:?}");
            });
        }
    }
    while let Some(cell) = cells.join_next().await {
        cell.unwrap();
    }
}

#[tokio::test]
async fn a_message_begun_ahead_goes_back_when_the_reply_before_it_is_slow() {
    let slow = || Act::Delay(Duration::from_secs(2));
    for (act, is_silent) in [(slow(), false), (Act::Silence, true)] {
        let mx = FakeMx::new().on(Step::EndOfData, act).start().await;

        let log = run(&[&mx])
            .settings(|settings| {
                settings.look_ahead_patience = Duration::from_millis(100);
                settings.timeouts.data_termination = Duration::from_secs(if is_silent { 3 } else { 15 });
            })
            .ready((1..=3).map(|number| errand(number, CONTENT)))
            .go()
            .await;

        assert_eq!(log.returned, [2], "{log:?}");
        let fits = match &log.reports[..] {
            [(1, outcomes)] if is_silent => matches!(&outcomes[..], [Outcome::Deferred(report)] if report.in_doubt),
            [(1, outcomes)] => matches!(outcomes[..], [Outcome::Delivered(_)]),
            _ => false,
        };
        assert!(fits, "{log:?}");
        assert_eq!((mx.transactions().len(), mx.connections()), (usize::from(!is_silent), 1));
    }
}

#[tokio::test]
async fn only_when_every_mx_host_refuses_for_good_the_message_bounces() {
    let refusing = || FakeMx::new().always(Step::Greeting, "554 5.7.1 not you");
    let (a, b) = pair(refusing()).await;
    drop(b);
    let c = refusing().start_at(IpAddr::V4(Ipv4Addr::new(127, 3, 0, 1)), a.address.port()).await;
    let d = FakeMx::new()
        .always(Step::Greeting, "450 4.3.2 busy")
        .start_at(IpAddr::V4(Ipv4Addr::new(127, 3, 0, 2)), a.address.port())
        .await;

    let both = run(&[&a, &c]).ready([errand(1, CONTENT)]).go().await;
    let one_is_busy = run(&[&a, &d]).ready([errand(1, CONTENT)]).go().await;

    assert!(matches!(both.failed[..], [(1, Outcome::Bounced(_))]), "{both:?}");
    assert!(matches!(&one_is_busy.failed[..], [(1, Outcome::Deferred(report))] if report.reply.code == 450));
    assert_eq!((both.connected, both.reports.len()), (0, 0));
}

#[tokio::test]
async fn a_421_to_rcpt_hits_only_that_recipient_if_the_receiver_goes_on() {
    let mx = FakeMx::new().on(Step::Rcpt, Act::Raw(b"421 4.7.0 not this one\r\n".to_vec())).start().await;

    let recipients = ["a@example.test", "b@example.test"];
    let log = run(&[&mx]).ready([errand_to(1, CONTENT, &recipients), errand(2, CONTENT)]).go().await;

    assert!(matches!(log.reports[0].1[..], [Outcome::Deferred(_), Outcome::Delivered(_)]), "{log:?}");
    assert_eq!(log.reports.len(), 1, "the connection is closed after it: {log:?}");
}

#[tokio::test]
async fn a_slow_reply_within_the_time_out_is_waited_for() {
    let mx = FakeMx::new().on(Step::EndOfData, Act::Delay(Duration::from_millis(200))).start().await;

    let log = run(&[&mx]).ready([errand(1, CONTENT)]).go().await;

    assert!(matches!(only(&log), Outcome::Delivered(_)), "{log:?}");
}

/// Whether an outcome is a deferral, and whether the connection was closed with it.
fn is_hung_up(outcomes: &[Outcome]) -> Option<bool> {
    match outcomes {
        [Outcome::Deferred(report)] => Some(report.hung_up),
        _ => None,
    }
}

#[tokio::test]
async fn whether_a_receiver_closes_with_an_opaque_refusal_belongs_to_the_outcome() {
    const OPAQUE: &str = "451 4.7.0 try again later";
    let modes: [&[&str]; 3] = [&["PIPELINING"], &[], &["PIPELINING", "CHUNKING"]];
    for mode in modes {
        for step in [Step::Mail, Step::Rcpt, Step::Data, Step::EndOfData] {
            if step == Step::Data && mode.contains(&"CHUNKING") {
                continue;
            }
            for (act, closes) in [(Act::ReplyAndFin(OPAQUE.into()), true), (OPAQUE.into(), false)] {
                let mx = FakeMx::with(mode).on(step, Act::Normal).on(step, act).start().await;

                let log = run(&[&mx]).ready((1..=3).map(|number| errand(number, CONTENT))).go().await;

                let refused = log.reports.iter().find(|(number, _)| *number == 2).map(|(_, outcomes)| &outcomes[..]);
                // What is said of a recipient is about that one, and so is what follows from it.
                let belongs = closes && step != Step::Rcpt;
                assert_eq!(refused.and_then(is_hung_up), Some(belongs), "{mode:?} {step:?}: {log:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_refusal_that_says_what_it_is_about_is_not_waited_behind() {
    let full = Act::ReplyAndFin("452 4.2.2 mailbox full".into());
    let mx = FakeMx::new().on(Step::EndOfData, full).start().await;

    let log = run(&[&mx]).ready([errand(1, CONTENT), errand(2, CONTENT)]).go().await;

    assert_eq!(is_hung_up(&log.reports[0].1), Some(false), "{log:?}");
}

#[tokio::test]
async fn a_reset_in_place_of_the_reply_to_mail_is_an_outcome_where_receivers_throttle_by_it() {
    for (site, is_word) in [("au", true), ("example.test", false)] {
        let mx = FakeMx::with(&[]).on(Step::Mail, Act::Normal).on(Step::Mail, Act::Rst).start().await;

        let to = run(&[&mx]).plan(|plan| plan.site = site.into());
        let log = to.ready([errand(1, CONTENT), errand(2, CONTENT)]).go().await;

        assert!(matches!(log.reports[0].1[..], [Outcome::Delivered(_)]), "{log:?}");
        let told = log.reports.get(1).map(|(_, outcomes)| &outcomes[..]);
        match told {
            Some([Outcome::Deferred(report)]) => {
                assert!(is_word && report.phase == Phase::Mail && report.reply.code == 0, "{site}: {log:?}");
            }
            // On a connection that has worked it means that that was over before.
            told => assert!(!is_word && told.is_none() && log.returned == [2], "{site}: {log:?}"),
        }
    }
}

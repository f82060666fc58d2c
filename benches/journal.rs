//! What the journal costs for one message: its `received` and its `delivered` line.
//!
//! * `tell`: both are told, by one thread as fast as it can, while the journal's thread writes them: wall time, so of
//!   use only on an idle machine;
//! * `whole`: a million messages told to a journal on a real folder, in one file or rotated and compressed; processor
//!   time of all threads (user and system, to 10 ms) for each message, printed.
//!
//! Load: one recipient, addresses, campaign and reply as a campaign's mail has them (1013 octets in both lines).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use hikyaku::clock::{Clock, UnixTime};
use hikyaku::journal::{Decision, Event, Journal, Settings, Subject, Verdict};
use hikyaku::message::{Envelope, Lane, MessageId, Phase, Recipient, Report};
use hikyaku::metrics::Registry;
use hikyaku::smtp::address::ReversePath;
use hikyaku::smtp::reply::Reply;
use hikyaku::smtp::status::Status;

const MESSAGES: u64 = 1_000_000;

fn envelope(number: u64) -> Envelope {
    let path = format!("u{number}x0@d{}.test", number % 1_000);
    Envelope {
        tenant: "shop".into(),
        campaign: "spring-2026".into(),
        lane: Lane::Bulk,
        ..Envelope::new(
            ReversePath::Mailbox(format!("bounce-{number}@news.example.com").parse().unwrap()),
            vec![Recipient::new(path.parse().unwrap())],
            UnixTime(1_795_633_485),
        )
    }
}

fn report() -> Report {
    let text = "Ok: queued as 4ZqX1k3vQ2z9rT8";
    Report {
        phase: Phase::EndOfData,
        reply: Reply { code: 250, status: Some(Status::new(2, 0, 0)), text: text.into() },
        mx_host: Some("mx1.mail.example.test".into()),
        mx_address: Some("192.0.2.17:25".parse().unwrap()),
        tls: Some(hikyaku::message::Encryption {
            version: "TLSv1.3",
            cipher: "TLS13_AES_256_GCM_SHA384",
            proof: hikyaku::message::Proof::None,
        }),
        tls_policy: None,
        relayed_dsn: false,
        in_doubt: false,
        hung_up: false,
    }
}

fn tell(journal: &Journal, id: u64, envelope: &Envelope, report: &Report, clock: &Clock) {
    let subject = Subject { id: MessageId(id), envelope: Some(envelope), recipient: 0, site: None };
    journal.tell(&Event::Received { subject, size: 10_240, client: Some([127, 0, 0, 1].into()), user: None, dkim: "" });
    journal.tell(&Event::Decided(Decision {
        subject: Subject { site: Some("mx1.mail.example.test"), ..subject },
        verdict: Verdict::Delivered,
        report,
        refusal: None,
        source: Some("default"),
        attempt: 1,
        size: Some(10_240),
        due: envelope.accepted_at,
        attempted: Some(clock.wall_at(clock.now())),
        retry: None,
        order: None,
    }));
}

fn open(folder: &std::path::Path, max_size: u64) -> Journal {
    let settings = Settings {
        path: folder.join("journal"),
        max_size,
        max_age: Duration::from_secs(86_400),
        keep: Duration::from_secs(86_400),
        max_total: None,
        buffer: 256 << 20,
        mask: hikyaku::mask::Mask::None,
    };
    Journal::open(settings, 1, Clock::system(), &Registry::new().unwrap()).unwrap()
}

/// Processor time of this process so far.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    // utime and stime of proc(5), in ticks of 10 ms.
    let ticks: u64 = fields.iter().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// Tells a million messages, about 50,000 a second, and gives the processor time for each.
fn whole(max_size: u64) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path(), max_size);
    let (report, clock) = (report(), Clock::system());
    let envelopes: Vec<Envelope> = (0..1_000).map(envelope).collect();
    let before = processor_time();
    for (id, envelope) in (0..MESSAGES).zip(envelopes.iter().cycle()) {
        tell(&journal, id, envelope, &report, &clock);
        if id.is_multiple_of(500) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let is_compressed = || {
        let names = std::fs::read_dir(folder.path().join("journal")).unwrap();
        names.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "jsonl")).count() <= 1
    };
    while !is_compressed() {
        std::thread::sleep(Duration::from_millis(20));
    }
    journal.close();
    (processor_time() - before) / u32::try_from(MESSAGES).unwrap()
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path(), 1 << 40);
    let (envelope, report, clock) = (envelope(12_345), report(), Clock::system());
    criterion.bench_function("journal/tell", |b| {
        b.iter(|| tell(black_box(&journal), 77, black_box(&envelope), black_box(&report), &clock));
    });
    journal.close();
    if std::env::args().any(|argument| argument == "--bench") {
        println!("journal/whole, one file:             {:?} a message", whole(1 << 40));
        println!("journal/whole, with all compressed:  {:?} a message", whole(32 << 20));
    }
    criterion.final_summary();
}

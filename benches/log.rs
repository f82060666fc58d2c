//! The log: encoding and decoding records, and group commit on a real directory.
//!
//! Load: messages of 10 KB with one recipient. `commit/N` is the time per message with N tasks that each wait for their
//! own commit, on two runtime threads; it also prints the process's CPU time per message, which is the figure that stays
//! stable on noisy machines. `HIKYAKU_BENCH_DIR` names a directory on the disk to be measured (default: the system's
//! temporary directory).

#![allow(missing_docs, reason = "criterion's macros")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hikyaku::clock::{Clock, UnixTime};
use hikyaku::log::cipher::{Cipher, TAG};
use hikyaku::log::disk::Disk;
use hikyaku::log::record::{Builder, Frame, Seal, seal};
use hikyaku::log::sealed::{self, Opener};
use hikyaku::message::{Content, Envelope, Lane, MessageId, Recipient};
use hikyaku::metrics::Registry;
use hikyaku::smtp::address::ReversePath;
use hikyaku::spool::{Attempts, Event, Keys, NewMessage, RecipientEvent, Settings, Spool, codec};
use hikyaku::trusted::key::Secret;

const SIZE: usize = 10 << 10;

fn envelope() -> Arc<Envelope> {
    let recipient = Recipient::new("somebody@example.com".parse().unwrap());
    Arc::new(Envelope {
        campaign: "spring".into(),
        lane: Lane::Bulk,
        ..Envelope::new(
            ReversePath::Mailbox("bounce@example.org".parse().unwrap()),
            vec![recipient],
            UnixTime(1_800_000_000),
        )
    })
}

fn records(criterion: &mut Criterion) {
    let (envelope, content) = (envelope(), vec![b'x'; SIZE]);
    let place = Seal { salt: 0x1234_5678 };
    let encode = |out: &mut Vec<u8>| {
        out.clear();
        let mut builder = Builder::new(out, codec::MESSAGE);
        codec::put_envelope(&mut builder, MessageId(1), &envelope);
        builder.finish_with(SIZE as u32, crc32c::crc32c(&content));
        seal(out, place, 4096);
    };
    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Bytes(SIZE as u64));
    let mut out = Vec::new();
    group.bench_function("encode", |bencher| bencher.iter(|| encode(black_box(&mut out))));
    encode(&mut out);
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            let frame = Frame::read(black_box(&out), place, 4096).unwrap();
            assert!(frame.is_content(&content, place, 4096));
            codec::envelope(&frame).unwrap()
        });
    });
    let cipher = Cipher::new(&[1; 32]);
    let mut place_of = 4096;
    group.bench_function("encrypt", |bencher| {
        bencher.iter(|| {
            encode(&mut out);
            sealed::widen(&mut out);
            out.extend_from_slice(&content);
            out.resize((out.len() + TAG).next_multiple_of(8), 0);
            // A place comes once.
            place_of += 8;
            assert!(sealed::seal(black_box(&mut out), &cipher, place, place_of));
        });
    });
    let opener = Opener { seal: place, cipher: Some(Arc::new(cipher)) };
    group.bench_function("decrypt", |bencher| {
        bencher.iter(|| opener.open(&mut black_box(out.clone()), place_of).unwrap());
    });
    group.bench_function("events", |bencher| {
        let events = [RecipientEvent { recipient: 0, event: Event::Delivered }];
        bencher.iter(|| {
            out.clear();
            codec::write_events(&mut out, MessageId(1), black_box(&events));
        });
    });
    group.finish();
}

/// User and system time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn open(directory: &std::path::Path, sync: bool, keys: Keys) -> Spool {
    let settings = Settings {
        path: directory.into(),
        segment_size: 64 << 20,
        reserve: 0,
        sync,
        attempts: Attempts::Write,
        deadline: Duration::from_secs(60),
        cache: 64 << 20,
        keys,
    };
    let registry = Registry::new().unwrap();
    let (spool, recovery) = Spool::open(settings, Arc::new(Disk::new(directory)), Clock::system(), &registry).unwrap();
    recovery.run(&mut |_| {});
    spool
}

async fn life(spool: &Spool, envelope: &Arc<Envelope>, content: &Bytes) {
    let id = spool.next_id();
    let new = NewMessage {
        id,
        envelope: envelope.clone(),
        content: Content::Memory(content.clone()),
        ended_at: Instant::now(),
    };
    spool.accept(new).await.unwrap();
    black_box(spool.load(id).unwrap());
    spool.attempt(id, &[0], "127.0.0.1:25".parse().unwrap()).await.unwrap();
    spool.record(id, &[RecipientEvent { recipient: 0, event: Event::Delivered }]);
}

/// `count` messages, shared out over `sessions` tasks.
async fn lives(spool: &Spool, envelope: &Arc<Envelope>, content: &Bytes, count: u64, sessions: u64) {
    let mut tasks = Vec::new();
    for session in 0..sessions {
        let (spool, envelope, content) = (spool.clone(), envelope.clone(), content.clone());
        let share = count / sessions + u64::from(session < count % sessions);
        tasks.push(tokio::spawn(async move {
            for _ in 0..share {
                life(&spool, &envelope, &content).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

fn commits(criterion: &mut Criterion) {
    let base = std::env::var_os("HIKYAKU_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut group = criterion.benchmark_group("commit");
    group.sample_size(10).measurement_time(Duration::from_secs(5)).throughput(Throughput::Elements(1));
    let plain = [("1", 1, true), ("50", 50, true), ("200", 200, true), ("50 unsynced", 50, false)];
    let sealed = [("1 encrypted", 1, true), ("50 encrypted", 50, true), ("50 unsynced encrypted", 50, false)];
    let runs = plain.map(|run| (run, false)).into_iter().chain(sealed.map(|run| (run, true)));
    for ((name, sessions, sync), is_sealed) in runs {
        let root = tempfile::tempdir_in(&base).unwrap();
        let spool = open(&root.path().join("spool"), sync, Keys::new([Secret::new([1; 32])], is_sealed));
        let (envelope, content) = (envelope(), Bytes::from(vec![b'x'; SIZE]));
        let (began, mut total) = (cpu(), 0);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| {
                total += count;
                let began = Instant::now();
                runtime.block_on(lives(&spool, &envelope, &content, count, sessions));
                began.elapsed()
            });
        });
        let each = (cpu() - began).as_nanos() as u64 / total.max(1);
        let stat = spool.stat();
        println!("commit/{name}: {each} ns of CPU a message, {} messages in {} batches", total, stat.batches);
        spool.close_blocking();
    }
    group.finish();
}

criterion_group!(benches, records, commits);
criterion_main!(benches);

//! What the submission side computes for one message, without socket and spool.
//!
//! Load: one client in the steady state of pipelining: each input is the content of a message (10,240 octets: 6 header
//! fields, lines of 76 octets), the final dot, and MAIL, RCPT and DATA of the next. `parse` is the session alone, `admit`
//! adds admission with its copy of the content, `chunks` is the same by BDAT.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hikyaku::clock::UnixTime;
use hikyaku::message::MessageId;
use hikyaku::submission::Settings;
use hikyaku::submission::admit::{Context, admit};
use hikyaku::submission::session::{Session, Step};
use open::{Open, drive};

#[path = "../fuzz/src/open.rs"]
mod open;

const SIZE: usize = 10_240;
const ENVELOPE: &str = "MAIL FROM:<bounce-12345@news.example.com> SIZE=10240\r\nRCPT TO:<u1234567x0@d42.test>\r\n";

fn content() -> String {
    let mut text = "X-Seq: 1-1234567-1795318696000000\r\nFrom: News <news@example.com>\r\nTo: u1234567x0@d42.test\r\n\
                    Subject: What is new this week\r\nDate: Sun, 22 Nov 2026 03:38:16 +0000\r\n\
                    Message-ID: <1.1234567@example.com>\r\n\r\n"
        .to_owned();
    while text.len() + 78 < SIZE {
        text.push_str(&"Lorem ipsum dolor sit amet, consetetur sadipscing elitr, sed diam nonumy e ".repeat(2)[..76]);
        text.push_str("\r\n");
    }
    text
}

/// Feeds `input` to the session; stores what is complete, with admission or without.
fn run(session: &mut Session, input: &[u8], admits: bool) {
    drive(session, input, |session, step| {
        if step == Step::Store {
            let transaction = session.take_transaction().unwrap();
            if admits {
                let context = Context::of(session, None, MessageId(1), UnixTime(1_795_318_696));
                black_box(admit(transaction, session.content().bytes(), &context).unwrap());
            }
            session.accepted(MessageId(1));
        }
        black_box(session.replies()).clear();
    });
}

fn ready(settings: &Arc<Settings>) -> Session {
    let client = [127, 0, 0, 1].into();
    let mut session = Session::new(Arc::clone(settings), "mx.example.net".into(), client, &mut Open);
    run(&mut session, b"EHLO client.example.com\r\n", false);
    session
}

fn messages(criterion: &mut Criterion) {
    let settings = Arc::new(Settings::default());
    let content = content();
    let by_data = format!("{content}.\r\n{ENVELOPE}DATA\r\n");
    let by_chunk = format!("{ENVELOPE}BDAT {} LAST\r\n{content}", content.len());
    let mut group = criterion.benchmark_group("session");
    group.throughput(Throughput::Elements(1));
    for (name, input, admits) in [("parse", &by_data, false), ("admit", &by_data, true), ("chunks", &by_chunk, true)] {
        group.bench_function(name, |bencher| {
            let mut session = ready(&settings);
            if input.ends_with("DATA\r\n") {
                run(&mut session, format!("{ENVELOPE}DATA\r\n").as_bytes(), false);
            }
            bencher.iter(|| run(&mut session, black_box(input.as_bytes()), admits));
        });
    }
    group.finish();
}

criterion_group!(benches, messages);
criterion_main!(benches);

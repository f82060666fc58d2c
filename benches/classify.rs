//! One refusal classified by 300 rules and more: the built-in ones, and generated ones in an operator's file.
//!
//! Load: the replies of `tests/data/replies/field.tsv` in turn, at RCPT, without a provider: over 200 different texts of the
//! usual lengths, most of them decided by their text, some only by the rules at the end; then those of `sisimai.tsv`, which are
//! longer, without a step. `success` is what a 250 costs.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fmt::Write;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hikyaku::message::Phase;
use hikyaku::reply::{Classifier, Diagnostic, Refusal};
use hikyaku::smtp::reply::Reply;

const FIELD: &str = include_str!("../tests/data/replies/field.tsv");
const SISIMAI: &str = include_str!("../tests/data/replies/sisimai.tsv");
const RULES: usize = 300;

fn own(count: usize) -> String {
    (0..count).fold(String::new(), |mut text, n| {
        writeln!(
            text,
            "[[rule]]\nid = \"house-{n}\"\ncodes = [\"5yz\"]\nclass = \"policy\"\n\
             text = ['gateway {n:04}.*(refused|stopped) by rule', 'house order {n:04}']\nexample = \"550 house order {n:04}\""
        )
        .unwrap();
        text
    })
}

fn bench(criterion: &mut Criterion) {
    let classifier = Classifier::with(&own(RULES.saturating_sub(Classifier::built_in().len()).max(1))).unwrap();
    assert!(classifier.len() >= RULES, "{} rules", classifier.len());
    let mut group = criterion.benchmark_group("classify");
    for (name, table, step) in [("field", FIELD, Some(Phase::Rcpt)), ("sisimai", SISIMAI, None)] {
        let texts = table.lines().skip(1).map(|line| line.split('\t').nth(4).unwrap());
        let replies: Vec<Diagnostic> = texts.map(Diagnostic::parse).collect();
        let octets = replies.iter().map(|reply| reply.text.len()).sum::<usize>() / replies.len();
        group.throughput(Throughput::Elements(replies.len() as u64));
        let name = format!("{name}: {} replies of {octets} octets by {} rules", replies.len(), classifier.len());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for Diagnostic { code, status, text, .. } in &replies {
                    let refusal = Refusal { step, code: *code, status: *status, text, provider: None };
                    black_box(classifier.classify(&refusal));
                }
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    let success = Reply { code: 250, status: None, text: "2.0.0 Ok: queued as 4XyZ".into() };
    group.bench_function("success", |bencher| {
        bencher.iter(|| black_box(classifier.of(Phase::EndOfData, black_box(&success), None)));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);

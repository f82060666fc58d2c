//! Dot-stuffing of one content into slices, as DATA sends it.
//!
//! Load: contents of 10,240 octets in lines of 76: `plain` has no line that begins with a dot, `dotted` one in 16, `dots`
//! nothing but such lines; `copied` is `dotted` with the slices copied into one buffer, for comparison.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::io::IoSlice;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hikyaku::delivery::stuffing::Stuffer;

const SIZE: usize = 10_240;

fn content(line: impl Fn(usize) -> &'static str) -> Vec<u8> {
    let mut content = Vec::with_capacity(SIZE + 78);
    let mut number = 0;
    while content.len() < SIZE {
        content.extend_from_slice(line(number).as_bytes());
        content.extend_from_slice(b"\r\n");
        number += 1;
    }
    content.truncate(SIZE);
    content
}

fn bench(criterion: &mut Criterion) {
    let plain = "Lorem ipsum dolor sit amet. Consetetur sadipscing elitr. Sed diam nonumy eir";
    let dotted = ".orem ipsum dolor sit amet. Consetetur sadipscing elitr. Sed diam nonumy eir";
    let contents = [
        ("plain", content(|_| plain)),
        ("dotted", content(|number| if number % 16 == 0 { dotted } else { plain })),
        ("dots", content(|_| ".")),
    ];
    let mut group = criterion.benchmark_group("dot_stuffing");
    group.throughput(Throughput::Bytes(SIZE as u64));
    let mut stuffer = Stuffer::default();
    for (name, content) in &contents {
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(8);
                stuffer.restart();
                stuffer.stuff(black_box(content), &mut slices);
                black_box(&slices);
            });
        });
    }
    group.bench_function("copied", |bencher| {
        let mut buffer = Vec::with_capacity(2 * SIZE);
        bencher.iter(|| {
            let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(8);
            stuffer.restart();
            stuffer.stuff(black_box(&contents[1].1), &mut slices);
            buffer.clear();
            slices.iter().for_each(|slice| buffer.extend_from_slice(slice));
            black_box(&buffer);
        });
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);

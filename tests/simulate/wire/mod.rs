//! The production daemon on the wire against the simulator's receivers (G9): real sockets, DNS, spool and timers, only time
//! passes ten times as fast.
//!
//! libfaketime speeds up the daemon's clocks and timers; the receivers, which decide by the simulator's own code, go by the
//! same pace. A receiver counts itself what it has accepted and refused; the virtual run, of the same length, does so too.

mod daemon;
mod noise;
mod sink;
mod stage;

use std::time::Duration;

use hikyaku::simulate::{Profile, Run};

use crate::skip::skip;
use crate::stage::{cold, mean, profile, three};
use noise::Noise;
use stage::Taken;

/// How many times as fast time passes.
const PACE: u32 = 10;
/// What the goodput on the wire may differ from a virtual one.
const POINTS: f64 = 0.05;
/// A regulator each, and one that finds all of them.
const NAMES: [&str; 4] = ["p01-fixed-minute", "p03-five-connections", "p05-all-three", "p12-opaque"];

/// A profile as it is, which takes 24 minutes, or its first 20 minutes, which take two.
fn sized(name: &str) -> Profile {
    let mut profile = profile(name);
    if std::env::var_os("HIKYAKU_FULL").is_none() {
        let whole = std::mem::replace(&mut profile.duration.0, Duration::from_secs(20 * 60));
        profile.optimum *= profile.duration.0.as_secs_f64() / whole.as_secs_f64();
    }
    profile
}

/// The least and the most of something over runs.
fn range(runs: &[Run], of: impl Fn(&Run) -> f64) -> (f64, f64) {
    let values = runs.iter().map(of);
    values.fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(value), most.max(value)))
}

/// What both came to, and whether it is near enough.
fn compare(profile: &Profile, taken: &Taken, noise: Noise) -> (String, bool) {
    let virtually = three(profile, &cold());
    let goodput = taken.accepted_in_time as f64 / profile.optimum;
    let (least, most) = range(&virtually, |run| run.goodput);
    let (_, most_refused) = range(&virtually, |run| run.throttled as f64);
    let refused = taken.counts.throttled as f64;
    // Where connections are the limit, each message waits for the machine to wake the receiver and the daemon.
    let is_rated = profile.receiver.rate_per_minute > 0.0;
    let slack = if is_rated { 0.0 } else { noise.share_of(profile.receiver.service_time.0 / PACE) };
    let told = format!(
        "{}: goodput {:.1} % on the wire, {:.1} % virtually ({:.1} to {:.1}), noise {:.1}; refusals {refused} on the wire, \
         {:.1} virtually; {:?}; learnt: {}",
        profile.name,
        goodput * 100.0,
        mean(&virtually, |run| run.goodput) * 100.0,
        least * 100.0,
        most * 100.0,
        slack * 100.0,
        mean(&virtually, |run| run.throttled as f64),
        taken.counts,
        taken.learnt,
    );
    let is_near = (least - POINTS - slack..=most + POINTS).contains(&goodput);
    // A receiver that does not say when it refuses is noticed by how often it does.
    let most_refused = if profile.receiver.opaque { 0.015 * profile.optimum } else { 1.5 * most_refused + 3.0 };
    (told, is_near && refused <= most_refused && taken.counts.is_sound())
}

#[test]
fn receivers_on_the_wire_take_what_the_virtual_ones_do() {
    let Some(library) = daemon::library() else {
        let case = "receivers_on_the_wire_take_what_the_virtual_ones_do";
        return skip(case, "libfaketime is not installed (Debian: faketime)");
    };
    let profiles = NAMES.map(sized);

    let (taken, noise) = stage::run(&profiles, &library);

    let mut failures = Vec::new();
    for (profile, taken) in profiles.iter().zip(&taken) {
        let (told, is_near) = compare(profile, taken, noise);
        println!("{told}");
        if !is_near {
            failures.push(told);
        }
    }
    assert_eq!(failures, Vec::<String>::new());
}

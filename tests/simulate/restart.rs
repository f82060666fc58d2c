//! What was learnt survives a restart; what is damaged or too old does not (G5).

use std::time::Duration;

use hikyaku::limit::controller::{Ceilings, Learnt};
use hikyaku::simulate::{Driver, Profile, Run, run};

use crate::stage::{between, cold, profile};

const NAMES: [&str; 8] = [
    "p01-fixed-minute",
    "p02-bucket",
    "p03-five-connections",
    "p04-ten-messages",
    "p05-all-three",
    "p08-penalty-box",
    "p11-dead-host",
    "p12-opaque",
];

fn first_minutes(profile: &Profile, learnt: Option<Learnt>, seed: u64) -> Run {
    let driver = Driver::Learning { ceilings: Ceilings::default(), learnt };
    run(profile, driver, seed, std::time::Instant::now())
}

/// Through its octets, as if taken a minute before the run, whose wall time begins at a fixed hour.
fn stored(learnt: Learnt) -> Learnt {
    let learnt = Learnt { at: hikyaku::simulate::WALL - Duration::from_secs(60), ..learnt };
    Learnt::decode(&learnt.encode()).unwrap()
}

#[test]
fn after_a_restart_nine_tenths_are_used_at_once_and_hardly_anything_is_refused() {
    for name in NAMES {
        let mut profile = profile(name);
        let learnt = run(&profile, cold(), 1, std::time::Instant::now()).record.learnt.unwrap();
        let per_second = profile.optimum / profile.duration.0.as_secs_f64();
        profile.duration.0 = Duration::from_secs(600);

        for seed in [1, 2, 3] {
            let run = first_minutes(&profile, Some(stored(learnt)), seed);

            let goodput = f64::from(between(&run.record.accepted, 0, 600)) / (per_second * 600.0);
            assert!(goodput >= 0.9, "{name}: {goodput:.3}");
            assert!(run.throttled <= 2, "{name}: {} refusals", run.throttled);
        }
    }
}

#[test]
fn what_is_too_old_or_damaged_is_a_cold_start() {
    let profile = profile("p05-all-three");
    let learnt = run(&profile, cold(), 1, std::time::Instant::now()).record.learnt.unwrap();
    let old = Learnt { at: hikyaku::simulate::WALL - Duration::from_secs(15 * 86_400), ..learnt };
    let mut damaged = learnt.encode();
    damaged[20] ^= 4;

    let cold_run = first_minutes(&profile, None, 1);
    let old_run = first_minutes(&profile, Some(old), 1);

    assert_eq!(cold_run.record.accepted, old_run.record.accepted);
    assert!(Learnt::decode(&damaged).is_err());
}

//! The twelve profiles: goodput (G1), refusals (G2), the time to find a limit (G3), blocks (G4), reasons (G8).

use hikyaku::limit::controller::What;
use hikyaku::simulate::{Profile, Run};

use crate::stage::{all, between, cold, folder, mean, median, profile, refusals_are_few, three};

fn twelve() -> (Vec<Profile>, Vec<Vec<Run>>) {
    let mut names: Vec<_> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with('p'));
    names.sort();
    let profiles: Vec<Profile> = names.iter().map(|path| Profile::load(path).unwrap()).collect();
    assert_eq!(profiles.len(), 12);
    let runs = all(&profiles, &cold());
    (profiles, runs)
}

#[test]
fn nearly_all_of_the_limit_is_used_and_few_messages_are_refused() {
    let (profiles, runs) = twelve();

    let goodputs: Vec<f64> = runs.iter().map(|runs| mean(runs, |run| run.goodput)).collect();

    let geomean = (goodputs.iter().map(|goodput| goodput.ln()).sum::<f64>() / 12.0).exp();
    assert!(geomean >= 0.93, "geometric mean {geomean:.4} of {goodputs:?}");
    for (profile, goodput) in profiles.iter().zip(&goodputs) {
        let least = if profile.receiver.steps.is_empty() { 0.90 } else { 0.80 };
        assert!(*goodput >= least, "{}: {goodput:.4}", profile.name);
    }
    let refusals = median(runs.iter().map(|runs| mean(runs, |run| run.throttled_per_1000)));
    assert!(refusals <= 1.5, "median of refusals {refusals:.2}");
    for (profile, runs) in profiles.iter().zip(&runs) {
        refusals_are_few(profile, runs).unwrap();
    }
}

#[test]
fn the_limit_is_found_within_three_minutes_and_a_buckets_within_eight() {
    let (profiles, runs) = twelve();

    // Greylisting, which nobody can shorten, keeps P6 from accepting anything for six minutes.
    for (profile, runs) in profiles.iter().zip(&runs).filter(|(profile, _)| profile.receiver.greylist.0.is_zero()) {
        let is_bucket = profile.receiver.window == hikyaku::simulate::Window::Bucket;
        let most = if is_bucket { 480 } else { 180 };
        for run in runs {
            assert!(run.time_to_90_percent_s.is_some_and(|time| time <= most), "{}: {run:?}", profile.name);
        }
    }
}

#[test]
fn a_limit_that_rises_is_followed_within_25_minutes_and_one_that_falls_within_two() {
    for run in three(&profile("p09-steps"), &cold()) {
        let (accepted, throttled) = (&run.record.accepted, &run.record.throttled);

        let (rise, fall) = (5_400, 10_800);
        let found = (rise + 60..fall).find(|end| f64::from(between(accepted, end - 60, *end)) >= 0.9 * 600.0);
        assert!(found.is_some_and(|found| found - rise <= 25 * 60), "seed {}: {found:?}", run.seed);
        // Settled: from here on for a minute what is accepted is near the new limit.
        let is_near = |end: &usize| (170.0..=204.0).contains(&f64::from(between(accepted, end - 60, *end)));
        let settled = (fall + 60..fall + 600).find(is_near).unwrap();
        assert!(settled - fall <= 120, "seed {}: {} s", run.seed, settled - fall);
        let connections = run.record.samples.iter().rev().find(|sample| sample.at <= fall as f64).unwrap().connections;
        let refused = between(throttled, fall, fall + 600);
        assert!(refused <= connections + 10, "seed {}: {refused} refusals, {connections} connections", run.seed);
    }
}

#[test]
fn a_penalty_box_that_forgives_eight_tries_never_blocks() {
    for tries in [8, 15, 30] {
        let mut profile = profile("p08-penalty-box");
        profile.receiver.penalty.as_mut().unwrap().tries = tries;

        for run in three(&profile, &cold()) {
            assert_eq!(run.blocks, 0, "more than {tries} tries");
        }
    }
}

#[test]
fn a_strict_penalty_box_leaves_three_quarters() {
    for tries in [1, 2, 5] {
        let mut profile = profile("p08-penalty-box");
        profile.receiver.penalty.as_mut().unwrap().tries = tries;

        let goodput = mean(&three(&profile, &cold()), |run| run.goodput);

        assert!(goodput >= 0.75, "more than {tries} tries: {goodput:.4}");
    }
}

#[test]
fn every_change_says_why_and_quotes_the_reply_behind_it() {
    let (profiles, runs) = twelve();

    for (profile, run) in profiles.iter().zip(&runs).map(|(profile, runs)| (profile, &runs[0])) {
        for (at, change) in &run.record.changes {
            let reason = &change.reason;
            let what = change.what;
            assert!(reason.len() > 15 && change.from != change.to, "{} at {at}: {change:?}", profile.name);
            // Downwards it is always a reply, or what replies took.
            let is_less = change.to.unwrap_or(f64::MAX) < change.from.unwrap_or(f64::MAX) && what != What::Breaker;
            let quotes = ["421 ", "451 ", "no answer", "replies took"].iter().any(|reply| reason.contains(reply));
            let quotes = quotes || reason.contains("that held") || reason.contains("no more was taken");
            assert!(!is_less || quotes, "{} at {at}: {change:?}", profile.name);
        }
    }
}

//! Running profiles, and what is asked about the runs.

use std::path::PathBuf;
use std::time::Instant;

use hikyaku::limit::controller::Ceilings;
use hikyaku::simulate::{Driver, Profile, Run, run};

/// The folder of the profiles.
pub fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/receivers"))
}

/// A profile of that folder.
pub fn profile(name: &str) -> Profile {
    Profile::load(&folder().join(format!("{name}.toml"))).unwrap()
}

/// The controller, knowing nothing.
pub fn cold() -> Driver {
    Driver::Learning { ceilings: Ceilings::default(), learnt: None }
}

/// Three runs of a profile.
pub fn three(profile: &Profile, driver: &Driver) -> Vec<Run> {
    let origin = Instant::now();
    [1, 2, 3].map(|seed| run(profile, driver.clone(), seed, origin)).into()
}

/// Three runs each of many profiles, in as many threads as there are cores.
pub fn all(profiles: &[Profile], driver: &Driver) -> Vec<Vec<Run>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut out: Vec<(usize, Vec<Run>)> = std::thread::scope(|scope| {
        let work = (0..threads).map(|first| {
            let mine = profiles.iter().enumerate().skip(first).step_by(threads);
            scope.spawn(move || mine.map(|(at, profile)| (at, three(profile, driver))).collect::<Vec<_>>())
        });
        let work: Vec<_> = work.collect();
        work.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    out.sort_by_key(|(at, _)| *at);
    out.into_iter().map(|(_, runs)| runs).collect()
}

/// The mean of something over runs.
pub fn mean(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    runs.iter().map(of).sum::<f64>() / runs.len() as f64
}

/// The middle of values.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// How many in the seconds `from..to`.
pub fn between(seconds: &[u32], from: usize, to: usize) -> u32 {
    seconds[from..to.min(seconds.len())].iter().sum()
}

/// What G2 allows of refusals: per thousand accepted, or, on paths of less than 60 a minute, in three hours.
pub fn refusals_are_few(profile: &Profile, runs: &[Run]) -> Result<(), String> {
    let hours = profile.duration.0.as_secs_f64() / 3600.0;
    let per_minute = profile.optimum / hours / 60.0;
    let (per_1000, per_three_hours) =
        (mean(runs, |run| run.throttled_per_1000), mean(runs, |run| run.throttled as f64) / hours * 3.0);
    let most = if profile.receiver.opaque { 15.0 } else { 5.0 };
    let is_few = if per_minute < 60.0 { per_three_hours <= 30.0 } else { per_1000 <= most };
    let told = format!("{}: {per_1000:.2} of 1000, {per_three_hours:.1} in 3 h", profile.name);
    if is_few { Ok(()) } else { Err(told) }
}

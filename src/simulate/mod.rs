//! `hikyaku simulate`: the production controller on a virtual clock, against a simulated receiver.
//!
//! A [`Profile`] says what the receiver allows. [`run`] lets a [`Driver`] send to it for the profile's duration, in no
//! real time, and gives a [`Run`]: what was accepted and throttled, and how the learnt limits went. Same seed, same run.
//!
//! Time is nanoseconds since the start of the run, at which a clock hour begins.

pub mod chance;
mod driver;
mod line;
mod measure;
mod plot;
mod profile;
pub mod receiver;
mod sender;
mod signal;
mod svg;

use std::time::{Duration, Instant};

pub use driver::{Driver, DriverError, WALL};
pub use measure::{Record, Run, Sample, TenantRun};

pub use plot::plot;
pub use profile::{Noise, Penalty, Profile, ProfileError, Receiver, Tenant, Window};
pub use svg::svg;

/// Nanoseconds since the start of a run.
pub type Time = u64;

const SECOND: Time = 1_000_000_000;
const MINUTE: Time = 60 * SECOND;
const HOUR: Time = 60 * MINUTE;
const NEVER: Time = u64::MAX;

/// Runs a driver against a profile's receiver. `origin` is any instant; `seed` makes chance.
pub fn run(profile: &Profile, driver: Driver, seed: u64, origin: Instant) -> Run {
    sender::Sender::new(profile, driver, seed, origin).run()
}

fn nanos(duration: Duration) -> Time {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX >> 2)
}

#[allow(clippy::cast_precision_loss)]
fn seconds(time: Time) -> f64 {
    time as f64 / 1e9
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn from_seconds(seconds: f64) -> Time {
    (seconds.clamp(0.0, 9e9) * 1e9) as Time
}

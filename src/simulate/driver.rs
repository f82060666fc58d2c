//! Who decides what is sent: the production controller, or a fixed rate without regard for replies, to calibrate.

use std::str::FromStr;
use std::time::{Duration, Instant};

use super::profile::Profile;
use super::{Time, seconds};
use crate::limit::controller::{Ceilings, Controller, Learnt, View};

/// A decider.
#[derive(Clone, Debug)]
pub enum Driver {
    /// The controller, cold or with what it has learnt.
    Learning {
        /// What the configuration allows.
        ceilings: Ceilings,
        /// From before a restart.
        learnt: Option<Learnt>,
    },
    /// So many times the receiver's rate, over as many connections as it likes.
    Fixed(f64),
}

/// A text that names no driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no controller; allowed: learning, or fixed:FACTOR with a factor from 0.01 to 100, such as fixed:0.98")]
pub struct DriverError;

impl FromStr for Driver {
    type Err = DriverError;

    fn from_str(text: &str) -> Result<Self, DriverError> {
        if text == "learning" {
            return Ok(Self::Learning { ceilings: Ceilings::default(), learnt: None });
        }
        let factor = text.strip_prefix("fixed:").and_then(|factor| factor.parse().ok());
        factor.filter(|factor| (0.01..=100.0).contains(factor)).map(Self::Fixed).ok_or(DriverError)
    }
}

/// Wall time at the start of a run: any whole hour.
pub const WALL: Duration = Duration::from_secs(1_800_000_000);

/// A driver at work.
#[derive(Debug)]
pub(super) enum Hand {
    Learning(Box<Controller>),
    Fixed {
        factor: f64,
        /// When the next message may go, in seconds.
        next: f64,
    },
}

impl Hand {
    pub fn new(driver: &Driver, seed: u32, origin: Instant) -> Self {
        match driver {
            Driver::Fixed(factor) => Self::Fixed { factor: *factor, next: 0.0 },
            Driver::Learning { ceilings, learnt } => Self::Learning(Box::new(match learnt {
                Some(learnt) => Controller::restore(learnt, *ceilings, seed, origin, WALL),
                None => Controller::new(*ceilings, seed, origin, WALL),
            })),
        }
    }

    /// Whether a message may go at `now`; if not, when to ask again if a time is known.
    pub fn may_send(&mut self, now: Time, at: Instant) -> Result<(), Option<Instant>> {
        match self {
            Self::Learning(controller) => controller.may_send(at).map_err(|wait| wait.until),
            Self::Fixed { next, .. } => {
                let wait = *next - seconds(now);
                if wait <= 0.0 { Ok(()) } else { Err(Some(at + Duration::from_secs_f64(wait + 1e-6))) }
            }
        }
    }

    /// A message goes, where the receiver's rate is `hidden` a second.
    pub fn send(&mut self, hidden: f64, now: Time, at: Instant) {
        match self {
            Self::Learning(controller) => controller.send(at),
            Self::Fixed { factor, next } => {
                let interval = 1.0 / (*factor * hidden);
                // Not evened out after a stall: at most a message in advance.
                *next = (*next).max(seconds(now) - interval) + interval;
            }
        }
    }

    pub fn controller(&mut self) -> Option<&mut Controller> {
        match self {
            Self::Learning(controller) => Some(controller),
            Self::Fixed { .. } => None,
        }
    }

    pub fn view(&self, at: Instant) -> Option<View> {
        match self {
            Self::Learning(controller) => Some(controller.view(at)),
            Self::Fixed { .. } => None,
        }
    }
}

/// What a client that knows everything sends a second, as the profile tells.
pub(super) fn hidden(profile: &Profile, rate_at: f64) -> f64 {
    if rate_at > 0.0 { rate_at / 60.0 } else { profile.optimum / profile.duration.0.as_secs_f64() }
}

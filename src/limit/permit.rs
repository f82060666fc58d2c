//! Permits: leave to go ahead from every limit that applies, or from none.
//!
//! Two phases: look at all, then commit each; a commit that loses a race against another task releases those before
//! it. So a refusal consumes nothing, and its earliest time is known.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::rate::Rate;
use super::window::Window;

/// What a limit applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everything.
    Global,
    /// One egress source.
    Source,
    /// One site.
    Site,
    /// One egress source towards one site.
    SourceSite,
    /// One tenant.
    Tenant,
    /// One tenant towards one site.
    TenantSite,
    /// One campaign.
    Campaign,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Connections at the same time.
    Connections,
    /// New connections in time.
    Openings,
    /// Messages in time.
    Messages,
    /// Octets of content in time.
    Octets,
}

impl What {
    /// As tables show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Openings => "new connections",
            Self::Messages => "messages",
            Self::Octets => "octets",
        }
    }
}

/// One limit to be asked.
#[derive(Clone, Copy, Debug)]
pub enum Limit<'a> {
    /// A place in a window; released by its holder.
    Place(&'a Window),
    /// A place in a window, of which so many others are left free; released by its holder.
    PlaceLeaving(&'a Window, u32),
    /// Units of a rate.
    Units(&'a Rate, u32),
}

/// Which limit said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it applies to.
    pub scope: Scope,
    /// What it counts.
    pub what: What,
    /// When it may say yes. None: when somebody releases a place.
    pub until: Option<Instant>,
}

/// Takes all of `limits` or none.
pub fn acquire(limits: &[(Scope, What, Limit<'_>)], now: Instant) -> Result<(), Refusal> {
    for (scope, what, limit) in limits {
        limit.look(now).map_err(|until| Refusal { scope: *scope, what: *what, until })?;
    }
    for (taken, (scope, what, limit)) in limits.iter().enumerate() {
        if let Err(until) = limit.commit(now) {
            release(limits.get(..taken).unwrap_or_default());
            return Err(Refusal { scope: *scope, what: *what, until });
        }
    }
    Ok(())
}

/// Gives back everything that [`acquire`] took.
pub fn release(limits: &[(Scope, What, Limit<'_>)]) {
    for (_, _, limit) in limits {
        match limit {
            Limit::Place(window) | Limit::PlaceLeaving(window, _) => window.release(),
            Limit::Units(rate, units) => rate.refund(u64::from(*units)),
        }
    }
}

impl Limit<'_> {
    fn look(&self, now: Instant) -> Result<(), Option<Instant>> {
        match self {
            Self::Place(window) => window.look().then_some(()).ok_or(None),
            Self::PlaceLeaving(window, spare) => window.look_leaving(*spare).then_some(()).ok_or(None),
            Self::Units(rate, units) => rate.look(*units, now).map_err(Some),
        }
    }

    fn commit(&self, now: Instant) -> Result<(), Option<Instant>> {
        match self {
            Self::Place(window) => window.commit().then_some(()).ok_or(None),
            Self::PlaceLeaving(window, spare) => window.commit_leaving(*spare).then_some(()).ok_or(None),
            Self::Units(rate, units) => rate.commit(*units, now).map_err(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_refusal_consumes_nothing_and_names_its_scope() {
        let now = Instant::now();
        let (wide, full) = (Window::new(10), Window::new(0));
        let rate = Rate::new(1, Duration::from_secs(1), now);
        let limits = [
            (Scope::Global, What::Connections, Limit::Place(&wide)),
            (Scope::Site, What::Messages, Limit::Units(&rate, 1)),
            (Scope::Source, What::Connections, Limit::Place(&full)),
        ];

        let refusal = acquire(&limits, now);

        assert_eq!(refusal, Err(Refusal { scope: Scope::Source, what: What::Connections, until: None }));
        assert_eq!(wide.used(), 0);
        assert_eq!(rate.look(1, now), Ok(()));
    }

    #[test]
    fn a_rate_names_its_earliest_time() {
        let now = Instant::now();
        let rate = Rate::new(1, Duration::from_secs(1), now);
        let limits = [(Scope::Site, What::Messages, Limit::Units(&rate, 1))];

        assert_eq!(acquire(&limits, now), Ok(()));
        assert_eq!(
            acquire(&limits, now),
            Err(Refusal { scope: Scope::Site, what: What::Messages, until: Some(now + Duration::from_secs(1)) })
        );
        release(&limits);
        assert_eq!(acquire(&limits, now), Ok(()));
    }

    #[test]
    fn racing_threads_take_all_or_nothing() {
        let now = Instant::now();
        let (first, second) = (Window::new(1_000), Window::new(7));
        let limits = [
            (Scope::Global, What::Connections, Limit::Place(&first)),
            (Scope::Site, What::Connections, Limit::Place(&second)),
        ];

        let won: usize = std::thread::scope(|scope| {
            let racers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..500).filter(|_| acquire(&limits, now).is_ok()).count())).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).sum()
        });

        assert_eq!((won, first.used(), second.used()), (7, 7, 7));
    }
}

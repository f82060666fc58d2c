//! `[[warmup]]`: how much an egress source may send to a provider while its address is new there, day by day.

use serde::{Deserialize, Serialize};

use super::units::{Day, Share, Span};
use super::{Complaints, Source};
use crate::provider::Map;

/// One plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    /// The egress source.
    pub source: String,
    /// A provider's name; `default`: every site for which the source has no plan of its own, all of them together.
    #[serde(default = "Warmup::everywhere")]
    pub provider: String,
    /// The day of the first volume. Days begin at midnight UTC.
    pub start: Day,
    /// Messages on the first day, the second, and so on; after the last one nothing is limited.
    pub volumes: Vec<u32>,
    /// Over how much time a day's volume is spread.
    #[serde(default = "Warmup::whole_day")]
    pub spread: Span,
    /// The source by which goes what has no room; `hold`: it waits.
    #[serde(default = "Warmup::hold")]
    pub overflow: String,
    /// The plan pauses by itself when so many of the replies of 24 hours are bad; 0: never.
    #[serde(default = "Warmup::few")]
    pub pause_at: Share,
    /// The share is of at least so many replies.
    #[serde(default = "Warmup::sample")]
    pub pause_sample: u32,
    /// How long it pauses.
    #[serde(default = "Warmup::whole_day")]
    pub pause_for: Span,
}

/// The provider of a plan for every site that has none of its own.
pub const EVERYWHERE: &str = "default";
/// The overflow of a plan beyond which mail waits.
pub const HOLD: &str = "hold";
/// Days of a plan: a warm-up lasts weeks.
const MOST_DAYS: usize = 366;
/// Plans: each has its own series among the metrics.
const MOST_PLANS: usize = 1_000;

impl Warmup {
    fn everywhere() -> String {
        EVERYWHERE.to_owned()
    }

    fn hold() -> String {
        HOLD.to_owned()
    }

    const fn whole_day() -> Span {
        Span(Day::LENGTH)
    }

    const fn few() -> Share {
        Share(300)
    }

    const fn sample() -> u32 {
        20
    }

    /// A plan of these volumes, everything else being as it is when nothing is said.
    pub fn new(source: &str, provider: &str, start: Day, volumes: Vec<u32>) -> Self {
        Self {
            source: source.to_owned(),
            provider: provider.to_owned(),
            start,
            volumes,
            spread: Self::whole_day(),
            overflow: Self::hold(),
            pause_at: Self::few(),
            pause_sample: Self::sample(),
            pause_for: Self::whole_day(),
        }
    }

    /// The provider that it is for; none: every site for which the source has no other plan.
    pub fn provider(&self) -> Option<&str> {
        Some(self.provider.as_str()).filter(|provider| *provider != EVERYWHERE)
    }

    /// The source by which goes what has no room; none: it waits.
    pub fn overflow(&self) -> Option<&str> {
        Some(self.overflow.as_str()).filter(|overflow| *overflow != HOLD)
    }

    /// Which one it is, for people and to tell it from others.
    pub fn name(&self) -> String {
        format!("{} at {}", self.source, self.provider)
    }

    fn check(&self, key: &str, sources: &[Source], providers: &Map, complaints: &mut Complaints) {
        let is_source = |name: &str| sources.iter().any(|source| source.name == name);
        let text = |name: &str| format!("no [[source]] is named {name:?}; allowed: the name of one");
        complaints.unless(is_source(&self.source), format!("{key}.source"), text(&self.source));
        if let Some(provider) = self.provider() {
            let names = providers.names().collect::<Vec<_>>().join(", ");
            let is_known = providers.names().any(|name| name == provider);
            let text = format!("{provider:?} is no provider; allowed: {EVERYWHERE}, {names}");
            complaints.unless(is_known, format!("{key}.provider"), text);
        }
        if let Some(overflow) = self.overflow() {
            let text = format!("no [[source]] is named {overflow:?}; allowed: the name of one, or {HOLD:?}");
            complaints.unless(is_source(overflow), format!("{key}.overflow"), text);
        }
        let days = self.volumes.len();
        let text = format!("{days} days; allowed: 1 to {MOST_DAYS} volumes, one a day");
        complaints.unless((1..=MOST_DAYS).contains(&days), format!("{key}.volumes"), text);
        for (at, volume) in self.volumes.iter().enumerate() {
            complaints.range(format!("{key}.volumes[{at}]"), volume, &1, &1_000_000_000);
        }
        let span = |seconds: u64| Span(std::time::Duration::from_secs(seconds));
        complaints.range(format!("{key}.spread"), &self.spread, &span(3_600), &span(86_400));
        complaints.range(format!("{key}.pause_at"), &self.pause_at, &Share(0), &Share::WHOLE);
        complaints.range(format!("{key}.pause_sample"), &self.pause_sample, &1, &1_000_000);
        complaints.range(format!("{key}.pause_for"), &self.pause_for, &span(60), &span(30 * 86_400));
    }
}

pub(super) fn check(plans: &[Warmup], sources: &[Source], complaints: &mut Complaints) {
    let text = format!("{} plans are too many; allowed: up to {MOST_PLANS}", plans.len());
    complaints.unless(plans.len() <= MOST_PLANS, "warmup", text);
    // The map comes with the program; a test holds it readable.
    let providers = Map::built_in().unwrap_or_default();
    let names: Vec<String> = plans.iter().map(Warmup::name).collect();
    complaints.different(names.iter().map(String::as_str), |index| format!("warmup[{index}]"));
    for (index, plan) in plans.iter().enumerate() {
        let key = format!("warmup[{index}]");
        plan.check(&key, sources, &providers, complaints);
        if let Some(way) = circle(plan, plans) {
            let text =
                format!("what has no room comes back to its source: {way}; allowed: another source, or {HOLD:?}");
            complaints.unless(false, format!("{key}.overflow"), text);
        }
    }
}

/// The plan that holds for a source at a provider (none: at a site without a plan of its own).
fn plan_of<'a>(source: &str, provider: Option<&str>, plans: &'a [Warmup]) -> Option<&'a Warmup> {
    let of_source = || plans.iter().filter(|plan| plan.source == source);
    let own = provider.and_then(|_| of_source().find(|plan| plan.provider() == provider));
    own.or_else(|| of_source().find(|plan| plan.provider().is_none()))
}

/// The way by which mail of a plan would come back to the plan's source, if there is one. A plan for every site stands for each
/// provider that a plan names, too.
fn circle(plan: &Warmup, plans: &[Warmup]) -> Option<String> {
    let mut providers = vec![plan.provider()];
    if plan.provider().is_none() {
        providers.extend(plans.iter().map(Warmup::provider).filter(Option::is_some));
    }
    providers.into_iter().find_map(|provider| {
        plan_of(&plan.source, provider, plans).filter(|found| *found == plan)?;
        let mut way = vec![plan.source.as_str()];
        let mut at = plan;
        // Other circles are told of their own plans.
        for _ in 0..plans.len() {
            let next = at.overflow()?;
            way.push(next);
            if next == plan.source {
                return Some(way.join(" -> "));
            }
            at = plan_of(next, provider, plans)?;
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    const SOURCES: &str = "[[source]]\nname = \"a\"\n[[source]]\nname = \"b\"\n[[source]]\nname = \"c\"\n";

    fn said(plans: &str) -> String {
        let parsed = Config::parse(&format!("{SOURCES}{plans}"), Path::new("x.toml"));
        parsed.map_or_else(|error| error.to_string(), |_| String::new())
    }

    fn plan(source: &str, more: &str) -> String {
        format!("[[warmup]]\nsource = \"{source}\"\nstart = \"2026-12-01\"\nvolumes = [50, 100]\n{more}\n")
    }

    #[test]
    fn a_plan_needs_a_source_a_start_and_volumes_only() {
        let config = Config::parse(&format!("{SOURCES}{}", plan("b", "")), Path::new("x")).unwrap();

        let plan = &config.warmups[0];
        assert_eq!((plan.provider(), plan.overflow(), plan.pause_sample), (None, None, 20));
        assert_eq!((plan.pause_at.to_string(), plan.spread.to_string()), ("3%".to_owned(), "1d".to_owned()));
    }

    #[test]
    fn mistakes_name_their_key_and_what_is_allowed() {
        for (plans, key) in [
            (plan("x", ""), "warmup[0].source"),
            (plan("a", "provider = \"goggle\""), "warmup[0].provider"),
            (plan("a", "overflow = \"x\""), "warmup[0].overflow"),
            (plan("a", "overflow = \"a\""), "warmup[0].overflow"),
            (plan("a", "spread = \"10m\""), "warmup[0].spread"),
            (plan("a", "pause_at = \"101%\""), "warmup[0].pause_at"),
            (plan("a", "pause_sample = 0"), "warmup[0].pause_sample"),
            (plan("a", "pause_for = \"1s\""), "warmup[0].pause_for"),
            (plan("a", "").replace("50, 100", ""), "warmup[0].volumes"),
            (plan("a", "").replace("50, 100", "50, 0"), "warmup[0].volumes[1]"),
            (plan("a", "").repeat(2), "warmup[1]"),
        ] {
            let said = said(&plans);
            assert!(said.contains(&format!("x.toml: {key}: ")) && said.contains("allowed: "), "{key}: {said}");
        }
        for (plans, words) in [
            (plan("a", "").replace("2026-12-01", "2026-02-30"), "not a day"),
            (plan("a", "pause_at = \"3\""), "not a share"),
            (plan("a", "pauze_at = \"3%\""), "pauze_at"),
        ] {
            assert!(said(&plans).contains(words), "{}", said(&plans));
        }
    }

    #[test]
    fn overflow_does_not_go_in_a_circle() {
        let google =
            |source: &str, overflow: &str| plan(source, &format!("provider = \"google\"\noverflow = \"{overflow}\""));
        let any = |source: &str, overflow: &str| plan(source, &format!("overflow = \"{overflow}\""));

        for good in [
            google("a", "b") + &google("b", "c"),
            google("a", "b") + &plan("b", "provider = \"yahoo\"\noverflow = \"a\""),
        ] {
            assert_eq!(said(&good), "");
        }
        for bad in
            [google("a", "b") + &google("b", "a"), google("a", "b") + &any("b", "a"), any("a", "b") + &any("b", "a")]
        {
            assert!(said(&bad).contains("comes back to its source: a -> b -> a"), "{}", said(&bad));
        }
        let apart = any("a", "b") + &google("a", "c") + &google("b", "a");
        assert_eq!(said(&apart), "", "google's mail of b goes to a, and that of a to c");
    }
}

//! What the queue is told by the configuration; the daemon fills it in.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::limit::budget::Allowance;
use crate::limit::controller::Ceilings;
use crate::reply::LazyClassifier;

use super::learning;
use super::rules::Rules;
use super::source::Egress;
use super::warmup::Rule;

/// How the queue works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name: Reporting-MTA and From domain of DSNs.
    pub hostname: Arc<str>,
    /// How many parts the timers and tables are split into; a small multiple of the cores.
    pub shards: usize,
    /// When a deferred recipient is tried again, and when it is given up.
    pub retry: Retry,
    /// Pauses after failed connections.
    pub back_off: BackOff,
    /// Age at which a delay DSN is made for NOTIFY=DELAY.
    pub delay_after: Duration,
    /// An attempt that takes longer than this is stuck: the sum of its time-outs.
    pub longest_attempt: Duration,
    /// Recipients held altogether; beyond it submissions are refused.
    pub capacity: usize,
    /// Recipients held for one tenant unless its own settings say otherwise.
    pub tenant_capacity: usize,
    /// Connections to all sites together.
    pub connections: u32,
    /// Delivery plans looked up at the same time.
    pub lookups: usize,
    /// What becomes of recipients in doubt, unless their tenant's settings say otherwise.
    pub in_doubt: InDoubt,
    /// Tenants that differ from the default.
    pub tenants: HashMap<Box<str>, Tenant>,
    /// What is allowed altogether, in time.
    pub allowance: Allowance,
    /// Limits of a site about which no rule says more.
    pub limits: Limits,
    /// What is allowed in particular.
    pub rules: Rules,
    /// How limits are learnt.
    pub learning: learning::Settings,
    /// Egress sources and who uses which.
    pub egress: Egress,
    /// Sources that are new to some provider.
    pub warmups: Vec<Rule>,
    /// What tells what refusals are about.
    pub classifier: LazyClassifier,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hostname: Arc::from("localhost"),
            shards: 8,
            retry: Retry::default(),
            back_off: BackOff::default(),
            delay_after: Duration::from_secs(4 * 3600),
            // RFC 5321, 4.5.3.2, from the greeting to the end of data.
            longest_attempt: Duration::from_secs(35 * 60),
            capacity: 10_000_000,
            tenant_capacity: 10_000_000,
            connections: 4_000,
            lookups: 64,
            in_doubt: InDoubt::default(),
            tenants: HashMap::new(),
            allowance: Allowance::default(),
            limits: Limits::default(),
            rules: Rules::default(),
            learning: learning::Settings::default(),
            egress: Egress::default(),
            warmups: Vec::new(),
            classifier: LazyClassifier::default(),
        }
    }
}

impl Settings {
    /// Whether anybody is held to a rate.
    pub fn has_rates(&self) -> bool {
        !self.allowance.is_unlimited() || !self.limits.allowance.is_unlimited() || self.rules.has_rates()
    }

    /// Recipients that a tenant may have queued.
    pub(super) fn tenant_capacity(&self, tenant: &str) -> usize {
        self.tenants.get(tenant).and_then(|own| own.capacity).unwrap_or(self.tenant_capacity)
    }

    /// Whether every message would leave from the same sources.
    pub(super) fn leaves_as(&self, other: &Self) -> bool {
        let pools = |of: &Self| -> BTreeMap<Box<str>, Box<str>> {
            let own = of.tenants.iter().filter_map(|(name, tenant)| Some((name.clone(), tenant.pool.clone()?)));
            own.collect()
        };
        self.egress == other.egress && self.warmups == other.warmups && pools(self) == pools(other)
    }

    /// What becomes of a tenant's recipients in doubt.
    pub(super) fn in_doubt(&self, tenant: &str) -> InDoubt {
        self.tenants.get(tenant).and_then(|own| own.in_doubt).unwrap_or(self.in_doubt)
    }
}

/// What becomes of a recipient whose last attempt before a crash has no known outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InDoubt {
    /// It is tried again, first at the same address: it may come twice.
    #[default]
    Retry,
    /// It is held: nothing is tried until an operator has decided.
    Hold,
    /// It is recorded as delivered: it may be lost.
    AssumeDelivered,
}

/// The retry schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Waits after the first, second, ... attempt; the last one is repeated. Must not be empty.
    pub intervals: Vec<Duration>,
    /// Each wait is moved by up to this many percent, either way.
    pub jitter_percent: u8,
    /// A recipient older than this is given up.
    pub max_age: Duration,
}

impl Default for Retry {
    /// 1, 5, 15, 30, 60 minutes, then every 2 hours; 4 days.
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self {
            intervals: [1, 5, 15, 30, 60, 120].map(minutes).to_vec(),
            jitter_percent: 10,
            max_age: Duration::from_secs(4 * 86_400),
        }
    }
}

/// Pauses after failed connections to an MX set. A receiver that is back is found after a twentieth of the time for which
/// it was away: a queue that grew in an hour waits three minutes more, one that grew in a minute five seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// After the first failure; doubled with each further one up to `floor`.
    pub first: Duration,
    /// The shortest after some failures: at most so often a host is asked that does not answer.
    pub floor: Duration,
    /// The longest.
    pub most: Duration,
}

/// Which part of an outage a pause lasts.
const PART: u32 = 20;

impl BackOff {
    /// The pause after so many failures in a row, the first of them `outage` ago.
    pub fn step(&self, failures: u32, outage: Duration) -> Duration {
        let first = self.first.saturating_mul(1 << failures.saturating_sub(1).min(16));
        first.min((outage / PART).max(self.floor)).min(self.most)
    }
}

impl Default for BackOff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), floor: Duration::from_secs(5), most: Duration::from_secs(300) }
    }
}

/// What differs for one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its share of a site beside other tenants.
    pub weight: u32,
    /// Recipients it may have queued.
    pub capacity: Option<usize>,
    /// The egress pool it uses.
    pub pool: Option<Box<str>>,
    /// What becomes of its recipients in doubt.
    pub in_doubt: Option<InDoubt>,
}

impl Default for Tenant {
    fn default() -> Self {
        Self { weight: 1, capacity: None, pool: None, in_doubt: None }
    }
}

/// What one site is sent at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at the same time, from all sources together.
    pub connections: u32,
    /// Messages sent over one connection.
    pub messages_per_connection: Option<u32>,
    /// Recipients sent over one connection.
    pub recipients_per_connection: Option<u32>,
    /// Recipients of one transaction.
    pub recipients_per_message: usize,
    /// What it is sent in time.
    pub allowance: Allowance,
}

impl Limits {
    /// As a controller is bounded by them.
    pub fn ceilings(&self) -> Ceilings {
        let rates = self.allowance.messages.iter().map(|(count, per)| f64::from(*count) / per.as_secs_f64());
        Ceilings {
            rate: rates.reduce(f64::min),
            connections: self.connections,
            messages_per_connection: self.messages_per_connection.unwrap_or(0),
            openings_per_minute: self.allowance.openings.unwrap_or(0),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20,
            messages_per_connection: None,
            recipients_per_connection: None,
            // RFC 5321, 4.5.3.1.8: a receiver must take 100.
            recipients_per_message: 100,
            allowance: Allowance::default(),
        }
    }
}

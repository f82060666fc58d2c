//! DNSSEC: MX records with the knowledge whether they are secure, and TLSA records of MX hosts (RFC 7672, 2).
//!
//! Every answer is validated up to the trust anchor ([`super::secure`]). This is asked only where DANE is wanted.
//! "Insecure" is an answer like any other (no DANE); "bogus" is a failure, since an attacker may have made it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::rr::rdata::TLSA;
use hickory_resolver::proto::rr::rdata::tlsa::{CertUsage, Matching as Match, Selector};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use metrics::Counter;
use tokio::sync::Semaphore;

use super::cache::{Cache, Timed};
use super::lookup::{FAILURE_TTL, Failure, MOST_TTL, Miss, NEGATIVE_TTL, UNPUBLISHED_TTL, mx_of, name_of, positive};
use super::mx::MxAnswer;
use super::secure::{Asker, MOST_ALIASES};
use super::security::{HostDane, Matching, Tlsa};
use super::settings::{Dnssec, Settings};
use crate::clock::Clock;
use crate::metrics::Registry;
use crate::trusted::{self, Holds};

/// Records of one host that are looked at; each costs a digest a handshake.
const MOST_RECORDS: usize = 32;
/// Validated look-ups under way at once; each is several queries.
const MOST_LOOKUPS: usize = 256;
/// How long the resolvers' ability to give signatures is believed. The lack of it is asked about again after [`FAILURE_TTL`].
const BELIEVED: Duration = Duration::from_secs(3_600);

/// What was found of a host; none: it has no TLSA records, or DNS there is not signed.
#[derive(Clone, Debug)]
struct Found {
    dane: Option<HostDane>,
    valid_until: Instant,
}

impl Timed for Found {
    fn valid_until(&self) -> Instant {
        self.valid_until
    }
}

/// Whether the resolvers give signatures.
#[derive(Clone, Copy, Debug)]
struct Ability {
    is_able: bool,
    valid_until: Instant,
}

impl Timed for Ability {
    fn valid_until(&self) -> Instant {
        self.valid_until
    }
}

/// Asks and validates.
pub struct Validator {
    asker: Asker,
    mode: Dnssec,
    permits: Semaphore,
    ability: Cache<Ability>,
    hosts: Cache<Found>,
    clock: Clock,
    metrics: Metrics,
}

struct Metrics {
    found: Counter,
    none: Counter,
    unusable: Counter,
    failed: Counter,
    unable: Counter,
}

impl Validator {
    /// A validator by the settings; none where they say so. Reads the file of the trust anchor.
    pub fn new(settings: &Settings, clock: Clock, registry: &Registry) -> Result<Option<Self>, String> {
        if settings.dnssec == Dnssec::Off {
            return Ok(None);
        }
        let anchors = anchors(&settings.trust_anchor)?;
        Ok(Some(Self {
            asker: Asker::new(settings, anchors)?,
            mode: settings.dnssec,
            permits: Semaphore::new(MOST_LOOKUPS),
            ability: Cache::new(1),
            hosts: Cache::new(settings.hosts_remembered()),
            clock,
            metrics: Metrics::new(registry),
        }))
    }

    /// Whether answers can be validated here.
    pub async fn is_able(&self) -> bool {
        if self.mode == Dnssec::On {
            return true;
        }
        let ability = self.ability.get_or_make(".", || self.clock.now(), |_| self.ask_ability()).await;
        ability.is_able
    }

    async fn ask_ability(&self) -> Ability {
        let answer = self.query(&Name::root(), RecordType::NS).await;
        let is_able = matches!(&answer, Ok(found) if is_secure(found, RecordType::NS));
        let hold = if is_able { BELIEVED } else { FAILURE_TTL };
        if !is_able {
            self.metrics.unable.increment(1);
            tracing::info!("the resolvers give no signatures of the root zone: DANE is not used for now");
        }
        Ability { is_able, valid_until: self.clock.now() + hold }
    }

    /// The MX records of a domain, how long they hold, and whether they are secure.
    pub async fn mx(&self, domain: &str) -> Result<(MxAnswer, Duration, bool), (Miss, Duration)> {
        let name = name_of(domain).ok_or((Miss::NoName, NEGATIVE_TTL))?;
        let found = self.query(&name, RecordType::MX).await?;
        let (answer, hold) = mx_of(&found)?;
        let owner = found.iter().find(|record| record.record_type() == RecordType::MX);
        // Secure records of a name that an attacker's alias leads to say nothing of this domain.
        let is_own = match owner.filter(|_| is_secure(&found, RecordType::MX)) {
            Some(owner) if owner.name == name => true,
            Some(owner) => {
                let alias = self.is_secure_alias(&name, &owner.name).await;
                alias.map_err(|hold| (Miss::Failure(Failure::Bogus), hold))?
            }
            None => false,
        };
        Ok((answer, hold, is_own))
    }

    /// What is known of a host, and for how long.
    pub async fn dane(&self, host: &str) -> (Option<HostDane>, Duration) {
        let found = self.hosts.get_or_make(host, || self.clock.now(), |host| self.find(host)).await;
        (found.dane, found.valid_until.saturating_duration_since(self.clock.now()))
    }

    async fn find(&self, host: Arc<str>) -> Found {
        let (dane, hold) = self.look_up(&host).await;
        let counter = match &dane {
            Some(HostDane::Records { .. }) => &self.metrics.found,
            Some(HostDane::Unusable) => &self.metrics.unusable,
            Some(HostDane::Unknown) => &self.metrics.failed,
            None => &self.metrics.none,
        };
        counter.increment(1);
        Found { dane, valid_until: self.clock.now() + hold }
    }

    async fn look_up(&self, host: &str) -> (Option<HostDane>, Duration) {
        let Some(name) = name_of(host) else { return (None, NEGATIVE_TTL) };
        let (base, held) = match self.secure_addresses(&name).await {
            Ok(Some(found)) => found,
            // Unsigned, or without addresses that are signed: no TLSA record is asked for (RFC 7672, 2.2.2).
            Ok(None) => return (None, UNPUBLISHED_TTL),
            Err(hold) => return (Some(HostDane::Unknown), hold),
        };
        let bases = if base == name { vec![name] } else { vec![base, name] };
        let mut hold = held;
        for base in bases {
            match self.records(&base).await {
                Ok(Some((records, held))) => {
                    hold = hold.min(held);
                    if records.is_empty() {
                        return (Some(HostDane::Unusable), hold);
                    }
                    let base = base.to_ascii().trim_end_matches('.').to_ascii_lowercase().into();
                    return (Some(HostDane::Records { base, records: records.into() }), hold);
                }
                Ok(None) => hold = hold.min(UNPUBLISHED_TTL),
                Err(hold) => return (Some(HostDane::Unknown), hold),
            }
        }
        (None, hold)
    }

    /// The name that has the host's addresses, if they are secure: its own, or what it is a secure alias of.
    async fn secure_addresses(&self, host: &Name) -> Result<Option<(Name, Duration)>, Duration> {
        for kind in [RecordType::A, RecordType::AAAA] {
            let found = match self.query(host, kind).await {
                Ok(found) => found,
                Err((Miss::Failure(_), hold)) => return Err(hold),
                Err(_) => continue,
            };
            let Some(record) = found.iter().find(|record| record.record_type() == kind) else { continue };
            if !is_secure(&found, kind) {
                return Ok(None);
            }
            let hold = positive(record.ttl);
            let is_own = record.name == *host || self.is_secure_alias(host, &record.name).await?;
            return Ok(Some((if is_own { record.name.clone() } else { host.clone() }, hold)));
        }
        Ok(None)
    }

    /// The usable TLSA records of a host; none: there are none at all.
    async fn records(&self, base: &Name) -> Result<Option<(Vec<Tlsa>, Duration)>, Duration> {
        let Ok(name) = Name::from_ascii("_25._tcp").and_then(|prefix| prefix.append_domain(base)) else {
            return Ok(None);
        };
        let found = match self.query(&name, RecordType::TLSA).await {
            Ok(found) => found,
            Err((Miss::Failure(_), hold)) => return Err(hold),
            Err(_) => return Ok(None),
        };
        let Some(first) = found.iter().find(|record| record.record_type() == RecordType::TLSA) else {
            return Ok(None);
        };
        if !is_secure(&found, RecordType::TLSA) {
            return Ok(None);
        }
        if first.name != name && !self.is_secure_alias(&name, &first.name).await? {
            return Ok(None);
        }
        let mut hold = MOST_TTL;
        let mut records = Vec::new();
        for record in &found {
            hold = hold.min(positive(record.ttl));
            if let RData::TLSA(tlsa) = &record.data {
                records.extend(usable(tlsa));
            }
        }
        // The order in an answer changes each time; connections are shared by what is here.
        records.sort_unstable();
        records.dedup();
        records.truncate(MOST_RECORDS);
        Ok(Some((records, hold)))
    }

    /// Whether secure CNAMEs lead from one name to the other.
    async fn is_secure_alias(&self, from: &Name, to: &Name) -> Result<bool, Duration> {
        let mut name = from.clone();
        for _ in 0..MOST_ALIASES {
            let found = match self.query(&name, RecordType::CNAME).await {
                Ok(found) => found,
                Err((Miss::Failure(_), hold)) => return Err(hold),
                Err(_) => return Ok(false),
            };
            let target = found.iter().find_map(|record| match &record.data {
                RData::CNAME(alias) if record.proof == Proof::Secure && record.name == name => Some(alias.0.clone()),
                _ => None,
            });
            match target {
                Some(target) if target == *to => return Ok(true),
                Some(target) => name = target,
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    async fn query(&self, name: &Name, kind: RecordType) -> Result<Vec<Record>, (Miss, Duration)> {
        let _permit = self.permits.acquire().await.ok();
        self.asker.ask(name, kind).await
    }
}

/// Whether there are records of this type, every one of them validated.
fn is_secure(records: &[Record], kind: RecordType) -> bool {
    let mut own = records.iter().filter(|record| record.record_type() == kind).peekable();
    own.peek().is_some() && own.all(|record| record.proof == Proof::Secure)
}

/// Usages 0 and 1 cannot be used for SMTP (RFC 7672, 3.1.3); what has another length than its digest is malformed.
fn usable(tlsa: &TLSA) -> Option<Tlsa> {
    let is_authority = match tlsa.cert_usage {
        CertUsage::DaneTa => true,
        CertUsage::DaneEe => false,
        _ => return None,
    };
    let of_key = match tlsa.selector {
        Selector::Full => false,
        Selector::Spki => true,
        _ => return None,
    };
    let (matching, length) = match tlsa.matching {
        Match::Raw => (Matching::Exact, None),
        Match::Sha256 => (Matching::Sha256, Some(32)),
        Match::Sha512 => (Matching::Sha512, Some(64)),
        _ => return None,
    };
    let data = tlsa.cert_data.as_slice();
    let is_right = !data.is_empty() && length.is_none_or(|length| length == data.len());
    is_right.then(|| Tlsa { is_authority, of_key, matching, data: data.into() })
}

fn anchors(file: &Path) -> Result<TrustAnchors, String> {
    if file.as_os_str().is_empty() {
        return Ok(TrustAnchors::default());
    }
    // Hickory opens it itself: whoever could exchange it meanwhile could write to its folder.
    trusted::open(file, Holds::Public, rustix::process::geteuid().as_raw())
        .map_err(|error| format!("trust anchor {error}"))?;
    TrustAnchors::from_file(file).map_err(|error| format!("trust anchor {}: {error}", file.display()))
}

impl Metrics {
    fn new(registry: &Registry) -> Self {
        let hosts = |result| {
            let help = "Look-ups of the TLSA records of MX hosts, by result.";
            registry.counter("hikyaku_tls_dane_lookups_total", help, &[("result", result)])
        };
        let help = "Times that the resolvers gave no signatures of the root zone, so that DANE was not used.";
        Self {
            found: hosts("found"),
            none: hosts("none"),
            unusable: hosts("unusable"),
            failed: hosts("failure"),
            unable: registry.counter("hikyaku_tls_dnssec_unavailable_total", help, &[]),
        }
    }
}

impl std::fmt::Debug for Validator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Validator").field("mode", &self.mode).finish_non_exhaustive()
    }
}

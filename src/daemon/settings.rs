//! From the configuration to each module's own settings.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{self, Config};
use crate::feedback::Feedback;
use crate::journal::Journal;
use crate::mask::Mask;
use crate::message::Lane;
use crate::metrics::Registry;
use crate::reply::LazyClassifier;
use crate::tlsrpt::Tally;
use crate::tlsrpt::report::Reporter;
use crate::trusted::key;
use crate::{audit, delivery, dns, journal, queue, spool, submission, unsubscribe, users};

use super::{Error, limits};

/// An address that belongs to no machine (RFC 5737).
const NOBODYS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// How many parts the queue's tables have for each runtime thread: more parts, less waiting for each other's lock.
const SHARDS_PER_THREAD: usize = 4;

pub(super) fn spool(config: &Config) -> spool::Settings {
    let section = &config.spool;
    spool::Settings {
        path: section.path.clone(),
        segment_size: section.segment_size.0,
        reserve: section.reserve.0,
        sync: section.sync,
        attempts: match section.attempts {
            config::AttemptDurability::Off => spool::Attempts::Off,
            config::AttemptDurability::Write => spool::Attempts::Write,
            config::AttemptDurability::Sync => spool::Attempts::Sync,
        },
        deadline: section.deadline.0,
        cache: section.cache.0,
        keys: spool::Keys::default(),
    }
}

/// The journal, if there is one.
pub(super) fn open_journal(
    config: &Config,
    start: u32,
    clock: Clock,
    registry: &Registry,
) -> Result<(Journal, Mask), Error> {
    let mask = mask(config, rustix::process::geteuid().as_raw()).map_err(Error::MaskKey)?;
    let journal = match config.journal.enabled {
        true => {
            let settings = journal::Settings { mask: mask.clone(), ..journal(config) };
            Journal::open(settings, start, clock, registry)?
        }
        false if mask.is_none() => Journal::off(),
        false => Journal::off_masked(),
    };
    Ok((journal, mask))
}

/// How addresses are shown, with the key if there is one, for who is or will be this user.
pub fn mask(config: &Config, user: u32) -> Result<Mask, key::Error> {
    let section = &config.privacy;
    Ok(match section.mask {
        config::MaskMode::None => Mask::None,
        config::MaskMode::Partial => Mask::Partial,
        config::MaskMode::Hash => Mask::hash(&key::read_as(&section.key_file, user)?),
    })
}

/// The keys of the spool, from their files.
pub(super) fn spool_keys(config: &Config) -> Result<spool::Keys, key::Error> {
    let secrets: Vec<_> = config.spool.key_files.iter().map(|path| key::read(path)).collect::<Result<_, _>>()?;
    Ok(spool::Keys::new(secrets, config.spool.encrypt))
}

pub(super) fn sender_policy(config: &Config) -> users::SenderPolicy {
    match config.users.sender_policy {
        config::SenderPolicy::Enforce => users::SenderPolicy::Enforce,
        config::SenderPolicy::Allow => users::SenderPolicy::Allow,
    }
}

pub(super) fn unsubscribe(config: &Config) -> unsubscribe::Settings {
    let section = &config.unsubscribe;
    let tenant = |tenant: &config::UnsubscribeTenant| unsubscribe::Tenant {
        name: tenant.name.as_str().into(),
        of_class: tenant.scope == config::UnsubscribeScope::Class,
        sender: tenant.sender.as_str().into(),
        mailto: tenant.mailto.as_str().into(),
    };
    unsubscribe::Settings {
        url: section.url.as_str().into(),
        max_age: section.max_age.0,
        tenants: section.tenants.iter().map(tenant).collect(),
        proxy_networks: section.proxy_networks.clone(),
    }
}

pub(super) fn journal(config: &Config) -> journal::Settings {
    let section = &config.journal;
    journal::Settings {
        path: section.path.clone(),
        max_size: section.max_size.0,
        max_age: section.max_age.0,
        keep: section.keep.0,
        max_total: Some(section.max_total.0).filter(|most| *most > 0),
        buffer: usize::try_from(section.buffer.0).unwrap_or(usize::MAX),
        mask: Mask::None,
    }
}

pub(super) fn submission(
    config: &Config,
    listener: &config::Listener,
    tls: Option<submission::Tls>,
) -> submission::Settings {
    let takes_returns = match listener.mode {
        config::Mode::Submission => false,
        config::Mode::Returns => true,
    };
    // Mail for the postmaster of the domain that things come back to is taken there (`feedback`).
    let postmaster = match (takes_returns, config.bounces.domains().next()) {
        (true, Some(domain)) => format!("postmaster@{domain}").parse().ok(),
        (true, None) => None,
        (false, _) => listener.postmaster.parse().ok(),
    };
    submission::Settings {
        takes_returns,
        networks: listener.networks.clone(),
        auth: listener.auth,
        auth_without_tls: listener.auth_without_tls,
        proxy_networks: listener.proxy_networks.clone(),
        tls,
        max_sessions: size(listener.max_sessions),
        max_sessions_per_address: NonZeroU32::new(listener.max_sessions_per_address),
        sessions_per_minute: NonZeroU32::new(listener.sessions_per_minute),
        messages_per_minute: NonZeroU32::new(listener.messages_per_minute),
        max_recipients: size(listener.max_recipients),
        max_transactions: NonZeroU32::new(listener.max_transactions),
        max_message_size: listener.max_message_size.0,
        max_header_size: usize::try_from(listener.max_header_size.0).unwrap_or(usize::MAX),
        max_hops: size(listener.max_hops),
        tenant: listener.tenant.as_str().into(),
        trust_headers: listener.trust_headers,
        lane: match listener.lane {
            config::Lane::Urgent => Lane::Urgent,
            config::Lane::Normal => Lane::Normal,
            config::Lane::Bulk => Lane::Bulk,
        },
        line_endings: match listener.bare_line_end {
            config::BareLineEnd::Reject => submission::LineEndings::Reject,
            config::BareLineEnd::Normalize => submission::LineEndings::Normalize,
        },
        postmaster,
        timeout: listener.timeout.0,
        min_data_rate: NonZeroU32::new(u32::try_from(listener.min_data_rate.0).unwrap_or(u32::MAX)),
        // The other half is for the 421 to be read, and for deliveries.
        stop_grace: config.delivery.drain.0 / 2,
        ..submission::Settings::default()
    }
}

/// How next hops are found; MTA-STS policies are kept by `keeper`. Reads the file of authorities, to tell early what is wrong
/// with it.
pub fn dns(config: &Config, hostname: &str, keeper: Arc<dyn dns::Keeper>) -> Result<dns::Settings, Error> {
    dns::Roots::check(&config.delivery.tls_ca).map_err(Error::Authorities)?;
    let mut routes = Vec::with_capacity(config.routes.len());
    for route in &config.routes {
        routes.push(dns::Route { pattern: route.domain.clone(), next_hop: route.next_hop.parse()? });
    }
    let tls = config.delivery.tls_rules.iter().map(tls_rule).collect();
    let mut own_names = vec![hostname.to_lowercase()];
    own_names.extend(config.sources.iter().filter_map(|source| source.ehlo_name.as_deref()).map(str::to_lowercase));
    let listens_there = |listener: &&config::Listener| listener.address.port() == config.delivery.port;
    let listening = || config.listeners.iter().filter(listens_there).map(|listener| listener.address.ip());
    // Where the kernel lets anybody bind to any address (ip_nonlocal_bind), binding tells nothing.
    let is_everywhere = listening().any(|address| address.is_unspecified()) && !is_local(NOBODYS);
    let is_own: fn(IpAddr) -> bool = if is_everywhere { is_local } else { |_| false };
    Ok(dns::Settings {
        resolvers: config.dns.resolvers.clone(),
        timeout: config.dns.timeout.0,
        attempts: usize::from(config.dns.attempts),
        routes,
        port: config.delivery.port,
        families: if config.delivery.ipv6 { dns::Families::Both } else { dns::Families::Ipv4 },
        allow_networks: config.dns.allow_networks.clone(),
        own_names,
        own_addresses: listening().collect(),
        is_own,
        tls,
        default_tls: tls_policy(config.delivery.tls),
        dnssec: dnssec(config.dns.dnssec),
        trust_anchor: config.dns.trust_anchor.clone(),
        sts: config.delivery.mta_sts.then(|| dns::StsSettings {
            port: 443,
            roots: dns::Roots::new(&config.delivery.tls_ca),
            keeper,
        }),
        own_sites: limits::domains(&config.limits).collect(),
        ..dns::Settings::default()
    })
}

/// Who makes TLS reports; none: nobody does.
pub fn reporter(config: &Config) -> Option<Reporter> {
    let section = &config.tls_report;
    section.enabled.then(|| Reporter {
        organization: section.organization.as_str().into(),
        contact: section.contact().into(),
        from: section.from.as_str().into(),
    })
}

fn tls_rule(rule: &config::TlsRule) -> (String, dns::TlsRule) {
    let names = rule.names.iter().map(|name| name.to_ascii_lowercase().into()).collect();
    (rule.domain.clone(), dns::TlsRule { policy: tls_policy(rule.tls), names })
}

fn tls_policy(mode: config::TlsMode) -> dns::TlsPolicy {
    match mode {
        config::TlsMode::Opportunistic => dns::TlsPolicy::Opportunistic,
        config::TlsMode::None => dns::TlsPolicy::None,
        config::TlsMode::Required => dns::TlsPolicy::Required,
        config::TlsMode::Verified => dns::TlsPolicy::Verified,
        config::TlsMode::Dane => dns::TlsPolicy::Dane,
        config::TlsMode::MtaSts => dns::TlsPolicy::MtaSts,
    }
}

const fn dnssec(mode: config::Dnssec) -> dns::Dnssec {
    match mode {
        config::Dnssec::Auto => dns::Dnssec::Auto,
        config::Dnssec::On => dns::Dnssec::On,
        config::Dnssec::Off => dns::Dnssec::Off,
    }
}

pub(super) fn queue(
    config: &Config,
    hostname: &Arc<str>,
    threads: usize,
    classifier: &LazyClassifier,
) -> queue::Settings {
    let capacity = |most: u64| usize::try_from(most).unwrap_or(usize::MAX);
    let per_tenant = match config.queue.max_recipients_per_tenant {
        0 => config.queue.max_recipients,
        most => most,
    };
    queue::Settings {
        hostname: hostname.clone(),
        shards: threads * SHARDS_PER_THREAD,
        retry: queue::settings::Retry {
            intervals: config.retry.schedule.iter().map(|span| span.0).collect(),
            jitter_percent: config.retry.jitter_percent,
            max_age: config.retry.max_age.0,
        },
        delay_after: config.retry.delay_notice.0,
        longest_attempt: longest_attempt(&config.delivery),
        capacity: capacity(config.queue.max_recipients),
        tenant_capacity: capacity(per_tenant),
        connections: config.limits.connections,
        allowance: limits::everything(&config.limits),
        in_doubt: in_doubt(config.queue.in_doubt),
        tenants: tenants(config),
        limits: limits::site(&config.limits),
        rules: limits::rules(&config.limits),
        learning: limits::learning(&config.limits),
        egress: egress(config, hostname),
        warmups: limits::warmups(&config.warmups),
        classifier: classifier.clone(),
        ..queue::Settings::default()
    }
}

fn longest_attempt(section: &config::Delivery) -> Duration {
    let open = section.connect_timeout.0 + section.greeting_timeout.0 + section.ehlo_timeout.0 * 2;
    let transaction = section.mail_timeout.0 + section.rcpt_timeout.0 + section.data_timeout.0;
    open + transaction + section.content_timeout.0 + section.end_of_data_timeout.0
}

fn in_doubt(policy: config::InDoubt) -> queue::settings::InDoubt {
    match policy {
        config::InDoubt::Retry => queue::settings::InDoubt::Retry,
        config::InDoubt::Hold => queue::settings::InDoubt::Hold,
        config::InDoubt::AssumeDelivered => queue::settings::InDoubt::AssumeDelivered,
    }
}

/// A path that holds for other processes, too.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Where the journal is; none: there is none.
pub(super) fn journal_folder(config: &Config) -> Option<PathBuf> {
    config.journal.enabled.then(|| absolute(&config.journal.path))
}

fn tenants(config: &Config) -> HashMap<Box<str>, queue::settings::Tenant> {
    let mut tenants: HashMap<Box<str>, queue::settings::Tenant> = HashMap::new();
    for rule in &config.queue.tenants {
        let tenant = tenants.entry(rule.name.as_str().into()).or_default();
        tenant.weight = rule.weight;
        tenant.in_doubt = rule.in_doubt.map(in_doubt);
        tenant.capacity = rule.max_recipients.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
    }
    for pool in config.pools.iter().rev() {
        for name in &pool.tenants {
            tenants.entry(name.as_str().into()).or_default().pool = Some(pool.name.as_str().into());
        }
    }
    tenants
}

/// The pool called `default` comes first, since that is the one used where nothing else is said.
fn egress(config: &Config, hostname: &Arc<str>) -> queue::Egress {
    let mut sources: Vec<Arc<queue::Source>> =
        config.sources.iter().map(|source| egress_source(source, hostname)).collect();
    let mut pools: Vec<queue::EgressPool> = config.pools.iter().map(|pool| egress_pool(config, pool)).collect();
    match pools.iter().position(|pool| &*pool.name == "default") {
        Some(place) => pools.swap(0, place),
        None => {
            let any = queue::Source {
                name: Arc::from("default"),
                ipv4: Some(Ipv4Addr::UNSPECIFIED),
                ipv6: config.delivery.ipv6.then_some(Ipv6Addr::UNSPECIFIED),
                ehlo_name: hostname.clone(),
                connections: None,
            };
            pools.insert(0, queue::EgressPool { name: "default".into(), members: vec![(sources.len(), 1)] });
            sources.push(Arc::new(any));
        }
    }
    let mut sender_domains = HashMap::new();
    for pool in config.pools.iter().rev() {
        for domain in &pool.sender_domains {
            sender_domains.insert(domain.to_lowercase().into(), pool.name.as_str().into());
        }
    }
    queue::Egress { sources, pools, sender_domains }
}

fn egress_source(source: &config::Source, hostname: &Arc<str>) -> Arc<queue::Source> {
    let has_neither = source.ipv4.is_none() && source.ipv6.is_none();
    Arc::new(queue::Source {
        name: Arc::from(source.name.as_str()),
        ipv4: source.ipv4.or(has_neither.then_some(Ipv4Addr::UNSPECIFIED)),
        ipv6: source.ipv6.or(has_neither.then_some(Ipv6Addr::UNSPECIFIED)),
        ehlo_name: source.ehlo_name.as_deref().map_or_else(|| hostname.clone(), Arc::from),
        connections: source.connections,
    })
}

fn egress_pool(config: &Config, pool: &config::Pool) -> queue::EgressPool {
    let index = |name: &str| config.sources.iter().position(|source| source.name == name);
    let members = pool.sources.iter().filter_map(|member| Some((index(&member.source)?, member.weight))).collect();
    queue::EgressPool { name: pool.name.as_str().into(), members }
}

pub(super) fn audit(config: &Config) -> audit::Settings {
    audit::Settings { folder: config.audit_folder(), max_size: config.admin.audit_max_size.0 }
}

pub(super) fn delivery(
    config: &Config,
    classifier: &LazyClassifier,
    tally: &Tally,
    feedback: Option<&Feedback>,
) -> delivery::Settings {
    let section = &config.delivery;
    delivery::Settings {
        chunking: section.chunking,
        look_ahead: section.look_ahead,
        idle: section.idle.0,
        classifier: classifier.clone(),
        roots: dns::Roots::new(&section.tls_ca),
        honors_waivers: section.tls_waivers,
        tally: Some(tally.clone()),
        feedback: feedback.cloned(),
        timeouts: delivery::Timeouts {
            connect: section.connect_timeout.0,
            greeting: section.greeting_timeout.0,
            ehlo: section.ehlo_timeout.0,
            starttls: section.ehlo_timeout.0,
            mail: section.mail_timeout.0,
            rcpt: section.rcpt_timeout.0,
            data: section.data_timeout.0,
            data_block: section.content_timeout.0,
            data_termination: section.end_of_data_timeout.0,
            ..delivery::Timeouts::default()
        },
        ..delivery::Settings::default()
    }
}

/// Whether `address` belongs to this machine: something can be bound to it.
pub fn is_local(address: IpAddr) -> bool {
    std::net::TcpListener::bind((address, 0)).is_ok()
}

pub(super) fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

pub(super) fn some_unless_zero(number: u32) -> Option<u32> {
    (number > 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_said_of_listener_and_delivery_reaches_them() {
        let text = "[[listener]]\nmode = \"submission\"\npostmaster = \"ops@example.com\"\nmin_data_rate = \"2KB\"\n\
                    max_header_size = \"1KiB\"\n[delivery]\nlook_ahead = false\ndrain = \"10s\"\n";
        let config = Config::parse(text, Path::new("x")).unwrap();

        let listener = submission(&config, &config.listeners[0], None);

        assert_eq!(listener.postmaster.map(|address| address.to_string()).as_deref(), Some("ops@example.com"));
        assert_eq!(listener.min_data_rate, NonZeroU32::new(2_000));
        assert_eq!((listener.max_header_size, listener.stop_grace), (1_024, Duration::from_secs(5)));
        let tally = Tally::new(crate::clock::Clock::system(), &crate::metrics::Registry::new().unwrap());
        assert!(!delivery(&config, &LazyClassifier::default(), &tally, None).look_ahead);
    }

    #[test]
    fn a_rate_of_zero_is_none() {
        let config = Config::parse("[[listener]]\nmin_data_rate = \"0B\"\n", Path::new("x")).unwrap();

        assert_eq!(submission(&config, &config.listeners[0], None).min_data_rate, None);
    }

    fn own(address: &str) -> dns::Settings {
        let text = format!("[[listener]]\naddress = \"{address}\"\n");
        dns(&toml::from_str(&text).unwrap(), "mx.test", Arc::new(dns::settings::Forgetful)).unwrap()
    }

    #[test]
    fn a_listener_on_all_addresses_makes_every_address_of_the_machine_our_own() {
        for all in ["0.0.0.0:25", "[::]:25"] {
            assert!((own(all).is_own)(IpAddr::from([127, 0, 0, 1])), "{all}");
            assert!(!(own(all).is_own)(NOBODYS), "{all}");
        }
        for some in ["127.0.0.1:25", "0.0.0.0:587"] {
            assert!(!(own(some).is_own)(IpAddr::from([127, 0, 0, 1])), "{some}");
        }
    }
}

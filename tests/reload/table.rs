//! The table of `docs/configuration.md` is what the daemon does: it has every option, and what it calls restart is what a
//! reload reports as such.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use hikyaku::config::Config;
use hikyaku::config::changes::Change;
use hikyaku::daemon::Daemon;
use hikyaku::dkim::{Strength, generate};
use toml::{Table, Value};

const DOCUMENT: &str = include_str!("../../docs/configuration.md");

/// Options and when they take effect, as documented.
fn documented() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in DOCUMENT.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let ["", option, when, _, ""] = cells.as_slice()
            && let Some(option) = option.strip_prefix('`').and_then(|option| option.strip_suffix('`'))
        {
            assert!(found.insert(option.to_owned(), (*when).to_owned()).is_none(), "{option} stands twice");
        }
    }
    found
}

/// One of everything, all of it below `place`.
fn base(place: &str) -> String {
    for name in ["one", "other"] {
        let path = format!("{place}/{name}.pem");
        std::fs::write(&path, generate(Strength::Ed25519).unwrap()).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
    format!(
        "hostname = \"old.test\"\nuser = \"a\"\n[spool]\npath = \"{place}/spool\"\nsegment_size = \"1MiB\"\nreserve = \"1MiB\"\n\
         [journal]\npath = \"{place}/journal\"\n[admin]\nsocket = \"{place}/admin.sock\"\nlisten = [\"127.0.0.1:0\"]\ntokens = \"{place}/0.tokens\"\n[metrics]\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"starttls\"\nauth = true\nclient_certificates = true\n[users]\nfile = \"{place}/0.users\"\n[[certificate]]\n\
         chain = \"{place}/0.pem\"\nkey = \"{place}/0.key\"\n[limits]\nsite_rate = \"1/s\"\nrate = \"1/s\"\n\
         bytes = \"1MB/s\"\n[[limits.rule]]\nsite = \"a\"\nconnections = 1\nmessages_per_connection = 1\n\
         recipients_per_connection = 1\nrecipients_per_transaction = 1\nrate = \"1/s\"\nbytes = \"1MB/s\"\n\
         connections_per_minute = 1\n[[limits.rule]]\nsite = \"b\"\nconnections = 1\n[[limits.rule]]\n\
         domain = \"a.test\"\nsource = \"a\"\nconnections = 1\n[[limits.rule]]\ntenant = \"a\"\ncampaign = \"a\"\n\
         rate = \"1/s\"\n[[queue.tenant]]\nname = \"a\"\nweight = 2\nmax_recipients = 5\nin_doubt = \"hold\"\n\
         [[delivery.tls_rule]]\ndomain = \"a.test\"\ntls = \"verified\"\nnames = [\"a.test\"]\n[[route]]\ndomain = \"a.test\"\n\
         next_hop = \"discard\"\n[[source]]\nname = \"a\"\nipv4 = \"127.0.0.1\"\nipv6 = \"::1\"\nehlo_name = \"a.test\"\n\
         connections = 1\n[[source]]\nname = \"b\"\n[[pool]]\nname = \"a\"\nsources = [{{ source = \"a\" }}]\n\
         tenants = [\"a\"]\nsender_domains = [\"a.test\"]\n[[warmup]]\nsource = \"a\"\nprovider = \"google\"\n\
         start = \"2026-12-01\"\nvolumes = [50]\n[[dkim]]\ndomain = \"a.test\"\nselector = \"s\"\n\
         key = \"{place}/one.pem\"\n[[suppression.rule]]\nclass = \"bad-mailbox\"\naction = \"suppress\"\n\
         [[suppression.rule]]\nclass = \"bad-domain\"\naction = \"suppress\"\nfor = \"1d\"\n\
         [bounces]\nfeedback_domains = [\"f.test\"]\n[[bounces.tenant]]\nname = \"a\"\ndomain = \"b.test\"\ndsn = \"send\"\n[tls_report]\norganization = \"a\"\nfrom = \"a@a.test\"\n\
         [unsubscribe]\nlisten = [\"127.0.0.1:0\"]\nurl = \"https://a.test/\"\n[[unsubscribe.tenant]]\nname = \"a\"\n"
    )
}

/// Every option, as the table calls it, with the path to it.
fn leaves(value: &Value, name: &str, path: &[String], found: &mut Vec<(String, Vec<String>)>) {
    let below = |key: &str| [path, &[key.to_owned()]].concat();
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                leaves(value, &name, &below(key), found);
            }
        }
        Value::Array(items) if name != "pool.sources" && items.iter().any(Value::is_table) => {
            for (index, item) in items.iter().enumerate() {
                leaves(item, name, &below(&index.to_string()), found);
            }
        }
        _ => found.push((name.to_owned(), path.to_vec())),
    }
}

fn at<'a>(value: &'a mut Value, path: &[String]) -> &'a mut Value {
    path.iter().fold(value, |value, key| match value {
        Value::Array(items) => &mut items[key.parse::<usize>().unwrap()],
        other => other.get_mut(key).unwrap(),
    })
}

/// Another value for an option, which is good.
fn other(name: &str, value: &Value, place: &str) -> Value {
    let text = |text: &str| Value::String(text.to_owned());
    let texts = |one: &str| Value::Array(vec![Value::String(one.to_owned())]);
    match name {
        "spool.path" => text(&format!("{place}/other")),
        "admin.socket" => text(&format!("{place}/other.sock")),
        "privacy.mask" => text("partial"),
        "privacy.key_file" => text(&format!("{place}/other.key")),
        "journal.path" | "admin.audit" => text(&format!("{place}/other")),
        "admin.listen" => texts("127.0.0.2:0"),
        "admin.tokens" => {
            let file = format!("{place}/tokens");
            users(Path::new(&file));
            text(&file)
        }
        "spool.attempts" => text("sync"),
        "spool.key_files" => texts(&format!("{place}/other.key")),
        "spool.deadline" => text("2m"),
        "listener.address" | "metrics.address" => text("127.0.0.2:0"),
        "listener.networks"
        | "listener.proxy_networks"
        | "unsubscribe.proxy_networks"
        | "dns.allow_networks"
        | "admin.networks" => texts("10.0.0.0/8"),
        "listener.max_header_size" => text("2KiB"),
        "listener.postmaster" => text("p@a.test"),
        "listener.bare_line_end" => text("normalize"),
        "queue.in_doubt" | "queue.tenant.in_doubt" => text("assume-delivered"),
        "retry.schedule" => texts("7m"),
        "delivery.tls" => text("none"),
        "delivery.tls_rule.tls" => text("opportunistic"),
        "delivery.tls_rule.names" => texts("b.test"),
        "delivery.tls_ca" => text(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls/ca.pem")),
        "dns.dnssec" => text("off"),
        "dns.trust_anchor" => {
            let file = format!("{place}/anchor");
            std::fs::write(&file, "").unwrap();
            text(&file)
        }
        "delivery.tls_rule.domain" | "route.domain" => text("other.test"),
        "route.next_hop" => text("smtp://127.0.0.1:9"),
        "dns.resolvers" => texts("127.0.0.1:9"),
        "limits.rate" | "limits.site_rate" | "limits.rule.rate" => text("7/s"),
        "limits.first_rate" => text("7/s"),
        "listener.lane" => text("bulk"),
        "listener.tls" => text("implicit"),
        "listener.client_ca" => text(&format!("{place}/0.pem")),
        "certificate.chain" => text(&format!("{place}/1.pem")),
        "certificate.key" => text(&format!("{place}/1.key")),
        "limits.bytes" | "limits.rule.bytes" => text("2MB/s"),
        "limits.rule.domain" => text("other.test"),
        "source.ipv4" => text("127.0.0.3"),
        "source.ipv6" => text("::2"),
        "pool.sources" => Value::Array(vec![Value::Table(Table::from_iter([("source".to_owned(), text("b"))]))]),
        "limits.rule.source" | "warmup.source" | "warmup.overflow" => text("b"),
        "warmup.provider" => text("yahoo"),
        "warmup.start" => text("2026-12-02"),
        "warmup.volumes" => Value::Array(vec![Value::Integer(7)]),
        "warmup.spread" | "warmup.pause_for" => text("2h"),
        "warmup.pause_at" => text("7%"),
        "pool.tenants" | "pool.sender_domains" => texts("other"),
        "suppression.recipients" => text("accept"),
        "suppression.bounces" => text("all-tenants"),
        "suppression.complaints" => text("all-tenants"),
        "suppression.full_days" => Value::Integer(4),
        "suppression.full_for" => text("60d"),
        "suppression.rule.class" => text("mailbox-moved"),
        "suppression.rule.action" => text("ignore"),
        "bounces.feedback_domains" => texts("g.test"),
        "bounces.postmaster" => text("p@a.test"),
        "bounces.tenant.domain" => text("c.test"),
        "bounces.tenant.dsn" => text("events"),
        "listener.mode" => text("returns"),
        "replies.rules" => {
            let file = format!("{place}/replies.toml");
            let rule = "[[rule]]\nid = \"a\"\ncodes = [599]\nclass = \"policy\"\nexample = \"599 a\"\n";
            std::fs::write(&file, rule).unwrap();
            text(&file)
        }
        "users.file" => {
            let file = format!("{place}/users.toml");
            users(Path::new(&file));
            text(&file)
        }
        "users.sender_policy" => text("allow"),
        "tls_report.from" => text("b@a.test"),
        "unsubscribe.listen" => texts("127.0.0.2:0"),
        "unsubscribe.url" => text("https://b.test/"),
        "unsubscribe.max_age" => text("60d"),
        "unsubscribe.tenant.scope" => text("tenant"),
        "dkim.key" => text(&format!("{place}/other.pem")),
        "signing.required" => texts("*.a.test"),
        "signing.expiry" => text("2d"),
        "sandbox" => text("off"),
        "log.filter" => text("debug"),
        "log.format" => text("json"),
        _ => match value {
            Value::Integer(number) => Value::Integer(number + 1),
            Value::Boolean(is_so) => Value::Boolean(!is_so),
            Value::String(said) if said.ends_with(['s', 'm', 'h', 'd']) && said.starts_with(char::is_numeric) => {
                text("33s")
            }
            Value::String(said) if said.starts_with(char::is_numeric) => text("3MiB"),
            _ => text("other"),
        },
    }
}

/// One certificate with its key under two names.
fn certificates(folder: &Path) {
    for number in 0..2 {
        for (from, ending, mode) in [("certificate.pem", "pem", 0o644), ("key.pem", "key", 0o600)] {
            let to = folder.join(format!("{number}.{ending}"));
            std::fs::copy(Path::new("tests/data/tls").join(from), &to).unwrap();
            std::fs::set_permissions(&to, Permissions::from_mode(mode)).unwrap();
        }
    }
    users(&folder.join("0.users"));
    users(&folder.join("0.tokens"));
}

/// A file of no users.
fn users(path: &Path) {
    std::fs::write(path, "").unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// Takes the first configuration on again. A socket that was left is there until what it was asked has been answered.
async fn return_to(daemon: &mut Daemon, base: &Config) -> Vec<Change> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match daemon.reload(base.clone()).await {
            Ok((back, _)) => return back,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_option_is_in_the_table_and_needs_a_restart_if_and_only_if_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display().to_string();
    certificates(folder.path());
    let parse = |text: &str| Config::parse(text, "x".as_ref());
    let base = parse(&base(&place)).unwrap();
    let mut daemon = Daemon::start(base.clone()).await.unwrap();
    let value = Value::try_from(&base).unwrap();
    let mut found = Vec::new();
    leaves(&value, "", &[], &mut found);
    let (mut options, mut seen) = (BTreeSet::new(), 0);
    let documented = documented();

    for (name, path) in found {
        options.insert(name.clone());
        // One listener is enough; nor can a source be called otherwise as long as a pool names it.
        if matches!(name.as_str(), "listener.mode" | "source.name") || path.contains(&"1".to_owned()) {
            continue;
        }
        let mut changed = value.clone();
        *at(&mut changed, &path) = other(&name, at(&mut changed.clone(), &path), &place);
        let text = toml::to_string(&changed).unwrap();
        let next = parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_ne!(next, base, "{name} has another value");

        let (taken, left) = daemon.reload(next.clone()).await.unwrap_or_else(|error| panic!("{name}: {error}"));

        let when = documented.get(&name).map_or("", String::as_str);
        let is_restart = when == "restart";
        assert_eq!((left.is_empty(), taken.is_empty()), (!is_restart, is_restart), "{name}: {taken:?} {left:?}");
        assert_eq!(*daemon.config() == next, !is_restart, "{name} holds");
        let back = return_to(&mut daemon, &base).await;
        assert_eq!(back.is_empty(), is_restart, "{name}: {back:?}");
        assert_eq!(*daemon.config(), base);
        seen += 1;
    }
    daemon.stop(Duration::ZERO).await;

    let listed: BTreeSet<String> = documented.keys().cloned().collect();
    assert_eq!(listed, options, "the table has every option and nothing else");
    assert!(seen > 60, "only {seen}");
    let known = ["at once", "new sessions", "new connections", "new messages", "next stop", "restart"];
    let odd: Vec<_> = documented.iter().filter(|(_, when)| !known.contains(&when.as_str())).collect();
    assert!(odd.is_empty(), "{odd:?}");
}

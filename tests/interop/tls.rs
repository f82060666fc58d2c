//! TLS with Debian's Postfix: what it logs of each policy, and what its own posttls-finger says of its certificate and of a
//! signed zone behind Debian's unbound, beside what the daemon makes of the same.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use hikyaku::config::{Config, Dnssec, TlsMode, TlsRule};
use hikyaku::daemon::Daemon;
use hikyaku::demo::responder::{Responder, Zone};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::server::ParsedCertificate;
use serde_json::Value;

use crate::packages;
use crate::receivers::Receivers;
use crate::signed_zone::Signed;
use crate::{PATIENCE, daemon, prepare, skip};

const PACKAGES: [&str; 2] = ["unbound", "libresolv-wrapper"];
/// The name that the certificate is for.
const HOST: &str = "mx.verified.test";

/// Makes a certificate for [`HOST`] and its authority; gives the SHA-256 of the certificate and that of its key.
fn certify(folder: &Path) -> [Vec<u8>; 2] {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![HOST.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    fs::create_dir_all(folder.join("tls")).unwrap();
    for (name, pem) in [("ca", issuer.pem()), ("chain", certificate.pem()), ("key", key.serialize_pem())] {
        fs::write(folder.join(format!("tls/{name}.pem")), pem).unwrap();
    }
    let parsed = ParsedCertificate::try_from(certificate.der()).unwrap();
    [certificate.der().to_vec(), parsed.subject_public_key_info().to_vec()]
        .map(|octets| digest(&SHA256, &octets).as_ref().to_vec())
}

fn hex(octets: &[u8], separator: &str) -> String {
    octets.iter().map(|octet| format!("{octet:02X}")).collect::<Vec<_>>().join(separator)
}

fn config(folder: &Path, port: u16, resolver: SocketAddr) -> Config {
    let mut config = daemon::config(folder);
    config.delivery.port = port;
    config.delivery.tls = TlsMode::Opportunistic;
    config.delivery.mta_sts = false;
    config.delivery.tls_ca = folder.join("tls/ca.pem");
    config.dns.resolvers = vec![resolver];
    config.dns.dnssec = Dnssec::Off;
    config
}

/// Submits a message to `to`, which is its subject.
fn submit(runtime: &tokio::runtime::Runtime, server: SocketAddr, to: &str) {
    let reply = runtime.block_on(async { daemon::submit(server, "s@c.test", &[to], &format!("Subject: {to}")).await });
    assert!(reply.starts_with("250"), "{reply}");
}

/// The first line of the journal about the attempt at `to`.
fn outcome(folder: &Path, to: &str) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let files = fs::read_dir(folder.join("journal")).into_iter().flatten();
        let text: String = files.filter_map(|file| fs::read_to_string(file.unwrap().path()).ok()).collect();
        let mut events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        if let Some(found) = events.find(|event| event["recipient"] == to && event.get("step").is_some()) {
            return found;
        }
        assert!(Instant::now() < end, "an outcome for {to}: {text}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn told(outcome: &Value) -> [&str; 4] {
    ["event", "tls_policy", "tls", "tls_verified"].map(|field| outcome[field].as_str().unwrap_or_default())
}

/// What Postfix wrote into the header section of the message to `to`.
fn arrived(folder: &Path, to: &str) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let files = fs::read_dir(folder.join("postfix/mail/all/new")).into_iter().flatten();
        let mut texts = files.filter_map(|file| fs::read_to_string(file.unwrap().path()).ok());
        if let Some(text) = texts.find(|text| text.contains(&format!("Subject: {to}\n"))) {
            return text;
        }
        assert!(Instant::now() < end, "Postfix has the message to {to}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn finger(root: &Path, more: &[&str], environment: &[(&str, String)]) -> String {
    let mut command = Command::new(root.join("usr/sbin/posttls-finger"));
    command.env("LD_LIBRARY_PATH", packages::library_path(root)).env("MAIL_CONFIG", root.join("../postfix/etc"));
    command.envs(environment.iter().cloned()).args(["-c", "-t", "20", "-T", "20"]).args(more);
    let output = command.output().unwrap();
    [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat()
}

#[test]
fn postfix_sees_the_tls_that_each_policy_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    if let Err(reason) = prepare(&root) {
        return skip::skip("postfix_sees_the_tls_that_each_policy_asks_for", &reason);
    }
    let [fingerprint, _] = certify(folder.path());
    let receivers = Receivers::start(folder.path());
    let mut zone = Zone::new();
    for domain in ["usual.test", "required.test", "verified.test", "foreign.test", "clear.test"] {
        let host = format!("mx.{domain}");
        zone.mx(domain, 10, &host).address(&host, receivers.address(2));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let responder = runtime.block_on(Responder::start(at, zone)).unwrap();
    let mut config = config(folder.path(), receivers.port, responder.address());
    let rule = |domain: &str, tls| TlsRule { domain: domain.to_owned(), tls, names: Vec::new() };
    config.delivery.tls_rules = vec![
        rule("required.test", TlsMode::Required),
        rule("verified.test", TlsMode::Verified),
        rule("foreign.test", TlsMode::Verified),
        rule("clear.test", TlsMode::None),
    ];
    let daemon = runtime.block_on(Daemon::start(config)).unwrap();
    let server = daemon.submission_addresses()[0];

    for (domain, expected) in [
        ("usual.test", ["delivered", "opportunistic", "TLSv1.3", "none"]),
        ("required.test", ["delivered", "required", "TLSv1.3", "none"]),
        ("verified.test", ["delivered", "verified", "TLSv1.3", "pkix"]),
        ("clear.test", ["delivered", "none", "none", ""]),
        ("foreign.test", ["deferred", "verified", "none", ""]),
    ] {
        let to = format!("u@{domain}");
        submit(&runtime, server, &to);
        let outcome = outcome(folder.path(), &to);
        assert_eq!(told(&outcome), expected, "{outcome}\n{}", receivers.logs());
        if expected[0] == "delivered" {
            let is_encrypted = arrived(folder.path(), &to).contains("(using TLSv1.3 with cipher TLS_");
            assert_eq!(is_encrypted, expected[2] != "none", "{to}");
        } else {
            assert_eq!(outcome["enhanced_status"], "4.7.5", "{outcome}");
        }
    }
    // It logs through a process of its own.
    let end = Instant::now() + PATIENCE;
    let shaken = |log: &str| log.matches("Anonymous TLS connection established from").count();
    while shaken(&receivers.logs()) < 3 || !receivers.logs().contains("SSL_accept error") {
        assert!(Instant::now() < end, "three handshakes, and a certificate that is refused: {}", receivers.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(shaken(&receivers.logs()), 3, "{}", receivers.logs());
    let at = format!("[{}]:{}", receivers.address(2), receivers.port);
    let (own, other) = (hex(&fingerprint, ":"), hex(&[0; 32], ":"));
    let said = [own, other].map(|print| finger(&root, &["-l", "fingerprint", "-d", "sha256", &at, &print], &[]));
    assert!(said[0].contains("Verified TLS connection established"), "{}", said[0]);
    assert!(!said[1].contains("Verified TLS connection established"), "{}", said[1]);
    runtime.block_on(daemon.stop(Duration::from_secs(5)));
}

/// unbound, ended when dropped.
struct Unbound(Child);

impl Drop for Unbound {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Unbound {
    /// Validates by the anchor of a zone that holds everything.
    fn start(folder: &Path, address: Ipv4Addr, upstream: SocketAddr, anchor: &Path) -> Self {
        let config = format!(
            "server:\n interface: {address}\n port: 53\n do-ip6: no\n do-daemonize: no\n use-syslog: no\n chroot: \"\"\n \
             username: \"\"\n directory: \"{0}\"\n pidfile: \"\"\n do-not-query-localhost: no\n \
             trust-anchor-file: \"{1}\"\n module-config: \"validator iterator\"\n local-zone: \"test.\" nodefault\n \
             access-control: 127.0.0.0/8 allow\n minimal-responses: no\nremote-control:\n control-enable: no\n\
             forward-zone:\n name: \".\"\n forward-addr: {2}@{3}\n",
            folder.display(),
            anchor.display(),
            upstream.ip(),
            upstream.port()
        );
        let file = folder.join("unbound.conf");
        fs::write(&file, config).unwrap();
        let root = folder.join("root");
        let log = fs::File::create(folder.join("unbound.log")).unwrap();
        let mut command = Command::new(root.join("usr/sbin/unbound"));
        command.arg("-c").arg(&file).arg("-d").env("LD_LIBRARY_PATH", packages::library_path(&root));
        let unbound = Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect((address, 53)).is_err() {
            let said = || fs::read_to_string(folder.join("unbound.log")).unwrap_or_default();
            assert!(Instant::now() < end, "unbound listens: {}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
        unbound
    }
}

#[test]
fn dane_means_the_same_to_the_daemon_and_to_posttls_finger() {
    let name = "dane_means_the_same_to_the_daemon_and_to_posttls_finger";
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let prepared = prepare(&root).and_then(|()| packages::unpack(&root, "interop-unbound", &PACKAGES));
    // Not only DANE has its port fixed: posttls-finger goes to 25, and the C library's resolver to 53.
    let own = |last| Ipv4Addr::new(127, 89, std::process::id() as u8, last);
    let prepared = prepared.and_then(|()| {
        let bound = [(own(1), 53), (own(2), 25)].map(|at| TcpListener::bind(at).map(drop).map_err(|e| e.to_string()));
        bound.into_iter().collect::<Result<(), _>>()
    });
    if let Err(reason) = prepared {
        return skip::skip(name, &reason);
    }
    let [_, key] = certify(folder.path());
    let receivers = Receivers::start_with(folder.path(), &format!("{}:25 inet n - n - - smtpd\n", own(2)));
    let mut zone = Signed::new();
    for (domain, digest) in
        [("good.test", Some(key.clone())), ("foreign.test", Some(vec![7; 32])), ("plain.test", None)]
    {
        let host = format!("mx.{domain}");
        zone.mx(domain, 10, &host).address(&host, own(2).octets());
        if let Some(digest) = digest {
            zone.tlsa(&host, (3, 1, 1), &digest);
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let dns = runtime.block_on(zone.start());
    let _unbound = Unbound::start(folder.path(), own(1), dns.address, dns.anchor.path());
    let mut config = config(folder.path(), 25, SocketAddr::from((own(1), 53)));
    config.dns.dnssec = Dnssec::On;
    config.dns.trust_anchor = dns.anchor.path().to_owned();
    let daemon = runtime.block_on(Daemon::start(config)).unwrap();
    let server = daemon.submission_addresses()[0];
    let resolv = folder.path().join("resolv.conf");
    fs::write(&resolv, format!("nameserver {}\noptions edns0 trust-ad\n", own(1))).unwrap();
    let library = packages::library(&root, "libresolv_wrapper.so").display().to_string();
    let environment = [("LD_PRELOAD", library), ("RESOLV_WRAPPER_CONF", resolv.display().to_string())];

    for (domain, expected, verdict) in [
        ("good.test", ["delivered", "dane", "TLSv1.3", "dane"], Some(true)),
        ("foreign.test", ["deferred", "dane", "none", ""], Some(false)),
        ("plain.test", ["delivered", "opportunistic", "TLSv1.3", "none"], None),
    ] {
        let to = format!("u@{domain}");
        submit(&runtime, server, &to);
        let outcome = outcome(folder.path(), &to);
        assert_eq!(told(&outcome), expected, "{outcome}\n{}", receivers.logs());

        let said = finger(&root, &["-l", "dane", domain], &environment);
        match verdict {
            Some(is_good) => {
                let is_by_dane =
                    said.contains("DANE EE certificate") || said.contains("DANE RR") || said.contains("TLSA");
                assert!(is_by_dane, "{domain}: {said}");
                assert_eq!(said.contains("Verified TLS connection established"), is_good, "{domain}: {said}");
            }
            None => assert!(!said.contains("DANE"), "{domain}: {said}"),
        }
    }
    runtime.block_on(daemon.stop(Duration::from_secs(5)));
}

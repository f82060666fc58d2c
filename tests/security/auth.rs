//! AUTH at the running daemon (A1, A2 and A4 of the table of bad input): who may relay, and what guessing meets.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hikyaku::config::Config;
use hikyaku::daemon::Daemon;
use hikyaku::users::scram::Keys;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::authority::{Authority, handshake};
use crate::server::{first_reply, id_of};
use crate::tricks::TRICKS;

/// The form of an Argon2id hash with 8 KiB, which is quick.
const RIGHT: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$HASH";
const GONE: &str = "421 4.7.0 This user may not send any more";
const PLAIN: &str = "AUTH PLAIN AGFubgByaWdodA==";

trait Both: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Both for T {}

/// A client in clear or under TLS.
struct Talk {
    stream: Box<dyn Both>,
    buffer: Vec<u8>,
    exporter: [u8; 32],
}

impl Talk {
    /// One reply with all its lines; empty when the connection is closed.
    async fn reply(&mut self) -> String {
        loop {
            if let Some(reply) = first_reply(&mut self.buffer) {
                return reply.trim_end().to_owned();
            }
            if self.stream.read_buf(&mut self.buffer).await.unwrap_or_default() == 0 {
                return String::new();
            }
        }
    }

    async fn say(&mut self, line: &str) -> String {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
        self.reply().await
    }

    /// A transaction up to the first refusal, or the reply to its end.
    async fn send(&mut self, reverse_path: &str, to: &str, header: &str) -> String {
        for line in [&format!("MAIL FROM:<{reverse_path}>"), &format!("RCPT TO:{to}"), "DATA"] {
            let reply = self.say(line).await;
            if !reply.starts_with(['2', '3']) {
                self.say("RSET").await;
                return reply;
            }
        }
        self.say(&format!("{header}\r\n\r\nbody\r\n.")).await
    }
}

/// A daemon with a listener for each kind: in clear without AUTH, STARTTLS, implicit TLS, and in clear with AUTH.
struct Case {
    folder: tempfile::TempDir,
    authority: Authority,
    daemon: Daemon,
}

const PORTS: [&str; 4] = ["25", "587", "465", "clear"];

fn hash(password: &str) -> String {
    use argon2::{Algorithm, Argon2, Params, Version};
    let mut out = [0; 32];
    let params = Params::new(8, 1, 1, Some(32)).unwrap();
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon.hash_password_into(password.as_bytes(), b"saltsalt", &mut out).unwrap();
    RIGHT.replace("HASH", STANDARD.encode(out).trim_end_matches('='))
}

fn user(name: &str, more: &str) -> String {
    format!("[[user]]\nname = \"{name}\"\ntenant = \"shop\"\npassword = \"{}\"\n{more}\n", hash("right"))
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn config(place: &Path, more: &str) -> Config {
    let at = place.display();
    let listener = |more: &str| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\nnetworks = [\"192.0.2.0/24\"]\ntrust_headers = true\n{more}\n"
        )
    };
    let text = format!(
        "hostname = \"mx.test\"\n[spool]\npath = \"{at}/spool\"\nreserve = \"1MiB\"\n[journal]\npath = \"{at}/journal\"\n\
         [admin]\nsocket = \"{at}/admin.sock\"\n[metrics]\naddress = \"127.0.0.1:0\"\n[dns]\nresolvers = [\"127.0.0.1:9\"]\n\
         [users]\nfile = \"{at}/users.toml\"\n{more}\n[[certificate]]\nchain = \"{at}/mx.test.pem\"\nkey = \"{at}/mx.test.key\"\n\
         {}{}{}{}",
        listener(""),
        listener("tls = \"starttls\"\nauth = true"),
        listener("tls = \"implicit\"\nauth = true\nclient_certificates = true"),
        listener("auth = true\nauth_without_tls = true"),
    );
    Config::parse(&text, Path::new("x.toml")).unwrap()
}

impl Case {
    async fn new(users: &str) -> Self {
        Self::with(users, "").await
    }

    async fn with(users: &str, more: &str) -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        authority.files(folder.path(), "mx.test");
        write(&folder.path().join("users.toml"), users);
        let daemon = Daemon::start(config(folder.path(), more)).await.unwrap();
        Self { folder, authority, daemon }
    }

    fn address(&self, port: &str) -> SocketAddr {
        let at = PORTS.iter().position(|name| *name == port).unwrap();
        self.daemon.submission_addresses()[at]
    }

    /// After greeting, EHLO and, where there is TLS, the handshake.
    async fn client(&self, port: &str) -> Talk {
        self.client_with(port, None).await
    }

    async fn client_with(&self, port: &str, certificate: Option<(String, String)>) -> Talk {
        let stream = TcpStream::connect(self.address(port)).await.unwrap();
        let tls = self.authority.client(certificate);
        let clear = |stream| Talk { stream: Box::new(stream), buffer: Vec::new(), exporter: [0; 32] };
        let secure = async |stream| {
            let stream = handshake(stream, "mx.test", &tls).await.unwrap().stream;
            let exporter = stream.get_ref().1.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""));
            Talk { stream: Box::new(stream), buffer: Vec::new(), exporter: exporter.unwrap() }
        };
        if port == "465" {
            let mut talk = secure(stream).await;
            talk.reply().await;
            talk.say("EHLO client.test").await;
            return talk;
        }
        if port != "587" {
            let mut talk = clear(stream);
            talk.reply().await;
            talk.say("EHLO client.test").await;
            return talk;
        }
        let mut stream = stream;
        for line in ["", "EHLO client.test\r\n", "STARTTLS\r\n"] {
            stream.write_all(line.as_bytes()).await.unwrap();
            let mut text = String::new();
            while !text.lines().any(|line| line.as_bytes().get(3) == Some(&b' ')) || !text.ends_with('\n') {
                text.push(char::from(stream.read_u8().await.unwrap()));
            }
        }
        let mut talk = secure(stream).await;
        talk.say("EHLO client.test").await;
        talk
    }

    async fn ann(&self, port: &str) -> Talk {
        let mut client = self.client(port).await;
        assert_eq!(client.say(PLAIN).await, "235 2.7.0 Authentication successful");
        client
    }

    /// Waits until the daemon has read these users, who have another password or none.
    async fn shut_out(&self, users: &str) {
        write(&self.folder.path().join("users.toml"), users);
        let end = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let mut other = self.client("clear").await;
            if other.say(PLAIN).await.starts_with("535") {
                return;
            }
            assert!(std::time::Instant::now() < end);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn metric(&self, name: &str) -> String {
        let text = self.daemon.registry().render();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.rsplit(' ').next().unwrap().to_owned()
    }
}

/// Answers to a SCRAM server as RFC 5802 says.
async fn scram(client: &mut Talk, mechanism: &str, header: &str, binding: &[u8], password: &str) -> String {
    let bare = "n=ann,r=fyko+d2lbbFgONRv9qkxdawL";
    let first = client.say(&format!("AUTH {mechanism} {}", STANDARD.encode(format!("{header}{bare}")))).await;
    let Some(first) = first.strip_prefix("334 ") else { return first };
    let first = String::from_utf8(STANDARD.decode(first).unwrap()).unwrap();
    let part = |key: &str| first.split(',').find_map(|part| part.strip_prefix(key)).unwrap().to_owned();
    let without = format!("c={},r={}", STANDARD.encode([header.as_bytes(), binding].concat()), part("r="));
    let message = format!("{bare},{first},{without}");
    let mac = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec();
    let mut salted = [0; 32];
    let rounds = NonZeroU32::new(part("i=").parse().unwrap()).unwrap();
    let salt = STANDARD.decode(part("s=")).unwrap();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password.as_bytes(), &mut salted);
    let key = mac(&salted, b"Client Key");
    let signature = mac(digest::digest(&digest::SHA256, &key).as_ref(), message.as_bytes());
    let proof: Vec<u8> = key.iter().zip(signature).map(|(key, signature)| key ^ signature).collect();
    let told = client.say(&STANDARD.encode(format!("{without},p={}", STANDARD.encode(proof)))).await;
    let Some(told) = told.strip_prefix("334 ") else { return told };
    let server = mac(&mac(&salted, b"Server Key"), message.as_bytes());
    assert_eq!(STANDARD.decode(told).unwrap(), format!("v={}", STANDARD.encode(server)).as_bytes());
    client.say("").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_authentication_nothing_is_relayed_by_whatever_path() {
    let case = Case::new(&user("ann", "senders = [\"*@shop.test\"]")).await;
    for port in PORTS {
        for sender in ["", "a@mx.test", "a@shop.test", "ann@other.test"] {
            let mut client = case.client(port).await;
            for (at, trick) in TRICKS.into_iter().enumerate() {
                // Too many errors end a session; that is not what is asked here.
                if at % 4 == 0 {
                    client = case.client(port).await;
                }
                let mail = client.say(&format!("MAIL FROM:<{sender}>")).await;
                let rcpt = client.say(&format!("RCPT TO:{trick}")).await;
                let data = client.say("DATA").await;

                let needs = if port == "25" { "503 5.7.1" } else { "530 5.7.0" };
                assert!(mail.starts_with(needs), "{port} {sender} {trick}: {mail}");
                assert!(rcpt.starts_with('5') && data.starts_with('5'), "{port} {sender} {trick}: {rcpt} {data}");
            }
        }
    }
    assert_eq!(case.metric("hikyaku_submission_messages_total"), "0");
    case.daemon.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_relays_under_their_own_addresses_only() {
    let case = Case::new(&user("ann", "senders = [\"*@shop.test\"]")).await;
    for port in ["587", "465", "clear"] {
        let mut client = case.ann(port).await;
        let own = "From: Shop <x@shop.test>";
        for (sender, header, code) in [
            ("x@shop.test", own, "250 2.0.0"),
            ("", own, "250 2.0.0"),
            ("x@other.test", own, "553 5.7.1"),
            ("x@sub.shop.test", own, "553 5.7.1"),
            ("\"x@shop.test\"@other.test", own, "553 5.7.1"),
            ("x@shop.test", "From: x@other.test", "550 5.7.1"),
            ("", "From: x@other.test", "550 5.7.1"),
            ("x@shop.test", "From: x@shop.test, y@other.test", "550 5.7.1"),
            ("x@shop.test", "From: x@shop.test\r\nFrom: x@other.test", "550 5.7.1"),
            ("x@shop.test", "From: x@other.test <x@shop.test>", "250 2.0.0"),
            ("x@shop.test", "From: <x@shop.test> <x@other.test>", "550 5.7.1"),
            ("x@shop.test", "Subject: no From", "550 5.7.1"),
        ] {
            let reply = client.send(sender, "<b@other.test>", header).await;

            assert!(reply.starts_with(code), "{port} {sender:?} {header:?}: {reply}");
        }
    }
    case.daemon.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_clear_auth_is_neither_announced_nor_taken() {
    let case = Case::new(&user("ann", "")).await;
    for port in ["25", "587"] {
        let stream = TcpStream::connect(case.address(port)).await.unwrap();
        let mut client = Talk { stream: Box::new(stream), buffer: Vec::new(), exporter: [0; 32] };
        client.reply().await;

        let hello = client.say("EHLO client.test").await;
        let (plain, login) = (client.say(PLAIN).await, client.say("AUTH LOGIN").await);

        assert!(!hello.contains("AUTH"), "{hello}");
        let code = if port == "25" { "503 5.7.1" } else { "538 5.7.11" };
        assert!(plain.starts_with(code) && login.starts_with(code), "{port}: {plain} {login}");
    }
    assert_eq!(case.metric("hikyaku_auth_hashes_total"), "0");
    let mut client = case.client("587").await;
    let hello = client.say("EHLO client.test").await;
    assert!(hello.contains("250-AUTH PLAIN LOGIN\r\n"), "{hello}");
    case.daemon.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mechanism_lets_the_user_in_and_only_with_what_is_right() {
    let (certificate, hex) = {
        let pair = Authority::new().certificate("ann.test");
        let der = STANDARD.decode(pair.0.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap();
        let hash = digest::digest(&digest::SHA256, &der);
        (pair, hash.as_ref().iter().map(|octet| format!("{octet:02x}")).collect::<String>())
    };
    let keys = Keys::new("right").unwrap();
    let case = Case::new(&user("ann", &format!("scram = \"{keys}\"\ncertificates = [\"sha256:{hex}\"]"))).await;

    let mut client = case.client("465").await;
    let hello = client.say("EHLO client.test").await;
    assert!(hello.contains("250-AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN\r\n"), "{hello}");
    assert!(scram(&mut client, "SCRAM-SHA-256", "n,,", b"", "wrong").await.starts_with("535 5.7.8"));
    assert!(scram(&mut client, "SCRAM-SHA-256", "y,,", b"", "right").await.starts_with("501 5.5.2"), "a downgrade");
    let other = [7; 32];
    assert!(scram(&mut client, "SCRAM-SHA-256-PLUS", "p=tls-exporter,,", &other, "right").await.starts_with("535"));
    let exporter = client.exporter;
    assert!(scram(&mut client, "SCRAM-SHA-256-PLUS", "p=tls-exporter,,", &exporter, "right").await.starts_with("235"));
    assert!(!client.say("EHLO client.test").await.contains("AUTH"), "once");
    assert!(client.say(PLAIN).await.starts_with("503 5.5.1"), "twice");

    let mut client = case.client("587").await;
    assert!(scram(&mut client, "SCRAM-SHA-256", "n,,", b"", "right").await.starts_with("235"));
    let mut client = case.client("587").await;
    assert_eq!(client.say("AUTH LOGIN").await, "334 VXNlcm5hbWU6");
    assert_eq!(client.say("YW5u").await, "334 UGFzc3dvcmQ6");
    assert!(client.say("cmlnaHQ=").await.starts_with("235 2.7.0"));

    let mut client = case.client_with("465", Some(certificate)).await;
    assert!(client.say("EHLO client.test").await.contains("250-AUTH EXTERNAL "));
    assert!(client.say("AUTH EXTERNAL Ym9i").await.starts_with("535"), "as somebody else");
    assert!(client.say("AUTH EXTERNAL =").await.starts_with("235"));
    let mut client = case.client_with("465", Some(Authority::new().certificate("ann.test"))).await;
    assert!(client.say("AUTH EXTERNAL =").await.starts_with("535"), "another certificate");
    case.daemon.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_has_its_own_reply_and_the_session_goes_on() {
    let case = Case::new(&user("ann", "senders = [\"*\"]")).await;
    let mut client = case.client("587").await;
    for (lines, code) in [
        (vec!["AUTH CRAM-MD5"], "504 5.5.4"),
        (vec!["AUTH EXTERNAL ="], "504 5.5.4"),
        (vec!["AUTH"], "501 5.5.4"),
        (vec!["AUTH PLAIN ***"], "501 5.5.2"),
        (vec!["AUTH PLAIN", "*"], "501 5.7.0"),
        (vec!["AUTH PLAIN", "not base64"], "501 5.5.2"),
        (vec!["AUTH PLAIN", ""], "501 5.5.2"),
        (vec!["AUTH LOGIN", "*"], "501 5.7.0"),
        (vec!["MAIL FROM:<x@shop.test> AUTH=<>"], "530 5.7.0"),
    ] {
        let mut reply = String::new();
        for line in &lines {
            reply = client.say(line).await;
        }
        assert!(reply.starts_with(code), "{lines:?}: {reply}");
    }
    assert!(client.say(PLAIN).await.starts_with("235"));
    assert!(client.say("MAIL FROM:<x@shop.test> AUTH=x+40shop.test").await.starts_with("250"));
    assert!(client.say(PLAIN).await.starts_with("503 5.5.1"), "in a transaction");
    let mut client = case.client("587").await;
    client.say("AUTH PLAIN").await;
    assert!(client.say(&"A".repeat(12_287)).await.starts_with("500 5.5.6"));
    case.daemon.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_third_failure_ends_the_session_and_the_next_ones_wait_without_a_hash() {
    let case = Case::new(&user("ann", "")).await;
    let wrong = "AUTH PLAIN AGFubgB3cm9uZw==";
    let unknown = "AUTH PLAIN AGJvYgB3cm9uZw==";
    let mut client = case.client("587").await;

    let replies = [client.say(wrong).await, client.say(unknown).await, client.say(wrong).await];
    let end = [client.reply().await, client.reply().await];

    assert!(replies.iter().all(|reply| *reply == "535 5.7.8 Authentication credentials invalid"), "{replies:?}");
    assert_eq!(end, ["421 4.7.0 Too many failed authentications", ""]);
    assert_eq!(case.metric("hikyaku_auth_hashes_total"), "3");
    // The delay doubles: however slow the machine is, one of them comes too early.
    let mut is_held = false;
    for _ in 0..10 {
        is_held |= case.client("587").await.say(unknown).await.starts_with("454 4.7.0");
    }
    assert!(is_held);
    case.daemon.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_tenant_and_protocol_are_told_and_no_header_changes_them() {
    let case = Case::new(&user("ann", "senders = [\"*\"]")).await;
    let mut client = case.ann("465").await;

    let reply = client.send("x@shop.test", "<b@other.test>", "From: x@shop.test\r\nX-Hikyaku-Tenant: other").await;
    let mut clear = case.ann("clear").await;
    let second = clear.send("x@shop.test", "<b@other.test>", "From: x@shop.test").await;

    assert!(reply.starts_with("250") && second.starts_with("250"), "{reply} {second}");
    for (reply, protocol) in [(&reply, "ESMTPSA"), (&second, "ESMTPA")] {
        let id = id_of(&format!("{reply}\r\n"));
        let message = case.daemon.spool().load(id).unwrap();
        let content = message.content.chunk(0, 1 << 20).unwrap();
        let content = String::from_utf8_lossy(&content).into_owned();
        assert!(content.contains(&format!("with {protocol} id {id}")), "{content}");
        assert_eq!(&*message.envelope.tenant, "shop");
    }
    let folder = case.folder.path().join("journal");
    case.daemon.stop(Duration::from_secs(5)).await;
    let lines: String =
        fs::read_dir(folder).unwrap().filter_map(|file| fs::read_to_string(file.unwrap().path()).ok()).collect();
    let received =
        lines.lines().filter(|line| line.contains("\"event\":\"received\"") && line.contains("\"user\":\"ann\""));
    assert_eq!(received.count(), 2, "{lines}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_user_may_send_ends_and_a_restart_gives_no_second_day() {
    let users = user("ann", "senders = [\"*\"]\nmessages_per_minute = 4\nrecipients_per_day = 3");
    let case = Case::new(&users).await;
    let mut client = case.ann("clear").await;
    let own = "From: x@shop.test";
    assert!(client.send("x@shop.test", "<b@other.test>", own).await.starts_with("250"));
    client.say("MAIL FROM:<x@shop.test>").await;
    let rcpts = [client.say("RCPT TO:<b@other.test>").await, client.say("RCPT TO:<c@other.test>").await];
    let over = client.say("RCPT TO:<d@other.test>").await;
    client.say("RSET").await;
    assert!(rcpts.iter().all(|reply| reply.starts_with("250")) && over.starts_with("452 4.7.1"), "{rcpts:?} {over}");
    assert!(client.send("x@shop.test", "<b@other.test>", own).await.starts_with("250"), "what was given up comes back");
    assert!(client.send("x@shop.test", "<b@other.test>", own).await.starts_with("250"));
    let mut is_refused = false;
    for _ in 0..30 {
        is_refused |= client.say("MAIL FROM:<x@shop.test>").await.starts_with("451 4.7.1");
        client.say("RSET").await;
    }
    assert!(is_refused);

    let Case { folder, authority, daemon } = case;
    daemon.stop(Duration::from_secs(5)).await;
    let daemon = Daemon::start(config(folder.path(), "")).await.unwrap();
    let case = Case { folder, authority, daemon };
    let mut client = case.ann("clear").await;

    assert!(client.send("x@shop.test", "<b@other.test>", own).await.starts_with("452 4.7.1"), "of the same day");
    case.daemon.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_disabled_sends_no_further_message_and_another_policy_only_counts() {
    let case = Case::with(&user("ann", "senders = [\"*@shop.test\"]"), "sender_policy = \"allow\"").await;
    let mut client = case.ann("587").await;

    let foreign = client.send("x@other.test", "<b@third.test>", "From: x@other.test").await;
    assert!(foreign.starts_with("250"), "{foreign}");
    assert_eq!(case.metric("hikyaku_auth_foreign_senders_total"), "2");

    case.shut_out(&user("ann", "disabled = true")).await;
    assert_eq!(client.say("MAIL FROM:<x@shop.test>").await, GONE);
    case.daemon.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_password_ends_what_the_one_before_has_opened() {
    let ann = user("ann", "senders = [\"*@shop.test\"]");
    let case = Case::new(&ann).await;
    let mut client = case.ann("587").await;
    let own = "From: x@shop.test";
    assert!(client.send("x@shop.test", "<b@other.test>", own).await.starts_with("250"));

    case.shut_out(&ann.replace(&hash("right"), &hash("another one"))).await;

    assert_eq!(client.say("MAIL FROM:<x@shop.test>").await, GONE);
    case.daemon.stop(Duration::from_secs(5)).await;
}

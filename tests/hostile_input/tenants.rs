//! A7: what one tenant's mail and passwords lead to is that tenant's alone: refusals for its content, its authentication and
//! its mailboxes, and its quota. (Shares of a path: `tests/queue/fairness.rs`, `tests/simulate/tenants.rs`; addresses of
//! another's: `tests/security/auth.rs`.)

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde_json::Value;

use crate::cases::cases;
use crate::process::{Client, Daemon};

/// What the receiver thinks of one tenant's mail, whatever it says to the others.
const REFUSALS: [&str; 3] = [
    "554 5.7.1 Message rejected as spam by content filtering",
    "550 5.7.26 This mail is unauthenticated: SPF and DKIM did not pass",
    "550 5.1.1 The email account that you tried to reach does not exist",
];
const MESSAGES: usize = 45;

/// A receiver that refuses what comes from `bad.test`.
struct Receiver {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, taken) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let log = Arc::clone(&taken);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let log = Arc::clone(&log);
                std::thread::spawn(move || serve(stream, &log));
            }
        });
        Self { address, taken }
    }
}

fn serve(stream: TcpStream, taken: &Mutex<Vec<String>>) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let mut say = |reply: &str| writer.write_all(format!("{reply}\r\n").as_bytes()).ok();
    say("220 mx.test")?;
    let (mut from, mut refused) = (String::new(), 0);
    while let Some(line) = lines.next() {
        match line.get(..4).unwrap_or_default() {
            "EHLO" => say("250-mx.test\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES")?,
            "MAIL" => {
                from = line;
                say("250 2.1.0 ok")?;
            }
            "DATA" => {
                say("354 go")?;
                lines.by_ref().find(|line| line == ".")?;
                if from.contains("@bad.test") {
                    say(REFUSALS[refused % REFUSALS.len()])?;
                    refused += 1;
                } else {
                    taken.lock().push(from.clone());
                    say("250 2.0.0 taken")?;
                }
            }
            _ => say("250 2.0.0 ok")?,
        }
    }
    Some(())
}

fn hash(password: &str) -> String {
    use argon2::{Algorithm, Argon2, Params, Version};

    let mut out = [0; 32];
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, Some(32)).unwrap());
    argon.hash_password_into(password.as_bytes(), b"saltsalt", &mut out).unwrap();
    format!("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ${}", STANDARD.encode(out).trim_end_matches('='))
}

/// A session of the user of this tenant.
fn session(daemon: &Daemon, tenant: &str) -> Client {
    let mut client = Client::connect(daemon.address);
    client.say("EHLO c.test");
    let token = STANDARD.encode(format!("\0{tenant}\0{tenant}"));
    assert!(client.say(&format!("AUTH PLAIN {token}")).starts_with("235"));
    client
}

/// To a mailbox of its own each time: one that was refused would be suppressed.
fn submit(client: &mut Client, tenant: &str, number: usize) -> String {
    let content = format!("From: <s@{tenant}.test>\r\nSubject: x\r\n\r\nbody\r\n");
    client.submit(&format!("MAIL FROM:<s@{tenant}.test>"), &[format!("RCPT TO:<r{number}@far.test>")], &content)
}

fn events(daemon: &Daemon) -> Vec<Value> {
    daemon.journal().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn of(events: &[Value], tenant: &str, kind: &str) -> usize {
    events.iter().filter(|event| event["tenant"] == tenant && event["event"] == kind).count()
}

#[test]
fn one_tenants_refusals_and_quota_do_nothing_to_another() {
    let receiver = Receiver::start();
    let users = tempfile::tempdir().unwrap();
    let file = users.path().join("users.toml");
    let user = |name: &str, more: &str| {
        format!(
            "[[user]]\nname = \"{name}\"\ntenant = \"{name}\"\npassword = \"{}\"\nsenders = [\"*@{name}.test\"]\n{more}\n",
            hash(name)
        )
    };
    std::fs::write(&file, user("good", "") + &user("bad", &format!("recipients_per_day = {MESSAGES}"))).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let sections = format!(
        "[users]\nfile = \"{}\"\n[[route]]\ndomain = \"bad.test\"\nnext_hop = \"discard\"\n\
         [[route]]\ndomain = \"*\"\nnext_hop = \"smtp://{}\"\n",
        file.display(),
        receiver.address
    );
    let listener = "networks = [\"192.0.2.0/24\"]\nauth = true\nauth_without_tls = true";
    let mut daemon = Daemon::start("mx.test", listener, &sections);
    let (mut good, mut bad) = (session(&daemon, "good"), session(&daemon, "bad"));

    for number in 0..MESSAGES {
        assert!(submit(&mut bad, "bad", number).starts_with("250"));
        assert!(submit(&mut good, "good", number).starts_with("250"));
    }
    // The quota of one is used up, and the other goes on.
    let spent = submit(&mut bad, "bad", MESSAGES);
    assert!(spent.starts_with("45"), "{spent}");
    assert!(submit(&mut good, "good", MESSAGES).starts_with("250"));
    daemon.until("all is over", |daemon| daemon.total("queued") == 0);
    // The journal is written a little behind the spool.
    let last = MESSAGES + 1;
    daemon.until("the journal tells it", |daemon| {
        let events = events(daemon);
        of(&events, "good", "delivered") >= last && of(&events, "bad", "bounced") >= MESSAGES
    });

    let taken = receiver.taken.lock().clone();
    assert_eq!(taken.iter().filter(|from| from.contains("@good.test")).count(), MESSAGES + 1);
    let events = events(&daemon);
    let of = |tenant, kind| of(&events, tenant, kind);
    assert_eq!(of("good", "delivered"), last);
    assert_eq!(
        (of("good", "deferred"), of("good", "bounced"), of("good", "attempt")),
        (0, 0, 0),
        "nothing else happened"
    );
    assert_eq!(of("bad", "bounced"), MESSAGES);
    // No limit of the path that both share was learnt from what is about one of them.
    let (code, history) = daemon.admin("GET", b"/v1/limits/history", "");
    assert!(code == 200 && !history.contains("\"reply\":\"55"), "{history}");
    cases(2 * MESSAGES + 2);
}

//! S4: hostile text in every parameter, header field, reply, argument and request, followed to every place where it could come
//! out: log, journal, metrics, admin interface, command line, outbound commands, trace fields, DSNs.

use serde_json::{Value, json};

use crate::cases::cases;
use crate::fake_mx::{Act, FakeMx, Received, Running, Step};
use crate::hostile::{TEXTS, is_harmless, lines};
use crate::process::{Client, Daemon};

/// What receivers say about recipients, and what is never to be seen of it.
const SAID: &str = "no\x1b[31m\x07 \u{202e}such\u{2028}user";

struct World {
    daemon: Daemon,
    /// Takes everything, DSNs too.
    sink: Running,
    /// Refuses for good, and for now.
    _refusing: [Running; 2],
}

async fn world() -> World {
    let sink = FakeMx::with(&["PIPELINING", "8BITMIME", "SMTPUTF8", "DSN"]).start().await;
    let refusing = |reply: &str| {
        let octets = format!("{reply} {SAID}\r\n").into_bytes();
        FakeMx::with(&["8BITMIME", "SMTPUTF8"]).always(Step::Rcpt, Act::Raw(octets)).start()
    };
    let refusing = [refusing("550 5.1.1").await, refusing("451 4.2.0").await];
    let route = |domain: &str, to: &Running| {
        format!("[[route]]\ndomain = \"{domain}\"\nnext_hop = \"smtp://{}\"\n", to.address)
    };
    // The same recipients are refused again and again.
    let rule = "[[suppression.rule]]\nclass = \"bad-mailbox\"\naction = \"ignore\"\n";
    let routes = route("bounce.test", &refusing[0]) + &route("wait.test", &refusing[1]) + &route("*", &sink);
    let sections = routes + rule;
    World { daemon: Daemon::start("mx.test", "trust_headers = true", &sections), sink, _refusing: refusing }
}

/// Submits a message for each line that a session takes; gives how many there were.
fn submit_all(daemon: &Daemon) -> usize {
    let mut accepted = 0;
    let rcpts = |domain: &str| [format!("RCPT TO:<b@{domain}.test>")];
    for (at, text) in TEXTS.iter().enumerate() {
        let mut client = Client::connect(daemon.address);
        client.say("EHLO c.test");
        let lines = lines(text);
        let one_line = lines.iter().filter(|line| !line.contains(['\r', '\n']));
        for (number, line) in one_line.enumerate() {
            // Too many errors end a session; that is not what is asked here.
            if number % 5 == 4 {
                client = Client::connect(daemon.address);
                client.say("EHLO c.test");
            }
            let waits = at % 7 == 3;
            let content = format!("Subject: a{text}b\r\nMessage-ID: <x{text}@y>\r\n\r\nbody\r\n");
            let content =
                if text.contains(['\r', '\n', '\0']) { "Subject: x\r\n\r\nbody\r\n".to_owned() } else { content };
            let reply = match line.get(..4).unwrap_or_default() {
                "MAIL" => client.submit(line, &rcpts(if waits { "wait" } else { "bounce" }), &content),
                "RCPT" => client.submit("MAIL FROM:<a@x.test> SMTPUTF8", std::slice::from_ref(line), &content),
                "EHLO" | "HELO" => {
                    client.say(line);
                    client.submit("MAIL FROM:<a@x.test>", &rcpts("bounce"), "Subject: x\r\n\r\nbody\r\n")
                }
                _ => continue,
            };
            assert!(reply.trim_end().is_ascii() && is_harmless(reply.trim_end()), "{line:?}: {reply:?}");
            accepted += usize::from(reply.starts_with("250"));
        }
        for field in ["X-Hikyaku-Campaign: a{}b", "X-Hikyaku-Tenant: {}", "X-Hikyaku-Lane: {}", "X-Hikyaku-{}: x"] {
            let mut client = Client::connect(daemon.address);
            client.say("EHLO c.test");
            let content = format!("{}\r\n\r\nbody\r\n", field.replace("{}", text));
            if !content.replace("\r\n", "").contains(['\r', '\n']) {
                let reply = client.submit("MAIL FROM:<a@x.test>", &rcpts("wait"), &content);
                assert!(is_harmless(reply.trim_end()), "{field:?} {text:?}: {reply:?}");
                accepted += usize::from(reply.starts_with("250"));
            }
        }
    }
    accepted
}

/// What was seen that should not be; told together.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    /// Every line of a text, and what its JSON says.
    fn check(&mut self, what: &str, text: &str) {
        for line in text.lines() {
            if !is_harmless(&line.replace('\t', " ")) {
                self.0.push(format!("{what}: {line:?}"));
            }
            if let Ok(value) = serde_json::from_str::<Value>(line) {
                self.check_value(what, &value);
            }
        }
    }

    fn check_value(&mut self, what: &str, value: &Value) {
        match value {
            // Hints and notes have lines.
            Value::String(text) if !text.lines().all(is_harmless) => self.0.push(format!("{what}: {text:?}")),
            Value::Array(items) => items.iter().for_each(|item| self.check_value(what, item)),
            Value::Object(fields) => fields.values().for_each(|field| self.check_value(what, field)),
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

impl Drop for Findings {
    fn drop(&mut self) {
        assert!(self.0.is_empty() || std::thread::panicking(), "{} found: {:#?}", self.0.len(), self.0);
    }
}

/// What left: commands; of messages the trace field, of DSNs everything but what they return.
fn check_sent(sink: &Running, findings: &mut Findings) -> usize {
    for command in sink.commands() {
        assert!(is_harmless(&command), "{command:?}");
    }
    let mut dsns = 0;
    for Received { mail, content, .. } in sink.transactions() {
        let text = String::from_utf8(content).unwrap();
        if mail.starts_with("MAIL FROM:<>") && text.contains("multipart/report") {
            let boundary = text.split("boundary=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
            let parts: Vec<&str> = text.split(&format!("--{boundary}")).collect();
            assert_eq!(parts.len(), 5, "{text}");
            parts[..3].iter().for_each(|part| findings.check("a DSN", part));
            dsns += 1;
        } else {
            let trace = text.replace("\r\n\t", " ").replace("\r\n ", " ");
            let trace = trace.split("\r\n").next().unwrap_or_default();
            assert!(trace.starts_with("Received: from ") && is_harmless(trace), "{trace:?}");
        }
    }
    dsns
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_hostile_comes_out_anywhere() {
    let World { mut daemon, sink, _refusing } = world().await;

    let mut findings = Findings::default();
    let accepted = submit_all(&daemon);

    assert!(accepted > 150, "{accepted}");
    daemon.until("all but what waits is over", |daemon| {
        daemon.journal().matches("\"event\":\"bounced\"").count() > 100 && daemon.total("queued") == waiting(daemon)
    });
    let dsns = check_sent(&sink, &mut findings);
    assert!(dsns > 100, "{dsns} DSNs");
    findings.check("log", &daemon.log());
    findings.check("journal", &daemon.journal());
    findings.check("metrics", &daemon.metrics());
    for path in
        ["/v1/status", "/v1/queue", "/v1/queue/entries?limit=1000", "/v1/limits", "/v1/limits/history", "/v1/pools"]
    {
        let (code, body) = daemon.admin("GET", path.as_bytes(), "");
        assert_eq!(code, 200, "{path}: {body}");
        findings.check(path, &body);
    }
    let socket = daemon.path("admin.sock");
    let socket = socket.to_str().unwrap();
    let entries: Value = serde_json::from_str(&daemon.admin("GET", b"/v1/queue/entries?limit=1000", "").1).unwrap();
    assert!(entries.to_string().contains("wait.test"), "{entries}");
    for arguments in [
        &["queue", "list"][..],
        &["sites"],
        &["queue", "show", "wait.test"],
        &["status"],
        &["journal", "search", "--recipient", "b@bounce.test"],
        &["message", "find", "--recipient", "b@wait.test"],
        &["limits", "history"],
    ] {
        let (_, said) = daemon.command(&[arguments, &["--socket", socket]].concat());
        assert!(!said.trim().is_empty(), "{arguments:?}");
        findings.check(&format!("{arguments:?}"), &said);
    }
    cases(accepted);
}

/// Recipients at `wait.test`, which stay.
fn waiting(daemon: &Daemon) -> u64 {
    let (_, body) = daemon.admin("GET", b"/v1/queue/count?domain=wait.test", "");
    let count: Value = serde_json::from_str(&body).unwrap();
    count.as_object().unwrap().values().find_map(Value::as_u64).unwrap_or_else(|| panic!("{count}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_and_requests_are_taken_or_refused_and_never_shown_raw() {
    let World { daemon, .. } = world().await;
    let (mut count, mut taken, mut findings) = (0, 0, Findings::default());
    for text in TEXTS {
        let encoded: String = text.bytes().map(|octet| format!("%{octet:02x}")).collect();
        for path in [
            "/v1/queue/entries?recipient=",
            "/v1/queue/entries?sender=",
            "/v1/queue/entries?domain=",
            "/v1/queue/entries?campaign=",
            "/v1/queue/site?name=",
            "/v1/message/",
            "/v1/orders/",
            "/v1/limits?site=",
            "/v1/limits/explain?address=a@",
            "/v1/",
        ] {
            let (code, body) = daemon.admin("GET", format!("{path}{encoded}").as_bytes(), "");
            assert!((200..500).contains(&code), "{path}{encoded}: {code} {body}");
            findings.check(path, &body);
            count += 1;
        }
        for (path, body) in [
            ("/v1/orders", json!({"action": "hold", "selection": {"domain": text}})),
            ("/v1/orders", json!({"action": "hold", "selection": {"sender": text, "recipient": text}})),
            ("/v1/orders", json!({"action": "hold", "selection": {"campaign": text, "tenant": text}})),
            ("/v1/orders", json!({"action": {"move": {"source": text}}, "selection": {"domain": "wait.test"}})),
            ("/v1/orders", json!({"action": "hold", "selection": {"domain": "wait.test"}, "reason": text, "by": text})),
            ("/v1/limits/pin", json!({"site": text, "limit": "rate", "value": 5, "reason": text, "by": text})),
            ("/v1/limits/undo", json!({"id": text})),
            ("/v1/warmup/pause", json!({"source": text, "provider": text, "reason": text, "by": text})),
        ] {
            let (code, answer) = daemon.admin("POST", path.as_bytes(), &body.to_string());
            assert!((200..500).contains(&code), "{path} {body}: {code} {answer}");
            findings.check(path, &answer);
            count += 1;
            taken += usize::from(path == "/v1/orders" && code == 200);
        }
        if text.contains('\0') {
            continue;
        }
        for arguments in [
            &["message", "find", "--queued", "--recipient", text][..],
            &["queue", "list", "--campaign", text],
            &["queue", "show", text],
            &["message", "show", text],
            &["queue", "suspend", "--domain", "wait.test", "--reason", text],
            &["limits", "explain", text],
            &["reply", "classify", text],
        ] {
            let (code, said) = daemon.command(arguments);
            assert!((0..=3).contains(&code), "{arguments:?}: {code} {said}");
            findings.check(&format!("{arguments:?}"), &said);
            count += 1;
        }
    }
    for path in ["/v1/orders", "/v1/limits", "/v1/limits/history", "/v1/warmup"] {
        findings.check(path, &daemon.admin("GET", path.as_bytes(), "").1);
    }
    for arguments in [&["orders"][..], &["limits", "show"], &["warmup", "show"]] {
        findings.check(&format!("{arguments:?}"), &daemon.command(arguments).1);
    }
    findings.check("log", &daemon.log());
    findings.check("journal", &daemon.journal());
    assert!((20..100).contains(&taken), "{taken} orders were taken: neither all nor none should be");
    cases(count);
}

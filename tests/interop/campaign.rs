//! Two campaigns through Debian's Postfix, which refuses at RCPT, after the content, and by a DSN of its own to our VERP address; and a
//! complaint. Between them exactly the right addresses are suppressed, and everybody else gets both.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use hikyaku::clock::Clock;
use hikyaku::config::{BounceTenant, Config, Dsns, Listener, Mode, TlsMode};
use hikyaku::daemon::Daemon;
use hikyaku::demo::responder::{Responder, Zone};
use serde_json::Value;

use crate::receivers::{Receivers, SENDERS};
use crate::{PATIENCE, arrivals, daemon, prepare, skip};

const DOMAIN: &str = "chunks.postfix.test";
const BOUNCES: &str = "bounces.shop.test";
const FEEDBACK: &str = "fbl.shop.test";
/// The mailboxes of the campaign, and what becomes of each.
const GOOD: [&str; 2] = ["good1", "good2"];
const GONE: [&str; 3] = ["bad1", "after1", "async1"];
const COMPLAINS: &str = "complains1";

struct Stage {
    runtime: tokio::runtime::Runtime,
    daemon: Daemon,
    _responder: Responder,
    receivers: Receivers,
}

fn config(folder: &Path, port: u16, resolver: SocketAddr) -> Config {
    let mut config = daemon::config(folder);
    config.delivery.port = port;
    config.delivery.tls = TlsMode::None;
    config.dns.resolvers = vec![resolver];
    config.listeners[0].tenant = "shop".to_owned();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.listeners.push(Listener { mode: Mode::Returns, address, ..Listener::default() });
    config.bounces.feedback_domains = vec![FEEDBACK.to_owned()];
    let (name, domain) = ("shop".to_owned(), BOUNCES.to_owned());
    config.bounces.tenants = vec![BounceTenant { name, domain, dsn: Dsns::Send }];
    config
}

impl Stage {
    fn start(folder: &Path) -> Self {
        let receivers = Receivers::start(folder);
        let mut zone = Zone::new();
        for (domain, index) in [(DOMAIN, 2), (SENDERS, 0)] {
            let host = format!("mx.{domain}");
            zone.mx(domain, 10, &host).address(&host, receivers.address(index));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (responder, daemon) = runtime.block_on(async {
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let responder = Responder::start(at, zone).await.unwrap();
            let daemon = Daemon::start(config(folder, receivers.port, responder.address())).await.unwrap();
            (responder, daemon)
        });
        receivers.pass_on(refusing(), (BOUNCES, daemon.submission_addresses()[1].port()));
        Self { runtime, daemon, _responder: responder, receivers }
    }

    /// Submits the campaign, a message for each; gives the reply for each.
    fn send(&self, campaign: &str) -> Vec<(String, String)> {
        let server = self.daemon.submission_addresses()[0];
        let everybody = GOOD.iter().chain(&GONE).chain([&COMPLAINS]);
        let from = format!("ma@{SENDERS}");
        let submit = |mailbox: &&str| {
            let to = format!("{mailbox}@{DOMAIN}");
            let header = format!("From: {from}\r\nSubject: {campaign}\r\nX-Hikyaku-Campaign: {campaign}");
            let reply = self.runtime.block_on(daemon::submit(server, &from, &[&to], &header));
            ((*mailbox).to_owned(), reply)
        };
        everybody.map(submit).collect()
    }

    /// Who is suppressed, and why.
    fn suppressed(&self) -> BTreeSet<(String, &'static str)> {
        let entries = self.daemon.suppression().entries(Clock::system().wall());
        entries.map(|entry| entry.unwrap()).map(|entry| (entry.target.to_string(), entry.reason.as_str())).collect()
    }

    /// Says something to the listener for what comes back; the replies.
    fn tell(&self, to: &str, content: &str) -> Vec<String> {
        let mut stream = TcpStream::connect(self.daemon.submission_addresses()[1]).unwrap();
        let commands = format!("HELO isp.test\r\nMAIL FROM:<>\r\nRCPT TO:<{to}>\r\nDATA\r\n");
        let mut replies = Vec::new();
        let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
        let mut reply = || {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            line.trim().to_owned()
        };
        replies.push(reply());
        for command in commands.lines() {
            stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
            replies.push(reply());
            if !replies.last().unwrap().starts_with(['2', '3']) {
                return replies;
            }
        }
        if replies.last().unwrap().starts_with("354") {
            stream.write_all(format!("{}\r\n.\r\n", content.replace('\n', "\r\n")).as_bytes()).unwrap();
            replies.push(reply());
        }
        replies
    }

    fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < PATIENCE, "{what}: {:?}\n{}", self.suppressed(), self.receivers.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A next hop of Postfix's that knows no recipient; gives its port. Its threads end with the test process.
fn refusing() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || refuse(stream));
        }
    });
    port
}

fn refuse(mut stream: TcpStream) -> Option<()> {
    let mut lines = std::io::BufReader::new(stream.try_clone().ok()?).lines();
    stream.write_all(b"220 next.test\r\n").ok()?;
    loop {
        let reply = match lines.next()?.ok()?.get(..4)?.to_ascii_uppercase().as_str() {
            "RCPT" => "550 5.1.1 User unknown",
            "DATA" => "554 5.5.1 No valid recipients",
            "QUIT" => "221 2.0.0 Bye",
            _ => "250 2.0.0 Ok",
        };
        stream.write_all(format!("{reply}\r\n").as_bytes()).ok()?;
    }
}

/// The campaigns that each mailbox at Postfix has got, with the reverse-path of each.
fn arrived(stage: &Stage) -> BTreeSet<(String, String, String)> {
    let folder = &stage.receivers.folders()[2];
    let subject = |content: &[u8]| {
        let text = String::from_utf8_lossy(content).into_owned();
        text.lines().find_map(|line| line.strip_prefix("Subject: ").map(str::to_owned)).unwrap_or_default()
    };
    let all = arrivals::read(folder).into_iter();
    all.map(|arrival| (arrival.recipient, subject(&arrival.content), arrival.reverse_path)).collect()
}

/// The events of a kind.
fn events(folder: &Path, kind: &str) -> Vec<Value> {
    let files = fs::read_dir(folder.join("journal")).into_iter().flatten();
    let text: String = files.filter_map(|file| fs::read_to_string(file.unwrap().path()).ok()).collect();
    let all = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    all.filter(|event| event["event"] == kind).collect()
}

fn complaint(reverse_path: &str) -> String {
    format!(
        "From: fbl@isp.test\nTo: fbl@{FEEDBACK}\nSubject: complaint\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=feedback-report; boundary=B\n\n\
         --B\nContent-Type: text/plain\n\nThis is an email abuse report.\n\
         --B\nContent-Type: message/feedback-report\n\nFeedback-Type: abuse\nUser-Agent: test/1\nVersion: 1\n\
         Original-Mail-From: <{reverse_path}>\n\n\
         --B\nContent-Type: message/rfc822\n\nFrom: ma@{SENDERS}\nSubject: spring\n\nbody\n--B--\n"
    )
}

fn bounce(recipient: &str) -> String {
    format!(
        "From: MAILER-DAEMON@isp.test\nSubject: Undelivered Mail Returned to Sender\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=B\n\n\
         --B\nContent-Type: text/plain\n\nIt could not be delivered.\n\
         --B\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; isp.test\n\n\
         Final-Recipient: rfc822; {recipient}\nAction: failed\nStatus: 5.1.1\n\
         Diagnostic-Code: smtp; 550 5.1.1 User unknown\n\n--B--\n"
    )
}

#[test]
fn a_second_campaign_skips_exactly_those_whom_the_first_has_cost() {
    let folder = tempfile::tempdir().unwrap();
    if let Err(reason) = prepare(&folder.path().join("root")) {
        return skip::skip("a_second_campaign_skips_exactly_those_whom_the_first_has_cost", &reason);
    }
    let stage = Stage::start(folder.path());
    let address = |mailbox: &str| format!("{mailbox}@{DOMAIN}");

    let first = stage.send("spring");
    assert!(first.iter().all(|(_, reply)| reply.starts_with("250")), "{first:?}");
    stage.wait("three addresses that do not exist are suppressed", || stage.suppressed().len() >= 3);
    stage.wait("the others have it", || arrived(&stage).len() >= 3);
    let of_complainer = arrived(&stage).into_iter().find(|(to, ..)| *to == address(COMPLAINS)).unwrap().2;
    let of_good = arrived(&stage).into_iter().find(|(to, ..)| *to == address(GOOD[0])).unwrap().2;
    assert!(of_good.starts_with("b+") && of_good.len() <= 64 + 1 + BOUNCES.len(), "{of_good}");

    // Forged ones first: they must not spoil what follows either.
    let other = if of_good.contains("aa") { of_good.replacen("aa", "ab", 1) } else { of_good.replacen('b', "c", 2) };
    let forged = stage.tell(&other, &bounce(&address(GOOD[0])));
    let foreign = stage.tell(&format!("b@{DOMAIN}"), &bounce(&address(GOOD[0])));
    let unproved = stage.tell(&format!("fbl@{FEEDBACK}"), &bounce(&address(GOOD[1])));
    let quoted = stage.tell(&format!("fbl@{FEEDBACK}"), &complaint(&other));
    assert!(forged.last().unwrap().starts_with("550 5.1.1"), "{forged:?}");
    assert!(foreign.last().unwrap().starts_with("550 5.7.1"), "{foreign:?}");
    assert!(unproved.last().unwrap().starts_with("250") && quoted.last().unwrap().starts_with("250"));
    let told = stage.tell(&format!("fbl@{FEEDBACK}"), &complaint(&of_complainer));
    assert!(told.last().unwrap().starts_with("250"), "{told:?}");
    stage.wait("the one who complains is suppressed", || stage.suppressed().len() >= 4);
    stage.wait("all reports are told", || events(folder.path(), "report").len() >= 4);

    let mut expected: BTreeSet<_> = GONE.iter().map(|mailbox| (address(mailbox), "hard-bounce")).collect();
    expected.insert((address(COMPLAINS), "complaint"));
    assert_eq!(stage.suppressed(), expected);

    let second = stage.send("summer");
    for (mailbox, reply) in &second {
        let is_good = GOOD.contains(&mailbox.as_str());
        assert!(
            reply.starts_with(if is_good { "250" } else { "550 5.7.1 Suppressed recipient: " }),
            "{mailbox}: {reply}"
        );
    }
    stage.wait("the others have the second one, too", || arrived(&stage).len() >= 5);
    let got: BTreeSet<_> = arrived(&stage).into_iter().map(|(to, campaign, _)| (to, campaign)).collect();
    let both = GOOD.iter().flat_map(|mailbox| ["spring", "summer"].map(|it| (address(mailbox), it.to_owned())));
    let due: BTreeSet<_> = both.chain([(address(COMPLAINS), "spring".to_owned())]).collect();
    assert_eq!(got, due);

    check_events(folder.path(), &address);
    check_metrics(&stage.daemon.registry().render());
    stage.runtime.block_on(stage.daemon.stop(Duration::from_secs(5)));
}

/// Every step is in the journal.
fn check_events(folder: &Path, address: &dyn Fn(&str) -> String) {
    let added: BTreeSet<_> =
        events(folder, "suppression").iter().filter_map(|event| Some(event["reason"].as_str()?.to_owned())).collect();
    assert_eq!(added, ["complaint", "hard-bounce"].map(str::to_owned).into());
    let reports = events(folder, "report");
    let of = |report: &str, evidence: &str| {
        reports.iter().find(|event| event["report"] == report && event["evidence"] == evidence).unwrap()
    };
    let bounced = of("bounce", "token");
    assert_eq!(bounced["recipient"], address("async1"));
    assert_eq!((&bounced["action"], &bounced["class"]), (&"suppressed".into(), &"bad-mailbox".into()));
    assert_eq!((&bounced["campaign"], &bounced["mx_host"]), (&"spring".into(), &format!("mx.{DOMAIN}").into()));
    assert!(bounced["delivered"].is_string() && bounced["passed_on"].is_string(), "{bounced}");
    let complained = of("feedback", "quoted");
    assert_eq!((&complained["recipient"], &complained["feedback_type"]), (&address(COMPLAINS).into(), &"abuse".into()));
    for (report, action) in [("bounce", "none"), ("feedback", "none")] {
        assert_eq!(of(report, "none")["action"], action);
    }
    let refused: BTreeSet<_> =
        events(folder, "suppressed").iter().map(|event| event["recipient"].as_str().unwrap().to_owned()).collect();
    assert_eq!(refused, GONE.iter().chain([&COMPLAINS]).map(|mailbox| address(mailbox)).collect());
}

fn check_metrics(text: &str) {
    for line in [
        "hikyaku_submission_rejected_total{cause=\"forged\"} 1",
        "hikyaku_submission_rejected_total{cause=\"suppressed\"} 4",
        "hikyaku_suppressed_recipients_total{reason=\"hard-bounce\"} 3",
        "hikyaku_suppressed_recipients_total{reason=\"complaint\"} 1",
        "hikyaku_feedback_reports_total 4",
        "hikyaku_feedback_actions_total{action=\"suppressed\"} 2",
        "hikyaku_feedback_recipients_total{evidence=\"token\"} 1",
        "hikyaku_feedback_passed_on_total{result=\"ok\"} 1",
        "hikyaku_feedback_pending_reports 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
    }
}

//! A daemon of one tenant, `shop`, with a listener for what comes back, and receivers that say what they are told to.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hikyaku::clock::Clock;
use hikyaku::config::{BounceTenant, Config, Dsns, Listener, Mode, Route};
use hikyaku::daemon::Daemon;
use hikyaku::state::suppression::{Change, Entry, Reason, Scope};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::daemon;
use crate::fake_mx::{self, FakeMx, Step};

pub const BOUNCES: &str = "bounces.test";
pub const FEEDBACK: &str = "fbl.test";
const PATIENCE: Duration = Duration::from_secs(30);

/// Domains, and the receiver of each: a reply to every RCPT, or none.
pub const GOOD: &str = "good.test";
pub const GONE: &str = "gone.test";
pub const FULL: &str = "full.test";
pub const LATER: &str = "later.test";
pub const SPAM: &str = "spam.test";
pub const SENDER: &str = "sender.test";

pub struct Stage {
    pub daemon: Option<Daemon>,
    pub folder: tempfile::TempDir,
    pub good: fake_mx::Running,
    pub later: fake_mx::Running,
    pub sender: fake_mx::Running,
    _others: Vec<fake_mx::Running>,
    config: Config,
}

impl Stage {
    pub async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = daemon::config(folder.path());
        let saying = |reply: &'static str| FakeMx::new().always(Step::Rcpt, reply).start();
        let (good, sender) = (FakeMx::new().start().await, FakeMx::new().start().await);
        let later = FakeMx::new().on(Step::Rcpt, "451 4.7.1 Come back later").start().await;
        let gone = saying("550 5.1.1 User unknown").await;
        let full = saying("452 4.2.2 Mailbox full").await;
        let spam = saying("550 5.7.1 Message rejected as spam").await;
        let route = |domain: &str, to: &fake_mx::Running| {
            config.routes.push(Route { domain: domain.to_owned(), next_hop: format!("smtp://{}", to.address) });
        };
        let all = [(GOOD, &good), (GONE, &gone), (FULL, &full), (LATER, &later), (SPAM, &spam), (SENDER, &sender)];
        all.into_iter().for_each({
            let mut route = route;
            move |(domain, to)| route(domain, to)
        });
        config.listeners[0].tenant = "shop".to_owned();
        let returns = Listener { mode: Mode::Returns, address: config.listeners[0].address, ..Listener::default() };
        config.listeners.push(returns);
        config.retry.schedule = vec!["1s".parse().unwrap()];
        config.bounces.feedback_domains = vec![FEEDBACK.to_owned()];
        let (name, domain) = ("shop".to_owned(), BOUNCES.to_owned());
        config.bounces.tenants = vec![BounceTenant { name, domain, dsn: Dsns::Send }];
        change(&mut config);
        let daemon = Some(Daemon::start(config.clone()).await.unwrap());
        Self { daemon, folder, good, later, sender, _others: vec![gone, full, spam], config }
    }

    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    pub async fn stop(&mut self) {
        self.daemon.take().unwrap().stop(Duration::from_secs(5)).await;
    }

    pub async fn restarted_as(mut self, config: Config) -> Self {
        self.stop().await;
        self.config = config;
        self.restart().await;
        self
    }

    pub async fn restart(&mut self) {
        self.daemon = Some(Daemon::start(self.config.clone()).await.unwrap());
    }

    /// Submits a message to these; the reply to its end, or the first that refuses it.
    pub async fn submit(&self, to: &[&str], header: &str) -> String {
        let server = self.daemon().submission_addresses()[0];
        daemon::submit(server, &format!("ma@{SENDER}"), to, &format!("From: ma@{SENDER}\r\n{header}")).await
    }

    /// Tells the listener for what comes back; the last reply.
    pub async fn tell(&self, to: &str, content: &str) -> String {
        said(self.daemon().submission_addresses()[1], "", to, content).await.pop().unwrap()
    }

    pub fn add(&self, target: &str, scope: Scope, reason: Reason) {
        let added = Clock::system().wall();
        let (target, source) = (target.parse().unwrap(), "test".into());
        let entry = Entry { target, scope, reason, source, added, until: None };
        self.daemon().suppression().apply(&[Change::Add(entry)], added).unwrap();
    }

    /// Who is suppressed: target, reason, tenant.
    pub fn suppressed(&self) -> BTreeSet<(String, &'static str, String)> {
        let entries = self.daemon().suppression().entries(Clock::system().wall());
        let shown = |entry: Entry| (entry.target.to_string(), entry.reason.as_str(), entry.scope.names().0.to_owned());
        entries.map(|entry| shown(entry.unwrap())).collect()
    }

    /// The events of a kind.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let files = std::fs::read_dir(self.folder.path().join("journal")).into_iter().flatten();
        let text: String = files.filter_map(|file| std::fs::read_to_string(file.unwrap().path()).ok()).collect();
        let all = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        all.filter(|event| event["event"] == kind).collect()
    }

    /// The events of a kind, once there are so many.
    pub async fn told(&self, kind: &str, count: usize) -> Vec<Value> {
        self.until(kind, || self.events(kind).len() >= count).await;
        self.events(kind)
    }

    pub fn metric(&self, line: &str) -> bool {
        self.daemon().registry().render().lines().any(|found| found == line)
    }

    pub async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < PATIENCE, "{what}: {:?}", self.suppressed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The reverse-path with which a message to this address was delivered.
    pub async fn reverse_path(&self, to: &str) -> String {
        let find = || {
            let all = self.good.transactions();
            let found = all.into_iter().find(|got| got.rcpts.iter().any(|rcpt| rcpt.contains(&format!("<{to}>"))));
            found.map(|got| got.mail.split(['<', '>']).nth(1).unwrap().to_owned())
        };
        self.until("it is delivered", || find().is_some()).await;
        find().unwrap()
    }
}

/// A transaction of one recipient; all replies, the greeting first.
pub async fn said(server: SocketAddr, from: &str, to: &str, content: &str) -> Vec<String> {
    let (reader, mut writer) = TcpStream::connect(server).await.unwrap().into_split();
    let mut lines = BufReader::new(reader).lines();
    let mut replies = vec![lines.next_line().await.unwrap().unwrap()];
    let content = content.replace("\r\n", "\n").replace('\n', "\r\n");
    let commands =
        ["EHLO isp.test".to_owned(), format!("MAIL FROM:<{from}>"), format!("RCPT TO:<{to}>"), "DATA".to_owned()];
    for command in commands.into_iter().chain([format!("{content}\r\n.")]) {
        writer.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
        loop {
            let line = lines.next_line().await.unwrap().unwrap();
            let is_last = line.as_bytes().get(3) != Some(&b'-');
            replies.push(line);
            if is_last {
                break;
            }
        }
        if !replies.last().unwrap().starts_with(['2', '3']) {
            break;
        }
    }
    replies
}

/// A DSN (RFC 3464) about these.
pub fn bounce(recipients: &[&str], action: &str, diagnostic: &str) -> String {
    let field = |recipient: &&str| {
        let status = diagnostic.split(' ').nth(1).unwrap();
        format!(
            "\nFinal-Recipient: rfc822; {recipient}\nAction: {action}\nStatus: {status}\nDiagnostic-Code: smtp; {diagnostic}\n"
        )
    };
    let fields: String = recipients.iter().map(field).collect();
    format!(
        "From: MAILER-DAEMON@isp.test\nSubject: Undelivered Mail Returned to Sender\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=B\n\n\
         --B\nContent-Type: text/plain\n\nIt could not be delivered.\n\
         --B\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; isp.test\n{fields}\n--B--\n"
    )
}

/// A feedback report (RFC 5965) of a type, which quotes this as Original-Mail-From.
pub fn feedback(feedback_type: &str, reverse_path: &str) -> String {
    format!(
        "From: fbl@isp.test\nSubject: complaint\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=feedback-report; boundary=B\n\n\
         --B\nContent-Type: text/plain\n\nThis is a report.\n\
         --B\nContent-Type: message/feedback-report\n\nFeedback-Type: {feedback_type}\nUser-Agent: test/1\nVersion: 1\n\
         Original-Mail-From: <{reverse_path}>\n\n\
         --B\nContent-Type: message/rfc822\n\nFrom: ma@{SENDER}\nSubject: x\n\nbody\n--B--\n"
    )
}

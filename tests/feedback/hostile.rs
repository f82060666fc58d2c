//! Strangers at the listener for what comes back (A9 of the table of bad input): it relays nothing, and acts on nothing that was not
//! given out.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::cases::cases;
use crate::stage::{BOUNCES, FEEDBACK, GOOD, SENDER, Stage, bounce};
use crate::tricks::TRICKS;

const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyz234567";

/// A session; begun again before its errors end it.
struct Stranger {
    server: SocketAddr,
    session: Option<(Lines<BufReader<OwnedReadHalf>>, OwnedWriteHalf)>,
    errors: usize,
}

impl Stranger {
    fn new(stage: &Stage) -> Self {
        Self { server: stage.daemon().submission_addresses()[1], session: None, errors: 0 }
    }

    async fn say(&mut self, line: &str) -> String {
        let (lines, writer) = self.session.as_mut().unwrap();
        writer.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
        last_line(lines).await
    }

    /// The replies to MAIL, RCPT and DATA.
    async fn tries(&mut self, from: &str, to: &str) -> [String; 3] {
        if self.session.is_none() || self.errors > 10 {
            let (reader, writer) = TcpStream::connect(self.server).await.unwrap().into_split();
            let mut lines = BufReader::new(reader).lines();
            last_line(&mut lines).await;
            (self.session, self.errors) = (Some((lines, writer)), 0);
            self.say("EHLO stranger.test").await;
        }
        let mail = self.say(&format!("MAIL FROM:<{from}>")).await;
        let rcpt = self.say(&format!("RCPT TO:{to}")).await;
        let data = if rcpt.starts_with('2') { String::new() } else { self.say("DATA").await };
        self.errors += [&mail, &rcpt, &data].into_iter().filter(|reply| reply.starts_with('5')).count();
        self.say("RSET").await;
        [mail, rcpt, data]
    }
}

async fn last_line(lines: &mut Lines<BufReader<OwnedReadHalf>>) -> String {
    loop {
        let line = lines.next_line().await.unwrap().unwrap();
        if line.as_bytes().get(3) != Some(&b'-') {
            return line;
        }
    }
}

async fn delivered() -> (Stage, String) {
    let stage = Stage::start(|config| config.hostname = "mx.test".to_owned()).await;
    let ann = format!("ann@{GOOD}");
    stage.submit(&[&ann], "Subject: x").await;
    let reverse_path = stage.reverse_path(&ann).await;
    (stage, reverse_path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_relayed_by_whatever_path() {
    let (stage, reverse_path) = delivered().await;
    let (local, _) = reverse_path.split_once('@').unwrap();
    let mut tricks: Vec<String> = TRICKS.map(str::to_owned).into();
    // The same with the domains that are served, and with what comes back by rights.
    for domain in [BOUNCES, FEEDBACK] {
        tricks.extend(TRICKS.iter().map(|trick| trick.replace("mx.test", domain)));
    }
    tricks.extend([
        format!("<@{BOUNCES}:b@other.test>"),
        format!("<{local}%{BOUNCES}@other.test>"),
        format!("<{reverse_path}@other.test>"),
        format!("<{local}@{BOUNCES}.other.test>"),
        format!("<{local}@other.{BOUNCES}>"),
        format!("<\"{local}@{BOUNCES}\"@other.test>"),
        format!("<b@other.test>{reverse_path}"),
        format!("<ma@{SENDER}>"),
    ]);
    let mut stranger = Stranger::new(&stage);
    let mut count = 0;
    for from in ["", "a@isp.test", &format!("ma@{SENDER}"), &reverse_path] {
        for trick in &tricks {
            // Complaints may be sent to any mailbox there.
            if trick.ends_with(&format!("@{FEEDBACK}>")) || trick.ends_with(&format!("{}.>", FEEDBACK.to_uppercase())) {
                continue;
            }
            let [_, rcpt, data] = stranger.tries(from, trick).await;

            assert!(rcpt.starts_with('5') && data.starts_with('5'), "{from} {trick}: {rcpt} {data}");
            count += 1;
        }
    }
    cases(count);
    assert!(stage.metric("hikyaku_feedback_reports_total 0"));
    assert_eq!(stage.good.transactions().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_taken_in_any_case_and_never_changed() {
    let (stage, reverse_path) = delivered().await;
    let (local, _) = reverse_path.split_once('@').unwrap();
    let token = local.strip_prefix("b+").unwrap();
    let mut changed: Vec<String> = Vec::new();
    for (at, was) in token.char_indices() {
        let others = ALPHABET.chars().filter(|letter| *letter != was);
        changed.extend(others.map(|letter| format!("b+{}{letter}{}", &token[..at], &token[at + 1..])));
        changed.push(format!("b+{}", &token[..at]));
    }
    changed.extend([
        token.to_owned(),
        format!("u+{token}"),
        format!("b-{token}"),
        format!("b+{token}a"),
        format!("b+a{token}"),
        format!("b+{token}+x"),
        format!("b+{token}="),
        format!("b++{token}"),
        format!("\"b+ {token}\""),
    ]);
    let mut stranger = Stranger::new(&stage);
    for forged in &changed {
        let [_, rcpt, data] = stranger.tries("", &format!("<{forged}@{BOUNCES}>")).await;
        assert!(rcpt.starts_with("55") && data.starts_with('5'), "{forged}: {rcpt} {data}");
    }
    let mixed: String =
        token.char_indices().map(|(at, c)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c }).collect();
    for folded in [local.to_uppercase(), format!("b+{mixed}")] {
        let [_, rcpt, _] = stranger.tries("", &format!("<{folded}@{}>", BOUNCES.to_uppercase())).await;
        assert!(rcpt.starts_with("250"), "{folded}: {rcpt}");
    }
    cases(changed.len() + 2);
    assert_eq!(stage.suppressed(), [].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_comes_again_makes_nothing_more() {
    let (stage, reverse_path) = delivered().await;
    let content = bounce(&[&format!("ann@{GOOD}")], "failed", "550 5.1.1 User unknown");
    for _ in 0..3 {
        stage.tell(&reverse_path, &content).await;
    }

    stage.told("report", 3).await;

    assert_eq!(stage.suppressed(), [(format!("ann@{GOOD}"), "hard-bounce", "shop".to_owned())].into());
    assert_eq!(stage.told("suppression", 1).await.len(), 1, "only the first has made an entry");
}

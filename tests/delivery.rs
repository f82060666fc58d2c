//! Delivery against scripted receivers: the transaction on the wire.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/errand.rs"]
mod errand;
#[path = "common/fake_mx.rs"]
mod fake_mx;

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use errand::{Errand, Log, Run, errand, errand_to};
use fake_mx::{Act, Dialect, FakeMx, Running, Step};
use hikyaku::dns::Transport;
use hikyaku::message::{Content, Envelope, Notify, Outcome, Phase, Ret};

const CONTENT: &[u8] = b"Subject: x\r\n\r\n.hidden\r\n..\r\n.\r\nend\r\n";

fn reads(mx: &Running) -> Vec<String> {
    mx.reads().iter().map(|(_, read)| String::from_utf8_lossy(read).into_owned()).collect()
}

fn all_delivered(log: &Log, numbers: &[u64]) -> bool {
    let delivered = |outcomes: &[Outcome]| outcomes.iter().all(|outcome| matches!(outcome, Outcome::Delivered(_)));
    log.reports.iter().all(|(_, outcomes)| delivered(outcomes))
        && log.reports.iter().map(|report| report.0).collect::<Vec<_>>() == numbers
}

fn change(mut errand: Errand, change: impl FnOnce(&mut Envelope)) -> Errand {
    let mut envelope = (*errand.message.envelope).clone();
    change(&mut envelope);
    errand.message.envelope = Arc::new(envelope);
    errand
}

#[tokio::test]
async fn messages_follow_each_other_with_one_round_trip_each() {
    let mx = FakeMx::new().start().await;

    let log = Run::to(&[&mx]).ready((1..=3).map(|number| errand(number, CONTENT))).go().await;

    assert!(all_delivered(&log, &[1, 2, 3]), "{log:?}");
    assert!(mx.transactions().iter().all(|received| received.content == CONTENT));
    let reads = reads(&mx);
    assert_eq!(reads.len(), 6, "EHLO, the first envelope, three contents, QUIT: {reads:?}");
    let next = format!("MAIL FROM:<s2@sender.test> SIZE={}\r\nRCPT TO:<r0@example.test>\r\nDATA\r\n", CONTENT.len());
    assert!(reads[2].ends_with(&format!("\r\n.\r\n{next}")), "{:?}", reads[2]);
}

#[tokio::test]
async fn with_chunking_envelope_and_content_go_in_one_write_and_nothing_ahead() {
    let mx = FakeMx::with(&["PIPELINING", "CHUNKING"]).start().await;

    let log = Run::to(&[&mx]).ready((1..=3).map(|number| errand(number, CONTENT))).go().await;

    assert!(all_delivered(&log, &[1, 2, 3]), "{log:?}");
    assert!(mx.transactions().iter().all(|received| received.content == CONTENT));
    let reads = reads(&mx);
    assert_eq!(reads.len(), 5, "EHLO, three transactions, QUIT: {reads:?}");
    let content = String::from_utf8_lossy(CONTENT);
    let size = CONTENT.len();
    let write = format!("MAIL FROM:<s2@sender.test>\r\nRCPT TO:<r0@example.test>\r\nBDAT {size} LAST\r\n{content}");
    assert_eq!(reads[2], write);
}

#[tokio::test]
async fn without_pipelining_each_command_waits_for_its_reply() {
    for extensions in [&["CHUNKING"][..], &[]] {
        let mx = FakeMx::with(extensions).start().await;

        let log = Run::to(&[&mx]).ready((1..=2).map(|number| errand(number, CONTENT))).go().await;

        assert!(all_delivered(&log, &[1, 2]), "{log:?}");
        let commands =
            |read: &str| read.matches("MAIL").count() + read.matches("RCPT").count() + read.matches("DATA\r").count();
        assert!(reads(&mx).iter().all(|read| commands(read) <= 1), "{:?}", reads(&mx));
        assert!(mx.transactions().iter().all(|received| received.content == CONTENT));
    }
}

#[tokio::test]
async fn each_refused_recipient_has_its_own_outcome() {
    let mx = FakeMx::new().on(Step::Rcpt, "550 5.1.1 no").on(Step::Rcpt, "452 4.2.2 full").start().await;

    let recipients = ["a@example.test", "b@example.test", "c@example.test"];
    let log = Run::to(&[&mx]).ready([errand_to(1, CONTENT, &recipients)]).go().await;

    let outcomes = &log.reports[0].1;
    assert!(matches!(outcomes[..], [Outcome::Bounced(_), Outcome::Deferred(_), Outcome::Delivered(_)]), "{outcomes:?}");
    assert_eq!(mx.transactions()[0].rcpts, ["RCPT TO:<c@example.test>"]);
    assert_eq!(log.attempts[0].1, [2], "only the accepted one is attempted");
}

#[tokio::test]
async fn after_354_without_a_recipient_only_the_dot_goes() {
    let mx = FakeMx::new().on(Step::Rcpt, "550 5.1.1 no").on(Step::Data, "354 go on").start().await;

    let log = Run::to(&[&mx]).ready([errand(1, CONTENT), errand(2, CONTENT)]).go().await;

    assert!(matches!(log.reports[0].1[..], [Outcome::Bounced(_)]), "{log:?}");
    assert!(matches!(log.reports[1].1[..], [Outcome::Delivered(_)]), "{log:?}");
    assert!(reads(&mx).contains(&".\r\n".to_owned()), "{:?}", reads(&mx));
    assert_eq!(log.attempts.len(), 1);
}

#[tokio::test]
async fn after_a_refused_bdat_rset_and_its_reply_come_before_the_next_mail() {
    for (step, reply) in [(Step::Rcpt, "550 5.1.1 no"), (Step::Mail, "550 5.1.8 no"), (Step::EndOfData, "554 5.6.0 no")]
    {
        let mx = FakeMx::with(&["PIPELINING", "CHUNKING"]).on(step, reply).start().await;

        let log = Run::to(&[&mx]).ready([errand(1, CONTENT), errand(2, CONTENT)]).go().await;

        assert!(matches!(log.reports[0].1[..], [Outcome::Bounced(_)]), "{step:?}: {log:?}");
        assert!(matches!(log.reports[1].1[..], [Outcome::Delivered(_)]), "{step:?}: {log:?}");
        assert!(reads(&mx).contains(&"RSET\r\n".to_owned()), "alone in its write: {:?}", reads(&mx));
        let arrived = mx.transactions();
        assert_eq!((arrived.len(), arrived[0].mail.as_str()), (1, "MAIL FROM:<s2@sender.test>"));
    }
}

#[tokio::test]
async fn a_large_content_is_not_sent_by_bdat_before_a_recipient_is_accepted() {
    let mx = FakeMx::with(&["PIPELINING", "CHUNKING"]).on(Step::Rcpt, "550 5.1.1 no").start().await;
    let large = [CONTENT, &b"0123456789\r\n".repeat(30_000)].concat();

    let log = Run::to(&[&mx]).ready([errand(1, &large), errand(2, &large)]).go().await;

    assert!(matches!(log.reports[0].1[..], [Outcome::Bounced(_)]), "{log:?}");
    assert_eq!(mx.transactions()[0].content, large);
    assert_eq!(mx.commands().iter().filter(|command| command.starts_with("BDAT")).count(), 1);
}

#[tokio::test]
async fn after_a_throttle_reply_the_connection_closes_and_the_next_message_goes_back() {
    for reply in ["421 4.7.0 later", "451 4.7.1 too many messages, slow down", "450 4.3.2 overloaded"] {
        let mx = FakeMx::new().on(Step::EndOfData, Act::Raw(format!("{reply}\r\n").into_bytes())).start().await;

        let log = Run::to(&[&mx]).ready((1..=3).map(|number| errand(number, CONTENT))).go().await;

        assert!(matches!(log.reports[..], [(1, _)]), "{reply}: {log:?}");
        assert!(matches!(log.reports[0].1[..], [Outcome::Deferred(_)]), "{log:?}");
        assert_eq!((log.returned.as_slice(), mx.transactions().len()), (&[2][..], 0), "{log:?}");
    }
}

#[tokio::test]
async fn a_transient_reply_that_is_no_throttle_keeps_the_connection() {
    let mx = FakeMx::new().on(Step::EndOfData, "451 4.6.0 cannot store this one").start().await;

    let log = Run::to(&[&mx]).ready((1..=2).map(|number| errand(number, CONTENT))).go().await;

    assert!(matches!(log.reports[0].1[..], [Outcome::Deferred(_)]), "{log:?}");
    assert!(matches!(log.reports[1].1[..], [Outcome::Delivered(_)]), "{log:?}");
    assert_eq!(mx.connections(), 1);
}

#[tokio::test]
async fn a_host_that_closes_inside_a_look_ahead_is_remembered() {
    let mx = FakeMx::new().on(Step::Idle, Act::Fin).start().await;

    let (log, shared) = Run::to(&[&mx]).ready((1..=2).map(|number| errand(number, CONTENT))).go_and_remember().await;
    let before = mx.reads().len();
    let second = Run::to(&[&mx]).remembering(&shared).ready((2..=3).map(|number| errand(number, CONTENT))).go().await;

    assert!(all_delivered(&log, &[1]) && log.returned == [2], "the second goes back uncharged: {log:?}");
    assert!(all_delivered(&second, &[2, 3]), "{second:?}");
    let ahead = reads(&mx).split_off(before).iter().any(|read| read.contains(".\r\nMAIL"));
    assert!(!ahead, "{:?}", reads(&mx));
}

#[tokio::test]
async fn the_limits_of_rfc_9422_are_honoured() {
    let mx = FakeMx::with(&["PIPELINING", "LIMITS MAILMAX=2 RCPTMAX=2"]).start().await;
    let recipients = ["a@example.test", "b@example.test", "c@example.test"];

    let log = Run::to(&[&mx]).ready([errand_to(1, CONTENT, &recipients), errand(2, CONTENT)]).go().await;

    assert!(all_delivered(&log, &[1]), "{log:?}");
    let counts: Vec<_> = mx.transactions().iter().map(|received| received.rcpts.len()).collect();
    assert_eq!(counts, [2, 1]);
    assert_eq!(mx.commands().last().unwrap(), "QUIT");
}

#[tokio::test]
async fn recipients_that_were_too_many_go_in_another_transaction() {
    for reply in ["452 4.5.3 too many", "452 Too many recipients", "552 too many"] {
        let mx = FakeMx::new().on(Step::Rcpt, Act::Normal).on(Step::Rcpt, reply).start().await;
        let recipients = ["a@example.test", "b@example.test", "c@example.test"];

        let log = Run::to(&[&mx]).ready([errand_to(1, CONTENT, &recipients), errand(2, CONTENT)]).go().await;

        assert!(all_delivered(&log, &[1, 2]), "{reply}: {log:?}");
        let counts: Vec<_> = mx.transactions().iter().map(|received| received.rcpts.len()).collect();
        assert_eq!((counts.as_slice(), mx.connections()), (&[2, 1, 1][..], 1));
    }
}

#[tokio::test]
async fn a_session_limit_costs_no_message_and_is_learnt_for_look_aheads() {
    let mx = FakeMx::new();
    let limited = (0..2).fold(mx, |mx, _| mx.on(Step::Mail, Act::Normal).on(Step::Mail, "421 4.7.0 enough"));
    let mx = limited.start().await;

    let (log, shared) = Run::to(&[&mx]).ready((1..=2).map(|number| errand(number, CONTENT))).go_and_remember().await;
    let before = mx.reads().len();
    let again = Run::to(&[&mx]).remembering(&shared).ready((2..=3).map(|number| errand(number, CONTENT))).go().await;
    let lifted = Run::to(&[&mx]).remembering(&shared).ready((3..=6).map(|number| errand(number, CONTENT))).go().await;

    assert!(all_delivered(&log, &[1]) && log.returned == [2], "{log:?}");
    assert!(all_delivered(&again, &[2]) && again.returned == [3], "{again:?}");
    assert!(all_delivered(&lifted, &[3, 4, 5, 6]), "{lifted:?}");
    let ahead: Vec<bool> = reads(&mx)[before..]
        .iter()
        .filter(|read| read.contains("Subject"))
        .map(|read| read.contains(".\r\nMAIL"))
        .collect();
    assert_eq!(ahead, [false, false, false, true, false], "the limit no longer holds: look ahead again");
}

#[tokio::test]
async fn an_out_of_step_503_defers_and_closes() {
    let mx = FakeMx::new().on(Step::Mail, Act::Normal).on(Step::Mail, "503 5.5.1 sender already given").start().await;

    let log = Run::to(&[&mx])
        .settings(|settings| settings.look_ahead = false)
        .ready((1..=3).map(|number| errand(number, CONTENT)))
        .go()
        .await;

    assert!(matches!(log.reports[1].1[..], [Outcome::Deferred(_)]), "{log:?}");
    assert_eq!((log.reports.len(), mx.connections()), (2, 1), "{log:?}");
}

#[tokio::test]
async fn what_a_receiver_lacks_sends_the_message_to_another_mx_host() {
    let address = |last| std::net::IpAddr::from([127, 4, 0, last]);
    let old = FakeMx::with(&["PIPELINING"]).start_at(address(1), 0).await;
    let new = FakeMx::new().start_at(address(2), old.address.port()).await;

    let log = Run::to(&[&old, &new]).ready([errand(1, "Subject: x\r\n\r\n\u{fc}\r\n".as_bytes())]).go().await;

    assert!(all_delivered(&log, &[1]), "{log:?}");
    assert_eq!((old.transactions().len(), new.transactions().len()), (0, 1));
    assert!(new.transactions()[0].mail.ends_with(" BODY=8BITMIME"), "{:?}", new.transactions()[0].mail);
}

#[tokio::test]
async fn a_message_too_large_for_one_mx_host_goes_to_another() {
    let address = |last| std::net::IpAddr::from([127, 4, 4, last]);
    let small = FakeMx::with(&["PIPELINING", "SIZE 100"]).start_at(address(1), 0).await;
    let large = FakeMx::with(&["PIPELINING", "SIZE 1000"]).start_at(address(2), small.address.port()).await;

    let log = Run::to(&[&small, &large]).ready([errand(1, &b"x\r\n".repeat(100))]).go().await;

    assert!(all_delivered(&log, &[1]), "{log:?}");
    assert_eq!((small.transactions().len(), large.transactions().len()), (0, 1));
}

#[tokio::test]
async fn what_every_mx_host_lacks_bounces() {
    let body = "Subject: x\r\n\r\n\u{fc}\r\n".as_bytes();
    let header = "Subject: \u{fc}\r\n\r\nx\r\n".as_bytes();
    let utf8 = ["\u{fc}@example.test", "a@example.test"];
    let address = |last| std::net::IpAddr::from([127, 4, 1, last]);
    let a = FakeMx::with(&["SIZE 100"]).start_at(address(1), 0).await;
    let b = FakeMx::with(&["SIZE 100"]).start_at(address(2), a.address.port()).await;
    let status = |log: &Log, position: usize| match &log.reports[0].1[position] {
        Outcome::Bounced(report) => report.reply.status.unwrap().to_string(),
        outcome => panic!("{outcome:?}"),
    };

    let eight_bit = Run::to(&[&a, &b]).ready([errand(1, body)]).go().await;
    let header = Run::to(&[&a, &b]).ready([errand(1, header)]).go().await;
    let mailbox = Run::to(&[&a, &b]).ready([errand_to(1, CONTENT, &utf8)]).go().await;
    let size = Run::to(&[&a, &b]).ready([errand(1, &b"x\r\n".repeat(100)), errand(2, CONTENT)]).go().await;

    assert_eq!(status(&eight_bit, 0), "5.6.3");
    assert_eq!(status(&header, 0), "5.6.9");
    assert_eq!(status(&mailbox, 0), "5.6.7");
    assert!(matches!(mailbox.reports[0].1[1], Outcome::Delivered(_)), "the other recipient gets it: {mailbox:?}");
    assert_eq!(status(&size, 0), "5.3.4");
    assert!(matches!(size.reports[1].1[..], [Outcome::Delivered(_)]), "{size:?}");
    let commands = [a.commands(), b.commands()].concat();
    assert_eq!(commands.iter().filter(|command| command.starts_with("MAIL")).count(), 2, "{commands:?}");
}

#[tokio::test]
async fn smtputf8_is_asked_for_when_it_is_needed() {
    let mx = FakeMx::with(&["SMTPUTF8", "8BITMIME"]).start().await;
    let needing = errand_to(1, CONTENT, &["\u{fc}@example.test"]);

    let log = Run::to(&[&mx]).ready([needing, errand(2, CONTENT)]).go().await;

    assert!(all_delivered(&log, &[1, 2]), "{log:?}");
    let mails: Vec<_> = mx.transactions().into_iter().map(|received| received.mail).collect();
    assert_eq!(mails, ["MAIL FROM:<s1@sender.test> SMTPUTF8", "MAIL FROM:<s2@sender.test>"]);
}

#[tokio::test]
async fn dsn_parameters_go_to_a_receiver_that_knows_them_and_only_there() {
    let asking = || {
        change(errand(1, CONTENT), |envelope| {
            envelope.ret = Some(Ret::Headers);
            envelope.envid = Some("id+2B1".into());
            envelope.recipients[0].notify = Notify(Notify::SUCCESS.0 | Notify::DELAY.0);
            envelope.recipients[0].orcpt = Some("rfc822;a+40b.test".into());
        })
    };
    let (with, without) = (FakeMx::with(&["DSN"]).start().await, FakeMx::new().start().await);

    let relayed = Run::to(&[&with]).ready([asking()]).go().await;
    let not_relayed = Run::to(&[&without]).ready([asking()]).go().await;

    let received = with.transactions().remove(0);
    assert_eq!(received.mail, "MAIL FROM:<s1@sender.test> RET=HDRS ENVID=id+2B1");
    assert_eq!(received.rcpts, ["RCPT TO:<r0@example.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+40b.test"]);
    assert_eq!(without.transactions()[0].rcpts, ["RCPT TO:<r0@example.test>"]);
    assert!(relayed.reports[0].1[0].report().relayed_dsn && !not_relayed.reports[0].1[0].report().relayed_dsn);
}

#[tokio::test]
async fn hostile_replies_defer_and_close() {
    let endless = "250-x\r\n".repeat(200);
    let replies: [&[u8]; 10] = [
        b"250-a\r\n550 b\r\n",
        b"000 zero\r\n",
        b"999 what\r\n",
        b"250 a\0b\r\n",
        b"2.0.0 ok\r\n",
        b"354 not now\r\n",
        b"250 one\r\n250 two\r\n250 three\r\n250 four\r\n",
        b"<html>\r\n",
        endless.as_bytes(),
        &[b'x'; 100_000],
    ];
    for extensions in [&["PIPELINING"][..], &["PIPELINING", "CHUNKING"], &[]] {
        for step in [Step::Greeting, Step::Ehlo, Step::Mail, Step::Rcpt, Step::EndOfData] {
            for reply in replies {
                let script = FakeMx::with(extensions).on(step, Act::Raw(reply.to_vec()));
                let mx = script.start().await;

                let log = Run::to(&[&mx])
                    .settings(|settings| {
                        settings.timeouts = hikyaku::delivery::Timeouts::all(Duration::from_millis(400))
                    })
                    .ready([errand(1, CONTENT)])
                    .go()
                    .await;

                let what = format!("{step:?} {extensions:?} {:?}: {log:?}", String::from_utf8_lossy(&reply[..8]));
                // Replies to commands that were all sent are what they say; one too many only closes.
                let all_sent = step == Step::EndOfData || extensions.len() == 2;
                let honest = all_sent && reply.starts_with(b"250 one");
                let outcomes: Vec<_> = log
                    .reports
                    .iter()
                    .map(|(_, outcomes)| &outcomes[0])
                    .chain(log.failed.iter().map(|(_, one)| one))
                    .collect();
                assert_eq!(outcomes.len(), 1, "{what}");
                assert!(matches!(outcomes[0], Outcome::Deferred(_)) || honest, "{what}");
                let text = &outcomes[0].report().reply.text;
                assert!(!text.chars().any(char::is_control) && text.len() <= 1024, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn every_content_arrives_octet_by_octet_at_receivers_of_every_dialect() {
    let line_ends =
        ["\r\n.\r\n", "\r\n..\r\n", "\r\n.", ".", "..", "\r\n.\r\n.\r\n", "\r\n\r\n.\r\n\r\n", "\r\n.x", "x.\r\n"];
    let contents: Vec<Vec<u8>> = line_ends
        .iter()
        .flat_map(|end| {
            let (plain, after) = (format!("{end}\r\n"), format!("a: b\r\n\r\n{end}rest\r\n"));
            [plain.into_bytes(), after.into_bytes(), format!("{end}{end}\r\n").into_bytes()]
        })
        .collect();
    for extensions in [&["PIPELINING"][..], &[], &["PIPELINING", "CHUNKING"]] {
        for dialect in [Dialect::Strict, Dialect::Lf, Dialect::Cr] {
            let mx = FakeMx::with(extensions).dialect(dialect).start().await;
            let errands = contents.iter().zip(1..).map(|(content, number)| errand(number, content));

            let log = Run::to(&[&mx]).ready(errands).go().await;

            assert_eq!(log.reports.len(), contents.len(), "{extensions:?} {dialect:?} {log:?}");
            let arrived: Vec<_> = mx.transactions().into_iter().map(|received| received.content).collect();
            assert_eq!(arrived, contents, "{extensions:?} {dialect:?}");
        }
    }
}

#[tokio::test]
async fn a_content_in_a_file_is_streamed_with_its_prefix() {
    let body = b".0123456789\r\n".repeat(100_000);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"skipped").unwrap();
    file.write_all(&body).unwrap();
    let prefix = b"Received: from x\r\n\r\n";
    for extensions in [&["PIPELINING"][..], &["PIPELINING", "CHUNKING"], &[]] {
        let mx = FakeMx::with(extensions).start().await;
        let mut large = errand(1, CONTENT);
        let (prefix, file, offset) = (prefix.to_vec().into(), Arc::new(file.try_clone().unwrap()), 7);
        large.message.content = Content::File { prefix, file, offset, length: body.len() as u64 };

        let log = Run::to(&[&mx]).ready([large, errand(2, CONTENT)]).go().await;

        assert!(all_delivered(&log, &[1, 2]), "{log:?}");
        assert!(mx.transactions()[0].content == [&b"Received: from x\r\n\r\n"[..], &body].concat());
        assert_eq!(mx.transactions()[1].content, CONTENT);
    }
}

#[tokio::test]
async fn a_content_that_cannot_be_read_is_never_finished() {
    let file = Arc::new(tempfile::tempfile().unwrap());
    for extensions in [&["PIPELINING"][..], &["PIPELINING", "CHUNKING"]] {
        let mx = FakeMx::with(extensions).start().await;
        let mut broken = errand(1, CONTENT);
        let prefix = b"a: b\r\n\r\n".to_vec().into();
        broken.message.content = Content::File { prefix, file: file.clone(), offset: 0, length: 500_000 };

        let log = Run::to(&[&mx]).ready([broken]).go().await;

        assert!(matches!(&log.reports[0].1[..], [Outcome::Deferred(report)] if !report.in_doubt), "{log:?}");
        assert_eq!(mx.transactions(), []);
    }
}

#[tokio::test]
async fn an_idle_connection_is_used_again_and_left_politely() {
    let mx = FakeMx::new().start().await;

    let log = Run::to(&[&mx]).ready([errand(1, CONTENT)]).later([errand(2, CONTENT)]).go().await;

    assert!(all_delivered(&log, &[1, 2]), "{log:?}");
    assert_eq!((mx.connections(), mx.commands().last().unwrap().as_str()), (1, "QUIT"));
}

#[tokio::test]
async fn a_receiver_that_leaves_an_idle_connection_costs_no_message_anything() {
    for act in [Act::Fin, Act::Rst, Act::Reply("421 4.4.2 idle too long".into())] {
        let mx = FakeMx::new().on(Step::Idle, act.clone()).start().await;

        let log = Run::to(&[&mx]).ready([errand(1, CONTENT)]).later([errand(2, CONTENT)]).go().await;

        assert!(all_delivered(&log, &[1]), "{act:?}: {log:?}");
        assert_eq!((log.failed.len(), mx.connections()), (0, 1), "{act:?}: {log:?}");
    }
}

#[tokio::test]
async fn a_receiver_that_vanishes_while_idle_is_noticed_by_time_out() {
    let mx = FakeMx::new().on(Step::Idle, Act::Silence).start().await;

    let log = Run::to(&[&mx]).ready([errand(1, CONTENT)]).later([errand(2, CONTENT)]).go().await;

    assert!(all_delivered(&Log { reports: vec![log.reports[0].clone()], ..Log::default() }, &[1]), "{log:?}");
    let report = log.reports[1].1[0].report();
    assert_eq!((report.phase, report.in_doubt), (Phase::Mail, false), "{log:?}");
}

#[tokio::test]
async fn a_message_in_doubt_goes_to_the_same_address_first() {
    let address = |last| std::net::IpAddr::from([127, 4, 2, last]);
    let a = FakeMx::new().start_at(address(1), 0).await;
    let b = FakeMx::new().start_at(address(2), a.address.port()).await;
    let doubted = |number| Errand { in_doubt: Some(b.address), ..errand(number, CONTENT) };

    let first = Run::to(&[&a, &b]).ready([doubted(1)]).go().await;
    let later = Run::to(&[&a, &b]).ready([errand(2, CONTENT), doubted(3)]).go().await;

    assert!(all_delivered(&first, &[1]) && all_delivered(&later, &[2, 3]), "{first:?} {later:?}");
    assert_eq!((a.transactions().len(), b.transactions().len()), (1, 2));
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_deferred_and_the_next_one_goes() {
    let mx = FakeMx::new().start().await;
    let mut lost = errand(1, CONTENT);
    lost.is_lost = true;

    let log = Run::to(&[&mx]).ready([lost, errand(2, CONTENT)]).go().await;

    assert!(matches!(&log.reports[0].1[..], [Outcome::Deferred(report)] if report.phase == Phase::Queue), "{log:?}");
    assert!(matches!(log.reports[1].1[..], [Outcome::Delivered(_)]), "{log:?}");
}

#[tokio::test]
async fn a_damaged_message_is_held_and_the_next_one_goes() {
    let mx = FakeMx::new().start().await;
    let damaged = Errand { is_damaged: true, ..errand(1, CONTENT) };

    let log = Run::to(&[&mx]).ready([damaged, errand(2, CONTENT)]).go().await;

    assert_eq!(log.held, [1], "{log:?}");
    assert!(all_delivered(&log, &[2]), "{log:?}");
}

#[tokio::test]
async fn nothing_leaves_when_the_attempt_cannot_be_recorded() {
    let mx = FakeMx::new().start().await;

    let log = Run::to(&[&mx]).without_records().ready([errand(1, CONTENT)]).go().await;

    assert_eq!((log.returned.as_slice(), log.reports.len(), mx.transactions().len()), (&[1][..], 0, 0), "{log:?}");
}

#[tokio::test]
async fn connections_come_from_the_address_and_with_the_name_of_the_source() {
    let mx = FakeMx::new().start().await;

    let log = Run::to(&[&mx])
        .source(|source| {
            source.ipv4 = Some([127, 4, 3, 1].into());
            source.ehlo_name = "out1.test".into();
        })
        .ready([errand(1, CONTENT)])
        .go()
        .await;

    assert!(all_delivered(&log, &[1]), "{log:?}");
    assert_eq!(mx.peers(), [std::net::IpAddr::from([127, 4, 3, 1])]);
    assert_eq!(mx.commands()[0], "EHLO out1.test");
}

#[tokio::test]
async fn discard_delivers_without_a_connection() {
    let mx = FakeMx::new().start().await;

    let log = Run::to(&[&mx])
        .plan(|plan| plan.transport = Transport::Discard)
        .ready((1..=3).map(|number| errand(number, CONTENT)))
        .go()
        .await;

    assert!(all_delivered(&log, &[1, 2, 3]), "{log:?}");
    assert_eq!(mx.connections(), 0);
}

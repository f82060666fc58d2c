//! S6: what a hostile receiver says at every step: lines and replies without end, replies that no command asked for, statuses
//! that are none. (More at each step in `tests/delivery.rs`, `hostile_replies_defer_and_close`.)

use std::time::Duration;

use hikyaku::delivery::Timeouts;
use hikyaku::message::Outcome;

use crate::cases::cases;
use crate::errand::{Log, Run, errand};
use crate::fake_mx::{Act, FakeMx, Step};
use crate::hostile::is_harmless;

const CONTENT: &[u8] = b"Subject: x\r\n\r\nbody\r\n";
const STEPS: [Step; 7] =
    [Step::Greeting, Step::Ehlo, Step::StartTls, Step::Mail, Step::Rcpt, Step::Data, Step::EndOfData];
const MODES: [&[&str]; 3] = [&["PIPELINING", "STARTTLS"], &["STARTTLS"], &["PIPELINING", "CHUNKING", "STARTTLS"]];

async fn told(extensions: &[&str], step: Step, said: &[u8]) -> Log {
    let mx = FakeMx::with(extensions).always(step, Act::Raw(said.to_vec())).start().await;
    let run = Run::to(&[&mx]).settings(|settings| settings.timeouts = Timeouts::all(Duration::from_millis(500)));
    run.ready([errand(1, CONTENT)]).go().await
}

fn outcome(log: &Log) -> &Outcome {
    let reported = log.reports.iter().flat_map(|(_, outcomes)| outcomes);
    let outcomes: Vec<_> = reported.chain(log.failed.iter().map(|(_, outcome)| outcome)).collect();
    assert_eq!(outcomes.len(), 1, "{log:?}");
    outcomes[0]
}

#[tokio::test]
async fn a_reply_without_end_is_cut_off_and_the_message_deferred() {
    let endless: Vec<u8> = b"250-x\r\n".repeat(150_000);
    let line = [b"250 ".as_slice(), &vec![b'x'; 1 << 20], b"\r\n"].concat();
    let lines_with_status = b"550-5.1.1 x\r\n".repeat(100_000);
    for extensions in MODES {
        for step in STEPS {
            // A receiver that offers CHUNKING gets no DATA.
            if step == Step::Data && extensions.contains(&"CHUNKING") {
                continue;
            }
            for said in [&endless, &line, &lines_with_status] {
                let log = told(extensions, step, said).await;

                let what = format!("{extensions:?} {step:?} {:?}", String::from_utf8_lossy(&said[..8]));
                // Without STARTTLS that works, opportunistic TLS goes on in clear on another connection.
                let is_tls = step == Step::StartTls;
                assert!(matches!(outcome(&log), Outcome::Deferred(_)) || is_tls, "{what}: {log:?}");
                let text = &outcome(&log).report().reply.text;
                assert!(is_harmless(text) && text.len() <= 1_024, "{what}: {text:?}");
                cases(1);
            }
        }
    }
}

#[tokio::test]
async fn replies_that_come_before_their_commands_deliver_nothing() {
    let all = "250-mx.test\r\n250 PIPELINING\r\n250 ok\r\n250 ok\r\n354 go\r\n250 2.0.0 delivered\r\n";
    for extensions in [&["PIPELINING"][..], &[], &["PIPELINING", "CHUNKING"]] {
        for (step, said) in [(Step::Greeting, format!("220 mx\r\n{all}")), (Step::Ehlo, all.to_owned())] {
            let log = told(extensions, step, said.as_bytes()).await;

            assert!(matches!(outcome(&log), Outcome::Deferred(_)), "{extensions:?} {step:?}: {log:?}");
            cases(1);
        }
    }
}

#[tokio::test]
async fn what_is_no_enhanced_status_code_is_text_and_the_reply_code_decides() {
    for (said, is_bounce) in [
        ("550 5.7 no", true),
        ("550 9.9.9 no", true),
        ("550 5.1.1.1 no", true),
        ("550 2.0.0 delivered", true),
        ("450 5.1.1 no", false),
        ("451 0.0.0 \u{1b}[2J\u{202e}\u{7}no", false),
        ("599 5.999.999 no", true),
        ("499 no", false),
    ] {
        for step in [Step::Mail, Step::Rcpt, Step::Data, Step::EndOfData] {
            let log = told(&["PIPELINING"], step, format!("{said}\r\n").as_bytes()).await;

            let outcome = outcome(&log);
            match is_bounce {
                true => assert!(matches!(outcome, Outcome::Bounced(_)), "{step:?} {said:?}: {outcome:?}"),
                false => assert!(matches!(outcome, Outcome::Deferred(_)), "{step:?} {said:?}: {outcome:?}"),
            }
            let reply = &outcome.report().reply;
            assert!(is_harmless(&reply.text), "{reply:?}");
            assert!(reply.status.is_none_or(|status| u16::from(status.class) == reply.code / 100), "{reply:?}");
            cases(1);
        }
    }
}

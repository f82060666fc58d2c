//! The session against receivers that answer anything: it never panics, settles each transaction once, and delivers only
//! on a 2yz to an end of data that was sent.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::clock::UnixTime;
use crate::message::{Envelope, Recipient};
use crate::reply::LazyClassifier;
use crate::smtp::address::ReversePath;

const RECIPIENTS: usize = 3;

fn transaction(length: u64) -> Transaction {
    let recipient = |number| Recipient::new(format!("r{number}@x.test").parse().unwrap());
    let envelope = Envelope {
        tenant: "t".into(),
        ..Envelope::new(ReversePath::Null, (0..RECIPIENTS).map(recipient).collect(), UnixTime(0))
    };
    Transaction::new(Arc::new(envelope), [0, 1, 2].into(), length)
}

fn session(pipelining: bool, chunking: bool) -> Session {
    let (tls, tls_policy) = (None, "opportunistic");
    let peer = Peer { host: "mx.test".into(), address: ([127, 0, 0, 1], 25).into(), tls, tls_policy };
    let extensions = Extensions { pipelining, chunking, ..Extensions::default() };
    let judge = Judge { classifier: LazyClassifier::default(), site: "mx.test".into(), parent: None };
    Session::new(peer, extensions, Reader::default(), judge)
}

/// What a run saw.
#[derive(Debug, Default)]
struct Seen {
    settled: usize,
    delivered: usize,
    ends_sent: usize,
    successes: usize,
}

/// Plays transactions against replies, one at a time; looks ahead where it may.
fn play(mut session: Session, replies: &[String], length: u64) -> Seen {
    let mut seen = Seen::default();
    let mut replies = replies.iter();
    loop {
        match session.step() {
            Step::Idle if session.may_begin() => session.begin(transaction(length)),
            Step::Idle | Step::Close => return seen,
            Step::Content => {
                let next = session.may_look_ahead().then(|| transaction(length));
                session.begin_content(b".\r\n", next);
                session.content_left();
                seen.ends_sent += 1;
            }
            Step::Settled(settled) => {
                assert_eq!(settled.outcomes.len(), RECIPIENTS);
                seen.settled += 1;
                let delivered = settled.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Delivered(_)));
                seen.delivered += usize::from(delivered);
                if settled.close {
                    return seen;
                }
            }
            Step::Read => {
                session.output().clear();
                let Some(reply) = replies.next() else {
                    if let Some(outcomes) = session.lost(&Lost::Closed) {
                        assert_eq!(outcomes.len(), RECIPIENTS);
                        assert!(!outcomes.iter().any(|outcome| matches!(outcome, Outcome::Delivered(_))));
                    }
                    assert!(session.lost(&Lost::Closed).is_none(), "once");
                    return seen;
                };
                seen.successes += usize::from(reply.starts_with('2'));
                session.room().extend_from_slice(reply.as_bytes());
            }
        }
    }
}

fn reply() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => Just("250 2.0.0 ok\r\n".to_owned()),
        3 => Just("354 go\r\n".to_owned()),
        1 => (400_u16..600).prop_map(|code| format!("{code} no\r\n")),
        1 => (200_u16..360).prop_map(|code| format!("{code}-a\r\n{code} b\r\n")),
        1 => "[ -~\r\n]{0,12}",
    ]
}

proptest! {
    #[test]
    fn whatever_the_replies_each_transaction_is_settled_once(
        pipelining in any::<bool>(),
        chunking in any::<bool>(),
        large in any::<bool>(),
        replies in prop::collection::vec(reply(), 0..40),
    ) {
        let length = if large { OPTIMISTIC_BDAT + 1 } else { 100 };

        let seen = play(session(pipelining, chunking), &replies, length);

        prop_assert!(seen.delivered <= seen.ends_sent && seen.delivered <= seen.successes, "{seen:?}");
    }
}

#[test]
fn success_before_the_content_has_left_is_no_delivery() {
    let mut session = session(true, false);
    session.begin(transaction(100));
    session.room().extend_from_slice(b"250 a\r\n250 b\r\n250 c\r\n250 d\r\n354 e\r\n");
    assert!(matches!(session.step(), Step::Content));
    session.begin_content(b".\r\n", None);

    session.room().extend_from_slice(b"250 queued\r\n");
    let step = session.step();

    let Step::Settled(settled) = step else { panic!("{step:?}") };
    assert!(settled.close && settled.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Deferred(_))));
}

#[test]
fn what_is_lost_after_the_dot_is_in_doubt_and_before_it_is_not() {
    for (left, doubt) in [(true, true), (false, false)] {
        let mut session = session(true, true);
        session.begin(transaction(100));
        assert!(matches!(session.step(), Step::Content));
        session.begin_content(b"", None);
        if left {
            session.content_left();
        }

        let outcomes = session.lost(&Lost::TimedOut).unwrap();

        assert!(outcomes.iter().all(|outcome| outcome.report().in_doubt == doubt), "{outcomes:?}");
    }
}

/// What a receiver with these fates says to a pipelined envelope, and whether it then waits for content.
fn envelope_replies(mail: &str, fates: [&str; RECIPIENTS]) -> (String, bool) {
    let is_open = mail.starts_with('2');
    let takes = is_open && fates.contains(&"250");
    let rcpts = fates.map(|fate| if is_open { fate } else { "503" });
    let data = match (is_open, takes) {
        (false, _) => "503",
        (true, false) => "554",
        (true, true) => "354",
    };
    let replies: Vec<_> =
        std::iter::once(mail).chain(rcpts).chain([data]).map(|code| format!("{code} x\r\n")).collect();
    (replies.concat(), takes)
}

/// The outcomes of a second transaction whose replies come behind `extra`; none when its content is to be sent.
fn second_transaction(extra: &str, mail: &str, fates: [&str; RECIPIENTS]) -> Option<Vec<Outcome>> {
    let mut session = session(true, false);
    session.begin(transaction(100));
    session.room().extend_from_slice(b"250 a\r\n250 b\r\n250 c\r\n250 d\r\n354 e\r\n");
    assert!(matches!(session.step(), Step::Content));
    session.begin_content(b".\r\n", Some(transaction(100)));
    session.content_left();
    session.output().clear();
    let (replies, takes) = envelope_replies(mail, fates);
    session.room().extend_from_slice(format!("250 queued\r\n{extra}{replies}").as_bytes());
    assert!(matches!(session.step(), Step::Settled(_)));
    loop {
        match session.step() {
            Step::Settled(settled) => return Some(settled.outcomes),
            Step::Content => return None,
            Step::Read if session.output().as_slice() == b"RSET\r\n" && !takes => {
                session.output().clear();
                session.room().extend_from_slice(b"250 reset\r\n");
            }
            Step::Read => return session.lost(&Lost::Closed),
            step => panic!("{step:?}"),
        }
    }
}

const ALL_FATES: [&str; 3] = ["250", "450", "550"];

fn combinations() -> impl Iterator<Item = [&'static str; RECIPIENTS]> {
    let all = ALL_FATES;
    all.into_iter().flat_map(move |a| all.into_iter().flat_map(move |b| all.into_iter().map(move |c| [a, b, c])))
}

#[test]
fn a_reply_too_many_bounces_nobody_but_whom_the_receiver_refuses() {
    for (extra, mail) in [("250 extra\r\n", "250"), ("250 extra\r\n", "450"), ("554 extra\r\n", "250")] {
        for fates in combinations() {
            let outcomes = second_transaction(extra, mail, fates).expect("no content on a doubtful reply");

            for (fate, outcome) in fates.into_iter().zip(&outcomes) {
                let is_refused = mail == "250" && fate == "550";
                let bounced = matches!(outcome, Outcome::Bounced(_));
                assert!(is_refused || !bounced, "{extra:?} {mail} {fates:?}: {outcomes:?}");
                assert!(!matches!(outcome, Outcome::Delivered(_)), "{fates:?}: {outcomes:?}");
            }
        }
    }
}

#[test]
fn without_a_reply_too_many_each_recipient_gets_its_own_outcome() {
    for fates in combinations().filter(|fates| !fates.contains(&"250")) {
        let outcomes = second_transaction("", "250", fates).unwrap();

        for (fate, outcome) in fates.into_iter().zip(&outcomes) {
            assert_eq!(matches!(outcome, Outcome::Bounced(_)), fate == "550", "{fates:?}: {outcomes:?}");
        }
    }
}

#[test]
fn a_refused_data_bounces_accepted_recipients_once_rset_is_answered_or_the_connection_is_lost() {
    let refused = || {
        let mut session = session(true, false);
        session.begin(transaction(100));
        session.room().extend_from_slice(b"250 a\r\n250 b\r\n250 c\r\n250 d\r\n554 e\r\n");
        assert!(matches!(session.step(), Step::Read) && session.output().ends_with(b"RSET\r\n"));
        session
    };
    let bounced = |outcomes: &[Outcome]| outcomes.iter().all(|outcome| matches!(outcome, Outcome::Bounced(_)));
    let (mut reset, mut lost, mut late) = (refused(), refused(), refused());

    reset.room().extend_from_slice(b"250 reset\r\n");
    let Step::Settled(settled) = reset.step() else { panic!() };
    assert!(bounced(&settled.outcomes) && !settled.close);
    assert!(matches!(reset.step(), Step::Idle));
    assert!(bounced(&lost.lost(&Lost::Closed).unwrap()));
    late.room().extend_from_slice(b"354 go\r\n");
    let Step::Settled(settled) = late.step() else { panic!() };
    assert!(settled.close && settled.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Deferred(_))));
}

#[test]
fn a_transaction_begun_ahead_can_be_forgotten_and_the_connection_ends_with_the_current_one() {
    let mut session = session(true, false);
    session.begin(transaction(100));
    session.room().extend_from_slice(b"250 a\r\n250 b\r\n250 c\r\n250 d\r\n354 e\r\n");
    assert!(matches!(session.step(), Step::Content));
    session.begin_content(b".\r\n", Some(transaction(100)));
    session.content_left();

    session.forget_next();
    session.room().extend_from_slice(b"250 queued\r\n250 a\r\n250 b\r\n250 c\r\n250 d\r\n354 e\r\n");

    let Step::Settled(settled) = session.step() else { panic!() };
    assert!(settled.close && settled.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Delivered(_))));
}

#[test]
fn by_bdat_a_transaction_is_unanswered_until_its_content_has_left() {
    let mut session = session(true, true);
    session.begin(transaction(100));
    assert!(matches!(session.step(), Step::Content));

    session.begin_content(b"", None);
    assert!(session.is_unanswered(), "the receiver cannot have the whole of it");
    session.content_left();
    assert!(!session.is_unanswered(), "it may have it");
}

/// A session that has carried a message and gets `reply` to the MAIL of the next one.
fn second_mail(reply: &str) -> (Session, Step) {
    let mut session = session(true, false);
    session.begin(transaction(100));
    session.room().extend_from_slice(b"250 a\r\n250 b\r\n250 c\r\n250 d\r\n354 e\r\n");
    assert!(matches!(session.step(), Step::Content));
    session.begin_content(b".\r\n", None);
    session.content_left();
    session.room().extend_from_slice(b"250 queued\r\n");
    assert!(matches!(session.step(), Step::Settled(_)));
    assert!(matches!(session.step(), Step::Idle));
    session.begin(transaction(100));
    session.room().extend_from_slice(reply.as_bytes());
    let step = session.step();
    (session, step)
}

#[test]
fn what_a_421_says_about_us_is_an_answer_on_a_used_connection_too() {
    for reply in [
        "421 4.7.28 our system has detected an unusual rate of mail\r\n",
        "421 4.7.0 [TSS04] temporarily deferred due to unexpected volume or user complaints\r\n",
        "421 4.7.0 Too many connections\r\n",
        "421 4.3.2 Service not available, closing transmission channel\r\n",
    ] {
        let (_, step) = second_mail(reply);

        let Step::Settled(settled) = step else { panic!("{reply}: {step:?}") };
        assert!(settled.close, "{reply}");
        assert_eq!(settled.outcomes[0].report().reply.code, 421, "{reply}");
    }
}

#[test]
fn a_421_that_ends_a_used_connection_leaves_the_message_untried_and_is_kept() {
    for (reply, is_used_up) in [
        ("421 4.7.0 Max messages per connection\r\n", true),
        ("421 4.4.2 idle too long\r\n", false),
        ("421 4.3.2 going away\r\n", false),
    ] {
        let (session, step) = second_mail(reply);

        assert!(matches!(step, Step::Close), "{reply}: {step:?}");
        match session.hung_up() {
            HungUp::UsedUp(said) | HungUp::Saying(said) => {
                assert_eq!(format!("421 {} {}\r\n", said.status.unwrap(), said.text), reply)
            }
            HungUp::Silently => panic!("{reply}"),
        }
        assert_eq!(matches!(session.hung_up(), HungUp::UsedUp(_)), is_used_up, "{reply}");
    }
}

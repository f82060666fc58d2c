//! A week of retries in the runtime's paused time: each attempt in the second that the spool has for it, each wait of the
//! schedule, an end for every message at its time, and nothing left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hikyaku::clock::{Clock, UnixTime};
use hikyaku::message::{Content, Envelope, MessageId, Notify, Outcome};
use hikyaku::queue::Settings;
use hikyaku::queue::settings::Retry;
use hikyaku::spool::Spool;
use parking_lot::Mutex;

use crate::common::{Receiver, Stage, bounced, deferred, delivered};

const DAY: Duration = Duration::from_secs(86_400);
const MAX_AGE: Duration = Duration::from_secs(4 * 86_400);
const DELAY_AFTER: Duration = Duration::from_secs(4 * 3_600);
/// Either way. A mass deferral is spread by as much, so there is one bound for all.
const JITTER_PERCENT: u32 = 20;
/// From the decision that a DSN is due until it is made: the timers count in seconds, and upkeep comes every other one.
const MAKING: Duration = Duration::from_secs(5);

/// How a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Never,
    Delivered,
    Bounced,
}

/// A message of the week and what became of it.
#[derive(Clone, Debug)]
struct Letter {
    end: End,
    /// Deferrals before that.
    deferrals: usize,
    notify: Notify,
    accepted: UnixTime,
    /// When it was tried, and since when that had been due.
    attempts: Vec<(UnixTime, UnixTime)>,
    /// When DSNs about it were made: a failure's and a delay's.
    failed: Vec<UnixTime>,
    delayed: Vec<UnixTime>,
}

type Letters = Arc<Mutex<BTreeMap<String, Letter>>>;

/// What the receivers of the week say.
struct Receivers {
    clock: Clock,
    spool: Spool,
    letters: Letters,
}

impl Receivers {
    fn say(&self, id: MessageId) -> Outcome {
        let message = self.spool.load(id).unwrap();
        let recipient = message.envelope.recipients[0].forward_path.as_str().to_owned();
        let now = self.clock.wall();
        let mut letters = self.letters.lock();
        let Some(letter) = letters.get_mut(&recipient) else {
            let Content::Memory(text) = &message.content else { panic!("a DSN in a file") };
            let text = String::from_utf8_lossy(text);
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
            let about = field("Final-Recipient: rfc822;");
            let letter = letters.get_mut(&about).unwrap();
            // When it was made: the runtime's time goes on while the spool's threads store it.
            let made = message.envelope.accepted_at;
            match field("Action:").as_str() {
                "failed" => letter.failed.push(made),
                "delayed" => letter.delayed.push(made),
                other => panic!("{other}"),
            }
            return delivered();
        };
        letter.attempts.push((now, self.spool.pending(id)[0].due));
        match letter.end {
            _ if letter.attempts.len() <= letter.deferrals => deferred("not yet"),
            End::Never => deferred("never"),
            End::Delivered => delivered(),
            End::Bounced => bounced("no such user"),
        }
    }
}

impl Letter {
    fn of(number: usize, accepted: UnixTime) -> Self {
        let end = [End::Never, End::Delivered, End::Bounced][number % 3];
        let deferrals = if end == End::Never { usize::MAX } else { number / 3 % 30 };
        let notify = [Notify::UNSPECIFIED, Notify::NEVER, Notify::FAILURE, Notify::DELAY][number / 90 % 4];
        let (attempts, failed, delayed) = Default::default();
        Self { end, deferrals, notify, accepted, attempts, failed, delayed }
    }

    /// Checks the times of all attempts.
    fn check_attempts(&self, retry: &Retry) {
        let end = self.accepted.plus(MAX_AGE);
        for (number, (at, due)) in self.attempts.iter().enumerate() {
            assert!(*at < end, "tried at its end or after it");
            let Some((before, _)) = number.checked_sub(1).map(|before| self.attempts[before]) else { continue };
            // A second is the timers' unit.
            assert!(*at == *due || *at == due.plus(Duration::from_secs(1)), "due at {due:?}, tried at {at:?}");
            let wait = retry.intervals.get(number - 1).or(retry.intervals.last()).unwrap();
            let (least, most) = (*wait * (100 - JITTER_PERCENT) / 100, *wait * (100 + JITTER_PERCENT) / 100);
            let waited = due.since(before);
            assert!(waited + Duration::from_secs(1) >= least && waited <= most, "{waited:?} after attempt {number}");
        }
    }

    /// Checks how it ended, and who was told.
    fn check_end(&self, retry: &Retry) {
        let end = self.accepted.plus(MAX_AGE);
        let last = self.attempts.last().unwrap().0;
        let has_expired = self.attempts.len() <= self.deferrals;
        if has_expired {
            // Until its last wait reaches beyond its end.
            let wait = *retry.intervals.last().unwrap() * (100 + JITTER_PERCENT) / 100;
            assert!(last.plus(wait) >= end, "given up early: last tried {last:?}, end {end:?}");
            let waits =
                MAX_AGE.as_secs() * 100 / (u64::from(100 - JITTER_PERCENT) * retry.intervals.last().unwrap().as_secs());
            assert!(self.attempts.len() as u64 <= waits + 8, "{}", self.attempts.len());
        } else {
            assert_eq!(self.attempts.len(), self.deferrals + 1, "tried once more than it was deferred");
        }
        let is_failure = has_expired || self.end == End::Bounced;
        let wants_failure = self.notify == Notify::UNSPECIFIED || self.notify == Notify::FAILURE;
        assert_eq!(self.failed.len(), usize::from(is_failure && wants_failure), "one DSN about a failure");
        for told in &self.failed {
            let from = if has_expired { end } else { last };
            assert!(*told >= from && told.since(from) <= MAKING, "told {:?} after its end", told.since(from));
        }
        // Told when a deferral comes so late, not before: until then nobody knows that it will not arrive in time.
        let deferrals = self.attempts.iter().take(self.deferrals);
        let is_late = deferrals.map(|(at, _)| at.since(self.accepted)).any(|age| age >= DELAY_AFTER);
        assert_eq!(self.delayed.len(), usize::from(is_late && self.notify == Notify::DELAY), "one DSN about a delay");
        assert!(self.delayed.iter().all(|told| told.since(self.accepted) >= DELAY_AFTER));
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_week_every_message_is_tried_by_the_schedule_and_ends_at_its_time() {
    let count = if std::env::var_os("HIKYAKU_FULL").is_some() { 21_600 } else { 1_080 };
    let retry = Retry { jitter_percent: JITTER_PERCENT as u8, max_age: MAX_AGE, ..Retry::default() };
    let settings = Settings { retry: retry.clone(), delay_after: DELAY_AFTER, shards: 2, ..Settings::default() };
    let stage = Stage::in_runtime_time(settings);
    let letters: Letters = Arc::default();
    let receivers = Receivers { clock: stage.clock, spool: stage.spool.clone(), letters: letters.clone() };
    let outcome = move |id: MessageId, _: u32| receivers.say(id);
    stage.script.set("*", Receiver { outcome: Arc::new(outcome), ..Receiver::default() });
    stage.start();
    let begun = stage.clock.wall();

    for number in 0..count {
        let recipient = format!("a{number}@d{}.test", number % 7);
        let letter = Letter::of(number, stage.clock.wall());
        let mut envelope = Envelope { accepted_at: letter.accepted, ..stage.envelope(&[&recipient]) };
        envelope.recipients[0].notify = letter.notify;
        letters.lock().insert(recipient, letter);
        stage.submit(envelope).await;
        tokio::time::sleep(3 * DAY / count as u32).await;
    }
    let last = stage.clock.wall();
    while stage.queue.view().totals.queued > 0 {
        assert!(
            stage.clock.wall().since(last) < MAX_AGE + Duration::from_secs(7_200),
            "{:?}",
            stage.queue.view().totals
        );
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    // Limits are learnt for two minutes after the last message; then the sweep.
    tokio::time::sleep(Duration::from_secs(400)).await;

    assert!(stage.clock.wall().since(begun) >= 6 * DAY);
    let letters = letters.lock();
    for (recipient, letter) in letters.iter() {
        println!("{recipient}");
        letter.check_attempts(&retry);
        letter.check_end(&retry);
    }
    let ends = |end| letters.values().filter(|letter| letter.end == end).count();
    assert_eq!((ends(End::Never), ends(End::Delivered), ends(End::Bounced)), (count / 3, count / 3, count / 3));
    let view = stage.queue.view();
    assert_eq!((view.totals.queued, view.totals.held, view.totals.scheduled, view.sites.len()), (0, 0, 0, 0));
    assert_eq!((stage.queue.in_flight(), stage.spool.stat().messages), (0, 0));
    assert!(stage.registry.render().contains("hikyaku_queue_sites 0\n"), "forgotten by the sweep");
}

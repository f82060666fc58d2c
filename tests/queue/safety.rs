//! Nothing is lost, nothing blocks the others, nothing goes round for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hikyaku::message::{MessageId, Outcome};
use hikyaku::queue::settings::{BackOff, Limits, Retry, Tenant};
use hikyaku::queue::{Assignment, Courier, QueueFull, Settings, Slot};
use parking_lot::Mutex;
use proptest::prelude::*;

use crate::common::{Receiver, Stage, bounced, deferred, delivered};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_site_holds_up_no_other() {
    let stage = Stage::started(Settings::default());
    stage.script.set("d0.test", Receiver { is_stalled: true, ..Receiver::default() });
    stage.script.set("d1.test", Receiver { connect: Duration::from_secs(3_600), ..Receiver::default() });

    let begun = Instant::now();
    for round in 0..50 {
        for n in 0..100 {
            stage.put(stage.envelope(&[&format!("a{round}@d{n}.test")]));
        }
    }
    stage.until_done(98 * 50).await;

    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(stage.queue.view().totals.queued, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_ends_once_whatever_receivers_say() {
    let retry = Retry { intervals: vec![Duration::from_secs(1)], ..Retry::default() };
    let stage = Stage::started(Settings { retry, ..Settings::default() });
    let tries: Arc<Mutex<BTreeMap<(MessageId, u32), u32>>> = Arc::default();
    let known = tries.clone();
    let outcome = move |id: MessageId, recipient: u32| {
        let mut tries = known.lock();
        let tries = tries.entry((id, recipient)).or_default();
        *tries += 1;
        match (id.0 ^ u64::from(recipient)) % 7 {
            0 if *tries < 3 => deferred("later"),
            1 => bounced("never"),
            _ => delivered(),
        }
    };
    stage.script.set("*", Receiver { outcome: Arc::new(outcome), ..Receiver::default() });
    stage.script.set("d199.test", Receiver::default());

    let messages: Vec<_> = (0..300)
        .map(|n| {
            let to: Vec<String> = (0..n % 5 + 1).map(|r| format!("a{r}@d{}.test", (n + r) % 20)).collect();
            stage.envelope(&to.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .collect();
    for envelope in messages {
        stage.submit(envelope).await;
    }
    stage.until_empty().await;

    let mut finals: BTreeMap<(MessageId, u32), u32> = BTreeMap::new();
    for done in stage.done().iter().filter(|done| !matches!(done.outcome, Outcome::Deferred(_))) {
        *finals.entry((done.id, done.recipient)).or_default() += 1;
    }
    assert!(tries.lock().keys().all(|key| finals.get(key) == Some(&1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ends_without_a_word_gives_its_work_back_and_does_not_go_round() {
    struct Careless(Mutex<u32>);
    impl Courier for Careless {
        fn dispatch(&self, slot: Slot, first: Assignment) {
            *self.0.lock() += 1;
            drop((slot, first));
        }
    }
    let short = Duration::from_millis(50);
    let back_off = BackOff { first: short, floor: short, most: short };
    let stage = Stage::new(Settings { back_off, ..Settings::default() });
    let careless = Arc::new(Careless(Mutex::new(0)));
    stage.queue.start(careless.clone());

    for _ in 0..10 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }
    tokio::time::sleep(Duration::from_millis(400)).await;

    let tries = *careless.0.lock();
    assert!((2..=30).contains(&tries), "{tries}");
    assert_eq!(stage.queue.view().totals.queued, 10);
    assert_eq!(stage.queue.in_flight(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_ends_idle_connections_and_hands_out_nothing_more() {
    let stage = Stage::new(Settings { limits: Limits { connections: 1, ..Limits::default() }, ..Settings::default() });
    stage.script.set("d1.test", Receiver { idle: Duration::from_secs(60), ..Receiver::default() });
    stage.script.set("d2.test", Receiver { transaction: Duration::from_millis(100), ..Receiver::default() });
    let ended = stage.start();
    stage.put(stage.envelope(&["a@d1.test"]));
    stage.put(stage.envelope(&["a@d2.test"]));
    stage.put(stage.envelope(&["b@d2.test"]));
    stage.until("one idle, one busy", |stage| stage.done().len() == 1 && stage.queue.in_flight() == 1).await;

    stage.queue.stop_dispatch();
    stage.until("the drain", |stage| stage.queue.in_flight() == 0).await;

    tokio::time::timeout(Duration::from_secs(5), ended).await.unwrap().unwrap();
    stage.until("no connection", |stage| stage.script.open.load(Ordering::Relaxed) == 0).await;
    stage.put(stage.envelope(&["a@d3.test"]));
    assert_eq!(stage.done().len(), 2);
    // Submissions that are under way are still taken: they are on disk, and the next start finds them.
    assert_eq!(stage.queue.room("default", 1), Ok(()));
    assert!(stage.queue.reserve("default", 1).is_ok());
}

#[tokio::test]
async fn a_full_queue_and_a_tenant_at_its_cap_are_refused() {
    let small = Tenant { capacity: Some(3), ..Tenant::default() };
    let tenants = [("small".into(), small)].into();
    let stage = Stage::new(Settings { capacity: 10, tenants, ..Settings::default() });

    assert_eq!(stage.queue.room("small", 4), Err(QueueFull::Tenant));
    stage.put(hikyaku::message::Envelope { tenant: "small".into(), ..stage.envelope(&["a@d1.test"; 3]) });

    assert_eq!(stage.queue.room("small", 1), Err(QueueFull::Tenant));
    assert_eq!(stage.queue.room("other", 7), Ok(()));
    assert_eq!(stage.queue.room("other", 8), Err(QueueFull::Queue));
}

#[tokio::test]
async fn room_that_is_reserved_is_not_given_twice_and_comes_back_when_it_is_not_used() {
    let tenants = [("small".into(), Tenant { capacity: Some(5), ..Tenant::default() })].into();
    let stage = Stage::new(Settings { capacity: 9, tenants, ..Settings::default() });

    let first = stage.queue.reserve("small", 5).unwrap();
    assert_eq!(stage.queue.reserve("small", 1).unwrap_err(), QueueFull::Tenant);
    assert_eq!(stage.queue.reserve("other", 5).unwrap_err(), QueueFull::Queue);
    let other = stage.queue.reserve("other", 4).unwrap();
    drop(first);
    assert_eq!(stage.queue.view().totals.queued, 4);

    other
        .put(MessageId(1), &hikyaku::message::Envelope { tenant: "other".into(), ..stage.envelope(&["a@d1.test"; 4]) });
    assert_eq!(stage.queue.view().totals.queued, 4);
    assert!(stage.queue.reserve("small", 5).is_ok());
}

#[test]
fn reservations_at_the_same_time_never_pass_a_cap() {
    let tenants = [("small".into(), Tenant { capacity: Some(5), ..Tenant::default() })].into();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let stage = Stage::new(Settings { tenants, ..Settings::default() });

    let granted: usize = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..20).map(|_| scope.spawn(|| stage.queue.reserve("small", 1))).collect();
        let results: Vec<_> = tries.into_iter().map(|one| one.join().unwrap()).collect();
        results.iter().filter(|result| result.is_ok()).count()
    });

    assert_eq!(granted, 5);
}

/// A courier that only keeps what it is given: the test plays the connections.
#[derive(Default)]
struct Shelf(Mutex<Vec<(Slot, Assignment)>>);

impl Courier for Shelf {
    fn dispatch(&self, slot: Slot, first: Assignment) {
        self.0.lock().push((slot, first));
    }
}

#[derive(Clone, Debug)]
enum Act {
    Put { domain: u8, tenant: u8, recipients: u8 },
    Connected(usize),
    Deliver(usize),
    DeliverFewer(usize),
    GiveBack(usize),
    DropWork(usize),
    TryTake(usize),
    DropSlot(usize),
    PollTake(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let at = 0..64_usize;
    prop_oneof![
        4 => (0..4_u8, 0..3_u8, 1..5_u8).prop_map(|(domain, tenant, recipients)| Act::Put { domain, tenant, recipients }),
        2 => at.clone().prop_map(Act::Connected),
        3 => at.clone().prop_map(Act::Deliver),
        1 => at.clone().prop_map(Act::DeliverFewer),
        1 => at.clone().prop_map(Act::GiveBack),
        1 => at.clone().prop_map(Act::DropWork),
        4 => at.clone().prop_map(Act::TryTake),
        1 => at.clone().prop_map(Act::DropSlot),
        2 => at.prop_map(Act::PollTake),
    ]
}

/// Connections as the test plays them: a slot, and the work it has.
struct Play {
    stage: Stage,
    shelf: Arc<Shelf>,
    slots: Vec<(Slot, Vec<Assignment>)>,
    put: BTreeMap<(MessageId, u32), u32>,
}

impl Play {
    fn collect(&mut self) {
        for (slot, first) in self.shelf.0.lock().drain(..) {
            self.slots.push((slot, vec![first]));
        }
    }

    fn deliver(&mut self, slot: usize, fewer: bool) {
        let (slot, work) = &mut self.slots[slot];
        let Some(assignment) = work.pop() else { return };
        let count = assignment.recipients().len() - usize::from(fewer);
        for recipient in &assignment.recipients()[..count] {
            *self.put.get_mut(&(assignment.id(), *recipient)).unwrap() += 1;
        }
        slot.report(assignment, vec![delivered(); count]);
    }

    async fn act(&mut self, act: &Act) {
        self.collect();
        let count = self.slots.len();
        match act {
            Act::Put { domain, tenant, recipients } => {
                let to: Vec<String> = (0..*recipients).map(|r| format!("a@d{}.test", (domain + r) % 4)).collect();
                let to: Vec<&str> = to.iter().map(String::as_str).collect();
                let tenant = format!("t{tenant}").into();
                let id = self.stage.put(hikyaku::message::Envelope { tenant, ..self.stage.envelope(&to) });
                self.put.extend((0..u32::from(*recipients)).map(|recipient| ((id, recipient), 0)));
            }
            _ if count == 0 => {}
            Act::Connected(at) => self.slots[at % count].0.connected(),
            Act::Deliver(at) => self.deliver(at % count, false),
            Act::DeliverFewer(at) => self.deliver(at % count, true),
            Act::GiveBack(at) => {
                let (slot, work) = &mut self.slots[at % count];
                if let Some(assignment) = work.pop() {
                    slot.give_back(assignment);
                }
            }
            Act::DropWork(at) => drop(self.slots[at % count].1.pop()),
            Act::TryTake(at) => {
                let (slot, work) = &mut self.slots[at % count];
                work.extend(slot.try_take());
            }
            Act::DropSlot(at) => drop(self.slots.swap_remove(at % count)),
            Act::PollTake(at) => {
                let (slot, work) = &mut self.slots[at % count];
                let taken = tokio::time::timeout(Duration::from_micros(1), slot.take(Duration::from_secs(9))).await;
                work.extend(taken.ok().flatten());
            }
        }
        tokio::task::yield_now().await;
    }

    /// Delivers all there is.
    async fn finish(&mut self) {
        let begun = Instant::now();
        while self.stage.queue.view().totals.queued > 0 {
            assert!(begun.elapsed() < Duration::from_secs(10), "stuck: {:?}", self.stage.queue.view());
            self.collect();
            for at in 0..self.slots.len() {
                self.slots[at].0.connected();
                while !self.slots[at].1.is_empty() {
                    self.deliver(at, false);
                }
                let (slot, work) = &mut self.slots[at];
                work.extend(slot.try_take());
            }
            if self.slots.iter().all(|(_, work)| work.is_empty()) {
                // A connection that found nothing ends, as one that idles would; the task that looks up may run.
                self.slots.clear();
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_recipient_is_lost_or_delivered_twice(acts in proptest::collection::vec(act(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let short = Duration::from_millis(1);
            let back_off = BackOff { first: short, floor: short, most: short };
            let limits = Limits { connections: 3, recipients_per_message: 3, ..Limits::default() };
            let stage = Stage::new(Settings { back_off, limits, connections: 5, shards: 1, ..Settings::default() });
            let shelf = Arc::new(Shelf::default());
            stage.queue.start(shelf.clone());
            let mut play = Play { stage, shelf, slots: Vec::new(), put: BTreeMap::new() };
            for act in &acts {
                play.act(act).await;
            }
            play.finish().await;
            prop_assert!(play.put.values().all(|count| *count == 1), "{:?}", play.put);
            play.slots.clear();
            prop_assert_eq!(play.stage.queue.in_flight(), 0);
            prop_assert_eq!(play.stage.queue.view().totals.connections, 0);
            play.stage.queue.stop_dispatch();
            Ok(())
        })?;
    }
}

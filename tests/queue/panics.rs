//! Panics in the queue's own tasks: they go on, and so does everybody else's mail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hikyaku::log::simulated::{Operation, Simulated};
use hikyaku::message::{MessageId, Notify};
use hikyaku::queue::settings::{BackOff, Retry};
use hikyaku::queue::{Assignment, Courier, Filter, Settings, Slot};

use crate::common::{Player, Receiver, Stage, bounced, deferred, delivered};

fn panics(stage: &Stage, task: &str) -> u64 {
    let line = format!("hikyaku_task_panics_total{{task=\"{task}\"}} ");
    let text = stage.registry.render();
    text.lines().find_map(|found| found.strip_prefix(&line)).unwrap().parse().unwrap()
}

/// Panics when it is to open a connection for some domain.
struct Clumsy {
    player: Player,
    domain: &'static str,
}

impl Courier for Clumsy {
    fn dispatch(&self, slot: Slot, first: Assignment) {
        assert_ne!(first.domain(), self.domain, "a bug");
        self.player.dispatch(slot, first);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panics_of_the_courier_reach_neither_who_submits_nor_the_timers_nor_other_mail() {
    let second = Duration::from_secs(1);
    let retry = Retry { intervals: vec![second], jitter_percent: 0, ..Retry::default() };
    let back_off = BackOff { first: second, floor: second, most: second };
    let stage = Stage::new(Settings { retry, back_off, shards: 1, ..Settings::default() });
    let tries = AtomicUsize::new(0);
    let outcome = move |_, _| if tries.fetch_add(1, Ordering::Relaxed) < 3 { deferred("later") } else { delivered() };
    stage.script.set("d2.test", Receiver { outcome: Arc::new(outcome), ..Receiver::default() });
    stage.queue.start(Arc::new(Clumsy { player: Player(stage.script.clone()), domain: "d1.test" }));

    stage.submit(stage.envelope(&["a@d1.test"])).await;
    stage.submit(stage.envelope(&["a@d2.test"])).await;

    // By the only shard of the timers, in which the back-off of the other site ends again and again in a panic.
    stage.until_done(4).await;
    stage.until("panics in the timers", |stage| panics(stage, "timers") >= 2).await;
    // Whoever hands it out first: the look-up, or who submits, when it finds the plan already there.
    assert_eq!(panics(&stage, "lookups") + panics(&stage, "inlet"), 1);
    // It is given back by the drop of its assignment; the other one is gone.
    stage.until("one left", |stage| stage.queue.view().totals.queued == 1 && stage.spool.stat().messages == 1).await;
    assert_eq!(stage.queue.view().totals.held, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_dsn_cannot_be_made_for_a_panic_is_held() {
    let simulated = Simulated::new(7);
    let storage = simulated.clone();
    let stage = Stage::on(Settings::default(), move |_| Arc::new(storage));
    let is_armed = Arc::new(AtomicBool::new(false));
    let armed = is_armed.clone();
    simulated.inject(move |operation, _| {
        assert!(operation != Operation::Read || !armed.load(Ordering::SeqCst), "a bug in reading");
        None
    });
    let outcome = |_: MessageId, recipient: u32| if recipient == 0 { bounced("no such user") } else { delivered() };
    stage.script.set("d1.test", Receiver { outcome: Arc::new(outcome), ..Receiver::default() });
    is_armed.store(true, Ordering::SeqCst);

    let mut envelope = stage.envelope(&["a@d1.test", "b@d1.test"]);
    envelope.recipients[0].notify = Notify::UNSPECIFIED;
    let id = stage.submit(envelope).await;

    stage.until("the held one", |stage| stage.queue.view().totals.held == 1).await;
    let entries = stage.queue.list(&Filter { limit: 9, ..Filter::default() });
    assert_eq!((entries.len(), entries[0].recipient, entries[0].state), (1, 0, "damaged"));
    assert_eq!(entries[0].message_id, id.to_string());
    assert!(entries[0].last_reply.as_deref().is_some_and(|reply| reply.contains("panic: a bug in reading")));
    assert_eq!(panics(&stage, "dsn"), 1, "not tried again and again");
    assert_eq!((stage.queue.in_flight(), stage.spool.stat().messages), (0, 1));
    is_armed.store(false, Ordering::SeqCst);
    stage.submit(stage.envelope(&["a@d3.test"])).await;
    stage.until("the next message", |stage| stage.done().iter().any(|done| done.domain == "d3.test")).await;
}

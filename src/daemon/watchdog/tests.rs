//! The register with marks that the test moves, and real runtimes that hang.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

const STEP: Duration = Duration::from_secs(5);

/// A part that the test moves.
#[derive(Clone, Default)]
struct Puppet {
    mark: Arc<AtomicU64>,
    is_idle: Arc<AtomicBool>,
}

impl Puppet {
    fn sign(&self) -> impl Fn() -> Sign + Send + 'static {
        let puppet = self.clone();
        move || Sign { mark: puppet.mark.load(Ordering::Relaxed), is_due: !puppet.is_idle.load(Ordering::Relaxed) }
    }

    fn step(&self) {
        self.mark.fetch_add(1, Ordering::Relaxed);
    }

    fn rest(&self, is_idle: bool) {
        self.is_idle.store(is_idle, Ordering::Relaxed);
    }
}

/// A task and a disk, seen once.
fn register() -> (Register, Registry, Puppet, Puppet) {
    let registry = Registry::new().unwrap();
    let (task, disk) = (Puppet::default(), Puppet::default());
    let parts = vec![Part::task("task", task.sign()), Part::disk("disk", disk.sign())];
    let mut register = Register::new(&registry);
    register.add(parts);
    assert!(register.look(STEP));
    (register, registry, task, disk)
}

/// How many looks it takes until one says no; `each` is done before every look.
fn looks(register: &mut Register, most: usize, each: impl Fn()) -> Option<usize> {
    (1..=most).find(|_| {
        each();
        !register.look(STEP)
    })
}

#[test]
fn parts_that_move_or_have_nothing_to_do_are_well_for_ever() {
    let (mut register, _, task, disk) = register();
    disk.rest(true);

    assert_eq!(looks(&mut register, 10_000, || task.step()), None);
}

#[test]
fn a_part_that_should_move_and_does_not_is_stuck_after_a_minute_and_well_when_it_moves() {
    let (mut register, registry, task, disk) = register();

    assert_eq!(looks(&mut register, 100, || disk.step()), Some(12));
    assert!(registry.render().contains("hikyaku_watchdog_still_seconds{part=\"task\"} 60\n"), "{}", registry.render());
    task.step();
    assert!(register.look(STEP));
    assert!(registry.render().contains("hikyaku_watchdog_still_seconds{part=\"task\"} 0\n"), "{}", registry.render());
}

#[test]
fn a_stalled_disk_has_ten_minutes_in_which_what_waits_for_it_is_excused() {
    let (mut register, ..) = register();

    assert_eq!(looks(&mut register, 1_000, || {}), Some(120), "neither moves");
}

#[test]
fn a_part_that_hangs_on_after_the_disk_is_back_is_stuck_a_minute_later() {
    let (mut register, _, _, disk) = register();

    assert_eq!(looks(&mut register, 20, || {}), None, "100 s of a stalled disk");
    assert_eq!(looks(&mut register, 100, || disk.step()), Some(12));
}

#[test]
fn an_accept_loop_is_watched_from_its_start_to_its_end() {
    let (mut register, _, task, disk) = register();
    let parts = Parts::default();
    let pulse = parts.accept_loop();
    register.add(parts.take());
    let others = || {
        task.step();
        disk.step();
    };

    assert_eq!(looks(&mut register, 100, others), Some(13), "its first look only shows where it stands");
    pulse.beat();
    assert_eq!(looks(&mut register, 5, others), None);
    drop(pulse);

    assert_eq!(looks(&mut register, 100, others), None);
    assert_eq!(register.watched.len(), 2);
}

/// A real runtime needs real time.
const SHORT: Duration = Duration::from_secs(2);

#[test]
fn a_thread_of_the_runtime_that_hangs_in_a_poll_is_found_and_one_that_works_or_sleeps_is_not() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let parts = Part::workers(runtime.handle()).map(|part| Part { limit: SHORT, ..part }).collect();
    let mut register = Register::new(&Registry::new().unwrap());
    register.add(parts);
    let mut last = Instant::now();
    let mut look = || {
        thread::sleep(Duration::from_millis(2));
        let now = Instant::now();
        register.look(now - std::mem::replace(&mut last, now))
    };
    let (hang, hung) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    runtime.spawn(async {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });

    assert!((0..50).all(|_| look()), "nothing hangs yet");
    runtime.spawn(async move {
        tell.send(()).unwrap();
        let _ = hung.recv();
    });
    told.recv().unwrap();

    let begun = Instant::now();
    while look() {
        assert!(begun.elapsed() < SHORT * 10, "the thread that hangs is not found");
    }
    drop(hang);
    while !look() {
        assert!(begun.elapsed() < SHORT * 20, "the thread works again");
    }
}

#[test]
fn systemd_is_fed_while_all_is_well_and_not_while_a_part_is_stuck() {
    let puppet = Puppet::default();
    let looks = Arc::new(AtomicU64::new(0));
    let (sign, seen) = (puppet.sign(), looks.clone());
    let part = Part::task("task", move || {
        seen.fetch_add(1, Ordering::AcqRel);
        sign()
    });
    let part = Part { limit: Duration::from_millis(50), ..part };
    let (fed, meals) = mpsc::channel();
    let now = looks.clone();
    let feed = move || {
        let _ = fed.send(now.load(Ordering::Acquire));
    };

    let timeout = Some(Duration::from_millis(30));
    let parts = Parts::default();
    parts.add(part);
    let watchdog = Watchdog::start(parts, &Registry::new().unwrap(), timeout, feed).unwrap();

    let begun = Instant::now();
    while looks.load(Ordering::Acquire) < 50 {
        assert!(begun.elapsed() < Duration::from_secs(60));
        thread::yield_now();
    }
    // A third of the timeout is 10 ms: the limit is passed at the sixth look, if the first ones are not late.
    let before: Vec<u64> = meals.try_iter().collect();
    assert!(!before.is_empty() && before.iter().all(|look| *look <= 7), "{before:?}");
    puppet.step();
    assert!(meals.recv_timeout(Duration::from_secs(20)).is_ok_and(|look| look >= 50), "fed again");
    drop(watchdog);
    let _rest: Vec<u64> = meals.try_iter().collect();
    assert!(meals.recv().is_err(), "the thread has ended");
}

#[tokio::test(start_paused = true)]
async fn a_task_without_anything_to_do_beats_and_one_that_is_woken_too() {
    let pulse = Pulse::default();
    let task = tokio::spawn(beating(pulse.clone(), std::future::pending::<()>()));

    for _ in 0..5 {
        let before = pulse.mark();
        tokio::time::sleep(BEAT + Duration::from_secs(1)).await;
        assert_ne!(pulse.mark(), before);
    }
    task.abort();
}

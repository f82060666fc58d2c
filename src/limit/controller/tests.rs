//! The controller as a whole, call by call.

use super::*;

const WALL: Duration = Duration::from_secs(1_800_000_000);
const REPLY: &str = "421 4.7.28 our system has detected an unusual rate of mail";

/// A controller and its time.
struct Stage {
    controller: Controller,
    origin: Instant,
    millis: u64,
}

impl Stage {
    fn new() -> Self {
        let origin = Instant::now();
        Self { controller: Controller::new(Ceilings::default(), 1, origin, WALL), origin, millis: 0 }
    }

    fn now(&self) -> Instant {
        self.origin + Duration::from_millis(self.millis)
    }

    /// Sends all that may go in so many milliseconds; each is answered at once by `signal`.
    fn run(&mut self, millis: u64, signal: impl Fn(u64) -> Signal) -> (u32, Changes) {
        let (mut sent, mut changes) = (0, Vec::new());
        let end = self.millis + millis;
        while self.millis < end {
            self.millis += 10;
            while self.controller.may_send(self.now()).is_ok() {
                self.controller.send(self.now());
                sent += 1;
                let answer = answer(signal(self.millis));
                changes.extend(self.controller.replied(&answer, 1, self.now()).changes);
            }
            if self.controller.next_tick().is_some_and(|tick| tick <= self.now()) {
                changes.extend(self.controller.tick(true, self.now()));
            }
        }
        (sent, changes)
    }
}

fn answer(signal: Signal) -> Answer<'static> {
    let latency = Duration::from_millis(1);
    Answer { signal, reply: REPLY, count: 1, is_closed: signal == Signal::Rate, latency, rest: None }
}

#[test]
fn the_rate_grows_while_nothing_is_refused() {
    let mut stage = Stage::new();

    let (sent, changes) = stage.run(60_000, |_| Signal::Accepted);

    assert!((350..450).contains(&sent), "{sent}");
    assert!(changes.iter().all(|change| change.what == What::Rate && change.to > change.from));
}

#[test]
fn a_refusal_pauses_everything_and_is_quoted() {
    let mut stage = Stage::new();
    stage.run(40_000, |_| Signal::Accepted);

    let (sent, changes) = stage.run(1_000, |_| Signal::Rate);

    assert_eq!(sent, 1);
    let change = changes.last().unwrap();
    assert!(change.reason.contains(REPLY) && change.to < change.from, "{changes:?}");
    let wait = stage.controller.may_send(stage.now()).unwrap_err();
    assert_eq!(wait.cause, Cause::Pause);
    assert!(wait.until.is_some_and(|until| until > stage.now()));
    assert!(!stage.controller.may_look_ahead(stage.now()));
}

#[test]
fn replies_about_a_message_move_no_limit() {
    let mut stage = Stage::new();

    let (sent, changes) = stage.run(30_000, |_| Signal::Neutral);

    assert!(sent > 30 && changes.iter().all(|change| change.to > change.from), "{changes:?}");
}

#[test]
fn one_message_at_a_time_asks_whether_a_pause_is_over() {
    let mut stage = Stage::new();
    stage.run(40_000, |_| Signal::Accepted);
    stage.run(1_000, |_| Signal::Rate);
    stage.millis += 30_000;

    assert!(stage.controller.may_send(stage.now()).is_ok());
    stage.controller.send(stage.now());
    let wait = stage.controller.may_send(stage.now()).unwrap_err();

    assert_eq!((wait.cause, wait.until), (Cause::Gate, None));
    stage.controller.unsent(stage.now());
    stage.millis += 1_000;
    assert!(stage.controller.may_send(stage.now()).is_ok(), "it did not go after all");
}

#[test]
fn reputation_rests_the_site_for_half_an_hour_and_names_the_reply() {
    let mut stage = Stage::new();

    let (_, changes) = stage.run(1_000, |_| Signal::Reputation);

    let change = changes.iter().find(|change| change.what == What::Breaker).unwrap();
    assert!(change.reason.contains(REPLY) && change.to.unwrap() >= 1800.0, "{change:?}");
    let wait = stage.controller.may_open(0, stage.now()).unwrap_err();
    assert_eq!(wait.cause, Cause::Breaker);
    assert!(stage.controller.view(stage.now()).is_resting);
}

#[test]
fn a_refused_connection_tells_the_limit_exactly() {
    let mut stage = Stage::new();
    stage.run(100_000, |_| Signal::Accepted);
    let refused = |others| Refused {
        failure: Failure::TooMany,
        reply: "421 4.7.0 Too many connections",
        others,
        open: others,
        took: Duration::from_millis(100),
    };

    let changes = stage.controller.refused(&refused(1), stage.now()).changes;

    assert!(changes[0].reason.contains("421 4.7.0 Too many connections"), "{changes:?}");
    assert_eq!(stage.controller.connection_limit(stage.now()), 1);
    assert!(stage.controller.may_open(1, stage.now()).is_err());
}

#[test]
fn a_rate_without_a_limit_is_kept_over_a_restart_and_grows_no_more_below_a_pin() {
    let start = Start { rate: f64::INFINITY, connections: u32::MAX, messages_per_connection: 0 };
    let mut stage = Stage::new();
    let now = stage.now();
    stage.controller = Controller::new(Ceilings::default(), 1, now, WALL).starting(start);
    stage.controller.set_orders(Orders { rate: Bounds::pin(1.0), ..Orders::default() });
    stage.controller.set(What::MessagesPerConnection, (Some(30.0), None), "told".to_owned(), now);

    let (sent, changes) = stage.run(60_000, |_| Signal::Accepted);

    assert!((58..=62).contains(&sent), "{sent}");
    assert_eq!(changes, []);
    let kept = Learnt::decode(&stage.controller.learnt(stage.now()).encode()).unwrap();
    assert_eq!((kept.rate, kept.messages_per_connection), (f64::INFINITY, 30));
}

#[test]
fn an_operator_pins_bounds_and_resets() {
    let mut stage = Stage::new();
    let now = stage.now();

    stage.controller.set_orders(Orders { rate: Bounds::pin(5.0), connections: Bounds::pin(4.0), ..Orders::default() });
    let pinned = stage.controller.view(now);
    stage.controller.set_ceilings(Ceilings { rate: Some(1.5), connections: 3, ..Ceilings::default() });
    let under = stage.controller.view(now);
    stage.controller.set_orders(Orders::default());
    let changes = stage.controller.reset(What::Rate, Start::default(), "reset".to_owned(), now);

    assert_eq!((pinned.rate_per_minute, pinned.connections), (300.0, 4));
    assert_eq!((under.rate_per_minute, under.connections), (90.0, 3), "the configuration comes last");
    assert_eq!((changes.len(), stage.controller.orders()), (1, Orders::default()));
}

#[test]
fn what_an_operator_sets_is_learnt_on_from_and_what_he_resets_begins_anew() {
    let mut stage = Stage::new();
    let now = stage.now();
    let set = |stage: &mut Stage, what, value| stage.controller.set(what, (value, None), "undone".to_owned(), now);

    for (what, value) in [
        (What::Rate, Some(600.0)),
        (What::Connections, Some(7.0)),
        (What::MessagesPerConnection, Some(30.0)),
        (What::Cap, Some(900.0)),
    ] {
        let changes = set(&mut stage, what, value);
        assert_eq!((changes.len(), changes[0].what, changes[0].to), (1, what, value), "{changes:?}");
    }
    let unlimited = set(&mut stage, What::Rate, None);
    assert_eq!((unlimited[0].from, unlimited[0].to), (Some(600.0), None));

    let start = Start { rate: 5.0, connections: 3, messages_per_connection: 20 };
    for (what, value) in [
        (What::Rate, Some(300.0)),
        (What::Connections, Some(3.0)),
        (What::MessagesPerConnection, Some(20.0)),
        (What::Cap, None),
    ] {
        let changes = stage.controller.reset(what, start, "reset".to_owned(), now);
        assert_eq!((changes[0].to, &*changes[0].reason), (value, "reset"), "{what:?}");
    }
}

#[test]
fn a_quiet_path_keeps_what_it_has_learnt_and_takes_little_memory() {
    let mut stage = Stage::new();
    stage.run(60_000, |_| Signal::Accepted);
    stage.run(1_000, |_| Signal::Rate);
    stage.run(60_000, |_| Signal::Accepted);
    let before = stage.controller.view(stage.now()).limit_per_minute;

    stage.millis += 300_000;
    stage.controller.tick(false, stage.now());

    assert!(before.is_some());
    assert_eq!(stage.controller.view(stage.now()).limit_per_minute, before);
    assert_eq!((stage.controller.heap(), stage.controller.next_tick()), (0, None));
    assert!(size_of::<Controller>() <= 240, "{}", size_of::<Controller>());
    stage.run(10_000, |_| Signal::Accepted);
    assert_eq!(stage.controller.view(stage.now()).limit_per_minute, before);
}

#[test]
fn a_snapshot_is_what_a_restart_goes_on_with() {
    let mut stage = Stage::new();
    stage.run(60_000, |_| Signal::Accepted);
    stage.run(1_000, |_| Signal::Rate);
    stage.controller.replied(&Answer { count: 21, ..answer(Signal::MessagesPerConnection) }, 1, stage.now());

    let learnt = Learnt::decode(&stage.controller.learnt(stage.now()).encode()).unwrap();
    let mut after = Controller::restore(&learnt, Ceilings::default(), 1, stage.now(), WALL + Duration::from_secs(61));

    let view = after.view(stage.now());
    assert_eq!((view.phase, view.limit_per_minute), (Phase::Hold, Some(learnt.rate * 60.0)));
    assert_eq!(after.messages_per_connection(stage.now()), Some(20));
    assert!((view.rate_per_minute / 60.0 / learnt.rate - 0.92).abs() < 0.01, "{view:?}");
}

#[test]
fn a_connection_that_has_carried_enough_tells_the_count_and_leaves_nothing_in_flight() {
    let mut stage = Stage::new();
    stage.run(1_000, |_| Signal::Accepted);
    let now = stage.now();

    let changes = stage.controller.used_up(21, "421 4.7.0 Max messages per connection", now);

    assert_eq!(stage.controller.messages_per_connection(now), Some(20));
    assert!(changes[0].reason.contains("message 21 was refused (421 4.7.0 Max messages"), "{changes:?}");
    stage.controller.may_send(now + Duration::from_secs(1)).unwrap();
}

#[test]
fn work_that_waits_for_a_connection_has_the_limit_grow_once_the_rate_needs_more() {
    let grown = |is_short: bool| {
        let mut stage = Stage::new();
        stage.run(30_000, |_| Signal::Accepted);
        // Slow replies: by Little's law the rate is worth more connections than there are.
        while stage.controller.connection_limit(stage.now()) == 2 && stage.millis < 120_000 {
            stage.millis += 500;
            let now = stage.now();
            if is_short {
                stage.controller.short_of_connections(2, now);
            }
            if stage.controller.may_send(now).is_ok() {
                stage.controller.send(now);
                let latency = Duration::from_millis(900);
                stage.controller.replied(&Answer { latency, ..answer(Signal::Accepted) }, 2, now);
            }
            if stage.controller.next_tick().is_some_and(|tick| tick <= now) {
                stage.controller.tick(true, now);
            }
        }
        stage.controller.connection_limit(stage.now())
    };

    assert!(grown(true) > 2);
    assert_eq!(grown(false), 2, "nobody said that connections are short");
}

#[test]
fn refusals_on_the_heels_of_connections_that_end_leave_the_limit_if_they_are_few() {
    let refused = |ends: u32| {
        let mut stage = Stage::new();
        let refuse = |stage: &mut Stage, others| {
            let (failure, took) = (Failure::TooMany, Duration::from_millis(100));
            let reply = "421 4.7.0 Too many connections";
            stage.controller.refused(&Refused { failure, reply, others, open: others, took }, stage.now());
        };
        stage.run(1_000, |_| Signal::Accepted);
        refuse(&mut stage, 2);
        stage.millis = 100_000;
        for _ in 0..2 {
            for _ in 0..ends {
                stage.millis += 10;
                stage.controller.closed(None, stage.now());
            }
            refuse(&mut stage, 1);
        }
        stage.controller.connection_limit(stage.now())
    };

    assert_eq!(refused(60), 2, "one of many");
    assert_eq!(refused(5), 1, "one of few, twice within a minute");
}

/// A message goes and is answered; whether that is a refusal because of a limit.
fn is_throttle(stage: &mut Stage, answer: &Answer<'_>) -> bool {
    stage.controller.send(stage.now());
    stage.millis += 1;
    stage.controller.replied(answer, 2, stage.now()).is_throttle
}

#[test]
fn an_opaque_refusal_blames_no_message_once_it_is_taken_for_one() {
    let opaque = Answer { reply: "451 try again later", ..answer(Signal::Unknown) };
    let mut stage = Stage::new();
    stage.run(30_000, |_| Signal::Accepted);

    let before = (0..30).map(|_| is_throttle(&mut stage, &opaque)).take_while(|is_throttle| !is_throttle).count();
    let behind = is_throttle(&mut stage, &opaque);

    assert!((2..20).contains(&before), "{before}: until they are too many, they are about their messages");
    assert!(behind, "it was on its way when the gate was shut");
    let mut stage = Stage::new();
    stage.run(30_000, |_| Signal::Accepted);
    assert!(is_throttle(&mut stage, &Answer { is_closed: true, ..opaque }), "closed with it");
    assert!(!is_throttle(&mut Stage::new(), &answer(Signal::Neutral)));
}

#[test]
fn a_connection_that_is_refused_without_a_reason_is_one_too_many_beside_those_that_stand() {
    let refused = |open: u32| {
        let (failure, reply, took) = (Failure::Unsaid, "421 try again later", Duration::from_millis(100));
        let mut stage = Stage::new();
        stage.run(100_000, |_| Signal::Accepted);
        let heard = stage.controller.refused(&Refused { failure, reply, others: open, open, took }, stage.now());
        (heard.is_throttle, stage.controller.view(stage.now()).connection_limit)
    };

    assert_eq!(refused(1), (true, Some(1)));
    assert_eq!(refused(0), (false, None), "nothing to compare with");
}

#[test]
fn a_few_connections_that_end_at_mail_are_a_refusal_and_a_pause_that_grows() {
    let closed = Answer { reply: "connection closed by the receiver (mail)", ..answer(Signal::Strained) };
    let mut stage = Stage::new();
    stage.run(40_000, |_| Signal::Accepted);

    let taken: Vec<bool> = (0..4).map(|_| is_throttle(&mut stage, &closed)).collect();
    let first = stage.controller.may_send(stage.now()).unwrap_err();
    stage.millis += 30_000;
    let (sent, _) = stage.run(1_000, |_| Signal::Strained);
    let second = stage.controller.may_send(stage.now()).unwrap_err();

    assert_eq!(taken, [false, false, true, true], "the last one was on its way");
    assert_eq!((first.cause, sent, second.cause), (Cause::Pause, 1, Cause::Pause), "one asks whether it is over");
    assert!(second.until > first.until);
    assert!(stage.controller.view(stage.now()).limit_per_minute.is_some(), "and the limit is what was taken before");
}

/// A receiver that takes so many a minute, by the last one or by the clock's.
struct Minute {
    most: usize,
    is_of_clock: bool,
    taken: std::cell::RefCell<Vec<u64>>,
    refused: std::cell::Cell<u32>,
}

impl Minute {
    fn new(most: usize, is_of_clock: bool) -> Self {
        Self { most, is_of_clock, taken: Default::default(), refused: Default::default() }
    }

    fn answer(&self, millis: u64) -> Signal {
        let wall = WALL.as_millis() as u64 + millis;
        let counts = |then: &u64| match self.is_of_clock {
            true => then / 60_000 == wall / 60_000,
            false => wall - then < 60_000,
        };
        let mut taken = self.taken.borrow_mut();
        taken.retain(|then| counts(then));
        if taken.len() >= self.most {
            self.refused.set(self.refused.get() + 1);
            return Signal::Rate;
        }
        taken.push(wall);
        Signal::Accepted
    }
}

#[test]
fn a_refusal_right_behind_a_restart_moves_no_limit_that_was_known() {
    for (most, is_of_clock, restart) in
        [(600, false, 4_000), (300, true, 4_000), (300, true, 45_000), (120, false, 4_000)]
    {
        let receiver = Minute::new(most, is_of_clock);
        let mut stage = Stage::new();
        while receiver.refused.get() == 0 {
            stage.run(100, |millis| receiver.answer(millis));
        }
        stage.run(restart, |millis| receiver.answer(millis));
        let known = stage.controller.view(stage.now()).limit_per_minute.unwrap();

        let learnt = stage.controller.learnt(stage.now());
        let wall = WALL + Duration::from_millis(stage.millis);
        stage.controller = Controller::restore(&learnt, Ceilings::default(), 1, stage.now(), wall);
        receiver.refused.set(0);
        let sent = stage.run(600_000, |millis| receiver.answer(millis)).0 - receiver.refused.get();

        let limit = stage.controller.view(stage.now()).limit_per_minute.unwrap();
        let share = f64::from(sent) / (most as f64 * 10.0);
        let case = format!("{most} {is_of_clock} {restart}: {known} to {limit}, {share:.2} used");
        assert!(limit > 0.9 * known.min(most as f64), "{case}");
        assert!(share > 0.85, "{case}");
        assert!(receiver.refused.get() <= 4, "{case}: {} refused", receiver.refused.get());
    }
}

#[test]
fn a_refusal_right_behind_a_restart_before_anything_was_measured_halves_the_rate() {
    let mut stage = Stage::new();
    stage.run(120_000, |_| Signal::Accepted);
    let learnt = stage.controller.learnt(stage.now());
    let wall = WALL + Duration::from_millis(stage.millis);
    stage.controller = Controller::restore(&learnt, Ceilings::default(), 1, stage.now(), wall);
    stage.run(2_000, |_| Signal::Accepted);

    let (_, changes) = stage.run(500, |_| Signal::Rate);

    let change = changes.last().unwrap();
    assert!(change.to.unwrap() > 0.4 * change.from.unwrap(), "{changes:?}");
    assert_eq!(stage.controller.view(stage.now()).limit_per_minute, None);
}

#[test]
fn where_refusals_say_nothing_one_more_of_them_blames_no_message() {
    let opaque = Answer { reply: "451 try again later", ..answer(Signal::Unknown) };
    let mut stage = Stage::new();
    stage.run(30_000, |_| Signal::Accepted);
    while !is_throttle(&mut stage, &opaque) {}
    stage.run(300_000, |_| Signal::Accepted);

    assert!(is_throttle(&mut stage, &opaque));

    let view = stage.controller.view(stage.now());
    assert!(view.paused_until.is_none_or(|until| until <= stage.now()), "one is no reason to slow down: {view:?}");
}

#[test]
fn connections_that_end_before_the_greeting_are_tried_more_and_more_seldom() {
    let mut stage = Stage::new();
    let cut_off = |stage: &mut Stage, others: u32| {
        let (failure, reply) = (Failure::Closed, "connection closed by the receiver (greeting)");
        let took = Duration::from_millis(5);
        stage.controller.refused(&Refused { failure, reply, others, open: others, took }, stage.now())
    };

    let mut pauses = Vec::new();
    for _ in 0..16 {
        let is_throttle = cut_off(&mut stage, 0).is_throttle;
        let pause = stage.controller.may_open(0, stage.now()).err().and_then(|wait| wait.until);
        pauses.push(pause.map_or(0, |until| (until - stage.now()).as_secs()));
        assert_eq!(is_throttle, pauses.last() != Some(&0));
        stage.millis += pauses.last().unwrap() * 1_000;
    }

    assert_eq!(pauses, [0, 0, 0, 0, 0, 0, 0, 60, 120, 240, 480, 960, 1800, 1800, 1800, 1800]);
    stage.controller.opened(0, Duration::from_millis(5), stage.now());
    assert!(!cut_off(&mut stage, 0).is_throttle, "it begins anew behind one that opens");
    let beside: Vec<bool> = (0..2).map(|_| cut_off(&mut stage, 1).is_throttle).collect();
    assert_eq!(beside, [false, true], "with the one before they are three");
    assert_eq!(stage.controller.view(stage.now()).connection_limit, Some(1));
}

#[test]
fn nothing_is_learnt_above_what_an_operator_or_the_configuration_allows() {
    let pin = Orders { rate: Bounds::pin(1.0), connections: Bounds::pin(1.0), ..Orders::default() };
    let ceiling = Ceilings { rate: Some(3.0), connections: 3, ..Ceilings::default() };
    for (orders, ceilings, rate, connections) in
        [(pin, Ceilings::default(), 120.0, 2), (Orders::default(), ceiling, 180.0, 3)]
    {
        let mut stage = Stage::new();
        stage.controller.set_orders(orders);
        stage.controller.set_ceilings(ceilings);

        for _ in 0..12 {
            stage.controller.may_open(20, stage.now()).unwrap_err();
            stage.run(10_000, |_| Signal::Accepted);
        }
        stage.controller.set_orders(Orders::default());
        stage.controller.set_ceilings(Ceilings::default());

        let view = stage.controller.view(stage.now());
        assert!((view.rate_per_minute - rate).abs() < 0.1, "{orders:?}: {view:?}");
        assert!(view.connections <= connections, "{orders:?}: {view:?}");
    }
}

#[test]
fn a_refusal_that_is_undone_leaves_no_limit_that_nobody_has_measured() {
    let mut stage = Stage::new();
    stage.run(40_000, |_| Signal::Accepted);
    let (_, changes) = stage.run(1_000, |_| Signal::Rate);
    let refused = changes.last().unwrap().clone();
    let now = stage.now();
    stage
        .controller
        .refused(&Refused { failure: Failure::TooMany, reply: "421", others: 1, open: 1, took: Duration::ZERO }, now);

    let undone = stage.controller.set(What::Rate, (refused.from, refused.limit_before), "undone".to_owned(), now);
    let connections = stage.controller.set(What::Connections, (Some(2.0), None), "undone".to_owned(), now);

    let view = stage.controller.view(now);
    assert_eq!((refused.limit_before, undone[0].to), (None, refused.from));
    assert_eq!((view.phase, view.limit_per_minute), (Phase::Start, None));
    assert_eq!((connections[0].limit_before, view.connections, view.connection_limit), (Some(1.0), 2, None));
}

#[test]
fn what_the_configuration_holds_down_is_told_apart_from_what_is_learnt() {
    let mut stage = Stage::new();
    stage.controller.set_ceilings(Ceilings { rate: Some(3.0), connections: 10, ..Ceilings::default() });
    let is_configured = |stage: &Stage| {
        [What::Rate, What::Connections].map(|what| stage.controller.view(stage.now()).is_configured(what))
    };

    let before = is_configured(&stage);
    stage.run(60_000, |_| Signal::Accepted);

    assert_eq!((before, is_configured(&stage)), ([false, false], [true, false]));
}

//! A plan over days on a virtual clock.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn plan(volumes: &[u32]) -> Plan {
    Plan {
        start: Day(20_000),
        volumes: volumes.into(),
        spread: Day::LENGTH,
        pause_at: Share(300),
        pause_sample: 20,
        pause_for: Day::LENGTH,
    }
}

/// So long after the first day has begun.
fn after(days: u32, of_day: Duration) -> Duration {
    Day(20_000 + days).begin() + of_day
}

fn started(volumes: &[u32]) -> Warmup {
    Warmup::new(plan(volumes), None, after(0, Duration::ZERO))
}

/// When messages go that always wait, from `from` to `to`.
fn times(warmup: &mut Warmup, from: Duration, to: Duration) -> Vec<Duration> {
    let (mut now, mut gone) = (from, Vec::new());
    while now < to {
        match warmup.take(now) {
            Ok(()) => gone.push(now),
            Err(wait) => now = wait.until.unwrap_or(to).max(now + Duration::from_millis(1)),
        }
    }
    gone
}

#[test]
fn each_day_has_its_volume_and_after_the_last_one_nothing_is_limited() {
    let mut warmup = started(&[50, 100, 1_000]);

    let counts: Vec<usize> = (0..3)
        .map(|day| times(&mut warmup, after(day, Duration::ZERO), after(day + 1, Duration::ZERO)).len())
        .collect();

    assert_eq!(counts, [50, 100, 1_000]);
    assert!((0..5_000).all(|_| warmup.take(after(3, Duration::ZERO)).is_ok()));
    assert_eq!((warmup.state(), warmup.volume(), warmup.day()), (State::Done, None, 4));
}

#[test]
fn a_day_is_spread_and_never_used_up_in_its_first_second() {
    let mut warmup = started(&[1_000]);

    let gone = times(&mut warmup, after(0, Duration::ZERO), after(1, Duration::ZERO));

    assert!(
        gone[49] < after(0, Duration::from_secs(1)) && gone[50] > after(0, Duration::from_secs(60)),
        "a twentieth at once"
    );
    let noon = gone.iter().filter(|at| **at < after(0, HOUR * 12)).count();
    assert!((500..560).contains(&noon), "{noon} until noon");
    let most = gone.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(most < Duration::from_secs(100), "{most:?}");
}

#[test]
fn what_nobody_took_is_spread_over_what_is_left_of_the_day_but_not_over_less_than_an_hour() {
    let mut warmup = started(&[1_000]);

    let gone = times(&mut warmup, after(0, HOUR * 20), after(1, Duration::ZERO));
    let mut late = started(&[1_000]);
    let at_last = times(&mut late, after(0, HOUR * 24 - Duration::from_secs(60)), after(1, Duration::ZERO));

    assert_eq!(gone.len(), 1_000);
    let half = gone[500] - after(0, HOUR * 20);
    assert!(half > Duration::from_secs(6_000) && half < HOUR * 2, "{half:?}");
    assert!((50..80).contains(&at_last.len()), "{}", at_last.len());
}

#[test]
fn a_shorter_spread_lets_a_day_go_faster() {
    let mut warmup = Warmup::new(Plan { spread: HOUR * 2, ..plan(&[1_000]) }, None, after(0, Duration::ZERO));

    let gone = times(&mut warmup, after(0, HOUR * 9), after(1, Duration::ZERO));

    let last = *gone.last().unwrap() - after(0, HOUR * 9);
    assert!(gone.len() == 1_000 && last < HOUR * 2 && last > HOUR, "{last:?}");
}

#[test]
fn nothing_goes_before_the_first_day() {
    let mut warmup = Warmup::new(plan(&[50]), None, after(0, Duration::ZERO) - HOUR * 30);

    let wait = warmup.take(after(0, Duration::ZERO) - HOUR).unwrap_err();

    assert_eq!((wait.halt, wait.until), (Halt::Waiting, Some(after(0, Duration::ZERO))));
    assert_eq!(
        (warmup.state(), warmup.day(), warmup.volume(), warmup.room(after(0, Duration::ZERO) - HOUR)),
        (State::Waiting, 0, Some(0), Some(0))
    );
    assert_eq!(warmup.take(after(0, Duration::ZERO)), Ok(()));
    assert_eq!(
        warmup.take_changes().last().map(|change| change.reason.clone()).as_deref(),
        Some("warm-up: day 1 of 1")
    );
}

#[test]
fn what_was_refused_for_the_pace_is_given_back_unless_its_day_is_over() {
    let mut warmup = started(&[20]);
    let begin = after(0, Duration::ZERO);
    assert_eq!(warmup.take(begin), Ok(()));
    assert!(warmup.take(begin).is_err());

    warmup.give_back(begin, begin);
    assert_eq!((warmup.progress().sent, warmup.take(begin)), (0, Ok(())));
    let mut two = started(&[20, 20]);
    two.take(begin).unwrap();
    two.take(after(1, HOUR)).unwrap();

    two.give_back(begin, after(1, HOUR));

    assert_eq!(two.progress().sent, 1, "yesterday's gives today no room");
}

/// The same after a restart.
fn restarted(warmup: &Warmup, now: Duration) -> Warmup {
    let kept = serde_json::to_string(warmup.progress()).unwrap();
    Warmup::new(warmup.plan().clone(), Some(serde_json::from_str(&kept).unwrap()), now)
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let mut warmup = started(&[50, 100]);
    let gone = times(&mut warmup, after(0, Duration::ZERO), after(0, HOUR * 6)).len();
    warmup.replied(Some("550 no"), after(0, HOUR * 6));

    let mut again = restarted(&warmup, after(0, HOUR * 7));

    assert_eq!((again.progress().sent, again.recent(after(0, HOUR * 7))), (u32::try_from(gone).unwrap(), (1, 1)));
    let rest = times(&mut again, after(0, HOUR * 7), after(1, Duration::ZERO)).len();
    assert_eq!(gone + rest, 50);
    let mut later = restarted(&again, after(1, HOUR * 5));
    assert_eq!((later.day(), later.progress().sent, later.take(after(1, HOUR * 5))), (2, 0, Ok(())));
}

#[test]
fn a_clock_that_is_set_back_over_midnight_gives_no_day_twice() {
    let mut warmup = started(&[20, 40]);
    times(&mut warmup, after(1, Duration::ZERO), after(1, HOUR));
    let (sent, day) = (warmup.progress().sent, warmup.day());

    let mut again = restarted(&warmup, after(0, HOUR * 23));

    assert_eq!((again.progress().sent, again.day()), (sent, day));
    let until = after(2, Duration::ZERO);
    let rest = times(&mut again, after(0, HOUR * 23), until).len();
    assert_eq!(rest + usize::try_from(sent).unwrap(), 40);
}

#[test]
fn a_clock_that_was_ahead_by_months_does_not_stop_mail_for_months() {
    let mut warmup = started(&[20; 300]);
    times(&mut warmup, after(200, Duration::ZERO), after(201, Duration::ZERO));

    let mut again = restarted(&warmup, after(3, HOUR));

    assert_eq!(again.day(), 4);
    assert_eq!(again.take(after(4, HOUR)), Ok(()));
}

#[test]
fn days_with_a_pause_do_not_count() {
    let mut warmup = started(&[10, 20, 30, 40]);
    warmup.pause("ops", "too soon", Some(after(1, HOUR * 2)), after(0, HOUR * 23));

    let wait = warmup.look(after(1, HOUR)).unwrap_err();
    assert_eq!((wait.halt, wait.until), (Halt::Paused, Some(after(1, HOUR * 2))));
    assert_eq!((warmup.day(), warmup.state()), (1, State::Paused), "the first day was not whole");
    assert!(warmup.look(after(1, HOUR * 2)).is_ok());
    assert_eq!((warmup.day(), warmup.volume()), (1, Some(10)));
    warmup.roll(after(2, Duration::ZERO));

    assert_eq!((warmup.day(), warmup.volume()), (1, Some(10)), "nor was the second");
    warmup.roll(after(3, Duration::ZERO));
    assert_eq!((warmup.day(), warmup.progress().held_days()), (2, 2));
}

#[test]
fn days_of_a_pause_without_an_end_stand_still_over_a_restart() {
    let mut warmup = started(&[10, 20, 30]);
    warmup.pause("ops", "holidays", None, after(1, HOUR));
    let mut again = restarted(&warmup, after(9, HOUR));

    assert_eq!((again.day(), again.state(), again.look(after(9, HOUR)).unwrap_err().until), (2, State::Paused, None));
    assert!(again.resume("ops", "back", after(9, HOUR * 2)) && !again.resume("ops", "back", after(9, HOUR * 2)));

    assert_eq!((again.day(), again.state()), (2, State::Running));
    again.roll(after(10, HOUR));
    assert_eq!(again.day(), 2, "the day of the resumption was not whole");
    again.roll(after(11, HOUR));
    assert_eq!(again.day(), 3);
}

#[test]
fn a_pause_that_ended_while_nothing_ran_counts_the_days_until_then_only() {
    let mut warmup = started(&[10; 20]);
    warmup.pause("ops", "x", Some(after(3, HOUR)), after(1, HOUR));

    let again = restarted(&warmup, after(8, HOUR));

    assert_eq!((again.state(), again.progress().held_days(), again.day()), (State::Running, 3, 6));
}

/// What a receiver says: so many good replies, then so many bad ones.
fn replies(warmup: &mut Warmup, good: u32, bad: u32, now: Duration) {
    (0..good).for_each(|_| warmup.replied(None, now));
    (0..bad).for_each(|_| warmup.replied(Some("554 5.7.1 blocked"), now));
}

#[test]
fn bad_replies_over_the_share_pause_it_for_its_time() {
    let mut warmup = started(&[1_000; 9]);
    let now = after(0, HOUR);
    warmup.take_changes();

    replies(&mut warmup, 100, 3, now);
    assert_eq!(warmup.state(), State::Running, "3 of 103");
    replies(&mut warmup, 0, 1, now);

    assert_eq!(warmup.state(), State::Paused);
    let told = warmup.take_changes();
    let change = told.last().unwrap();
    assert_eq!((change.from, change.to), (Some(1_000), Some(0)));
    for part in ["4 of 104 replies", "3% of 104", "554 5.7.1 blocked"] {
        assert!(change.reason.contains(part), "{}", change.reason);
    }
    assert_eq!(warmup.look(now).unwrap_err().until, Some(now + Day::LENGTH));
    assert_eq!((warmup.look(now + Day::LENGTH), warmup.recent(now + Day::LENGTH)), (Ok(()), (0, 0)));
}

#[test]
fn one_bad_reply_never_pauses_and_two_do_where_few_were_asked() {
    let mut warmup = started(&[1_000; 9]);

    replies(&mut warmup, 0, 1, after(0, HOUR));
    assert_eq!(warmup.state(), State::Running);
    replies(&mut warmup, 0, 1, after(0, HOUR));

    assert_eq!(warmup.state(), State::Paused, "2 of 20 at least is over 3 %");
    let mut patient = Warmup::new(Plan { pause_sample: 1_000, ..plan(&[9; 9]) }, None, after(0, HOUR));
    replies(&mut patient, 0, 29, after(0, HOUR));
    assert_eq!(patient.state(), State::Running);
    let mut never = Warmup::new(Plan { pause_at: Share(0), ..plan(&[9; 9]) }, None, after(0, HOUR));
    replies(&mut never, 0, 900, after(0, HOUR));
    assert_eq!(never.state(), State::Running);
}

#[test]
fn bad_replies_are_forgotten_after_a_day_and_at_the_end_of_a_pause() {
    let mut warmup = started(&[1_000; 9]);

    replies(&mut warmup, 0, 1, after(0, HOUR));
    replies(&mut warmup, 0, 1, after(1, HOUR * 2));
    assert_eq!((warmup.state(), warmup.recent(after(1, HOUR * 2))), (State::Running, (1, 1)));
    replies(&mut warmup, 0, 1, after(1, HOUR * 2));
    assert_eq!(warmup.state(), State::Paused);
    warmup.resume("ops", "delisted", after(1, HOUR * 3));
    replies(&mut warmup, 0, 1, after(1, HOUR * 3));

    assert_eq!(warmup.state(), State::Running);
    assert_eq!(&*warmup.progress().last_bad, "554 5.7.1 blocked");
}

#[test]
fn another_plan_keeps_the_count_of_the_day_and_another_start_begins_anew() {
    let mut warmup = started(&[10, 20]);
    let begin = after(0, Duration::ZERO);
    let gone = u32::try_from(times(&mut warmup, begin, begin + HOUR * 12).len()).unwrap();
    warmup.pause("ops", "x", Some(begin + HOUR * 13), begin + HOUR * 12);
    warmup.roll(after(1, HOUR));
    assert_eq!(warmup.day(), 1);
    times(&mut warmup, after(1, HOUR), after(1, HOUR * 12));
    let sent = warmup.progress().sent;

    warmup.follow(plan(&[100, 200]), after(1, HOUR * 12));
    assert_eq!((warmup.progress().sent, warmup.volume()), (sent, Some(100)));
    warmup.follow(Plan { start: Day(20_001), ..plan(&[7, 8]) }, after(1, HOUR * 13));

    assert!(gone > 0 && sent > 0);
    assert_eq!((warmup.day(), warmup.volume(), warmup.progress().held_days()), (1, Some(7), 0));
}

#[test]
fn another_first_day_ends_a_pause_of_its_own_and_keeps_that_of_an_operator() {
    let moved = || Plan { start: Day(20_001), ..plan(&[1_000; 9]) };
    let mut own = started(&[1_000; 9]);
    replies(&mut own, 0, 2, after(0, HOUR));
    assert_eq!(own.state(), State::Paused);
    let kept = own.clone();
    own.take_changes();

    own.follow(moved(), after(1, HOUR));

    assert_eq!(
        (own.state(), own.day(), own.recent(after(1, HOUR)), &*own.progress().last_bad),
        (State::Running, 1, (0, 0), "")
    );
    let told = own.take_changes();
    let change = told.last().unwrap();
    assert_eq!((change.from, change.to, change.is_own_pause), (Some(0), Some(1_000), false), "{}", change.reason);
    own.roll(after(2, HOUR));
    assert_eq!(own.day(), 2, "the day on which it began anew counts");
    let restarted = Warmup::new(moved(), Some(kept.progress().clone()), after(1, HOUR));
    assert_eq!((restarted.state(), restarted.day()), (State::Running, 1), "the same at a start");

    let mut steered = started(&[1_000; 9]);
    steered.pause("ops", "ticket", None, after(0, HOUR));
    steered.follow(moved(), after(1, HOUR));
    assert_eq!((steered.state(), steered.day()), (State::Paused, 1));
    steered.roll(after(2, HOUR));
    assert_eq!(
        (steered.day(), steered.resume("ops", "go on", after(2, HOUR)), steered.state()),
        (1, true, State::Running)
    );
}

#[test]
fn a_plan_that_is_done_is_paused_by_an_operator_only() {
    let mut own = started(&[1_000; 9]);
    replies(&mut own, 0, 2, after(0, HOUR));
    own.follow(plan(&[]), after(0, HOUR * 2));
    own.roll(after(0, HOUR * 2));
    assert_eq!((own.state(), own.progress().pause.clone()), (State::Done, None));

    let mut done = started(&[10]);
    assert!(done.take(after(5, HOUR)).is_ok());
    done.pause("ops", "blocklisted", None, after(5, HOUR));

    assert_eq!(done.state(), State::Paused);
    assert_eq!((done.take(after(6, HOUR)).unwrap_err().halt, done.room(after(6, HOUR))), (Halt::Paused, Some(0)));
    assert!(done.resume("ops", "delisted", after(7, HOUR)));
    assert_eq!((done.state(), done.take(after(7, HOUR))), (State::Done, Ok(())));
}

#[test]
fn what_may_have_gone_before_a_kill_counts_as_gone() {
    let mut warmup = started(&[400; 3]);
    let kept = warmup.progress().clone();
    let burst = std::iter::repeat_with(|| warmup.take(after(0, SECOND))).take_while(Result::is_ok).count();
    assert_eq!(burst, 20);

    let mut restarted = Warmup::after_kill(plan(&[400; 3]), kept.clone(), after(0, SECOND * 2));
    let idle = Warmup::after_kill(plan(&[400; 3]), Progress { tokens: 3.5, ..kept }, after(0, SECOND * 2));

    assert_eq!((restarted.progress().sent, restarted.room(after(0, SECOND * 2))), (20, Some(0)));
    assert_eq!(idle.progress().sent, 3, "no more than may have gone");
    let mut later = Warmup::after_kill(plan(&[400; 3]), restarted.progress().clone(), after(1, HOUR));
    assert_eq!((later.day(), later.progress().sent), (2, 20), "another day has its own volume");
    assert!(later.look(after(1, HOUR)).is_err());
    let eve = after(0, Duration::ZERO) - SECOND;
    let waiting = Warmup::new(plan(&[400; 3]), None, eve).progress().clone();
    let begun = Warmup::after_kill(plan(&[400; 3]), waiting, after(0, SECOND));
    assert_eq!((begun.day(), begun.progress().sent), (1, 20), "the first day began meanwhile");
}

#[test]
fn kills_without_end_give_no_day_more_than_its_volume_and_stop_nothing_for_good() {
    // One in six seconds.
    let hourly = Plan { spread: HOUR, ..plan(&[600]) };
    let mut kept = Warmup::new(hourly.clone(), None, after(0, SECOND)).progress().clone();
    let (mut now, mut gone) = (after(0, SECOND), 0_u32);

    while now < after(0, HOUR * 3) {
        // Kept at the start, and never again.
        let mut warmup = Warmup::after_kill(hourly.clone(), kept, now);
        kept = warmup.progress().clone();
        for _ in 0..9 {
            now += SECOND;
            gone += u32::from(warmup.take(now).is_ok());
        }
    }

    assert!((300..=600).contains(&gone), "{gone}");
}

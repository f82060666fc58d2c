//! What users may send: messages a minute, recipients a day.
//!
//! A day begins at midnight UTC. Counts are by name, so that a changed entry of the file goes on with what is used up; they
//! are written down and read again by the daemon ([`Allowances::note`], [`Allowances::restore`]), so that a restart gives
//! nobody a second day. A minute's are not kept: a burst of one minute is all that a restart gives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::file::User;
use crate::clock::Clock;
use crate::config::units::Day;

/// What is used up. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Allowances {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: Clock,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    day: Day,
    users: HashMap<Box<str>, One>,
}

#[derive(Debug, Default)]
struct One {
    /// Recipients of `day`.
    recipients: u64,
    /// When a message would leave a whole minute's allowance (GCRA's theoretical arrival time).
    due: Option<Instant>,
}

/// Nothing is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// Of this minute's messages.
    Minute,
    /// Of today's recipients.
    Day,
}

/// Recipients that are taken for a message; given back when dropped, unless kept.
#[derive(Debug)]
pub struct Taken {
    allowances: Allowances,
    user: Arc<User>,
    day: Day,
    recipients: u64,
}

impl Allowances {
    pub(super) fn new(clock: Clock) -> Self {
        Self { inner: Arc::new(Inner { clock, used: Mutex::default() }) }
    }

    /// Takes one message of this minute's.
    pub fn message(&self, user: &User) -> Result<(), Spent> {
        let Some(most) = user.messages_per_minute else { return Ok(()) };
        const MINUTE: Duration = Duration::from_secs(60);
        let now = self.inner.clock.now();
        let mut used = self.inner.used.lock();
        let one = used.of(&user.name);
        let due = one.due.map_or(now, |due| due.max(now)) + MINUTE / most.get();
        if due > now + MINUTE {
            return Err(Spent::Minute);
        }
        one.due = Some(due);
        Ok(())
    }

    /// Whether so many recipients are left of today's.
    pub fn has_room(&self, user: &User, recipients: usize) -> Result<(), Spent> {
        let Some(most) = user.recipients_per_day else { return Ok(()) };
        let mut used = self.today();
        let used = used.of(&user.name).recipients;
        if used.saturating_add(recipients as u64) > most.get().into() { Err(Spent::Day) } else { Ok(()) }
    }

    /// Takes so many of today's.
    pub fn take(&self, user: &Arc<User>, recipients: usize) -> Result<Taken, Spent> {
        let recipients = recipients as u64;
        let mut used = self.today();
        let day = used.day;
        if let Some(most) = user.recipients_per_day {
            let one = used.of(&user.name);
            let after = one.recipients.saturating_add(recipients);
            if after > most.get().into() {
                return Err(Spent::Day);
            }
            one.recipients = after;
        }
        drop(used);
        Ok(Taken { allowances: self.clone(), user: Arc::clone(user), day, recipients })
    }

    fn today(&self) -> parking_lot::MutexGuard<'_, Used> {
        let day = Day::at(self.inner.clock.wall_precise());
        let mut used = self.inner.used.lock();
        if used.day != day {
            used.day = day;
            used.users.values_mut().for_each(|one| one.recipients = 0);
            let now = self.inner.clock.now();
            used.users.retain(|_, one| one.due.is_some_and(|due| due > now));
        }
        used
    }

    /// What is used up of today, to be written down.
    pub fn note(&self) -> Vec<u8> {
        let used = self.today();
        let mut lines: Vec<_> = used.users.iter().filter(|(_, one)| one.recipients > 0).collect();
        lines.sort_unstable_by_key(|(name, _)| *name);
        let lines = lines.into_iter().map(|(name, one)| format!("{} {name}\n", one.recipients));
        format!("{}\n{}", used.day, lines.collect::<String>()).into_bytes()
    }

    /// What was written down; of another day, or damaged: nothing is used up.
    pub fn restore(&self, note: &[u8]) {
        let Ok(text) = std::str::from_utf8(note) else { return };
        let mut lines = text.lines();
        let mut used = self.today();
        if lines.next().and_then(|day| day.parse().ok()) != Some(used.day) {
            return;
        }
        for (count, name) in lines.filter_map(|line| line.split_once(' ')) {
            used.of(name).recipients = count.parse().unwrap_or_default();
        }
    }
}

impl Used {
    fn of(&mut self, name: &str) -> &mut One {
        if !self.users.contains_key(name) {
            self.users.insert(name.into(), One::default());
        }
        self.users.entry(name.into()).or_default()
    }
}

impl Taken {
    /// The message is accepted.
    pub fn keep(mut self) {
        self.recipients = 0;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut used = self.allowances.inner.used.lock();
        if used.day == self.day && self.recipients > 0 && self.user.recipients_per_day.is_some() {
            let one = used.of(&self.user.name);
            one.recipients = one.recipients.saturating_sub(self.recipients);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::users::password::{Cost, Hash};

    fn user(minute: u32, day: u32) -> Arc<User> {
        Arc::new(User {
            name: "ann".into(),
            tenant: "t".into(),
            password: Some(Hash::of_nobody(Cost::default())),
            scram: None,
            senders: Vec::new(),
            networks: Vec::new(),
            messages_per_minute: NonZeroU32::new(minute),
            recipients_per_day: NonZeroU32::new(day),
            certificates: Vec::new(),
            is_disabled: false,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_minute_has_so_many_messages_and_they_come_back_one_by_one() {
        let (allowances, ann) = (Allowances::new(Clock::of_runtime()), user(3, 0));
        let count = || (0..10).filter(|_| allowances.message(&ann).is_ok()).count();

        let first = count();
        tokio::time::advance(Duration::from_secs(20)).await;
        let second = count();
        tokio::time::advance(Duration::from_secs(600)).await;

        assert_eq!((first, second, count()), (3, 1, 3));
        assert_eq!((0..1_000).filter(|_| allowances.message(&user(0, 0)).is_ok()).count(), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_day_has_so_many_recipients_and_what_is_not_kept_comes_back() {
        let (allowances, ann) = (Allowances::new(Clock::of_runtime()), user(0, 10));

        allowances.take(&ann, 6).unwrap().keep();
        let taken = allowances.take(&ann, 4).unwrap();
        assert_eq!((allowances.has_room(&ann, 1), allowances.take(&ann, 1).err()), (Err(Spent::Day), Some(Spent::Day)));
        drop(taken);

        assert_eq!((allowances.has_room(&ann, 4), allowances.has_room(&ann, 5)), (Ok(()), Err(Spent::Day)));
        tokio::time::advance(Day::LENGTH).await;
        assert_eq!(allowances.has_room(&ann, 10), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_used_up_outlives_a_restart_but_not_the_day() {
        let clock = Clock::of_runtime();
        let (before, ann) = (Allowances::new(clock), user(0, 10));
        before.take(&ann, 9).unwrap().keep();
        let note = before.note();

        let after = Allowances::new(clock);
        after.restore(&note);
        assert_eq!((after.has_room(&ann, 1), after.has_room(&ann, 2)), (Ok(()), Err(Spent::Day)));

        for damaged in [&b"\xff"[..], b"", b"2001-01-01\n9 ann\n", b"x\n9 ann\n"] {
            let fresh = Allowances::new(clock);
            fresh.restore(damaged);
            assert_eq!(fresh.has_room(&ann, 10), Ok(()));
        }
        tokio::time::advance(Day::LENGTH).await;
        let next = Allowances::new(clock);
        next.restore(&note);
        assert_eq!(next.has_room(&ann, 10), Ok(()));
    }
}

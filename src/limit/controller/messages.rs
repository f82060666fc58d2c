//! Messages over one connection: one refusal tells the limit exactly; so do connections that end without a word at the
//! same count.

use super::change::{Change, Changes, What};
use super::time::{DAY, Time};

/// So many ends at the same count make a limit of it: one is an accident.
const ENDS: u8 = 3;

/// The learnt number of messages a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Messages {
    /// 0: none is known.
    pub limit: u32,
    /// When it is tried whether the limit still holds.
    pub retry: Time,
    /// The count at which the last connections ended without a word.
    ended_at: u32,
    /// How many of them.
    ends: u8,
}

impl Messages {
    /// A number that is given, to be tried again at `retry`; 0: none is known.
    pub fn known(limit: u32, retry: Time) -> Self {
        Self { limit, retry, ..Self::default() }
    }

    /// The receiver refused message number `count`.
    pub fn refused(&mut self, count: u32, reply: &str, now: Time, out: &mut Changes) {
        let limit = count.saturating_sub(1).max(1);
        if self.limit != 0 && limit >= self.limit {
            self.retry = now + DAY;
            return;
        }
        let reason = format!("messages per connection {limit}: message {count} was refused ({reply})");
        self.learn(limit, reason, now, out);
    }

    /// The receiver closed a connection after `count` messages, without a reply or with one that does not say why.
    pub fn ended(&mut self, count: u32, reply: Option<&str>, now: Time, out: &mut Changes) {
        if count == 0 || (self.limit != 0 && count >= self.limit) {
            return;
        }
        self.ends = if self.ended_at == count { self.ends.saturating_add(1) } else { 1 };
        self.ended_at = count;
        if self.ends >= ENDS {
            let how = reply.map_or_else(|| "without a reply".to_owned(), |reply| format!("the last one with: {reply}"));
            let reason = format!(
                "messages per connection {count}: the receiver closed {ENDS} connections in a row after {count} \
                 messages, {how}"
            );
            self.learn(count, reason, now, out);
        }
    }

    /// A day later a fifth more is allowed.
    pub fn tick(&mut self, now: Time, out: &mut Changes) {
        if self.limit != 0 && now >= self.retry {
            let more = self.limit.saturating_add((self.limit / 5).max(1));
            let reason =
                format!("messages per connection {more}: {} held for a day, a fifth more is tried", self.limit);
            self.learn(more, reason, now, out);
        }
    }

    fn learn(&mut self, limit: u32, reason: String, now: Time, out: &mut Changes) {
        let from = (self.limit != 0).then_some(f64::from(self.limit));
        let to = Some(f64::from(limit));
        out.push(Change { what: What::MessagesPerConnection, from, to, limit_before: None, reason });
        (self.limit, self.retry, self.ends) = (limit, now + DAY, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refusal_tells_the_limit_with_its_reply() {
        let (mut messages, mut out) = (Messages::default(), Vec::new());

        messages.refused(21, "421 4.7.0 Max messages per connection", 0, &mut out);
        messages.refused(21, "421", 0, &mut out);

        assert_eq!((messages.limit, out.len()), (20, 1));
        assert!(out[0].reason.contains("421 4.7.0 Max messages per connection"));
    }

    #[test]
    fn three_silent_ends_at_one_count_make_a_limit() {
        let (mut messages, mut out) = (Messages::default(), Vec::new());

        for count in [20, 7, 20, 20] {
            messages.ended(count, None, 0, &mut out);
            assert_eq!(messages.limit, 0);
        }
        messages.ended(20, Some("421 4.4.2 timeout"), 0, &mut out);

        assert_eq!((messages.limit, out.len()), (20, 1));
        assert!(out[0].reason.ends_with("the last one with: 421 4.4.2 timeout"), "{out:?}");
    }

    #[test]
    fn a_day_later_more_is_tried() {
        let (mut messages, mut out) = (Messages::default(), Vec::new());
        messages.refused(21, "421", 0, &mut out);

        messages.tick(DAY, &mut out);

        assert_eq!(messages.limit, 24);
    }
}

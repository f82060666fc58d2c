//! One connection's side of SMTP (RFC 5321) at a strict receiver, with PIPELINING: octets in, replies out, each in its time.
//!
//! A message is judged at its MAIL. One that is accepted gets its 250 to the final dot when its time has come, one that is
//! refused gets that as the reply to MAIL. Until a reply is due nothing more is read: commands that were sent ahead come
//! after it.

use bytes::BytesMut;

use super::Strict;
use crate::demo::content;
use crate::demo::session::{TooLong, cut_content, cut_line, say};
use crate::simulate::Time;
use crate::simulate::receiver::{ACCEPTED, TOO_MANY, Verdict};

/// What is to be done, once what was appended to the replies has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read more.
    Read,
    /// Wait until then, and step again.
    Wait(Time),
    /// Close the connection.
    Close,
}

/// The state of a connection that is open.
#[derive(Debug, Default)]
pub struct Dialog {
    /// Messages that were begun.
    carried: u32,
    /// A reply whose time comes, and whether the connection ends with it.
    owed: Option<Owed>,
    transaction: Option<Transaction>,
    /// What is read is content, and so much of it has been searched for its end.
    searched: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Owed {
    reply: &'static str,
    at: Time,
    is_last: bool,
}

/// A mail transaction that was not refused.
#[derive(Debug)]
struct Transaction {
    verdict: Verdict,
    recipient: Option<u32>,
}

impl Dialog {
    /// What is said first.
    pub fn greeting(strict: &Strict) -> String {
        format!("220 mx.{} ESMTP\r\n", strict.domain())
    }

    /// What is said instead where there are too many connections.
    pub fn refusal() -> String {
        format!("{TOO_MANY}\r\n")
    }

    /// Takes what it can from `input` and appends what is to be said now.
    pub fn step(&mut self, input: &mut BytesMut, out: &mut Vec<u8>, strict: &Strict, now: Time) -> Next {
        loop {
            if let Some(owed) = self.owed {
                if now < owed.at {
                    return Next::Wait(owed.at);
                }
                say(out, owed.reply);
                self.owed = None;
                if owed.is_last {
                    return Next::Close;
                }
                // It is written before the next command is looked at, which may be a message that is judged by its time.
                return Next::Wait(now);
            }
            let next = match self.searched {
                Some(searched) => self.content(searched, input, strict),
                None => match cut_line(input) {
                    Ok(Some(line)) => self.command(&String::from_utf8_lossy(line.trim_ascii_end()), out, strict, now),
                    Ok(None) => Some(Next::Read),
                    Err(TooLong) => Some(Next::Close),
                },
            };
            if let Some(next) = next {
                return next;
            }
        }
    }

    fn command(&mut self, line: &str, out: &mut Vec<u8>, strict: &Strict, now: Time) -> Option<Next> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => {
                self.transaction = None;
                let domain = strict.domain();
                say(out, &format!("250-mx.{domain}\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 50000000"));
            }
            "HELO" | "RSET" => {
                self.transaction = None;
                say(out, "250 2.0.0 ok");
            }
            "NOOP" => say(out, "250 2.0.0 ok"),
            "MAIL" => self.mail(rest, out, strict, now),
            "RCPT" => say(out, self.recipient(rest, strict)),
            "DATA" => match &self.transaction {
                Some(Transaction { recipient: Some(_), .. }) => {
                    self.searched = Some(0);
                    say(out, "354 go ahead");
                }
                Some(_) => say(out, "554 5.5.1 no valid recipients"),
                None => say(out, "503 5.5.1 no MAIL"),
            },
            "QUIT" => {
                say(out, "221 2.0.0 bye");
                return Some(Next::Close);
            }
            _ => say(out, "500 5.5.1 unknown command"),
        }
        None
    }

    fn mail(&mut self, rest: &str, out: &mut Vec<u8>, strict: &Strict, now: Time) {
        let verdict = strict.judge(number_in(rest), self.carried, now);
        self.carried += 1;
        self.transaction = None;
        if verdict.is_accepted() {
            self.transaction = Some(Transaction { verdict, recipient: None });
            return say(out, "250 2.1.0 ok");
        }
        self.owed = Some(Owed { reply: verdict.reply, at: verdict.at, is_last: verdict.is_closed });
    }

    fn recipient(&mut self, rest: &str, strict: &Strict) -> &'static str {
        let Some(transaction) = &mut self.transaction else { return "503 5.5.1 no MAIL" };
        let is_ours = path(rest).is_some_and(|path| path.rsplit('@').next() == Some(strict.domain()));
        match number_in(rest).filter(|_| is_ours) {
            Some(_) if transaction.recipient.is_some() => "452 4.5.3 one recipient a message",
            Some(number) => {
                transaction.recipient = Some(number);
                "250 2.1.5 ok"
            }
            None => "550 5.7.1 not for this host",
        }
    }

    fn content(&mut self, searched: usize, input: &mut BytesMut, strict: &Strict) -> Option<Next> {
        let content = match cut_content(input, searched) {
            Ok(content) => content,
            Err(searched) => {
                self.searched = Some(searched);
                return Some(Next::Read);
            }
        };
        self.searched = None;
        if let Some(Transaction { verdict, recipient: Some(number) }) = self.transaction.take() {
            strict.take(number, &content, verdict.at);
            self.owed = Some(Owed { reply: ACCEPTED, at: verdict.at, is_last: false });
        }
        None
    }
}

/// What stands between angle brackets.
fn path(text: &str) -> Option<&str> {
    text.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path)
}

fn number_in(text: &str) -> Option<u32> {
    path(text).and_then(content::number_in)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::demo::content::{Maker, Shape};
    use crate::simulate::{Receiver, Window};

    const SECOND: Time = 1_000_000_000;

    fn strict(rules: Receiver) -> Strict {
        Strict::new(rules, "a.test", Instant::now(), 1, 1)
    }

    fn message(number: u32) -> Vec<u8> {
        let maker = Maker::new(Shape::Even { domains: vec!["a.test".to_owned()], size: 500 });
        let (from, to) = (content::reverse_path(number), maker.forward_path(number));
        let mut octets = BytesMut::from(format!("MAIL FROM:<{from}>\r\nRCPT TO:<{to}>\r\nDATA\r\n").as_str());
        maker.write(number, &mut octets);
        octets.extend_from_slice(b".\r\n");
        octets.to_vec()
    }

    /// What is said to `octets`, each reply code with the second in which it is; and whether it ended with the connection.
    fn talk(strict: &Strict, octets: &[u8]) -> (Vec<(String, Time)>, bool) {
        let (mut dialog, mut input, mut out, mut now) = (Dialog::default(), BytesMut::from(octets), Vec::new(), 0);
        let mut said = Vec::new();
        loop {
            let next = dialog.step(&mut input, &mut out, strict, now);
            let text = String::from_utf8(std::mem::take(&mut out)).unwrap();
            said.extend(text.lines().map(|line| (line[..3].to_owned(), now / SECOND)));
            match next {
                Next::Wait(until) => now = now.max(until),
                Next::Read => return (said, false),
                Next::Close => return (said, true),
            }
        }
    }

    fn slow() -> Receiver {
        Receiver { service_time: "10s".parse().unwrap(), ..Receiver::default() }
    }

    #[test]
    fn what_was_sent_ahead_is_judged_after_the_reply_that_takes_its_time() {
        let strict = strict(slow());

        let (said, is_closed) = talk(&strict, &[message(1), message(2)].concat());

        let codes: Vec<&str> = said.iter().map(|(code, _)| code.as_str()).collect();
        assert_eq!(codes, ["250", "250", "354", "250", "250", "250", "354", "250"]);
        let times: Vec<Time> = said.iter().map(|(_, at)| *at).collect();
        let (first, second) = (times[3], times[7]);
        assert_eq!(times[..3], [0, 0, 0]);
        assert_eq!(times[4..7], [first; 3]);
        assert!((7..=13).contains(&first) && (first + 7..=first + 13).contains(&second), "{said:?}");
        assert!(!is_closed);
        let counts = strict.counts();
        assert_eq!((counts.accepted, counts.duplicated, counts.altered), (2, 0, 0));
    }

    #[test]
    fn what_is_over_the_rate_is_refused_at_mail_and_the_connection_ends_with_it() {
        let strict = strict(Receiver { rate_per_minute: 1.0, window: Window::Sliding, ..Receiver::default() });

        let (said, is_closed) = talk(&strict, &[message(1), message(2)].concat());

        assert_eq!(said.iter().map(|(code, _)| code.as_str()).collect::<Vec<_>>(), ["250", "250", "354", "250", "421"]);
        assert!(is_closed);
        assert_eq!((strict.counts().accepted, strict.counts().throttled), (1, 1));
    }

    #[test]
    fn a_message_refused_for_a_reason_of_its_own_leaves_the_connection_to_the_next() {
        let strict = strict(Receiver { noise: 1.0, ..Receiver::default() });
        let envelope = "MAIL FROM:<bounces-1@x>\r\nRCPT TO:<user-1@a.test>\r\nDATA\r\n";

        let (said, is_closed) = talk(&strict, envelope.as_bytes());

        assert_eq!(said.iter().map(|(code, _)| code.as_str()).collect::<Vec<_>>(), ["452", "503", "503"]);
        assert!(!is_closed);
        assert_eq!((strict.counts().refused, strict.counts().throttled), (1, 0));
    }

    #[test]
    fn greylisting_goes_by_the_first_try_of_each_message() {
        let strict = strict(Receiver { greylist: "60s".parse().unwrap(), ..Receiver::default() });
        let code = |number, now| strict.judge(Some(number), 0, now).reply[..3].to_owned();

        assert_eq!(code(1, 0), "450");
        assert_eq!(code(2, 59 * SECOND), "450");
        assert_eq!(code(1, 60 * SECOND), "250");
        assert_eq!(code(2, 61 * SECOND), "450");
    }

    #[test]
    fn duplicates_and_altered_contents_are_counted_and_no_further_success() {
        let strict = strict(Receiver::default());
        let mut altered = message(2);
        let last = altered.len() - 10;
        altered[last] ^= 1;

        talk(&strict, &[message(1), message(1), altered].concat());

        let counts = strict.counts();
        assert_eq!((counts.accepted, counts.duplicated, counts.altered), (1, 1, 1));
        assert_eq!(strict.accepted_between(0, 3600 * SECOND), 1);
    }

    #[test]
    fn connections_past_the_limit_are_refused_until_one_ends() {
        use crate::simulate::receiver::Knock;
        let strict = strict(Receiver { connections: 2, ..Receiver::default() });

        let knocks = [0; 3].map(|now| strict.knock(now).0);
        strict.closed();

        assert_eq!(knocks, [Knock::Open, Knock::Open, Knock::TooMany]);
        assert_eq!(strict.knock(0).0, Knock::Open);
        assert_eq!((strict.counts().open, strict.counts().most_open), (2, 2));
    }
}

//! Classes of replies: pure and driven by a table.
//!
//! [`classify`] takes the phase and the reply and says what the receiver wants. A throttle reply is about our rate or
//! about the receiver's load, so the connection is closed after it and its site is left alone for a while; every other
//! 4yz is about the message or the recipient. The first rule that fits decides.

use crate::message::Phase;
use crate::smtp::reply::Reply;

/// What a reply is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// 2yz and 3yz.
    Success,
    /// Slow down or go away for a while: 421, or a rate or load limit.
    Throttle,
    /// Any other 4yz, and what the network or we decided for now.
    Transient,
    /// 5yz.
    Permanent,
}

/// One line of the table: all its conditions must hold.
struct Rule {
    codes: &'static [u16],
    /// Subject and detail of the enhanced status code.
    status: Option<(u16, u16)>,
    /// One of these words, in lower case, occurs in the text; empty: any text.
    words: &'static [&'static str],
    class: Class,
}

/// Words by which large receivers say that a rate or a count is exceeded.
const RATE: &[&str] = &[
    "rate",
    "too many",
    "too much",
    "too fast",
    "throttl",
    "limit",
    "exceed",
    "slow down",
    "frequen",
    "unusual",
    "busy",
    "overload",
    "load too high",
    "resources",
    "deferred due to",
    "temporarily deferred",
    "try again later",
];

/// Words about a full mailbox or a recipient: RATE words in such a text mean that recipient's quota, not our rate.
const RECIPIENT: &[&str] = &["mailbox", "quota", "greylist", "graylist", "grey-list", "over size"];

const RULES: &[Rule] = &[
    // RFC 5321, 3.8: the receiver closes the channel.
    Rule { codes: &[421], status: None, words: &[], class: Class::Throttle },
    Rule { codes: &[450, 451, 452], status: None, words: RECIPIENT, class: Class::Transient },
    // X.4.5 mail system congestion, X.3.2 system not accepting messages (RFC 3463).
    Rule { codes: &[450, 451, 452], status: Some((4, 5)), words: &[], class: Class::Throttle },
    Rule { codes: &[450, 451, 452], status: Some((3, 2)), words: &[], class: Class::Throttle },
    // Gmail: 4.7.28 unusual rate; Microsoft: 4.7.500 server busy, 4.7.650 rate.
    Rule { codes: &[450, 451, 452], status: Some((7, 28)), words: &[], class: Class::Throttle },
    Rule { codes: &[450, 451, 452], status: Some((7, 500)), words: &[], class: Class::Throttle },
    Rule { codes: &[450, 451, 452], status: Some((7, 650)), words: &[], class: Class::Throttle },
    Rule { codes: &[450, 451, 452], status: None, words: RATE, class: Class::Throttle },
];

/// What `reply`, given at `phase`, is about. At RCPT only 421 throttles: other 4yz concern that recipient.
pub fn classify(phase: Phase, reply: &Reply) -> Class {
    match reply.code / 100 {
        2 | 3 => return Class::Success,
        0 | 5 => return if reply.is_permanent() { Class::Permanent } else { Class::Transient },
        _ => {}
    }
    if phase == Phase::Rcpt && reply.code != 421 {
        return Class::Transient;
    }
    let lower = reply.text.to_ascii_lowercase();
    RULES.iter().find(|rule| rule.fits(reply, &lower)).map_or(Class::Transient, |rule| rule.class)
}

impl Rule {
    fn fits(&self, reply: &Reply, lower: &str) -> bool {
        self.codes.contains(&reply.code)
            && self.status.is_none_or(|(subject, detail)| {
                reply.status.is_some_and(|status| (status.subject, status.detail) == (subject, detail))
            })
            && (self.words.is_empty() || self.words.iter().any(|word| lower.contains(word)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::status::Status;

    fn class(phase: Phase, code: u16, status: Option<(u8, u16, u16)>, text: &str) -> Class {
        let status = status.map(|(class, subject, detail)| Status::new(class, subject, detail));
        classify(phase, &Reply { code, status, text: text.into() })
    }

    #[test]
    fn rate_and_load_replies_throttle() {
        for (code, status, text) in [
            (421, None, "closing"),
            (421, Some((4, 7, 0)), "[TSS04] Messages from 192.0.2.1 temporarily deferred"),
            (450, Some((4, 7, 28)), "Our system has detected an unusual rate of unsolicited mail"),
            (451, Some((4, 7, 500)), "Server busy. Please try again later"),
            (452, Some((4, 3, 2)), "system not accepting"),
            (451, Some((4, 4, 5)), "congested"),
            (451, Some((4, 7, 1)), "Too many messages, slow down"),
            (450, None, "rate limited"),
        ] {
            assert_eq!(class(Phase::Mail, code, status, text), Class::Throttle, "{code} {text}");
        }
    }

    #[test]
    fn other_transient_replies_do_not_throttle() {
        for (phase, code, text) in [
            (Phase::EndOfData, 451, "local error in processing"),
            (Phase::EndOfData, 452, "mailbox full, quota exceeded"),
            (Phase::Mail, 451, "greylisted, try again later"),
            (Phase::Rcpt, 450, "rate limited for this mailbox"),
            (Phase::EndOfData, 0, "timed out"),
        ] {
            assert_eq!(class(phase, code, None, text), Class::Transient, "{code} {text}");
        }
    }

    #[test]
    fn severity_decides_the_rest() {
        assert_eq!(class(Phase::EndOfData, 250, None, "rate ok"), Class::Success);
        assert_eq!(class(Phase::Mail, 550, None, "too many"), Class::Permanent);
    }
}

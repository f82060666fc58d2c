//! What delivery is told by the configuration; the daemon fills it in.

use std::sync::Arc;
use std::time::Duration;

use crate::dns::{MOST_ADDRESSES, Roots};
use crate::feedback::Feedback;
use crate::message::Phase;
use crate::panics::Probe;
use crate::reply::LazyClassifier;
use crate::tlsrpt::Tally;

/// How mail is delivered.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long to wait for a receiver.
    pub timeouts: Timeouts,
    /// How long a connection without work is kept open.
    pub idle: Duration,
    /// Addresses tried for one connection before the attempt counts as failed.
    pub addresses: usize,
    /// No further address is tried for one connection after so long.
    pub opening: Duration,
    /// How long an MX host is spoken to in clear after its TLS failed.
    pub tls_failure_memory: Duration,
    /// Whether `TLS-Required: No` is followed.
    pub honors_waivers: bool,
    /// Whether CHUNKING is used where it is announced.
    pub chunking: bool,
    /// Whether a transaction may be begun behind the content of the one before.
    pub look_ahead: bool,
    /// How long a message that was begun ahead waits for the reply to the end of data before it.
    pub look_ahead_patience: Duration,
    /// By whose certificates receivers are verified.
    pub roots: Arc<Roots>,
    /// Where sessions are counted for TLS reports; none: nowhere.
    pub tally: Option<Tally>,
    /// Who gets no mail, and where what comes back is to come; none: nobody asks.
    pub feedback: Option<Feedback>,
    /// What tells which replies end a connection.
    pub classifier: LazyClassifier,
    /// Called with the id of each message whose transaction begins; none, but in tests of what a panic there does.
    pub probe: Option<Probe>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            idle: Duration::from_secs(5),
            // As many as a plan has (RFC 5321, 5.1: all of the list, or a limit).
            addresses: MOST_ADDRESSES,
            // So many silent ones at 30 s each.
            opening: Duration::from_secs(600),
            tls_failure_memory: Duration::from_secs(3600),
            honors_waivers: true,
            chunking: true,
            look_ahead: true,
            // Content filters take seconds; who takes longer has stalled.
            look_ahead_patience: Duration::from_secs(30),
            roots: Arc::default(),
            tally: None,
            feedback: None,
            classifier: LazyClassifier::default(),
            probe: None,
        }
    }
}

/// Waits for a receiver: RFC 5321, 4.5.3.2, whose minimums are the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP connection; the RFC names none, Postfix waits 30 s.
    pub connect: Duration,
    /// Initial 220 message (4.5.3.2.1).
    pub greeting: Duration,
    /// EHLO and HELO; the RFC names none.
    pub ehlo: Duration,
    /// STARTTLS and each wait of the handshake.
    pub starttls: Duration,
    /// MAIL (4.5.3.2.2), and RSET.
    pub mail: Duration,
    /// RCPT (4.5.3.2.3).
    pub rcpt: Duration,
    /// DATA initiation (4.5.3.2.4).
    pub data: Duration,
    /// Data block (4.5.3.2.5): each wait for the receiver to take more content.
    pub data_block: Duration,
    /// Data termination (4.5.3.2.6). Not to be shortened: a late 250 makes a duplicate (RFC 1047).
    pub data_termination: Duration,
    /// The reply to QUIT, which is waited for (RFC 5321, 4.1.1.10) though nothing depends on it: the connection counts
    /// as open until then, and where only one is allowed the next message waits as long.
    pub quit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self {
            connect: Duration::from_secs(30),
            greeting: minutes(5),
            ehlo: minutes(5),
            starttls: minutes(2),
            mail: minutes(5),
            rcpt: minutes(5),
            data: minutes(2),
            data_block: minutes(3),
            data_termination: minutes(10),
            quit: Duration::from_secs(1),
        }
    }
}

impl Timeouts {
    /// All waits of the same length: for tests.
    pub fn all(wait: Duration) -> Self {
        Self {
            connect: wait,
            greeting: wait,
            ehlo: wait,
            starttls: wait,
            mail: wait,
            rcpt: wait,
            data: wait,
            data_block: wait,
            data_termination: wait,
            quit: wait,
        }
    }

    /// How long to wait in a phase.
    pub fn of(&self, phase: Phase) -> Duration {
        match phase {
            Phase::Dns | Phase::Connect => self.connect,
            Phase::Greeting => self.greeting,
            Phase::Ehlo => self.ehlo,
            Phase::StartTls => self.starttls,
            Phase::Mail => self.mail,
            Phase::Rcpt => self.rcpt,
            Phase::Data => self.data,
            Phase::Content => self.data_block,
            Phase::EndOfData => self.data_termination,
            Phase::Queue => self.quit,
        }
    }

    /// The shortest, and at most 30 s: how often a connection's timer ticks. QUIT has a timer of its own.
    pub fn tick(&self) -> Duration {
        let waits = [self.greeting, self.ehlo, self.starttls, self.mail, self.rcpt, self.data, self.data_block];
        let rest = [self.data_termination, Duration::from_secs(30)];
        waits.into_iter().chain(rest).min().unwrap_or_default()
    }
}

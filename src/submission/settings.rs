//! What one listener allows; made from the configuration by the daemon.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::collector::LineEndings;
use crate::config::units::Network;
use crate::message::Lane;
use crate::panics::Probe;
use crate::smtp::address::Address;
use crate::tls::Acceptor;

/// TLS at one listener.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Does the handshakes.
    pub acceptor: Arc<Acceptor>,
    /// When there is one.
    pub mode: TlsMode,
}

/// When a session is under TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// From STARTTLS on, if the client wants (RFC 3207).
    Offered,
    /// From STARTTLS on; before it no mail transaction is begun (RFC 3207, 4: 530).
    Required,
    /// From the first octet on (RFC 8314, 3.3).
    Implicit,
}

/// One listener's limits and identity.
#[derive(Clone, Debug)]
pub struct Settings {
    /// It takes what comes back about messages of ours, from everybody, and nothing else.
    pub takes_returns: bool,
    /// Who may submit without AUTH; everybody else is greeted with 554 and takes no place, unless there is `auth`.
    pub networks: Vec<Network>,
    /// Balancers: who connects from there must say by the PROXY protocol who the client is.
    pub proxy_networks: Vec<Network>,
    /// AUTH is offered, and who comes from elsewhere than `networks` may submit after it.
    pub auth: bool,
    /// It is offered in clear, too.
    pub auth_without_tls: bool,
    /// TLS; none: everything is in clear, and STARTTLS is not offered.
    pub tls: Option<Tls>,
    /// Sessions at the same time.
    pub max_sessions: usize,
    /// Sessions at the same time from one address; IPv6: from one /64.
    pub max_sessions_per_address: Option<NonZeroU32>,
    /// New sessions a minute from one address.
    pub sessions_per_minute: Option<NonZeroU32>,
    /// Messages a minute from one address.
    pub messages_per_minute: Option<NonZeroU32>,
    /// Recipients in one mail transaction; announced as RCPTMAX (RFC 9422). Fewer if their paths and parameters take over
    /// 176 KiB, and over 160 octets each.
    pub max_recipients: usize,
    /// MAIL commands in one session; announced as MAILMAX (RFC 9422).
    pub max_transactions: Option<NonZeroU32>,
    /// Octets of content; announced as SIZE (RFC 1870).
    pub max_message_size: u64,
    /// Octets of the header section; at most 128 KiB.
    pub max_header_size: usize,
    /// This many Received fields are a loop (RFC 5321, 6.3).
    pub max_hops: usize,
    /// Commands that may fail in one session before a message is accepted.
    pub max_errors: u32,
    /// NOOP, RSET, VRFY, HELP, EHLO that one session may send before a message is accepted.
    pub max_junk_commands: u32,
    /// Whose messages these are.
    pub tenant: Box<str>,
    /// Whether `X-Hikyaku-Tenant` and `X-Hikyaku-Lane` are believed.
    pub trust_headers: bool,
    /// The lane of messages that say nothing else.
    pub lane: Lane,
    /// What is done about bare CR and LF in content.
    pub line_endings: LineEndings,
    /// Where mail for `<Postmaster>` without a domain goes (RFC 5321, 4.5.1); refused without.
    pub postmaster: Option<Address>,
    /// How long a command may take to come, and a reply to be taken (RFC 5321, 4.5.3.2.7: at least 5 minutes).
    pub timeout: Duration,
    /// How long content that is coming in may go on when the daemon stops; then 421.
    pub stop_grace: Duration,
    /// Octets a second that content must come at: in all, it may take `timeout` and a second for each so many octets. A
    /// client that keeps the rate thus has the whole `timeout` for every silence.
    pub min_data_rate: Option<NonZeroU32>,
    /// Called with the id of each message that is being admitted; none, but in tests of what a panic there does.
    pub probe: Option<Probe>,
}

impl Settings {
    /// Whether sessions begin with a handshake.
    pub fn is_implicit_tls(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::Implicit)
    }

    /// The lane of a message for which its client has asked this priority. Who is not trusted may be less urgent than the
    /// listener's lane, not more.
    pub fn lane_of(&self, priority: Option<i8>) -> Lane {
        match priority.map(Lane::of_priority) {
            None => self.lane,
            Some(asked) if self.trust_headers => asked,
            Some(asked) => asked.at_most(self.lane),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            takes_returns: false,
            networks: Network::loopback().to_vec(),
            proxy_networks: Vec::new(),
            auth: false,
            auth_without_tls: false,
            tls: None,
            max_sessions: 2_000,
            max_sessions_per_address: None,
            sessions_per_minute: None,
            messages_per_minute: None,
            max_recipients: 1_000,
            max_transactions: None,
            max_message_size: 50_000_000,
            max_header_size: 100 * 1024,
            max_hops: 100,
            max_errors: 20,
            max_junk_commands: 100,
            tenant: "default".into(),
            trust_headers: false,
            lane: Lane::default(),
            line_endings: LineEndings::Reject,
            postmaster: None,
            timeout: Duration::from_secs(300),
            stop_grace: Duration::from_secs(15),
            min_data_rate: NonZeroU32::new(1_000),
            probe: None,
        }
    }
}

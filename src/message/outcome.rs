//! What one attempt did to one recipient.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// The step of a delivery at which something was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Finding the next hop.
    Dns,
    /// TCP connection.
    Connect,
    /// The 220 greeting.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS and the handshake.
    StartTls,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA or the first BDAT.
    Data,
    /// While content was sent.
    Content,
    /// The reply to the final dot or BDAT LAST.
    EndOfData,
    /// In our own queue: expiry, an operator's order.
    Queue,
}

impl Phase {
    /// All of them, in their order.
    pub const ALL: [Self; 11] = [
        Self::Dns,
        Self::Connect,
        Self::Greeting,
        Self::Ehlo,
        Self::StartTls,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Content,
        Self::EndOfData,
        Self::Queue,
    ];

    /// The step of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == name)
    }

    /// The step in lower case, as logs, metrics and tables show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::StartTls => "starttls",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Content => "content",
            Self::EndOfData => "end-of-data",
            Self::Queue => "queue",
        }
    }
}

/// How a connection is encrypted, and what is known of who is at its other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// The protocol, such as `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite by its IANA name.
    pub cipher: &'static str,
    /// What the certificate was held to.
    pub proof: Proof,
}

/// What a receiver's certificate was held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: nobody knows who the receiver is.
    None,
    /// It was looked at, since an MTA-STS policy is being tested, and is not good.
    Failed,
    /// A trusted authority says that it is the MX host's.
    Pkix,
    /// TLSA records name it.
    Dane,
}

impl Proof {
    /// As the journal has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Failed => "failed",
            Self::Pkix => "pkix",
            Self::Dane => "dane",
        }
    }
}

/// Why an outcome is what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// At which step.
    pub phase: Phase,
    /// The receiver's reply, or ours in its place.
    pub reply: Reply,
    /// The MX host that was talked to.
    pub mx_host: Option<Arc<str>>,
    /// Its address and port.
    pub mx_address: Option<SocketAddr>,
    /// How the connection was encrypted; none: in clear, or no connection.
    pub tls: Option<Encryption>,
    /// Name of the TLS policy that the connection was under; none: there was none.
    pub tls_policy: Option<&'static str>,
    /// The next hop announced DSN, so NOTIFY and friends were passed on to it.
    pub relayed_dsn: bool,
    /// The end of data may have left but no reply came: the receiver may have the message.
    pub in_doubt: bool,
    /// The receiver closed the connection with this refusal, though that does not say what it is about.
    pub hung_up: bool,
}

impl Report {
    /// What we ourselves say where no MX host said anything.
    pub fn local(phase: Phase, status: Status, text: impl Into<Box<str>>) -> Self {
        let reply = Reply::local(status, text);
        Self {
            phase,
            reply,
            mx_host: None,
            mx_address: None,
            tls: None,
            tls_policy: None,
            relayed_dsn: false,
            in_doubt: false,
            hung_up: false,
        }
    }
}

/// What became of a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver took responsibility.
    Delivered(Report),
    /// A temporary failure: to be tried again.
    Deferred(Report),
    /// A permanent failure.
    Bounced(Report),
    /// Still failing at the end of its time.
    Expired(Report),
    /// Not tried, since it is on the suppression list.
    Suppressed(Report),
}

impl Outcome {
    /// Whether a receiver, the network or our own queue has refused it.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Delivered(_) | Self::Suppressed(_))
    }

    /// The report inside.
    pub fn report(&self) -> &Report {
        match self {
            Self::Delivered(report)
            | Self::Deferred(report)
            | Self::Bounced(report)
            | Self::Expired(report)
            | Self::Suppressed(report) => report,
        }
    }
}

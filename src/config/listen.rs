//! `[[listener]]`: where messages are accepted, from whom, and how much.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Complaints;
use super::units::{ByteSize, Network, Span};
use crate::smtp::address::Address;

/// One submission listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listener {
    /// Address and port.
    pub address: SocketAddr,
    /// Name of a socket that systemd binds for it (`FileDescriptorName=`), if that has another address. Empty: none.
    pub socket_name: String,
    /// What kind of listener it is.
    pub mode: Mode,
    /// Who may submit without AUTH.
    pub networks: Vec<Network>,
    /// Balancers that tell by the PROXY protocol who their client is.
    pub proxy_networks: Vec<Network>,
    /// Whether AUTH is offered; who comes from elsewhere than `networks` may submit after it.
    pub auth: bool,
    /// Whether it is offered in clear, too.
    pub auth_without_tls: bool,
    /// When sessions are under TLS.
    pub tls: ListenerTls,
    /// Whether clients are asked for a certificate.
    pub client_certificates: bool,
    /// Authorities of clients' certificates, in PEM; empty: any certificate is taken, and counts by its fingerprint.
    pub client_ca: PathBuf,
    /// Whose messages these are.
    pub tenant: String,
    /// Whether `X-Hikyaku-Tenant` and `X-Hikyaku-Lane` of the message are believed, and a MT-PRIORITY above `lane`.
    pub trust_headers: bool,
    /// The lane of messages that say nothing else.
    pub lane: Lane,
    /// Where mail for `<Postmaster>` without a domain goes (RFC 5321, 4.5.1); empty: refused.
    pub postmaster: String,
    /// Largest message, as SIZE announces it.
    pub max_message_size: ByteSize,
    /// Largest header section.
    pub max_header_size: ByteSize,
    /// Most recipients in one transaction.
    pub max_recipients: u32,
    /// Most MAIL commands in one session, as MAILMAX announces it (RFC 9422); 0: no limit.
    pub max_transactions: u32,
    /// Most sessions at once.
    pub max_sessions: u32,
    /// Most sessions at once from one address; 0: no limit.
    pub max_sessions_per_address: u32,
    /// Most new sessions a minute from one address; 0: no limit.
    pub sessions_per_minute: u32,
    /// Most messages a minute from one address; 0: no limit.
    pub messages_per_minute: u32,
    /// How long a session may wait for the client's next command or data (RFC 5321, 4.5.3.2.7: at least 5 min).
    pub timeout: Span,
    /// Least octets a second that content must come at on average, after a grace of `timeout`; 0: no limit.
    pub min_data_rate: ByteSize,
    /// A message with this many Received fields or more is taken for a loop (RFC 5321, 6.3).
    pub max_hops: u32,
    /// What to do with a CR or LF that is not part of CRLF.
    pub bare_line_end: BareLineEnd,
}

/// What kind of listener it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Takes mail for everywhere from clients of its networks (RFC 6409).
    #[default]
    Submission,
    /// Takes what comes back about messages sent from here, for the domains of `bounces`, from everybody.
    Returns,
}

/// When sessions of a listener are under TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerTls {
    /// Never.
    #[default]
    None,
    /// STARTTLS is offered (RFC 3207).
    Starttls,
    /// STARTTLS is needed before MAIL.
    Required,
    /// From the first octet on (RFC 8314).
    Implicit,
}

/// What to do with a CR or LF in content that is not part of CRLF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BareLineEnd {
    /// Refuse the message with 550 5.5.2.
    #[default]
    Reject,
    /// Make it CRLF.
    Normalize,
}

/// How urgent mail is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// One-time codes, password resets.
    Urgent,
    /// Receipts, notifications.
    #[default]
    Normal,
    /// Campaigns.
    Bulk,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 2525)),
            socket_name: String::new(),
            mode: Mode::Submission,
            networks: Network::loopback().to_vec(),
            proxy_networks: Vec::new(),
            auth: false,
            auth_without_tls: false,
            tls: ListenerTls::None,
            client_certificates: false,
            client_ca: PathBuf::new(),
            tenant: "default".to_owned(),
            trust_headers: false,
            lane: Lane::default(),
            postmaster: String::new(),
            max_message_size: ByteSize(50_000_000),
            max_header_size: ByteSize(100 << 10),
            max_recipients: 1000,
            max_transactions: 0,
            max_sessions: 2000,
            max_sessions_per_address: 0,
            sessions_per_minute: 0,
            messages_per_minute: 0,
            timeout: Span(Duration::from_secs(300)),
            min_data_rate: ByteSize(1000),
            max_hops: 100,
            bare_line_end: BareLineEnd::Reject,
        }
    }
}

impl Listener {
    /// Options about who submits what have no meaning where everybody may come with what they were told to.
    fn check_returns(&self, key: &str, complaints: &mut Complaints) {
        let (usual, what) = (Self::default(), "has no meaning where mode is \"returns\"; allowed: nothing, or");
        complaints.unless(!self.auth, format!("{key}.auth"), format!("{what} false"));
        complaints.unless(!self.trust_headers, format!("{key}.trust_headers"), format!("{what} false"));
        complaints.unless(self.tenant == usual.tenant, format!("{key}.tenant"), format!("{what} {:?}", usual.tenant));
        let text = format!("{what} those of loopback, as without it");
        complaints.unless(self.networks == usual.networks, format!("{key}.networks"), text);
    }

    pub(super) fn check(&self, key: &str, complaints: &mut Complaints) {
        complaints.unless(
            is_socket_name(&self.socket_name),
            format!("{key}.socket_name"),
            format!(
                "{:?} is no FileDescriptorName; allowed: up to 255 of ASCII but ':' and controls",
                self.socket_name
            ),
        );
        complaints.tenant(format!("{key}.tenant"), &self.tenant);
        let has_tls = self.tls != ListenerTls::None;
        let is_private = self.address.ip().to_canonical().is_loopback();
        let text = "passwords would be seen; allowed: true beside `auth = true` on an address of loopback, or false";
        complaints.unless(!self.auth_without_tls || self.auth && is_private, format!("{key}.auth_without_tls"), text);
        if self.mode == Mode::Returns {
            self.check_returns(key, complaints);
        }
        let text =
            "AUTH is for sessions under TLS; allowed: false, or `tls` other than \"none\", or `auth_without_tls`";
        complaints.unless(!self.auth || has_tls || self.auth_without_tls, format!("{key}.auth"), text);
        let text = "of no use without TLS; allowed: false, or `tls` other than \"none\"";
        complaints.unless(has_tls || !self.client_certificates, format!("{key}.client_certificates"), text);
        let has_ca = !self.client_ca.as_os_str().is_empty();
        complaints.unless(
            !has_ca || self.client_certificates && self.client_ca.is_absolute(),
            format!("{key}.client_ca"),
            "allowed: an absolute path, beside `client_certificates = true`; or \"\"",
        );
        let is_address = self.postmaster.is_ascii() && self.postmaster.parse::<Address>().is_ok();
        complaints.unless(
            is_address || self.postmaster.is_empty(),
            format!("{key}.postmaster"),
            format!("{:?} is no address; allowed: \"postmaster@example.com\", or \"\"", self.postmaster),
        );
        let (least, most) = (ByteSize(1024), ByteSize(2 << 30));
        complaints.range(format!("{key}.max_message_size"), &self.max_message_size, &least, &most);
        let (least, most) = (ByteSize(1024), ByteSize(128 << 10));
        complaints.range(format!("{key}.max_header_size"), &self.max_header_size, &least, &most);
        let most = ByteSize(1_000_000_000);
        complaints.range(format!("{key}.min_data_rate"), &self.min_data_rate, &ByteSize(0), &most);
        // RFC 9422 has six digits for MAILMAX.
        complaints.range(format!("{key}.max_transactions"), &self.max_transactions, &0, &999_999);
        complaints.range(format!("{key}.max_sessions_per_address"), &self.max_sessions_per_address, &0, &u32::MAX);
        complaints.range(format!("{key}.sessions_per_minute"), &self.sessions_per_minute, &0, &u32::MAX);
        complaints.range(format!("{key}.messages_per_minute"), &self.messages_per_minute, &0, &u32::MAX);
        complaints.range(format!("{key}.max_recipients"), &self.max_recipients, &1, &50_000);
        complaints.range(format!("{key}.max_sessions"), &self.max_sessions, &1, &100_000);
        let (least, most) = (Span(Duration::from_secs(1)), Span(Duration::from_secs(3600)));
        complaints.range(format!("{key}.timeout"), &self.timeout, &least, &most);
        complaints.range(format!("{key}.max_hops"), &self.max_hops, &1, &10_000);
    }
}

/// What systemd.socket(5) allows for `FileDescriptorName=`.
fn is_socket_name(text: &str) -> bool {
    text.len() <= 255 && text.bytes().all(|octet| (b' '..=b'~').contains(&octet) && octet != b':')
}

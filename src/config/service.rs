//! `sandbox`, `[admin]`, `[metrics]` and `[log]`: how the daemon is watched and steered.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use super::Complaints;
use super::units::{ByteSize, Network};

/// The longest path of a Unix socket: 108 octets with its NUL (unix(7)).
const SOCKET_MOST: usize = 107;

/// Whether the daemon is confined to its folders (Landlock, Linux 5.13 and later).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// As far as the kernel knows how.
    #[default]
    Auto,
    /// Wholly, or there is no start.
    Required,
    /// Not at all.
    Off,
}

/// The admin interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// The Unix socket, mode 0600. Empty: none.
    pub socket: PathBuf,
    /// Addresses and ports where it is served to who has a token.
    pub listen: Vec<SocketAddr>,
    /// Whether that is under TLS, with the certificates of `[[certificate]]`.
    pub tls: bool,
    /// The tokens' file. Empty: there are none.
    pub tokens: PathBuf,
    /// From where it may be used over TCP.
    pub networks: Vec<Network>,
    /// The directory of the audit log. Empty: `audit` in that of the spool.
    pub audit: PathBuf,
    /// A file of the audit log that would be larger is followed by another one.
    pub audit_max_size: ByteSize,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/hikyaku/admin.sock"),
            listen: Vec::new(),
            tls: false,
            tokens: PathBuf::new(),
            networks: Network::loopback().to_vec(),
            audit: PathBuf::new(),
            audit_max_size: ByteSize(16 << 20),
        }
    }
}

impl Admin {
    pub(super) fn check(&self, complaints: &mut Complaints) {
        complaints.plain_path("admin.socket", &self.socket);
        let length = self.socket.as_os_str().len();
        let text = format!("{length} octets are too many for a Unix socket; allowed: at most {SOCKET_MOST}");
        complaints.unless(length <= SOCKET_MOST, "admin.socket", text);
        for (index, address) in self.listen.iter().enumerate() {
            let is_private = address.ip().to_canonical().is_loopback();
            let text = format!(
                "{address} is no address of loopback, and tokens would be seen on the way; allowed: 127.0.0.1 or [::1], or \
                 `admin.tls = true` and a [[certificate]]"
            );
            complaints.unless(is_private || self.tls, format!("admin.listen[{index}]"), text);
        }
        let text =
            "without it nobody could come in; allowed: a file (`hikyaku token add` makes it), or no `admin.listen`";
        complaints.unless(self.listen.is_empty() || self.tokens_path().is_some(), "admin.tokens", text);
        let is_right = self.tokens_path().is_none_or(Path::is_absolute);
        let text = format!("{} is no absolute path; allowed: \"\", or one that begins with /", self.tokens.display());
        complaints.unless(is_right, "admin.tokens", text);
        complaints.plain_path("admin.tokens", &self.tokens);
        let is_right = self.audit.as_os_str().is_empty() || self.audit.is_absolute();
        let text = format!("{} is no absolute path; allowed: \"\", or one that begins with /", self.audit.display());
        complaints.unless(is_right, "admin.audit", text);
        complaints.plain_path("admin.audit", &self.audit);
        let (least, most) = (ByteSize(1 << 20), ByteSize(1 << 30));
        complaints.range("admin.audit_max_size", &self.audit_max_size, &least, &most);
    }

    /// The tokens' file, if there is one.
    pub fn tokens_path(&self) -> Option<&Path> {
        Some(self.tokens.as_path()).filter(|file| !file.as_os_str().is_empty())
    }
}

/// The Prometheus listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Whether there is one.
    pub enabled: bool,
    /// Address and port of `/metrics`.
    pub address: SocketAddr,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { enabled: true, address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9225)) }
    }
}

/// The daemon's own log, written to standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logging {
    /// What is logged, as a filter of `tracing`: `info`, `debug`, `hikyaku::delivery=debug,info`.
    pub filter: String,
    /// Its form.
    pub format: LogFormat,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Logging {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Logging {
    pub(super) fn check(&self, complaints: &mut Complaints) {
        let is_filter = EnvFilter::try_new(&self.filter).is_ok();
        let text = format!("{:?} is no filter; allowed: \"info\", \"hikyaku::delivery=debug,info\", ...", self.filter);
        complaints.unless(is_filter, "log.filter", text);
    }
}

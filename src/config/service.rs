//! `sandbox`, `[admin]`, `[metrics]` and `[log]`: how the daemon is watched and steered.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use super::Complaints;

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
}

impl Default for Admin {
    fn default() -> Self {
        Self { socket: PathBuf::from("/run/hikyaku/admin.sock") }
    }
}

impl Admin {
    pub(super) fn check(&self, complaints: &mut Complaints) {
        complaints.plain_path("admin.socket", &self.socket);
        let length = self.socket.as_os_str().len();
        let text = format!("{length} octets are too many for a Unix socket; allowed: at most {SOCKET_MOST}");
        complaints.unless(length <= SOCKET_MOST, "admin.socket", text);
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

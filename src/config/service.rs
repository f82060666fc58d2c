//! `[admin]`, `[metrics]` and `[log]`: how the daemon is watched and steered.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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

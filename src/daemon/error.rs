//! Why a daemon does not start, or does not take on another configuration.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::{admin, delivery, dns, journal, spool, state, trusted, users};

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener cannot be bound.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// A port below 1024 cannot be bound.
    #[error(
        "cannot listen on {0}: ports below 1024 need a socket unit, CAP_NET_BIND_SERVICE, or a start as root with `user`"
    )]
    Privileged(SocketAddr),
    /// A socket that was handed over is of no use.
    #[error("socket {number} of LISTEN_FDS ({name:?}): {error}")]
    Inherited {
        /// Its place, from 0.
        number: usize,
        /// `FileDescriptorName=` of its unit.
        name: String,
        /// What is wrong with it.
        error: io::Error,
    },
    /// A socket that was handed over and is not configured.
    #[error(
        "a socket on {address} named {name:?} was handed over, and no listener has this address or `socket_name`, or it \
         has a socket already"
    )]
    Unknown {
        /// Where it listens.
        address: SocketAddr,
        /// `FileDescriptorName=` of its unit.
        name: String,
    },
    /// A reload would take a socket away that a socket unit keeps open: clients would connect, and nobody would answer.
    #[error(
        "{key}: the socket on {address} was handed over by its socket unit, which decides its address: change the unit and \
         the configuration, and restart"
    )]
    HandedOver {
        /// The option.
        key: &'static str,
        /// Where it listens.
        address: SocketAddr,
    },
    /// The admin socket cannot be bound.
    #[error("cannot make the admin socket {}: {error}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The spool cannot be opened.
    #[error(transparent)]
    Spool(#[from] spool::OpenError),
    /// A key of the spool cannot be read.
    #[error("spool.key_files: {0}")]
    SpoolKey(trusted::key::Error),
    /// The key of masks cannot be read.
    #[error("privacy.key_file: {0}")]
    MaskKey(trusted::key::Error),
    /// The orders of an earlier run cannot be taken up.
    #[error("{}", error.of_spool(spool))]
    Orders {
        /// The spool that has their file.
        spool: PathBuf,
        /// What is wrong with it.
        error: state::OpenError,
    },
    /// The pins of an earlier run cannot be taken up.
    #[error("{}", error.of_spool(spool))]
    Pins {
        /// The spool that has their file.
        spool: PathBuf,
        /// What is wrong with it.
        error: state::PinsOpenError,
    },
    /// The suppression list of an earlier run cannot be taken up.
    #[error("state/suppression: {0}")]
    Suppression(#[from] state::suppression::OpenError),
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// Rules about replies cannot be read or used.
    #[error(transparent)]
    Rules(#[from] ConfigError),
    /// The users file cannot be used.
    #[error(transparent)]
    Users(#[from] users::FileError),
    /// The tokens' file cannot be used.
    #[error(transparent)]
    Tokens(#[from] admin::tokens::FileError),
    /// Keys cannot be made.
    #[error(transparent)]
    Random(#[from] users::NoRandom),
    /// The authorities that vouch for receivers cannot be used.
    #[error("delivery.tls_ca: {0}")]
    Authorities(String),
    /// A route is wrong.
    #[error("route: {0}")]
    Route(#[from] dns::settings::NextHopError),
    /// Resolvers cannot be set up.
    #[error(transparent)]
    Dns(#[from] dns::Error),
    /// The client side of TLS cannot be set up.
    #[error(transparent)]
    Delivery(#[from] delivery::Error),
    /// Histograms have no buckets.
    #[error("metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// The thread that writes the suppression list cannot be started, or what it goes on with cannot be read.
    #[error("the suppression list cannot be kept: {0}")]
    Clerk(io::Error),
    /// A task of the daemon itself cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

//! The TCP sockets of a daemon, bound before it is built: while the process may still do so, and before it has threads.
//!
//! [`Sockets::inherit`] takes those that systemd has bound (sd_listen_fds(3): `LISTEN_FDS`, `LISTEN_FDNAMES`) and binds the
//! rest. A socket that was handed over belongs to the listener (or `/metrics`, `admin.listen` or `unsubscribe.listen`) with its address, else to the listener with
//! its name in `socket_name`. One that belongs to none is an error: clients would connect to it and nobody would answer.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use super::Error;
use crate::config::Config;
use crate::submission::BACKLOG;

/// Ports below it are for those who may (ip_unprivileged_port_start).
const UNPRIVILEGED: u16 = 1024;

/// Sockets that listen, in the order of the configuration.
#[derive(Debug)]
pub struct Sockets {
    /// One for each listener.
    pub(super) listeners: Vec<Listening>,
    /// One for each address of the admin interface.
    pub(super) admin: Vec<Listening>,
    /// One for each address of `[unsubscribe]`.
    pub(super) unsubscribe: Vec<Listening>,
    /// For `/metrics`, if that is enabled.
    pub(super) metrics: Option<Listening>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Listening {
    pub socket: TcpListener,
    /// It was handed over: who did has it too, and connections that wait are the next daemon's.
    pub is_shared: bool,
}

impl Listening {
    fn inherited(socket: TcpListener) -> Self {
        Self { socket, is_shared: true }
    }

    /// Binds one. Must not block: the daemon may be running.
    pub fn at(address: SocketAddr) -> Result<Self, Error> {
        Ok(Self { socket: bind_to(address)?, is_shared: false })
    }
}

/// A socket that was handed over.
struct Inherited {
    address: SocketAddr,
    name: String,
    socket: TcpListener,
}

impl Sockets {
    /// Binds what is configured.
    pub fn bind(config: &Config) -> Result<Self, Error> {
        Self::complete(config, Vec::new())
    }

    /// Takes what was handed over to this process, and binds the rest. Only the first call finds anything; the process must
    /// not have threads yet, since the environment is changed.
    pub fn inherit(config: &Config) -> Result<Self, Error> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').map(str::to_owned);
        let mut handed = ListenFd::from_env();
        let mut inherited = Vec::with_capacity(handed.len());
        for number in 0..handed.len() {
            let name = names.next().unwrap_or_default();
            let taken = handed.take_tcp_listener(number).and_then(|socket| prepare(socket, &name));
            inherited.push(taken.map_err(|error| Error::Inherited { number, name, error })?);
        }
        Self::complete(config, inherited)
    }

    fn complete(config: &Config, mut inherited: Vec<Inherited>) -> Result<Self, Error> {
        let mut by_address = |address: SocketAddr| {
            let place = inherited.iter().position(|socket| socket.address == address)?;
            Some(Listening::inherited(inherited.swap_remove(place).socket))
        };
        let mut listeners: Vec<_> = config.listeners.iter().map(|listener| by_address(listener.address)).collect();
        let mut places = |addresses: &[SocketAddr]| -> Vec<(SocketAddr, Option<Listening>)> {
            addresses.iter().map(|address| (*address, by_address(*address))).collect()
        };
        let (admin, unsubscribe) = (places(&config.admin.listen), places(&config.unsubscribe.listen));
        let mut metrics = if config.metrics.enabled { by_address(config.metrics.address) } else { None };
        for (place, listener) in listeners.iter_mut().zip(&config.listeners) {
            let is_its = |socket: &Inherited| !socket.name.is_empty() && socket.name == listener.socket_name;
            if place.is_none()
                && let Some(number) = inherited.iter().position(is_its)
            {
                *place = Some(Listening::inherited(inherited.swap_remove(number).socket));
            }
        }
        if let Some(Inherited { address, name, .. }) = inherited.pop() {
            return Err(Error::Unknown { address, name });
        }
        let addresses = config.listeners.iter().map(|listener| listener.address);
        let listeners = listeners.into_iter().zip(addresses);
        let listeners = listeners
            .map(|(found, address)| found.map_or_else(|| Listening::at(address), Ok))
            .collect::<Result<_, _>>()?;
        let taken = |places: Vec<(SocketAddr, Option<Listening>)>| {
            let places = places.into_iter().map(|(address, found)| found.map_or_else(|| Listening::at(address), Ok));
            places.collect::<Result<Vec<_>, _>>()
        };
        let (admin, unsubscribe) = (taken(admin)?, taken(unsubscribe)?);
        if config.metrics.enabled && metrics.is_none() {
            metrics = Some(Listening::at(config.metrics.address)?);
        }
        Ok(Self { listeners, admin, unsubscribe, metrics })
    }
}

/// Checks what was handed over, and makes it one of ours.
fn prepare(socket: Option<TcpListener>, name: &str) -> io::Result<Inherited> {
    let socket = socket.ok_or(io::ErrorKind::NotFound)?;
    if !sockopt::socket_acceptconn(&socket)? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
    }
    socket.set_nonblocking(true)?;
    Ok(Inherited { address: socket.local_addr()?, name: name.to_owned(), socket })
}

fn bind_to(address: SocketAddr) -> Result<TcpListener, Error> {
    open(address).map_err(|error| told(address, error))
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, i32::from(BACKLOG))?;
    Ok(TcpListener::from(socket))
}

fn told(address: SocketAddr, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied if address.port() < UNPRIVILEGED => Error::Privileged(address),
        _ => Error::Listen { address, error },
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::config::Listener;

    fn socket(name: &str) -> Inherited {
        let socket = bind_to(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        Inherited { address: socket.local_addr().unwrap(), name: name.to_owned(), socket }
    }

    fn config(listeners: &[(SocketAddr, &str)]) -> Config {
        let listener = |&(address, socket_name): &(SocketAddr, &str)| Listener {
            address,
            socket_name: socket_name.to_owned(),
            ..Listener::default()
        };
        let mut config = Config { listeners: listeners.iter().map(listener).collect(), ..Config::default() };
        config.metrics.address = ANY;
        config
    }

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn addresses(sockets: &Sockets) -> Vec<SocketAddr> {
        sockets.listeners.iter().map(|bound| bound.socket.local_addr().unwrap()).collect()
    }

    #[test]
    fn sockets_go_to_the_listener_with_their_address_else_to_the_one_with_their_name() {
        let (by_name, by_address) = (socket("submission"), socket("other"));
        let (first, second) = (by_name.address, by_address.address);
        let config = config(&[(ANY, ""), (ANY, "submission"), (second, "")]);

        let sockets = Sockets::complete(&config, vec![by_name, by_address]).unwrap();

        let found = addresses(&sockets);
        assert_eq!(found[1..], [first, second]);
        assert!(found[0] != first && found[0] != second && found[0].port() != 0, "bound by itself");
        let is_shared: Vec<bool> = sockets.listeners.iter().map(|bound| bound.is_shared).collect();
        assert_eq!(is_shared, [false, true, true]);
        assert!(sockets.metrics.is_some());
    }

    #[test]
    fn the_address_counts_more_than_the_name() {
        let inherited = socket("a");
        let address = inherited.address;
        let config = config(&[(ANY, "a"), (address, "")]);

        assert_eq!(addresses(&Sockets::complete(&config, vec![inherited]).unwrap())[1], address);
    }

    #[test]
    fn a_socket_for_metrics_is_found_by_its_address() {
        let inherited = socket("metrics");
        let mut config = config(&[(ANY, "")]);
        config.metrics.address = inherited.address;

        let sockets = Sockets::complete(&config, vec![inherited]).unwrap();

        assert_eq!(sockets.metrics.unwrap().socket.local_addr().unwrap(), config.metrics.address);
    }

    #[test]
    fn sockets_of_other_listeners_are_found_by_their_addresses() {
        let (admin, unsubscribe) = (socket(""), socket("https"));
        let mut config = config(&[(ANY, "")]);
        config.admin.listen = vec![admin.address];
        config.unsubscribe.listen = vec![ANY, unsubscribe.address];

        let sockets = Sockets::complete(&config, vec![admin, unsubscribe]).unwrap();

        let is_shared = |bound: &[Listening]| bound.iter().map(|bound| bound.is_shared).collect::<Vec<_>>();
        assert_eq!((is_shared(&sockets.admin), is_shared(&sockets.unsubscribe)), (vec![true], vec![false, true]));
        assert_eq!(sockets.unsubscribe[1].socket.local_addr().unwrap(), config.unsubscribe.listen[1]);
    }

    #[test]
    fn a_socket_that_is_nobodys_is_refused_with_address_and_name() {
        for (name, listeners) in [("b", vec![(ANY, "a")]), ("", vec![(ANY, "")])] {
            let inherited = socket(name);
            let address = inherited.address.to_string();

            let said = Sockets::complete(&config(&listeners), vec![inherited]).unwrap_err().to_string();

            assert!(said.contains(&address) && said.contains(&format!("{name:?}")), "{said}");
        }
        let twice = vec![socket("a"), socket("a")];
        assert!(Sockets::complete(&config(&[(ANY, "a")]), twice).is_err(), "the second has no listener");
    }
}

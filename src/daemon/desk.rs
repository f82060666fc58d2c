//! The admin interface over TCP: bound, changed and closed while the daemon runs.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::admin::{self, TcpDoor};
use crate::config::Config;
use crate::tls::Acceptor;

use super::sockets::Listening;
use super::watchdog::beating;
use super::{Daemon, Error};

/// One address that is served.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    /// As configured.
    address: SocketAddr,
    /// As bound: with the port that was given for port 0.
    local: SocketAddr,
    /// The socket is that of a socket unit, which keeps it open when we do not.
    is_shared: bool,
    /// Its TLS, if it has some. Written by reloads that keep it, read at each connection: one that is given up never goes on
    /// in clear.
    tls: Arc<ArcSwapOption<Acceptor>>,
    stop: CancellationToken,
}

/// One address of a configuration that is to be served.
pub(super) enum Place {
    Kept(Desk),
    New { address: SocketAddr, listener: TcpListener, local: SocketAddr, is_shared: bool },
}

impl Place {
    pub(super) fn bound(address: SocketAddr, Listening { socket, is_shared }: Listening) -> Result<Self, Error> {
        let listen = |error| Error::Listen { address, error };
        let local = socket.local_addr().map_err(listen)?;
        Ok(Self::New { address, listener: TcpListener::from_std(socket).map_err(listen)?, local, is_shared })
    }
}

impl Daemon {
    /// Where the admin interface is served over TCP, in the order of the configuration.
    pub fn admin_addresses(&self) -> Vec<SocketAddr> {
        self.desks.iter().map(|desk| desk.local).collect()
    }

    /// Binds what is new. Nothing is changed yet.
    pub(super) fn prepare_desks(&self, config: &Config) -> Result<Vec<Place>, Error> {
        let mut kept: Vec<Option<&Desk>> = self.desks.iter().map(Some).collect();
        let mut places = Vec::with_capacity(config.admin.listen.len());
        for address in &config.admin.listen {
            let is_it = |desk: &&mut Option<&Desk>| desk.is_some_and(|desk| desk.address == *address);
            places.push(match kept.iter_mut().find(is_it).and_then(Option::take) {
                Some(desk) => Place::Kept(desk.clone()),
                None => Place::bound(*address, Listening::at(*address)?)?,
            });
        }
        match kept.into_iter().flatten().find(|desk| desk.is_shared) {
            Some(gone) => Err(Error::HandedOver { key: "admin.listen", address: gone.local }),
            None => Ok(places),
        }
    }

    /// Serves at these places and no other. What was asked elsewhere is still answered.
    pub(super) fn commit_desks(&mut self, places: Vec<Place>, tls: Option<Arc<Acceptor>>) {
        let before = std::mem::take(&mut self.desks);
        for place in places {
            let desk = match place {
                Place::Kept(desk) => {
                    desk.tls.store(tls.clone());
                    desk
                }
                Place::New { address, listener, local, is_shared } => {
                    info!(address = %local, "listening for the admin interface");
                    let stop = self.stop_watching.child_token();
                    let tls = Arc::new(ArcSwapOption::new(tls.clone()));
                    let door = TcpDoor { listener, tls: Arc::clone(&tls) };
                    let serve = admin::serve_tcp(door, self.admin_state(), stop.clone());
                    self.watchers.spawn(beating(self.parts.accept_loop(), serve));
                    Desk { address, local, is_shared, tls, stop }
                }
            };
            self.desks.push(desk);
        }
        for gone in before {
            if !self.desks.iter().any(|desk| desk.local == gone.local) {
                gone.stop.cancel();
            }
        }
    }
}

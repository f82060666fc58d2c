//! HTTP over TCP, of the admin interface and of `[unsubscribe]`: bound, changed and closed while the daemon runs.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::admin::{self, TcpDoor};
use crate::config::Config;
use crate::tls::Acceptor;
use crate::unsubscribe::{self, Door};

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

/// What is new of one, for who serves it.
struct Opened {
    listener: TcpListener,
    tls: Arc<ArcSwapOption<Acceptor>>,
    stop: CancellationToken,
}

impl Place {
    /// Where sockets are bound already, for a start.
    pub(super) fn all_bound(sockets: Vec<Listening>, addresses: &[SocketAddr]) -> Result<Vec<Self>, Error> {
        sockets.into_iter().zip(addresses).map(|(socket, address)| Self::bound(*address, socket)).collect()
    }

    fn bound(address: SocketAddr, Listening { socket, is_shared }: Listening) -> Result<Self, Error> {
        let listen = |error| Error::Listen { address, error };
        let local = socket.local_addr().map_err(listen)?;
        Ok(Self::New { address, listener: TcpListener::from_std(socket).map_err(listen)?, local, is_shared })
    }
}

impl Desk {
    /// Binds what is new of `addresses`, which the option `key` has. Nothing is changed yet.
    fn prepare(open: &[Self], addresses: &[SocketAddr], key: &'static str) -> Result<Vec<Place>, Error> {
        let mut kept: Vec<Option<&Self>> = open.iter().map(Some).collect();
        let mut places = Vec::with_capacity(addresses.len());
        for address in addresses {
            let is_it = |desk: &&mut Option<&Self>| desk.is_some_and(|desk| desk.address == *address);
            places.push(match kept.iter_mut().find(is_it).and_then(Option::take) {
                Some(desk) => Place::Kept(desk.clone()),
                None => Place::bound(*address, Listening::at(*address)?)?,
            });
        }
        match kept.into_iter().flatten().find(|desk| desk.is_shared) {
            Some(gone) => Err(Error::HandedOver { key, address: gone.local }),
            None => Ok(places),
        }
    }

    /// Serves at these places and no other; `serve` is called for each that is new. What was asked elsewhere is still answered.
    fn commit(
        before: Vec<Self>,
        places: Vec<Place>,
        tls: Option<Arc<Acceptor>>,
        stop: &CancellationToken,
        mut serve: impl FnMut(Opened, SocketAddr),
    ) -> Vec<Self> {
        let mut open: Vec<Self> = Vec::with_capacity(places.len());
        for place in places {
            open.push(match place {
                Place::Kept(desk) => {
                    desk.tls.store(tls.clone());
                    desk
                }
                Place::New { address, listener, local, is_shared } => {
                    let (tls, stop) = (Arc::new(ArcSwapOption::new(tls.clone())), stop.child_token());
                    serve(Opened { listener, tls: Arc::clone(&tls), stop: stop.clone() }, local);
                    Self { address, local, is_shared, tls, stop }
                }
            });
        }
        for gone in before {
            if !open.iter().any(|desk| desk.local == gone.local) {
                gone.stop.cancel();
            }
        }
        open
    }
}

impl Daemon {
    /// Where the admin interface is served over TCP, in the order of the configuration.
    pub fn admin_addresses(&self) -> Vec<SocketAddr> {
        self.desks.iter().map(|desk| desk.local).collect()
    }

    /// Where links are answered by which recipients take themselves off, in the order of the configuration.
    pub fn unsubscribe_addresses(&self) -> Vec<SocketAddr> {
        self.clicks.iter().map(|desk| desk.local).collect()
    }

    /// Binds what is new of both. Nothing is changed yet.
    pub(super) fn prepare_desks(&self, config: &Config) -> Result<(Vec<Place>, Vec<Place>), Error> {
        Ok((
            Desk::prepare(&self.desks, &config.admin.listen, "admin.listen")?,
            Desk::prepare(&self.clicks, &config.unsubscribe.listen, "unsubscribe.listen")?,
        ))
    }

    /// Serves the admin interface at these places and no other.
    pub(super) fn commit_desks(&mut self, places: Vec<Place>, tls: Option<Arc<Acceptor>>) {
        let (before, stop) = (std::mem::take(&mut self.desks), self.stop_watching.clone());
        self.desks = Desk::commit(before, places, tls, &stop, |Opened { listener, tls, stop }, address| {
            info!(%address, "listening for the admin interface");
            let serve = admin::serve_tcp(TcpDoor { listener, tls }, self.admin_state(), stop);
            self.watchers.spawn(beating(self.parts.accept_loop(), serve));
        });
    }

    /// Answers links at these places and no other. Ends with the submission listeners.
    pub(super) fn commit_clicks(&mut self, places: Vec<Place>, tls: Option<Arc<Acceptor>>) {
        let (before, stop) = (std::mem::take(&mut self.clicks), self.doors.stop.clone());
        self.clicks = Desk::commit(before, places, tls, &stop, |Opened { listener, tls, stop }, address| {
            info!(%address, "listening for those who unsubscribe");
            let serve = unsubscribe::serve(Door { listener, tls }, self.unsubscribe.clone(), stop);
            self.clicking.spawn(beating(self.parts.accept_loop(), serve));
        });
        while self.clicking.try_join_next().is_some() {}
    }
}

//! The submission listeners: bound, changed and closed while the daemon runs.
//!
//! They and their sessions run on the [`Front`]. A listener is told by its configured address. Those of one address
//! (port 0) are taken in their order.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::Config;
use crate::submission::{self, Door, Leftover};

use super::front::Front;
use super::sockets::Listening;
use super::watchdog::{Parts, beating};
use super::{Error, settings};

/// What is listened on.
pub(super) struct Doors {
    open: Vec<Open>,
    /// Removed by a reload, with sessions that go on.
    closed: Vec<Arc<Door>>,
    services: submission::Services,
    front: Front,
    /// What the watchdog is to look at.
    parts: Parts,
    /// Ends accepting, and sessions at their next command.
    pub stop: CancellationToken,
    pub tasks: JoinSet<()>,
}

impl std::fmt::Debug for Doors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doors").field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Open {
    /// As configured.
    address: SocketAddr,
    /// As bound: with the port that was given for port 0.
    local: SocketAddr,
    /// The socket is that of a socket unit, which keeps it open when we do not.
    is_shared: bool,
    door: Arc<Door>,
}

/// Everything of a change that can fail, done: one element for each configured listener.
pub(super) struct Prepared {
    places: Vec<Place>,
    /// TLS of each.
    tls: Vec<Option<submission::Tls>>,
}

enum Place {
    Kept(Open),
    New { listener: TcpListener, local: SocketAddr, is_shared: bool },
}

impl Doors {
    /// None yet.
    pub fn new(services: submission::Services, front: Front, parts: Parts) -> Self {
        let (open, closed) = Default::default();
        Self { open, closed, services, front, parts, stop: CancellationToken::new(), tasks: JoinSet::new() }
    }

    /// Binds what is new. Nothing is changed yet: what is bound and not used is closed again. A socket that was handed over
    /// cannot be given up: clients would still connect to it.
    pub fn prepare(&self, config: &Config, tls: Vec<Option<submission::Tls>>) -> Result<Prepared, Error> {
        let mut kept: Vec<Option<&Open>> = self.open.iter().map(Some).collect();
        let mut places = Vec::with_capacity(config.listeners.len());
        for section in &config.listeners {
            let is_it = |open: &&mut Option<&Open>| open.is_some_and(|open| open.address == section.address);
            let place = match kept.iter_mut().find(is_it).and_then(Option::take) {
                Some(open) => Place::Kept(open.clone()),
                None => place(Listening::at(section.address)?, section.address, &self.front)?,
            };
            places.push(place);
        }
        if let Some(gone) = kept.into_iter().flatten().find(|open| open.is_shared) {
            return Err(Error::HandedOver { key: "listener.address", address: gone.local });
        }
        Ok(Prepared { places, tls })
    }

    /// Listens as `config`, for which `prepared` was made, says. Sessions of listeners that are no longer in it go on.
    pub fn commit(&mut self, prepared: Prepared, config: &Config, hostname: &Arc<str>) {
        self.services = self.services.named(hostname.clone());
        let before = std::mem::take(&mut self.open);
        for ((place, tls), section) in prepared.places.into_iter().zip(prepared.tls).zip(&config.listeners) {
            let settings = settings::submission(config, section, tls);
            let open = match place {
                Place::Kept(open) => {
                    open.door.apply(settings, self.services.clone());
                    open
                }
                Place::New { listener, local, is_shared } => {
                    info!(address = %local, tenant = section.tenant, "listening for submissions");
                    let door = Door::new(settings, self.services.clone());
                    let leftover = if is_shared { Leftover::Stays } else { Leftover::IsToldToGo };
                    let serve = submission::serve(listener, door.clone(), leftover, self.stop.clone());
                    self.tasks.spawn_on(beating(self.parts.accept_loop(), serve), self.front.handle());
                    Open { address: section.address, local, is_shared, door }
                }
            };
            self.open.push(open);
        }
        while self.tasks.try_join_next().is_some() {}
        self.closed.retain(|door| door.open() > 0);
        for gone in before {
            if !self.open.iter().any(|open| Arc::ptr_eq(&open.door, &gone.door)) {
                info!(address = %gone.local, sessions = gone.door.open(), "no longer listening; open sessions go on");
                gone.door.close();
                self.closed.push(gone.door);
            }
        }
    }

    /// Where mail can be submitted, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.open.iter().map(|open| open.local).collect()
    }

    /// Where they and their sessions run.
    pub fn runtime(&self) -> &Handle {
        self.front.handle()
    }

    /// Every door behind which there may be sessions.
    pub fn all(&self) -> Vec<Arc<Door>> {
        self.open.iter().map(|open| &open.door).chain(&self.closed).cloned().collect()
    }
}

/// What is bound already, in the order of the configuration, for a start.
pub(super) fn bound(
    listeners: Vec<Listening>,
    config: &Config,
    tls: Vec<Option<submission::Tls>>,
    front: &Front,
) -> Result<Prepared, Error> {
    let sections = listeners.into_iter().zip(&config.listeners);
    let places: Result<_, _> = sections.map(|(listener, section)| place(listener, section.address, front)).collect();
    Ok(Prepared { places: places?, tls })
}

fn place(listening: Listening, address: SocketAddr, front: &Front) -> Result<Place, Error> {
    let listen = |error| Error::Listen { address, error };
    let Listening { socket, is_shared } = listening;
    let local = socket.local_addr().map_err(listen)?;
    // A socket belongs to the runtime in which it is made one of Tokio's.
    let _inside = front.handle().enter();
    Ok(Place::New { listener: TcpListener::from_std(socket).map_err(listen)?, local, is_shared })
}

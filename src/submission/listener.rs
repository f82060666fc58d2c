//! A listener: accepts connections, turns away what is too much, and runs a task per session.
//!
//! A [`Door`] holds what the listener goes by, and can be given other settings or be closed while sessions are open.
//! [`serve`] ends when `stop` is cancelled and every session has ended; sessions get 421 at their next command boundary, and
//! content that is coming in has [`Settings::stop_grace`] to end, and a message whose 250 is pending is finished. How long
//! that may take in all is the daemon's decision: it drops the future.

use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::intake::{Intake, Place};
use super::proxy;
use super::refusal::{self, Cause, Refusal};
use super::{Services, Settings};
use crate::config::units::Network;

/// How long accepting pauses when there are no descriptors or memory: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Clients of other networks that may be there at once; more are told and closed.
const STRANGERS_MOST: usize = 64;
/// How long such a client may take to say QUIT.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that may wait to be accepted; as many as a burst of clients may open at once.
pub const BACKLOG: u16 = 4096;
/// Of all descriptors the last tenth is not for sessions: where these are as many as descriptors, deliveries would get none
/// that anybody closes, and the spool no segment.
const KEPT: u64 = 10;
/// How often the rates of quiet addresses are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// What one listener goes by; the daemon holds it too, to change it.
pub struct Door {
    /// Taken by each new session, which keeps it.
    rules: ArcSwap<Rules>,
    intake: Arc<Intake>,
    /// No session is begun any more.
    closed: CancellationToken,
}

struct Rules {
    services: Services,
    settings: Arc<Settings>,
    /// For clients of networks that are not allowed.
    strangers: Arc<Settings>,
}

impl Rules {
    fn new(settings: Settings, services: Services) -> Self {
        let strangers = Settings { timeout: settings.timeout.min(STRANGER_TIMEOUT), ..settings.clone() };
        Self { services, settings: Arc::new(settings), strangers: Arc::new(strangers) }
    }
}

impl Door {
    /// A door by the settings.
    pub fn new(settings: Settings, services: Services) -> Arc<Self> {
        let intake = Intake::new(&settings);
        let rules = ArcSwap::from_pointee(Rules::new(settings, services));
        Arc::new(Self { rules, intake, closed: CancellationToken::new() })
    }

    /// Has sessions to come go by other settings. Those that are open keep theirs, but count and share the rate of messages.
    pub fn apply(&self, settings: Settings, services: Services) {
        self.intake.apply(&settings);
        self.rules.store(Arc::new(Rules::new(settings, services)));
    }

    /// Begins no session any more; those that are open go on.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Sessions that are open.
    pub fn open(&self) -> usize {
        self.intake.open()
    }
}

/// What becomes of connections that wait to be accepted when a listener ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// They are greeted with 421; the kernel would reset them.
    IsToldToGo,
    /// They wait on: somebody else holds the socket, and accepts them later.
    Stays,
}

/// Accepts messages on `listener` until `stop`, or until the door is closed and its sessions have ended.
pub async fn serve(listener: TcpListener, door: Arc<Door>, leftover: Leftover, stop: CancellationToken) {
    let strangers = Arc::new(Semaphore::new(STRANGERS_MOST));
    let mut sessions = JoinSet::new();
    let mut forget = tokio::time::interval(FORGET_EVERY);
    let mut pause = PAUSES.0;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = door.closed.cancelled() => break,
            Some(_) = sessions.join_next() => {}
            _ = forget.tick() => door.intake.forget(),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    pause = PAUSES.0;
                    // Behind a wall of its own: the listener goes on, and so do its sessions.
                    let rules = door.rules.load_full();
                    if is_of(peer.ip(), &rules.settings.proxy_networks) {
                        sessions.spawn(proxied(stream, Arc::clone(&door), Arc::clone(&strangers), stop.child_token()));
                        continue;
                    }
                    let wall = &rules.services.wall;
                    let Ok(received) = wall.call(|| receive(stream, peer.ip(), &door, &strangers)) else { continue };
                    let Some((connection, room)) = received else { continue };
                    sessions.spawn(run(connection, stop.child_token(), room));
                }
                Err(error) => {
                    if !is_of_one_connection(&error) {
                        tracing::warn!(%error, "accepting connections pauses");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(PAUSES.1);
                    }
                }
            }
        }
    }
    match leftover {
        Leftover::IsToldToGo => turn_leftover_away(listener, &door),
        Leftover::Stays => drop(listener),
    }
    while sessions.join_next().await.is_some() {}
}

/// A connection of a balancer: its header comes first, then it is as any other of the client that the header names.
async fn proxied(mut stream: TcpStream, door: Arc<Door>, strangers: Arc<Semaphore>, stop: CancellationToken) {
    let services = door.rules.load().services.clone();
    if is_kept_back(stream.as_raw_fd(), getrlimit(Resource::Nofile).current) {
        return services.metrics.count(refusal::OVERLOAD.cause);
    }
    let Ok(peer) = stream.peer_addr() else { return };
    let named = tokio::select! {
        named = proxy::client(&mut stream) => named,
        () = stop.cancelled() => return,
    };
    match named {
        Ok(client) => {
            let client = client.unwrap_or(peer.ip());
            let received = services.wall.call(|| receive(stream, client, &door, &strangers));
            if let Ok(Some((connection, room))) = received {
                run(connection, stop, room).await;
            }
        }
        Err(error) => {
            services.metrics.count(Cause::Proxy);
            tracing::debug!(balancer = %peer, %error, "no PROXY header");
        }
    }
}

/// A connection that has been accepted, with its room; none if it was turned away.
fn receive(stream: TcpStream, client: IpAddr, door: &Door, strangers: &Arc<Semaphore>) -> Option<(Connection, Room)> {
    let rules = door.rules.load();
    let (settings, room) = if is_kept_back(stream.as_raw_fd(), getrlimit(Resource::Nofile).current) {
        (&rules.settings, Err(refusal::OVERLOAD))
    } else if rules.settings.auth || is_of(client, &rules.settings.networks) {
        (&rules.settings, door.intake.enter(client).map(Room::Place))
    } else {
        // They may say QUIT after their 554 (RFC 5321, 3.1), but they take no place of those who may submit.
        let permit = Arc::clone(strangers).try_acquire_owned();
        (&rules.strangers, permit.map(Room::Stranger).map_err(|_| refusal::RELAY_DENIED))
    };
    match room {
        Ok(room) => {
            let _ = stream.set_nodelay(true);
            let (settings, services) = (Arc::clone(settings), rules.services.clone());
            Some((Connection::new(stream, client, settings, services, Arc::clone(&door.intake)), room))
        }
        Err(refusal) => {
            turn_away(&stream, &refusal, &rules);
            None
        }
    }
}

/// Whether a descriptor is one of those that are not for sessions, of `most` that may be open. Each is the lowest number that
/// was free (POSIX.1-2017, 2.14), so as many as its number are open beside it.
fn is_kept_back(number: i32, most: Option<u64>) -> bool {
    let number = u64::try_from(number).unwrap_or_default();
    most.is_some_and(|most| number >= most - most / KEPT)
}

/// Says 421 to whoever has connected and was not accepted yet, and listens no more. Who connects between the last of them
/// and the end is reset by the kernel, and who comes later is refused.
fn turn_leftover_away(listener: TcpListener, door: &Door) {
    // Without the runtime, which may not know of the newest ones yet; it does not block either.
    let Ok(listener) = listener.into_std() else { return };
    let rules = door.rules.load();
    for mut stream in waiting(&listener, usize::from(BACKLOG)) {
        rules.services.metrics.count(refusal::STOPPING.cause);
        if rules.settings.is_implicit_tls() {
            continue;
        }
        let _ = stream.set_nonblocking(true).and_then(|()| stream.write_all(refusal::STOPPING.line().as_bytes()));
    }
}

/// Connections that wait to be accepted, `most` of them: those that come meanwhile must not keep the listener from its
/// end.
fn waiting(listener: &std::net::TcpListener, most: usize) -> impl Iterator<Item = std::net::TcpStream> {
    let accepted = std::iter::repeat_with(|| listener.accept()).take(most);
    let accepted = accepted.filter(|accepted| !matches!(accepted, Err(error) if is_of_one_connection(error)));
    accepted.map_while(Result::ok).map(|(stream, _)| stream)
}

/// Errors that tell of a connection that was gone before it was accepted (accept(2)); the next one may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn is_of(client: IpAddr, networks: &[Network]) -> bool {
    networks.iter().any(|network| network.contains(client))
}

/// What a session holds as long as it runs.
enum Room {
    Place(#[expect(dead_code, reason = "held for its drop")] Place),
    Stranger(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit),
}

/// A session that panics is closed without a reply, so its client keeps a message that it has no 250 for; what the spool
/// has not acknowledged yet is withdrawn.
async fn run(connection: Connection, stop: CancellationToken, room: Room) {
    let services = connection.services().clone();
    if services.wall.run(connection.run(stop)).await.is_err() {
        services.metrics.sessions.decrement(1.0);
    }
    drop(room);
}

/// Says 421 or 554 and closes, without a task: the reply fits into the empty socket buffer of a new connection.
/// A client that would begin with a handshake is only closed: it could not read the reply.
fn turn_away(stream: &TcpStream, refusal: &Refusal, rules: &Rules) {
    rules.services.metrics.count(refusal.cause);
    if rules.settings.is_implicit_tls() {
        return;
    }
    let _ = stream.try_write(refusal.line().as_bytes());
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_last_tenth_of_the_descriptors_is_not_for_sessions() {
        assert_eq!([0, 89, 90, 99].map(|number| is_kept_back(number, Some(100))), [false, false, true, true]);
        // As few as nothing runs with, and no limit at all.
        assert_eq!([(8, Some(9)), (i32::MAX, None)].map(|(number, most)| is_kept_back(number, most)), [false, false]);
    }

    #[test]
    fn no_more_are_taken_than_may_have_waited_and_none_is_waited_for() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let _clients: Vec<_> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();

        let taken = [3, 3, 3].map(|most| waiting(&listener, most).count());

        assert_eq!(taken, [3, 2, 0]);
    }
}

//! A listener: accepts connections, turns away what is too much, and runs a task per session.
//!
//! [`serve`] ends when `stop` is cancelled and every session has ended; sessions get 421 at their next command boundary, and
//! content that is coming in has [`Settings::stop_grace`] to end, and a message whose 250 is pending is finished. How long
//! that may take in all is the daemon's decision: it drops the future.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::intake::{Intake, Place};
use super::refusal::{self, Refusal};
use super::{Services, Settings};

/// How long accepting pauses when there are no descriptors or memory: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Clients of other networks that may be there at once; more are told and closed.
const STRANGERS_MOST: usize = 64;
/// How long such a client may take to say QUIT.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the rates of quiet addresses are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// Accepts messages on `listener` until `stop`.
pub async fn serve(listener: TcpListener, settings: Arc<Settings>, services: Services, stop: CancellationToken) {
    let intake = Intake::new(&settings);
    let strangers = Strangers::new(&settings);
    let begin = |sessions: &mut JoinSet<()>, stream: TcpStream, client: IpAddr| {
        let (settings, place) = if is_allowed(client, &settings) {
            (&settings, intake.enter(client).map(Room::Place))
        } else {
            (&strangers.settings, strangers.enter().map(Room::Stranger))
        };
        match place {
            Ok(place) => {
                let _ = stream.set_nodelay(true);
                let (settings, intake) = (Arc::clone(settings), Arc::clone(&intake));
                let connection = Connection::new(stream, client, settings, services.clone(), intake);
                sessions.spawn(run(connection, stop.child_token(), place));
            }
            Err(refusal) => turn_away(&stream, &refusal, &services),
        }
    };
    let mut sessions = JoinSet::new();
    let mut forget = tokio::time::interval(FORGET_EVERY);
    let mut pause = PAUSES.0;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = sessions.join_next() => {}
            _ = forget.tick() => intake.forget(),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    pause = PAUSES.0;
                    // Behind a wall of its own: the listener goes on, and so do its sessions.
                    let _ = services.wall.call(|| begin(&mut sessions, stream, peer.ip()));
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
    drop(listener);
    while sessions.join_next().await.is_some() {}
}

/// Errors that tell of a connection that was gone before it was accepted (accept(2)); the next one may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn is_allowed(client: IpAddr, settings: &Settings) -> bool {
    settings.networks.iter().any(|network| network.contains(client))
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

/// Clients of networks that are not allowed: they may say QUIT after their 554 (RFC 5321, 3.1), but they take no place of
/// those who may submit.
struct Strangers {
    settings: Arc<Settings>,
    room: Arc<Semaphore>,
}

impl Strangers {
    fn new(settings: &Settings) -> Self {
        let settings = Settings { timeout: settings.timeout.min(STRANGER_TIMEOUT), ..settings.clone() };
        Self { settings: Arc::new(settings), room: Arc::new(Semaphore::new(STRANGERS_MOST)) }
    }

    fn enter(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.room).try_acquire_owned().map_err(|_| refusal::RELAY_DENIED)
    }
}

/// Says 421 or 554 and closes, without a task: the reply fits into the empty socket buffer of a new connection.
fn turn_away(stream: &TcpStream, refusal: &Refusal, services: &Services) {
    services.metrics.count(refusal.cause);
    let _ = stream.try_write(format!("{} {} {}\r\n", refusal.code, refusal.status, refusal.text).as_bytes());
}

//! A listener: accepts connections, turns away what is too much, and runs a task per session.
//!
//! [`serve`] ends when `stop` is cancelled and every session has ended; sessions get 421 at their next command boundary, and
//! content that is coming in has [`Settings::stop_grace`] to end, and a message whose 250 is pending is finished. How long
//! that may take in all is the daemon's decision: it drops the future.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::intake::Intake;
use super::refusal::Refusal;
use super::{Services, Settings};

/// How long accepting pauses when there are no descriptors or memory: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How often the rates of quiet addresses are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// Accepts messages on `listener` until `stop`.
pub async fn serve(listener: TcpListener, settings: Arc<Settings>, services: Services, stop: CancellationToken) {
    let intake = Intake::new(&settings);
    let mut sessions = JoinSet::new();
    let mut forget = tokio::time::interval(FORGET_EVERY);
    let mut pause = PAUSES.0;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = sessions.join_next() => report(ended),
            _ = forget.tick() => intake.forget(),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    pause = PAUSES.0;
                    admit(stream, peer, &settings, &services, &intake, &stop, &mut sessions);
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
    while let Some(ended) = sessions.join_next().await {
        report(ended);
    }
}

/// Errors that tell of a connection that was gone before it was accepted (accept(2)); the next one may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn admit(
    stream: TcpStream,
    peer: SocketAddr,
    settings: &Arc<Settings>,
    services: &Services,
    intake: &Arc<Intake>,
    stop: &CancellationToken,
    sessions: &mut JoinSet<()>,
) {
    match intake.enter(peer.ip()) {
        Ok(place) => {
            let _ = stream.set_nodelay(true);
            let settings = Arc::clone(settings);
            let connection = Connection::new(stream, peer.ip(), settings, services.clone(), Arc::clone(intake));
            let stop = stop.child_token();
            sessions.spawn(async move {
                connection.run(stop).await;
                drop(place);
            });
        }
        Err(refusal) => turn_away(&stream, &refusal, services),
    }
}

/// Says 421 and closes, without a task: the reply fits into the empty socket buffer of a new connection.
fn turn_away(stream: &TcpStream, refusal: &Refusal, services: &Services) {
    services.metrics.count(refusal.cause);
    let _ = stream.try_write(format!("{} {} {}\r\n", refusal.code, refusal.status, refusal.text).as_bytes());
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a submission session ended by a panic");
    }
}

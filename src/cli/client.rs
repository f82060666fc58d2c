//! Client of the admin interface: HTTP and JSON over its Unix socket, or over TCP with a token.
//!
//! One connection a request: the command asks once and ends. `Client::stream` is for bodies that are longer than memory is large.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use super::at::Elsewhere;
use crate::admin;

/// A listing of a full queue is the slowest answer there is.
const TIMEOUT: Duration = Duration::from_secs(60);
/// What looks at counts only.
pub(super) const SHORT: Duration = Duration::from_secs(10);
/// The longest answer read: a listing has limits well below.
const LARGEST: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or we may not connect.
    #[error("cannot reach the daemon at {place}: {error}\n{}", advice(error, *is_elsewhere))]
    Unreachable {
        /// Where it was looked for.
        place: String,
        /// The system's reason; not called `source`, or it would be told twice.
        error: io::Error,
        /// It was asked over TCP.
        is_elsewhere: bool,
    },
    /// The options that say where it is are wrong.
    #[error("{0}")]
    Usage(String),
    /// The daemon answered with an error.
    #[error("{error}{}", hint.as_ref().map(|hint| format!("\n{hint}")).unwrap_or_default())]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What is wrong.
        error: String,
        /// What to do.
        hint: Option<String>,
    },
    /// It did not answer in time, or not in HTTP and JSON.
    #[error("the daemon at {place} did not answer properly: {reason}")]
    Protocol {
        /// Where it was asked.
        place: String,
        /// What went wrong.
        reason: String,
    },
}

fn advice(error: &io::Error, is_elsewhere: bool) -> &'static str {
    if is_elsewhere {
        return "does it listen there? `admin.listen` of its configuration; --admin-ca names who vouches for its certificate";
    }
    match error.kind() {
        io::ErrorKind::PermissionDenied => "the socket belongs to the daemon's user: use sudo or that user",
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "is it running? `systemctl status hikyaku`; another place is given by --socket or HIKYAKU_SOCKET"
        }
        _ => "another place is given by --socket or HIKYAKU_SOCKET",
    }
}

/// Where the daemon listens.
#[derive(Clone, Debug)]
pub struct Client {
    place: Place,
    timeout: Duration,
}

#[derive(Clone, Debug)]
enum Place {
    Socket(PathBuf),
    Elsewhere(Arc<Elsewhere>),
    /// It was named in a way that is told as soon as it is asked.
    Wrong(String),
}

impl Client {
    /// A client of the daemon at `socket`; connects only when asked something.
    pub fn new(socket: &Path) -> Self {
        Self { place: Place::Socket(socket.to_owned()), timeout: TIMEOUT }
    }

    /// A client of a daemon that is asked over TCP.
    pub(super) fn elsewhere(place: Result<Elsewhere, String>) -> Self {
        let place = place.map_or_else(Place::Wrong, |place| Place::Elsewhere(Arc::new(place)));
        Self { place, timeout: TIMEOUT }
    }

    /// The same that waits so long for an answer.
    pub fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Asks for `path` (with query) and reads the JSON answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    /// Sends a body as JSON and reads the JSON answer.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.protocol(error))?;
        self.ask(Method::POST, path, body.into()).await
    }

    /// Has what is at `path` removed and reads the JSON answer.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::DELETE, path, Bytes::new()).await
    }

    /// Sends a body as it comes, of this type, and gives the answer as it comes; an error if it is none of success.
    pub(super) async fn stream<B>(&self, path: &str, kind: &'static str, body: B) -> Result<Stream, ClientError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let begun = tokio::time::timeout(self.timeout, self.send(Method::POST, path, kind, body)).await;
        let (response, connection) = begun.map_err(|_| self.late())??;
        let (head, body) = response.into_parts();
        if head.status.is_success() {
            return Ok(Stream { client: self.clone(), body, _connection: connection });
        }
        let body = tokio::time::timeout(self.timeout, self.collected(body)).await.map_err(|_| self.late())??;
        Err(refused(head.status, &body))
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let answer = tokio::time::timeout(self.timeout, self.fetch(method, path, body)).await;
        let (status, body) = answer.map_err(|_| self.late())??;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.protocol(error));
        }
        Err(refused(status, &body))
    }

    async fn fetch(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ClientError> {
        let (response, _connection) = self.send(method, path, "application/json", Full::new(body)).await?;
        let (head, body) = response.into_parts();
        Ok((head.status, self.collected(body).await?))
    }

    async fn collected(&self, body: Incoming) -> Result<Bytes, ClientError> {
        let body = Limited::new(body, LARGEST).collect().await.map_err(|error| self.protocol(error))?;
        Ok(body.to_bytes())
    }

    /// Sends a request, and gives the answer's head when it comes; its body comes as long as the connection is kept.
    async fn send<B>(&self, method: Method, path: &str, kind: &'static str, body: B) -> Result<Begun, ClientError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let unreachable = |error, is_elsewhere| ClientError::Unreachable { place: self.told(), error, is_elsewhere };
        let mut request = Request::builder().method(method).uri(path).header(hyper::header::CONTENT_TYPE, kind);
        match &self.place {
            Place::Wrong(text) => Err(ClientError::Usage(text.clone())),
            Place::Socket(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(error, false))?;
                let request = request.header(hyper::header::HOST, "hikyaku").body(body);
                self.exchange(stream, request.map_err(|error| self.protocol(error))?).await
            }
            Place::Elsewhere(place) => {
                let bearer = format!("Bearer {}", place.token);
                request = request.header(hyper::header::HOST, &place.authority);
                let request = request.header(hyper::header::AUTHORIZATION, bearer).body(body);
                let request = request.map_err(|error| self.protocol(error))?;
                let stream = TcpStream::connect(&place.authority).await.map_err(|error| unreachable(error, true))?;
                let Some(roots) = &place.roots else { return self.exchange(stream, request).await };
                let connector =
                    roots.connector().await.map_err(|error| unreachable(io::Error::other(error.to_string()), true))?;
                let name = ServerName::try_from(place.host.clone()).map_err(|error| self.protocol(error))?;
                let stream = connector.connect(name, stream).await.map_err(|error| unreachable(error, true))?;
                self.exchange(stream, request).await
            }
        }
    }

    async fn exchange<S, B>(&self, stream: S, request: Request<B>) -> Result<Begun, ClientError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.protocol(error))?;
        // The connection's own end says nothing: the exchange reports what it means.
        let connection = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
        let response = sender.send_request(request).await.map_err(|error| self.protocol(error))?;
        Ok((response, connection))
    }

    fn late(&self) -> ClientError {
        self.protocol(format!("no answer in {} s", self.timeout.as_secs()))
    }

    /// Where it is asked, for people.
    fn told(&self) -> String {
        match &self.place {
            Place::Socket(socket) => socket.display().to_string(),
            Place::Elsewhere(place) => place.url.clone(),
            Place::Wrong(_) => String::new(),
        }
    }

    fn protocol(&self, reason: impl ToString) -> ClientError {
        ClientError::Protocol { place: self.told(), reason: reason.to_string() }
    }
}

/// An answer that has begun, and the task that moves what is exchanged.
type Begun = (Response<Incoming>, AbortOnDropHandle<()>);

fn refused(status: StatusCode, body: &[u8]) -> ClientError {
    let problem: admin::Problem = serde_json::from_slice(body)
        .unwrap_or_else(|_| admin::Problem { error: format!("HTTP status {status}"), hint: None });
    ClientError::Refused { status: status.as_u16(), error: problem.error, hint: problem.hint }
}

/// An answer that comes piece by piece.
#[derive(Debug)]
pub(super) struct Stream {
    client: Client,
    body: Incoming,
    _connection: AbortOnDropHandle<()>,
}

impl Stream {
    /// What comes next; none: the end. Can be given up and be called again without loss.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(octets) = frame.map_err(|error| self.client.protocol(error))?.into_data() {
                return Ok(Some(octets));
            }
        }
    }

    /// It has not come as it should.
    pub fn broken(&self, reason: impl ToString) -> ClientError {
        self.client.protocol(reason)
    }
}

/// Escapes a value for a query string or path segment (RFC 3986, 2.3: unreserved characters stay).
pub fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::{Exit, Failure};

    #[test]
    fn query_values_cannot_break_out() {
        assert_eq!(escaped("a.test&limit=9\r\n ü"), "a.test%26limit%3D9%0D%0A%20%C3%BC");
    }

    #[test]
    fn absent_daemon_is_told_once() {
        let error = io::ErrorKind::NotFound.into();
        let error = ClientError::Unreachable { place: "/x".to_owned(), error, is_elsewhere: false };

        assert_eq!(anyhow::Error::new(error).chain().count(), 1);
    }

    #[tokio::test]
    async fn absent_daemon_is_unreachable_with_advice() {
        let folder = tempfile::tempdir().unwrap();

        let error = Client::new(&folder.path().join("none.sock")).get::<serde_json::Value>("/v1/status").await;

        let error = error.unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }));
        assert!(error.to_string().contains("is it running?"), "{error}");
        assert_eq!(Failure::from(error).exit, Exit::Unreachable);
    }
}

//! Client of the admin interface: HTTP and JSON over its Unix socket.
//!
//! One connection a request: the command asks once and ends.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

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
    #[error("cannot reach the daemon at {socket}: {error}\n{}", advice(error))]
    Unreachable {
        /// Where it was looked for.
        socket: String,
        /// The system's reason; not called `source`, or it would be told twice.
        error: io::Error,
    },
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
    #[error("the daemon at {socket} did not answer properly: {reason}")]
    Protocol {
        /// Where it was asked.
        socket: String,
        /// What went wrong.
        reason: String,
    },
}

fn advice(error: &io::Error) -> &'static str {
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
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// A client of the daemon at `socket`; connects only when asked something.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), timeout: TIMEOUT }
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

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let answer = tokio::time::timeout(self.timeout, self.fetch(method, path, body)).await;
        let late = || self.protocol(format!("no answer in {} s", self.timeout.as_secs()));
        let (status, body) = answer.map_err(|_| late())??;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.protocol(error));
        }
        let problem: admin::Problem = serde_json::from_slice(&body)
            .unwrap_or_else(|_| admin::Problem { error: format!("HTTP status {status}"), hint: None });
        Err(ClientError::Refused { status: status.as_u16(), error: problem.error, hint: problem.hint })
    }

    async fn fetch(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| ClientError::Unreachable { socket: self.socket.display().to_string(), error })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.protocol(error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "hikyaku")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.protocol(error))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| self.protocol(error))?;
            let status = response.status();
            let body =
                Limited::new(response.into_body(), LARGEST).collect().await.map_err(|error| self.protocol(error))?;
            Ok((status, body.to_bytes()))
        };
        tokio::pin!(connection, exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            // The connection's own end says nothing: the exchange reports what it means.
            _ = &mut connection => exchange.await,
        }
    }

    fn protocol(&self, reason: impl ToString) -> ClientError {
        ClientError::Protocol { socket: self.socket.display().to_string(), reason: reason.to_string() }
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
        let error = ClientError::Unreachable { socket: "/x".to_owned(), error: io::ErrorKind::NotFound.into() };

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

//! One request over HTTPS, with addresses of our own resolver and networks that may be dialled: for MTA-STS policies and TLS
//! reports. Redirects are not followed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use super::lookup::Resolver;
use super::network::is_allowed;
use super::roots::Roots;
use super::sts::MOST_OCTETS;
use crate::config::units::Network;

/// Addresses of a host that are tried.
const MOST_ADDRESSES: usize = 4;
/// How long a connection to one of them may take.
const CONNECT: Duration = Duration::from_secs(15);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It cannot be had.
    Failed(Arc<str>),
    /// The certificate of the host is not good.
    Untrusted(Arc<str>),
}

/// What a host answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    /// Its media type, without parameters, in lower case.
    pub kind: String,
    pub body: Bytes,
}

/// Makes requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Https<'a> {
    pub resolver: &'a Resolver,
    pub roots: &'a Arc<Roots>,
    pub allow_networks: &'a [Network],
}

impl Https<'_> {
    /// GET.
    pub async fn get(&self, host: &str, port: u16, path: &str) -> Result<Answer, Trouble> {
        self.exchange(host, port, Request::get(path), Bytes::new()).await
    }

    /// POST of a body of this media type.
    pub async fn post(&self, uri: &str, kind: &'static str, body: Bytes) -> Result<Answer, Trouble> {
        let uri: hyper::Uri = uri.parse().map_err(|error| failed(&error))?;
        let host = uri.host().ok_or_else(|| failed(&"the URI names no host"))?.to_ascii_lowercase();
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::post(path).header(CONTENT_TYPE, kind);
        self.exchange(&host, uri.port_u16().unwrap_or(443), request, body).await
    }

    async fn exchange(
        &self,
        host: &str,
        port: u16,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> Result<Answer, Trouble> {
        let stream = self.connect(host, port).await?;
        let connector = self.roots.connector().await.map_err(|why| failed(&why))?;
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(&error))?;
        let stream = connector.connect(name, stream).await;
        let stream = stream.map_err(|error| match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(why)) => Trouble::Untrusted(crate::tls::in_words(why).into()),
            _ => failed(&error),
        })?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(|error| failed(&error))?;
        let driver = tokio::spawn(connection);
        let authority = if port == 443 { host.to_owned() } else { format!("{host}:{port}") };
        let request = request.header(HOST, authority).header(USER_AGENT, "hikyaku").body(Full::new(body));
        let request = request.map_err(|error| failed(&error))?;
        let answered = async {
            let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
            let (status, kind) = (response.status(), media_type(response.headers().get(CONTENT_TYPE)));
            let body = Limited::new(response.into_body(), MOST_OCTETS).collect().await;
            Ok(Answer { status, kind, body: body.map_err(|error| failed(&error))?.to_bytes() })
        };
        let answer = answered.await;
        driver.abort();
        answer
    }

    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, Trouble> {
        let addresses = self.resolver.addresses(host).await.addresses;
        let addresses = addresses.map_err(|_| failed(&"the host has no address"))?;
        let mut last = failed(&"the host has no public address");
        let allowed = addresses.iter().filter(|address| is_allowed(**address, self.allow_networks));
        for address in allowed.take(MOST_ADDRESSES) {
            let connecting = TcpStream::connect(SocketAddr::new(*address, port));
            match tokio::time::timeout(CONNECT, connecting).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = failed(&format_args!("cannot connect to its host: {error}")),
                Err(_) => last = failed(&"its host does not answer"),
            }
        }
        Err(last)
    }
}

fn failed(why: &dyn std::fmt::Display) -> Trouble {
    Trouble::Failed(why.to_string().into())
}

fn media_type(value: Option<&HeaderValue>) -> String {
    let value = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

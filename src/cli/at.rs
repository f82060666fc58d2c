//! Where the daemon is asked: its socket on this machine, or its admin interface over TCP.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::Uri;
use axum::http::uri::Scheme;

use super::client::Client;
use crate::dns::Roots;
use crate::trusted::{self, Holds};

/// Options that say where the daemon is.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct At {
    /// Admin socket of the daemon [default: HIKYAKU_SOCKET, else the built-in one]
    #[arg(long, value_name = "PATH", conflicts_with = "admin")]
    socket: Option<PathBuf>,
    /// Admin interface over TCP: https://HOST:PORT, or http://127.0.0.1:PORT [default: HIKYAKU_ADMIN]
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// File with the token for --admin [default: the token in HIKYAKU_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Authorities in PEM that vouch for --admin [default: those of the system]
    #[arg(long, value_name = "FILE")]
    admin_ca: Option<PathBuf>,
}

/// An admin interface over TCP.
#[derive(Clone)]
pub(super) struct Elsewhere {
    /// As it was given.
    pub url: String,
    /// Name or address, and port.
    pub authority: String,
    /// The name, or the address without brackets.
    pub host: String,
    /// Under TLS, vouched for by these.
    pub roots: Option<Arc<Roots>>,
    pub token: String,
}

/// The token is not shown.
impl std::fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Elsewhere").field("url", &self.url).finish_non_exhaustive()
    }
}

impl At {
    /// A client of the daemon; what is wrong with the options it tells when it is asked something.
    pub(super) fn client(&self) -> Client {
        match self.url() {
            Some(url) => Client::elsewhere(self.elsewhere(&url).map_err(|text| format!("{url}: {text}"))),
            None => Client::new(&self.socket().unwrap_or_default()),
        }
    }

    /// The socket; none: it is asked over TCP.
    pub(super) fn socket(&self) -> Option<PathBuf> {
        let usual = || crate::admin::DEFAULT_SOCKET.into();
        self.url().is_none().then(|| socket_named(self.socket.as_deref()).unwrap_or_else(usual))
    }

    /// An option counts more than the environment.
    fn url(&self) -> Option<String> {
        let of_environment = || if self.socket.is_none() { environment("HIKYAKU_ADMIN") } else { None };
        self.admin.clone().or_else(of_environment)
    }

    fn elsewhere(&self, url: &str) -> Result<Elsewhere, String> {
        let (authority, host, is_secure) = parts(url)?;
        let token = match &self.token_file {
            Some(file) => trusted::read_text(file, Holds::Secret).map_err(|error| error.to_string())?.trim().to_owned(),
            None => environment("HIKYAKU_TOKEN").ok_or("needs a token: in HIKYAKU_TOKEN, or --token-file FILE")?,
        };
        if token.is_empty() || token.bytes().any(|octet| !octet.is_ascii_graphic()) {
            return Err("the token has other than visible characters, or none".to_owned());
        }
        let roots = is_secure.then(|| match &self.admin_ca {
            Some(file) => Roots::only(file),
            None => Roots::new(Path::new("")),
        });
        Ok(Elsewhere { url: url.to_owned(), authority, host, roots, token })
    }
}

/// Authority, host, and whether it is under TLS.
fn parts(url: &str) -> Result<(String, String, bool), String> {
    const ALLOWED: &str = "allowed: https://HOST:PORT, or http:// for loopback";
    let uri: Uri = url.parse().map_err(|_| ALLOWED)?;
    let authority = uri.authority().ok_or(ALLOWED)?;
    if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(ALLOWED.to_owned());
    }
    if authority.port_u16().is_none() {
        return Err("no port; allowed: https://HOST:PORT".to_owned());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let is_secure = uri.scheme() == Some(&Scheme::HTTPS);
    let is_private = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let is_clear = uri.scheme() == Some(&Scheme::HTTP) && is_private;
    if !is_secure && !is_clear {
        return Err("the token would be seen on the way; allowed: https, or http to 127.0.0.1 or [::1]".to_owned());
    }
    Ok((authority.to_string(), host, is_secure))
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The socket that an option or the environment names.
pub(super) fn socket_named(option: Option<&Path>) -> Option<PathBuf> {
    option.map(Path::to_owned).or_else(|| std::env::var_os("HIKYAKU_SOCKET").map(PathBuf::from))
}

/// Whether the environment names a daemon that is asked over TCP.
pub(super) fn is_elsewhere_by_environment() -> bool {
    environment("HIKYAKU_ADMIN").is_some()
}

/// Why something cannot be read of a daemon that is asked over TCP.
pub(super) fn elsewhere(what: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "{what} is in files of the daemon's machine, which --admin does not carry: run this there, or name a copy by the \
         option for its place"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown_with_the_place_that_it_is_for() {
        let (url, token) = ("http://127.0.0.1:8025".to_owned(), "secret".to_owned());
        let place = Elsewhere { url, authority: String::new(), host: String::new(), roots: None, token };

        let shown = format!("{:?}", Client::elsewhere(Ok(place)));

        assert!(shown.contains("127.0.0.1:8025") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_url_is_taken_only_where_nobody_sees_the_token() {
        let taken = |url: &str| parts(url).ok();

        let secure = Some(("mta.test:8025".to_owned(), "mta.test".to_owned(), true));
        assert_eq!([taken("https://mta.test:8025"), taken("https://mta.test:8025/")], [secure.clone(), secure]);
        assert_eq!(taken("http://[::1]:8025"), Some(("[::1]:8025".to_owned(), "::1".to_owned(), false)));
        for wrong in [
            "http://mta.test:8025",
            "http://localhost:8025",
            "https://mta.test",
            "https://user@mta.test:8025",
            "https://mta.test:8025/x",
            "ftp://127.0.0.1:8025",
            "mta.test:8025",
            "",
        ] {
            assert_eq!(taken(wrong), None, "{wrong}");
        }
    }
}

//! SASL as a server (RFC 4422), without I/O: what comes in, decoded, and what goes out, not yet encoded.
//!
//! [`dialog`] is how SMTP carries it. An [`Exchange`] is begun with a mechanism and fed with what the client says. It never decides: whatever the mechanism, it
//! ends in a [`Claim`], which [`Users::verify`](super::Users::verify) tells true from false, so that back-off, counts and
//! logs are in one place.
//!
//! | mechanism | the client shows | RFC |
//! |---|---|---|
//! | PLAIN, LOGIN | the password itself | 4616; draft-murchison-sasl-login |
//! | SCRAM-SHA-256 | that it knows the password | 5802, 7677 |
//! | SCRAM-SHA-256-PLUS | the same, bound to the TLS connection | and 5929, 9266 |
//! | EXTERNAL | nothing: its certificate has been checked by TLS | 4422, appendix A |

pub mod dialog;
mod scram;
#[cfg(test)]
mod tests;

use std::fmt;

use super::prep::prepare;
use super::scram::Keys;

/// A way to come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// The same in two lines, for old clients.
    Login,
    /// RFC 7677.
    ScramSha256,
    /// RFC 7677, bound to the channel.
    ScramSha256Plus,
    /// By client certificate.
    External,
}

impl Mechanism {
    /// All of them, the strongest first, in the order in which they are announced.
    pub const ALL: [Self; 5] = [Self::External, Self::ScramSha256Plus, Self::ScramSha256, Self::Plain, Self::Login];

    /// As it is announced.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Self::External => "EXTERNAL",
        }
    }

    /// By its name; case does not matter (RFC 4422, 3.1, has upper case; clients differ).
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mechanism| mechanism.as_str().eq_ignore_ascii_case(name))
    }

    /// Its place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        match self {
            Self::External => 0,
            Self::ScramSha256Plus => 1,
            Self::ScramSha256 => 2,
            Self::Plain => 3,
            Self::Login => 4,
        }
    }
}

/// What TLS knows of the connection. The default is one in clear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channel {
    /// `tls-exporter` (RFC 9266).
    pub exporter: Option<[u8; 32]>,
    /// `tls-server-end-point` (RFC 5929): a hash of our certificate.
    pub server_end_point: Option<Vec<u8>>,
    /// The client's certificate, if TLS has checked that it has its key and comes from an authority that we believe.
    pub certificate: Option<Certificate>,
}

impl Channel {
    /// Whether a mechanism can be bound to it.
    pub fn can_bind(&self) -> bool {
        self.exporter.is_some() || self.server_end_point.is_some()
    }
}

/// A client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 of its DER form.
    pub sha256: [u8; 32],
    /// The names in it.
    pub names: Vec<String>,
}

/// Who knows the keys of SCRAM.
pub trait Directory {
    /// Those of a prepared name; for a name that has none, ones that no password has.
    fn keys(&self, name: &str) -> Keys;
}

/// What somebody says to be, and what they show for it.
#[derive(Clone, PartialEq, Eq)]
pub enum Claim {
    /// A password.
    Password {
        /// As it came.
        name: String,
        /// As it came.
        password: String,
        /// They want to act as themselves; nobody may act as another.
        is_own: bool,
    },
    /// A proof for SCRAM, already compared with these keys.
    Proof {
        /// Prepared.
        name: String,
        /// What it was compared with.
        keys: Keys,
        /// It is right, and they want to act as themselves.
        is_right: bool,
    },
    /// A certificate.
    Certificate {
        /// What TLS has checked.
        certificate: Option<Certificate>,
        /// The user that they want to be; none: whoever it stands for.
        name: Option<String>,
    },
}

/// Logs must not have the password.
impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Password { .. } => "Password",
            Self::Proof { .. } => "Proof",
            Self::Certificate { .. } => "Certificate",
        };
        f.debug_struct(kind).finish_non_exhaustive()
    }
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Say this, and read the answer.
    Challenge(Vec<u8>),
    /// Have it verified; if it is true, go on with [`Exchange::verified`].
    Verify(Claim),
    /// The client is who it claimed to be.
    Done,
    /// What the client said breaks the mechanism's rules; nothing was compared.
    Malformed,
}

/// One authentication.
#[derive(Debug)]
pub struct Exchange {
    state: State,
    nonce: [u8; 18],
}

enum State {
    Plain,
    LoginName,
    LoginPassword(String),
    ScramFirst {
        is_plus: bool,
        is_plus_offered: bool,
    },
    ScramFinal(Box<scram::Waiting>),
    /// The claim has been handed out; then the server's signature is told.
    ScramProven(String),
    /// The client answers the server's signature with nothing (RFC 4954, 4: 235 carries no data).
    ScramTold,
    External,
    /// The claim has been handed out.
    Claimed,
    Over,
}

/// A password may be in it.
impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

impl Exchange {
    /// Begins one. `nonce` is random; `is_plus_offered`: SCRAM-SHA-256-PLUS has been announced to this client.
    pub fn new(mechanism: Mechanism, nonce: [u8; 18], is_plus_offered: bool) -> Self {
        let state = match mechanism {
            Mechanism::Plain => State::Plain,
            Mechanism::Login => State::LoginName,
            Mechanism::ScramSha256 => State::ScramFirst { is_plus: false, is_plus_offered },
            Mechanism::ScramSha256Plus => State::ScramFirst { is_plus: true, is_plus_offered },
            Mechanism::External => State::External,
        };
        Self { state, nonce }
    }

    /// What is said to a client that has sent no initial response.
    pub fn challenge(&self) -> Vec<u8> {
        if matches!(self.state, State::LoginName) { b"Username:".to_vec() } else { Vec::new() }
    }

    /// Takes what the client said.
    pub fn respond(&mut self, response: &[u8], channel: &Channel, directory: &dyn Directory) -> Turn {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Plain => self.plain(response),
            State::LoginName => match std::str::from_utf8(response) {
                Ok(name) => {
                    self.state = State::LoginPassword(name.to_owned());
                    Turn::Challenge(b"Password:".to_vec())
                }
                Err(_) => Turn::Malformed,
            },
            State::LoginPassword(name) => match std::str::from_utf8(response) {
                Ok(password) => self.claim(Claim::Password { name, password: password.to_owned(), is_own: true }),
                Err(_) => Turn::Malformed,
            },
            State::ScramFirst { is_plus, is_plus_offered } => {
                let first = scram::first(response, is_plus, is_plus_offered, channel, &self.nonce, directory);
                match first {
                    Some((waiting, challenge)) => {
                        self.state = State::ScramFinal(Box::new(waiting));
                        Turn::Challenge(challenge)
                    }
                    None => Turn::Malformed,
                }
            }
            State::ScramFinal(waiting) => match waiting.finish(response) {
                Some((claim, signature)) => {
                    self.state = State::ScramProven(signature);
                    Turn::Verify(claim)
                }
                None => Turn::Malformed,
            },
            State::ScramTold if response.is_empty() => Turn::Done,
            State::External => self.external(response, channel),
            State::ScramTold | State::ScramProven(_) | State::Claimed | State::Over => Turn::Malformed,
        }
    }

    /// The claim has been found true.
    pub fn verified(&mut self) -> Turn {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Claimed => Turn::Done,
            State::ScramProven(signature) => {
                self.state = State::ScramTold;
                Turn::Challenge(signature.into_bytes())
            }
            _ => Turn::Malformed,
        }
    }

    fn claim(&mut self, claim: Claim) -> Turn {
        self.state = State::Claimed;
        Turn::Verify(claim)
    }

    /// RFC 4616, 2: `[authzid] NUL authcid NUL passwd`.
    fn plain(&mut self, response: &[u8]) -> Turn {
        let Ok(text) = std::str::from_utf8(response) else { return Turn::Malformed };
        let mut parts = text.split('\0');
        let (Some(other), Some(name), Some(password), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Turn::Malformed;
        };
        if name.is_empty() || password.is_empty() {
            return Turn::Malformed;
        }
        let is_own = is_own(other, name);
        self.claim(Claim::Password { name: name.to_owned(), password: password.to_owned(), is_own })
    }

    /// RFC 4422, appendix A: nothing, or who the client wants to be.
    fn external(&mut self, response: &[u8], channel: &Channel) -> Turn {
        match std::str::from_utf8(response) {
            Ok(name) if !name.contains('\0') => {
                let name = (!name.is_empty()).then(|| name.to_owned());
                self.claim(Claim::Certificate { certificate: channel.certificate.clone(), name })
            }
            _ => Turn::Malformed,
        }
    }
}

/// Whether who calls themselves `name` wants to act as nobody else.
fn is_own(other: &str, name: &str) -> bool {
    other.is_empty() || other == name || prepare(other).is_some_and(|other| prepare(name) == Some(other))
}

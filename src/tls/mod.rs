//! TLS of our own listeners: certificates by name, read again when their files change, and what a handshake has proved.
//!
//! [`Certificates`] holds what `[[certificate]]` names. [`Acceptor`] does the handshakes of one listener: it waits for the
//! ClientHello, takes the certificate that covers its server name (RFC 6066, 3), else the first one, and tells by
//! [`Secured`] what was agreed. TLS 1.2 and 1.3. Session tickets are of one listener and one certificate: each
//! pair has keys of its own, so a session of one listener is never resumed at another.
//!
//! Sockets are the caller's; this module opens none.

mod acceptor;
mod certificate;
mod clients;
mod fault;

pub use acceptor::{Acceptor, Secured, TlsStream};
pub use certificate::{Certificates, Files, LoadError, Validity, covers};
pub use clients::{ClientCertificate, Clients};
pub use fault::in_words;

//! The signatures of a message that was admitted: the last that is done to it before it is stored.
//!
//! A message that must be signed is never stored unsigned: it is refused for good where no key is for it, and for now
//! where signing fails.

use bytes::Bytes;

use super::Services;
use super::refusal::{self, Refusal};
use super::spill::Spill;
use crate::dkim::{BodyHash, SignError, Signatures};
use crate::message::Content;
use crate::spool::NewMessage;

/// Whether messages are signed, so that the hash of a large body should be taken while it is written.
pub(super) fn is_on(services: &Services) -> bool {
    services.signer.as_ref().is_some_and(|signer| !signer.is_idle())
}

/// The hash of a body that lies in a file, if it was taken.
pub(super) fn body_hash(spill: &mut Option<Spill>) -> Option<BodyHash> {
    spill.as_mut()?.take_hash()
}

/// Signs the message by the keys of its From domain, on a thread that may take its time. `body_hash` is as
/// [`body_hash`] gave it.
pub(super) async fn sign(
    services: &Services,
    message: &mut NewMessage,
    body_hash: Option<BodyHash>,
) -> Result<Signatures, Refusal> {
    let Some(signer) = services.signer.as_ref().filter(|signer| !signer.is_idle()) else {
        return Ok(Signatures::Off);
    };
    let content = std::mem::replace(&mut message.content, Content::Memory(Bytes::new()));
    let signed = signer.sign(content, body_hash, message.envelope.accepted_at).await;
    let signatures;
    (message.content, signatures) = signed.map_err(|error| match error {
        SignError::NoKey => refusal::NO_KEY,
        SignError::Failed => refusal::NOT_SIGNED,
    })?;
    Ok(signatures)
}

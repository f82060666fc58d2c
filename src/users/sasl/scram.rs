//! The two messages of a SCRAM client (RFC 5802, 5 to 7), read strictly.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use super::{Channel, Claim, Directory, is_own};
use crate::users::prep::prepare;
use crate::users::scram::Keys;

/// The client's first message has come, its last one has not.
pub(super) struct Waiting {
    name: String,
    keys: Keys,
    is_own: bool,
    /// What `c=` must say: the GS2 header and the channel's data.
    binding: Vec<u8>,
    /// Client's and server's.
    nonce: String,
    /// Client's first message without GS2 header, and the server's.
    said: String,
}

/// Reads the first message; gives the server's.
pub(super) fn first(
    message: &[u8],
    is_plus: bool,
    is_plus_offered: bool,
    channel: &Channel,
    nonce: &[u8],
    directory: &dyn Directory,
) -> Option<(Waiting, Vec<u8>)> {
    let message = std::str::from_utf8(message).ok()?;
    let (flag, rest) = message.split_once(',')?;
    let (identity, bare) = rest.split_once(',')?;
    let data = match flag {
        "n" if !is_plus => Vec::new(),
        // The client can bind and believes that we cannot: somebody took the -PLUS out of what we announced.
        "y" if !is_plus && !is_plus_offered => Vec::new(),
        "p=tls-exporter" if is_plus => channel.exporter?.to_vec(),
        "p=tls-server-end-point" if is_plus => channel.server_end_point.clone()?,
        _ => return None,
    };
    let mut binding = message.get(..message.len() - bare.len())?.as_bytes().to_vec();
    binding.extend_from_slice(&data);
    // `m=`, a mandatory extension that nobody knows, would stand before the name, and is refused as no name.
    let mut parts = bare.split(',');
    let name = unescape(parts.next()?.strip_prefix("n=")?)?;
    let client = parts.next()?.strip_prefix("r=")?;
    let is_nonce = !client.is_empty() && client.len() <= 256 && client.bytes().all(|octet| octet.is_ascii_graphic());
    if name.is_empty() || !is_nonce {
        return None;
    }
    let other = match identity {
        "" => String::new(),
        identity => unescape(identity.strip_prefix("a=")?)?,
    };
    let is_own = is_own(&other, &name);
    let name = prepare(&name).unwrap_or_default();
    let keys = directory.keys(&name);
    let nonce = format!("{client}{}", STANDARD_NO_PAD.encode(nonce));
    let challenge = format!("r={nonce},s={},i={}", STANDARD.encode(&keys.salt), keys.iterations);
    let said = format!("{bare},{challenge}");
    Some((Waiting { name, keys, is_own, binding, nonce, said }, challenge.into_bytes()))
}

impl Waiting {
    /// Reads the last message; gives the claim and what the server says if it is true.
    pub(super) fn finish(self, message: &[u8]) -> Option<(Claim, String)> {
        let message = std::str::from_utf8(message).ok()?;
        let (without, proof) = message.rsplit_once(",p=")?;
        let proof = STANDARD.decode(proof).ok()?;
        let mut parts = without.split(',');
        let binding = STANDARD.decode(parts.next()?.strip_prefix("c=")?).ok()?;
        let nonce = parts.next()?.strip_prefix("r=")?;
        let said = format!("{},{without}", self.said);
        // Not secret: whoever is on the channel sees them.
        let is_bound = binding == self.binding && nonce == self.nonce;
        let is_right = self.keys.is_proof(said.as_bytes(), &proof) && is_bound && self.is_own;
        let signature = format!("v={}", STANDARD.encode(self.keys.signature(said.as_bytes())));
        Some((Claim::Proof { name: self.name, keys: self.keys, is_right }, signature))
    }
}

/// RFC 5802, 5.1: `=2C` is a comma, `=3D` an equals sign, and no other `=` may stand in a name.
fn unescape(name: &str) -> Option<String> {
    let mut parts = name.split('=');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        out.push(match code {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        out.push_str(rest);
    }
    (!out.contains('\0')).then_some(out)
}

//! The keyed hash of what is suppressed: AES-CMAC (RFC 4493) with 128 bits.
//!
//! The index in memory holds hashes only. They are keyed, so that nobody who does not have the key can choose addresses that
//! collide, or tell an address from its hash. A [`Key`] is the hash of an address or of a domain combined with that of the scope
//! by exclusive or: each is computed once for a look-up in all scopes.
//!
//! Of a mailbox's hash 80 bits are taken, the others being 0: they fit into a reverse-path ([`MailboxHash`]), and who has them only can
//! make the same key. Among ten million entries another mailbox is met by chance in one of 10^17 look-ups.
//!
//! Nothing here allocates, save for domains that are not in ASCII.

use std::fmt;
use std::io;

use aws_lc_rs::cipher::{AES_128, EncryptingKey, UnboundCipherKey};
use data_encoding::BASE32_NOPAD;
use hickory_proto::rr::Name;

use crate::smtp::address::Address;

use super::entry::{Scope, Target};

/// What the index is sorted by.
pub type Key = u128;

/// Octets of the key of the hash.
pub const KEY: usize = 16;

/// What a message begins with, so that one of a kind is never one of another.
const ADDRESS: u8 = 1;
const DOMAIN: u8 = 2;
const TENANT: u8 = 3;
const CLASS: u8 = 4;
const SEAL: u8 = 5;

/// Bits of a key that a mailbox's hash leaves 0.
const BEHIND_MAILBOX: u32 = 48;

/// The hash of a mailbox, as it is given out: 80 bits, written as 16 letters and digits of base 32 (RFC 4648) in lower case.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MailboxHash(pub [u8; 10]);

impl MailboxHash {
    /// Reads the text form, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        let octets = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()?;
        octets.try_into().ok().map(Self)
    }

    fn of(key: Key) -> Self {
        Self(key.to_be_bytes().first_chunk().copied().unwrap_or_default())
    }

    fn key(self) -> Key {
        self.0.into_iter().fold(0, |key, octet| key << 8 | Key::from(octet)) << BEHIND_MAILBOX
    }
}

impl fmt::Display for MailboxHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for MailboxHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{self}")
    }
}

/// The hash with its key.
pub struct Keyed {
    cipher: EncryptingKey,
    /// The sub-keys of RFC 4493, 2.3: for a last block that is full, and for one that is not.
    full: u128,
    padded: u128,
}

impl fmt::Debug for Keyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyed")
    }
}

/// Multiplies by x in the field of RFC 4493, 2.3.
const fn doubled(block: u128) -> u128 {
    (block << 1) ^ if block >> 127 == 1 { 0x87 } else { 0 }
}

impl Keyed {
    /// The hash with this key, which must be random.
    pub fn new(key: &[u8; KEY]) -> io::Result<Self> {
        let cipher = UnboundCipherKey::new(&AES_128, key).and_then(EncryptingKey::ecb).map_err(io::Error::other)?;
        let mut keyed = Self { cipher, full: 0, padded: 0 };
        keyed.full = doubled(keyed.block(0));
        keyed.padded = doubled(keyed.full);
        Ok(keyed)
    }

    fn block(&self, block: u128) -> u128 {
        let mut octets = block.to_be_bytes();
        // A whole block in a mode without a vector: there is nothing that can be wrong with it.
        let done = self.cipher.encrypt(&mut octets);
        debug_assert!(done.is_ok());
        u128::from_be_bytes(octets)
    }

    fn begin(&self, kind: u8) -> Mac<'_> {
        let mut mac = Mac { keyed: self, state: 0, block: 0, filled: 0 };
        mac.push(kind);
        mac
    }

    /// The hash of a mailbox: the local-part is folded to lower case and taken without quotes, the domain is in its ASCII form.
    pub fn address(&self, address: &Address) -> Key {
        let mut mac = self.begin(ADDRESS);
        mac.push_local(address.local_part());
        mac.push(b'@');
        mac.push_domain(address.domain());
        mac.finish() >> BEHIND_MAILBOX << BEHIND_MAILBOX
    }

    /// The same as it is given out.
    pub fn mailbox(&self, address: &Address) -> MailboxHash {
        MailboxHash::of(self.address(address))
    }

    /// What only who has the key can make of these octets, which begin with what they are for.
    pub fn seal(&self, octets: &[u8]) -> u128 {
        let mut mac = self.begin(SEAL);
        mac.push_all(octets);
        mac.finish()
    }

    /// The hash of a domain, in its ASCII form.
    pub fn domain(&self, domain: &str) -> Key {
        let mut mac = self.begin(DOMAIN);
        mac.push_domain(domain);
        mac.finish()
    }

    /// The hash of a tenant, to be combined.
    pub fn tenant(&self, tenant: &str) -> Key {
        let mut mac = self.begin(TENANT);
        mac.push_all(tenant.as_bytes());
        mac.finish()
    }

    /// The hash of a tenant's campaign class, to be combined.
    pub fn class(&self, tenant: &str, class: &str) -> Key {
        let mut mac = self.begin(CLASS);
        // Names that are kept are shorter than that.
        mac.push_all(&u16::try_from(tenant.len()).unwrap_or(u16::MAX).to_le_bytes());
        mac.push_all(tenant.as_bytes());
        mac.push_all(class.as_bytes());
        mac.finish()
    }

    /// The hash of a tenant's name as it is given out.
    pub fn tenant_tag(&self, tenant: &str) -> [u8; 3] {
        self.tenant(tenant).to_be_bytes().first_chunk().copied().unwrap_or_default()
    }

    /// The hash of a scope, to be combined.
    pub fn scope(&self, scope: &Scope) -> Key {
        match scope {
            Scope::Global => 0,
            Scope::Tenant(tenant) => self.tenant(tenant),
            Scope::Class { tenant, class } => self.class(tenant, class),
        }
    }

    /// The key of an entry.
    pub fn key(&self, target: &Target, scope: &Scope) -> Key {
        let what = match target {
            Target::Address(address) => self.address(address),
            Target::Hash(hash) => hash.key(),
            Target::Domain(domain) => self.domain(domain),
        };
        what ^ self.scope(scope)
    }
}

/// A message on its way through the hash.
struct Mac<'a> {
    keyed: &'a Keyed,
    state: u128,
    /// The octets that are not in `state` yet, the last of them lowest.
    block: u128,
    filled: u32,
}

impl Mac<'_> {
    fn push(&mut self, octet: u8) {
        if self.filled == 16 {
            self.state = self.keyed.block(self.state ^ self.block);
            self.filled = 0;
        }
        self.block = self.block << 8 | u128::from(octet);
        self.filled += 1;
    }

    fn push_all(&mut self, octets: &[u8]) {
        octets.iter().for_each(|octet| self.push(*octet));
    }

    fn push_lower(&mut self, c: char) {
        if c.is_ascii() {
            self.push(u8::try_from(c.to_ascii_lowercase()).unwrap_or_default());
        } else {
            c.to_lowercase().for_each(|c| self.push_all(c.encode_utf8(&mut [0; 4]).as_bytes()));
        }
    }

    /// A quoted local-part is the same mailbox as the one without quotes (RFC 5321, 4.1.2); what needs its quotes cannot be
    /// taken for another, since it holds what no other has.
    fn push_local(&mut self, local: &str) {
        let quoted = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let mut characters = quoted.unwrap_or(local).chars();
        while let Some(c) = characters.next() {
            let is_escape = quoted.is_some() && c == '\\';
            self.push_lower(if is_escape { characters.next().unwrap_or(c) } else { c });
        }
    }

    fn push_domain(&mut self, domain: &str) {
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        if domain.is_ascii() {
            return domain.bytes().for_each(|octet| self.push(octet.to_ascii_lowercase()));
        }
        match Name::from_utf8(domain) {
            Ok(name) => self.push_all(name.to_ascii().trim_end_matches('.').to_ascii_lowercase().as_bytes()),
            // No name for DNS, so nothing is sent there; it is still the same one as itself.
            Err(_) => domain.chars().for_each(|c| self.push_lower(c)),
        }
    }

    fn finish(self) -> Key {
        let (last, key) = if self.filled == 16 {
            (self.block, self.keyed.full)
        } else {
            let padding = 8 * (15 - self.filled);
            // With no octet before it, the mark is the first.
            ((self.block << 8 | 0x80) << padding, self.keyed.padded)
        };
        self.keyed.block(self.state ^ last ^ key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(hexadecimal: &str) -> Vec<u8> {
        let digits = hexadecimal.as_bytes().chunks(2);
        digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn keyed() -> Keyed {
        Keyed::new(&octets("2b7e151628aed2a6abf7158809cf4f3c").try_into().unwrap()).unwrap()
    }

    fn address(text: &str) -> Key {
        keyed().address(&text.parse().unwrap())
    }

    #[test]
    fn it_is_aes_cmac_by_the_vectors_of_rfc_4493() {
        let message = octets(
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
             30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
        );
        let keyed = keyed();
        let mac = |length: usize| {
            let mut mac = Mac { keyed: &keyed, state: 0, block: 0, filled: 0 };
            mac.push_all(&message[..length]);
            mac.finish()
        };

        assert_eq!(mac(0), 0xbb1d_6929_e959_3728_7fa3_7d12_9b75_6746);
        assert_eq!(mac(16), 0x070a_16b4_6b4d_4144_f79b_dd9d_d04a_287c);
        assert_eq!(mac(40), 0xdfa6_6747_de9a_e630_30ca_3261_1497_c827);
        assert_eq!(mac(64), 0x51f0_bebf_7e3b_9d92_fc49_7417_7936_3cfe);
    }

    #[test]
    fn ways_to_write_one_mailbox_have_one_hash() {
        for (one, other) in [
            ("Ann.Smith@Example.COM.", "ann.smith@example.com"),
            ("\"ann.smith\"@example.com", "ann.smith@example.com"),
            ("\"a\\nn\"@example.com", "ann@example.com"),
            ("JÜRGEN@example.com", "jürgen@example.com"),
            ("a@bücher.example", "a@xn--bcher-kva.example"),
            ("a@BÜCHER.example", "a@bücher.example"),
        ] {
            assert_eq!(address(one), address(other), "{one}");
        }
    }

    #[test]
    fn a_mailbox_and_its_hash_are_one_subject() {
        let keyed = keyed();
        let hash = keyed.mailbox(&"Ann@example.com".parse().unwrap());
        let shown = hash.to_string();

        assert_eq!((shown.len(), MailboxHash::parse(&shown.to_uppercase())), (16, Some(hash)));
        for scope in [Scope::Global, Scope::Tenant("shop".into())] {
            let by_address = Target::Address("ann@example.com".parse().unwrap());
            assert_eq!(keyed.key(&Target::Hash(hash), &scope), keyed.key(&by_address, &scope));
        }
        assert_ne!(keyed.seal(b"a"), keyed.seal(b"b"));
    }

    #[test]
    fn other_mailboxes_domains_and_scopes_have_others() {
        let keyed = keyed();
        let keys = [
            address("ann@example.com"),
            address("ann@example.org"),
            address("\"a nn\"@example.com"),
            address("\"ann@example.com\"@example.com"),
            keyed.domain("example.com"),
            keyed.domain("ann.example.com"),
            keyed.tenant("example.com"),
            keyed.tenant("shop"),
            keyed.class("shop", "news"),
            keyed.class("shopn", "ews"),
            keyed.class("", "shopnews"),
            address("ann@example.com") ^ keyed.tenant("shop"),
        ];

        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[..at].contains(key), "{at}");
        }
        assert_ne!(Keyed::new(&[1; KEY]).unwrap().domain("example.com"), keyed.domain("example.com"));
    }
}

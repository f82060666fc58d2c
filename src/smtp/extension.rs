//! Values of the service extensions' parameters: BODY (RFC 6152), RET and NOTIFY (RFC 3461), REQUIRETLS (RFC 8689).
//!
//! They travel in envelopes and on the wire. This file knows neither how they are parsed ([`super::parameter`]) nor who
//! honours them.

/// BODY= of RFC 6152. BINARYMIME is not offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyType {
    /// Declared or assumed to be ASCII.
    #[default]
    SevenBit,
    /// May hold octets over 127.
    EightBitMime,
}

/// RET= of RFC 3461, 4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    /// Return the whole message.
    Full,
    /// Return the header section only.
    Headers,
}

/// What the sender asks of TLS on the message's way (RFC 8689).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsWish {
    /// Nothing.
    #[default]
    Unsaid,
    /// REQUIRETLS: it goes to hosts that are known for who they are, encrypted, and they pass the wish on.
    Required,
    /// The header field `TLS-Required: No`: it goes in clear rather than not at all.
    Waived,
}

impl TlsWish {
    /// As people and programs are shown it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsaid => "",
            Self::Required => "required",
            Self::Waived => "waived",
        }
    }
}

/// NOTIFY= of RFC 3461, 4.1, as bits. Default: failure and delay are at our discretion; we report failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notify(pub u8);

impl Notify {
    /// No NOTIFY parameter was given.
    pub const UNSPECIFIED: Self = Self(0);
    /// NOTIFY=NEVER.
    pub const NEVER: Self = Self(1);
    /// NOTIFY includes SUCCESS.
    pub const SUCCESS: Self = Self(2);
    /// NOTIFY includes FAILURE.
    pub const FAILURE: Self = Self(4);
    /// NOTIFY includes DELAY.
    pub const DELAY: Self = Self(8);

    /// Whether all of `other`'s bits are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether a failure is to be reported (RFC 3461, 4.1: FAILURE, or nothing said).
    pub fn wants_failure(self) -> bool {
        self == Self::UNSPECIFIED || self.has(Self::FAILURE)
    }
}

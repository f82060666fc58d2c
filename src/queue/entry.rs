//! One queued recipient, as small as it can be: 56 bytes.
//!
//! Everything else about it (addresses, what the client said) is in the spool and loaded when it is needed.

use std::hash::BuildHasher;
use std::sync::Arc;

use crate::clock::UnixTime;
use crate::dns::security::Assurance;
use crate::limit::controller::MOST_GUESSES;
use crate::message::{Envelope, MessageId, Notify, Recipient, TlsWish};
use crate::smtp::address::ReversePath;

use super::domain::Domain;
use super::flow::Flow;

/// An unfinished recipient. Owned by exactly one of: a bucket of the timers, its domain (while a plan is looked up), a
/// line of its path (ready), an assignment, or a task that makes a DSN.
#[derive(Debug)]
pub(super) struct Entry {
    pub id: MessageId,
    pub domain: Arc<Domain>,
    pub flow: Arc<Flow>,
    /// Of the forward-path.
    pub hash: u64,
    /// Of the reverse-path.
    pub sender: u32,
    /// Of the reverse-path's domain.
    pub sender_domain: u16,
    /// Index into the envelope's recipients.
    pub recipient: u32,
    /// Not before this time.
    pub due: UnixTime,
    /// Its age counts from here.
    pub accepted: UnixTime,
    /// Attempts made.
    pub attempts: u16,
    pub marks: Marks,
}

impl Entry {
    /// A recipient of a message that was just accepted: its index in the envelope, in `domain` and of `flow`.
    pub fn new(
        id: MessageId,
        envelope: &Envelope,
        (recipient, index): (&Recipient, u32),
        domain: Arc<Domain>,
        flow: Arc<Flow>,
    ) -> Self {
        let (sender, sender_domain) = sender_hashes(&envelope.reverse_path);
        Self {
            id,
            domain,
            flow,
            hash: hash_of(recipient.forward_path.as_str()),
            sender,
            sender_domain,
            recipient: index,
            due: envelope.accepted_at,
            accepted: envelope.accepted_at,
            attempts: 0,
            marks: Marks::of(envelope, recipient),
        }
    }

    /// Its age counts from its acceptance, or from its release until it has been tried once since.
    pub fn ages_from(&self) -> UnixTime {
        if self.marks.has(Marks::RELEASED) { self.due.max(self.accepted) } else { self.accepted }
    }

    /// Nobody holds it any more: it is due at `wall`, and is tried before it expires.
    pub fn release(&mut self, wall: UnixTime) {
        self.due = wall;
        self.marks = self.marks.with(Marks::RELEASED, true);
    }

    /// Whether a delay DSN is wanted and has not been made.
    pub fn is_owed_delay(&self) -> bool {
        self.marks.has(Marks::WANTS_DELAY) && !self.marks.has(Marks::DELAY_REPORTED)
    }
}

/// Whether what a receiver refused goes back, and counts as no attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Return {
    /// It waits for the schedule.
    #[default]
    Never,
    /// A few times: nothing was said of why, so it may be about the message.
    Sometimes,
    /// The message is not to blame.
    Always,
}

/// From the low end: flags, how often it was returned without a word of why, the egress source that it was meant for (index + 1), the one that it was tried from (index + 1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(u32);

/// How far the count of returns is shifted: two bits.
const RETURNS_SHIFT: u32 = 7;
const RETURNS_BITS: u32 = 3;
const _: () = assert!(MOST_GUESSES as u32 <= RETURNS_BITS);

/// How far the source that it was tried from is shifted.
const SOURCE_SHIFT: u32 = 22;
/// How far the one that it was meant for is shifted.
const MEANT_SHIFT: u32 = 12;

/// Egress sources that an entry can name: more than a configuration can. A source takes ten bits.
pub(super) const MOST_SOURCES: usize = 1_023;
const SOURCE_BITS: u32 = 0x3ff;

impl Marks {
    /// An earlier attempt has no outcome; its address is in the queue's table.
    pub const IN_DOUBT: Self = Self(1);
    /// A failure is reported to somebody.
    pub const WANTS_FAILURE: Self = Self(2);
    /// NOTIFY=SUCCESS.
    pub const WANTS_SUCCESS: Self = Self(4);
    /// NOTIFY=DELAY, and not reported yet.
    pub const WANTS_DELAY: Self = Self(8);
    /// A delay DSN has been made.
    pub const DELAY_REPORTED: Self = Self(16);
    /// From the null reverse-path: it is a DSN, or another message whose failure nobody is told of.
    pub const FROM_NULL: Self = Self(32);
    /// It was held, and has not been tried since: set at its release, which its `due` tells, cleared by its next deferral.
    pub const RELEASED: Self = Self(64);

    /// REQUIRETLS.
    const REQUIRES_TLS: Self = Self(1 << 9);
    /// `TLS-Required: No`.
    const WAIVES_TLS: Self = Self(1 << 10);

    /// Whether all of `other` is set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// With `other` set or cleared.
    pub const fn with(self, other: Self, is_set: bool) -> Self {
        if is_set { Self(self.0 | other.0) } else { Self(self.0 & !other.0) }
    }

    /// The egress source that it was tried from.
    pub fn source(self) -> Option<u16> {
        self.source_at(SOURCE_SHIFT)
    }

    /// Remembers the source; one beyond [`MOST_SOURCES`] is forgotten, never mistaken.
    pub fn with_source(self, source: Option<u16>) -> Self {
        self.with_source_at(SOURCE_SHIFT, source)
    }

    /// The egress source that it would leave from if the warm-up of that had room.
    pub fn meant(self) -> Option<u16> {
        self.source_at(MEANT_SHIFT)
    }

    /// Remembers, or forgets, the source that it would leave from.
    pub fn with_meant(self, source: Option<u16>) -> Self {
        self.with_source_at(MEANT_SHIFT, source)
    }

    /// The same once it has been refused: it goes back, or, none, it waits for the schedule.
    pub fn returned(self, how: Return) -> Option<Self> {
        let before = self.0 >> RETURNS_SHIFT & RETURNS_BITS;
        match how {
            Return::Never => None,
            Return::Sometimes if before >= u32::from(MOST_GUESSES) => None,
            Return::Sometimes => Some(self.with_returns(before + 1)),
            Return::Always => Some(self),
        }
    }

    /// The same after an attempt that counts.
    pub fn charged(self) -> Self {
        self.with_returns(0)
    }

    const fn with_returns(self, count: u32) -> Self {
        Self(self.0 & !(RETURNS_BITS << RETURNS_SHIFT) | count << RETURNS_SHIFT)
    }

    fn source_at(self, shift: u32) -> Option<u16> {
        u16::try_from(self.0 >> shift & SOURCE_BITS).ok()?.checked_sub(1)
    }

    fn with_source_at(self, shift: u32, source: Option<u16>) -> Self {
        let number = source.map_or(0, |source| source.saturating_add(1));
        let number = if usize::from(number) > MOST_SOURCES { 0 } else { number };
        Self(self.0 & !(SOURCE_BITS << shift) | (u32::from(number) << shift))
    }

    /// What its connection is asked for.
    pub const fn assurance(self) -> Assurance {
        let wish = if self.has(Self::REQUIRES_TLS) {
            TlsWish::Required
        } else if self.has(Self::WAIVES_TLS) {
            TlsWish::Waived
        } else {
            TlsWish::Unsaid
        };
        Assurance::of(wish, self.has(Self::FROM_NULL))
    }

    /// What `recipient` wants to be told about (RFC 3461, 4.1); nothing for the null reverse-path.
    pub fn of(envelope: &Envelope, recipient: &Recipient) -> Self {
        let asked = Self::default()
            .with(Self::REQUIRES_TLS, envelope.tls == TlsWish::Required)
            .with(Self::WAIVES_TLS, envelope.tls == TlsWish::Waived);
        if envelope.reverse_path.is_null() {
            return asked.with(Self::FROM_NULL, true);
        }
        let notify = recipient.notify;
        asked
            .with(Self::WANTS_FAILURE, notify.wants_failure())
            .with(Self::WANTS_SUCCESS, notify.has(Notify::SUCCESS))
            .with(Self::WANTS_DELAY, notify.has(Notify::DELAY))
    }
}

/// A hash of a path or domain that is the same in every run.
pub(super) fn hash_of(text: &str) -> u64 {
    foldhash::quality::FixedState::with_seed(0x6869_6b79_616b_7500).hash_one(text)
}

/// The same in 32 bits: enough to leave out nearly all others before the envelope is asked.
pub(super) fn short_hash_of(text: &str) -> u32 {
    u32::try_from(hash_of(text) >> 32).unwrap_or_default()
}

/// The same in 16 bits: one of many thousand others is asked in vain.
pub(super) fn shorter_hash_of(text: &str) -> u16 {
    u16::try_from(hash_of(text) >> 48).unwrap_or_default()
}

/// Of a reverse-path and of its domain; both of the empty text for the null one.
fn sender_hashes(reverse_path: &ReversePath) -> (u32, u16) {
    let domain = match reverse_path {
        ReversePath::Null => "",
        ReversePath::Mailbox(address) => address.domain(),
    };
    (short_hash_of(reverse_path.as_str()), shorter_hash_of(domain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Kind;

    #[test]
    fn the_null_reverse_path_is_told_nothing_and_known() {
        let recipient = Recipient::new("a@x.test".parse().unwrap());
        let mut envelope = Envelope {
            tenant: "t".into(),
            kind: Kind::Dsn,
            ..Envelope::new(ReversePath::Null, vec![recipient.clone()], UnixTime(0))
        };

        assert_eq!(Marks::of(&envelope, &recipient), Marks::FROM_NULL);
        envelope.tls = TlsWish::Required;
        assert_eq!(Marks::of(&envelope, &recipient).assurance(), Assurance::Preferred);
        envelope.tls = TlsWish::Unsaid;
        envelope.reverse_path = ReversePath::Mailbox("s@x.test".parse().unwrap());
        assert_eq!(Marks::of(&envelope, &recipient), Marks::WANTS_FAILURE);
    }

    #[test]
    fn an_entry_takes_56_bytes() {
        assert_eq!(size_of::<Entry>(), 56);
    }

    #[test]
    fn marks_keep_flags_and_source_apart() {
        let marks = Marks::default().with(Marks::WANTS_DELAY, true).with_source(Some(0));

        assert_eq!(marks.source(), Some(0));
        assert!(marks.has(Marks::WANTS_DELAY));
        assert!(!marks.has(Marks::IN_DOUBT));
        assert_eq!(marks.with_source(Some(1022)).source(), Some(1022));
        assert_eq!(marks.with_source(Some(1023)).source(), None);
        assert_eq!(marks.with_source(None).source(), None);
        let meant = marks.with_meant(Some(1022));
        assert_eq!((meant.meant(), meant.source(), meant.has(Marks::WANTS_DELAY)), (Some(1022), Some(0), true));
        assert_eq!((meant.with_meant(None), marks.meant()), (marks, None));
        for (mark, assurance) in [(Marks::REQUIRES_TLS, Assurance::Required), (Marks::WAIVES_TLS, Assurance::Waived)] {
            let asking = meant.with(mark, true);
            assert_eq!((asking.assurance(), meant.assurance()), (assurance, Assurance::Usual));
            assert_eq!((asking.source(), asking.meant(), asking.charged()), (Some(0), Some(1022), asking));
        }
    }

    #[test]
    fn what_is_refused_without_a_word_of_why_goes_back_a_few_times_only() {
        let marks = Marks::default().with(Marks::RELEASED, true).with_meant(Some(0)).with_source(Some(1022));

        let mut refused = marks;
        for _ in 0..MOST_GUESSES {
            refused = refused.returned(Return::Sometimes).unwrap();
        }

        assert_eq!(refused.returned(Return::Sometimes), None, "it may be about the message");
        assert_eq!(refused.returned(Return::Always), Some(refused));
        assert_eq!((refused.charged(), marks.returned(Return::Never)), (marks, None));
    }
}

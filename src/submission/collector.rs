//! Takes the content of one mail transaction, piece by piece, and judges it on the way.
//!
//! Once the content cannot be accepted any more nothing is kept of it; the rest is only counted, since the client goes on
//! sending until its end of data. Content over [`KEEP_MOST`] is drained by the connection into a spill file; the header
//! section always stays here, because admission rewrites it.

use super::Settings;
use super::refusal::{self, Refusal};
use crate::message::header;
use crate::smtp::content::{Scan, normalize};

/// Content that is kept in memory before a spill file is begun (durability: 256 KiB).
pub const KEEP_MOST: usize = 256 * 1024;

/// How much must come before the end of the header section is looked for again: a client that sends octet by octet must
/// not have us walk over all of it each time.
const LOOK_EVERY: usize = 8 * 1024;

/// Memory that a session keeps between messages: most fit into it, and thousands of idle sessions do not add up.
const IDLE_MOST: usize = 64 * 1024;

/// What is done about a bare CR or LF in content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineEndings {
    /// 550 5.5.2.
    #[default]
    Reject,
    /// Each is made a CRLF.
    Normalize,
}

/// The header section stays in memory, so it must leave room for body there.
fn header_most(settings: &Settings) -> usize {
    settings.max_header_size.min(KEEP_MOST / 2)
}

/// The content of the transaction that is open.
#[derive(Debug, Default)]
pub struct Collector {
    bytes: Vec<u8>,
    scan: Scan,
    last: u8,
    received: u64,
    drained: u64,
    /// Length of the header section, once it is known.
    header: Option<usize>,
    /// How much there was when the header section's end was last looked for.
    looked_at: usize,
    refusal: Option<Refusal>,
}

impl Collector {
    /// Begins anew; keeps the memory unless it has grown large.
    pub fn clear(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        bytes.shrink_to(IDLE_MOST);
        *self = Self { bytes, ..Self::default() };
    }

    /// Takes the next piece. It is scanned even if the content is refused already, so that the reply does not depend on
    /// where the input was split.
    pub fn push(&mut self, piece: &[u8], settings: &Settings) {
        self.received += piece.len() as u64;
        if self.received > settings.max_message_size {
            self.refuse(refusal::TOO_LARGE);
        }
        match (settings.line_endings, self.refusal().is_some()) {
            (LineEndings::Reject, true) => self.scan.push(piece),
            (LineEndings::Reject, false) => self.take(piece),
            (LineEndings::Normalize, true) => {}
            (LineEndings::Normalize, false) => self.take_normalized(piece),
        }
        if self.refusal().is_some() {
            self.bytes = Vec::new();
        } else if self.header.is_none() && self.bytes.len() > header_most(settings).max(self.looked_at + LOOK_EVERY) {
            self.find_header(settings);
        }
    }

    fn take(&mut self, piece: &[u8]) {
        self.scan.push(piece);
        self.bytes.extend_from_slice(piece);
    }

    fn take_normalized(&mut self, piece: &[u8]) {
        let before = self.bytes.len();
        normalize(piece, &mut self.last, &mut self.bytes);
        self.scan.push(self.bytes.get(before..).unwrap_or_default());
    }

    /// The header section must be known before a part of the content leaves for a file.
    fn find_header(&mut self, settings: &Settings) {
        self.looked_at = self.bytes.len();
        match header::length(&self.bytes) {
            Some(length) if length <= header_most(settings) => self.header = Some(length),
            None if self.bytes.len() < header_most(settings) + KEEP_MOST / 4 => {}
            Some(_) | None => self.refuse(refusal::HEADER_TOO_LARGE),
        }
    }

    /// Refuses the content; the first refusal stands.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.refusal.get_or_insert(refusal);
        self.bytes = Vec::new();
    }

    /// Why the content cannot be accepted, if that is known already.
    pub fn refusal(&self) -> Option<Refusal> {
        let of_scan = match () {
            () if self.scan.has_bare_line_ending() => Some(refusal::BARE_LINE_ENDING),
            () if self.scan.has_nul() => Some(refusal::NUL),
            () => None,
        };
        self.refusal.or(of_scan)
    }

    /// Judges the whole and makes sure that it ends with CRLF, which content sent by BDAT need not (RFC 3030).
    pub fn finish(&mut self, settings: &Settings) -> Result<(), Refusal> {
        if self.refusal.is_none() && self.scan.has_bare_line_ending_at_end() {
            self.refuse(refusal::BARE_LINE_ENDING);
        }
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let is_empty = self.bytes.is_empty() && self.drained == 0;
        if !is_empty && self.scan.last() != b'\n' {
            self.bytes.extend_from_slice(b"\r\n");
        }
        let may_be_long = self.header.is_none() && self.bytes.len() > header_most(settings);
        if may_be_long && header::length(&self.bytes).is_none_or(|length| length > header_most(settings)) {
            self.refuse(refusal::HEADER_TOO_LARGE);
        }
        self.refusal.map_or(Ok(()), Err)
    }

    /// What is in memory: everything, or the header section and the end of a body whose beginning has been drained.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Octets over 127 anywhere.
    pub fn has_eight_bit(&self) -> bool {
        self.scan.has_eight_bit()
    }

    /// Octets received, as the limit counts them.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether a part of the body must go to the spill file now.
    pub fn is_full(&self) -> bool {
        self.bytes.len() > KEEP_MOST
    }

    /// Whether a part of the body has gone to the spill file.
    pub fn is_drained(&self) -> bool {
        self.drained > 0
    }

    /// The octets of body in memory, which the caller takes over; then forget them with [`Self::forget_body`].
    pub fn body(&self) -> &[u8] {
        self.bytes.get(self.header.unwrap_or(self.bytes.len())..).unwrap_or_default()
    }

    /// Forgets the body in memory after it has been written to the spill file.
    pub fn forget_body(&mut self) {
        self.drained += self.body().len() as u64;
        self.bytes.truncate(self.header.unwrap_or(self.bytes.len()));
    }
}

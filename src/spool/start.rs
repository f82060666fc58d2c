//! Which start of the daemon on this spool this is. It is a part of every message id, so it must never come twice.
//!
//! It is the name of an empty file, `segments/<count>.start`, renamed and made durable before the first id is given out.
//! A name has no octets that damage could reach, and renaming needs no room on a full disk. Segments' headers tell the
//! count too, and so do the ids in names of spill files and in the indexes of segments whose header is gone; the highest
//! of all counts.

use std::io;

use crate::log::cipher::Keys;
use crate::log::index;
use crate::log::segment::DIRECTORY;
use crate::log::storage::{Storage, is_full};
use crate::message::MessageId;

use super::{codec, spill};

/// Extension of the file.
pub const EXTENSION: &str = "start";

fn path(start: u32) -> String {
    format!("{DIRECTORY}/{start:016x}.{EXTENSION}")
}

/// Makes the start that comes after `last` durable; `marks` are those that exist.
pub fn advance(storage: &dyn Storage, marks: &[u32], last: u32) -> io::Result<u32> {
    let start = last.saturating_add(1);
    let newest = marks.iter().max();
    let marked = match newest {
        Some(&newest) => storage.rename(&path(newest), &path(start)),
        None => storage.create(&path(start)).map(drop),
    };
    match marked.and_then(|()| storage.sync_dir(DIRECTORY)) {
        // The headers of segments tell it, and without one nothing can be accepted.
        Err(error) if newest.is_none() && is_full(&error) => {}
        result => result?,
    }
    for &old in marks.iter().filter(|mark| Some(*mark) != newest) {
        // A lower one does no harm.
        let _ = storage.remove(&path(old));
    }
    Ok(start)
}

/// The highest start that the index of a segment knows of; 0 without a readable index.
pub fn in_index(storage: &dyn Storage, sequence: u32, keys: &Keys) -> u32 {
    let Ok(Some(index)) = index::read(storage, sequence, None) else { return 0 };
    let entries = match keys.cipher(sequence, index.binding.as_ref()) {
        Ok(None) => index.entries,
        Ok(Some(cipher)) => index::open(&index.entries, &cipher).0,
        // Such a spool is not opened.
        Err(_) => return 0,
    };
    let mut last = 0;
    index::each(&entries, &mut |_, frame| last = last.max(codec::id(frame).map_or(0, MessageId::start)));
    last
}

/// The highest start that a spill file is of.
pub fn in_spills(storage: &dyn Storage) -> io::Result<u32> {
    let entries = storage.list(spill::DIRECTORY)?;
    let numbers = entries.iter().filter_map(|entry| u64::from_str_radix(&entry.name, 16).ok());
    Ok(numbers.map(|number| MessageId(number).start()).max().unwrap_or_default())
}

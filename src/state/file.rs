//! A small file that is replaced as a whole: written beside, synced, renamed over, and its directory synced.
//!
//! ```text
//! hikyaku state 1 <CRC32C of the rest, 8 hexadecimal digits>\n
//! <content>
//! ```
//!
//! Either the old content or the new one is there after a crash, never a part of one. The checksum finds what the disk
//! or an editor did to it.

use std::io::{self, IoSlice};

use crate::log::storage::{Storage, read_exact};

const FIRST_LINE: &str = "hikyaku state 1 ";
/// The first line: the words, 8 digits and the line end.
const HEAD: usize = FIRST_LINE.len() + 9;

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// There is no such file.
    Nothing,
    /// Its content.
    Content(Vec<u8>),
    /// It is not what was written.
    Damaged,
}

/// Reads a file.
pub fn read(storage: &dyn Storage, name: &str) -> io::Result<Found> {
    let file = match storage.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    let size = usize::try_from(file.size()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let octets = read_exact(&*file, 0, size)?;
    let Some((head, content)) = octets.split_at_checked(HEAD) else { return Ok(Found::Damaged) };
    if head == head_of(content).as_bytes() { Ok(Found::Content(content.to_vec())) } else { Ok(Found::Damaged) }
}

/// Replaces a file by one with this content. When it returns, that is on stable storage; after an error it may be so.
pub fn replace(storage: &dyn Storage, name: &str, content: &[u8]) -> io::Result<()> {
    let new = format!("{name}.new");
    match storage.remove(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = storage.create(&new)?;
    file.write_at(&[IoSlice::new(head_of(content).as_bytes()), IoSlice::new(content)], 0)?;
    file.sync_data()?;
    storage.rename(&new, name)?;
    let (directory, _) = name.rsplit_once('/').unwrap_or_default();
    storage.sync_dir(directory)
}

fn head_of(content: &[u8]) -> String {
    format!("{FIRST_LINE}{:08x}\n", crc32c::crc32c(content))
}

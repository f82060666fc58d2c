//! Standard output of commands whose results are long: a reader that has seen enough (`| head`) is no error.

use std::io::{self, Write};
use std::process;

/// Writes to standard output, whole. Ends the process, successfully, when nobody reads it any more: what is not read
/// need not be worked out.
pub(super) fn write(octets: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(octets).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => process::exit(0),
        result => result,
    }
}

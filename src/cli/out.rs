//! Standard output and standard error of every command. Nothing else in the crate prints: the macros of the standard
//! library panic when a pipe is closed or a disk is full.
//!
//! A reader that has seen enough (`| head`) is no error: what is not read need not be worked out, so the command ends as
//! it would by an error, cleaning up behind itself, but silently and with 0.

use std::fmt::Display;
use std::io::{self, Write};

/// Nobody reads standard output any more.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output")]
struct Closed;

/// Standard output.
pub(super) struct Out(io::StdoutLock<'static>);

impl Out {
    /// Locks it.
    pub fn lock() -> Self {
        Self(io::stdout().lock())
    }
}

impl Write for Out {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.write(octets).map_err(told)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(told)
    }
}

fn told(error: io::Error) -> io::Error {
    match error.kind() {
        // What a closed pipe and a signal are is decided by their kind.
        io::ErrorKind::BrokenPipe => io::Error::new(error.kind(), Closed),
        io::ErrorKind::Interrupted => error,
        kind => io::Error::new(kind, format!("cannot write the output: {error}")),
    }
}

/// Whether a command ended because nobody reads its output any more.
pub(super) fn is_closed(error: &anyhow::Error) -> bool {
    let is_ours = |error: &io::Error| error.get_ref().is_some_and(|inner| inner.is::<Closed>());
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(is_ours)
}

/// Writes to standard output, whole.
pub(super) fn write(octets: &[u8]) -> io::Result<()> {
    let mut out = Out::lock();
    out.write_all(octets).and_then(|()| out.flush())
}

/// Writes a line to standard output.
pub(super) fn line(text: impl Display) -> io::Result<()> {
    write(format!("{text}\n").as_bytes())
}

/// Writes to standard error: a remark beside the result, a question or an error. Lost where that cannot be written.
pub(super) fn remark(text: impl Display) {
    let _ = io::stderr().lock().write_all(text.to_string().as_bytes());
}

/// [`remark`], as a line.
pub(super) fn remark_line(text: impl Display) {
    remark(format_args!("{text}\n"));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn printing(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                printing(&path, found);
                continue;
            }
            if path.ends_with("tests.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            // `eprintln!` has `println!` in it.
            let wrong = code.filter(|line| line.contains("println!") || line.contains("print!("));
            found.extend(wrong.map(|line| format!("{}: {}", path.display(), line.trim())));
        }
    }

    #[test]
    fn nothing_prints_in_a_way_that_panics() {
        let mut found = Vec::new();

        printing(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut found);

        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn only_a_closed_output_is_no_error() {
        let closed = told(io::ErrorKind::BrokenPipe.into());
        let full = told(io::ErrorKind::StorageFull.into());

        assert!(full.to_string().starts_with("cannot write the output: "), "{full}");
        assert!(is_closed(&anyhow::Error::new(closed).context("x")) && !is_closed(&full.into()));
        assert!(!is_closed(&io::Error::from(io::ErrorKind::BrokenPipe).into()), "another pipe");
    }
}

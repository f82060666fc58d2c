//! The hikyaku command: parses the command line and maps the result to an exit code; everything else is in the library.

use std::process::ExitCode;

/// Plans and sites that stay lie between connections that come and go; jemalloc gives the holes back (docs/endurance.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    hikyaku::cli::execute(hikyaku::cli::Arguments::read())
}

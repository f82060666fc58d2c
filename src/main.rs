//! The hikyaku command: parses the command line and maps the result to an exit code; everything else is in the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    hikyaku::cli::execute(hikyaku::cli::Arguments::parse())
}

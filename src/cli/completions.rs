//! `hikyaku completions`: the script by which a shell completes the command's words.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::exit::{self, Exit};
use super::out;

/// Options of `completions`.
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn execute(self) -> exit::Result {
        let mut script = Vec::new();
        generate(self.shell, &mut super::Arguments::command(), "hikyaku", &mut script);
        out::write(&script)?;
        Ok(Exit::Ok)
    }
}

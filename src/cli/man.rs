//! `hikyaku man`: the manual pages, made from the definition of the command line, one for every sub-command.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::exit::{self, Exit, Failure};
use super::out;

/// Options of `man`.
#[derive(Debug, clap::Args)]
pub(super) struct Manual {
    /// Write the page of every command into this directory, as hikyaku.1, hikyaku-status.1, hikyaku-queue-list.1 ...
    #[arg(long, value_name = "DIR", conflicts_with = "words")]
    dir: Option<PathBuf>,
    /// Print the page of this command, such as `queue list` [default: hikyaku itself]
    #[arg(value_name = "COMMAND")]
    words: Vec<String>,
}

impl Manual {
    pub(super) fn execute(self) -> exit::Result {
        let root = tree();
        match &self.dir {
            Some(dir) => {
                fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
                write_pages(&root, dir)?;
            }
            None => out::write(&page(find(&root, &self.words).map_err(Failure::usage)?)?)?,
        }
        Ok(Exit::Ok)
    }
}

/// Every command with its full name, and the exit codes at the end of every page.
fn tree() -> Command {
    let mut root = super::Arguments::command().disable_help_subcommand(true);
    root.build();
    with_exit_codes(root)
}

fn with_exit_codes(command: Command) -> Command {
    command.after_help(super::AFTER_HELP).mut_subcommands(with_exit_codes)
}

fn find<'a>(root: &'a Command, words: &[String]) -> anyhow::Result<&'a Command> {
    let mut found = root;
    for word in words {
        match found.find_subcommand(word) {
            Some(command) => found = command,
            None => bail!("there is no command `hikyaku {}`; `hikyaku help` lists them", words.join(" ")),
        }
    }
    Ok(found)
}

fn page(command: &Command) -> anyhow::Result<Vec<u8>> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let source = concat!("hikyaku ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).title(name.to_uppercase()).source(source).manual("hikyaku");
    let mut page = Vec::new();
    man.render(&mut page)?;
    let page = String::from_utf8(page)?;
    // The generator's own synopsis leaves out what options take.
    let Some((before, rest)) = page.split_once(SYNOPSIS) else { bail!("the page of {name} has no synopsis") };
    let after = rest.find("\n.SH ").and_then(|at| rest.get(at..)).unwrap_or_default();
    Ok(format!("{before}{SYNOPSIS}{}{after}", synopsis(command)).into_bytes())
}

const SYNOPSIS: &str = ".SH SYNOPSIS\n";

/// How it is called, with what each option takes.
fn synopsis(command: &Command) -> String {
    let mut words = vec![format!("\\fB{}\\fR", escaped(command.get_bin_name().unwrap_or(command.get_name())))];
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        let names = argument.get_value_names().unwrap_or_default();
        let takes_value = argument.get_action().takes_values();
        let value: String =
            names.iter().filter(|_| takes_value).map(|name| format!("\\fI{}\\fR", escaped(name))).collect();
        let word = match argument.get_long() {
            Some(long) if value.is_empty() => format!("\\fB\\-\\-{}\\fR", escaped(long)),
            Some(long) => format!("\\fB\\-\\-{}\\fR {value}", escaped(long)),
            None => value,
        };
        words.push(if argument.is_required_set() { word } else { format!("[{word}]") });
    }
    if command.get_subcommands().any(|below| !below.is_hide_set()) {
        words.push("[\\fICOMMAND\\fR]".to_owned());
    }
    words.join(" ")
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('-', "\\-")
}

fn write_pages(command: &Command, dir: &Path) -> anyhow::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let path = dir.join(format!("{name}.1"));
    fs::write(&path, page(command)?).with_context(|| format!("cannot write {}", path.display()))?;
    command.get_subcommands().filter(|command| !command.is_hide_set()).try_for_each(|below| write_pages(below, dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_page_under_its_full_name() {
        let dir = tempfile::tempdir().unwrap();

        write_pages(&tree(), dir.path()).unwrap();

        for name in ["hikyaku.1", "hikyaku-status.1", "hikyaku-queue.1", "hikyaku-queue-list.1"] {
            let text = fs::read_to_string(dir.path().join(name)).unwrap();
            assert!(text.contains(".TH") && text.contains("Exit codes"), "{name}: {text}");
        }
        let list = fs::read_to_string(dir.path().join("hikyaku-queue-list.1")).unwrap();
        assert!(list.contains("\\-\\-recipient"), "{list}");
        assert!(list.contains("[\\fB\\-\\-recipient\\fR \\fIADDRESS\\fR]"), "{list}");
        assert!(list.contains(".TH HIKYAKU\\-QUEUE\\-LIST 1") || list.contains(".TH HIKYAKU-QUEUE-LIST 1"), "{list}");
    }

    #[test]
    fn a_page_is_found_by_the_words_of_its_command() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();

        assert_eq!(find(&tree(), &words("queue list")).unwrap().get_name(), "list");
        assert!(find(&tree(), &words("queue lst")).unwrap_err().to_string().contains("queue lst"));
    }
}

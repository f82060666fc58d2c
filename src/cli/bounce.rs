//! `hikyaku bounce`: what messages that came back say, by the rules that the daemon goes by. Asks no daemon.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Subcommand;
use serde::Serialize;

use super::exit::{self, Exit, Failure};
use super::out;
use super::table::plain;
use crate::bounce::parse::{Action, Kind, Parsed, Parser, Recipient};

/// Most octets of a message that are kept in memory; what a report says stands at its beginning.
const MESSAGE_MOST: usize = 16 * 1024 * 1024;
/// Most octets of a line that are read at once.
const PIECE_MOST: u64 = 64 * 1024;
/// File names of single messages, whatever they begin with.
const SINGLE: [&str; 3] = ["eml", "msg", "txt"];

/// Sub-commands of `bounce`.
#[derive(Debug, Subcommand)]
pub(super) enum Bounce {
    /// Say what messages are and whom they are about: bounces, complaints, automatic responses
    Parse(Parse),
}

/// Options of `bounce parse`.
#[derive(Debug, clap::Args)]
pub(super) struct Parse {
    /// A message, an mbox, a Maildir, or a folder of messages; `-`: standard input
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Print JSON, one object a line for each message
    #[arg(long)]
    json: bool,
}

/// What is printed of one message.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    file: &'a str,
    kind: &'static str,
    recipients: Vec<About<'a>>,
    feedback_type: Option<&'a str>,
    message_id: Option<&'a str>,
    tenant: Option<&'a str>,
    campaign: Option<&'a str>,
}

/// What is printed of one recipient.
#[derive(Debug, Serialize)]
struct About<'a> {
    address: Option<&'a str>,
    original: Option<&'a str>,
    status: Option<String>,
    reply_code: Option<u16>,
    class: Option<&'static str>,
    permanent: bool,
    action: Option<&'static str>,
    remote_mta: Option<&'a str>,
    diagnostic: Option<&'a str>,
    rule: Option<&'a str>,
}

impl Bounce {
    pub(super) fn execute(self) -> exit::Result {
        match self {
            Self::Parse(command) => command.execute(),
        }
    }
}

impl Parse {
    fn execute(self) -> exit::Result {
        let parser = Parser::built_in()?;
        let mut run = Run { parser, json: self.json, out: BufWriter::new(out::Out::lock()), is_whole: true };
        let is_standard_input = |path: &Path| path == Path::new("-");
        if let Some(path) = self.paths.iter().find(|path| !is_standard_input(path) && !path.exists()) {
            return Err(Failure::usage(anyhow!("{}: no such file or folder", path.display())));
        }
        for path in &self.paths {
            if is_standard_input(path) {
                run.read("-", io::stdin().lock(), false).context("cannot read standard input")?;
            } else if path.is_dir() {
                for file in files(path).with_context(|| format!("cannot read {}", path.display()))? {
                    run.file(&file)?;
                }
            } else {
                run.file(path)?;
            }
        }
        run.out.flush()?;
        Ok(if run.is_whole { Exit::Ok } else { Exit::Problem })
    }
}

/// Files of a folder in the order of their names: of a Maildir those of `cur` and `new`; hidden ones never. Links that lead nowhere
/// are among them: that they cannot be read is told.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let maildir = ["cur", "new"].map(|name| folder.join(name));
    let folders = if maildir.iter().all(|folder| folder.is_dir()) { maildir.to_vec() } else { vec![folder.to_owned()] };
    let mut found = Vec::new();
    for folder in folders {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let is_hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
            if (path.is_file() || !path.exists()) && !is_hidden {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// One run of the command.
struct Run {
    parser: Parser,
    json: bool,
    out: BufWriter<out::Out>,
    /// Whether every file could be read.
    is_whole: bool,
}

impl Run {
    /// Reads a file. One that cannot be read is told, and the others are read all the same.
    fn file(&mut self, path: &Path) -> anyhow::Result<()> {
        let name = path.display().to_string();
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        let is_single = extension.is_some_and(|extension| SINGLE.contains(&extension.as_str()));
        match File::open(path) {
            Ok(file) => match self.read(&name, BufReader::new(file), is_single) {
                Err(error) if error.is::<ReadError>() => self.tell(&name, &error),
                told => told?,
            },
            Err(error) => self.tell(&name, &error.into()),
        }
        Ok(())
    }

    fn tell(&mut self, name: &str, error: &anyhow::Error) {
        self.is_whole = false;
        out::remark_line(format_args!("hikyaku: cannot read {}: {}", plain(name), plain(&error.to_string())));
    }

    /// Reads a message, or one after the other if it is an mbox: that begins with `From `, and so does each message behind an
    /// empty line.
    fn read(&mut self, name: &str, mut input: impl BufRead, is_single: bool) -> anyhow::Result<()> {
        let mut message = Vec::new();
        let mut line = Vec::new();
        let (mut is_mbox, mut number) = (None, 0_u64);
        // Whether a line begins here, and whether the one before was empty.
        let (mut is_start, mut is_behind_empty) = (true, false);
        loop {
            line.clear();
            if Read::take(&mut input, PIECE_MOST).read_until(b'\n', &mut line).map_err(ReadError)? == 0 {
                break;
            }
            let is_mbox = *is_mbox.get_or_insert_with(|| !is_single && line.starts_with(b"From "));
            if is_mbox && is_start && is_behind_empty && line.starts_with(b"From ") {
                number += 1;
                self.print(&format!("{name}#{number}"), &message)?;
                message.clear();
            }
            is_behind_empty = is_start && line.trim_ascii().is_empty();
            is_start = line.ends_with(b"\n");
            let room = MESSAGE_MOST.saturating_sub(message.len());
            message.extend_from_slice(line.get(..line.len().min(room)).unwrap_or_default());
        }
        if number > 0 {
            self.print(&format!("{name}#{}", number + 1), &message)
        } else if is_mbox.is_some() {
            self.print(name, &message)
        } else {
            // Empty: a message without anything.
            self.print(name, &[])
        }
    }

    fn print(&mut self, name: &str, octets: &[u8]) -> anyhow::Result<()> {
        let parsed = self.parser.parse(octets);
        if self.json {
            serde_json::to_writer(&mut self.out, &Answer::of(name, &parsed))?;
            self.out.write_all(b"\n")?;
        } else {
            self.out.write_all(lines(name, &parsed).as_bytes())?;
        }
        Ok(())
    }
}

/// A file that cannot be read to its end.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct ReadError(#[source] io::Error);

impl<'a> Answer<'a> {
    fn of(file: &'a str, parsed: &'a Parsed) -> Self {
        Self {
            file,
            kind: parsed.kind.as_str(),
            recipients: parsed.recipients.iter().map(About::of).collect(),
            feedback_type: parsed.feedback_type.as_deref(),
            message_id: parsed.message_id.as_deref(),
            tenant: parsed.tenant.as_deref(),
            campaign: parsed.campaign.as_deref(),
        }
    }
}

impl<'a> About<'a> {
    fn of(recipient: &'a Recipient) -> Self {
        let verdict = recipient.verdict.as_ref();
        Self {
            address: recipient.address.as_deref(),
            original: recipient.original.as_deref(),
            status: recipient.status.map(|status| status.to_string()),
            reply_code: Some(recipient.reply_code).filter(|code| *code != 0),
            class: verdict.map(|verdict| verdict.class.as_str()),
            permanent: recipient.is_permanent(),
            action: recipient.action.map(Action::as_str),
            remote_mta: recipient.remote_mta.as_deref(),
            diagnostic: Some(&*recipient.diagnostic).filter(|text| !text.is_empty()),
            rule: verdict.map(|verdict| &*verdict.rule),
        }
    }
}

/// What is printed for people: a line for each recipient, or one for a message that is about nobody.
fn lines(name: &str, parsed: &Parsed) -> String {
    let line = |recipient: Option<About<'_>>| {
        let or_none = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), plain);
        let about = recipient.as_ref();
        let class = or_none(about.and_then(|about| about.class));
        let permanent = if about.is_some_and(|about| about.permanent) { "yes" } else { "no" };
        let status = or_none(about.and_then(|about| about.status.as_deref()));
        let code = about.and_then(|about| about.reply_code).map_or_else(|| "-".to_owned(), |code| code.to_string());
        let address = or_none(about.and_then(|about| about.address));
        format!("{:<12} {class:<20} {permanent:<4} {status:<8} {code:<4} {address} {}\n", parsed.kind, plain(name))
    };
    if parsed.recipients.is_empty() || parsed.kind == Kind::NotABounce {
        return line(None);
    }
    parsed.recipients.iter().map(|recipient| line(Some(About::of(recipient)))).collect()
}

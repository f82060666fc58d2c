//! Whole lists: `suppress import` and `suppress export`. Neither holds a list in memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http_body_util::Full;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Lasting, OfWhom, Which, clock, reason};
use crate::admin::stream::{Inlet, Piece, pipe};
use crate::admin::{ExportRequest, ImportLine};
use crate::cli::at::At;
use crate::cli::client::{ClientError, Stream, escaped};
use crate::cli::exit::{self, Exit, Failure};
use crate::cli::orders::operator;
use crate::cli::out::{self, Out};
use crate::cli::table::{plain, thousands};
use crate::cli::{Remote, print_json};
use crate::state::suppression::{Counts, Defaults, Imported, Reason, Scope, check_lines};

/// Octets that are read at a time.
const PIECE: usize = 64 << 10;
/// What a daemon that is alive never needs to tell of the next lines, or to find the next entries to export.
const STALLED: Duration = Duration::from_secs(120);
/// The longest line of an answer that is waited for.
const LONGEST: usize = 64 << 10;

/// Options of `suppress import`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Import {
    /// The file, or `-`: standard input
    file: PathBuf,
    #[command(flatten)]
    of_whom: OfWhom,
    /// Why, for lines that do not say it: hard-bounce, mailbox-full, complaint, unsubscribe, operator or import
    #[arg(long, default_value = "import", value_parser = reason)]
    reason: Reason,
    #[command(flatten)]
    lasting: Lasting,
    /// The event or person that lines come from that do not say it [default: who you are]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    source: String,
    /// Only look for bad lines; needs no daemon
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Options of `suppress export`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Export {
    /// The file, which appears when it is whole; `-`: standard output
    #[arg(default_value = "-", hide_default_value = true)]
    file: PathBuf,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    at: At,
}

fn is_standard(file: &Path) -> bool {
    file == Path::new("-")
}

/// What is read, and its octets if that is known.
fn open(file: &Path) -> Result<(Box<dyn Read + Send>, Option<u64>), Failure> {
    if is_standard(file) {
        return Ok((Box::new(io::stdin()), None));
    }
    let opened = File::open(file).and_then(|opened| Ok((opened.metadata()?, opened)));
    let (metadata, opened) =
        opened.with_context(|| format!("cannot read {}", file.display())).map_err(Failure::usage)?;
    Ok((Box::new(opened), metadata.is_file().then_some(metadata.len())))
}

/// Shows how far it is, if somebody sits in front of it.
fn bar(length: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = match length {
        Some(_) => "{bar:30} {percent:>3}% {msg} ({elapsed}, {eta} left)",
        None => "{spinner} {msg} ({elapsed})",
    };
    let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn told(counts: &Counts) -> String {
    let Counts { lines, added, replaced, stood, over, skipped, bad, .. } = *counts;
    let parts = [
        (added, "added"),
        (replaced, "replaced"),
        (stood, "stood already"),
        (over, "are over"),
        (skipped, "empty or remarks"),
        (bad, "bad"),
    ];
    let some =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{} {what}", thousands(*count)));
    let some: Vec<String> = some.collect();
    format!("{} lines{}{}", thousands(lines), if some.is_empty() { "" } else { ": " }, some.join(", "))
}

fn bad(bar: &ProgressBar, line: u64, error: impl std::fmt::Display) {
    bar.suspend(|| out::remark_line(format_args!("line {line}: {}", plain(&error.to_string()))));
}

fn moved(bar: &ProgressBar, counts: &Counts) {
    bar.set_position(counts.octets);
    bar.set_message(told(counts));
}

/// Its end as exit code.
fn exit_of(counts: &Counts) -> Exit {
    if counts.bad > 0 { Exit::Problem } else { Exit::Ok }
}

impl Import {
    pub(super) async fn execute(self) -> exit::Result {
        let scope = self.of_whom.scope()?;
        let (input, length) = open(&self.file)?;
        let bar = bar(length);
        if self.dry_run {
            let source = self.source.as_str().into();
            let defaults = Defaults { scope, reason: self.reason, until: self.lasting.end(), source };
            return self.check(input, &defaults, &bar);
        }
        let path = self.path(&scope);
        let (inlet, body) = pipe();
        let mut answer = self.remote.client().stream(&path, "text/tab-separated-values", body).await?;
        // Not before it is known that they are welcome. The thread is left behind where the daemon has had enough: it may wait
        // for a terminal.
        let feeder = std::thread::Builder::new().name("lines".to_owned()).spawn(move || feed(input, &inlet))?;
        let last = self.follow(&mut answer, feeder, &bar).await;
        bar.finish_and_clear();
        let last = last?;
        if self.remote.json {
            print_json(&last)?;
        }
        match last {
            ImportLine::Done(counts) => {
                if !self.remote.json {
                    out::line(told(&counts))?;
                }
                Ok(exit_of(&counts))
            }
            ImportLine::Failed { problem, counts } => {
                let hint = problem.hint.map(|hint| format!("\n{hint}")).unwrap_or_default();
                Err(anyhow!("{}{hint}\nstored: {}", problem.error, told(&counts)).into())
            }
            // `follow` gives neither.
            ImportLine::Bad { .. } | ImportLine::Progress(_) => Ok(Exit::Problem),
        }
    }

    /// What is asked, with what lines do not say.
    fn path(&self, scope: &Scope) -> String {
        let (reason, by) = (self.reason.to_string(), operator());
        let until = self.lasting.end().map(|until| until.0.to_string()).unwrap_or_default();
        let (tenant, class) = scope.names();
        let said = [
            ("reason", reason.as_str()),
            ("tenant", tenant),
            ("class", class),
            ("until", &until),
            ("source", &self.source),
            ("by", &by),
        ];
        let said = said.into_iter().filter(|(_, value)| !value.is_empty());
        let query: Vec<String> = said.map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        format!("/v1/suppression/import?{}", query.join("&"))
    }

    fn check(&self, input: Box<dyn Read + Send>, defaults: &Defaults, bar: &ProgressBar) -> exit::Result {
        let counts =
            check_lines(&mut BufReader::with_capacity(PIECE, input), defaults, clock(), &mut |line| match line {
                Imported::Bad(line, error) => bad(bar, line, error),
                Imported::Progress(counts) => moved(bar, counts),
            });
        bar.finish_and_clear();
        let counts = counts.with_context(|| self.file.display().to_string())?;
        if self.remote.json {
            print_json(&ImportLine::Done(counts))?;
        } else {
            out::line(format_args!("nothing was stored. {}", told(&counts)))?;
        }
        Ok(exit_of(&counts))
    }

    /// Tells what the answer tells until its last line, which it gives.
    async fn follow(
        &self,
        answer: &mut Stream,
        feeder: JoinHandle<io::Result<()>>,
        bar: &ProgressBar,
    ) -> Result<ImportLine, Failure> {
        let (mut waiting, mut stored) = (Vec::new(), Counts::default());
        let broken = loop {
            let octets = match tokio::time::timeout(STALLED, answer.next()).await {
                Ok(Ok(Some(octets))) => octets,
                Ok(Ok(None)) => break answer.broken("it ended before it was done"),
                Ok(Err(error)) => break error,
                // Whoever writes to a pipe may take his time.
                Err(_) if !feeder.is_finished() => continue,
                Err(_) => break answer.broken(format!("it told nothing for {} s", STALLED.as_secs())),
            };
            waiting.extend_from_slice(&octets);
            while let Some(end) = memchr::memchr(b'\n', &waiting) {
                let line: Vec<u8> = waiting.drain(..=end).collect();
                match serde_json::from_slice(&line).map_err(|error| answer.broken(error))? {
                    ImportLine::Bad { line, error } => bad(bar, line, error),
                    ImportLine::Progress(counts) => {
                        moved(bar, &counts);
                        stored = counts;
                    }
                    last @ (ImportLine::Done(_) | ImportLine::Failed { .. }) => return Ok(last),
                }
            }
            if waiting.len() > LONGEST {
                break answer.broken("a line without an end");
            }
        };
        bar.finish_and_clear();
        let stored = told(&stored);
        out::remark_line(format_args!(
            "stored at least: {stored}\nimport it again from the first line: what stands writes nothing"
        ));
        if feeder.is_finished()
            && let Ok(Err(error)) = feeder.join()
        {
            let file = self.file.display();
            return Err(anyhow!("cannot read {file}: {error}").into());
        }
        Err(broken.into())
    }
}

/// Hands the input over, piece by piece. Ends when the daemon takes no more.
fn feed(mut input: Box<dyn Read + Send>, inlet: &Inlet) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let read = match input.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let _ = inlet.blocking_send(Err(io::Error::new(error.kind(), "the input cannot be read")));
                return Err(error);
            }
        };
        let octets = buffer.get(..read).unwrap_or_default();
        let piece = if octets.is_empty() { Piece::End } else { Piece::Octets(Bytes::copy_from_slice(octets)) };
        if inlet.blocking_send(Ok(piece)).is_err() || read == 0 {
            return Ok(());
        }
    }
}

impl Export {
    pub(super) async fn execute(self) -> exit::Result {
        let Self { file, which: Which { domain, tenant, reason }, at } = self;
        let request = ExportRequest { domain, tenant, reason: reason.map(|reason| reason.to_string()) };
        let body = Full::new(Bytes::from(serde_json::to_vec(&request)?));
        let mut answer = at.client().stream("/v1/suppression/export", "application/json", body).await?;
        if is_standard(&file) {
            let mut out = Out::lock();
            copy(&mut answer, &mut out).await?;
            out.flush()?;
            return Ok(Exit::Ok);
        }
        let part = part_of(&file);
        let cannot = |error: io::Error| anyhow!("cannot write {}: {error}", file.display());
        // It names people: nobody else reads it.
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
        let mut opened = opened.map_err(cannot).map_err(Failure::usage)?;
        let copied = copy(&mut answer, &mut opened).await;
        let written = copied.and_then(|entries| {
            opened.sync_all().and_then(|()| fs::rename(&part, &file)).map_err(cannot)?;
            Ok(entries)
        });
        if written.is_err() {
            let _ = fs::remove_file(&part);
        }
        out::remark_line(format_args!("{} entries", thousands(written?)));
        Ok(Exit::Ok)
    }
}

/// Where a file is written before it is whole.
fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Writes an answer down as it comes; how many lines it has.
async fn copy(answer: &mut Stream, out: &mut dyn Write) -> Result<u64, Failure> {
    let mut lines = 0;
    loop {
        let next = tokio::time::timeout(STALLED, answer.next()).await;
        let next = next.map_err(|_| answer.broken(format!("nothing came for {} s", STALLED.as_secs())));
        let next: Result<_, ClientError> = next.and_then(|next| next);
        let Some(octets) = next? else { return Ok(lines) };
        out.write_all(&octets)?;
        lines += memchr::memchr_iter(b'\n', &octets).count() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_without_what_there_is_none_of() {
        let counts = Counts { lines: 1_200, added: 1_000, stood: 198, bad: 2, ..Counts::default() };

        assert_eq!(told(&counts), "1,200 lines: 1,000 added, 198 stood already, 2 bad");
        assert_eq!(told(&Counts::default()), "0 lines");
        assert_eq!([exit_of(&counts), exit_of(&Counts::default())], [Exit::Problem, Exit::Ok]);
    }
}

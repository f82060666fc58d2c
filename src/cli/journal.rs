//! `hikyaku journal`: reads the files of the journal, whether or not the daemon runs.
//!
//! `follow` prints events as they come and resumes exactly behind one that was seen; `search` looks through all files,
//! compressed ones included. With `--json` each line is printed as it stands in the journal.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use super::check::DEFAULT_CONFIG;
use super::exit::{self, Exit, Failure};
use super::out::{self, Out};
use super::places::{Named, Socket};
use super::table::{Table, below, extra, long, octets, plain, text, thousands};
use crate::clock::Clock;
use crate::config::Config;
use crate::config::units::Span;
use crate::daemon::mask;
use crate::journal::follow::{Damaged, From, Missing};
use crate::journal::search::{Hits, Progress};
use crate::journal::{Follower, Kind, Query, Record, search, time};
use crate::mask::Mask;
use crate::message::MessageId;
use crate::trusted::key;

/// Between two looks at whether there is more.
const LOOK: Duration = Duration::from_millis(100);
/// What takes longer shows how far it is.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sub-commands of `journal`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Journal {
    /// Print events as they happen; `--from` resumes behind an event that was seen
    Follow(Follow),
    /// Look for events: what became of a message, a recipient, a campaign
    Search(Search),
}

/// Where the journal is.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// The journal's directory [default: journal.path of the configuration]
    #[arg(long, value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// The configuration file [default: what the daemon at --socket says, else /etc/hikyaku/config.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// With what addresses in it are masked.
#[derive(Debug, clap::Args)]
pub(super) struct KeyFile {
    /// The key that addresses are masked with [default: privacy.key_file of the configuration, if that can be read]
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

impl KeyFile {
    /// How addresses in the journal at `place` may be masked. Without a key that can be read they are looked for as they are.
    pub(super) fn mask(&self, place: &Place) -> Result<Mask, Failure> {
        if let Some(path) = &self.key_file {
            return Ok(Mask::hash(&key::read(path).map_err(anyhow::Error::from).map_err(Failure::usage)?));
        }
        let config = Config::load(place.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG)));
        let Ok(config) = config else { return Ok(Mask::None) };
        match mask(&config, rustix::process::geteuid().as_raw()) {
            Ok(mask) => Ok(mask),
            Err(error) => {
                out::remark_line(format_args!("hikyaku: masked addresses are not found: privacy.key_file: {error}"));
                Ok(Mask::None)
            }
        }
    }
}

impl Place {
    /// Whether an option says it.
    pub(super) fn is_named(&self) -> bool {
        self.path.is_some() || self.config.is_some()
    }

    pub(super) async fn folder(&self, socket: Option<&Path>) -> Result<PathBuf, Failure> {
        let named = Named { place: self.path.as_deref(), config: self.config.as_deref(), socket };
        named.find(|config| config.journal.path, |places| places.journal).await
    }

    /// The same without asking a daemon.
    pub(super) fn usual(&self) -> Result<PathBuf, Failure> {
        let named = Named { place: self.path.as_deref(), config: self.config.as_deref(), socket: None };
        named.of_file(|config| config.journal.path)
    }
}

/// Options of `journal follow`.
#[derive(Debug, clap::Args)]
pub(super) struct Follow {
    /// Begin behind the event of this id, with the oldest event (start), or behind the newest (end)
    #[arg(long, value_name = "CURSOR", default_value = "end", value_parser = from)]
    from: From,
    /// Only events of this kind; may be given several times
    #[arg(long = "event", value_name = "KIND", value_parser = kind)]
    events: Vec<Kind>,
    /// End when everything there is has been printed
    #[arg(long)]
    once: bool,
    /// Print lines as they stand in the journal
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    socket: Socket,
}

/// Options of `journal search`.
#[derive(Debug, clap::Args)]
pub(super) struct Search {
    /// Only of this recipient address
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    /// Only with this reverse-path: an address, `@domain`, or `<>`
    #[arg(long, value_name = "ADDRESS")]
    sender: Option<String>,
    /// Only of this message
    #[arg(long, value_name = "ID")]
    message: Option<MessageId>,
    /// Only of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only of this campaign
    #[arg(long)]
    campaign: Option<String>,
    /// Only of this recipient domain; `*.example.com`: of those below it
    #[arg(long)]
    domain: Option<String>,
    /// Only events of this kind; may be given several times
    #[arg(long = "event", value_name = "KIND", value_parser = kind)]
    events: Vec<Kind>,
    /// Not before: 2026-11-25, 2026-11-25T19:04:45Z (UTC without an offset), or an age such as 2h
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Duration>,
    /// Before, in the same form
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Duration>,
    /// The newest so many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Print lines as they stand in the journal
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    key: KeyFile,
    #[command(flatten)]
    socket: Socket,
}

impl Journal {
    pub(super) async fn execute(self) -> exit::Result {
        match self {
            Self::Follow(follow) => follow.execute().await,
            Self::Search(search) => search.execute().await,
        }
    }
}

fn kind(text: &str) -> Result<Kind, String> {
    let names = || Kind::ALL.map(Kind::as_str).join(", ");
    Kind::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| format!("not a kind of event: {}", names()))
}

fn from(text: &str) -> Result<From, String> {
    match text {
        "start" => Ok(From::Start),
        "end" => Ok(From::End),
        id => id.parse().map(From::After).map_err(|error| format!("start, end, or an id; {error}")),
    }
}

/// A time, or an age, as the time since 1970.
pub(super) fn moment(text: &str) -> Result<Duration, String> {
    let ago = text.parse::<Span>().ok().map(|span| Clock::system().wall_precise().saturating_sub(span.0));
    ago.or_else(|| time::parse(text))
        .ok_or_else(|| "not a time such as 2026-11-25T19:04:45Z, and not an age".to_owned())
}

impl Follow {
    async fn execute(self) -> exit::Result {
        let catch = |kind| signal(kind).context("cannot catch signals");
        let (mut interrupt, mut terminate) = (catch(SignalKind::interrupt())?, catch(SignalKind::terminate())?);
        let folder = self.place.folder(self.socket.socket.as_deref()).await?;
        let mut follower = Follower::open(&folder, self.from)?;
        let is_signalled = Arc::new(AtomicBool::new(false));
        let stop = is_signalled.clone();
        // A thread of its own: reading blocks, and signals must be heard meanwhile.
        let mut printing = tokio::task::spawn_blocking(move || {
            let printed = self.print(&mut follower, &stop);
            (printed, follower.cursor())
        });
        let (printed, cursor) = tokio::select! {
            ended = &mut printing => ended?,
            _ = async { tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} } } => {
                is_signalled.store(true, Ordering::Relaxed);
                printing.await?
            }
        };
        let exit = printed.with_context(|| folder.display().to_string())?;
        if let Some(cursor) = cursor.filter(|_| io::stderr().is_terminal()) {
            out::remark_line(format_args!("resume with --from {cursor}"));
        }
        Ok(exit)
    }

    /// Prints events until it is to end; the exit code by whether all of them were there.
    fn print(&self, follower: &mut Follower, is_signalled: &AtomicBool) -> io::Result<Exit> {
        let mut out = io::BufWriter::new(Out::lock());
        let wants = |record: &Record<'_>| {
            let is = |kind: &Kind| record.raw("event") == Some(kind.as_str().as_bytes());
            if self.events.is_empty() { !is(&Kind::File) } else { self.events.iter().any(is) }
        };
        let (mut damaged, mut exit) = (0, Exit::Ok);
        loop {
            let read = follower.read(&mut |record| {
                if is_signalled.load(Ordering::Relaxed) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                if !wants(record) {
                    return Ok(());
                }
                match self.json {
                    true => out.write_all(&[record.bytes(), b"\n"].concat()),
                    false => writeln!(out, "{}", sentence(record)),
                }
            });
            out.flush()?;
            if tell_missing(follower, &mut damaged) {
                exit = Exit::Problem;
            }
            if is_signalled.load(Ordering::Relaxed) {
                return Ok(exit);
            }
            read?;
            if self.once {
                return Ok(exit);
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Says on standard error what a reader could not be given; whether there is any. `damaged` lines have been told.
fn tell_missing(follower: &mut Follower, damaged: &mut u64) -> bool {
    let (missing, files) = (follower.take_missing(), follower.take_damaged());
    for Missing { after, until } in &missing {
        out::remark_line(format_args!(
            "hikyaku: events after {after} up to {until} were removed before they could be read"
        ));
    }
    for Damaged { path, reason, after, until } in &files {
        let after = after.map(|after| format!("after {after} ")).unwrap_or_default();
        out::remark_line(format_args!(
            "hikyaku: {} is damaged: {reason}; events {after}up to {until} are missing",
            path.display()
        ));
    }
    let has_damage = follower.damaged() > *damaged;
    if has_damage {
        *damaged = follower.damaged();
        out::remark_line(format_args!("hikyaku: {damaged} damaged lines could not be read (left by a power cut?)"));
    }
    has_damage || !missing.is_empty() || !files.is_empty()
}

/// An event in one line for people.
fn sentence(record: &Record<'_>) -> String {
    let mut out = format!("{} {} {:<9}", record.text("time"), record.text("id"), record.text("event"));
    let mut say = |before: &str, value: String, after: &str| {
        if !value.is_empty() {
            out.push_str(&format!(" {before}{}{after}", plain(&value)));
        }
    };
    say("", record.text("message_id"), "");
    if record.raw("reverse_path").is_some() {
        say("", format!("<{}>", record.text("reverse_path")), "");
    }
    say("-> <", record.text("recipient"), ">");
    say("at ", record.text("mx_host"), "");
    say("[", record.text("mx_address"), "]");
    say("", detail(record), "");
    out
}

/// What there is to say beside who and where.
fn detail(record: &Record<'_>) -> String {
    let number = |name: &str| record.raw(name).map(|raw| String::from_utf8_lossy(raw).into_owned()).unwrap_or_default();
    let named = |name: &str, value: String| if value.is_empty() { value } else { format!("{name} {value}") };
    let step = record.text("step");
    let parts = [
        if step.is_empty() { step } else { format!("{step}:") },
        number("reply_code"),
        record.text("enhanced_status"),
        record.text("reply_text"),
        record.text("action"),
        named("unsubscribed by", record.text("how")),
        record.text("recipient_hash"),
        named("by DSN", record.text("dsn_id")),
        record.text("filter"),
        suppressed(record),
        returned(record),
        named("passed on as", record.text("passed_on")),
        changed_limit(record) + &record.text("reason"),
        named("by", record.text("who")),
        named("events missing:", number("count")),
        record.text("cause"),
        named("again", record.text("retry")),
    ];
    // The reply reads as the receiver wrote it; what we say beside it stands apart.
    let (reply, ours) = parts.split_at(4);
    let said = |parts: &[String], between| {
        parts.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(between)
    };
    said(&[said(reply, " "), said(ours, "; ")], "; ")
}

/// What has come back, how that is known, and what it says.
fn returned(record: &Record<'_>) -> String {
    let report = record.text("report");
    if report.is_empty() {
        return report;
    }
    let said = [record.text("class"), record.text("feedback_type"), record.text("diagnostic")];
    let said: Vec<String> = said.into_iter().filter(|part| !part.is_empty()).collect();
    format!("{report} (evidence: {}) {}", record.text("evidence"), said.join(": ")).trim_end().to_owned()
}

/// Whom a `suppression` event is about, where that is no address, and whose mail.
fn suppressed(record: &Record<'_>) -> String {
    if record.raw("event") != Some(Kind::Suppression.as_str().as_bytes()) {
        return String::new();
    }
    let number = |name: &str| record.raw(name).map_or("".into(), String::from_utf8_lossy).into_owned();
    let (hash, domain, lines) = (record.text("recipient_hash"), record.text("domain"), number("lines"));
    let whom = match (hash.is_empty(), domain.is_empty(), lines.is_empty()) {
        (false, ..) => format!("#{hash}"),
        (_, false, _) if record.raw("recipient").is_none() => format!("@{domain}"),
        (.., false) => format!("{lines} lines, {} entries, {} bad", number("added"), number("bad")),
        _ => String::new(),
    };
    let of = [record.text("tenant"), record.text("campaign_class")];
    let of: Vec<String> = of.into_iter().filter(|name| !name.is_empty()).collect();
    let whose = if of.is_empty() { String::new() } else { format!("mail of {}", of.join("/")) };
    [whom, whose].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

/// What a `limit` event says beside its reason.
fn changed_limit(record: &Record<'_>) -> String {
    let limit = record.text("limit");
    if limit.is_empty() {
        return limit;
    }
    let number = |name: &str| record.raw(name).map_or("none".into(), String::from_utf8_lossy).into_owned();
    let (site, source) = (record.text("site"), record.text("egress_source"));
    format!("{site} from {source}: {limit} {} -> {}: ", number("from"), number("to"))
}

impl Search {
    async fn execute(self) -> exit::Result {
        let folder = self.place.folder(self.socket.socket.as_deref()).await?;
        let mask = self.key.mask(&self.place)?;
        let query = Query {
            recipient: self.recipient,
            sender: self.sender,
            message: self.message,
            tenant: self.tenant,
            campaign: self.campaign,
            domain: self.domain,
            events: self.events,
            since: self.since,
            until: self.until,
            limit: usize::try_from(self.limit).unwrap_or(usize::MAX),
            mask,
            id: None,
            ..Query::default()
        };
        let hits =
            searched(&folder, &query).with_context(|| format!("cannot read the journal in {}", folder.display()))?;
        if self.json {
            print_lines(&hits.lines)?
        } else {
            print_table(&hits.lines)?
        }
        if hits.is_cut {
            let newest = hits.lines.len();
            out::remark_line(format_args!("the newest {newest}: there may be older ones (--limit, --since)"));
        }
        if hits.gaps > 0 {
            let gaps = hits.gaps;
            out::remark_line(format_args!(
                "events are missing at {gaps} places that were read: --event gap shows them"
            ));
        }
        Ok(tell_damage(&hits))
    }
}

/// Searches, and shows on a terminal how far it is if that takes a while.
pub(super) fn searched(folder: &Path, query: &Query) -> io::Result<Hits> {
    let began = Instant::now();
    let mut shown = false;
    let mut show = |progress: Progress| {
        if began.elapsed() >= PATIENCE && io::stderr().is_terminal() {
            let Progress { files: (done, all), octets: read, found } = progress;
            let (read, found) = (octets(read), thousands(found as u64));
            out::remark(format_args!("\r{done} of {all} files, {read} read, {found} found "));
            shown = true;
        }
    };
    let hits = search(folder, query, &mut show);
    if shown {
        out::remark_line("");
    }
    hits
}

/// Says on standard error what of the journal could not be read; the exit code that this leads to.
pub(super) fn tell_damage(hits: &Hits) -> Exit {
    for (path, reason) in &hits.damaged_files {
        out::remark_line(format_args!(
            "hikyaku: {} is damaged: {reason}; what could be read of it is searched",
            path.display()
        ));
    }
    if hits.damaged > 0 {
        out::remark_line(format_args!("hikyaku: {} damaged lines could not be read", hits.damaged));
    }
    if hits.damaged_files.is_empty() && hits.damaged == 0 { Exit::Ok } else { Exit::Problem }
}

fn print_lines(lines: &[Vec<u8>]) -> io::Result<()> {
    let mut out = io::BufWriter::new(Out::lock());
    for line in lines {
        out.write_all(line)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

pub(super) fn print_table(lines: &[Vec<u8>]) -> io::Result<()> {
    if lines.is_empty() {
        return out::line("nothing found");
    }
    table(lines).print()
}

fn table(lines: &[Vec<u8>]) -> Table {
    let mut table = Table::new(&[
        text("TIME"),
        text("EVENT"),
        text("MESSAGE"),
        long("RECIPIENT"),
        extra("MX HOST"),
        extra("TENANT"),
        extra("CAMPAIGN"),
        extra("FROM"),
        below("WHAT"),
    ]);
    for record in lines.iter().filter_map(|line| Record::of(line)) {
        table.row([
            // To the second; the day matters, the T and the Z do not.
            record.text("time").replace('T', " ").chars().take(19).collect(),
            record.text("event"),
            record.text("message_id"),
            record.text("recipient"),
            record.text("mx_host"),
            record.text("tenant"),
            record.text("campaign"),
            record.text("reverse_path"),
            detail(&record),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "{\"v\":1,\"id\":\"0000000000001\",\"time\":\"2026-11-25T19:04:45.123Z\",\"event\":\"deferred\",\
        \"message_id\":\"0000000000007\",\"reverse_path\":\"\",\"recipient\":\"a@x.test\",\"mx_host\":\"mx.test\",\
        \"mx_address\":\"192.0.2.1:25\",\"step\":\"rcpt\",\"reply_code\":450,\"enhanced_status\":\"4.2.1\",\
        \"reply_text\":\"busy \\u001b[1m\"}";

    #[test]
    fn an_event_is_a_line_for_people_and_cannot_move_the_cursor() {
        let said = sentence(&Record::of(LINE.as_bytes()).unwrap());

        let expected = "2026-11-25T19:04:45.123Z 0000000000001 deferred  0000000000007 <> -> <a@x.test> at mx.test \
                        [192.0.2.1:25] rcpt: 450 4.2.1 busy \\u{1b}[1m";
        assert_eq!(said, expected);
    }

    #[test]
    fn a_changed_limit_is_told_with_its_path_and_both_values() {
        let line = "{\"v\":1,\"id\":\"0000000000001\",\"time\":\"2026-11-25T19:04:45.123Z\",\"event\":\"limit\",\
            \"site\":\"mx.test\",\"egress_source\":\"a\",\"limit\":\"rate\",\"to\":114,\"reason\":\"0.95 x 120.0/min\"}";

        let said = sentence(&Record::of(line.as_bytes()).unwrap());

        assert!(said.contains("mx.test from a: rate none -> 114: 0.95 x 120.0/min"), "{said}");
    }

    #[test]
    fn a_suppression_is_told_with_whom_and_whose_mail_it_is_about() {
        let told = |fields: &str| {
            let line = format!(
                "{{\"v\":1,\"id\":\"0000000000001\",\"time\":\"2026-11-25T19:04:45.123Z\",\"event\":\"suppression\",{fields}}}"
            );
            detail(&Record::of(line.as_bytes()).unwrap())
        };

        let domain = told(
            "\"action\":\"add\",\"tenant\":\"shop\",\"campaign_class\":\"news\",\"domain\":\"x.test\",\"reason\":\"operator\"",
        );
        let address =
            told("\"action\":\"remove\",\"recipient\":\"a@x.test\",\"domain\":\"x.test\",\"reason\":\"operator\"");
        let import =
            told("\"action\":\"import\",\"lines\":9,\"added\":7,\"bad\":2,\"reason\":\"import\",\"who\":\"ops\"");

        assert_eq!(domain, "add; @x.test, mail of shop/news; operator");
        assert_eq!(address, "remove; operator");
        assert_eq!(import, "import; 9 lines, 7 entries, 2 bad; import; by ops");
    }

    #[test]
    fn a_report_is_told_with_what_it_says_and_how_that_is_known() {
        let line = "{\"v\":1,\"id\":\"0000000000001\",\"time\":\"2026-11-25T19:04:45.123Z\",\"event\":\"report\",\
                    \"recipient\":\"a@x.test\",\"report\":\"bounce\",\"evidence\":\"token\",\"action\":\"suppressed\",\
                    \"class\":\"bad-mailbox\",\"diagnostic\":\"smtp; 550 no\",\"passed_on\":\"0000000000007\"}";
        let told = sentence(&Record::of(line.as_bytes()).unwrap());

        assert!(
            told.ends_with(
                "suppressed; bounce (evidence: token) bad-mailbox: smtp; 550 no; passed on as 0000000000007"
            ),
            "{told}"
        );
    }

    #[test]
    fn what_we_say_stands_apart_from_what_the_receiver_said() {
        let line = LINE.replace("}", ",\"retry\":\"2026-11-25T19:05:45Z\"}");
        let told = sentence(&Record::of(line.as_bytes()).unwrap());
        assert!(told.ends_with("busy \\u{1b}[1m; again 2026-11-25T19:05:45Z"), "{told}");

        let order = "{\"v\":1,\"id\":\"0000000000001\",\"time\":\"2026-11-25T19:04:45.123Z\",\"event\":\"order\",\
            \"action\":\"hold\",\"filter\":\"tenant=club\",\"reason\":\"x\",\"who\":\"ops\"}";
        let told = sentence(&Record::of(order.as_bytes()).unwrap());
        assert!(told.ends_with("hold; tenant=club; x; by ops"), "{told}");
    }

    #[test]
    fn the_table_fits_80_columns() {
        let text = table(&[LINE.as_bytes().to_vec()]).render(Some(80));

        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(
            text.contains("2026-11-25 19:04:45  deferred  0000000000007  a@x.test") && text.contains("450 4.2.1 busy"),
            "{text}"
        );
    }

    #[test]
    fn cursors_kinds_and_times_are_read() {
        assert_eq!(from("start"), Ok(From::Start));
        assert!(matches!(from("0000000000001"), Ok(From::After(_))) && from("yesterday").is_err());
        assert_eq!(kind("dsn-sent"), Ok(Kind::DsnSent));
        assert!(kind("sent").unwrap_err().contains("delivered, deferred"));
        assert_eq!(moment("1970-01-02"), Ok(Duration::from_secs(86_400)));
        // An age is one before now, whenever that is.
        assert!(moment("2h").unwrap() < moment("1h").unwrap() && moment("1970-01-02").unwrap() < moment("2h").unwrap());
        assert!(moment("nonsense").is_err());
    }
}

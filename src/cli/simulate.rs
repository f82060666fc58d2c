//! `hikyaku simulate`: what the limits would do at a receiver like that of a profile.
//!
//! The production controller on a virtual clock, in this process; no daemon is asked and nothing is sent. The parts are in
//! [`crate::simulate`].

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::exit::{self, Exit, Failure};
use super::table::{Table, number, plain, terminal_width, text, thousands};
use super::{out, print_json};
use crate::clock::Clock;
use crate::config::Config;
use crate::daemon;
use crate::limit::controller::Ceilings;
use crate::simulate::{self, Driver, Profile, Run};

/// Options of `simulate`.
#[derive(Debug, clap::Args)]
pub(super) struct Simulate {
    /// The receiver's profile
    #[arg(long, value_name = "FILE")]
    profile: PathBuf,
    /// Take the ceilings from the limits of this configuration [default: the built-in ones]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The site whose limits the configuration is asked for [default: the profile's name]
    #[arg(long, value_name = "SITE", requires = "config")]
    site: Option<String>,
    /// One run for each of these numbers, which chance is made of
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// Who decides: learning, or fixed:FACTOR for so many times the receiver's rate whatever it replies
    #[arg(long, value_name = "NAME", default_value = "learning")]
    controller: String,
    /// Write a picture of the first run to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// List every change of a limit in the first run, with its reason
    #[arg(long, conflicts_with = "json")]
    changes: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    name: &'a str,
    runs: &'a [Run],
}

/// A wait that people do not notice.
const PATIENCE: Duration = Duration::from_secs(1);
/// Wide enough for a plot where there is no terminal.
const WIDTH: usize = 100;

impl Simulate {
    pub(super) fn execute(self) -> exit::Result {
        let profile = Profile::load(&self.profile).map_err(Failure::usage)?;
        let driver = self.driver(&profile)?;
        let runs = self.runs(&profile, &driver);
        if let (Some(path), Some(run)) = (&self.svg, runs.first()) {
            let told = || format!("cannot write {}", path.display());
            std::fs::write(path, simulate::svg(&profile, run)).with_context(told)?;
        }
        if self.json {
            return print_json(&Report { name: &profile.name, runs: &runs });
        }
        self.show(&profile, &runs)
    }

    fn driver(&self, profile: &Profile) -> Result<Driver, Failure> {
        let driver = self.controller.parse().context("--controller").map_err(Failure::usage)?;
        let Driver::Learning { .. } = driver else { return Ok(driver) };
        let site = self.site.as_deref().unwrap_or(&profile.name);
        let ceilings = match &self.config {
            Some(path) => ceilings(path, site)?,
            None => Ceilings::default(),
        };
        Ok(Driver::Learning { ceilings, learnt: None })
    }

    /// The runs, as many at a time as there are cores, in the order of their seeds.
    fn runs(&self, profile: &Profile, driver: &Driver) -> Vec<Run> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let origin = Clock::system().now();
        let mut runs: Vec<Run> = Vec::with_capacity(self.seeds.len());
        std::thread::scope(|scope| {
            let (done, finished) = mpsc::channel();
            for worker in 0..cores.min(self.seeds.len()) {
                let (done, seeds) = (done.clone(), self.seeds.iter().skip(worker).step_by(cores));
                scope.spawn(move || {
                    for seed in seeds {
                        // Nobody listens any more when another worker has panicked.
                        let _ = done.send(simulate::run(profile, driver.clone(), *seed, origin));
                    }
                });
            }
            drop(done);
            let bar = bar(self.seeds.len());
            loop {
                match finished.recv_timeout(PATIENCE) {
                    Ok(run) => runs.push(run),
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => break,
                }
                if let Some(bar) = bar.as_ref().filter(|bar| bar.elapsed() >= PATIENCE) {
                    bar.set_position(u64::try_from(runs.len()).unwrap_or_default());
                }
            }
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
        });
        runs.sort_by_key(|run| self.seeds.iter().position(|seed| *seed == run.seed));
        runs
    }

    fn show(&self, profile: &Profile, runs: &[Run]) -> exit::Result {
        let mut text = format!("{}\n\n", plain(&profile.name));
        if let Some(run) = runs.first() {
            text += &simulate::plot(profile, run, terminal_width().unwrap_or(WIDTH));
            text.push('\n');
        }
        if self.changes {
            let changes = runs.first().map(|run| run.record.changes.as_slice()).unwrap_or_default();
            for (at, change) in changes {
                text += &format!("{:>8.1} s  {}\n", at, plain(&change.reason));
            }
            text.push('\n');
        }
        out::write(text.as_bytes())?;
        table(runs).print()?;
        Ok(Exit::Ok)
    }
}

fn table(runs: &[Run]) -> Table {
    let titles = ["ACCEPTED", "GOODPUT", "THROTTLED", "PER 1000", "TO 90 %", "BLOCKS"];
    let mut columns = vec![number("SEED")];
    columns.extend(titles.map(number));
    columns.push(text("LEARNT"));
    let mut table = Table::new(&columns);
    for run in runs {
        let learnt = &run.learnt;
        let rate = learnt.rate_per_minute.map(|rate| format!("{rate:.1}/min"));
        let connections = learnt.connections.map(|count| format!("{count} connections"));
        let messages = learnt.messages_per_connection.map(|count| format!("{count} messages each"));
        let cap = learnt.hourly_cap.map(|count| format!("{count}/h"));
        let parts: Vec<String> = [rate, connections, messages, cap].into_iter().flatten().collect();
        table.row([
            run.seed.to_string(),
            thousands(run.accepted),
            format!("{:.1} %", run.goodput * 100.0),
            thousands(run.throttled),
            format!("{:.2}", run.throttled_per_1000),
            run.time_to_90_percent_s.map_or("-".to_owned(), |seconds| format!("{seconds} s")),
            run.blocks.to_string(),
            parts.join(", "),
        ]);
    }
    table
}

/// On a terminal, for what takes its time.
fn bar(runs: usize) -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::new(u64::try_from(runs).unwrap_or_default());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of {len} runs ({elapsed})") {
        bar.set_style(style);
    }
    Some(bar)
}

/// What a configuration allows a site.
fn ceilings(path: &Path, site: &str) -> Result<Ceilings, Failure> {
    let config = Config::load(path).map_err(Failure::usage)?;
    Ok(daemon::site_limits(&config.limits, site).ceilings())
}

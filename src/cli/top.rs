//! `hikyaku top`: sites and tenants live. It asks the admin interface and nothing else; what it shows is in
//! [`screen`], which knows neither terminal nor daemon.
//!
//! The terminal is given back however this ends: by a key, a signal, an error or a panic.

mod screen;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use serde_json::Value;
use tokio::sync::mpsc;

use super::at::At;
use super::client::{self, Client, ClientError};
use super::exit::{self, Exit, Failure};
use super::patience::patiently;
use super::run::Signals;
use super::wait;
use screen::{Reaction, Screen};

/// Options of `top`.
#[derive(Debug, clap::Args)]
pub(super) struct Top {
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = interval)]
    interval: f64,
    #[command(flatten)]
    at: At,
}

/// How long a wait for a key lasts at most before it is seen that nobody waits any more.
const KEY_POLL: Duration = Duration::from_millis(100);
/// Keys that are remembered while a look is under way; more are dropped.
const KEYS: usize = 64;

fn interval(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "seconds, such as 2 or 0.5".to_owned())?;
    if (0.2..=3_600.0).contains(&seconds) { Ok(seconds) } else { Err("allowed: 0.2 to 3600".to_owned()) }
}

impl Top {
    pub(super) fn execute(self) -> exit::Result {
        if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
            let told = "top needs a terminal; for pipes there are `hikyaku status --json` and `hikyaku sites --json`";
            return Err(Failure::usage(anyhow!(told)));
        }
        let client = self.at.client().within(client::SHORT);
        let every = Duration::from_secs_f64(self.interval);
        wait(async move {
            // Asked before the screen is taken: an absent daemon is told in a line.
            let first = patiently("waiting for the daemon", look(&client)).await?;
            let signals = Signals::catch()?;
            // Raw mode, the alternate screen, and a panic hook that gives both back.
            let mut terminal = ratatui::try_init().context("the terminal cannot be used")?;
            let result = show(&mut terminal, &client, every, first, signals).await;
            ratatui::restore();
            result
        })
    }
}

/// Answers to one look.
struct Seen {
    status: Value,
    queue: Value,
}

async fn look(client: &Client) -> Result<Seen, ClientError> {
    Ok(Seen { status: client.get("/v1/status").await?, queue: client.get("/v1/queue").await? })
}

async fn show(
    terminal: &mut DefaultTerminal,
    client: &Client,
    every: Duration,
    first: Seen,
    mut signals: Signals,
) -> exit::Result {
    let mut screen = Screen::default();
    screen.take(&first.status, &first.queue, Instant::now());
    let mut keys = Keys::start();
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Draws to the size that the terminal has now.
        terminal.draw(|frame| screen.draw(frame)).context("the terminal cannot be written")?;
        tokio::select! {
            () = signals.termination() => return Ok(Exit::Ok),
            event = keys.next() => match event {
                Some(event) => {
                    if screen.react(&event) == Reaction::Quit {
                        return Ok(Exit::Ok);
                    }
                }
                None => return Err(anyhow!("the terminal has gone").into()),
            },
            _ = tick.tick() => {
                if !screen.is_paused() {
                    match look(client).await {
                        Ok(seen) => screen.take(&seen.status, &seen.queue, Instant::now()),
                        Err(error) => screen.fail(&error.to_string()),
                    }
                }
            }
        }
    }
}

/// Reads keys and changes of size on a thread of its own, since waiting for them blocks.
struct Keys {
    events: mpsc::Receiver<Event>,
    is_over: Arc<AtomicBool>,
}

impl Keys {
    fn start() -> Self {
        let (sender, events) = mpsc::channel(KEYS);
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                match event::poll(KEY_POLL) {
                    Ok(false) => {}
                    Ok(true) => match event::read() {
                        // A full channel: somebody leans on a key.
                        Ok(event) => drop(sender.try_send(event)),
                        Err(_) => return,
                    },
                    Err(_) => return,
                }
            }
        });
        Self { events, is_over }
    }

    async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_bounds() {
        assert_eq!((interval("0.5"), interval("10")), (Ok(0.5), Ok(10.0)));
        assert!(interval("0").is_err() && interval("soon").is_err() && interval("NaN").is_err());
    }
}

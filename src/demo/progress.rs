//! Progress of a run: two bars on a terminal, a line every few seconds elsewhere.

use std::convert::Infallible;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use super::ledger::{Ledger, Tally};

const BAR_PERIOD: Duration = Duration::from_millis(200);
const LINE_PERIOD: Duration = Duration::from_secs(5);
const TEMPLATE: &str = "{prefix:<10} {bar:40} {pos:>6} of {len}  {rate:>8}/s  {elapsed}";

/// Shows the progress of `messages` on standard error; runs until it is dropped.
pub async fn show(ledger: Arc<Ledger>, messages: u32) -> Infallible {
    if std::io::stderr().is_terminal() { bars(&ledger, messages).await } else { lines(&ledger, messages).await }
}

async fn bars(ledger: &Ledger, messages: u32) -> Infallible {
    let all = MultiProgress::new();
    let bar = |prefix| all.add(ProgressBar::new(u64::from(messages))).with_style(style()).with_prefix(prefix);
    let (accepted, finished) = (bar("accepted"), bar("finished"));
    loop {
        tokio::time::sleep(BAR_PERIOD).await;
        let tally = ledger.tally();
        accepted.set_position(tally.acknowledged);
        finished.set_position(finished_of(&tally));
    }
}

fn style() -> ProgressStyle {
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    // Digits of the rate change too fast to be read: no decimals.
    style.with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = write!(out, "{:.0}", state.per_sec());
    })
}

async fn lines(ledger: &Ledger, messages: u32) -> Infallible {
    loop {
        tokio::time::sleep(LINE_PERIOD).await;
        let tally = ledger.tally();
        let (seconds, accepted, finished) = (ledger.elapsed().as_secs_f64(), tally.acknowledged, finished_of(&tally));
        let line = format!("{seconds:>4.0} s  accepted {accepted}, finished {finished} of {messages}\n");
        // Lost where standard error cannot be written.
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

/// Messages that have come to an end: arrived or reported.
fn finished_of(tally: &Tally) -> u64 {
    tally.delivered + tally.bounced
}

//! Something moves on the terminal while an answer takes longer than a second.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Waits for an answer; says what is waited for once that takes a while, if somebody sits in front of it.
pub(super) async fn patiently<T>(what: &str, answer: impl Future<Output = T>) -> T {
    tokio::pin!(answer);
    if let Ok(answer) = tokio::time::timeout(Duration::from_secs(1), &mut answer).await {
        return answer;
    }
    if !std::io::stderr().is_terminal() {
        return answer.await;
    }
    let bar = ProgressBar::new_spinner().with_message(what.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let answer = answer.await;
    bar.finish_and_clear();
    answer
}

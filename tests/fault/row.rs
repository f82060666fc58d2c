//! One line of the table of faults: runs, losses, duplicates.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::skip;
use super::world::Ending;

/// What a fault came to; printed when it is dropped, however the test ends.
#[derive(Debug)]
pub struct Row {
    fault: &'static str,
    sum: Ending,
    runs: usize,
    note: String,
    is_skipped: bool,
}

impl Row {
    /// An empty line for `fault`, which is an id of the list, perhaps with a word behind it.
    pub fn of(fault: &'static str) -> Self {
        Self { fault, sum: Ending::default(), runs: 0, note: String::new(), is_skipped: false }
    }

    /// Counts `runs` runs that ended in this way; fails if a promise was broken.
    pub fn add(&mut self, runs: usize, ending: Ending) {
        self.runs += runs;
        self.sum.add(ending);
        assert!(self.sum.failures.is_empty(), "{}: {:#?}", self.fault, self.sum.failures);
    }

    /// Says something beside the numbers.
    pub fn note(&mut self, text: &str) {
        let separator = if self.note.is_empty() { "" } else { "; " };
        let _ = write!(self.note, "{separator}{text}");
    }

    /// Cases that cannot run here.
    pub fn skip(&mut self, case: &str, reason: &str) {
        self.is_skipped = true;
        self.note(&format!("SKIPPED {case}: {}", reason.trim().replace('\n', " ")));
        skip::skip(case, reason);
    }

    /// What was counted so far.
    pub fn sum(&self) -> &Ending {
        &self.sum
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        let Ending { lost, duplicates, unpredicted, .. } = self.sum;
        let result = match (std::thread::panicking(), self.is_skipped && self.runs == 0) {
            (true, _) => "FAILED",
            (false, true) => "SKIPPED",
            (false, false) => "ok",
        };
        let note = match self.note.is_empty() {
            true => self.sum.to_string(),
            false => format!("{}; {}", self.sum, self.note),
        };
        let predicted = duplicates - unpredicted.min(duplicates);
        let note = if self.runs == 0 { self.note.clone() } else { note };
        table_line(&format!("{}\t{}\t{lost}\t{predicted}\t{unpredicted}\t{result}\t{note}", self.fault, self.runs));
    }
}

/// Prints a line, and appends it to the file that HIKYAKU_FAULTS names.
fn table_line(line: &str) {
    use std::io::Write;

    println!("{}", line.replace('\t', " | "));
    if let Some(path) = std::env::var_os("HIKYAKU_FAULTS") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// The size of a fault: HIKYAKU_FULL asks for the long one.
pub fn sized(quick: usize, full: usize) -> usize {
    if std::env::var_os("HIKYAKU_FULL").is_some() { full } else { quick }
}

/// What the faults' chance begins with: another run with the same HIKYAKU_SEED hits at the same moments.
pub fn seed() -> u64 {
    std::env::var("HIKYAKU_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_default()
}

/// Runs `count` cases, `parallel` at a time; gives how all of them ended.
pub fn in_parallel(parallel: usize, count: usize, run: impl Fn(usize) -> Ending + Sync) -> Ending {
    let (next, sum) = (AtomicUsize::new(0), Mutex::new(Ending::default()));
    std::thread::scope(|scope| {
        for _ in 0..parallel.min(count) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let run = std::panic::AssertUnwindSafe(|| run(number));
                    let ending = std::panic::catch_unwind(run).unwrap_or_else(|panic| Ending::of_panic(number, &panic));
                    sum.lock().add(ending);
                }
            });
        }
    });
    sum.into_inner()
}

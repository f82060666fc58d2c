//! A run as text for a terminal: the learnt rate, what was delivered, and the receiver's hidden limit over time.

use super::measure::Run;
use super::profile::Profile;

/// Rows of the plot.
const ROWS: u16 = 14;
/// Columns of the scale at its left.
const SCALE: usize = 9;

/// One column of a picture, messages a minute.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Point {
    pub rate: f64,
    pub delivered: f64,
    pub hidden: f64,
}

/// A run in so many points of the same length.
pub(super) fn points(profile: &Profile, run: &Run, count: usize) -> Vec<Point> {
    let duration = profile.duration.0.as_secs_f64();
    let step = duration / number(count);
    let optimum = profile.optimum / duration * 60.0;
    let mut out = vec![Point::default(); count];
    for (at, point) in out.iter_mut().enumerate() {
        let (from, to) = (number(at) * step, number(at + 1) * step);
        let seconds = run.record.accepted.iter().enumerate();
        let within = seconds.filter(|(second, _)| (from..to).contains(&number(*second)));
        let (all, length) = within.fold((0.0, 0.0), |(all, length), (_, n)| (all + f64::from(*n), length + 1.0));
        point.delivered = if length > 0.0 { all / length * 60.0 } else { 0.0 };
        let sample = run.record.samples.iter().rev().find(|sample| sample.at < to);
        point.rate = sample.map_or(0.0, |sample| sample.rate);
        let hidden = sample.map_or(0.0, |sample| sample.hidden);
        // Without a rate the limit is in connections: what they carry.
        point.hidden = if hidden > 0.0 { hidden } else { optimum };
    }
    out
}

/// The top of the scale: what is far above the limit is cut.
pub(super) fn top(points: &[Point]) -> f64 {
    let most = |value: fn(&Point) -> f64| points.iter().map(value).fold(0.0, f64::max);
    let needed = most(|point| point.delivered).max(most(|point| point.hidden));
    most(|point| point.rate).clamp(needed, needed * 1.5).max(1.0) * 1.05
}

/// The plot, in `width` columns.
pub fn plot(profile: &Profile, run: &Run, width: usize) -> String {
    let columns = width.saturating_sub(SCALE + 2).clamp(20, 200);
    let points = points(profile, run, columns);
    let top = top(&points);
    let mut out = String::new();
    for row in (0..ROWS).rev() {
        let (low, high) = (top * f64::from(row) / f64::from(ROWS), top * f64::from(row + 1) / f64::from(ROWS));
        let mark = if row % 4 == 1 { format!("{:.0}", (low + high) / 2.0) } else { String::new() };
        let line: String = points.iter().map(|point| cell(point, low, high)).collect();
        out.push_str(format!("{mark:>SCALE$} |{line}").trim_end());
        out.push('\n');
    }
    out.push_str(&format!("{:>SCALE$} +{}\n", "", "-".repeat(columns)));
    let (start, end) = ("0", profile.duration.to_string());
    out.push_str(&format!("{:>SCALE$}  {start}{end:>width$}\n", "", width = columns - 1));
    out.push_str(&format!(
        "{:>SCALE$}  messages a minute: # delivered   * rate allowed   - the receiver's limit\n",
        ""
    ));
    out
}

fn cell(point: &Point, low: f64, high: f64) -> char {
    let is_in = |value: f64| value >= low && value < high;
    if is_in(point.rate) {
        '*'
    } else if is_in(point.hidden) {
        '-'
    } else if point.delivered >= (low + high) / 2.0 {
        '#'
    } else {
        ' '
    }
}

#[allow(clippy::cast_precision_loss)]
fn number(count: usize) -> f64 {
    count as f64
}

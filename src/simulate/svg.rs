//! A run as a picture: the same three curves as in a terminal, as SVG.

use std::fmt::Write;

use super::measure::Run;
use super::plot::{Point, points, top};
use super::profile::Profile;

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 260.0;
/// Left, top, right and bottom of the curves.
const FRAME: [f64; 4] = [60.0, 34.0, 790.0, 220.0];
const POINTS: usize = 480;

/// What a curve shows of a point.
type Value = fn(&Point) -> f64;

/// The picture, light and without a script.
pub fn svg(profile: &Profile, run: &Run) -> String {
    let points = points(profile, run, POINTS);
    let top = top(&points);
    let [left, up, right, down] = FRAME;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{left}\" y=\"20\" font-size=\"14\">{}</text>\n",
        escaped(&profile.name)
    );
    for quarter in 0..=4 {
        let share = f64::from(quarter) / 4.0;
        let y = down - (down - up) * share;
        // Nobody reads from a write to a string.
        let _ = writeln!(
            out,
            "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#ddd\"/><text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{:.0}</text>",
            left - 6.0,
            y + 4.0,
            top * share
        );
        let x = left + (right - left) * share;
        let hours = profile.duration.0.as_secs_f64() / 3600.0 * share;
        let _ = writeln!(out, "<text x=\"{x:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{hours:.2} h</text>", down + 16.0);
    }
    let curves: [(&str, &str, Value); 3] = [
        ("#bbb", "the receiver's limit", |point| point.hidden),
        ("#2a7", "delivered", |point| point.delivered),
        ("#c33", "rate allowed", |point| point.rate),
    ];
    for (index, (colour, name, value)) in (0u8..).zip(curves) {
        let line = path(&points, top, value);
        let width = if index == 0 { 3.0 } else { 1.2 };
        let _ = writeln!(out, "<path d=\"{line}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>");
        let x = left + 200.0 * f64::from(index);
        let _ = writeln!(
            out,
            "<path d=\"M{x} 248h24\" stroke=\"{colour}\" stroke-width=\"3\"/><text x=\"{:.0}\" y=\"252\">{name}, a minute</text>",
            x + 30.0
        );
    }
    out.push_str("</svg>\n");
    out
}

fn path(points: &[Point], top: f64, value: Value) -> String {
    let [left, up, right, down] = FRAME;
    let step = (right - left) / f64::from(u16::try_from(points.len()).unwrap_or(u16::MAX));
    let mut out = String::new();
    for (at, point) in (0u16..).zip(points) {
        let x = left + (f64::from(at) + 0.5) * step;
        let y = down - (down - up) * (value(point) / top).min(1.0);
        let _ = write!(out, "{}{x:.1} {y:.1}", if at == 0 { 'M' } else { 'L' });
    }
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

//! Tables for people and pipes: cut to the terminal's width on a terminal, whole and uncoloured in a pipe.
//!
//! Cells come from the network (replies, addresses), so control characters are escaped here: nothing printed by the
//! command can move the cursor or hide text.

use std::io::IsTerminal;

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A column: its title, its alignment, and whether it gives way when the terminal is narrow.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    title: &'static str,
    align: Align,
    gives_way: bool,
}

/// A column of text.
pub const fn text(title: &'static str) -> Column {
    Column { title, align: Align::Left, gives_way: false }
}

/// A column of text that is cut when the terminal is narrow.
pub const fn long(title: &'static str) -> Column {
    Column { title, align: Align::Left, gives_way: true }
}

/// A column of numbers.
pub const fn number(title: &'static str) -> Column {
    Column { title, align: Align::Right, gives_way: false }
}

/// Rows under titles.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

const GAP: usize = 2;
/// A column that gives way keeps at least this much.
const NARROWEST: usize = 12;

impl Table {
    /// A table without rows.
    pub fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty, surplus ones are dropped.
    pub fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        let mut row: Vec<String> = cells.into_iter().take(self.columns.len()).map(|cell| plain(&cell)).collect();
        row.resize(self.columns.len(), String::new());
        self.rows.push(row);
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table for a terminal of `width` columns, or uncut.
    pub fn render(&self, width: Option<usize>) -> String {
        let widths = self.widths(width);
        let mut out = String::new();
        line(&mut out, self.columns.iter().map(|column| column.title), &self.columns, &widths);
        for row in &self.rows {
            line(&mut out, row.iter().map(String::as_str), &self.columns, &widths);
        }
        out
    }

    /// Prints to standard output, fitted if that is a terminal.
    pub fn print(&self) {
        print!("{}", self.render(terminal_width()));
    }

    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|column| column.title.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let Some(limit) = limit else { return widths };
        let whole = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        while whole(&widths) > limit {
            let flexible = widths.iter_mut().zip(&self.columns).filter(|(_, column)| column.gives_way);
            match flexible.map(|(width, _)| width).max() {
                Some(widest) if *widest > NARROWEST => *widest -= 1,
                _ => break,
            }
        }
        widths
    }
}

fn line<'a>(out: &mut String, cells: impl Iterator<Item = &'a str>, columns: &[Column], widths: &[usize]) {
    let start = out.len();
    for (position, (cell, (column, &width))) in cells.zip(columns.iter().zip(widths)).enumerate() {
        if position > 0 {
            out.push_str("  ");
        }
        let cell = cut(cell, width);
        match column.align {
            Align::Left => out.push_str(&format!("{cell:<width$}")),
            Align::Right => out.push_str(&format!("{cell:>width$}")),
        }
    }
    let end = out.get(start..).unwrap_or_default().trim_end().len();
    out.truncate(start + end);
    out.push('\n');
}

fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    let mut short: String = cell.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Text that cannot disturb a terminal: control characters and line separators are escaped.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Like [`plain`], but lines stay lines: for messages of our own that quote others.
pub fn plain_lines(text: &str) -> String {
    text.split('\n').map(plain).collect::<Vec<_>>().join("\n")
}

/// The width of standard output if it is a terminal.
pub fn terminal_width() -> Option<usize> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// A count with commas between thousands.
pub fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Octets in the largest binary unit that leaves at least one before the point.
pub fn octets(count: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, factor)| count >= *factor) {
        Some((unit, factor)) => {
            let tenths = u128::from(count) * 10 / u128::from(*factor);
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{count} B"),
    }
}

/// A span in its two largest units, such as `1h 5m`.
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&[text("SITE"), number("READY"), long("LAST REPLY")]);
        table.row(["a.test".into(), "12".into(), "421 4.7.0 too many connections from your address".into()]);
        table.row(["longer.test".into(), "3".into(), String::new()]);
        table
    }

    #[test]
    fn uncut_table_keeps_every_character_and_no_trailing_space() {
        let whole = sample().render(None);

        assert!(whole.contains("a.test          12  421 4.7.0 too many connections from your address\n"), "{whole}");
        assert!(whole.lines().all(|line| line == line.trim_end()), "{whole}");
    }

    #[test]
    fn narrow_terminal_cuts_only_the_column_that_gives_way() {
        let narrow = sample().render(Some(40));

        assert!(narrow.lines().all(|line| line.chars().count() <= 40), "{narrow}");
        assert!(narrow.contains("longer.test") && narrow.contains('…'), "{narrow}");
    }

    #[test]
    fn control_characters_are_escaped() {
        let mut table = Table::new(&[text("REPLY")]);
        table.row(["\u{1b}[2J550 no\r\nsuch\u{202e}".into()]);

        assert!(table.render(None).contains("\\u{1b}[2J550 no\\r\\nsuch\\u{202e}"));
    }

    #[test]
    fn counts_sizes_and_spans_read_well() {
        assert_eq!(
            (thousands(0), thousands(999), thousands(1_234_567)),
            ("0".into(), "999".into(), "1,234,567".into())
        );
        assert_eq!((octets(512), octets(1_536), octets(5 << 30)), ("512 B".into(), "1.5 KiB".into(), "5.0 GiB".into()));
        assert_eq!(
            (span(59), span(61), span(7_260), span(90_000)),
            ("59s".into(), "1m 1s".into(), "2h 1m".into(), "1d 1h".into())
        );
    }
}

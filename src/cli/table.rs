//! Tables for people and pipes: cut to the terminal's width on a terminal, whole and uncoloured in a pipe.
//!
//! Cells come from the network (replies, addresses), so what is unseen is escaped here: nothing printed by the command can
//! move the cursor, hide text or turn its direction. Widths are those of a terminal, where some characters take two columns
//! and some none.

use std::io::IsTerminal;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::unseen::is_unseen;

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// What becomes of a column when the terminal is narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Narrow {
    /// It stays.
    Stay,
    /// It is cut.
    Cut,
    /// It is cut, and left out when that is not enough: the last such column first.
    Go,
    /// Its cells go on lines of their own, below their rows.
    Below,
}

/// A column: its title, its alignment, and what becomes of it when the terminal is narrow.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    title: &'static str,
    align: Align,
    narrow: Narrow,
}

/// A column of text.
pub const fn text(title: &'static str) -> Column {
    Column { title, align: Align::Left, narrow: Narrow::Stay }
}

/// A column of text that is cut when the terminal is narrow.
pub const fn long(title: &'static str) -> Column {
    Column { title, align: Align::Left, narrow: Narrow::Cut }
}

/// A column of text that is left out when the terminal is narrow.
pub const fn extra(title: &'static str) -> Column {
    Column { title, align: Align::Left, narrow: Narrow::Go }
}

/// The last column: text that has a line of its own below its row when the terminal is narrow.
pub const fn below(title: &'static str) -> Column {
    Column { title, align: Align::Left, narrow: Narrow::Below }
}

/// A column of numbers.
pub const fn number(title: &'static str) -> Column {
    Column { title, align: Align::Right, narrow: Narrow::Stay }
}

/// Rows under titles.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

const GAP: usize = 2;
/// How far a line below a row is indented.
const INDENT: usize = 4;
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
        let (shown, widths) = self.layout(width);
        let mut places = 0..self.columns.len();
        let below = places.find(|at| self.narrow(*at) == Narrow::Below && !shown.contains(at));
        let mut out = String::new();
        let titles: Vec<&str> = self.columns.iter().map(|column| column.title).collect();
        self.line(&mut out, &titles, &shown, &widths);
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            self.line(&mut out, &cells, &shown, &widths);
            let under = below.and_then(|at| cells.get(at)).filter(|cell| !cell.is_empty());
            if let (Some(cell), Some(width)) = (under, width) {
                out.push_str(&format!("{:INDENT$}{}\n", "", cut(cell, width.saturating_sub(INDENT))));
            }
        }
        out
    }

    /// Prints to standard output, fitted if that is a terminal.
    pub fn print(&self) -> std::io::Result<()> {
        super::out::write(self.render(terminal_width()).as_bytes())
    }

    /// Which columns stand in a row of at most `limit` terminal columns, and the width of every column.
    fn layout(&self, limit: Option<usize>) -> (Vec<usize>, Vec<usize>) {
        let mut widths: Vec<usize> = self.columns.iter().map(|column| column.title.width()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        let Some(limit) = limit else { return (shown, widths) };
        while whole(&shown, &widths) > limit {
            let can_shrink = |at: &usize| matches!(self.narrow(*at), Narrow::Cut | Narrow::Go);
            let least = |at: &usize| {
                let width = widths.get(*at).copied().unwrap_or_default();
                if can_shrink(at) { width.min(NARROWEST) } else { width }
            };
            let fits = shown.iter().map(least).sum::<usize>() + GAP * shown.len().saturating_sub(1) <= limit;
            let goes = |narrow| shown.iter().rposition(|at| self.narrow(*at) == narrow);
            if let Some(at) = goes(Narrow::Below).or_else(|| goes(Narrow::Go).filter(|_| !fits)) {
                shown.remove(at);
                continue;
            }
            let flexible = shown.iter().copied().filter(can_shrink);
            let widest = flexible.max_by_key(|at| widths.get(*at).copied());
            match widest.and_then(|widest| widths.get_mut(widest)) {
                Some(width) if *width > NARROWEST => *width -= 1,
                // All that gives way has: what stands furthest to the right goes.
                _ if shown.len() > 1 => drop(shown.pop()),
                _ => break,
            }
        }
        (shown, widths)
    }

    fn narrow(&self, at: usize) -> Narrow {
        self.columns.get(at).map_or(Narrow::Stay, |column| column.narrow)
    }

    fn line(&self, out: &mut String, cells: &[&str], shown: &[usize], widths: &[usize]) {
        let start = out.len();
        for (position, at) in shown.iter().enumerate() {
            let (Some(cell), Some(column), Some(&width)) = (cells.get(*at), self.columns.get(*at), widths.get(*at))
            else {
                continue;
            };
            if position > 0 {
                out.push_str("  ");
            }
            let cell = cut(cell, width);
            let free = " ".repeat(width.saturating_sub(cell.width()));
            match column.align {
                Align::Left => out.extend([cell, free]),
                Align::Right => out.extend([free, cell]),
            }
        }
        let end = out.get(start..).unwrap_or_default().trim_end().len();
        out.truncate(start + end);
        out.push('\n');
    }
}

/// The length of a line with these columns.
fn whole(shown: &[usize], widths: &[usize]) -> usize {
    let sum: usize = shown.iter().filter_map(|at| widths.get(*at)).sum();
    sum + GAP * shown.len().saturating_sub(1)
}

/// A text that takes at most `width` columns of a terminal.
pub fn cut(cell: &str, width: usize) -> String {
    if cell.width() <= width {
        return cell.to_owned();
    }
    let (mut short, mut used) = (String::new(), 0);
    for c in cell.chars() {
        used += c.width().unwrap_or_default();
        // One is for the mark.
        if used >= width {
            break;
        }
        short.push(c);
    }
    short.push('…');
    short
}

/// A text in lines of at most `width` columns, broken between words where there are any; at most `most` lines, the last of
/// which is cut.
pub fn wrap(text: &str, width: usize, most: usize) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        let mut word = word.to_owned();
        if !line.is_empty() && line.width() + 1 + word.width() > width {
            lines.push(std::mem::take(&mut line));
        } else if !line.is_empty() {
            line.push(' ');
        }
        while line.width() + word.width() > width {
            let (head, rest) = split(&word, width.max(2));
            lines.push(head);
            word = rest;
        }
        line.push_str(&word);
    }
    lines.push(line);
    if lines.len() > most.max(1) {
        let rest = lines.split_off(most.max(1) - 1).join(" ");
        lines.push(cut(&rest, width));
    }
    lines
}

/// The first columns of a text, and the rest of it.
fn split(text: &str, width: usize) -> (String, String) {
    let mut used = 0;
    let end = text.char_indices().find(|(_, c)| {
        used += c.width().unwrap_or_default();
        used > width
    });
    let (head, rest) = text.split_at(end.map_or(text.len(), |(at, _)| at));
    (head.to_owned(), rest.to_owned())
}

/// Text that cannot disturb a terminal: what is unseen, or changes what is seen, is escaped.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unseen(c) {
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
    fn narrow_terminal_leaves_out_what_may_go_and_puts_the_rest_below() {
        let mut table = Table::new(&[text("MESSAGE"), long("SITE"), extra("CAMPAIGN"), below("LAST REPLY")]);
        table.row(
            ["0000000000001", "a.test", "a-campaign-name", "450 4.2.0 mailbox is busy, try later"].map(Into::into),
        );
        table.row(["0000000000002", "b.test", "", ""].map(Into::into));

        assert_eq!(
            table.render(Some(34)),
            "MESSAGE        SITE\n0000000000001  a.test\n    450 4.2.0 mailbox is busy, tr…\n0000000000002  b.test\n"
        );
        assert!(table.render(Some(40)).contains("a-campaign-…") || table.render(Some(40)).contains("a-campaign-name"));
        assert!(table.render(None).contains("a-campaign-name  450 4.2.0 mailbox is busy, try later\n"));
    }

    #[test]
    fn control_characters_are_escaped() {
        let mut table = Table::new(&[text("REPLY")]);
        table.row(["\u{1b}[2J550 no\r\nsuch\u{202e}".into()]);

        assert!(table.render(None).contains("\\u{1b}[2J550 no\\r\\nsuch\\u{202e}"));
    }

    #[test]
    fn what_hides_or_turns_text_is_escaped_as_in_the_journal() {
        let unseen = (0..=0x10_ffff).filter_map(char::from_u32).filter(|c| is_unseen(*c));

        let shown: String = unseen.map(|c| plain(&c.to_string())).collect();

        assert!(shown.is_ascii() && shown.contains("\\u{2066}") && shown.contains("\\u{200b}"), "{shown}");
    }

    #[test]
    fn wide_characters_take_the_columns_that_a_terminal_gives_them() {
        let mut table = Table::new(&[long("CAMPAIGN"), number("READY"), below("REPLY")]);
        table.row(["夏のキャンペーン".into(), "1".into(), "宛先".repeat(40)]);
        table.row(["plain".into(), "20".into(), "e\u{301}".repeat(60)]);

        let narrow = table.render(Some(30));

        assert!(narrow.lines().all(|line| line.width() <= 30), "{narrow}");
        assert!(
            narrow.contains("夏のキャンペーン      1\n") && narrow.contains("plain                20\n"),
            "{narrow}"
        );
        assert_eq!(
            (cut("宛先宛先", 6), cut("宛先宛先", 7), cut("宛先", 4)),
            ("宛先…".into(), "宛先宛…".into(), "宛先".into())
        );
    }

    #[test]
    fn text_is_wrapped_between_words_and_cut_only_at_the_end() {
        assert_eq!(wrap("a reason of several words", 10, 9), ["a reason", "of several", "words"]);
        assert_eq!(wrap("a reason of several words", 10, 2), ["a reason", "of severa…"]);
        assert_eq!(wrap("x abcdefghijklm", 5, 9), ["x", "abcde", "fghij", "klm"]);
        assert_eq!(wrap("", 5, 9), [""]);
        assert!(wrap("宛先宛先宛先 x", 5, 9).iter().all(|line| line.width() <= 5));
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

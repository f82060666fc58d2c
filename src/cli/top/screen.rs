//! What `top` shows, and what keys do to it. Pure: answers and events go in, a frame comes out.
//!
//! Text from the network is escaped before it becomes part of a frame.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Instant;

use ratatui::Frame;
use ratatui::crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row, Table};
use serde::Deserialize;
use serde_json::Value;

use crate::cli::sites::Site;
use crate::cli::table::{plain, span, thousands};

/// What an event means for the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    Stay,
    Quit,
}

/// What is listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Kind {
    #[default]
    Sites,
    Tenants,
}

/// By what rows are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sort {
    #[default]
    Depth,
    Rate,
    Deferrals,
    Bounces,
    Connections,
    Oldest,
    Name,
}

impl Sort {
    const ALL: [Self; 7] =
        [Self::Depth, Self::Rate, Self::Deferrals, Self::Bounces, Self::Connections, Self::Oldest, Self::Name];

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or_default();
        Self::ALL.get((at + 1) % Self::ALL.len()).copied().unwrap_or_default()
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Depth => "depth",
            Self::Rate => "delivered",
            Self::Deferrals => "deferred",
            Self::Bounces => "bounced",
            Self::Connections => "connections",
            Self::Oldest => "oldest",
            Self::Name => "name",
        }
    }
}

/// One row: a site or a tenant.
#[derive(Clone, Debug, Default)]
struct Item {
    site: Site,
    /// Recipients a second since the last look.
    delivered: f64,
    deferred: f64,
    bounced: f64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct View {
    sites: Vec<Site>,
    tenants: Vec<Tenant>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tenant {
    tenant: String,
    queued: u64,
    age_seconds: u64,
    delivered: u64,
    deferred: u64,
    bounced: u64,
}

impl From<Tenant> for Site {
    /// As a row of the same kind.
    fn from(tenant: Tenant) -> Self {
        let Tenant { tenant, queued, age_seconds, delivered, deferred, bounced } = tenant;
        Self { site: tenant, ready: queued, age_seconds, delivered, deferred, bounced, ..Self::default() }
    }
}

/// The state of the screen.
#[derive(Debug, Default)]
pub(super) struct Screen {
    kind: Kind,
    sort: Sort,
    is_reversed: bool,
    filter: String,
    is_typing: bool,
    is_paused: bool,
    /// Rows that lie above the screen.
    offset: usize,
    head: [String; 3],
    failure: Option<String>,
    sites: Vec<Item>,
    tenants: Vec<Item>,
    /// Delivered, deferred and bounced at the last look, and when that was.
    before: HashMap<(Kind, String), [u64; 3]>,
    at: Option<Instant>,
}

const HELP: &str = "q quit  p pause  s sort  r reverse  t sites/tenants  / filter  ↑↓ PgUp PgDn";

impl Screen {
    pub(super) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// The daemon did not answer; what was there stays.
    pub(super) fn fail(&mut self, error: &str) {
        self.failure = error.lines().next().map(plain);
    }

    /// Takes answers of `/v1/status` and `/v1/queue`.
    pub(super) fn take(&mut self, status: &Value, queue: &Value, now: Instant) {
        self.failure = None;
        self.head = head(status);
        let view: View = serde_json::from_value(queue.clone()).unwrap_or_default();
        let seconds = self.at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        let before = std::mem::take(&mut self.before);
        let a_second = |now: u64, before: u64| {
            if seconds > 0.0 { now.saturating_sub(before) as f64 / seconds } else { 0.0 }
        };
        let mut item = |kind, site: Site| {
            let key = (kind, site.site.clone());
            // One that was not there has begun to count since.
            let [delivered, deferred, bounced] = before.get(&key).copied().unwrap_or_default();
            let delivered = a_second(site.delivered, delivered);
            let deferred = a_second(site.deferred, deferred);
            let bounced = a_second(site.bounced, bounced);
            self.before.insert(key, [site.delivered, site.deferred, site.bounced]);
            Item { site, delivered, deferred, bounced }
        };
        self.sites = view.sites.into_iter().map(|site| item(Kind::Sites, site)).collect();
        self.tenants = view.tenants.into_iter().map(|tenant| item(Kind::Tenants, tenant.into())).collect();
        self.at = Some(now);
    }

    /// Does what a key says.
    pub(super) fn react(&mut self, event: &Event) -> Reaction {
        let Event::Key(key) = event else { return Reaction::Stay };
        if key.kind == KeyEventKind::Release {
            return Reaction::Stay;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) && matches!(key.code, KeyCode::Char('c' | 'd')) {
            return Reaction::Quit;
        }
        if self.is_typing {
            self.type_filter(key.code);
            return Reaction::Stay;
        }
        match key.code {
            KeyCode::Char('q') => return Reaction::Quit,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.is_reversed = !self.is_reversed,
            KeyCode::Char('t') | KeyCode::Tab => {
                self.kind = if self.kind == Kind::Sites { Kind::Tenants } else { Kind::Sites };
                self.offset = 0;
            }
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Down | KeyCode::Char('j') => self.offset = self.offset.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.offset = self.offset.saturating_sub(1),
            KeyCode::PageDown => self.offset = self.offset.saturating_add(10),
            KeyCode::PageUp => self.offset = self.offset.saturating_sub(10),
            KeyCode::Home => self.offset = 0,
            _ => {}
        }
        Reaction::Stay
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if !c.is_control() => self.filter.push(c),
            _ => {}
        }
        self.offset = 0;
    }

    /// Rows in their order, those that the filter leaves.
    fn rows(&self) -> Vec<&Item> {
        let all = if self.kind == Kind::Sites { &self.sites } else { &self.tenants };
        let filter = self.filter.to_lowercase();
        let mut rows: Vec<&Item> = all.iter().filter(|item| item.site.site.to_lowercase().contains(&filter)).collect();
        rows.sort_by(|a, b| {
            let order = compare(self.sort, a, b).then_with(|| a.site.site.cmp(&b.site.site));
            if self.is_reversed { order.reverse() } else { order }
        });
        rows
    }

    /// Draws everything, whatever the size.
    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let areas = Layout::vertical([Constraint::Length(3), Constraint::Min(0), Constraint::Length(1)]);
        let [head, body, foot] = areas.areas(frame.area());
        let lines = self.head.iter().map(|line| Line::raw(line.as_str()));
        frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), head);
        let rows = self.rows().len();
        let room = usize::from(body.height.saturating_sub(1));
        self.offset = self.offset.min(rows.saturating_sub(room));
        self.draw_table(frame, body, room);
        frame.render_widget(Paragraph::new(self.foot(rows)), foot);
    }

    fn draw_table(&self, frame: &mut Frame<'_>, area: Rect, room: usize) {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let rows = self.rows();
        let shown = rows.iter().skip(self.offset).take(room);
        // Names and causes share what the numbers leave; tenants have no causes.
        let (all, title, why) = match self.kind {
            Kind::Sites => (&COLUMNS[..], "SITE", Some("WHY")),
            Kind::Tenants => (&TENANT_COLUMNS[..], "TENANT", None),
        };
        let columns = columns(all, usize::from(area.width));
        let titles = columns.iter().map(|column| number(column.title.to_owned()));
        let titles = [Cell::from(title)].into_iter().chain(titles).chain(why.map(Cell::from));
        let widths = columns.iter().map(|column| Constraint::Length(column.width));
        let widths = [Constraint::Fill(2)].into_iter().chain(widths).chain(why.map(|_| Constraint::Fill(3)));
        let rows = shown.map(|item| row(item, &columns, why.is_some()));
        let table = Table::new(rows, widths.collect::<Vec<_>>()).header(Row::new(titles).style(bold));
        frame.render_widget(table, area);
    }

    fn foot(&self, rows: usize) -> String {
        if let Some(failure) = &self.failure {
            return failure.clone();
        }
        if self.is_typing {
            return format!("filter: {}_", plain(&self.filter));
        }
        let paused = if self.is_paused { "PAUSED  " } else { "" };
        let filter = if self.filter.is_empty() { String::new() } else { format!("filter {}  ", plain(&self.filter)) };
        let reversed = if self.is_reversed { " reversed" } else { "" };
        format!("{paused}{filter}{rows} by {}{reversed}  {HELP}", self.sort.as_str())
    }
}

fn compare(sort: Sort, a: &Item, b: &Item) -> Ordering {
    let depth = |item: &Item| item.site.ready + item.site.scheduled;
    match sort {
        Sort::Depth => depth(b).cmp(&depth(a)),
        Sort::Rate => b.delivered.total_cmp(&a.delivered),
        Sort::Deferrals => b.deferred.total_cmp(&a.deferred),
        Sort::Bounces => b.bounced.total_cmp(&a.bounced),
        Sort::Connections => b.site.connections.cmp(&a.site.connections),
        Sort::Oldest => b.site.age_seconds.cmp(&a.site.age_seconds),
        Sort::Name => Ordering::Equal,
    }
}

fn name(item: &Item) -> Cell<'static> {
    Cell::from(plain(&item.site.site))
}

fn number(text: String) -> Cell<'static> {
    Cell::from(Line::raw(text).right_aligned())
}

/// A column of numbers.
#[derive(Debug)]
struct Column {
    title: &'static str,
    width: u16,
    /// Shown where the screen is at least so wide: names and causes come first.
    from: usize,
    of: fn(&Item) -> String,
}

const DELIVERED: fn(&Item) -> String = |item| format!("{:.1}", item.delivered);
const DEFERRED: fn(&Item) -> String = |item| format!("{:.1}", item.deferred);
const BOUNCED: fn(&Item) -> String = |item| format!("{:.1}", item.bounced);
const OLDEST: fn(&Item) -> String = |item| span(item.site.age_seconds);

/// Of sites.
const COLUMNS: [Column; 8] = [
    Column { title: "READY", width: 9, from: 0, of: |item| thousands(item.site.ready) },
    Column { title: "SCHED", width: 9, from: 60, of: |item| thousands(item.site.scheduled) },
    Column { title: "FLIGHT", width: 6, from: 110, of: |item| item.site.in_flight.to_string() },
    Column { title: "CONNS", width: 6, from: 100, of: |item| item.site.connections.to_string() },
    Column { title: "DELIV/S", width: 8, from: 70, of: DELIVERED },
    Column { title: "DEFER/S", width: 8, from: 120, of: DEFERRED },
    Column { title: "BOUNC/S", width: 8, from: 130, of: BOUNCED },
    Column { title: "OLDEST", width: 7, from: 90, of: OLDEST },
];

/// Of tenants.
const TENANT_COLUMNS: [Column; 5] = [
    Column { title: "QUEUED", width: 9, from: 0, of: |item| thousands(item.site.ready) },
    Column { title: "DELIV/S", width: 8, from: 36, of: DELIVERED },
    Column { title: "DEFER/S", width: 8, from: 46, of: DEFERRED },
    Column { title: "BOUNC/S", width: 8, from: 64, of: BOUNCED },
    Column { title: "OLDEST", width: 7, from: 55, of: OLDEST },
];

/// Those that a screen of this width has room for.
fn columns(all: &'static [Column], width: usize) -> Vec<&'static Column> {
    all.iter().filter(|column| column.from <= width).collect()
}

fn row(item: &Item, columns: &[&Column], has_why: bool) -> Row<'static> {
    let site = &item.site;
    let back_off = site.back_off_seconds.map(|seconds| format!("back-off {}: ", span(seconds))).unwrap_or_default();
    let why = has_why.then(|| Cell::from(plain(&format!("{back_off}{}", site.why()))));
    let numbers = columns.iter().map(|column| number((column.of)(item)));
    Row::new([name(item)].into_iter().chain(numbers).chain(why))
}

/// The lines above the table.
fn head(status: &Value) -> [String; 3] {
    let at = |pointer: &str| status.pointer(pointer).unwrap_or(&Value::Null);
    let text = |pointer: &str| plain(at(pointer).as_str().unwrap_or_default());
    let verdict = match at("/problems").as_array().map_or(0, Vec::len) {
        0 => "all is well".to_owned(),
        1 => format!("PROBLEM: {}", text("/problems/0/what")),
        count => format!("{count} PROBLEMS: {}", text("/problems/0/what")),
    };
    let rate = |name: &str| at(&format!("/outline/rates/{name}")).as_f64().unwrap_or_default();
    let number = |name: &str| thousands(at(&format!("/queue/{name}")).as_u64().unwrap_or_default());
    let up = span(at("/uptime_seconds").as_u64().unwrap_or_default());
    [
        format!("{}  {}  up {up}  {verdict}", text("/hostname"), text("/state")),
        format!(
            "{:.1} submitted, {:.1} delivered, {:.1} deferred, {:.1} bounced a second",
            rate("submitted"),
            rate("delivered"),
            rate("deferred"),
            rate("bounced")
        ),
        format!(
            "{} queued: {} ready, {} scheduled, {} for DNS, {} in flight; {} connections",
            number("queued"),
            number("ready"),
            number("scheduled"),
            number("waiting_for_dns"),
            number("in_flight"),
            number("connections")
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyEvent;
    use serde_json::json;

    use super::*;

    fn key(code: KeyCode) -> Event {
        Event::Key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn press(screen: &mut Screen, keys: &str) {
        keys.chars().for_each(|c| assert_eq!(screen.react(&key(KeyCode::Char(c))), Reaction::Stay));
    }

    fn queue(delivered: u64) -> Value {
        json!({"sites": [
            {"site": "big.test", "ready": 1_000_000, "scheduled": 5, "connections": 2, "delivered": delivered},
            {"site": "quick.test", "ready": 1, "connections": 9, "delivered": delivered * 10, "last_reply": "450 \u{1b}[2Jbusy"},
        ], "tenants": [
            {"tenant": "acme", "queued": 12_345, "delivered": delivered, "deferred": delivered / 10, "bounced": 3},
            {"tenant": "calm", "queued": 0, "delivered": 5, "bounced": delivered / 20},
        ]})
    }

    fn status() -> Value {
        json!({"hostname": "mta.test", "state": "accepting", "uptime_seconds": 61, "problems": [],
            "queue": {"queued": 1_000_006}, "outline": {"rates": {"submitted": 12.5}}})
    }

    fn screen() -> Screen {
        let mut screen = Screen::default();
        let now = Instant::now();
        screen.take(&status(), &queue(100), now);
        screen.take(&status(), &queue(300), now + Duration::from_secs(2));
        screen
    }

    fn drawn(screen: &mut Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let cells = buffer.content().chunks(usize::from(width.max(1)));
        cells.map(|row| row.iter().map(|cell| cell.symbol()).collect()).collect()
    }

    #[test]
    fn sites_are_shown_with_their_rates_since_the_last_look() {
        let lines = drawn(&mut screen(), 100, 24);

        assert!(lines[0].contains("mta.test  accepting  up 1m 1s  all is well"), "{lines:#?}");
        assert!(lines[1].contains("12.5 submitted") && lines[2].contains("1,000,006 queued"), "{lines:#?}");
        assert!(lines[4].starts_with("big.test") && lines[4].contains("1,000,000"), "{lines:#?}");
        assert!(lines[4].contains(" 100.0 ") && lines[5].contains(" 1000.0 "), "{lines:#?}");
        assert!(lines[23].contains("2 by depth"), "{lines:#?}");
    }

    #[test]
    fn keys_sort_filter_turn_and_pause() {
        let mut screen = screen();

        press(&mut screen, "s");
        assert!(drawn(&mut screen, 100, 24)[4].starts_with("quick.test"));
        press(&mut screen, "r");
        assert!(drawn(&mut screen, 100, 24)[4].starts_with("big.test"));
        press(&mut screen, "/QUICK");
        let lines = drawn(&mut screen, 100, 24);
        assert!(lines[4].starts_with("quick.test") && lines[5].trim().is_empty(), "{lines:#?}");
        assert!(lines[23].contains("filter: QUICK_"), "{lines:#?}");
        screen.react(&key(KeyCode::Esc));
        press(&mut screen, "rtp");
        let lines = drawn(&mut screen, 100, 24);
        assert!(lines[4].starts_with("acme") && lines[4].contains("12,345"), "{lines:#?}");
        assert!(lines[23].contains("PAUSED") && screen.is_paused(), "{lines:#?}");
        assert_eq!(screen.react(&key(KeyCode::Char('q'))), Reaction::Quit);
    }

    #[test]
    fn tenants_are_shown_with_their_rates_since_the_last_look_and_sorted_by_them() {
        let mut screen = screen();
        press(&mut screen, "t");

        let lines = drawn(&mut screen, 80, 24);

        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&lines[3]), ["TENANT", "QUEUED", "DELIV/S", "DEFER/S", "BOUNC/S", "OLDEST"]);
        assert_eq!(words(&lines[4])[..5], ["acme", "12,345", "100.0", "10.0", "0.0"]);
        assert_eq!(words(&lines[5])[..5], ["calm", "0", "0.0", "0.0", "5.0"]);
        press(&mut screen, "sss");
        let lines = drawn(&mut screen, 80, 24);
        assert!(lines[4].starts_with("calm") && lines[23].contains("by bounced"), "{lines:#?}");
        let narrow = drawn(&mut screen, 40, 24);
        assert!(narrow[4].starts_with("calm") && narrow[3].contains("DELIV/S"), "{narrow:#?}");
        assert!(!narrow[3].contains("BOUNC/S"), "{narrow:#?}");
    }

    #[test]
    fn a_narrow_screen_keeps_names_and_causes_and_a_wide_one_has_every_number() {
        let mut screen = Screen::default();
        let name = "mx.a-provider.example";
        let reason = "greeting: 421 4.7.0 too many";
        let queue =
            json!({"sites": [{"site": name, "ready": 7, "connections": 2, "age_seconds": 90, "last_reply": reason}]});
        screen.take(&status(), &queue, Instant::now());

        let narrow = drawn(&mut screen, 80, 24);
        let wide = drawn(&mut screen, 130, 24);

        assert!(narrow[4].starts_with("mx.a-provider") && narrow[4].contains("421 4.7.0"), "{narrow:#?}");
        for title in ["READY", "SCHED", "FLIGHT", "CONNS", "DELIV/S", "DEFER/S", "BOUNC/S", "OLDEST", "WHY"] {
            assert!(wide[3].contains(title), "{wide:#?}");
        }
        assert!(wide[4].starts_with(name) && wide[4].contains("1m 30s"), "{wide:#?}");
    }

    #[test]
    fn no_size_and_no_scrolling_breaks_it() {
        let mut screen = screen();
        for _ in 0..100 {
            screen.react(&key(KeyCode::PageDown));
        }

        for (width, height) in [(1, 1), (3, 2), (20, 4), (80, 5), (500, 100)] {
            drawn(&mut screen, width, height);
        }
        assert!(drawn(&mut screen, 100, 24)[4].starts_with("big.test"), "scrolling ends at the last page");
    }

    #[test]
    fn control_characters_of_replies_do_not_reach_the_terminal() {
        let text = drawn(&mut screen(), 200, 24).concat();

        assert!(!text.contains('\u{1b}') && text.contains("\\u{1b}[2Jbusy"), "{text}");
    }

    #[test]
    fn a_daemon_that_does_not_answer_leaves_what_was_there_and_is_told() {
        let mut screen = screen();

        screen.fail("cannot reach the daemon at /x\nmore");

        let lines = drawn(&mut screen, 100, 24);
        assert!(lines[23].contains("cannot reach the daemon") && lines[4].starts_with("big.test"), "{lines:#?}");
    }
}

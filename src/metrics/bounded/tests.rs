//! Tables of bounded series: who is shown, who is pushed out, and that sums stay.

use super::*;

const COLUMNS: &[Column] = &[
    Column { name: "t_sent_total", help: "Sent.", label: Some(("outcome", "good")), kind: Kind::Counter },
    Column { name: "t_sent_total", help: "Sent.", label: Some(("outcome", "bad")), kind: Kind::Counter },
    Column { name: "t_ready", help: "Ready.", label: None, kind: Kind::Sum },
    Column { name: "t_oldest", help: "Oldest.", label: None, kind: Kind::Most },
];
const LOOK: Duration = Duration::from_secs(2);

/// A table of two rows, and owners that are judged with it.
struct Stage {
    table: Bounded,
    places: HashMap<&'static str, Place>,
    now: Instant,
}

impl Stage {
    fn new(names: &[&'static str]) -> Self {
        let places = names.iter().map(|name| (*name, Place::default())).collect();
        Self { table: Bounded::new("site", COLUMNS, 2), places, now: Instant::now() }
    }

    fn count(&self, name: &str, more: u32) {
        self.table.count(&self.places[name], 0, more);
    }

    /// A look at which these have so much waiting.
    fn look(&mut self, depths: &[(&str, usize)]) {
        self.now += LOOK;
        let depth = |name: &str| depths.iter().find(|(own, _)| *own == name).map_or(0, |(_, depth)| *depth);
        let owner = |(name, place): (&&'static str, _)| {
            let waiting = depth(name);
            Owner { name, place, depth: waiting, values: vec![waiting as u64, waiting as u64] }
        };
        let owners: Vec<Owner<'_>> = self.places.iter().map(owner).collect();
        self.table.judge(self.now, &owners);
    }

    fn value(&self, series: &str) -> Option<u64> {
        let mut text = String::new();
        self.table.render(&mut text);
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    fn sent(&self, name: &str) -> Option<u64> {
        self.value(&format!("t_sent_total{{site=\"{name}\",outcome=\"good\"}}"))
    }
}

#[test]
fn the_busiest_have_a_row_and_the_rest_is_other() {
    let mut stage = Stage::new(&["a", "b", "c", "d"]);

    stage.look(&[("a", 5), ("b", 1), ("c", 9), ("d", 2)]);
    ["a", "b", "c", "d"].into_iter().for_each(|name| stage.count(name, 3));

    assert_eq!((stage.sent("a"), stage.sent("c"), stage.sent("other")), (Some(3), Some(3), Some(6)));
    assert_eq!((stage.sent("b"), stage.sent("d")), (None, None));
    assert_eq!(stage.value("t_ready{site=\"other\"}"), Some(3));
    assert_eq!(stage.value("t_oldest{site=\"other\"}"), Some(2));
    assert_eq!(stage.value("t_ready{site=\"c\"}"), Some(9));
}

#[test]
fn other_is_there_with_zeros_before_anything_happens() {
    let stage = Stage::new(&[]);

    assert_eq!(stage.sent("other"), Some(0));
    assert_eq!(stage.value("t_oldest{site=\"other\"}"), Some(0));
}

#[test]
fn traffic_counts_as_much_as_depth() {
    let mut stage = Stage::new(&["a", "b", "c"]);
    stage.count("c", 100);

    stage.look(&[("a", 1), ("b", 2)]);
    stage.count("c", 1);

    assert_eq!((stage.sent("a"), stage.sent("b"), stage.sent("c")), (None, Some(0), Some(1)));
    assert_eq!(stage.sent("other"), Some(100));
}

#[test]
fn a_row_is_kept_over_a_pause_and_dropped_when_idle() {
    let mut stage = Stage::new(&["a"]);
    stage.look(&[("a", 1)]);
    stage.count("a", 7);
    stage.look(&[]);

    let looks = u32::try_from(IDLE.as_secs() / LOOK.as_secs()).unwrap();
    (0..looks).for_each(|_| stage.look(&[]));
    assert_eq!(stage.sent("a"), Some(7));
    (0..2).for_each(|_| stage.look(&[]));
    assert_eq!(stage.sent("a"), None);
    stage.count("a", 2);

    assert_eq!(stage.sent("other"), Some(2));
    stage.look(&[("a", 1)]);
    assert_eq!(stage.sent("a"), Some(0), "a new series begins at zero");
}

#[test]
fn one_that_has_long_had_twice_the_work_takes_the_weakest_row() {
    let mut stage = Stage::new(&["a", "b", "c"]);
    stage.look(&[("a", 100), ("b", 50)]);
    stage.count("b", 5);
    let depths = [("a", 100), ("b", 50), ("c", 500)];

    (1..PERSISTENCE).for_each(|_| stage.look(&depths));
    assert_eq!((stage.sent("b"), stage.sent("c")), (Some(5), None));
    (0..2).for_each(|_| stage.look(&depths));

    assert_eq!((stage.sent("a"), stage.sent("b"), stage.sent("c")), (Some(0), None, Some(0)));
}

#[test]
fn a_burst_or_a_little_more_work_takes_no_row() {
    let mut stage = Stage::new(&["a", "b", "c"]);
    stage.look(&[("a", 100), ("b", 50)]);

    for round in 0..4 * PERSISTENCE {
        let burst = if round % PERSISTENCE == 0 { 60 } else { 5_000 };
        stage.look(&[("a", 100), ("b", 50), ("c", burst)]);
    }

    assert_eq!((stage.sent("b"), stage.sent("c")), (Some(0), None));
}

#[test]
fn series_are_monotone_and_nothing_is_counted_twice() {
    let names = ["a", "b", "c", "d", "e"];
    let mut stage = Stage::new(&names);
    let mut last: HashMap<String, u64> = HashMap::new();
    let mut gone = 0;
    let mut all = 0;

    for round in 0..2_000_u32 {
        for (number, name) in (0..).zip(names) {
            // Each is the busiest for a while.
            let busy = (round / 400) % 5 == number;
            let more = if busy { 900 } else { number };
            stage.count(name, more);
            all += u64::from(more);
        }
        // What is scraped before the look, that nothing is missed of a series that ends with it, and after.
        for looks in 0..2 {
            (0..looks).for_each(|_| stage.look(&[]));
            let value = |name: &&str| Some(((*name).to_owned(), stage.sent(name)?));
            let now: HashMap<String, u64> = names.iter().chain([&OTHER]).filter_map(value).collect();
            for (name, value) in &last {
                match now.get(name) {
                    Some(next) => assert!(next >= value, "{name} fell from {value} to {next}"),
                    None => gone += value,
                }
            }
            last = now;
        }
    }

    assert!(gone > 0, "no row was ever freed");
    assert_eq!(last.values().sum::<u64>() + gone, all);
}

#[test]
fn an_owner_that_is_made_anew_finds_its_row_again() {
    let mut stage = Stage::new(&["a"]);
    stage.look(&[("a", 1)]);
    stage.count("a", 1);

    stage.places.insert("a", Place::default());
    stage.look(&[("a", 1)]);
    stage.count("a", 1);

    assert_eq!(stage.sent("a"), Some(2));
}

#[test]
fn nobody_can_be_called_other() {
    let mut stage = Stage::new(&["other"]);

    stage.look(&[("other", 9)]);
    stage.count("other", 4);

    let mut text = String::new();
    stage.table.render(&mut text);
    assert_eq!(text.matches("t_ready{").count(), 1, "{text}");
    assert_eq!(stage.sent("other"), Some(4));
}

#[test]
fn long_names_are_cut_and_stay_apart() {
    let (one, two) = ("é".repeat(300), "é".repeat(301));

    assert!(label_of(&one).len() <= LABEL_MOST);
    assert_ne!(label_of(&one), label_of(&two));
    assert_eq!(label_of("gmail.com"), "gmail.com");
}

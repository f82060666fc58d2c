//! S8: the fuzz targets of `fuzz/` without libFuzzer: every file of the corpus, and variants of it.
//!
//! A variant is a file of the corpus, or two of them, changed a few times. A target that takes a second of processor time is
//! a hang, whatever else the machine does meanwhile.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use rustix::time::{ClockId, clock_gettime};

use crate::cases::{cases, sized};
use crate::targets::{TARGETS, Target};

/// Processor time of one input.
const MOST: Duration = Duration::from_secs(1);
/// Octets of a variant.
const LONGEST: usize = 16 * 1024;

/// What a variant may get: the words that parsers look for, and the octets that they fear.
const WORDS: [&[u8]; 30] = [
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b"\r\n.\r\n",
    b"\n.\n",
    b"\r.\r",
    b".",
    b"\r\n ",
    b"\x7f",
    b"\xff",
    b"\xc3",
    "\u{fc}".as_bytes(),
    "\u{2028}".as_bytes(),
    "\u{202e}".as_bytes(),
    b"<>",
    b"@",
    b"\"",
    b"\\",
    b"=",
    b"+0D+0A",
    b"MAIL FROM:<a@x.test>\r\n",
    b"RCPT TO:<b@y.test>\r\n",
    b"DATA\r\n",
    b"BDAT 4 LAST\r\n",
    b"BDAT 3\r\n",
    b"250-",
    b"18446744073709551615",
    b"[[",
    b"]",
];

/// One change.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Put(Index, u8),
    Word(Index, Index),
    Cut(Index, Index),
    Repeat(Index, u8, u8),
    Splice(Index, Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        2 => (any::<Index>(), 0..8u8).prop_map(|(at, bit)| Change::Flip(at, 1 << bit)),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, octet)| Change::Put(at, octet)),
        4 => (any::<Index>(), any::<Index>()).prop_map(|(at, word)| Change::Word(at, word)),
        2 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Change::Cut(from, to)),
        1 => (any::<Index>(), 1..60u8, 1..40u8).prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
        2 => (any::<Index>(), any::<Index>(), any::<Index>()).prop_map(|(at, file, from)| Change::Splice(at, file, from)),
    ]
}

impl Change {
    fn apply(&self, octets: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let room = octets.len() + 1;
        match self {
            Self::Flip(..) | Self::Cut(..) | Self::Repeat(..) if octets.is_empty() => {}
            Self::Flip(at, bit) => octets[at.index(room - 1)] ^= bit,
            Self::Put(at, octet) => octets.insert(at.index(room), *octet),
            Self::Word(at, word) => insert(octets, at.index(room), WORDS[word.index(WORDS.len())]),
            Self::Cut(from, to) => {
                let (from, to) = (from.index(room), to.index(room));
                octets.drain(from.min(to)..from.max(to));
            }
            Self::Repeat(at, length, times) => {
                let at = at.index(room - 1);
                let piece = octets[at..(at + usize::from(*length)).min(octets.len())].repeat(usize::from(*times));
                insert(octets, at, &piece);
            }
            Self::Splice(at, file, from) => {
                let other = file.get(corpus);
                insert(octets, at.index(room), &other[from.index(other.len() + 1)..]);
            }
        }
        octets.truncate(LONGEST);
    }
}

fn insert(octets: &mut Vec<u8>, at: usize, piece: &[u8]) {
    octets.splice(at..at, piece.iter().copied());
}

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Processor time of this thread.
fn used() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

fn check(target: &Target, octets: &[u8]) -> Duration {
    let before = used();
    (target.run)(octets);
    used() - before
}

fn fuzz(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let corpus = corpus(target);
    assert!(corpus.len() >= 5, "a corpus for {name}");
    // Tables are built by the first one.
    (target.run)(&corpus[0]);
    for octets in &corpus {
        assert!(check(target, octets) < MOST, "{name}: {:?}", String::from_utf8_lossy(octets));
    }

    let variants = sized(1_500, 300_000);
    let config = Config { cases: variants as u32, failure_persistence: None, ..Config::default() };
    let slowest = Cell::new(Duration::ZERO);
    let changes = (any::<Index>(), prop::collection::vec(change(), 1..6));
    let result = TestRunner::new(config).run(&changes, |(file, changes)| {
        let mut octets = file.get(&corpus).clone();
        changes.iter().for_each(|change| change.apply(&mut octets, &corpus));
        let took = check(target, &octets);
        slowest.set(slowest.get().max(took));
        let what = || TestCaseError::fail(format!("{took:?} for {:?}", String::from_utf8_lossy(&octets)));
        if took < MOST { Ok(()) } else { Err(what()) }
    });
    result.unwrap_or_else(|error| panic!("{name}: {error}"));
    println!("{name}: {} files, {variants} variants, the slowest took {:?}", corpus.len(), slowest.get());
    cases(corpus.len() + variants);
}

macro_rules! targets {
    ($($test:ident: $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                fuzz($name);
            }
        )*

        #[test]
        fn every_target_has_a_test_and_an_entry_for_libfuzzer() {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$($name),*]);
            for name in names {
                let entry = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/fuzz_targets/{name}.rs"));
                assert!(fs::read_to_string(entry).unwrap().contains(&format!("run(\"{name}\", ")), "{name}");
            }
        }
    };
}

targets! {
    commands_taken_are_taken_again_as_they_are_written: "command",
    addresses_taken_are_taken_again_as_they_are_written: "address",
    content_is_what_rfc_5321_says_wherever_it_is_cut: "data",
    the_end_of_a_header_section_does_not_depend_on_what_follows: "header",
    sessions_do_not_depend_on_where_the_input_is_cut: "session",
    replies_are_bounded_plain_and_the_same_wherever_they_are_cut: "reply",
    dsns_keep_their_form_whatever_is_reported: "dsn",
    nobody_is_accepted_unverified_whatever_they_say: "sasl",
    policies_name_plain_hosts_and_are_the_same_when_written_out: "policy",
    damage_under_a_right_checksum_makes_no_envelope_that_cannot_be_written: "record",
    configurations_taken_are_taken_again_as_they_are_written: "configuration",
    users_files_are_taken_or_refused_with_a_short_reason: "users",
    balancers_name_the_same_client_wherever_they_are_cut: "proxy",
    signatures_hold_whatever_is_signed: "dkim",
    what_comes_back_is_told_plainly_and_bounded: "bounce",
}

//! What a report says, sorted by whom it is about: replies of quoted sessions, what stands below an address, paragraphs.
//!
//! A report about several recipients says of each what became of it, and none of that may be told of another. So a text is about
//! those recipients that it names, and about the one below whose address it stands ([`Listed::owner`]); what is about nobody
//! in particular may be the reason for all. Texts are kept once and taken apart once, however many recipients they may be about.

use std::collections::{BTreeMap, BTreeSet};

use super::entry::Entry;
use super::listed::Listed;
use super::mail::Mail;
use super::transcript;
use super::{address, diagnostic, shape, words};
use crate::message::Phase;
use crate::reply::Diagnostic;

pub(super) type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;
type HashSet<K> = std::collections::HashSet<K, foldhash::fast::RandomState>;

/// Most texts of one kind that may be the reason for one recipient.
const MOST: usize = 24;

/// The place of a text.
pub(super) type Place = usize;

/// Texts, each taken apart.
#[derive(Default)]
pub(super) struct Texts {
    kept: Vec<(String, Diagnostic)>,
    places: HashMap<String, Place>,
}

impl Texts {
    /// The place of a text.
    pub fn keep(&mut self, text: &str) -> Place {
        if let Some(place) = self.places.get(text) {
            return *place;
        }
        let place = self.kept.len();
        self.kept.push((text.to_owned(), diagnostic::of(text)));
        self.places.insert(text.to_owned(), place);
        place
    }

    /// The text at a place, and what it is made of.
    pub fn at(&self, place: Place) -> (&str, &Diagnostic) {
        static NOTHING: Diagnostic = Diagnostic { step: None, code: 0, status: None, text: String::new() };
        self.kept.get(place).map_or(("", &NOTHING), |(text, diagnostic)| (text, diagnostic))
    }

    /// The reply code of a text; 0: none.
    pub fn code(&self, place: Place) -> u16 {
        self.at(place).1.code
    }
}

/// A reply that a report quotes, and the step that its command tells.
pub(super) type Quote = (Place, Option<Phase>);

/// A text with whom it names, in lower case, and the groups of addresses that it stands below.
struct Found {
    place: Place,
    step: Option<Phase>,
    names: BTreeSet<String>,
    owners: BTreeSet<usize>,
}

/// Whom a text is about.
enum Whose {
    Everybody,
    One(String),
    /// Several: it does not say what of whom.
    Some,
}

/// What a report says.
#[derive(Default)]
pub(super) struct Heard {
    /// Every text.
    pub texts: Texts,
    quotes: Vec<Found>,
    /// Those that quote a reply first, then those that tell of a failure; then the subject.
    paragraphs: Vec<Found>,
    /// What the list of addresses says of each, by the address in lower case, and the groups that it has.
    told: HashMap<String, Place>,
    groups: Vec<Vec<String>>,
    sorted: Sorted,
    /// Whether it is about a message that is late only.
    pub is_delay: bool,
}

/// Texts by whom they are about.
#[derive(Default)]
struct Sorted {
    /// By those whom they name.
    quotes: HashMap<String, Vec<Quote>>,
    paragraphs: HashMap<String, Vec<Place>>,
    /// By the group that they stand below, and such groups by their addresses.
    quotes_of_group: BTreeMap<usize, Vec<Quote>>,
    groups: HashMap<String, Vec<usize>>,
    /// Addresses below which something stands that is about others.
    foreign: HashSet<String>,
    is_about_several: bool,
    /// About nobody in particular.
    quotes_of_all: Vec<Quote>,
    paragraphs_of_all: Vec<Place>,
}

impl Heard {
    /// Of a message.
    pub fn of(mail: &Mail) -> Self {
        let mut heard = Self::default();
        let listed = mail.listed();
        for said in transcript::read(&mail.lines) {
            let owners = listed.owner(said.line).into_iter().collect();
            let names = said.names().into_iter().collect();
            heard.quotes.push(Found { place: heard.texts.keep(&said.reply), step: said.step, names, owners });
        }
        let subject = mail.header.get("subject").unwrap_or_default();
        heard.hear(&mail.lines, listed, subject);
        heard.groups = listed.groups().map(<[String]>::to_vec).collect();
        for Entry { address, text, .. } in &listed.entries {
            let Some(address) = address.as_deref().filter(|_| !text.trim().is_empty()) else { continue };
            heard.told.insert(address.to_ascii_lowercase(), heard.texts.keep(text));
        }
        heard
    }

    /// Takes the paragraphs, and what they tell of a delay.
    fn hear(&mut self, lines: &[String], listed: &Listed, subject: &str) {
        let (mut is_over, mut is_late) = (false, words::tells_delay(&subject.to_lowercase()));
        let (mut replies, mut failures, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (number, (lines, text)) in shape::placed_paragraphs(lines).into_iter().enumerate() {
            let lower = text.to_lowercase();
            is_over |= words::tells_end(&lower);
            let owners: BTreeSet<usize> = lines.filter_map(|line| listed.owner(line)).collect();
            if words::tells_delay(&lower) {
                // A receiver's words about one recipient are not the report's about all.
                is_late |= owners.is_empty() || diagnostic::of(&text).code == 0;
            }
            if number < MOST {
                let names = address::all(&text).map(str::to_ascii_lowercase).collect();
                let found = Found { place: self.texts.keep(&text), step: None, names, owners };
                match self.texts.code(found.place) {
                    0 if words::tells_failure(&lower) => failures.push(found),
                    0 => others.push(found),
                    _ => replies.push(found),
                }
            }
        }
        let names = address::all(subject).map(str::to_ascii_lowercase).collect();
        others.push(Found { place: self.texts.keep(subject), step: None, names, owners: BTreeSet::new() });
        self.paragraphs = replies.into_iter().chain(failures).chain(others).collect();
        self.is_delay = is_late && !is_over;
    }

    /// Whether a refusal is quoted anywhere.
    pub fn has_reply(&self) -> bool {
        !self.quotes.is_empty() || self.paragraphs.iter().any(|found| self.texts.code(found.place) >= 400)
    }

    /// Sorts texts by whom of these they are about.
    pub fn sort(&mut self, entries: &[Entry]) {
        let known = Known::of(entries, self.refused_beside(entries));
        let mut sorted = Sorted { is_about_several: known.count > 1, ..Sorted::default() };
        sorted.foreign = self.told_of_others(&known);
        for found in &self.quotes {
            let quote = (found.place, found.step);
            let owner = found.owners.first().filter(|_| known.count > 1);
            let owner = owner.filter(|owner| self.members(**owner).any(|name| known.names.contains_key(name)));
            match owner {
                _ if !found.names.is_empty() => {
                    for name in &found.names {
                        sorted.quotes.entry(name.clone()).or_default().push(quote);
                    }
                }
                Some(owner) => sorted.quotes_of_group.entry(*owner).or_default().push(quote),
                None => sorted.quotes_of_all.push(quote),
            }
        }
        sorted.quotes_of_all.truncate(MOST);
        for group in sorted.quotes_of_group.keys().copied() {
            for address in self.members(group) {
                sorted.groups.entry(address.clone()).or_default().push(group);
            }
        }
        for found in &self.paragraphs {
            match self.whose(found, &known) {
                Whose::Everybody => sorted.paragraphs_of_all.push(found.place),
                Whose::One(name) => sorted.paragraphs.entry(name).or_default().push(found.place),
                Whose::Some => {}
            }
        }
        self.sorted = sorted;
    }

    fn members(&self, group: usize) -> impl Iterator<Item = &String> {
        self.groups.get(group).into_iter().flatten()
    }

    /// Addresses of the list that a refusal is quoted of, if the recipients are of the list, too: the sender's own may be among them,
    /// which is left out as a recipient.
    fn refused_beside(&self, entries: &[Entry]) -> impl Iterator<Item = &String> {
        let listed: HashSet<&String> = self.groups.iter().flatten().collect();
        let is_listed = |name: &String| listed.contains(&name.to_ascii_lowercase());
        let are_listed = entries.iter().all(|entry| entry.address.as_ref().is_some_and(is_listed));
        self.told.iter().filter(move |(_, place)| are_listed && self.texts.code(**place) >= 400).map(|(name, _)| name)
    }

    /// Addresses below which other recipients only are named: in a transcript each line has its own.
    fn told_of_others(&self, known: &Known) -> HashSet<String> {
        let mut named: HashMap<Place, BTreeSet<&String>> = HashMap::default();
        for place in self.told.values() {
            let names = || address::all(self.texts.at(*place).0);
            let known = |name: &str| known.names.get(&name.to_ascii_lowercase());
            named.entry(*place).or_insert_with(|| names().filter_map(known).collect());
        }
        let is_of_others = |own: &String, place: &Place| {
            let own = known.names.get(own).unwrap_or(own);
            named.get(place).is_some_and(|named| !named.is_empty() && !named.contains(own))
        };
        self.told.iter().filter(|(own, place)| is_of_others(own, place)).map(|(own, _)| own.clone()).collect()
    }

    /// Whom a paragraph is about.
    fn whose(&self, found: &Found, known: &Known) -> Whose {
        if known.count < 2 {
            return Whose::Everybody;
        }
        let owners = found.owners.iter().flat_map(|owner| self.members(*owner));
        let mut about = found.names.iter().chain(owners).filter_map(|name| known.names.get(name));
        match about.next() {
            None => Whose::Everybody,
            Some(one) if about.all(|other| other == one) => Whose::One(one.clone()),
            Some(_) => Whose::Some,
        }
    }

    /// What the list of addresses says of one, in lower case; none: nothing, or what it says is about others.
    pub fn told(&self, address: &str) -> Option<Place> {
        self.told.get(address).copied().filter(|_| !self.is_told_of_others(address))
    }

    /// Whether what stands below an address is about others.
    pub fn is_told_of_others(&self, address: &str) -> bool {
        self.sorted.foreign.contains(address)
    }

    /// Whether the list of addresses says this of one.
    pub fn is_told(&self, address: &str, place: Place) -> bool {
        self.told.get(address) == Some(&place)
    }

    /// Replies that name an address, in lower case.
    pub fn quotes_of(&self, address: &str) -> impl Iterator<Item = Quote> + '_ {
        self.sorted.quotes.get(address).into_iter().flatten().copied().take(MOST)
    }

    /// The groups of an address, in lower case, below which such replies stand.
    pub fn groups_of(&self, address: &str) -> impl Iterator<Item = usize> + '_ {
        self.sorted.groups.get(address).into_iter().flatten().copied()
    }

    /// Replies that stand below a group and name nobody.
    pub fn quotes_of_group(&self, group: usize) -> &[Quote] {
        self.sorted.quotes_of_group.get(&group).map_or(&[], |quotes| quotes.get(..MOST).unwrap_or(quotes))
    }

    /// Paragraphs that are about it.
    pub fn paragraphs_of(&self, address: &str) -> impl Iterator<Item = Place> + '_ {
        self.sorted.paragraphs.get(address).into_iter().flatten().copied()
    }

    /// Replies that are about nobody in particular.
    pub fn quotes_of_all(&self) -> &[Quote] {
        &self.sorted.quotes_of_all
    }

    /// Whether there are several recipients, so that what names nobody may be about another.
    pub fn is_about_several(&self) -> bool {
        self.sorted.is_about_several
    }

    /// Paragraphs of that kind.
    pub fn paragraphs_of_all(&self) -> &[Place] {
        &self.sorted.paragraphs_of_all
    }
}

/// The recipients of a report, and others of whom it tells.
struct Known {
    /// Each by all of its names, in lower case. A name that several go by is nobody's.
    names: HashMap<String, String>,
    /// How many there are.
    count: usize,
}

impl Known {
    fn of<'n>(entries: &[Entry], others: impl Iterator<Item = &'n String>) -> Self {
        let lower = |name: &Option<String>| name.as_deref().map(str::to_ascii_lowercase);
        let mut names: HashMap<String, String> = HashMap::default();
        let mut shared = HashSet::default();
        for entry in entries {
            let Some((own, original)) = lower(&entry.address).zip(lower(&entry.original)) else { continue };
            if names.insert(original.clone(), own.clone()).is_some_and(|before| before != own) {
                shared.insert(original);
            }
        }
        names.retain(|name, _| !shared.contains(name));
        let own = entries.iter().filter_map(|entry| lower(&entry.address));
        let others = others.filter(|name| !names.contains_key(*name)).cloned();
        let addresses: HashSet<String> = own.chain(others).collect();
        let count = addresses.len();
        names.extend(addresses.into_iter().map(|own| (own.clone(), own)));
        Self { names, count }
    }
}

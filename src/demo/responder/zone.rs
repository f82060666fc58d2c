//! The table a responder answers from: records by name or wildcard, and the faults it plays.
//!
//! Pure: a query goes in, an [`Answer`] comes out. Aliases are followed as a resolver does, as far as the table goes.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, PTR, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Aliases followed in one answer.
const MOST_ALIASES: usize = 8;
/// TTL of records unless [`Zone::ttl`] says otherwise.
const TTL: u32 = 300;
/// Negative TTL, in the SOA that comes with "there is none".
const NEGATIVE_TTL: u32 = 60;

/// What a responder does instead of answering from its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SERVFAIL.
    ServFail,
    /// REFUSED.
    Refused,
    /// NXDOMAIN.
    NxDomain,
    /// No answer at all.
    Silent,
    /// Truncated over UDP, whole over TCP.
    Truncate,
    /// Truncated over TCP too.
    TruncateAlways,
    /// These octets after the id in place of a DNS message.
    Garbage(Vec<u8>),
    /// The answer with some octets after the id changed; which ones and to what depends on the seed.
    Damage(u64),
    /// The answer, this much later.
    Delay(Duration),
}

/// The types of record that a zone can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// MX.
    Mx,
    /// A.
    A,
    /// AAAA.
    Aaaa,
    /// CNAME.
    Cname,
    /// TXT.
    Txt,
    /// PTR.
    Ptr,
}

impl Kind {
    fn of(kind: RecordType) -> Option<Self> {
        Some(match kind {
            RecordType::MX => Self::Mx,
            RecordType::A => Self::A,
            RecordType::AAAA => Self::Aaaa,
            RecordType::CNAME => Self::Cname,
            RecordType::TXT => Self::Txt,
            RecordType::PTR => Self::Ptr,
            _ => return None,
        })
    }
}

#[derive(Clone, Debug)]
enum Entry {
    /// `{}` in the exchange stands for the name that was asked.
    Mx(u16, String),
    RawMx(u16, Name),
    Address(IpAddr),
    Cname(String),
    Txt(String),
    Ptr(String),
}

impl Entry {
    const fn kind(&self) -> Kind {
        match self {
            Self::Mx(..) | Self::RawMx(..) => Kind::Mx,
            Self::Address(IpAddr::V4(_)) => Kind::A,
            Self::Address(IpAddr::V6(_)) => Kind::Aaaa,
            Self::Cname(_) => Kind::Cname,
            Self::Txt(_) => Kind::Txt,
            Self::Ptr(_) => Kind::Ptr,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Node {
    entries: Vec<Entry>,
    faults: Vec<(Option<Kind>, Fault)>,
    ttl: Option<u32>,
}

/// Records and faults by name. `*.suffix` stands for every name below the suffix that is not there itself.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    nodes: HashMap<String, Node>,
    below: HashSet<String>,
}

/// What to send.
#[derive(Debug)]
pub struct Answer {
    /// The response, without id.
    pub message: Message,
    /// What to do with it.
    pub fault: Option<Fault>,
}

impl Zone {
    /// A table without names: everything is NXDOMAIN.
    pub fn new() -> Self {
        Self::default()
    }

    /// An MX record. In the exchange `{}` stands for the name that was asked, which makes whole populations of domains
    /// with MX hosts of their own out of two wildcards; `.` makes a null MX (RFC 7505).
    pub fn mx(&mut self, name: &str, preference: u16, exchange: &str) -> &mut Self {
        self.add(name, Entry::Mx(preference, exchange.to_owned()))
    }

    /// A null MX.
    pub fn null_mx(&mut self, name: &str) -> &mut Self {
        self.mx(name, 0, ".")
    }

    /// An MX record whose exchange has these very labels, whatever octets they hold. Labels are 1 to 63 octets long;
    /// with others the record is left out.
    pub fn raw_mx(&mut self, name: &str, preference: u16, labels: &[&[u8]]) -> &mut Self {
        match Name::from_labels(labels.iter().copied()) {
            Ok(exchange) => self.add(name, Entry::RawMx(preference, exchange)),
            Err(_) => self,
        }
    }

    /// An A or AAAA record.
    pub fn address(&mut self, name: &str, address: impl Into<IpAddr>) -> &mut Self {
        self.add(name, Entry::Address(address.into()))
    }

    /// An alias.
    pub fn cname(&mut self, name: &str, target: &str) -> &mut Self {
        self.add(name, Entry::Cname(target.to_owned()))
    }

    /// A TXT record.
    pub fn txt(&mut self, name: &str, text: &str) -> &mut Self {
        self.add(name, Entry::Txt(text.to_owned()))
    }

    /// What an address points to.
    pub fn ptr(&mut self, address: IpAddr, target: &str) -> &mut Self {
        self.add(&Name::from(address).to_ascii(), Entry::Ptr(target.to_owned()))
    }

    /// The TTL of all records of a name, as it stands on the wire.
    pub fn ttl(&mut self, name: &str, ttl: u32) -> &mut Self {
        self.node(name).ttl = Some(ttl);
        self
    }

    /// Plays a fault for queries of one type (`None`: of every type) for a name.
    pub fn fault(&mut self, name: &str, kind: Option<Kind>, fault: Fault) -> &mut Self {
        self.node(name).faults.push((kind, fault));
        self
    }

    /// Takes records and faults of a name away.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.nodes.remove(&key(name));
        self
    }

    fn add(&mut self, name: &str, entry: Entry) -> &mut Self {
        self.node(name).entries.push(entry);
        self
    }

    fn node(&mut self, name: &str) -> &mut Node {
        let key = key(name);
        let mut rest = key.as_str();
        while let Some((_, parent)) = rest.split_once('.') {
            self.below.insert(parent.to_owned());
            rest = parent;
        }
        self.nodes.entry(key).or_default()
    }

    fn find(&self, name: &str) -> Option<&Node> {
        if let Some(node) = self.nodes.get(name) {
            return Some(node);
        }
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(node) = self.nodes.get(&format!("*.{parent}")) {
                return Some(node);
            }
            rest = parent;
        }
        None
    }

    /// The answer to a query.
    pub fn answer(&self, query: &Query) -> Answer {
        let mut message = Message::response(0, OpCode::Query);
        message.add_query(query.clone());
        message.metadata.authoritative = true;
        message.metadata.recursion_available = true;
        let kind = Kind::of(query.query_type());
        let asked = key(&query.name().to_ascii());
        let fault = self.find(&asked).and_then(|node| {
            node.faults.iter().find(|(of, _)| of.is_none() || *of == kind).map(|(_, fault)| fault.clone())
        });
        match fault {
            Some(Fault::ServFail) => message.metadata.response_code = ResponseCode::ServFail,
            Some(Fault::Refused) => message.metadata.response_code = ResponseCode::Refused,
            Some(Fault::NxDomain) => negative(&mut message, &asked, ResponseCode::NXDomain),
            _ => self.fill(&mut message, asked, query.name(), kind),
        }
        Answer { message, fault }
    }

    fn fill(&self, message: &mut Message, asked: String, owner: &Name, kind: Option<Kind>) {
        let (mut asked, mut owner) = (asked, owner.clone());
        for _ in 0..MOST_ALIASES {
            let Some(node) = self.find(&asked) else {
                let code = if self.below.contains(&asked) { ResponseCode::NoError } else { ResponseCode::NXDomain };
                return negative(message, &asked, code);
            };
            let ttl = node.ttl.unwrap_or(TTL);
            let records = node.entries.iter().filter(|entry| Some(entry.kind()) == kind);
            let records: Vec<Record> = records
                .filter_map(|entry| Some(Record::from_rdata(owner.clone(), ttl, data(entry, &asked)?)))
                .collect();
            if !records.is_empty() {
                message.add_answers(records);
                return;
            }
            let alias = node.entries.iter().find_map(|entry| match entry {
                Entry::Cname(target) => Some(target),
                _ => None,
            });
            let Some(target) = alias.and_then(|target| name(target)) else {
                return negative(message, &asked, ResponseCode::NoError);
            };
            message.add_answer(Record::from_rdata(owner, ttl, RData::CNAME(CNAME(target.clone()))));
            asked = key(&target.to_ascii());
            owner = target;
        }
    }
}

fn negative(message: &mut Message, asked: &str, code: ResponseCode) {
    message.metadata.response_code = code;
    let top = asked.rsplit('.').next().unwrap_or_default();
    if let (Some(owner), Some(host)) = (name(top), name("ns.invalid")) {
        let soa = SOA::new(host.clone(), host, 1, 3_600, 600, 86_400, NEGATIVE_TTL);
        message.add_authority(Record::from_rdata(owner, NEGATIVE_TTL, RData::SOA(soa)));
    }
}

fn data(entry: &Entry, asked: &str) -> Option<RData> {
    Some(match entry {
        Entry::Mx(preference, exchange) => RData::MX(MX::new(*preference, name(&exchange.replace("{}", asked))?)),
        Entry::RawMx(preference, exchange) => RData::MX(MX::new(*preference, exchange.clone())),
        Entry::Address(IpAddr::V4(address)) => RData::A(A::from(Ipv4Addr::from(address.octets()))),
        Entry::Address(IpAddr::V6(address)) => RData::AAAA(AAAA::from(Ipv6Addr::from(address.octets()))),
        Entry::Cname(target) => RData::CNAME(CNAME(name(target)?)),
        Entry::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
        Entry::Ptr(target) => RData::PTR(PTR(name(target)?)),
    })
}

fn name(text: &str) -> Option<Name> {
    if text == "." {
        return Some(Name::root());
    }
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn key(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(zone: &Zone, asked: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let message = zone.answer(&Query::query(name(asked).unwrap(), kind)).message;
        (message.response_code, message.answers.iter().map(|record| record.data.to_string()).collect())
    }

    #[test]
    fn wildcards_make_domains_with_mx_hosts_of_their_own() {
        let mut zone = Zone::new();
        zone.mx("*.many.test", 10, "mx.{}").address("*.many.test", [127, 0, 0, 9]);

        let (_, mx) = ask(&zone, "d17.many.test", RecordType::MX);
        let (_, address) = ask(&zone, "mx.d17.many.test", RecordType::A);

        assert_eq!((mx, address), (vec!["10 mx.d17.many.test.".into()], vec!["127.0.0.9".into()]));
    }

    #[test]
    fn no_data_is_told_from_no_such_name() {
        let mut zone = Zone::new();
        zone.address("a.b.test", [127, 0, 0, 1]);

        assert_eq!(ask(&zone, "a.b.test", RecordType::MX).0, ResponseCode::NoError);
        assert_eq!(ask(&zone, "b.test", RecordType::A).0, ResponseCode::NoError);
        assert_eq!(ask(&zone, "c.b.test", RecordType::A).0, ResponseCode::NXDomain);
    }

    #[test]
    fn aliases_are_followed_and_a_circle_ends() {
        let mut zone = Zone::new();
        zone.cname("x.test", "y.test").address("y.test", [127, 0, 0, 1]).cname("o.test", "p.test");
        zone.cname("p.test", "o.test");

        assert_eq!(ask(&zone, "x.test", RecordType::A).1, ["y.test.", "127.0.0.1"]);
        assert_eq!(ask(&zone, "o.test", RecordType::A).1.len(), MOST_ALIASES);
    }
}

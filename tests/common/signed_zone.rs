//! A DNSSEC-signed root zone on loopback: every answer is signed when it is asked for, by one Ed25519 key.
//!
//! What is not there is denied by an NSEC record at the very name (RFC 9824). Below a name given to [`Signed::insecure`] nothing
//! is signed, as behind a delegation without DS. Wildcards and DNAMEs are expanded, with an NSEC record as proof.
#![allow(dead_code)]

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use hickory_proto::dnssec::crypto::Ed25519SigningKey;
use hickory_proto::dnssec::rdata::sig::SigInput;
use hickory_proto::dnssec::rdata::{DNSKEY, DNSSECRData, NSEC, RRSIG};
use hickory_proto::dnssec::{PublicKey, SigningKey, TBS};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::tlsa::{CertUsage, Matching, Selector};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, NULL, SOA, TLSA, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, SerialNumber};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder};
use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

const TTL: u32 = 600;

/// Records and what is wrong with them.
#[derive(Default)]
pub struct Signed {
    records: HashMap<(String, RecordType), Vec<RData>>,
    insecure: HashSet<String>,
    bogus: HashSet<(String, RecordType)>,
    failing: HashSet<(String, RecordType)>,
    /// An NSEC record of the name stands beside each positive answer, as resolvers that minimise names leave one there.
    pub is_chatty: bool,
    /// Every answer says that it has been validated.
    pub is_validating: bool,
    /// No signature is given at all, as by a resolver that knows no DNSSEC.
    pub is_plain: bool,
}

/// A responder; stops when dropped.
pub struct Running {
    pub address: SocketAddr,
    /// The key, as a trust anchor.
    pub anchor: tempfile::NamedTempFile,
    asked: Arc<Mutex<Vec<(String, RecordType)>>>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    /// How often a type was asked for, whatever the name.
    pub fn asked(&self, kind: RecordType) -> usize {
        self.asked.lock().iter().filter(|(_, own)| *own == kind).count()
    }
}

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).unwrap()
}

/// The name right behind another one.
fn behind(text: &str) -> Name {
    Name::from_labels([&b"\0"[..]]).unwrap().append_domain(&name(text)).unwrap()
}

impl Signed {
    pub fn new() -> Self {
        let mut zone = Self::default();
        zone.add("", RData::NS(NS(name("ns.test"))));
        zone
    }

    fn add(&mut self, owner: &str, data: RData) -> &mut Self {
        self.records.entry((owner.to_owned(), data.record_type())).or_default().push(data);
        self
    }

    pub fn mx(&mut self, owner: &str, preference: u16, host: &str) -> &mut Self {
        self.add(owner, RData::MX(MX::new(preference, name(host))))
    }

    pub fn address(&mut self, owner: &str, address: impl Into<IpAddr>) -> &mut Self {
        match address.into() {
            IpAddr::V4(address) => self.add(owner, RData::A(A(address))),
            IpAddr::V6(address) => self.add(owner, RData::AAAA(AAAA(address))),
        }
    }

    pub fn txt(&mut self, owner: &str, text: &str) -> &mut Self {
        self.add(owner, RData::TXT(TXT::new(vec![text.to_owned()])))
    }

    pub fn cname(&mut self, owner: &str, target: &str) -> &mut Self {
        self.add(owner, RData::CNAME(CNAME(name(target))))
    }

    /// Everything below `owner` is below `target`.
    pub fn dname(&mut self, owner: &str, target: &str) -> &mut Self {
        let mut octets = Vec::new();
        name(target).emit(&mut BinEncoder::new(&mut octets)).unwrap();
        let rdata = NULL::with(octets);
        self.add(owner, RData::Unknown { code: RecordType::DNAME, rdata })
    }

    pub fn tlsa(&mut self, host: &str, numbers: (u8, u8, u8), data: &[u8]) -> &mut Self {
        let (usage, selector, matching) = numbers;
        let tlsa = TLSA::new(CertUsage::from(usage), Selector::from(selector), Matching::from(matching), data.to_vec());
        self.add(&format!("_25._tcp.{host}"), RData::TLSA(tlsa))
    }

    /// Below this name nothing is signed.
    pub fn insecure(&mut self, owner: &str) -> &mut Self {
        self.insecure.insert(owner.to_owned());
        self.add(owner, RData::NS(NS(name("ns.test"))))
    }

    /// The signature of these records is wrong.
    pub fn bogus(&mut self, owner: &str, kind: RecordType) -> &mut Self {
        self.bogus.insert((owner.to_owned(), kind));
        self
    }

    /// SERVFAIL.
    pub fn failing(&mut self, owner: &str, kind: RecordType) -> &mut Self {
        self.failing.insert((owner.to_owned(), kind));
        self
    }

    pub async fn start(self) -> Running {
        let key = Ed25519SigningKey::from_pkcs8(&Ed25519SigningKey::generate_pkcs8().unwrap()).unwrap();
        let dnskey = DNSKEY::with_flags(257, key.to_public_key().unwrap());
        let mut anchor = tempfile::NamedTempFile::new().unwrap();
        let public = base64::engine::general_purpose::STANDARD.encode(dnskey.public_key().public_bytes());
        writeln!(anchor, ". 3600 IN DNSKEY 257 3 15 {public}").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let mut zone = self;
        zone.add("", RData::DNSSEC(DNSSECRData::DNSKEY(dnskey.clone())));
        let signer = Signer { key, dnskey };
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 4_096];
            loop {
                let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
                let request = Message::from_vec(&buffer[..length]).unwrap();
                let query = &request.queries[0];
                let owner = query.name().to_ascii().to_ascii_lowercase();
                log.lock().push((owner.trim_end_matches('.').to_owned(), query.query_type()));
                let response = zone.answer(&signer, &request);
                socket.send_to(&response.to_vec().unwrap(), from).await.unwrap();
            }
        });
        Running { address, anchor, asked, task }
    }

    fn answer(&self, signer: &Signer, request: &Message) -> Message {
        let query = request.queries[0].clone();
        let owner = query.name().to_ascii().to_ascii_lowercase().trim_end_matches('.').to_owned();
        let kind = query.query_type();
        let mut response = Message::query();
        response.metadata.id = request.id;
        response.metadata.message_type = MessageType::Response;
        response.metadata.recursion_desired = true;
        response.metadata.recursion_available = true;
        response.metadata.authentic_data = self.is_validating;
        response.add_query(query.clone());
        if let Some(edns) = &request.edns {
            response.set_edns(edns.clone());
        }
        if self.failing.contains(&(owner.clone(), kind)) {
            response.metadata.response_code = ResponseCode::ServFail;
            return response;
        }
        let is_signed_at = |name: &str| {
            let is_below = |cut: &String| name == *cut || name.ends_with(&format!(".{cut}"));
            let is_cut = self.insecure.contains(name);
            !self.is_plain && (!self.insecure.iter().any(is_below) || (is_cut && kind == RecordType::DS))
        };
        let mut at = owner.clone();
        loop {
            if kind != RecordType::CNAME
                && let Some(alias) = self.records.get(&(at.clone(), RecordType::CNAME))
            {
                let alias = self.set(signer, &at, RecordType::CNAME, alias, is_signed_at(&at));
                let RData::CNAME(target) = alias[0].data.clone() else { unreachable!() };
                response.answers.extend(alias);
                at = target.0.to_ascii().trim_end_matches('.').to_owned();
            } else if let Some((above, below, target)) = self.dname_above(&at) {
                let data = &self.records[&(above.clone(), RecordType::DNAME)];
                response.answers.extend(self.set(signer, &above, RecordType::DNAME, data, true));
                let made = format!("{below}.{target}");
                response.answers.push(Record::from_rdata(name(&at), TTL, RData::CNAME(CNAME(name(&made)))));
                at = made;
            } else {
                break;
            }
        }
        if let Some(records) = self.records.get(&(at.clone(), kind)) {
            response.answers.extend(self.set(signer, &at, kind, records, is_signed_at(&at)));
            if self.is_chatty {
                response.authorities.extend(self.nsec(signer, &at, behind(&at), &[kind]));
            }
            return response;
        }
        let exists = self.records.keys().any(|(own, _)| *own == at);
        if let Some((_, parent)) = at.split_once('.').filter(|_| !exists)
            && let Some(records) = self.records.get(&(format!("*.{parent}"), kind))
        {
            let labels = name(parent).num_labels();
            let mut set: Vec<Record> =
                records.iter().map(|data| Record::from_rdata(name(&at), TTL, data.clone())).collect();
            set.push(signer.sign(&name(&at), kind, &set, labels, false));
            response.answers.extend(set);
            // The last name below the parent: what is there proves that no name lies between.
            response.authorities.extend(self.nsec(
                signer,
                &format!("*.{parent}"),
                name(&format!("zzz.{parent}")),
                &[kind],
            ));
            return response;
        }
        let is_signed = is_signed_at(&at);
        let soa = SOA::new(name("ns.test"), name("hostmaster.test"), 1, 60, 60, 60, 60);
        for record in self.set(signer, "", RecordType::SOA, &[RData::SOA(soa)], is_signed) {
            response.add_authority(record);
        }
        if is_signed {
            let own: Vec<RecordType> =
                self.records.keys().filter(|(own, _)| *own == at).map(|(_, kind)| *kind).collect();
            let denial = self.nsec(signer, &at, behind(&at), &own);
            response.authorities.extend(denial);
            // Behind an alias: as a resolver tells that what it leads to is not there.
            if !response.answers.is_empty() && own.is_empty() {
                response.metadata.response_code = ResponseCode::NXDomain;
            }
        }
        response
    }

    /// The longest DNAME above a name: its owner, what of the name is below it, and where that leads.
    fn dname_above(&self, at: &str) -> Option<(String, String, String)> {
        let above = self.records.keys().filter(|(_, kind)| *kind == RecordType::DNAME).map(|(own, _)| own);
        let owner = above.filter(|own| at.ends_with(&format!(".{own}"))).max_by_key(|own| own.len())?;
        let RData::Unknown { rdata, .. } = &self.records[&(owner.clone(), RecordType::DNAME)][0] else { return None };
        let target = Name::read(&mut BinDecoder::new(&rdata.anything)).unwrap();
        let below = at[..at.len() - owner.len() - 1].to_owned();
        Some((owner.clone(), below, target.to_ascii().trim_end_matches('.').to_owned()))
    }

    fn nsec(&self, signer: &Signer, owner: &str, next: Name, kinds: &[RecordType]) -> Vec<Record> {
        let kinds = kinds.iter().copied().chain([RecordType::NSEC, RecordType::RRSIG]);
        let nsec = RData::DNSSEC(DNSSECRData::NSEC(NSEC::new(next, kinds)));
        self.set(signer, owner, RecordType::NSEC, &[nsec], true)
    }

    fn set(&self, signer: &Signer, owner: &str, kind: RecordType, data: &[RData], is_signed: bool) -> Vec<Record> {
        let mut records: Vec<Record> =
            data.iter().map(|data| Record::from_rdata(name(owner), TTL, data.clone())).collect();
        if is_signed {
            let is_bogus = self.bogus.contains(&(owner.to_owned(), kind));
            let labels = name(owner).num_labels();
            records.push(signer.sign(&name(owner), kind, &records, labels, is_bogus));
        }
        records
    }
}

struct Signer {
    key: Ed25519SigningKey,
    dnskey: DNSKEY,
}

impl Signer {
    fn sign(&self, owner: &Name, kind: RecordType, records: &[Record], labels: u8, is_bogus: bool) -> Record {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32;
        let input = SigInput {
            type_covered: kind,
            algorithm: self.key.algorithm(),
            num_labels: labels,
            original_ttl: TTL,
            sig_expiration: SerialNumber::new(now + 86_400),
            sig_inception: SerialNumber::new(now - 86_400),
            key_tag: self.dnskey.calculate_key_tag().unwrap(),
            signer_name: Name::root(),
        };
        let tbs = TBS::from_input(owner, DNSClass::IN, &input, records.iter()).unwrap();
        let mut signature = self.key.sign(&tbs).unwrap();
        if is_bogus {
            signature[0] ^= 1;
        }
        let data = RData::DNSSEC(DNSSECRData::RRSIG(RRSIG::from_sig(input, signature)));
        Record::from_rdata(owner.clone(), TTL, data)
    }
}

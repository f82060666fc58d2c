//! Answers with the knowledge whether they are secure: hickory's validation (RFC 4035, 5), and what it gets wrong.
//!
//! hickory verifies each set of records, and calls a whole answer bogus when the NSEC records beside it do not prove that
//! the name that was asked for does not exist. That is wrong for positive answers: resolvers leave such records there from
//! queries of their own (qname minimisation, RFC 9156), and behind an alias or a wildcard they are about another name.
//! [`accept`] goes through such an answer anew, record set by record set, and takes what stands on signatures alone; what
//! came from a wildcard only with the proof that no closer name exists (RFC 4035, 5.3.4). What is behind an alias is
//! asked for by its own name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_resolver::net::dnssec::DnssecDnsHandle;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::FirstAnswer;
use hickory_resolver::net::{DnsError, DnsHandle, NetError, RetryDnsHandle};
use hickory_resolver::proto::dnssec::rdata::{DNSSECRData, NSEC, RRSIG};
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::op::{DnsRequestOptions, Message, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::CNAME;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::proto::serialize::binary::{BinDecodable, BinDecoder};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};

use super::lookup::{FAILURE_TTL, Failure, Miss, NEGATIVE_TTL, miss, options, servers};
use super::settings::{Dnssec, Settings};

/// Aliases followed from one name (as resolvers do).
pub(super) const MOST_ALIASES: usize = 8;

type Handle = DnssecDnsHandle<RetryDnsHandle<NameServerPool<TokioRuntimeProvider>>>;

/// Asks and validates.
pub(super) struct Asker {
    handle: Handle,
    /// The bound on one answer.
    patience: Duration,
    /// Every resolver is on this machine, and may be believed that a zone is not signed.
    is_near: bool,
    /// It has said of an answer that it has validated it.
    validates: AtomicBool,
}

impl Asker {
    /// An asker of the resolvers in the settings.
    pub fn new(settings: &Settings, anchors: TrustAnchors) -> Result<Self, String> {
        let attempts = settings.attempts.max(1);
        let mut options = options(settings.timeout, attempts);
        options.validate = true;
        let repetitions = options.attempts;
        let tls = TlsConfig::new().map_err(|error| error.to_string())?;
        let context = Arc::new(PoolContext::new(options, tls));
        let servers = servers(settings);
        let is_near = settings.dnssec == Dnssec::Auto && servers.iter().all(|server| server.ip.is_loopback());
        let pool = NameServerPool::from_config(servers, context, TokioRuntimeProvider::default());
        let handle = DnssecDnsHandle::with_trust_anchor(RetryDnsHandle::new(pool, repetitions), Arc::new(anchors));
        let rounds = u32::try_from(attempts + 1).unwrap_or(u32::MAX);
        // A validated answer takes the keys of every zone above it.
        let patience = settings.timeout.saturating_mul(rounds).saturating_mul(2);
        Ok(Self { handle, patience, is_near, validates: AtomicBool::new(false) })
    }

    /// The records of a name, behind the aliases that lead to them; each says whether it is secure.
    pub async fn ask(&self, name: &Name, kind: RecordType) -> Result<Vec<Record>, (Miss, Duration)> {
        let mut chain = Vec::new();
        let mut at = name.clone();
        for _ in 0..MOST_ALIASES {
            chain.extend(self.ask_once(&at, kind).await?);
            if chain.iter().any(|record| record.record_type() == kind) {
                return Ok(chain);
            }
            let Some(RData::CNAME(alias)) = chain.last().map(|record| &record.data) else { break };
            at = alias.0.clone();
        }
        // Aliases without end.
        Err((Miss::Failure(Failure::Server), FAILURE_TTL))
    }

    /// What one answer gives of that: the records, or aliases, the last of which is to be asked for.
    async fn ask_once(&self, name: &Name, kind: RecordType) -> Result<Vec<Record>, (Miss, Duration)> {
        let query = Query::query(name.clone(), kind);
        let mut options = DnsRequestOptions::default();
        (options.use_edns, options.edns_set_dnssec_ok) = (true, true);
        let answer = self.handle.lookup(query.clone(), options).first_answer();
        let answer = tokio::time::timeout(self.patience, answer).await.unwrap_or(Err(NetError::Timeout));
        let response = match answer {
            Ok(response) => response,
            // hickory found no proof, and there may be need of none.
            Err(NetError::Dns(DnsError::Nsec { response, proof: Proof::Bogus, .. })) => {
                return accept(&query, &response).map_or_else(|| self.as_told(&query, &response), Ok);
            }
            // Validated as not there, in a zone that is not signed.
            Err(NetError::Dns(DnsError::Nsec { response, .. })) => return Err(absent(&response)),
            Err(error) => return Err(miss(&error)),
        };
        if response.metadata.authentic_data {
            self.validates.store(true, Ordering::Relaxed);
        }
        let response = DnsError::from_response(response).map_err(|error| miss(&NetError::from(error)))?;
        accept(&query, &response).map_or_else(|| self.as_told(&query, &response), Ok)
    }

    /// What cannot be validated: a failure, unless a resolver that validates is on this machine. It would have answered by
    /// SERVFAIL, had it found something wrong: this is a zone that it knows not to be signed, such as one of the house.
    fn as_told(&self, query: &Query, response: &Message) -> Result<Vec<Record>, (Miss, Duration)> {
        if !self.is_near || !self.validates.load(Ordering::Relaxed) {
            return Err((Miss::Failure(Failure::Bogus), FAILURE_TTL));
        }
        let is_wanted = |kind: RecordType| kind == query.query_type() || kind == RecordType::CNAME;
        let mut told: Vec<Record> =
            response.answers.iter().filter(|record| is_wanted(record.record_type())).cloned().collect();
        told.iter_mut().for_each(|record| record.proof = Proof::Insecure);
        if told.is_empty() { Err(absent(response)) } else { Ok(told) }
    }
}

fn absent(response: &Message) -> (Miss, Duration) {
    let is_gone = response.response_code == ResponseCode::NXDomain;
    (if is_gone { Miss::NoName } else { Miss::NoRecord }, NEGATIVE_TTL)
}

/// The records that answer a query, from its name on along the aliases, as far as each needs no proof that is not there;
/// none: the answer is bogus.
fn accept(query: &Query, response: &Message) -> Option<Vec<Record>> {
    let (mut accepted, mut at) = (Vec::new(), query.name().clone());
    for _ in 0..MOST_ALIASES {
        let wanted = [query.query_type(), RecordType::CNAME].into_iter().find_map(|kind| {
            let set: Vec<&Record> =
                response.answers.iter().filter(|record| record.name == at && record.record_type() == kind).collect();
            (!set.is_empty()).then_some((kind, set))
        });
        let Some((kind, set)) = wanted else { break };
        let mut set: Vec<Record> = set.into_iter().cloned().collect();
        match standing(response, &at, kind, &set) {
            Standing::Good => {}
            Standing::Derived => set.iter_mut().for_each(|record| record.proof = Proof::Secure),
            // Behind an alias hickory is asked by this name, and finds the proof that is about it.
            Standing::Unproved if !accepted.is_empty() => break,
            Standing::Unproved | Standing::Bogus => return None,
        }
        let next = set.iter().find_map(|record| match &record.data {
            RData::CNAME(alias) => Some(alias.0.clone()),
            _ => None,
        });
        accepted.append(&mut set);
        match next {
            Some(next) if query.query_type() != RecordType::CNAME => at = next,
            _ => break,
        }
    }
    (!accepted.is_empty()).then_some(accepted)
}

/// What a set of records stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Its signature and, if it came from a wildcard, a proof; or its zone is not signed.
    Good,
    /// A DNAME that is secure makes it (RFC 6672, 5.3.1); it has no signature of its own.
    Derived,
    /// It came from a wildcard, and no proof that this was right is here.
    Unproved,
    /// Nothing.
    Bogus,
}

fn standing(response: &Message, name: &Name, kind: RecordType, set: &[Record]) -> Standing {
    if set.iter().any(|record| record.proof == Proof::Bogus) {
        return if kind == RecordType::CNAME && is_made_by_dname(response, set) {
            Standing::Derived
        } else {
            Standing::Bogus
        };
    }
    if set.iter().any(|record| record.proof != Proof::Secure) {
        return Standing::Good;
    }
    let Some(signature) = signature(&response.answers, name, kind) else { return Standing::Bogus };
    let labels = signature.input().num_labels;
    if labels >= name.num_labels() || is_closest(response, name, signature) {
        Standing::Good
    } else {
        Standing::Unproved
    }
}

/// The signature that a set of records was verified by.
fn signature<'a>(records: &'a [Record], name: &Name, kind: RecordType) -> Option<&'a RRSIG> {
    records.iter().filter(|record| record.proof == Proof::Secure && record.name == *name).find_map(|record| {
        match &record.data {
            RData::DNSSEC(DNSSECRData::RRSIG(signature)) if signature.input().type_covered == kind => Some(signature),
            _ => None,
        }
    })
}

/// Whether an NSEC record of the same zone proves that no name closer to this one exists than the wildcard's parent.
fn is_closest(response: &Message, name: &Name, wildcard: &RRSIG) -> bool {
    let proves = |owner: &Name, nsec: &NSEC| {
        let next = nsec.next_domain_name();
        let is_same_zone = signature(&response.authorities, owner, RecordType::NSEC)
            .is_some_and(|signature| signature.input().signer_name == wildcard.input().signer_name);
        // The parent's NSEC record at a delegation says nothing of names below it (RFC 6840, 4.1).
        let types = nsec.type_set();
        let is_above = types.contains(RecordType::NS) && !types.contains(RecordType::SOA) && owner.zone_of(name);
        let is_between = owner < name && (name < next || (next <= owner && next.zone_of(name)));
        let encloser = common_labels(name, owner).max(common_labels(name, next));
        is_same_zone && !is_above && is_between && encloser <= usize::from(wildcard.input().num_labels)
    };
    response.authorities.iter().filter(|record| record.proof == Proof::Secure).any(|record| match &record.data {
        RData::DNSSEC(DNSSECRData::NSEC(nsec)) => proves(&record.name, nsec),
        _ => false,
    })
}

/// How many labels two names have in common from the root on.
fn common_labels(a: &Name, b: &Name) -> usize {
    a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count()
}

/// Whether the one alias is what a secure DNAME makes of its name.
fn is_made_by_dname(response: &Message, set: &[Record]) -> bool {
    let [Record { name, data: RData::CNAME(CNAME(target)), .. }] = set else { return false };
    let dnames = response.answers.iter().filter(|record| {
        record.record_type() == RecordType::DNAME && record.proof == Proof::Secure && record.name.zone_of(name)
    });
    dnames.filter(|record| record.name != *name).any(|record| {
        let RData::Unknown { rdata, .. } = &record.data else { return false };
        let Ok(to) = Name::read(&mut BinDecoder::new(&rdata.anything)) else { return false };
        let kept = usize::from(name.num_labels() - record.name.num_labels());
        let made = Name::from_labels(name.iter().take(kept).chain(to.iter()));
        // A DNAME that came from a wildcard is none (RFC 6672, 3.3).
        let is_plain = signature(&response.answers, &record.name, RecordType::DNAME)
            .is_some_and(|signature| signature.input().num_labels >= record.name.num_labels());
        is_plain && made.is_ok_and(|made| made == *target)
    })
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::dnssec::Algorithm;
    use hickory_resolver::proto::dnssec::rdata::sig::SigInput;
    use hickory_resolver::proto::rr::SerialNumber;
    use hickory_resolver::proto::rr::rdata::MX;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn secure(owner: &str, data: RData) -> Record {
        let mut record = Record::from_rdata(name(owner), 60, data);
        record.proof = Proof::Secure;
        record
    }

    /// A signature of `signer` that covers a set at `owner`, made for a name of so many labels.
    fn signed(owner: &str, kind: RecordType, labels: u8, signer: &str) -> Record {
        let input = SigInput {
            type_covered: kind,
            algorithm: Algorithm::ED25519,
            num_labels: labels,
            original_ttl: 60,
            sig_expiration: SerialNumber::new(0),
            sig_inception: SerialNumber::new(0),
            key_tag: 1,
            signer_name: name(signer),
        };
        secure(owner, RData::DNSSEC(DNSSECRData::RRSIG(RRSIG::from_sig(input, vec![1]))))
    }

    fn nsec(owner: &str, next: &str, types: &[RecordType], signer: &str) -> [Record; 2] {
        let data = NSEC::new(name(next), types.iter().copied());
        let labels = name(owner).num_labels();
        [secure(owner, RData::DNSSEC(DNSSECRData::NSEC(data))), signed(owner, RecordType::NSEC, labels, signer)]
    }

    /// What is taken of an MX record at `x.wild.a.test` that came from `*.wild.a.test`, with this beside it.
    fn from_wildcard(beside: [Record; 2]) -> bool {
        let owner = "x.wild.a.test.";
        let mut response = Message::query();
        response.answers.push(secure(owner, RData::MX(MX::new(10, name("mx.a.test.")))));
        response.answers.push(signed(owner, RecordType::MX, 3, "a.test."));
        response.authorities.extend(beside);
        accept(&Query::query(name(owner), RecordType::MX), &response).is_some()
    }

    #[test]
    fn a_wildcard_counts_only_with_the_proof_that_no_closer_name_exists() {
        let types = [RecordType::MX];
        assert!(from_wildcard(nsec("*.wild.a.test.", "y.wild.a.test.", &types, "a.test.")));
        assert!(from_wildcard(nsec("*.wild.a.test.", "a.test.", &types, "a.test.")), "the last name of the zone");

        for (why, beside) in [
            ("it is not between", nsec("y.wild.a.test.", "z.wild.a.test.", &types, "a.test.")),
            ("it says that the name exists", nsec("x.wild.a.test.", "z.wild.a.test.", &types, "a.test.")),
            ("there are names below it", nsec("*.wild.a.test.", "k.x.wild.a.test.", &types, "a.test.")),
            ("another zone's", nsec("*.wild.a.test.", "y.wild.a.test.", &types, "test.")),
            ("a delegation above", nsec("wild.a.test.", "y.a.test.", &[RecordType::NS], "a.test.")),
            ("round the end of another zone", nsec("*.wild.a.test.", "0.test.", &types, "a.test.")),
        ] {
            assert!(!from_wildcard(beside), "{why}");
        }
        let mut unsigned = nsec("*.wild.a.test.", "y.wild.a.test.", &types, "a.test.");
        unsigned[0].proof = Proof::Bogus;
        assert!(!from_wildcard(unsigned));
    }

    #[test]
    fn an_alias_that_a_dname_does_not_make_is_bogus() {
        let made = |target: &str| {
            let mut octets = Vec::new();
            use hickory_resolver::proto::serialize::binary::{BinEncodable, BinEncoder};
            name("below.test.").emit(&mut BinEncoder::new(&mut octets)).unwrap();
            let rdata = hickory_resolver::proto::rr::rdata::NULL::with(octets);
            let mut response = Message::query();
            response.answers.push(secure("dname.test.", RData::Unknown { code: RecordType::DNAME, rdata }));
            response.answers.push(signed("dname.test.", RecordType::DNAME, 2, "test."));
            let mut alias = Record::from_rdata(name("a.b.dname.test."), 60, RData::CNAME(CNAME(name(target))));
            alias.proof = Proof::Bogus;
            response.answers.push(alias);
            accept(&Query::query(name("a.b.dname.test."), RecordType::MX), &response)
        };

        let accepted = made("a.b.below.test.").unwrap();
        assert!(accepted.len() == 1 && accepted[0].proof == Proof::Secure);
        assert!(made("b.below.test.").is_none() && made("evil.test.").is_none());
    }
}

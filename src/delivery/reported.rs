//! What is counted for TLS reports (RFC 8460): each session with a domain's own MX hosts, against what the domain publishes.
//!
//! Not counted: routes and address literals, whose hosts are not the domain's word; sessions in clear by the operator's word;
//! those that are held to an operator's `verified`; and those of messages that ask for another assurance, reports among them.

use std::net::IpAddr;

use super::dial::Approach;
use super::route::Target;
use super::tls::Fault;
use crate::dns::security::{Assurance, Demand, Refusal};
use crate::dns::sts::Mode;
use crate::dns::{TlsPolicy, Transport};
use crate::tlsrpt::{Failure, Kind, Policy, Tally};

/// A session that was tried, or would have been.
#[derive(Clone, Copy)]
pub(super) struct Tried<'a> {
    pub approach: Approach<'a>,
    pub target: &'a Target,
    pub demand: &'a Demand,
    /// Our end of the connection, if there was one.
    pub local: Option<IpAddr>,
}

impl Tried<'_> {
    /// Counts it; `failed` with what went wrong, in words.
    pub fn count(&self, tally: &Tally, failed: Option<(Fault, &str)>) {
        let plan = self.approach.plan;
        let is_counted = tally.is_on()
            && self.approach.assurance == Assurance::Usual
            && plan.transport == Transport::Smtp
            && !plan.domain.starts_with('[')
            && !matches!(plan.tls, TlsPolicy::None | TlsPolicy::Verified);
        if !is_counted {
            return;
        }
        let Some(policy) = self.policy() else { return };
        let failure = failed.map(|(fault, said)| Failure {
            result: result_type(fault).to_owned(),
            sending_ip: self.local.or(self.target.local),
            mx_host: Some(self.target.host.to_string()),
            receiving_ip: Some(self.target.address.ip()),
            reason: reason(fault, said),
        });
        tally.count(&plan.domain, policy, failure);
    }

    /// What the domain publishes for the host; none: this is not about what it publishes.
    fn policy(&self) -> Option<Policy> {
        let security = self.approach.plan.security.as_deref();
        let tlsa = |lines| Some(Policy { kind: Kind::Tlsa, lines, hosts: Vec::new() });
        let sts = security.and_then(|security| security.sts.as_deref()).filter(|policy| policy.mode != Mode::None);
        match (self.demand, sts) {
            (Demand::Dane { records, .. }, _) => {
                tlsa(records.iter().map(|record| record.presented(usize::MAX)).collect())
            }
            (Demand::Refused(Refusal::DnssecInvalid | Refusal::TlsaInvalid | Refusal::DaneRequired), _) => {
                tlsa(Vec::new())
            }
            (Demand::Pkix { .. } | Demand::Observed { .. } | Demand::Refused(Refusal::NotListed), Some(policy)) => {
                let hosts = policy.mx.iter().map(ToString::to_string).collect();
                Some(Policy { kind: Kind::Sts, lines: policy.lines(), hosts })
            }
            (Demand::Opportunistic | Demand::Encrypted, _) => {
                Some(Policy { kind: Kind::NotFound, lines: Vec::new(), hosts: Vec::new() })
            }
            _ => None,
        }
    }
}

/// The name of RFC 8460, 4.3.
const fn result_type(fault: Fault) -> &'static str {
    match fault {
        Fault::NotListed | Fault::NoPolicy | Fault::Unproven => Fault::Validation.as_str(),
        fault => fault.as_str(),
    }
}

/// Our own word where the name says little, and what was said where the handshake failed.
fn reason(fault: Fault, said: &str) -> Option<String> {
    match fault {
        Fault::NotListed | Fault::NoPolicy | Fault::Unproven => Some(fault.as_str().to_owned()),
        // Cut: it is the library's, or the receiver's.
        Fault::Validation => Some(said.chars().filter(|c| !c.is_control()).take(100).collect()),
        _ => None,
    }
}

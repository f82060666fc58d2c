//! What is known of the TLS of a domain's MX hosts beside the operator's own rule: TLSA records and an MTA-STS policy.
//!
//! Part of a [`super::Plan`], and of what connections are shared by: two plans that ask different things of a receiver
//! never share a connection. [`demand`] is the policy table.
//!
//! | policy | usable TLSA | TLSA, none usable | TLSA cannot be had | no TLSA, STS `enforce` | no TLSA, STS `testing` | neither |
//! |---|---|---|---|---|---|---|
//! | none | clear | clear | clear | clear | clear | clear |
//! | opportunistic | DANE | encrypted | not used | PKIX, hosts of the policy only | opportunistic, looked at | opportunistic |
//! | required | DANE | encrypted | not used | PKIX, hosts of the policy only | encrypted, looked at | encrypted |
//! | verified | PKIX | PKIX | PKIX | PKIX | PKIX | PKIX |
//! | dane | DANE | not used | not used | not used | not used | not used |
//! | mta-sts | PKIX | PKIX | PKIX | PKIX | PKIX | not used |
//!
//! What a message asks for changes that ([`Assurance`]). REQUIRETLS makes clear, opportunistic, encrypted and looked at into
//! PKIX, for hosts whose names are known; `TLS-Required: No` makes all but clear and what `verified` says into opportunistic.

use std::sync::Arc;

use super::lookup::ascii_name;
use super::sts::{Mode, Policy};
use super::{MxProof, Plan, TlsPolicy, Transport};
use crate::message::TlsWish;
use crate::text::hex;

/// A TLSA record that can be used: usage 2 or 3 (RFC 7672, 3.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tlsa {
    /// Usage 2, DANE-TA: an authority; else usage 3, DANE-EE: the receiver's own certificate.
    pub is_authority: bool,
    /// Selector 1: of the public key; else selector 0: of the whole certificate.
    pub of_key: bool,
    /// What `data` is.
    pub matching: Matching,
    /// The certificate, key or digest.
    pub data: Box<[u8]>,
}

impl Tlsa {
    /// As zone files write it (RFC 6698, 2.2), with at most so many octets of the data.
    pub fn presented(&self, most: usize) -> String {
        let usage = if self.is_authority { 2 } else { 3 };
        let matching = match self.matching {
            Matching::Exact => 0,
            Matching::Sha256 => 1,
            Matching::Sha512 => 2,
        };
        let data = hex(self.data.get(..most).unwrap_or(&self.data));
        format!("{usage} {} {matching} {data}", u8::from(self.of_key))
    }
}

/// How a TLSA record's data stand for what it names (RFC 6698, 2.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Matching {
    /// 0: as it is.
    Exact,
    /// 1.
    Sha256,
    /// 2.
    Sha512,
}

/// What validated DNS says of one MX host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostDane {
    /// It has TLSA records that can be used.
    Records {
        /// The name they were found at: what TLS is asked for, and what a certificate under usage 2 is for.
        base: Arc<str>,
        /// In order, none twice.
        records: Arc<[Tlsa]>,
    },
    /// It has TLSA records, none of which can be used: encryption is a must, and no more is known (RFC 7672, 2.2).
    Unusable,
    /// Whether it has any cannot be found out: it must not be used (RFC 7672, 2.1.2).
    Unknown,
}

/// What is known beside the operator's rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Security {
    /// Of MX hosts with something to be known, by name.
    pub dane: Box<[(Arc<str>, HostDane)]>,
    /// The MTA-STS policy in force.
    pub sts: Option<Arc<Policy>>,
    /// Names of a rule with `verified`.
    pub names: Arc<[Box<str>]>,
}

impl Security {
    /// Whether there is nothing to be known.
    pub fn is_empty(&self) -> bool {
        self.dane.is_empty() && self.sts.is_none() && self.names.is_empty()
    }

    /// What is known of a host.
    pub fn of_host(&self, host: &str) -> Option<&HostDane> {
        self.dane.iter().find(|(name, _)| **name == *host).map(|(_, dane)| dane)
    }
}

/// What a connection to an MX host must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demand {
    /// In clear.
    Clear,
    /// Encrypted if that works.
    Opportunistic,
    /// Encrypted, whoever it is.
    Encrypted,
    /// The certificate is looked at as by [`Demand::Pkix`], but only for the report: MTA-STS in testing.
    Observed {
        /// Whether clear text is out of the question all the same.
        encrypted: bool,
        /// Whether the policy names the host.
        is_listed: bool,
    },
    /// With a certificate of a trusted authority for one of these names.
    Pkix {
        /// Names.
        names: Box<[Box<str>]>,
    },
    /// With a certificate that one of these records names.
    Dane {
        /// The TLSA base domain, and the domain of the mail: what a certificate under usage 2 may be for.
        names: Box<[Box<str>]>,
        /// The records.
        records: Arc<[Tlsa]>,
    },
    /// Nothing: the host must not be used.
    Refused(Refusal),
}

/// What the messages of a connection ask of it beside the policy (RFC 8689, 4.2). Connections of one assurance carry no
/// message of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Assurance {
    /// Nothing.
    #[default]
    Usual,
    /// REQUIRETLS.
    Required,
    /// REQUIRETLS, from the null reverse-path: rather without it than not at all (RFC 8689, 5).
    Preferred,
    /// `TLS-Required: No`.
    Waived,
}

impl Assurance {
    /// That of a message.
    pub const fn of(wish: TlsWish, is_from_null: bool) -> Self {
        match (wish, is_from_null) {
            (TlsWish::Unsaid, _) => Self::Usual,
            (TlsWish::Required, false) => Self::Required,
            (TlsWish::Required, true) => Self::Preferred,
            (TlsWish::Waived, _) => Self::Waived,
        }
    }

    /// Whether it asks for REQUIRETLS.
    pub const fn requires_tls(self) -> bool {
        matches!(self, Self::Required | Self::Preferred)
    }

    /// As people are shown it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Usual => "",
            Self::Required | Self::Preferred => "required",
            Self::Waived => "waived",
        }
    }
}

/// Why an MX host must not be used; also names of failures in TLS reports (RFC 8460, 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Its TLSA records cannot be validated or had.
    DnssecInvalid,
    /// It has no TLSA records, which the policy wants.
    DaneRequired,
    /// It has none that can be used, which the policy wants.
    TlsaInvalid,
    /// The MTA-STS policy does not name it.
    NotListed,
    /// There is no MTA-STS policy, which the rule wants.
    NoPolicy,
    /// REQUIRETLS, and the policy is `none`.
    NoTls,
    /// REQUIRETLS, and an attacker may have named the host.
    Unproven,
    /// The same, but it may be known soon that nobody has.
    Pending,
}

impl Refusal {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::DnssecInvalid => "its TLSA records cannot be validated",
            Self::DaneRequired => "it has no TLSA records, and the policy is dane",
            Self::TlsaInvalid => "none of its TLSA records can be used, and the policy is dane",
            Self::NotListed => "the domain's MTA-STS policy does not name it",
            Self::NoPolicy => "the domain has no MTA-STS policy, and the policy is mta-sts",
            Self::NoTls => "the message asks for REQUIRETLS, and the policy is none",
            Self::Unproven => {
                "the message asks for REQUIRETLS, and neither DNSSEC nor an MTA-STS policy says that the name is right"
            }
            Self::Pending => "the message asks for REQUIRETLS, and the domain's MTA-STS policy cannot be had now",
        }
    }
}

/// What a connection to `host` must be, for messages that ask for so much.
pub fn demand(plan: &Plan, host: &str, assurance: Assurance) -> Demand {
    let demand = by_policy(plan, host);
    match assurance {
        Assurance::Usual => demand,
        Assurance::Required | Assurance::Preferred => required(plan, host, demand),
        Assurance::Waived => match (plan.tls, demand) {
            (TlsPolicy::None | TlsPolicy::Verified, demand) => demand,
            (_, Demand::Observed { is_listed, .. }) => Demand::Observed { encrypted: false, is_listed },
            _ => Demand::Opportunistic,
        },
    }
}

/// RFC 8689, 2: the certificate is verified, and so is the name that it is for.
fn required(plan: &Plan, host: &str, demand: Demand) -> Demand {
    let is_named_by_rule = || plan.security.as_deref().is_some_and(|security| !security.names.is_empty());
    match demand {
        // Only where the MX records are secure; and what is refused is refused.
        Demand::Dane { .. } | Demand::Refused(_) => return demand,
        Demand::Clear => return Demand::Refused(Refusal::NoTls),
        Demand::Pkix { .. } if plan.tls == TlsPolicy::Verified && is_named_by_rule() => return demand,
        Demand::Pkix { .. } | Demand::Opportunistic | Demand::Encrypted | Demand::Observed { .. } => {}
    }
    let sts = plan.security.as_deref().and_then(|security| security.sts.as_deref());
    let is_known = plan.mx_proof == MxProof::Known
        || plan.transport == Transport::Relay
        || sts.is_some_and(|policy| policy.mode != Mode::None && policy.names_host(host))
        // Without MX records the name is the recipient domain's own.
        || ascii_name(&plan.domain).is_some_and(|domain| *domain == *host);
    match (is_known, plan.mx_proof) {
        (true, _) => Demand::Pkix { names: [host.into()].into() },
        (false, MxProof::Pending) => Demand::Refused(Refusal::Pending),
        (false, _) => Demand::Refused(Refusal::Unproven),
    }
}

/// The table.
fn by_policy(plan: &Plan, host: &str) -> Demand {
    let none = Security::default();
    let security = plan.security.as_deref().unwrap_or(&none);
    match plan.tls {
        TlsPolicy::None => Demand::Clear,
        TlsPolicy::Verified if security.names.is_empty() => Demand::Pkix { names: [host.into()].into() },
        TlsPolicy::Verified => Demand::Pkix { names: security.names.to_vec().into() },
        TlsPolicy::Dane => match security.of_host(host) {
            Some(HostDane::Records { base, records }) => by_dane(plan, base, records),
            Some(HostDane::Unusable) => Demand::Refused(Refusal::TlsaInvalid),
            Some(HostDane::Unknown) => Demand::Refused(Refusal::DnssecInvalid),
            None => Demand::Refused(Refusal::DaneRequired),
        },
        TlsPolicy::MtaSts => match &security.sts {
            Some(policy) => by_sts(policy, host),
            None => Demand::Refused(Refusal::NoPolicy),
        },
        TlsPolicy::Opportunistic | TlsPolicy::Required => {
            let encrypted = plan.tls == TlsPolicy::Required;
            match (security.of_host(host), security.sts.as_deref()) {
                (Some(HostDane::Records { base, records }), _) => by_dane(plan, base, records),
                (Some(HostDane::Unusable), _) => Demand::Encrypted,
                (Some(HostDane::Unknown), _) => Demand::Refused(Refusal::DnssecInvalid),
                (None, Some(policy)) if policy.mode == Mode::Enforce => by_sts(policy, host),
                (None, Some(policy)) if policy.mode == Mode::Testing => {
                    Demand::Observed { encrypted, is_listed: policy.names_host(host) }
                }
                _ if encrypted => Demand::Encrypted,
                _ => Demand::Opportunistic,
            }
        }
    }
}

fn by_dane(plan: &Plan, base: &Arc<str>, records: &Arc<[Tlsa]>) -> Demand {
    let mut names: Vec<Box<str>> = vec![(**base).into()];
    if *plan.domain != **base {
        names.push((*plan.domain).into());
    }
    Demand::Dane { names: names.into(), records: Arc::clone(records) }
}

fn by_sts(policy: &Policy, host: &str) -> Demand {
    match policy.names_host(host) {
        true => Demand::Pkix { names: [host.into()].into() },
        false => Demand::Refused(Refusal::NotListed),
    }
}

/// The name of what a connection to `host` is held to: the operator's policy, `dane` or `mta-sts` where the domain's own word
/// goes before it, `requiretls` or `waived` where the messages' does.
pub fn policy_name(plan: &Plan, host: &str, assurance: Assurance) -> &'static str {
    match (assurance, demand(plan, host, assurance)) {
        (Assurance::Required | Assurance::Preferred, _) => "requiretls",
        (Assurance::Waived, Demand::Opportunistic | Demand::Observed { .. }) => "waived",
        (_, Demand::Dane { .. }) => TlsPolicy::Dane.as_str(),
        (_, Demand::Refused(Refusal::DnssecInvalid | Refusal::DaneRequired | Refusal::TlsaInvalid)) => {
            TlsPolicy::Dane.as_str()
        }
        (_, Demand::Refused(_)) => TlsPolicy::MtaSts.as_str(),
        (_, Demand::Pkix { .. }) if plan.tls != TlsPolicy::Verified => TlsPolicy::MtaSts.as_str(),
        (_, Demand::Encrypted) => TlsPolicy::Required.as_str(),
        _ => plan.tls.as_str(),
    }
}

/// A plan's policy for such messages and what it comes from, for people: `dane`, `mta-sts`, or the operator's; or theirs.
pub fn in_force(plan: &Plan, assurance: Assurance) -> (&'static str, String) {
    let (policy, why) = by_domain(plan);
    match assurance {
        Assurance::Usual => (policy, why),
        Assurance::Required | Assurance::Preferred => {
            ("requiretls", format!("of messages with REQUIRETLS; else {policy}"))
        }
        Assurance::Waived => ("waived", format!("of messages with TLS-Required: No; else {policy}")),
    }
}

fn by_domain(plan: &Plan) -> (&'static str, String) {
    let Some(security) = plan.security.as_deref().filter(|security| !security.is_empty()) else {
        return (plan.tls.as_str(), "as configured".to_owned());
    };
    let is_raised = matches!(plan.tls, TlsPolicy::Opportunistic | TlsPolicy::Required);
    let own = plan.tls.as_str();
    match &security.sts {
        _ if is_raised && !security.dane.is_empty() => {
            let hosts: Vec<&str> = security.dane.iter().map(|(host, _)| &**host).collect();
            ("dane", format!("TLSA records of {}; {own} for other hosts", hosts.join(", ")))
        }
        Some(policy) if is_raised && policy.mode != Mode::None => {
            ("mta-sts", format!("policy {} in mode {}; else {own}", policy.id, policy.mode.as_str()))
        }
        _ => (own, "as configured".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::dns::Transport;

    const POLICIES: [TlsPolicy; 6] = [
        TlsPolicy::None,
        TlsPolicy::Opportunistic,
        TlsPolicy::Required,
        TlsPolicy::Verified,
        TlsPolicy::Dane,
        TlsPolicy::MtaSts,
    ];

    /// The rows of the table in a word each.
    fn row(security: Option<Security>) -> [&'static str; 6] {
        row_as(security, MxProof::None, Assurance::Usual)
    }

    fn row_as(security: Option<Security>, mx_proof: MxProof, assurance: Assurance) -> [&'static str; 6] {
        POLICIES.map(|tls| {
            let plan = Plan {
                mx_proof,
                domain: "a.test".into(),
                site: "a.test".into(),
                parent: None,
                mx_set: "mx.a.test".into(),
                hosts: Box::default(),
                port: 25,
                transport: Transport::Smtp,
                tls,
                security: security.clone().map(Arc::new),
                valid_until: Instant::now(),
            };
            match demand(&plan, "mx.a.test", assurance) {
                Demand::Clear => "clear",
                Demand::Opportunistic => "opportunistic",
                Demand::Encrypted => "encrypted",
                Demand::Observed { encrypted: false, .. } => "looked at",
                Demand::Observed { encrypted: true, .. } => "encrypted, looked at",
                Demand::Pkix { .. } => "PKIX",
                Demand::Dane { .. } => "DANE",
                Demand::Refused(_) => "not used",
            }
        })
    }

    fn dane(host: HostDane) -> Option<Security> {
        Some(Security { dane: [("mx.a.test".into(), host)].into(), ..Security::default() })
    }

    fn sts(mode: &str, mx: &str) -> Option<Security> {
        let text = format!("version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 86400\n");
        let policy = Policy::parse(text.as_bytes(), "1").unwrap();
        Some(Security { sts: Some(Arc::new(policy)), ..Security::default() })
    }

    #[test]
    fn the_table_holds() {
        let record = Tlsa { is_authority: false, of_key: true, matching: Matching::Sha256, data: [0; 32].into() };
        let records = HostDane::Records { base: "mx.a.test".into(), records: [record].into() };

        assert_eq!(row(None), ["clear", "opportunistic", "encrypted", "PKIX", "not used", "not used"]);
        assert_eq!(row(dane(records)), ["clear", "DANE", "DANE", "PKIX", "DANE", "not used"]);
        let unusable = row(dane(HostDane::Unusable));
        assert_eq!(unusable, ["clear", "encrypted", "encrypted", "PKIX", "not used", "not used"]);
        let unknown = row(dane(HostDane::Unknown));
        assert_eq!(unknown, ["clear", "not used", "not used", "PKIX", "not used", "not used"]);
        assert_eq!(row(sts("enforce", "mx.a.test")), ["clear", "PKIX", "PKIX", "PKIX", "not used", "PKIX"]);
        let other = row(sts("enforce", "*.b.test"));
        assert_eq!(other, ["clear", "not used", "not used", "PKIX", "not used", "not used"]);
        let testing = row(sts("testing", "mx.a.test"));
        assert_eq!(testing, ["clear", "looked at", "encrypted, looked at", "PKIX", "not used", "PKIX"]);
    }
    #[test]
    fn requiretls_wants_a_verified_certificate_of_a_host_whose_name_is_known() {
        let asked = |security, mx_proof| row_as(security, mx_proof, Assurance::Required);
        let record = Tlsa { is_authority: false, of_key: true, matching: Matching::Sha256, data: [0; 32].into() };
        let records = || dane(HostDane::Records { base: "mx.a.test".into(), records: [record.clone()].into() });
        let nothing = ["not used"; 6];

        assert_eq!(asked(None, MxProof::None), nothing, "whoever answers may have been named by an attacker");
        assert_eq!(asked(None, MxProof::Known), ["not used", "PKIX", "PKIX", "PKIX", "not used", "not used"]);
        assert_eq!(asked(records(), MxProof::Known), ["not used", "DANE", "DANE", "PKIX", "DANE", "not used"]);
        let unusable = asked(dane(HostDane::Unusable), MxProof::Known);
        assert_eq!(unusable, ["not used", "PKIX", "PKIX", "PKIX", "not used", "not used"]);
        for mode in ["enforce", "testing"] {
            let by_sts = asked(sts(mode, "mx.a.test"), MxProof::None);
            assert_eq!(by_sts, ["not used", "PKIX", "PKIX", "PKIX", "not used", "PKIX"], "{mode}");
            assert_eq!(asked(sts(mode, "*.b.test"), MxProof::None), nothing, "{mode}");
        }
        let names = Security { names: ["b.test".into()].into(), ..Security::default() };
        assert_eq!(asked(Some(names), MxProof::None)[3], "PKIX", "the operator knows whose certificate it is");
    }

    #[test]
    fn a_waiver_relaxes_everything_but_none_and_verified() {
        let waived = |security| row_as(security, MxProof::None, Assurance::Waived);
        let expected = |word| ["clear", word, word, "PKIX", word, word];

        assert_eq!(waived(None), expected("opportunistic"));
        assert_eq!(waived(dane(HostDane::Unknown)), expected("opportunistic"));
        assert_eq!(waived(sts("enforce", "*.b.test")), expected("opportunistic"));
        assert_eq!(waived(sts("testing", "*.b.test"))[1], "looked at");
    }
}

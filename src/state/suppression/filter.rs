//! Which entries somebody wants to see.

use std::borrow::Cow;

use hickory_proto::rr::Name;

use super::entry::{Entry, Reason, Target};

/// What an entry must be; nothing given: whatever it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// About this domain, in its ASCII form, or a mailbox of it.
    domain: Option<Box<str>>,
    /// In the scope of this tenant, or of a class of its campaigns.
    tenant: Option<Box<str>>,
    /// For this reason.
    reason: Option<Reason>,
}

/// A domain in its ASCII form (RFC 5890), in lower case; one that has none is as it is.
fn ascii(domain: &str) -> Cow<'_, str> {
    if domain.is_ascii() {
        return domain.into();
    }
    let name = Name::from_utf8(domain).map(|name| name.to_ascii().trim_end_matches('.').to_ascii_lowercase());
    name.map_or_else(|_| domain.into(), Cow::Owned)
}

impl Filter {
    /// A filter by a domain, as a target has it; a tenant; and a reason.
    pub fn new(domain: Option<&str>, tenant: Option<&str>, reason: Option<Reason>) -> Self {
        Self {
            domain: domain.map(|domain| ascii(domain).into()),
            tenant: tenant.map(|name| name.to_ascii_lowercase().into()),
            reason,
        }
    }

    /// Whether an entry is such a one. What only a hash is known of is of no domain.
    pub fn takes(&self, entry: &Entry) -> bool {
        let domain = match &entry.target {
            Target::Address(address) => address.domain(),
            Target::Domain(domain) => domain,
            Target::Hash(_) => "",
        };
        self.reason.is_none_or(|reason| entry.reason == reason)
            && self.tenant.as_deref().is_none_or(|tenant| entry.scope.names().0 == tenant)
            && self.domain.as_deref().is_none_or(|wanted| *ascii(domain) == *wanted)
    }
}

#[cfg(test)]
mod tests {
    use crate::clock::UnixTime;
    use crate::state::suppression::Scope;

    use super::*;

    fn takes(filter: &Filter, target: &str, scope: (&str, &str)) -> bool {
        filter.takes(&Entry {
            target: target.parse().unwrap(),
            scope: Scope::of(scope.0, scope.1).unwrap(),
            reason: Reason::Complaint,
            source: Box::default(),
            added: UnixTime(0),
            until: None,
        })
    }

    #[test]
    fn a_domain_takes_its_mailboxes_however_it_is_written() {
        let filter = Filter::new(Some("bücher.example"), None, None);

        for target in ["ann@xn--bcher-kva.example", "ann@B\u{fc}cher.example", "@xn--bcher-kva.example"] {
            assert!(takes(&filter, target, ("", "")), "{target}");
        }
        for target in ["ann@mail.xn--bcher-kva.example", "@other.example", "#abcdefghijklmn67"] {
            assert!(!takes(&filter, target, ("", "")), "{target}");
        }
    }

    #[test]
    fn a_tenant_takes_its_classes_and_a_reason_only_itself() {
        let of_tenant = Filter::new(None, Some("shop"), None);
        let of_reason = |reason| Filter::new(None, None, Some(reason));

        assert!(takes(&of_tenant, "a@b.test", ("shop", "")) && takes(&of_tenant, "a@b.test", ("shop", "news")));
        assert!(!takes(&of_tenant, "a@b.test", ("", "")) && !takes(&of_tenant, "a@b.test", ("post", "")));
        assert!(takes(&of_reason(Reason::Complaint), "a@b.test", ("", "")));
        assert!(!takes(&of_reason(Reason::Operator), "a@b.test", ("", "")));
    }
}

//! What `check` finds about `[unsubscribe]`: links that nobody would answer, or that receivers would not take seriously.

use std::path::Path;

use super::security;
use crate::config::{self, Config};
use crate::tls;
use crate::trusted::watched::Content;
use crate::users::sender::Sender;
use crate::users::{Table, User};

/// What the daemon would do, and you may regret.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let (mut out, section) = (Vec::new(), &config.unsubscribe);
    if let Some(network) = security::everybody(&section.proxy_networks) {
        let text = "lets anybody say which address he has: name the proxies";
        out.push(format!("unsubscribe.proxy_networks: {network} {text}"));
    }
    if section.tenants.is_empty() {
        return out;
    }
    if section.listen.is_empty() {
        out.push("unsubscribe.listen: empty: this daemon answers none of the links that it gives".to_owned());
    } else if section.tls {
        out.extend(section.host().and_then(|host| certificate(config, &host)));
    }
    if config.dkim.is_empty() {
        let text =
            "no [[dkim]]: receivers show one-click only in messages with a signature that covers it (RFC 8058, 4)";
        out.push(format!("unsubscribe.tenant: {text}"));
    }
    let users = users(config.users.path());
    for (index, tenant) in section.tenants.iter().enumerate() {
        let key = format!("unsubscribe.tenant[{index}]");
        let users: Vec<&User> = users
            .iter()
            .flat_map(Table::users)
            .map(AsRef::as_ref)
            .filter(|user| *user.tenant == *tenant.name)
            .collect();
        if users.is_empty() && !is_known(config, &tenant.name) {
            out.push(format!("{key}.name: no listener, user or other section has the tenant {}", tenant.name));
        }
        if !tenant.mailto.is_empty() && !takes_mail(config, &tenant.mailto) {
            let text = "no domain of [bounces]: nobody reads mail that comes to it";
            out.push(format!("{key}.mailto: {}: {text}", tenant.mailto));
        }
        let domains = users.iter().flat_map(|user| &user.senders).filter_map(domain);
        out.extend(unsigned(config, domains).into_iter().map(|domain| {
            format!("{key}: {domain}: no [[dkim]] key is for it: links in its messages are not shown as one-click")
        }));
    }
    out
}

/// That clients would not take the certificate that they get.
fn certificate(config: &Config, host: &str) -> Option<String> {
    // One that cannot be read is told as such, and may have the name.
    let is_without = |it: &config::Certificate| tls::covers(&it.chain, host) == Some(false);
    let text = "no [[certificate]] has this name: nobody will take the one that is shown";
    config.certificates.iter().all(is_without).then(|| format!("unsubscribe.url: {host}: {text}"))
}

/// The users' file, if it can be used; what is wrong with it is told elsewhere.
fn users(path: Option<&Path>) -> Option<Table> {
    Table::parse(&std::fs::read_to_string(path?).ok()?, path?).ok()
}

/// Whether something may send as this tenant, or is said of it.
fn is_known(config: &Config, name: &str) -> bool {
    config.listeners.iter().any(|listener| listener.trust_headers || listener.tenant == name)
        || config.queue.tenants.iter().any(|tenant| tenant.name == name)
        || config.pools.iter().any(|pool| pool.tenants.iter().any(|tenant| tenant == name))
}

/// Whether what comes in for this domain is read.
fn takes_mail(config: &Config, domain: &str) -> bool {
    let of_tenants = config.bounces.tenants.iter().map(|tenant| &tenant.domain);
    config.bounces.feedback_domains.iter().chain(of_tenants).any(|own| own.eq_ignore_ascii_case(domain))
}

/// The domain that somebody may send from.
fn domain(sender: &Sender) -> Option<&str> {
    match sender {
        Sender::All => None,
        Sender::Address(address) => Some(address.domain()),
        Sender::Domain(domain) | Sender::Below(domain) => Some(domain),
    }
}

/// Those that no key is for, once each; none where there are no keys at all.
fn unsigned<'a>(config: &Config, domains: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let is_of = |domain: &str, key: &str| {
        let above = domain.len().checked_sub(key.len()).and_then(|length| domain.split_at_checked(length));
        above.is_some_and(|(head, tail)| tail.eq_ignore_ascii_case(key) && (head.is_empty() || head.ends_with('.')))
    };
    let is_signed = |domain: &str| config.dkim.iter().any(|key| is_of(domain, key.domain.trim_end_matches('.')));
    let mut found: Vec<&str> = domains.filter(|domain| !config.dkim.is_empty() && !is_signed(domain)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TENANT: &str = "[unsubscribe]\nurl = \"https://u.example.com/\"\nlisten = [\"127.0.0.1:1\"]\ntls = false\n\
                          [[unsubscribe.tenant]]\nname = \"shop\"\n";
    const KEY: &str = "[[dkim]]\ndomain = \"Shop.example\"\nselector = \"s\"\nkey = \"/k\"\n";

    fn told(text: &str) -> Vec<String> {
        warnings(&toml::from_str(text).unwrap())
    }

    #[test]
    fn links_that_cannot_work_are_told() {
        let right = format!("{TENANT}{KEY}[[listener]]\ntenant = \"shop\"\n");
        assert_eq!(told(&right), Vec::<String>::new());
        let mail = right.replace("name = \"shop\"\n", "name = \"shop\"\nmailto = \"in.test\"\n");
        assert_eq!(told(&format!("{mail}[bounces]\nfeedback_domains = [\"in.test\"]\n")), Vec::<String>::new());
        assert_eq!(told(""), Vec::<String>::new());

        for (text, key) in [
            (right.replace("listen = [\"127.0.0.1:1\"]\n", ""), "unsubscribe.listen: "),
            (right.replace(KEY, ""), "unsubscribe.tenant: no [[dkim]]"),
            (
                right.replace("tls = false", "tls = false\nproxy_networks = [\"::/0\"]"),
                "unsubscribe.proxy_networks: ::/0 ",
            ),
            (
                right.replace("name = \"shop\"\n", "name = \"shop\"\nmailto = \"in.test\"\n"),
                "unsubscribe.tenant[0].mailto: ",
            ),
            (right.replace("tenant = \"shop\"", "tenant = \"other\""), "unsubscribe.tenant[0].name: "),
        ] {
            let told = told(&text);
            assert!(told.len() == 1 && told[0].starts_with(key), "{key}: {told:?}");
        }
    }

    #[test]
    fn a_host_without_a_certificate_is_told() {
        // Only its owner may read the key.
        let text = format!(
            "{}{KEY}[[certificate]]\nchain = \"tests/data/tls/good.pem\"\nkey = \"/none\"\n[[listener]]\ntenant = \"shop\"\n",
            TENANT.replace("tls = false", "tls = true")
        );

        assert_eq!(told(&text.replace("u.example.com", "mta-sts.example.test")), Vec::<String>::new());
        assert!(told(&text)[0].starts_with("unsubscribe.url: u.example.com: "), "{:?}", told(&text));
    }

    #[test]
    fn domains_of_a_tenants_users_that_no_key_is_for_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let user = |name, tenant, senders| {
            format!(
                "[[user]]\nname = \"{name}\"\ntenant = \"{tenant}\"\nsenders = [{senders}]\ncertificates = [\"{name}\"]\n"
            )
        };
        let senders = "\"*@shop.example\", \"a@news.shop.example\", \"*@eshop.example\", \"*\"";
        let text = user("a", "shop", senders) + &user("b", "other", "\"*@other.example\"");
        fs::write(&path, text).unwrap();

        let told = told(&format!("{TENANT}{KEY}[users]\nfile = \"{}\"\n", path.display()));

        assert!(told.len() == 1 && told[0].starts_with("unsubscribe.tenant[0]: eshop.example: "), "{told:?}");
    }
}

//! What `check` finds about options that weaken what others are there for, or keep mail from leaving.

use crate::config::units::Network;
use crate::config::{Config, Dnssec, TlsMode};

/// What the daemon would do, and you may regret.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut out = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        if let Some(network) = everybody(&listener.proxy_networks) {
            out.push(format!(
                "listener[{index}].proxy_networks: {network} lets anybody say which address he has, and so pass `networks`"
            ));
        }
    }
    let is_far = config.admin.listen.iter().any(|address| !address.ip().is_loopback());
    if let Some(network) = everybody(&config.admin.networks).filter(|_| is_far) {
        out.push(format!("admin.networks: {network} lets everybody try tokens: name the operators' networks"));
    }
    let mask = &config.privacy.key_file;
    if !mask.as_os_str().is_empty() && config.spool.key_files.contains(mask) {
        out.push(format!(
            "privacy.key_file: {} is a key of the spool, too: whoever may reveal addresses could read mail",
            mask.display()
        ));
    }
    for (index, rule) in config.delivery.tls_rules.iter().enumerate() {
        let key = format!("delivery.tls_rule[{index}]");
        if rule.tls != TlsMode::Verified && !rule.names.is_empty() {
            out.push(format!("{key}.names: without effect: only `verified` looks at them"));
        }
        out.extend(
            never(config, rule.tls)
                .map(|why| format!("{key}.tls: {why}: mail to {} waits until it bounces", rule.domain)),
        );
    }
    out.extend(
        never(config, config.delivery.tls).map(|why| format!("delivery.tls: {why}: mail waits until it bounces")),
    );
    out
}

/// Why nothing can ever be delivered under a policy.
fn never(config: &Config, policy: TlsMode) -> Option<&'static str> {
    match policy {
        TlsMode::Dane if config.dns.dnssec == Dnssec::Off => Some("\"dane\" with dns.dnssec = \"off\""),
        TlsMode::MtaSts if !config.delivery.mta_sts => Some("\"mta-sts\" with delivery.mta_sts = false"),
        _ => None,
    }
}

/// The network that everybody is in, if there is one.
pub(super) fn everybody(networks: &[Network]) -> Option<&Network> {
    networks.iter().find(|network| network.to_string().ends_with("/0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_weakens_other_options_is_told_by_its_key() {
        let of = |text: &str| warnings(&toml::from_str::<Config>(text).unwrap());
        assert_eq!(of("[admin]\nnetworks = [\"0.0.0.0/0\"]\nlisten = [\"127.0.0.1:1\"]"), Vec::<String>::new());

        let told = of("[[listener]]\nproxy_networks = [\"::/0\"]\n\
             [admin]\nnetworks = [\"0.0.0.0/0\"]\nlisten = [\"0.0.0.0:1\"]\n\
             [spool]\nkey_files = [\"/k\"]\n[privacy]\nkey_file = \"/k\"\n\
             [dns]\ndnssec = \"off\"\n[delivery]\nmta_sts = false\ntls = \"mta-sts\"\n\
             [[delivery.tls_rule]]\ndomain = \"a.test\"\ntls = \"dane\"\nnames = [\"x.test\"]");

        let keys: Vec<&str> = told.iter().filter_map(|text| text.split_once(": ")).map(|(key, _)| key).collect();
        let expected = [
            "listener[0].proxy_networks",
            "admin.networks",
            "privacy.key_file",
            "delivery.tls_rule[0].names",
            "delivery.tls_rule[0].tls",
            "delivery.tls",
        ];
        assert_eq!(keys, expected, "{told:?}");
    }
}

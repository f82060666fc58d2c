//! What `check` finds about egress sources: whether DNS agrees with what they say in EHLO.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::patience::patiently;
use crate::config::Config;
use crate::daemon;
use crate::dns::network::is_allowed;
use crate::dns::reverse::{Agreement, Names};
use crate::dns::settings::Forgetful;

/// For all questions together: a check is not to hang on a resolver.
const PATIENCE: Duration = Duration::from_secs(5);

/// An address with the name it will say in EHLO.
struct Pair {
    key: String,
    address: IpAddr,
    name: String,
}

/// What DNS says against the sources, and what could not be asked.
pub(super) fn names(config: &Config) -> (Vec<String>, Vec<String>) {
    let pairs = pairs(config);
    if pairs.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let failed = |error: &dyn std::fmt::Display| {
        (Vec::new(), vec![format!("PTR records of egress addresses were not looked at: {error}")])
    };
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let asked = runtime.block_on(async {
        let settings = daemon::dns_settings(config, &daemon::hostname(config), Arc::new(Forgetful));
        let settings = settings.map_err(|error| error.to_string())?;
        let names = Names::new(settings).map_err(|error| error.to_string())?;
        let asking = async {
            let mut said = Vec::new();
            for pair in &pairs {
                said.push(names.agree(pair.address, &pair.name).await);
            }
            said
        };
        let late = format!("the resolver did not answer in {} s; --offline leaves this out", PATIENCE.as_secs());
        let asked = tokio::time::timeout(PATIENCE, asking);
        patiently("asking DNS about egress addresses", asked).await.map_err(|_| late)
    });
    match asked {
        Ok(said) => tell(&pairs, &said),
        Err(error) => failed(&error),
    }
}

/// Sources with an address that others can see. A private one is behind a translation that we know nothing of.
fn pairs(config: &Config) -> Vec<Pair> {
    let mut found = Vec::new();
    for (index, source) in config.sources.iter().enumerate() {
        let addresses = [("ipv4", source.ipv4.map(IpAddr::V4)), ("ipv6", source.ipv6.map(IpAddr::V6))];
        let name = source.ehlo_name.clone().unwrap_or_else(|| daemon::hostname(config).to_string());
        for (key, address) in addresses {
            let visible = address.filter(|address| is_allowed(*address, &config.dns.allow_networks));
            if let Some(address) = visible {
                found.push(Pair { key: format!("source[{index}].{key}"), address, name: name.clone() });
            }
        }
    }
    found
}

fn tell(pairs: &[Pair], said: &[Agreement]) -> (Vec<String>, Vec<String>) {
    let (mut warnings, mut notes) = (Vec::new(), Vec::new());
    for (Pair { key, address, name }, said) in pairs.iter().zip(said) {
        match said {
            Agreement::Agree => {}
            Agreement::NoPointer => warnings
                .push(format!("{key}: {address} has no PTR record: many receivers refuse mail from such an address")),
            Agreement::OtherNames(others) => warnings.push(format!(
                "{key}: {address} is called {} in DNS (PTR) and says {name} in EHLO: receivers want one name",
                others.join(", ")
            )),
            Agreement::NotBack => {
                warnings.push(format!("{key}: {name} does not lead back to {address} in DNS: add an A or AAAA record"))
            }
            Agreement::Unknown(why) => notes.push(format!("{key}: PTR of {address} was not looked at: {why}")),
        }
    }
    (warnings, notes)
}

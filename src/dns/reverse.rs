//! Whether the name that we say in EHLO and the address that we say it from agree: PTR forth, A and AAAA back.
//!
//! Receivers look at this pair (RFC 1912, 2.1 asks for it, and so do the large providers' rules); `hikyaku check` does so before
//! they do. Not used while the daemon runs.

use std::net::IpAddr;

use hickory_resolver::proto::rr::Name;

use super::lookup::{Miss, Resolver};
use super::settings::Settings;
use super::{Error, Families};
use crate::clock::Clock;
use crate::metrics::Registry;

/// What DNS says about a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// The address points to the name and the name to the address.
    Agree,
    /// The address points nowhere.
    NoPointer,
    /// The address points to other names.
    OtherNames(Vec<String>),
    /// The name does not lead back to the address.
    NotBack,
    /// The resolver did not answer, or with an error.
    Unknown(&'static str),
}

/// Asks the resolvers.
pub struct Names {
    resolver: Resolver,
}

impl Names {
    /// Uses the resolvers that the daemon would. Must be called inside a Tokio runtime.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let settings = Settings { families: Families::Both, ..settings };
        let registry = Registry::new().map_err(|error| Error::Resolver(error.to_string()))?;
        let resolver = Resolver::new(&settings, Clock::system(), &registry);
        Ok(Self { resolver: resolver.map_err(|error| Error::Resolver(error.to_string()))? })
    }

    /// Whether `address` and `name` agree.
    pub async fn agree(&self, address: IpAddr, name: &str) -> Agreement {
        let name = name.trim_end_matches('.').to_lowercase();
        let pointers = match self.resolver.pointers(&Name::from(address)).await {
            Ok(pointers) => pointers,
            Err(Miss::NoName | Miss::NoRecord) => return Agreement::NoPointer,
            Err(Miss::Failure(failure)) => return Agreement::Unknown(failure.as_str()),
        };
        if !pointers.contains(&name) {
            return Agreement::OtherNames(pointers);
        }
        match self.resolver.addresses(&name).await.addresses {
            Ok(addresses) if addresses.contains(&address) => Agreement::Agree,
            Err(Miss::Failure(failure)) => Agreement::Unknown(failure.as_str()),
            _ => Agreement::NotBack,
        }
    }
}

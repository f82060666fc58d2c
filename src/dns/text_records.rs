//! TXT records, for commands that compare what is published with what should be. Not used while the daemon runs.

use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::Error;
use super::lookup::{Miss, Resolver};
use super::settings::Settings;
use crate::clock::Clock;
use crate::metrics::Registry;

/// Asks the resolvers.
pub struct TextRecords {
    resolver: Resolver,
}

impl TextRecords {
    /// Uses the resolvers that the daemon would. Must be called inside a Tokio runtime.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let registry = Registry::new().map_err(|error| Error::Resolver(error.to_string()))?;
        let resolver = Resolver::new(settings, Clock::system(), &registry);
        Ok(Self { resolver: resolver.map_err(|error| Error::Resolver(error.to_string()))? })
    }

    /// The records of a name, each with its strings joined; empty if there are none. An error says why nobody can tell.
    pub async fn of(&self, name: &str) -> Result<Vec<String>, &'static str> {
        let Ok(mut name) = Name::from_ascii(name) else { return Ok(Vec::new()) };
        name.set_fqdn(true);
        let lookup = match self.resolver.query(&name, RecordType::TXT).await {
            Ok(lookup) => lookup,
            Err((Miss::NoName | Miss::NoRecord, _)) => return Ok(Vec::new()),
            Err((Miss::Failure(failure), _)) => return Err(failure.as_str()),
        };
        let texts = lookup.answers().iter().filter_map(|record| match &record.data {
            RData::TXT(text) => Some(String::from_utf8_lossy(&text.txt_data.concat()).into_owned()),
            _ => None,
        });
        Ok(texts.collect())
    }
}

//! The configuration of a daemon whose every file is below one folder.

use std::net::SocketAddr;
use std::path::Path;

use toml::{Table, Value};

/// Options by their dotted names.
#[derive(Clone, Debug)]
pub struct Options {
    table: Table,
    /// Where everything goes.
    pub sink: SocketAddr,
}

impl Options {
    /// Everything goes to `sink`; the first retry comes after a second.
    pub fn new(folder: &Path, sink: SocketAddr) -> Self {
        let place = folder.display();
        let text = format!(
            "hostname = \"daemon.test\"\nthreads = 2\n\
             [spool]\npath = \"{place}/spool\"\nsegment_size = \"1MiB\"\nreserve = \"1MiB\"\ncache = \"16MiB\"\n\
             [journal]\npath = \"{place}/journal\"\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\n\
             [retry]\nschedule = [\"1s\"]\njitter_percent = 0\n\
             [delivery]\ntls = \"none\"\n\
             [dns]\nallow_networks = [\"127.0.0.0/8\"]\n\
             [[route]]\ndomain = \"*\"\nnext_hop = \"smtp://{sink}\"\n\
             [admin]\nsocket = \"{place}/admin.sock\"\n\
             [metrics]\nenabled = false\n\
             [log]\nformat = \"json\"\n"
        );
        Self { table: text.parse().unwrap(), sink }
    }

    /// Sets `section.name`; of a section that may be there more than once the first one is meant.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        let (section, key) = name.split_once('.').unwrap();
        match self.table.entry(section).or_insert_with(|| Table::new().into()) {
            Value::Table(table) => table.insert(key.to_owned(), value.into()),
            Value::Array(tables) => tables[0].as_table_mut().unwrap().insert(key.to_owned(), value.into()),
            other => panic!("{section} is {other}"),
        };
        self
    }

    /// A text that is set.
    pub fn text(&self, name: &str) -> String {
        let (section, key) = name.split_once('.').unwrap();
        self.table[section][key].as_str().unwrap().to_owned()
    }

    /// Takes a section away.
    pub fn remove(&mut self, section: &str) -> &mut Self {
        self.table.remove(section);
        self
    }

    pub fn write(&self, file: &Path) {
        std::fs::write(file, toml::to_string(&self.table).unwrap()).unwrap();
    }
}

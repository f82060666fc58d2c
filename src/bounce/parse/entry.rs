//! What a report says about one recipient, before it is judged.

use crate::bounce::parse::result::Action;
use crate::message::Phase;
use crate::smtp::status::Status;

/// What a report says about one recipient.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    /// The address.
    pub address: Option<String>,
    /// The address as the sender had written it.
    pub original: Option<String>,
    /// What became of the message.
    pub action: Option<Action>,
    /// The status that the report states by itself, apart from what it quotes.
    pub status: Option<Status>,
    /// What is said about it: a reply, or words.
    pub text: String,
    /// Who said it.
    pub remote_mta: Option<String>,
    /// At which step.
    pub step: Option<Phase>,
}

impl Entry {
    /// About this address.
    pub fn of(address: &str) -> Self {
        Self { address: Some(address.to_owned()), ..Self::default() }
    }

    /// Adds a line to what is said.
    pub fn say(&mut self, line: &str) {
        /// More than a classifier looks at.
        const MOST: usize = 4_000;
        let line = line.trim();
        if line.is_empty() || self.text.len() > MOST {
            return;
        }
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(line);
    }
}

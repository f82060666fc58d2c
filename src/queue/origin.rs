//! An origin: what may leave from one egress source towards one site.

use std::time::Instant;

use crate::limit::budget::Budget;
use crate::limit::window::Window;

use super::rules::Ceiling;

/// A source at a site; under the site's lock.
#[derive(Debug)]
pub(super) struct Origin {
    /// Index of the source.
    pub source: u16,
    pub connections: Window,
    pub budget: Option<Box<Budget>>,
    /// Messages over one connection.
    pub messages_per_connection: Option<u32>,
    /// Recipients over one connection.
    pub recipients_per_connection: Option<u32>,
    /// Recipients of one transaction.
    pub recipients_per_message: Option<usize>,
}

/// The window of what has no limit.
const NO_LIMIT: u32 = u32::MAX;

impl Origin {
    /// What `ceiling`, of the source or of both together, allows.
    pub fn new(source: u16, ceiling: &Ceiling, own: &Ceiling, now: Instant) -> Self {
        let mut origin = Self {
            source,
            connections: Window::new(NO_LIMIT),
            budget: None,
            messages_per_connection: None,
            recipients_per_connection: None,
            recipients_per_message: None,
        };
        origin.apply(ceiling, own, now);
        origin
    }

    /// Goes by other ceilings, that of both together and that of the source: what was used up stays so.
    pub fn apply(&mut self, both: &Ceiling, source: &Ceiling, now: Instant) {
        let least = |of: fn(&Ceiling) -> Option<u32>| [both, source].into_iter().filter_map(of).filter(|most| *most > 0).min();
        self.connections.set_ceiling(both.connections.unwrap_or(NO_LIMIT));
        self.messages_per_connection = least(|ceiling| ceiling.messages_per_connection);
        self.recipients_per_connection = least(|ceiling| ceiling.recipients_per_connection);
        let recipients = least(|ceiling| ceiling.recipients_per_transaction);
        self.recipients_per_message = recipients.and_then(|most| usize::try_from(most).ok());
        let allowance = both.allowance();
        if self.budget.as_ref().is_some_and(|budget| budget.is_of(&allowance)) {
            return;
        }
        self.budget = match &self.budget {
            Some(before) => before.followed_by(&allowance, now),
            None => Budget::new(&allowance, now),
        }
        .map(Box::new);
    }

    /// Most connections; none: no limit of its own.
    pub fn ceiling(&self) -> Option<u32> {
        Some(self.connections.ceiling()).filter(|ceiling| *ceiling != NO_LIMIT)
    }

    /// Whether it can be forgotten.
    pub fn is_unused(&self, now: Instant) -> bool {
        self.connections.used() == 0 && self.budget.as_ref().is_none_or(|budget| budget.is_idle(now))
    }
}

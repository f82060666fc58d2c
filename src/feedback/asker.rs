//! Asking whether recipients of one message get it.

use crate::message::{Lane, Phase, Report};
use crate::smtp::address::Address;
use crate::smtp::status::Status;
use crate::state::suppression::{Reason, Suppressed, Whose};

use super::Feedback;

/// Looks up recipients of one message: the hashes of its tenant and class are computed once.
#[derive(Debug)]
pub struct Asker<'a> {
    feedback: &'a Feedback,
    /// None: the list is empty.
    whose: Option<Whose>,
    is_urgent: bool,
}

impl<'a> Asker<'a> {
    pub(super) fn new(feedback: &'a Feedback, tenant: &str, class: &str, lane: Lane) -> Self {
        let list = feedback.list();
        let whose = (!list.is_empty()).then(|| list.whose(tenant, class));
        Self { feedback, whose, is_urgent: lane == Lane::Urgent }
    }

    /// Whether nobody at all is on the list.
    pub fn is_idle(&self) -> bool {
        self.whose.is_none()
    }

    /// What stands against mail to this mailbox. Urgent mail, such as a code that its recipient has just asked for, goes to those, too,
    /// who want no campaigns.
    pub fn suppressed(&self, mailbox: &Address) -> Option<Suppressed> {
        let now = self.feedback.shared.clock.wall();
        let is_held = |reason| !(self.is_urgent && matches!(reason, Reason::Unsubscribe | Reason::Complaint));
        self.feedback.list().find_if(self.whose?, mailbox, now, is_held)
    }

    /// The same, as what is said of it instead of sending.
    pub fn refusal(&self, mailbox: &Address) -> Option<Report> {
        let suppressed = self.suppressed(mailbox)?;
        self.feedback.shared.meters.suppressed(suppressed.reason);
        // RFC 3463, 3.8: X.7.1, delivery not authorized.
        Some(Report::local(Phase::Queue, Status::new(5, 7, 1), describe(&suppressed)))
    }
}

/// Why a recipient gets no mail, for people.
pub fn describe(suppressed: &Suppressed) -> String {
    let Suppressed { reason, reach, .. } = suppressed;
    let what = if reach.is_domain { "domain" } else { "recipient" };
    format!("suppressed {what}: {reason} ({})", reach.extent.as_str())
}

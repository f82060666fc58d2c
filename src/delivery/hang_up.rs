//! A receiver that closes the connection with a refusal that says nothing: "451 try again later", then FIN or RST. The
//! closing is what tells that it is about us and not about the message, so it belongs to the outcome.

use std::time::Duration;

use super::connection::Connection;
use super::session::{Lost, Settled};
use crate::message::Outcome;

/// How long the closing is waited for. It leaves the receiver right behind the reply; who closes later than this closes for
/// another reason. Only refusals that say nothing cost this time, and of those only where the connection stays open.
const BEHIND: Duration = Duration::from_millis(50);

impl Connection<'_> {
    /// Notes in the outcomes of a transaction whether the receiver closes the connection with them.
    pub(super) async fn watch_end(&mut self, settled: &mut Settled) {
        if !self.session.judge().are_opaque(&settled.outcomes) {
            return;
        }
        // What comes instead is the reply to the next command, unless we close anyway and no command is of any use.
        let mut unheard = Vec::new();
        let room = if settled.close { &mut unheard } else { self.session.room() };
        if self.io.closes(BEHIND, room, settled.close).await {
            settled.close = true;
            mark(&mut settled.outcomes);
        }
    }

    /// The same where the connection was lost before the transaction was settled.
    pub(super) fn note_end(&self, outcomes: &mut [Outcome], lost: &Lost) {
        if *lost != Lost::TimedOut && self.session.judge().are_opaque(outcomes) {
            mark(outcomes);
        }
    }
}

fn mark(outcomes: &mut [Outcome]) {
    for outcome in outcomes {
        if let Outcome::Deferred(report) = outcome {
            report.hung_up = true;
        }
    }
}

//! A listener that is open to everybody: what drives a session here and in `benches/session.rs`.

use hikyaku::submission::refusal::{Cause, Refusal};
use hikyaku::submission::session::{Gate, Offer, Session, Step};

/// Lets everybody send everything.
pub struct Open;

impl Gate for Open {
    fn mail(&mut self) -> Result<(), Refusal> {
        Ok(())
    }

    fn rcpt(&mut self, _offer: &Offer<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn count(&mut self, _cause: Cause) {}
}

/// Does with `input` what a connection does, without socket and spool: calls `on` for each step, which stores the message that
/// is complete and takes the replies. Gives how many octets were used, and the step that cannot go on.
pub fn drive(session: &mut Session, input: &[u8], mut on: impl FnMut(&mut Session, Step)) -> (usize, Step) {
    let mut at = 0;
    loop {
        let (used, step) = session.advance(input.get(at..).unwrap_or_default(), &mut Open);
        at += used;
        on(session, step);
        if !matches!(step, Step::Store | Step::Write) {
            return (at, step);
        }
    }
}

//! AUTH in a session (RFC 4954): the exchange is [`Dialog`]'s, the verdict comes from outside.
//!
//! | reply | when |
//! |---|---|
//! | 334 | the next challenge |
//! | 235 2.7.0 | the client is the user that it claimed to be |
//! | 535 5.7.8 | it is not, whatever the reason; with the third one comes 421 4.7.0 |
//! | 454 4.7.0 | too many have failed before, or too many are waiting: nothing was compared |
//! | 538 5.7.11 | in clear, where that is not allowed |
//! | 504 5.5.4 | a mechanism that is not offered |
//! | 501 5.7.0, 501 5.5.2 | the client gave up; what it sent is not base64 or against the mechanism's rules |
//! | 500 5.5.6 | a line over 12,288 octets |
//! | 503 5.5.1 | before EHLO, a second time, or in a transaction |
//! | 502 5.5.1 | the listener does not offer it |

use std::sync::Arc;

use super::{Gate, Session, State};
use crate::smtp::status::Status;
use crate::submission::refusal::{self, Refusal};
use crate::users::sasl::dialog::{Dialog, Fault, Next, offered};
use crate::users::sasl::{Certificate, Channel, Claim, Mechanism};
use crate::users::{Denial, User};

/// False claims in one session.
const FAILURES_MOST: u32 = 3;

/// What a session knows of who it talks to.
#[derive(Debug, Default)]
pub(super) struct Identity {
    /// Who has authenticated.
    pub user: Option<Arc<User>>,
    /// Who has shown that they are a user, and has not been told yet.
    proven: Option<Arc<User>>,
    dialog: Option<Dialog>,
    /// To be taken by the connection.
    claim: Option<(Mechanism, Claim)>,
    failures: u32,
}

impl Session {
    /// Who has authenticated.
    pub fn user(&self) -> Option<&Arc<User>> {
        self.identity.user.as_ref()
    }

    /// The claim that [`Step::Verify`](super::Step::Verify) is about.
    pub fn take_claim(&mut self) -> Option<(Mechanism, Claim)> {
        self.identity.claim.take()
    }

    /// What TLS gives to SASL.
    fn channel(&self) -> Channel {
        let Some(security) = self.security() else { return Channel::default() };
        let certificate = security.client.as_ref();
        Channel {
            exporter: security.exporter,
            server_end_point: Some(security.server_end_point.clone()).filter(|hash| !hash.is_empty()),
            certificate: certificate
                .map(|certificate| Certificate { sha256: certificate.sha256, names: certificate.names.clone() }),
        }
    }

    /// The mechanisms that this client may use now; none where AUTH is not offered at all.
    pub(super) fn mechanisms(&self, gate: &dyn Gate) -> Option<Vec<Mechanism>> {
        let users = gate.users().filter(|_| self.settings.auth)?;
        let is_private = self.security().is_some() || self.settings.auth_without_tls;
        Some(offered(&self.channel(), is_private, users.has_scram()))
    }

    /// Carries out AUTH.
    pub(super) fn auth(&mut self, argument: &str, gate: &mut dyn Gate) -> Result<(), Refusal> {
        let mechanisms = self.mechanisms(gate).ok_or(refusal::NOT_IMPLEMENTED)?;
        self.hello.as_ref().filter(|hello| hello.is_extended).ok_or(refusal::NO_HELLO)?;
        if self.identity.user.is_some() {
            return Err(refusal::AUTH_ALREADY);
        }
        if self.transaction.is_some() {
            return Err(refusal::AUTH_IN_TRANSACTION);
        }
        if mechanisms.is_empty() {
            return Err(refusal::AUTH_IN_CLEAR);
        }
        let nonce = gate.nonce().ok_or(refusal::AUTH_NOT_NOW)?;
        let channel = self.channel();
        let begun = match gate.users() {
            Some(users) => Dialog::begin(argument, &mechanisms, nonce, &channel, users),
            None => return Err(refusal::NOT_IMPLEMENTED),
        };
        match begun {
            Ok((dialog, next)) => {
                self.identity.dialog = Some(dialog);
                self.go_on(next, gate);
                Ok(())
            }
            Err(fault) => Err(of_fault(fault)),
        }
    }

    /// Takes a line of the exchange.
    pub(super) fn auth_line(&mut self, line: &[u8], gate: &mut dyn Gate) {
        self.state = State::Command;
        let channel = self.channel();
        let next = match (&mut self.identity.dialog, gate.users()) {
            (Some(dialog), Some(users)) => dialog.line(line, &channel, users),
            _ => Next::Failed(Fault::Cancelled),
        };
        self.go_on(next, gate);
    }

    /// The claim has been told true or false.
    pub fn verified(&mut self, verdict: Result<Arc<User>, Denial>, gate: &mut dyn Gate) {
        if !matches!(self.state, State::Verify) {
            return;
        }
        self.state = State::Command;
        match verdict {
            Ok(user) => {
                self.identity.proven = Some(user);
                let next = self.identity.dialog.as_mut().map(Dialog::verified);
                self.go_on(next.unwrap_or(Next::Failed(Fault::Cancelled)), gate);
            }
            Err(denial) => {
                self.identity.dialog = None;
                self.identity.failures += 1;
                self.refuse(&of_denial(denial), gate);
                if self.identity.failures >= FAILURES_MOST {
                    self.refuse(&refusal::AUTH_TOO_OFTEN, gate);
                }
            }
        }
    }

    fn go_on(&mut self, next: Next, gate: &mut dyn Gate) {
        match next {
            Next::Ask(text) => {
                self.line(&["334 ", &text]);
                self.state = State::Auth;
            }
            Next::Verify(claim) => {
                self.identity.claim = self.identity.dialog.as_ref().map(|dialog| (dialog.mechanism(), claim));
                self.state = State::Verify;
            }
            Next::Accepted => {
                self.identity.dialog = None;
                self.identity.user = self.identity.proven.take();
                self.say(235, Status::new(2, 7, 0), "Authentication successful");
            }
            Next::Failed(fault) => {
                self.identity.proven = None;
                if let Some(dialog) = self.identity.dialog.take() {
                    gate.malformed(dialog.mechanism());
                }
                self.refuse(&of_fault(fault), gate);
            }
        }
    }
}

fn of_fault(fault: Fault) -> Refusal {
    match fault {
        Fault::Mechanism => refusal::AUTH_MECHANISM,
        Fault::Syntax => refusal::AUTH_SYNTAX,
        Fault::Cancelled => refusal::AUTH_CANCELLED,
        Fault::TooLong => refusal::AUTH_LINE_TOO_LONG,
    }
}

fn of_denial(denial: Denial) -> Refusal {
    match denial {
        Denial::Wrong => refusal::AUTH_WRONG,
        Denial::Held => refusal::AUTH_HELD,
        Denial::Busy => refusal::AUTH_NOT_NOW,
    }
}

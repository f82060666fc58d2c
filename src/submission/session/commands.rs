//! What each command does to a [`Session`].

use super::{Chunk, Hello, Offer, Session, State, Transaction};
use crate::message::{Lane, Recipient};
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::command::{self, Command, CommandError};
use crate::smtp::data::Decoder;
use crate::smtp::parameter::{MailParameters, RcptParameters};
use crate::smtp::status::Status;
use crate::submission::TlsMode;
use crate::submission::refusal::{self, Refusal};
use crate::users::sasl::Mechanism;

use super::Gate;

const OK: Status = Status::new(2, 0, 0);
/// Octets that the recipients of a transaction may take: with the buffers of input (34 KiB) and replies (32 KiB) the
/// session stays under 256 KiB beside content.
const ENVELOPE_MOST: usize = 176 * 1024;
/// The same for each recipient where a listener allows so many that they would not fit: an address of 254 octets is rare.
const RECIPIENT_MOST: usize = 160;

impl Session {
    /// Carries out one line.
    pub(super) fn command(&mut self, line: &[u8], gate: &mut dyn Gate) {
        if self.errors >= self.settings.max_errors || self.junk >= self.settings.max_junk_commands {
            return self.refuse(&refusal::MISBEHAVIOUR, gate);
        }
        let result = match command::parse(line) {
            Ok(Command::Quit) => {
                self.say(221, OK, "Bye");
                return self.close();
            }
            Err(CommandError::ChunkSize) => {
                return self.close_after(&refusal::of_command(CommandError::ChunkSize), gate);
            }
            // Nobody would wait for so much to be read and thrown away.
            Ok(Command::Bdat(size, _)) if size / 2 > self.settings.max_message_size => {
                return self.close_after(&refusal::TOO_LARGE, gate);
            }
            Ok(Command::Bdat(size, is_last)) => {
                self.bdat(size, is_last);
                return;
            }
            _ if self.is_denied => Err(refusal::RELAY_DENIED_ALREADY),
            Ok(command) => self.carry_out(command, gate),
            Err(error) => Err(refusal::of_command(error)),
        };
        if let Err(refusal) = result {
            self.refuse(&refusal, gate);
        }
    }

    fn carry_out(&mut self, command: Command<'_>, gate: &mut dyn Gate) -> Result<(), Refusal> {
        match command {
            Command::Ehlo(name) => self.hello_is(name, true, gate),
            Command::Helo(name) => self.hello_is(name, false, gate),
            Command::Mail(path, parameters) => self.mail(path, parameters, gate)?,
            Command::Rcpt(command::Recipient::Mailbox(path), parameters) => self.rcpt(path, parameters, gate)?,
            Command::Rcpt(command::Recipient::Postmaster, parameters) => {
                let path = self.settings.postmaster.clone().ok_or(refusal::NO_POSTMASTER)?;
                self.rcpt(path, parameters, gate)?;
            }
            Command::Data => self.data_command()?,
            Command::Auth(argument) => self.auth(argument, gate)?,
            Command::StartTls => self.start_tls()?,
            Command::Rset => {
                self.is_excused = false;
                self.reset();
                self.junk(250, OK, "Ok");
            }
            Command::Noop => self.junk(250, OK, "Ok"),
            Command::Vrfy => self.junk(252, Status::new(2, 5, 0), "Cannot verify; send some mail, it will be tried"),
            Command::Help => self.junk(214, OK, "Commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT"),
            Command::Unsupported => return Err(refusal::NOT_IMPLEMENTED),
            Command::Quit | Command::Bdat(..) => {}
        }
        Ok(())
    }

    /// Answers a command that does nothing towards a message.
    fn junk(&mut self, code: u16, status: Status, text: &str) {
        self.junk += 1;
        self.say(code, status, text);
    }

    fn hello_is(&mut self, name: &str, is_extended: bool, gate: &dyn Gate) {
        self.junk += 1;
        self.is_excused = false;
        self.reset();
        self.hello = Some(Hello { name: name.into(), is_extended });
        let hostname = std::sync::Arc::clone(&self.hostname);
        if !is_extended {
            return self.line(&["250 ", &hostname]);
        }
        let size = self.settings.max_message_size.to_string();
        let recipients = self.settings.max_recipients.to_string();
        let messages = self.settings.max_transactions.map_or(String::new(), |most| format!(" MAILMAX={most}"));
        self.line(&["250-", &hostname]);
        self.line(&["250-PIPELINING"]);
        self.line(&["250-SIZE ", &size]);
        self.line(&["250-8BITMIME"]);
        self.line(&["250-SMTPUTF8"]);
        self.line(&["250-ENHANCEDSTATUSCODES"]);
        self.line(&["250-CHUNKING"]);
        // What comes back goes no further, so there is nothing to report or to hurry.
        if !self.settings.takes_returns {
            self.line(&["250-DSN"]);
            self.line(&["250-MT-PRIORITY"]);
        }
        match self.security() {
            Some(_) if self.settings.takes_returns => {}
            Some(_) => self.line(&["250-REQUIRETLS"]),
            None if self.settings.tls.is_some() => self.line(&["250-STARTTLS"]),
            None => {}
        }
        let mechanisms = self.mechanisms(gate).filter(|_| self.user().is_none()).unwrap_or_default();
        if !mechanisms.is_empty() {
            let names: Vec<&str> = mechanisms.into_iter().map(Mechanism::as_str).collect();
            self.line(&["250-AUTH ", &names.join(" ")]);
        }
        self.line(&["250-LIMITS", &messages, " RCPTMAX=", &recipients]);
        self.line(&["250 HELP"]);
    }

    /// An open transaction is given up, as by every EHLO; the client has to begin anew anyway.
    fn start_tls(&mut self) -> Result<(), Refusal> {
        if self.settings.tls.is_none() {
            return Err(refusal::NOT_IMPLEMENTED);
        }
        if self.security().is_some() {
            return Err(refusal::TLS_ALREADY);
        }
        self.hello.as_ref().filter(|hello| hello.is_extended).ok_or(refusal::NO_HELLO)?;
        self.reset();
        self.say(220, OK, "Ready to start TLS");
        self.state = State::Handshake;
        Ok(())
    }

    fn mail(&mut self, path: ReversePath, parameters: MailParameters, gate: &mut dyn Gate) -> Result<(), Refusal> {
        self.mails = self.mails.saturating_add(1);
        let hello = self.hello.as_ref().ok_or(refusal::NO_HELLO)?;
        if self.security.is_none() && self.settings.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::Required) {
            return Err(refusal::TLS_NEEDED);
        }
        if self.is_stranger && self.user().is_none() {
            return Err(refusal::AUTH_NEEDED);
        }
        if let Some(open) = &self.transaction {
            return Err(if open.has_chunks { refusal::IN_CHUNKS } else { refusal::NESTED_MAIL });
        }
        if !hello.is_extended && parameters != MailParameters::default() {
            return Err(refusal::NOT_EXTENDED);
        }
        // In clear REQUIRETLS is not offered (RFC 8689, 2), so it is as any other word that nobody knows.
        if parameters.auth && !self.settings.auth || parameters.require_tls && self.security.is_none() {
            return Err(refusal::of_command(CommandError::UnknownParameter));
        }
        self.is_excused = false;
        if self.settings.max_transactions.is_some_and(|most| self.mails > most.get()) {
            return Err(refusal::TOO_MANY_MESSAGES);
        }
        if parameters.size.is_some_and(|size| size > self.settings.max_message_size) {
            return Err(refusal::TOO_LARGE);
        }
        if let Err(refusal) = gate.mail() {
            self.is_excused = true;
            return Err(refusal);
        }
        if let Some(user) = self.identity.user.clone() {
            match gate.authorize(&user, &path) {
                Ok(user) => self.identity.user = Some(user),
                Err(refusal) => {
                    self.is_excused = refusal.code / 100 == 4;
                    return Err(refusal);
                }
            }
        }
        let asked = parameters.priority;
        let lane = self.settings.lane_of(asked);
        self.transaction = Some(Transaction {
            reverse_path: path,
            parameters,
            recipients: Vec::new(),
            has_chunks: false,
            octets: 0,
            deferral: None,
        });
        match asked {
            // RFC 6710, 4.1: X.3.6, the requested priority was changed.
            Some(asked) if Lane::of_priority(asked) != lane => {
                let text = format!("{} is the new priority assigned to the message", lane.priority());
                self.say(250, Status::new(2, 3, 6), &text);
            }
            _ => self.say(250, Status::new(2, 1, 0), "Ok"),
        }
        Ok(())
    }

    fn rcpt(&mut self, path: Address, parameters: RcptParameters, gate: &mut dyn Gate) -> Result<(), Refusal> {
        let result = self.recipient(path, parameters, gate);
        if let (Err(refusal), Some(transaction)) = (&result, &mut self.transaction)
            && refusal.code / 100 == 4
        {
            transaction.deferral = Some(*refusal);
        }
        result
    }

    fn recipient(&mut self, path: Address, parameters: RcptParameters, gate: &mut dyn Gate) -> Result<(), Refusal> {
        let is_extended = self.hello.as_ref().is_some_and(|hello| hello.is_extended);
        let Some(transaction) = &mut self.transaction else { return Err(refusal::NO_MAIL) };
        if transaction.has_chunks {
            return Err(refusal::IN_CHUNKS);
        }
        let RcptParameters { notify, orcpt } = parameters;
        if !is_extended && (notify != crate::message::Notify::UNSPECIFIED || orcpt.is_some()) {
            return Err(refusal::NOT_EXTENDED);
        }
        let is_ascii = path.as_str().is_ascii() && orcpt.as_ref().is_none_or(|orcpt| orcpt.is_ascii());
        if !is_ascii && !transaction.parameters.smtputf8 {
            return Err(refusal::NON_ASCII);
        }
        let octets = transaction.octets
            + size_of::<Recipient>()
            + path.as_str().len()
            + orcpt.as_ref().map_or(0, |orcpt| orcpt.len());
        let most = ENVELOPE_MOST.max(self.settings.max_recipients.saturating_mul(RECIPIENT_MOST));
        if transaction.recipients.len() >= self.settings.max_recipients || octets > most {
            return Err(refusal::TOO_MANY_RECIPIENTS);
        }
        let recipients = transaction.recipients.len() + 1;
        let lane = self.settings.lane_of(transaction.parameters.priority);
        gate.rcpt(&Offer { reverse_path: &transaction.reverse_path, forward_path: &path, recipients, lane })?;
        transaction.octets = octets;
        transaction.recipients.push(Recipient { forward_path: path, notify, orcpt });
        self.say(250, Status::new(2, 1, 5), "Ok");
        Ok(())
    }

    /// A negative answer to DATA ends the transaction: what is pipelined after it must not meet its envelope.
    fn data_command(&mut self) -> Result<(), Refusal> {
        let transaction = self.transaction.as_ref().ok_or(refusal::NO_MAIL)?;
        if transaction.has_chunks {
            return Err(refusal::IN_CHUNKS);
        }
        if transaction.recipients.is_empty() {
            let deferral = transaction.deferral;
            self.is_excused = deferral.is_some();
            self.reset();
            return Err(deferral.unwrap_or(refusal::NO_RECIPIENTS));
        }
        self.begin_content();
        self.state = State::Data(Decoder::default());
        self.line(&["354 End data with <CR><LF>.<CR><LF>"]);
        Ok(())
    }

    /// The octets of a refused BDAT are read all the same: they follow whatever the answer is (RFC 3030, 2).
    fn bdat(&mut self, size: u64, is_last: bool) {
        let mut begins = false;
        let refusal = match &mut self.transaction {
            _ if self.is_denied => Some(refusal::RELAY_DENIED_ALREADY),
            None => Some(refusal::NO_MAIL),
            Some(open) if open.recipients.is_empty() => {
                self.is_excused = open.deferral.is_some();
                Some(open.deferral.unwrap_or(refusal::NO_RECIPIENTS))
            }
            Some(open) => {
                begins = !std::mem::replace(&mut open.has_chunks, true);
                None
            }
        };
        if begins {
            self.begin_content();
        }
        if refusal.is_some() {
            self.reset();
        }
        self.state = State::Chunk(Chunk { left: size, size, is_last, refusal });
    }
}

//! A queue for one connection: messages in, outcomes out, without spool and timers.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hikyaku::clock::{Clock, UnixTime};
use hikyaku::delivery::work::{NotRecorded, Ticket, Unreadable, Work};
use hikyaku::delivery::{Settings, Shared, Timeouts, deliver};
use hikyaku::dns::security::Assurance;
use hikyaku::dns::{MxHost, MxProof, Plan, TlsPolicy, Transport};
use hikyaku::message::{Content, ContentTraits, Envelope, Message, MessageId, Outcome, Recipient, TlsWish};
use hikyaku::metrics::Registry;
use hikyaku::panics::Panic;
use hikyaku::queue::Source;
use hikyaku::smtp::address::ReversePath;
use parking_lot::Mutex;

use super::fake_mx::Running;

/// A transaction's work.
#[derive(Debug)]
pub struct Errand {
    pub message: Message,
    pub recipients: Vec<u32>,
    pub in_doubt: Option<SocketAddr>,
    /// The spool cannot give it out.
    pub is_lost: bool,
    /// The spool calls it damaged.
    pub is_damaged: bool,
}

impl Ticket for Errand {
    fn id(&self) -> MessageId {
        self.message.id
    }

    fn recipients(&self) -> &[u32] {
        &self.recipients
    }

    fn in_doubt(&self) -> Option<SocketAddr> {
        self.in_doubt
    }

    fn carry(&mut self, _message: &Message) {}
}

/// What the connection said about its work.
#[derive(Debug, Default)]
pub struct Log {
    /// Message number and outcomes, in the order of reports.
    pub reports: Vec<(u64, Vec<Outcome>)>,
    /// Given back.
    pub returned: Vec<u64>,
    /// Held because they are damaged.
    pub held: Vec<u64>,
    /// Message number and outcome.
    pub failed: Vec<(u64, Outcome)>,
    /// Successful openings.
    pub connected: usize,
    /// Attempts with their recipients.
    pub attempts: Vec<(u64, Vec<u32>, SocketAddr)>,
}

/// Gives errands to one connection.
pub struct Script {
    plan: Arc<Plan>,
    assurance: Assurance,
    source: Arc<Source>,
    ready: VecDeque<Errand>,
    /// Given only to `take`, after a moment of idleness.
    later: VecDeque<Errand>,
    messages: Mutex<Vec<Message>>,
    damaged: Vec<MessageId>,
    records: bool,
    log: Arc<Mutex<Log>>,
}

impl Work for Script {
    type Ticket = Errand;

    fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    fn assurance(&self) -> Assurance {
        self.assurance
    }

    fn source(&self) -> &Arc<Source> {
        &self.source
    }

    fn try_take(&mut self) -> Option<Errand> {
        self.ready.pop_front()
    }

    async fn take(&mut self, idle: Duration) -> Option<Errand> {
        if self.later.is_empty() {
            tokio::time::sleep(idle).await;
            return None;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
        self.later.pop_front()
    }

    async fn load(&self, id: MessageId) -> Result<Message, Unreadable> {
        if self.damaged.contains(&id) {
            return Err(Unreadable::Damaged);
        }
        self.messages
            .lock()
            .iter()
            .find(|message| message.id == id)
            .cloned()
            .ok_or(Unreadable::Failed("damaged".into()))
    }

    async fn attempt(&self, id: MessageId, recipients: &[u32], mx: SocketAddr) -> Result<(), NotRecorded> {
        if !self.records {
            return Err(NotRecorded);
        }
        self.log.lock().attempts.push((id.0, recipients.to_vec(), mx));
        Ok(())
    }

    fn report(&self, ticket: Errand, outcomes: Vec<Outcome>) {
        assert_eq!(ticket.recipients.len(), outcomes.len(), "one outcome for each recipient");
        self.log.lock().reports.push((ticket.id().0, outcomes));
    }

    fn hold_damaged(&self, ticket: Errand, _panic: Option<&Panic>) {
        self.log.lock().held.push(ticket.id().0);
    }

    fn give_back(&self, ticket: Errand) {
        self.log.lock().returned.push(ticket.id().0);
    }

    fn connected(&self) {
        self.log.lock().connected += 1;
    }

    fn connection_failed(&self, ticket: Errand, outcome: Outcome) {
        self.log.lock().failed.push((ticket.id().0, outcome));
    }
}

/// A message with one recipient, `r0@example.test`.
pub fn errand(number: u64, content: &[u8]) -> Errand {
    errand_to(number, content, &["r0@example.test"])
}

/// A message with these recipients.
pub fn errand_to(number: u64, content: &[u8], recipients: &[&str]) -> Errand {
    let recipient = |path: &&str| Recipient::new(path.parse().unwrap());
    let header = content.windows(4).position(|four| four == b"\r\n\r\n").map_or(content.len(), |end| end);
    let envelope = Envelope {
        tenant: "t".into(),
        traits: ContentTraits {
            has_eight_bit: !content.is_ascii(),
            has_eight_bit_header: !content[..header].is_ascii(),
        },
        ..Envelope::new(
            ReversePath::Mailbox(format!("s{number}@sender.test").parse().unwrap()),
            recipients.iter().map(recipient).collect(),
            UnixTime(0),
        )
    };
    let message = Message {
        id: MessageId(number),
        envelope: Arc::new(envelope),
        content: Content::Memory(content.to_vec().into()),
    };
    let recipients = (0..u32::try_from(recipients.len()).unwrap()).collect();
    Errand { message, recipients, in_doubt: None, is_lost: false, is_damaged: false }
}

impl Errand {
    /// The same with this wish, from the null reverse-path if `is_from_null`.
    pub fn asking(mut self, tls: TlsWish, is_from_null: bool) -> Self {
        let mut envelope = (*self.message.envelope).clone();
        envelope.tls = tls;
        if is_from_null {
            envelope.reverse_path = ReversePath::Null;
        }
        self.message.envelope = Arc::new(envelope);
        self
    }

    /// What its connection is asked for.
    fn assurance(&self) -> Assurance {
        let envelope = &self.message.envelope;
        Assurance::of(envelope.tls, envelope.reverse_path.is_null())
    }
}

/// A run of one connection task.
pub struct Run {
    plan: Plan,
    source: Source,
    /// Delivery's settings.
    pub settings: Settings,
    ready: VecDeque<Errand>,
    later: VecDeque<Errand>,
    shared: Option<Arc<Shared>>,
    records: bool,
}

impl Run {
    /// Towards these receivers, the first preferred. All but the port comes from their addresses.
    pub fn to(receivers: &[&Running]) -> Self {
        let port = receivers.first().map_or(25, |receiver| receiver.address.port());
        let hosts = receivers.iter().enumerate().map(|(number, receiver)| MxHost {
            name: format!("mx{number}.example.test").into(),
            preference: u16::try_from(number).unwrap(),
            addresses: [receiver.address.ip()].as_slice().into(),
        });
        let plan = Plan {
            domain: "example.test".into(),
            site: "example.test".into(),
            parent: None,
            mx_set: "mx".into(),
            hosts: hosts.collect(),
            port,
            transport: Transport::Smtp,
            tls: TlsPolicy::Opportunistic,
            security: None,
            mx_proof: MxProof::None,
            valid_until: Instant::now() + Duration::from_secs(60),
        };
        let source = Source {
            name: "default".into(),
            ipv4: Some(Ipv4Addr::UNSPECIFIED),
            ipv6: None,
            ehlo_name: "out.test".into(),
            connections: None,
        };
        let timeouts = Timeouts::all(Duration::from_millis(1000));
        let roots = hikyaku::dns::Roots::only(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls/ca.pem").as_ref());
        let settings = Settings { timeouts, roots, idle: Duration::from_millis(20), ..Settings::default() };
        Self { plan, source, settings, ready: VecDeque::new(), later: VecDeque::new(), shared: None, records: true }
    }

    /// Changes the plan.
    pub fn plan(mut self, change: impl FnOnce(&mut Plan)) -> Self {
        change(&mut self.plan);
        self
    }

    /// Changes the source.
    pub fn source(mut self, change: impl FnOnce(&mut Source)) -> Self {
        change(&mut self.source);
        self
    }

    /// Changes the settings.
    pub fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Work that is ready at once.
    pub fn ready(mut self, errands: impl IntoIterator<Item = Errand>) -> Self {
        self.ready.extend(errands);
        self
    }

    /// Work that comes when the connection has been idle for 150 ms.
    pub fn later(mut self, errands: impl IntoIterator<Item = Errand>) -> Self {
        self.later.extend(errands);
        self
    }

    /// Uses the memory of an earlier run.
    pub fn remembering(mut self, shared: &Arc<Shared>) -> Self {
        self.shared = Some(Arc::clone(shared));
        self
    }

    /// The spool fails to record attempts.
    pub fn without_records(mut self) -> Self {
        self.records = false;
        self
    }

    /// Runs until the connection ends.
    pub async fn go(self) -> Log {
        self.go_and_remember().await.0
    }

    /// Runs until the connection ends; also gives what is remembered about hosts.
    pub async fn go_and_remember(mut self) -> (Log, Arc<Shared>) {
        let readable = self.ready.iter().chain(&self.later).filter(|errand| !errand.is_lost);
        let messages = readable.map(|errand| errand.message.clone()).collect();
        let damaged = self.ready.iter().filter(|errand| errand.is_damaged).map(|errand| errand.message.id).collect();
        let first = self.ready.pop_front().expect("a first errand");
        let log = Arc::new(Mutex::new(Log::default()));
        let script = Script {
            plan: Arc::new(self.plan),
            assurance: first.assurance(),
            source: Arc::new(self.source),
            ready: self.ready,
            later: self.later,
            messages: Mutex::new(messages),
            damaged,
            records: self.records,
            log: Arc::clone(&log),
        };
        let shared = self
            .shared
            .unwrap_or_else(|| Shared::new(self.settings, Clock::system(), &Registry::new().unwrap()).unwrap());
        let work = deliver(Arc::clone(&shared), script, first);
        tokio::time::timeout(Duration::from_secs(20), work).await.expect("the connection task ends");
        let log = std::mem::take(&mut *log.lock());
        (log, shared)
    }
}

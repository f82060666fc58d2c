//! What earlier runs left, taken up, and parts put together.

use std::path::Path;
use std::sync::Arc;

use crate::audit::Audit;
use crate::clock::Clock;
use crate::config::Config;
use crate::dkim::Signer;
use crate::feedback::Feedback;
use crate::journal::Journal;
use crate::log::disk::Disk;
use crate::metrics::Registry;
use crate::queue::Queue;
use crate::spool::{self, Claimed, Spool};
use crate::state::suppression::Suppression;
use crate::state::{LearntStore, Note, Orders, Pins};
use crate::submission::Services;
use crate::unsubscribe::{Settings, Unsubscribe};
use crate::users::Users;

use super::feedback::Returns;
use super::{Error, settings, suppression};

/// What earlier runs left.
pub(super) struct State {
    pub disk: Arc<Disk>,
    pub claimed: Claimed,
    pub pins: Pins,
    pub orders: Orders,
    pub audit: Audit,
    pub suppression: Suppression,
}

impl State {
    /// Claims the spool's directory and takes up what is beside the messages.
    pub async fn take_up(config: &Config, clock: Clock, registry: &Registry) -> Result<Self, Error> {
        let disk = Arc::new(Disk::new(&config.spool.path));
        let keys = settings::spool_keys(config).map_err(Error::SpoolKey)?;
        let claimed = Spool::claim(spool::Settings { keys, ..settings::spool(config) }, disk.clone())?;
        let spool = config.spool.path.clone();
        let pins = Pins::open(disk.clone()).map_err(|error| Error::Pins { spool: spool.clone(), error })?;
        let audit = Audit::open(settings::audit(config), Note::of_audit(disk.clone()), clock, registry);
        let orders = Orders::open(disk.clone(), clock.wall()).map_err(|error| Error::Orders { spool, error })?;
        let suppression = suppression::open(disk.clone(), clock, registry).await?;
        Ok(Self { disk, claimed, pins, orders, audit, suppression })
    }
}

/// A queue with whom it tells and asks, and with what was learnt and used up before.
pub(super) async fn queue(
    queue: Queue,
    (journal, feedback, signer): (&Journal, &Feedback, &Signer),
    spool: &Path,
    disk: Arc<Disk>,
) -> Queue {
    queue
        .with_journal(journal.clone())
        .with_feedback(feedback.clone())
        .with_signer(signer.clone())
        .with_learnt(open_learnt(spool).await)
        .with_spent(Note::of_spent(disk.clone()))
        .with_warmups(Note::of_warmups(disk))
}

/// What listeners share, with whom they ask.
pub(super) fn services(
    services: Services,
    (users, signer, feedback, unsubscribe): (&Users, &Signer, &Feedback, &Unsubscribe),
) -> Services {
    services
        .with_users(users.clone())
        .with_signer(signer.clone())
        .with_feedback(feedback.clone())
        .with_unsubscribe(unsubscribe.clone())
}

/// What makes links and answers them.
pub(super) fn unsubscribe(
    links: Settings,
    (list, journal, returns): (&Suppression, &Journal, &Returns),
    clock: Clock,
    registry: &Registry,
) -> Unsubscribe {
    Unsubscribe::new(links, list.clone(), (journal.clone(), returns.naming.clone()), clock, registry)
}

/// What was learnt before. It may block on the disk, and is worth no failure.
async fn open_learnt(spool: &Path) -> LearntStore {
    let path = spool.to_owned();
    tokio::task::spawn_blocking(move || LearntStore::open(&path)).await.unwrap_or_default()
}

//! A spool that is full before the daemon starts.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hikyaku::clock::Clock;
use hikyaku::log::disk::Disk;
use hikyaku::message::{Content, Envelope, Lane, Recipient};
use hikyaku::metrics::Registry;
use hikyaku::smtp::address::ReversePath;
use hikyaku::spool::{Attempts, NewMessage, Settings, Spool};

/// What one message is.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    /// Also the local-part of its reverse-path.
    pub tenant: &'a str,
    pub campaign: &'a str,
    pub lane: Lane,
    pub to: &'a str,
}

/// Messages accepted at once: one sync is for all of them.
const AT_ONCE: usize = 1_000;

/// Fills the spool of a daemon in `folder`.
pub fn fill<'a>(folder: &Path, letters: impl Iterator<Item = Letter<'a>>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (clock, registry) = (Clock::system(), Registry::new().unwrap());
    let settings = Settings {
        path: "unused".into(),
        segment_size: 64 << 20,
        reserve: 0,
        sync: false,
        attempts: Attempts::Write,
        deadline: Duration::from_secs(600),
        cache: 1 << 20,
        keys: hikyaku::spool::Keys::default(),
    };
    let (spool, recovery) = Spool::open(settings, Arc::new(Disk::new(folder.join("spool"))), clock, &registry).unwrap();
    recovery.run(&mut |_| {});
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for Letter { tenant, campaign, lane, to } in letters {
            let from = ReversePath::Mailbox(format!("{tenant}@client.test").parse().unwrap());
            let envelope = Envelope {
                tenant: tenant.into(),
                campaign: campaign.into(),
                lane,
                ..Envelope::new(from, vec![Recipient::new(to.parse().unwrap())], clock.wall())
            };
            let content = Content::Memory(b"Subject: x\r\n\r\nHello.\r\n".as_slice().into());
            let (id, envelope, spool) = (spool.next_id(), Arc::new(envelope), spool.clone());
            if tasks.len() >= AT_ONCE {
                tasks.join_next().await;
            }
            let message = NewMessage { id, envelope, content, ended_at: Instant::now() };
            tasks.spawn(async move { spool.accept(message).await.unwrap() });
        }
        tasks.join_all().await;
    });
    spool.close_blocking();
}

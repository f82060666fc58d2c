//! Fairness at a path whose rate is the limit, configured or learnt. In the time of a paused runtime: exact, and quick.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hikyaku::limit::budget::Allowance;
use hikyaku::message::{Envelope, MessageId, Outcome, Phase, Report};
use hikyaku::queue::Settings;
use hikyaku::queue::learning;
use hikyaku::queue::settings::Limits;
use hikyaku::smtp::reply::Reply;
use hikyaku::smtp::status::Status;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::common::{Receiver, Stage, delivered};

/// What the receiver took, and when.
type Taken = Arc<Mutex<HashMap<MessageId, Instant>>>;

const MINUTE: Duration = Duration::from_secs(60);

/// A receiver that takes so many messages in any minute and refuses others as too many.
fn receiver(a_minute: usize) -> (Receiver, Taken) {
    let taken = Taken::default();
    let (note, window) = (taken.clone(), Mutex::new(VecDeque::new()));
    let outcome = move |id, _| {
        let (now, mut window) = (Instant::now(), window.lock());
        while window.front().is_some_and(|first| now - *first >= MINUTE) {
            window.pop_front();
        }
        if window.len() >= a_minute {
            let reply = Reply { code: 421, status: Some(Status::new(4, 7, 28)), text: "unusual rate of mail".into() };
            return Outcome::Deferred(Report { reply, ..Report::local(Phase::Mail, Status::new(4, 0, 0), "") });
        }
        window.push_back(now);
        note.lock().insert(id, now);
        delivered()
    };
    (Receiver { outcome: Arc::new(outcome), transaction: Duration::from_millis(100), ..Receiver::default() }, taken)
}

/// A ceiling of so many messages a second, and nothing learnt; or what is learnt alone.
fn at_limit(configured: Option<u32>) -> Settings {
    let messages = configured.map(|rate| (rate, Duration::from_secs(1))).into_iter().collect();
    let limits = Limits { allowance: Allowance { messages, ..Allowance::default() }, ..Limits::default() };
    let learning = learning::Settings { is_on: configured.is_none(), ..learning::Settings::default() };
    Settings { limits, learning, ..Settings::default() }
}

fn put(stage: &Stage, tenant: &str) -> MessageId {
    stage.put(Envelope { tenant: tenant.into(), ..stage.envelope(&["a@d1.test"]) })
}

#[tokio::test(start_paused = true)]
async fn equal_tenants_share_a_rate_equally_whether_it_is_configured_or_learnt() {
    for configured in [Some(5), None] {
        let stage = Stage::in_runtime_time(at_limit(configured));
        // Far more than a minute's worth where the ceiling is the limit.
        let (receiver, taken) = receiver(if configured.is_some() { 100_000 } else { 300 });
        stage.script.set("d1.test", receiver);
        let mut names = HashMap::new();
        for (tenant, count) in [6_000, 3_000, 900, 900, 900].into_iter().enumerate() {
            for _ in 0..count {
                names.insert(put(&stage, &format!("t{tenant}")), tenant);
            }
        }
        stage.start();

        tokio::time::sleep(10 * MINUTE).await;

        let mut shares = [0.0; 5];
        for id in taken.lock().keys() {
            shares[names[id]] += 1.0;
        }
        let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), one| (sum + one, squares + one * one));
        let jain = sum * sum / (5.0 * squares);
        assert!((2_000.0..3_100.0).contains(&sum), "{configured:?}: {sum} in ten minutes, the limit is three thousand");
        assert!(jain >= 0.95, "{configured:?}: {shares:?}, Jain's index {jain}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_light_tenant_waits_five_seconds_at_most_beside_a_flood_at_a_limited_rate() {
    for configured in [Some(5), None] {
        let stage = Stage::in_runtime_time(at_limit(configured));
        let (receiver, taken) = receiver(if configured.is_some() { 100_000 } else { 300 });
        stage.script.set("d1.test", receiver);
        for _ in 0..6_000 {
            put(&stage, "flood");
        }
        stage.start();
        // Where it is learnt the limit has been found by then.
        tokio::time::sleep(5 * MINUTE).await;

        let mut sent = Vec::new();
        for _ in 0..300 {
            sent.push((put(&stage, "light"), Instant::now()));
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        tokio::time::sleep(MINUTE).await;

        let taken = taken.lock();
        let mut waits: Vec<Duration> = sent.iter().map(|(id, at)| taken[id] - *at).collect();
        waits.sort_unstable();
        let p99 = waits[sent.len() * 99 / 100 - 1];
        assert!(p99 <= Duration::from_secs(5), "{configured:?}: p99 {p99:?}, at most {:?}", waits.last());
        assert!(taken.len() >= 15 * 220, "{configured:?}: {} in sixteen minutes, there was no flood", taken.len());
    }
}

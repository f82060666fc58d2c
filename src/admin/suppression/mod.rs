//! The suppression list, for those who keep it: looking at it, adding and removing, and whole lists ([`transfer`]).

mod transfer;

use std::io;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::State;
use super::error::Refusal;
use super::guard::{Peer, Trail};
use super::limits::who;
use crate::clock::UnixTime;
use crate::state::suppression::{
    Change, Entry, Extent, Filter, Origin, Outcome, Reason, Scope, Stats, Suppression, Target,
};

pub use transfer::{ExportRequest, ImportLine};
pub(super) use transfer::{export, import};

/// Entries listed when nothing is said.
const DEFAULT_LIMIT: usize = 100;
/// Entries listed at most; an export has all.
const MOST: usize = 10_000;

/// An entry as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryView {
    /// A mailbox, `@` and a domain, or `#` and the hash of a mailbox.
    pub target: String,
    /// Of this tenant's mail; empty: of all.
    pub tenant: String,
    /// Of this class of its campaigns; empty: of all.
    pub class: String,
    /// Why.
    pub reason: String,
    /// The event or person that it comes from; empty: unknown.
    pub source: String,
    /// Since when, in seconds since 1970.
    pub added: u32,
    /// Until when; absent: for ever.
    pub until: Option<u32>,
}

impl EntryView {
    fn of(entry: &Entry) -> Self {
        let Entry { target, scope, reason, source, added, until } = entry;
        let (tenant, class) = scope.names();
        Self {
            target: target.to_string(),
            tenant: tenant.to_owned(),
            class: class.to_owned(),
            reason: reason.to_string(),
            source: source.to_string(),
            added: added.0,
            until: until.map(|until| until.0),
        }
    }
}

/// An entry that is to be added.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NewEntry {
    /// A mailbox, a domain with or without `@` before it, or `#` and the hash of a mailbox.
    pub target: String,
    /// See [`EntryView`].
    pub tenant: String,
    /// See [`EntryView`].
    pub class: String,
    /// Empty: `operator`.
    pub reason: String,
    /// Empty: who asks.
    pub source: String,
    /// Until when, in seconds since 1970; absent: for ever.
    pub until: Option<u32>,
}

/// What is to be added: the body of `/v1/suppression/add`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AddRequest {
    /// These.
    pub entries: Vec<NewEntry>,
    /// Who asks.
    pub by: String,
}

/// What is to be removed: the body of `/v1/suppression/remove`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RemoveRequest {
    /// Mailboxes, domains, hashes.
    pub targets: Vec<String>,
    /// In the scope of this tenant; empty: in the one of all tenants.
    pub tenant: String,
    /// In the scope of this class of its campaigns; empty: in that of the tenant.
    pub class: String,
    /// In whatever scope.
    pub all_scopes: bool,
    /// Who asks.
    pub by: String,
}

/// What became of one target in one scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeView {
    /// About whom.
    pub target: String,
    /// See [`EntryView`].
    pub tenant: String,
    /// See [`EntryView`].
    pub class: String,
    /// `added`, `replaced`, `stands` (what was there before weighs no less), `removed`, or `absent`.
    pub outcome: String,
    /// What stands now, or stood before if that was removed.
    pub entry: Option<EntryView>,
}

/// What became of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Of each.
    pub changes: Vec<ChangeView>,
}

/// What stands against somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Whom.
    pub target: String,
    /// Every entry, whatever its scope: about the mailbox, then about its domain; those that reach farthest first.
    pub entries: Vec<EntryView>,
    /// The one of them that a message of the tenant and the class that were asked for meets.
    pub met: Option<EntryView>,
}

/// How many entries there are of one sort.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Why they stand.
    pub reason: String,
    /// `global`, `tenant` or `class`.
    pub scope: String,
    /// They are about domains.
    pub is_domain: bool,
    /// How many.
    pub entries: u64,
}

/// The list in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatsView {
    /// Entries that stand.
    pub entries: u64,
    /// By sort; those that there are none of are left out.
    pub shares: Vec<Share>,
    /// Octets of the log.
    pub bytes: u64,
    /// Files of the log.
    pub segments: u64,
    /// Records of the log, those that do not stand any more included.
    pub records: u64,
    /// Octets of memory.
    pub memory_bytes: u64,
    /// When something changed last, in seconds since 1970; of what was before the start, when the last entry was added.
    pub changed: Option<u32>,
}

/// Which entries are listed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    domain: Option<String>,
    tenant: Option<String>,
    reason: Option<String>,
    limit: Option<usize>,
}

/// What somebody would meet.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Question {
    target: String,
    tenant: String,
    class: String,
}

fn wrong(told: impl ToString, hint: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, told.to_string(), hint)
}

const UNCHANGED: &str = "nothing was changed";

fn target(text: &str) -> Result<Target, Refusal> {
    let hint = "a target is a mailbox, a domain, or # and the 16 letters of a hash";
    text.parse().map_err(|error| wrong(format!("{text:?} is neither a mailbox nor a domain: {error}"), hint))
}

fn scope(tenant: &str, class: &str) -> Result<Scope, Refusal> {
    let scope = Scope::of(tenant, class).ok_or_else(|| wrong("a class is one of a tenant: say which", UNCHANGED))?;
    scope.check().map_err(|error| wrong(error, UNCHANGED))?;
    Ok(scope)
}

fn reason(text: &str) -> Result<Reason, Refusal> {
    let hint = || format!("allowed: {}", Reason::ALL.map(Reason::as_str).join(", "));
    Reason::parse(text).ok_or_else(|| wrong(format!("{text:?} is no reason"), &hint()))
}

fn filter(domain: Option<&str>, tenant: Option<&str>, reason_of: Option<&str>) -> Result<Filter, Refusal> {
    let reason = reason_of.map(reason).transpose()?;
    let domain = match domain.map(|text| (text, target(text))) {
        None => None,
        Some((_, Ok(Target::Domain(domain)))) => Some(domain),
        Some((_, Err(refusal))) => return Err(refusal),
        Some((text, Ok(_))) => {
            return Err(wrong(format!("{text:?} is not a domain"), "`hikyaku suppress show` looks for one mailbox"));
        }
    };
    Ok(Filter::new(domain.as_deref(), tenant, reason))
}

/// A time at which entries end; it must lie ahead.
fn until(seconds: Option<u32>, now: UnixTime) -> Result<Option<UnixTime>, Refusal> {
    match seconds.map(UnixTime) {
        Some(until) if until <= now => Err(wrong("until: this time is over", UNCHANGED)),
        until => Ok(until),
    }
}

fn unread(error: &io::Error) -> Refusal {
    let told = format!("the suppression list cannot be read: {error}");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, told, "see to the spool's disk, and docs/runbook.md")
}

fn unwritten(error: &io::Error) -> Refusal {
    if error.kind() == io::ErrorKind::InvalidInput {
        return wrong(error, UNCHANGED);
    }
    let told = format!("the suppression list cannot be written: {error}");
    let hint = "the first ones may have been changed (`hikyaku suppress show`); see to the spool's disk, and try again";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, told, hint)
}

/// Those that match, the newest first.
pub(super) async fn list(
    Shared(state): Shared<State>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Vec<EntryView>>, Refusal> {
    let no_filter =
        |rejection: QueryRejection| wrong(rejection.body_text(), "filters are domain, tenant, reason, limit");
    let Query(Asked { domain, tenant, reason, limit }) = asked.map_err(no_filter)?;
    let filter = filter(domain.as_deref(), tenant.as_deref(), reason.as_deref())?;
    if limit == Some(0) {
        return Err(wrong("limit is 0", "limit is 1 or more; /v1/suppression/stats counts"));
    }
    let limit = limit.unwrap_or(DEFAULT_LIMIT).min(MOST);
    // Nobody waits any more for the end of a search through ten million.
    let gone = CancellationToken::new();
    let _here = gone.clone().drop_guard();
    let permit = state.searches.clone().acquire_owned().await;
    let search = move || {
        let _permit = permit;
        let now = state.clock.wall();
        let all = state.suppression.latest(now).take_while(|_| !gone.is_cancelled());
        let wanted = all.filter(|entry| entry.as_ref().map_or(true, |entry| filter.takes(entry)));
        wanted.take(limit).map(|entry| entry.map(|entry| EntryView::of(&entry))).collect::<io::Result<Vec<_>>>()
    };
    tokio::task::spawn_blocking(search).await?.map(Json).map_err(|error| unread(&error))
}

/// Every entry against a target: about itself, then about its domain.
fn against(list: &Suppression, target: &Target, now: UnixTime) -> io::Result<Vec<Entry>> {
    let mut found = list.standing(target, now)?;
    if let Target::Address(address) = target {
        found.append(&mut list.standing(&Target::Domain(address.domain().into()), now)?);
    }
    Ok(found)
}

/// What stands against somebody, and what a message would meet.
pub(super) async fn show(
    Shared(state): Shared<State>,
    asked: Result<Query<Question>, QueryRejection>,
) -> Result<Json<Shown>, Refusal> {
    let no_question = |rejection: QueryRejection| wrong(rejection.body_text(), "say target, tenant, class");
    let Query(Question { target: text, tenant, class }) = asked.map_err(no_question)?;
    let (target, asked) = (target(&text)?, scope(&tenant, &class)?);
    let look = move || {
        let found = against(&state.suppression, &target, state.clock.wall())?;
        let (tenant, class) = asked.names();
        let is_met = |entry: &&Entry| match entry.scope.names() {
            ("", _) => true,
            (of, "") => of == tenant,
            of => of == (tenant, class),
        };
        let met = found.iter().find(is_met).map(EntryView::of);
        Ok(Shown { target: target.to_string(), entries: found.iter().map(EntryView::of).collect(), met })
    };
    tokio::task::spawn_blocking(look).await?.map(Json).map_err(|error: io::Error| unread(&error))
}

/// The list in numbers.
pub(super) async fn stats(Shared(state): Shared<State>) -> Result<Json<StatsView>, Refusal> {
    let count = move || {
        let stats = state.suppression.stats(state.clock.wall());
        let share = |(reason, reach, entries): (Reason, crate::state::suppression::Reach, u64)| Share {
            reason: reason.to_string(),
            scope: Extent::as_str(reach.extent).to_owned(),
            is_domain: reach.is_domain,
            entries,
        };
        let shares = stats.counts().map(share).collect();
        let entries = stats.total();
        let Stats { octets, records, segments, memory, changed, .. } = stats;
        StatsView {
            entries,
            shares,
            bytes: octets,
            segments,
            records,
            memory_bytes: memory,
            changed: changed.map(|changed| changed.0),
        }
    };
    Ok(Json(tokio::task::spawn_blocking(count).await?))
}

/// Adds entries; the answer comes when they are on stable storage and in force.
pub(super) async fn add(
    Shared(state): Shared<State>,
    Extension(peer): Extension<Peer>,
    Extension(trail): Extension<Trail>,
    request: Result<Json<AddRequest>, JsonRejection>,
) -> Result<Json<Changed>, Refusal> {
    let Json(AddRequest { entries, by }) = request?;
    let (who, now) = (who(&by, peer)?, state.clock.wall());
    if entries.is_empty() {
        return Err(wrong("no entries", UNCHANGED));
    }
    let entry = |new: &NewEntry| {
        let NewEntry { target: text, tenant, class, reason: why, source, until: end } = new;
        let entry = Entry {
            target: target(text)?,
            scope: scope(tenant, class)?,
            reason: if why.is_empty() { Reason::Operator } else { reason(why)? },
            source: if source.is_empty() { who.as_str().into() } else { source.as_str().into() },
            added: now,
            until: until(*end, now)?,
        };
        entry.check().map_err(|error| wrong(error, UNCHANGED))?;
        Ok(Change::Add(entry))
    };
    let changes = entries.iter().map(entry).collect::<Result<Vec<_>, Refusal>>()?;
    change(state, trail, changes, who, now).await
}

/// Removes entries; the answer comes when they are on stable storage no more.
pub(super) async fn remove(
    Shared(state): Shared<State>,
    Extension(peer): Extension<Peer>,
    Extension(trail): Extension<Trail>,
    request: Result<Json<RemoveRequest>, JsonRejection>,
) -> Result<Json<Changed>, Refusal> {
    let Json(RemoveRequest { targets, tenant, class, all_scopes, by }) = request?;
    let (who, now) = (who(&by, peer)?, state.clock.wall());
    if targets.is_empty() {
        return Err(wrong("no targets", UNCHANGED));
    }
    if all_scopes && !tenant.is_empty() {
        return Err(wrong("all_scopes and a tenant contradict each other", UNCHANGED));
    }
    let scope = scope(&tenant, &class)?;
    let targets = targets.iter().map(|text| target(text)).collect::<Result<Vec<_>, Refusal>>()?;
    let list = state.suppression.clone();
    let find = move || {
        let mut changes = Vec::new();
        for target in targets {
            let found = if all_scopes { list.standing(&target, now)? } else { Vec::new() };
            // Where nothing stands that is told, too.
            let scopes = if found.is_empty() {
                vec![scope.clone()]
            } else {
                found.into_iter().map(|entry| entry.scope).collect()
            };
            changes.extend(scopes.into_iter().map(|scope| Change::Remove { target: target.clone(), scope }));
        }
        Ok(changes)
    };
    let changes = tokio::task::spawn_blocking(find).await?.map_err(|error: io::Error| unread(&error))?;
    change(state, trail, changes, who, now).await
}

async fn change(
    state: State,
    trail: Trail,
    changes: Vec<Change>,
    who: String,
    now: UnixTime,
) -> Result<Json<Changed>, Refusal> {
    let make = move || {
        let State { suppression: list, journal, .. } = state;
        let stood = |change: &Change| {
            let (target, scope) = change.subject();
            list.entry(target, scope, now)
        };
        let before = changes.iter().map(stood).collect::<io::Result<Vec<_>>>().map_err(|error| unread(&error))?;
        trail.before(&before.iter().flatten().map(EntryView::of).collect::<Vec<_>>());
        let outcomes = list.apply_from(Origin::Operator, &changes, now).map_err(|error| unwritten(&error))?;
        let mut made = Vec::with_capacity(changes.len());
        for ((change, before), outcome) in changes.iter().zip(before).zip(outcomes) {
            let entry = match (change, outcome) {
                (Change::Add(entry), Outcome::Added | Outcome::Replaced) => Some(entry),
                _ => before.as_ref(),
            };
            match (outcome, entry) {
                (Outcome::Added | Outcome::Replaced, Some(entry)) => entry.tell(&journal, "add", &who),
                (Outcome::Removed, Some(entry)) => entry.tell(&journal, "remove", &who),
                _ => {}
            }
            let (target, scope) = change.subject();
            made.push(ChangeView {
                target: target.to_string(),
                tenant: scope.names().0.to_owned(),
                class: scope.names().1.to_owned(),
                outcome: told(outcome).to_owned(),
                entry: entry.map(EntryView::of),
            });
        }
        Ok(Json(Changed { changes: made }))
    };
    tokio::task::spawn_blocking(make).await?
}

fn told(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Added => "added",
        Outcome::Replaced => "replaced",
        Outcome::Stands => "stands",
        Outcome::Removed => "removed",
        Outcome::Absent => "absent",
    }
}

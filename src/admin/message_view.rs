//! One message as people see it: envelope, header section, and where each recipient is.

use std::collections::HashSet;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use memchr::memmem;
use serde::{Deserialize, Serialize};

use super::State;
use super::error::Refusal;
use crate::message::{Envelope, Kind, Message, MessageId, Notify, Ret};
use crate::queue::{EntryView, Filter};
use crate::spool::LoadError;
use crate::state::Selection;

/// More of a header section is not shown; submission refuses longer ones anyway.
const LONGEST_HEADER: usize = 100 << 10;
/// Looks until a recipient that is on its way from one place of the queue to another is seen in one of them.
const LOOKS: usize = 5;
/// Messages with more unfinished recipients are looked at once: something of them always moves.
const FEW: usize = 100;
/// The most recipients a message can have.
const RECIPIENTS: usize = 50_000;

/// An unfinished message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MessageView {
    /// Its identity.
    pub message_id: String,
    /// When it was accepted, in seconds since 1970.
    pub accepted: u32,
    /// Empty: the null reverse-path.
    pub reverse_path: String,
    /// Whose it is.
    pub tenant: String,
    /// Empty: none.
    pub campaign: String,
    /// The class of campaigns that one can unsubscribe from; empty: none.
    #[serde(default)]
    pub class: String,
    /// `urgent`, `normal` or `bulk`.
    pub lane: String,
    /// `submitted`, `dsn`, `tls-report` or `returned`.
    pub kind: String,
    /// Octets of content.
    pub size: u64,
    /// ENVID= as it came.
    pub envid: Option<String>,
    /// RET= as it came.
    pub ret: Option<String>,
    /// What it asks of TLS: `required` (REQUIRETLS), `waived` (`TLS-Required: No`), or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// Every recipient, in the order of RCPT.
    pub recipients: Vec<RecipientView>,
    /// The header section.
    pub header: String,
}

/// One recipient of a message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecipientView {
    /// The forward-path.
    pub forward_path: String,
    /// NOTIFY=, as it came.
    pub notify: String,
    /// As in [`EntryView`]; `finished`; or `moving`: between two states at every look, or not raised yet by recovery.
    pub state: String,
    /// Since when, in seconds since 1970, while it is in flight or a DSN about it is being stored.
    #[serde(default)]
    pub since: Option<u32>,
    /// An attempt before the start has no outcome: the receiver may have it.
    #[serde(default)]
    pub in_doubt: bool,
    /// Address and port of the attempt that has no outcome.
    #[serde(default)]
    pub mx_address: Option<String>,
    /// The last reply about it that was not a success, if it is still known.
    #[serde(default)]
    pub last_reply: Option<String>,
    /// Its site, once known.
    pub site: Option<String>,
    /// Attempts made, while it is queued.
    pub attempts: Option<u16>,
    /// When it is or was due, in seconds since 1970, while it is queued.
    pub due: Option<u32>,
}

/// An unfinished message by its id.
pub(super) async fn message(
    Shared(state): Shared<State>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<MessageView>, Refusal> {
    let Path(id) = id?;
    let id: MessageId = id.parse().map_err(|error: crate::message::id::MessageIdError| {
        Refusal::new(StatusCode::BAD_REQUEST, error.to_string(), "ids are in `hikyaku queue list`, replies and logs")
    })?;
    tokio::task::spawn_blocking(move || look(&state, id)).await?.map(Json)
}

fn look(state: &State, id: MessageId) -> Result<MessageView, Refusal> {
    let message = state.spool.load(id).map_err(|error| refusal(id, &error))?;
    let filter = Filter {
        selection: Selection { message: Some(id.to_string().into()), ..Selection::default() },
        limit: RECIPIENTS,
        ..Filter::default()
    };
    let mut looks = 1;
    loop {
        let queued = state.queue.list(&filter);
        // Asked last, so that who is not among them is finished.
        let pending: HashSet<u32> = state.spool.pending(id).iter().map(|pending| pending.recipient).collect();
        let is_seen = pending.iter().all(|recipient| queued.iter().any(|entry| entry.recipient == *recipient));
        if is_seen || looks == LOOKS || pending.len() > FEW {
            return view(&message, &queued, &pending);
        }
        looks += 1;
    }
}

fn refusal(id: MessageId, error: &LoadError) -> Refusal {
    match error {
        LoadError::Unknown => Refusal::new(
            StatusCode::NOT_FOUND,
            format!("no message {id} is unfinished"),
            "`hikyaku journal search --message ID` tells what became of those that have ended",
        ),
        LoadError::Damaged => Refusal::new(
            StatusCode::GONE,
            format!("message {id} is damaged"),
            "a copy of its record is in the spool's quarantine/; see `hikyaku spool check`",
        ),
        LoadError::Io(error) => Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("message {id} cannot be read: {error}"),
            "look at the disk and at the daemon's log",
        ),
    }
}

fn view(message: &Message, queued: &[EntryView], pending: &HashSet<u32>) -> Result<MessageView, Refusal> {
    let envelope = &message.envelope;
    let header = message.content.beginning(LONGEST_HEADER).map_err(|error| refusal(message.id, &error.into()))?;
    let end = memmem::find(&header, b"\r\n\r\n").unwrap_or(header.len());
    let ret = envelope.ret.map(|ret| match ret {
        Ret::Full => "FULL".to_owned(),
        Ret::Headers => "HDRS".to_owned(),
    });
    Ok(MessageView {
        message_id: message.id.to_string(),
        accepted: envelope.accepted_at.0,
        reverse_path: envelope.reverse_path.as_str().to_owned(),
        tenant: envelope.tenant.to_string(),
        campaign: envelope.campaign.to_string(),
        class: envelope.class.to_string(),
        lane: envelope.lane.as_str().to_owned(),
        kind: match envelope.kind {
            Kind::Submitted => "submitted".to_owned(),
            Kind::Dsn => "dsn".to_owned(),
            Kind::TlsReport => "tls-report".to_owned(),
            Kind::Returned => "returned".to_owned(),
        },
        size: message.content.len(),
        envid: envelope.envid.as_deref().map(str::to_owned),
        ret,
        tls: Some(envelope.tls.as_str().to_owned()).filter(|tls| !tls.is_empty()),
        recipients: recipients(envelope, queued, pending),
        header: String::from_utf8_lossy(header.get(..end).unwrap_or_default()).into_owned(),
    })
}

fn recipients(envelope: &Envelope, queued: &[EntryView], pending: &HashSet<u32>) -> Vec<RecipientView> {
    let mut views: Vec<RecipientView> = envelope
        .recipients
        .iter()
        .zip(0_u32..)
        .map(|(recipient, index)| RecipientView {
            forward_path: recipient.forward_path.to_string(),
            notify: notify(recipient.notify),
            state: if pending.contains(&index) { "moving" } else { "finished" }.to_owned(),
            since: None,
            in_doubt: false,
            mx_address: None,
            last_reply: None,
            site: None,
            attempts: None,
            due: None,
        })
        .collect();
    for entry in queued.iter().filter(|entry| pending.contains(&entry.recipient)) {
        let view = usize::try_from(entry.recipient).ok().and_then(|index| views.get_mut(index));
        if let Some(view) = view {
            entry.state.clone_into(&mut view.state);
            view.since = entry.since;
            view.in_doubt = entry.in_doubt;
            view.mx_address.clone_from(&entry.mx_address);
            view.last_reply.clone_from(&entry.last_reply);
            view.site.clone_from(&entry.site);
            view.attempts = Some(entry.attempts);
            view.due = Some(entry.due);
        }
    }
    views
}

/// In the words of RFC 3461, 4.1; empty when nothing was said.
fn notify(notify: Notify) -> String {
    let words = [
        (Notify::NEVER, "NEVER"),
        (Notify::SUCCESS, "SUCCESS"),
        (Notify::FAILURE, "FAILURE"),
        (Notify::DELAY, "DELAY"),
    ];
    let said = words.into_iter().filter(|(bit, _)| notify.has(*bit)).map(|(_, word)| word);
    said.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::UnixTime;
    use crate::message::{Content, Recipient};
    use crate::smtp::address::ReversePath;

    fn sample() -> Message {
        let recipient = |text: &str| Recipient {
            forward_path: text.parse().unwrap(),
            notify: Notify(Notify::SUCCESS.0 | Notify::DELAY.0),
            orcpt: None,
        };
        let envelope = Envelope {
            tenant: "shop".into(),
            lane: crate::message::Lane::Bulk,
            ret: Some(Ret::Headers),
            ..Envelope::new(ReversePath::Null, vec![recipient("a@x.test"), recipient("b@y.test")], UnixTime(1_000))
        };
        let content = Content::Memory(bytes::Bytes::from_static(b"Subject: hi\r\nX: y\r\n\r\nbody\r\n"));
        Message { id: MessageId(7), envelope: Arc::new(envelope), content }
    }

    fn entry(recipient: u32, state: &'static str) -> EntryView {
        EntryView {
            message_id: String::new(),
            recipient,
            domain: "y.test".into(),
            site: Some("y.test".into()),
            tenant: String::new(),
            campaign: String::new(),
            lane: "normal",
            order: None,
            state,
            since: Some(1_900),
            in_doubt: false,
            mx_address: Some("192.0.2.1:25".to_owned()),
            last_reply: None,
            attempts: 3,
            accepted: 1_000,
            due: 2_000,
        }
    }

    #[test]
    fn each_recipient_is_where_the_queue_has_it_or_finished() {
        let view = view(&sample(), &[entry(1, "in-flight")], &[1].into()).unwrap();

        assert_eq!((view.recipients[0].state.as_str(), view.recipients[0].attempts), ("finished", None));
        assert_eq!((view.recipients[1].state.as_str(), view.recipients[1].attempts), ("in-flight", Some(3)));
        assert_eq!(view.recipients[1].mx_address.as_deref(), Some("192.0.2.1:25"));
        assert_eq!(view.recipients[1].notify, "SUCCESS,DELAY");
    }

    #[test]
    fn the_spool_has_the_last_word_on_who_is_finished() {
        let view = view(&sample(), &[entry(1, "in-flight")], &[0].into()).unwrap();

        assert_eq!((view.recipients[0].state.as_str(), view.recipients[1].state.as_str()), ("moving", "finished"));
    }

    #[test]
    fn header_section_is_shown_without_the_body() {
        assert_eq!(view(&sample(), &[], &HashSet::new()).unwrap().header, "Subject: hi\r\nX: y");
    }
}

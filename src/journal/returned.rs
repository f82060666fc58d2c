//! The event of what has come back about a message, and looking up what the journal has about that message.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::clock::UnixTime;
use crate::message::MessageId;

use super::event::{Kind, Refusal};
use super::id::EventId;
use super::line::{Line, key};
use super::record::Record;
use super::search::{Query, search};

/// Something came back about a message: for one recipient.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// What it is: `bounce`, `feedback`, `unsubscribe`, ...
    pub what: &'a str,
    /// The message that it came as.
    pub id: MessageId,
    /// How it is known which message it is about: `token` (it came to that recipient's address), `quoted` (it quotes that address),
    /// `message-id` (which anybody can write), `none`.
    pub evidence: &'a str,
    /// What was done: `suppressed`, `counted`, `none`.
    pub action: &'a str,
    /// The message of ours, if that is known.
    pub about: Option<MessageId>,
    /// Whose it was; empty: not known.
    pub tenant: &'a str,
    /// The recipient and its domain, if they are known.
    pub recipient: Option<(&'a str, &'a str)>,
    /// Its hash on the suppression list; empty: not known.
    pub hash: &'a str,
    /// The Message-ID that is quoted; empty: none.
    pub quoted_id: &'a str,
    /// What the refusal is about; none: it is none.
    pub refusal: Option<Refusal<'a>>,
    /// 0: none is quoted.
    pub reply_code: u16,
    /// Empty: none.
    pub status: &'a str,
    /// Who refused it; empty: not said.
    pub remote_mta: &'a str,
    /// What is said; empty: nothing.
    pub diagnostic: &'a str,
    /// Of complaints: `abuse`, ...; empty: not said.
    pub feedback_type: &'a str,
    /// What the journal has of the message.
    pub origin: Option<&'a Origin>,
    /// As what it was passed on to the message's reverse-path; none: it was not.
    pub passed_on: Option<MessageId>,
}

impl Report<'_> {
    pub(super) fn write(&self, line: &mut Line<'_>) {
        if let Some(about) = self.about {
            line.id(key!("message_id"), EventId(about.0));
        }
        line.text_if(key!("tenant"), self.tenant);
        if let Some(origin) = self.origin {
            line.text_if(key!("campaign"), &origin.campaign);
            line.text_if(key!("campaign_class"), &origin.class);
            line.mailbox(key!("reverse_path"), &origin.reverse_path);
        }
        if let Some((recipient, domain)) = self.recipient {
            line.mailbox(key!("recipient"), recipient);
            line.text(key!("domain"), domain);
        }
        line.text_if(key!("recipient_hash"), self.hash);
        line.text(key!("report"), self.what);
        line.id(key!("report_id"), EventId(self.id.0));
        line.text(key!("evidence"), self.evidence);
        line.text(key!("action"), self.action);
        if let Some(Refusal { class, rule, permanent, .. }) = self.refusal {
            line.text(key!("class"), class);
            line.text(key!("rule"), rule);
            line.truth(key!("permanent"), permanent);
        }
        if self.reply_code > 0 {
            line.number(key!("reply_code"), self.reply_code.into());
        }
        line.text_if(key!("enhanced_status"), self.status);
        line.free_if(key!("remote_mta"), self.remote_mta);
        line.free_if(key!("diagnostic"), self.diagnostic);
        line.free_if(key!("feedback_type"), self.feedback_type);
        line.free_if(key!("quoted_message_id"), self.quoted_id);
        if let Some(origin) = self.origin {
            line.text_if(key!("site"), &origin.site);
            line.text_if(key!("mx_host"), &origin.mx_host);
            line.text_if(key!("egress_source"), &origin.source);
            line.text_if(key!("delivered"), &origin.delivered);
        }
        if let Some(id) = self.passed_on {
            line.id(key!("passed_on"), EventId(id.0));
        }
    }
}

/// What the journal has of one recipient of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// As it stands there: masked, where addresses are.
    pub recipient: String,
    /// See `recipient`; empty: the null reverse-path.
    pub reverse_path: String,
    /// Empty: none.
    pub campaign: String,
    /// Empty: none.
    pub class: String,
    /// When it was delivered; empty: not yet, or the journal has it no more.
    pub delivered: String,
    /// Where.
    pub site: String,
    /// To whom.
    pub mx_host: String,
    /// From where.
    pub source: String,
}

/// Lines that are held at most: those of thousands of messages, or of one to 50,000 recipients, more than any has.
const MOST: usize = 120_000;

/// What the journal in `folder` has of the recipients of these messages, which were accepted at `since` or later. Reads it once
/// however many there are, over a million lines a second, unless they had very many recipients: then again for each half.
pub fn origins(
    folder: &Path,
    messages: &HashSet<MessageId>,
    since: UnixTime,
) -> io::Result<HashMap<MessageId, Vec<Origin>>> {
    origins_within(folder, messages, since, MOST)
}

fn origins_within(
    folder: &Path,
    messages: &HashSet<MessageId>,
    since: UnixTime,
    most: usize,
) -> io::Result<HashMap<MessageId, Vec<Origin>>> {
    let query = Query {
        messages: messages.iter().map(|id| id.to_string().into_bytes()).collect(),
        events: vec![Kind::Received, Kind::Delivered],
        since: Some(Duration::from_secs(since.0.into())),
        limit: most,
        ..Query::default()
    };
    let mut found: HashMap<MessageId, Vec<Origin>> = HashMap::new();
    let hits = search(folder, &query, &mut |_| {})?;
    if hits.is_cut && messages.len() > 1 {
        let one_half: HashSet<_> = messages.iter().take(messages.len() / 2).copied().collect();
        let other_half = messages.difference(&one_half).copied().collect();
        found = origins_within(folder, &one_half, since, most)?;
        found.extend(origins_within(folder, &other_half, since, most)?);
        return Ok(found);
    }
    for line in hits.lines {
        let Some(record) = Record::of(&line) else { continue };
        let Ok(id) = record.text("message_id").parse() else { continue };
        let recipient = record.text("recipient");
        let known = found.entry(id).or_default();
        // Of a message to many there are two lines for each: what was received comes first.
        let place = known.iter().rposition(|origin| origin.recipient == recipient).unwrap_or(known.len());
        if place == known.len() {
            known.push(Origin { recipient, ..Origin::default() });
        }
        let Some(origin) = known.get_mut(place) else { continue };
        origin.reverse_path = record.text("reverse_path");
        origin.campaign = record.text("campaign");
        origin.class = record.text("campaign_class");
        if record.raw("event") == Some(Kind::Delivered.as_str().as_bytes()) {
            origin.delivered = record.text("time");
            origin.site = record.text("site");
            origin.mx_host = record.text("mx_host");
            origin.source = record.text("egress_source");
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64, event: &str, message: MessageId, recipient: &str, more: &str) -> String {
        let (id, message) = (EventId(number), message.to_string());
        format!(
            "{{\"v\":1,\"id\":\"{id}\",\"time\":\"1970-01-02T00:00:0{}.000Z\",\"event\":\"{event}\",\"message_id\":\"{message}\",\
             \"reverse_path\":\"ma@s.test\",\"recipient\":\"{recipient}\"{more}}}\n",
            number % 10
        )
    }

    #[test]
    fn messages_are_joined_with_their_deliveries_however_few_lines_are_held() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second, third] = [1, 2, 3].map(MessageId);
        let text = [
            line(1, "received", first, "a@x.test", ",\"campaign\":\"spring\""),
            line(2, "received", first, "b@x.test", ""),
            line(3, "received", second, "c@x.test", ""),
            line(4, "received", third, "d@x.test", ""),
            line(5, "delivered", first, "b@x.test", ",\"site\":\"x.test\",\"mx_host\":\"mx.x.test\""),
            line(6, "deferred", first, "a@x.test", ""),
        ]
        .concat();
        std::fs::write(folder.path().join(format!("journal-{}.jsonl", EventId(1))), text).unwrap();
        let asked = HashSet::from([first, second]);

        let all = origins(folder.path(), &asked, UnixTime(0)).unwrap();
        let few = origins_within(folder.path(), &asked, UnixTime(0), 3).unwrap();
        let later = origins(folder.path(), &asked, UnixTime(2 * 86_400)).unwrap();

        assert_eq!((&all, later.len()), (&few, 0));
        let known = all.get(&first).unwrap();
        let shown: Vec<_> = known.iter().map(|origin| (&*origin.recipient, &*origin.mx_host)).collect();
        assert_eq!(shown, [("a@x.test", ""), ("b@x.test", "mx.x.test")]);
        assert_eq!((all.len(), &*known[0].campaign, known[0].delivered.is_empty()), (2, "spring", true));
        assert_eq!(known[1].delivered, "1970-01-02T00:00:05.000Z");
    }
}

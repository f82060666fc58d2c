//! Amazon SES: notifications as JSON, sent by SNS to a mailbox.

use serde_json::Value;

use crate::bounce::parse::entry::Entry;
use crate::bounce::parse::mail::Mail;
use crate::bounce::parse::result::{Action, Kind, Parsed, Recipient};
use crate::bounce::parse::status;

/// Reads a notification; none: it is none.
pub(in crate::bounce::parse) fn notification(
    mail: &Mail,
    settled: impl FnOnce(Vec<Entry>) -> Vec<Recipient>,
) -> Option<Parsed> {
    let start = mail.lines.iter().position(|line| !line.trim().is_empty())?;
    let lines = mail.lines.get(start..)?;
    if !lines.first()?.trim_start().starts_with('{') {
        return None;
    }
    let value = json(lines)?;
    // The SNS envelope holds the notification as a string.
    let inner = value.get("Message").and_then(Value::as_str).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let value = inner.unwrap_or(value);
    let kind = value.get("notificationType").or_else(|| value.get("eventType"))?.as_str()?;
    let parsed = match kind {
        "Bounce" => {
            Parsed { kind: Kind::Bounce, recipients: settled(bounced(value.get("bounce")?)), ..Parsed::default() }
        }
        "DeliveryDelay" => {
            let entries = addresses(value.get("deliveryDelay")?, "delayedRecipients", Action::Delayed);
            Parsed { kind: Kind::Bounce, recipients: settled(entries), ..Parsed::default() }
        }
        "Complaint" => {
            let complaint = value.get("complaint")?;
            let kind = complaint.get("complaintFeedbackType").and_then(Value::as_str).unwrap_or("abuse");
            let entries = addresses(complaint, "complainedRecipients", Action::Failed).into_iter();
            let recipients =
                entries.map(|entry| Recipient { address: entry.address, ..Recipient::default() }).collect();
            Parsed { kind: Kind::Feedback, feedback_type: Some(kind.to_owned()), recipients, ..Parsed::default() }
        }
        "Delivery" => {
            let delivery = value.get("delivery")?;
            let text = delivery.get("smtpResponse").and_then(Value::as_str).unwrap_or_default();
            let recipients = delivery.get("recipients").and_then(Value::as_array)?.iter().filter_map(Value::as_str);
            let entries = recipients.map(|address| Entry {
                action: Some(Action::Delivered),
                text: text.to_owned(),
                ..Entry::of(address)
            });
            Parsed {
                kind: Kind::Delivered,
                recipients: settled(entries.take(status::RECIPIENTS_MOST).collect()),
                ..Parsed::default()
            }
        }
        _ => return None,
    };
    (!parsed.recipients.is_empty()).then_some(Parsed { family: "ses", ..parsed })
}

/// The first JSON value of a text. Lines that were too long for mail have been broken, some with a blank.
fn json(lines: &[String]) -> Option<Value> {
    let read = |text: &str| serde_json::Deserializer::from_str(text).into_iter::<Value>().next().and_then(Result::ok);
    read(&lines.join("\n"))
        .or_else(|| read(&lines.concat()))
        .or_else(|| read(&lines.join("\n").replace("\n ", "").replace('\n', "")))
}

fn bounced(bounce: &Value) -> Vec<Entry> {
    addresses(bounce, "bouncedRecipients", Action::Failed)
}

fn addresses(value: &Value, key: &str, action: Action) -> Vec<Entry> {
    let recipients = value.get(key).and_then(Value::as_array).into_iter().flatten();
    let host = value.get("reportingMTA").and_then(Value::as_str);
    let entry = |recipient: &Value| {
        let text = |key: &str| recipient.get(key).and_then(Value::as_str);
        Some(Entry {
            action: text("action").and_then(Action::named).or(Some(action)),
            status: text("status").and_then(status::status),
            text: text("diagnosticCode").unwrap_or_default().to_owned(),
            remote_mta: host.map(|host| host.trim_start_matches("dsn;").trim_start_matches("dns;").trim().to_owned()),
            ..Entry::of(text("emailAddress")?)
        })
    };
    recipients.filter_map(entry).take(status::RECIPIENTS_MOST).collect()
}

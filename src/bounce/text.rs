//! The part of a DSN that people read: what happened, to whom, and what the receiver said.

use super::dsn::{Action, Request, Subject};
use super::field::{clean, paragraph};
use crate::message::{Phase, Report};
use crate::smtp::address::Address;

/// Appends the text, one paragraph a recipient.
pub fn write(out: &mut Vec<u8>, request: &Request<'_>, is_utf8: bool) {
    let is_one = request.subjects.len() == 1;
    paragraph(out, &format!("This is the mail system at {}.", request.reporting_mta), "");
    out.extend_from_slice(b"\r\n");
    paragraph(out, &summary(request, is_one), "");
    for subject in request.subjects {
        let Some(recipient) = super::dsn::recipient(request, subject) else { continue };
        out.extend_from_slice(b"\r\n");
        let address = clean(recipient.forward_path.as_str(), is_utf8);
        for part in ["<", &address, ">\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        paragraph(out, &clean(&reason(subject, &recipient.forward_path), is_utf8), "    ");
    }
    let part = match request.subjects.first().map(|subject| subject.action) {
        _ if request.content.is_none() => {
            "The report for programs follows. The message itself was damaged in storage here and cannot be returned."
        }
        Some(Action::Failed) => "The report for programs and the message or its header section follow.",
        _ => "The report for programs and the header section of the message follow.",
    };
    out.extend_from_slice(b"\r\n");
    paragraph(out, part, "");
}

fn summary(request: &Request<'_>, is_one: bool) -> String {
    let whom = if is_one { "the recipient" } else { "the recipients" };
    let which = format!("Your message of {} ({})", request.accepted(), request.id);
    match request.subjects.first().map(|subject| subject.action) {
        Some(Action::Delayed) => {
            let until = request.until().map(|until| format!(" until {until}")).unwrap_or_default();
            format!(
                "{which} has not yet been delivered to {whom} below. You need not do anything: it will be tried again{until}."
            )
        }
        Some(Action::Relayed) => format!(
            "{which} has been handed over for {whom} below to a mail system that does not report on delivery itself. \
             You may hear nothing more about it."
        ),
        _ => format!("{which} could not be delivered to {whom} below. It will not be tried again."),
    }
}

fn reason(subject: &Subject<'_>, recipient: &Address) -> String {
    let Report { phase, reply, mx_host, mx_address, .. } = subject.report;
    let given_up = match (subject.action, reply.is_permanent()) {
        (Action::Failed, false) => "It was tried for too long. The last answer: ",
        _ => "",
    };
    let status = reply.status.map(|status| format!("{status} ")).unwrap_or_default();
    if reply.code == 0 {
        let domain = recipient.domain();
        return match mx_host {
            Some(host) => format!("{given_up}{domain}, by way of {host}: {status}{}", reply.text),
            None => format!("{given_up}{domain}: {status}{}", reply.text),
        };
    }
    let host = mx_host.as_deref().unwrap_or("the receiver");
    let address = mx_address.map(|at| format!(" [{}]", at.ip())).unwrap_or_default();
    format!("{given_up}{host}{address} replied {}: {} {status}{}", step(*phase), reply.code, reply.text)
}

fn step(phase: Phase) -> &'static str {
    match phase {
        Phase::Connect | Phase::Greeting => "on connecting",
        Phase::Ehlo => "to EHLO",
        Phase::StartTls => "to STARTTLS",
        Phase::Mail => "to MAIL",
        Phase::Rcpt => "to RCPT",
        Phase::Data => "to DATA",
        Phase::Content | Phase::EndOfData => "to the message",
        Phase::Dns | Phase::Queue => "before",
    }
}

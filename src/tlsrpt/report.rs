//! A report as JSON (RFC 8460, 4.4) and as a message (5.3).

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};

use super::{Counts, DAY, Detail, Sessions};
use crate::clock::UnixTime;
use crate::message::date::{MailDate, civil};
use crate::message::encoding::base64;

/// Who reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reporter {
    /// `organization-name`.
    pub organization: Box<str>,
    /// `contact-info`.
    pub contact: Box<str>,
    /// The address that reports come from.
    pub from: Box<str>,
}

impl Reporter {
    /// The domain that reports: TLS-Report-Submitter.
    pub fn domain(&self) -> &str {
        self.from.rsplit_once('@').map_or(&self.from, |(_, domain)| domain)
    }
}

/// One domain's day.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The policy domain.
    pub domain: &'a str,
    /// Days since 1970-01-01.
    pub day: u32,
    /// What came of its sessions.
    pub counts: &'a Counts,
    /// Who says so.
    pub by: &'a Reporter,
}

impl Report<'_> {
    /// The same for the same domain, day and reporter: a report that comes twice can be known by it.
    pub fn id(&self) -> String {
        format!("{}.{}@{}", date(self.day), self.domain, self.by.domain())
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        let day = date(self.day);
        json!({
            "organization-name": &*self.by.organization,
            "date-range": {
                "start-datetime": format!("{day}T00:00:00Z"),
                "end-datetime": format!("{day}T23:59:59Z"),
            },
            "contact-info": &*self.by.contact,
            "report-id": self.id(),
            "policies": self.counts.policies.iter().map(|sessions| policy(self.domain, sessions)).collect::<Vec<_>>(),
        })
    }

    /// The same, compressed (RFC 8460, 5.2).
    pub fn compressed(&self) -> io::Result<Vec<u8>> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(self.json().to_string().as_bytes())?;
        encoder.finish()
    }

    /// As a message to `to`, with CRLF line ends.
    pub fn message(&self, to: &str, now: UnixTime) -> io::Result<Vec<u8>> {
        let Self { domain, day, by, .. } = *self;
        let (id, submitter) = (self.id(), by.domain());
        let (begin, end) = (u64::from(day) * u64::from(DAY), u64::from(day) * u64::from(DAY) + u64::from(DAY - 1));
        // Base64 has no `_`, and the text none of this.
        let boundary = format!("=_tlsrpt_{day}");
        let mut out = String::new();
        for (name, value) in [
            ("From", format!("<{}>", by.from)),
            ("To", format!("<{to}>")),
            // 5.3; folded, since names may be long.
            ("Subject", format!("Report Domain: {domain}\r\n Submitter: {submitter}\r\n Report-ID: <{id}>")),
            ("Date", MailDate(now).to_string()),
            ("Message-ID", format!("<tlsrpt.{id}>")),
            ("TLS-Report-Domain", domain.to_owned()),
            ("TLS-Report-Submitter", submitter.to_owned()),
            // 3: the policy that is reported about must not keep the report from being delivered (RFC 8689, 3).
            ("TLS-Required", "No".to_owned()),
            ("Auto-Submitted", "auto-generated".to_owned()),
            ("MIME-Version", "1.0".to_owned()),
            ("Content-Type", format!("multipart/report; report-type=\"tlsrpt\";\r\n\tboundary=\"{boundary}\"")),
        ] {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        let date = date(day);
        out.push_str(&format!("\r\n--{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"));
        out.push_str(&format!(
            "How TLS with the mail hosts of\r\n{domain}\r\nwent on {date} (UTC), as seen by\r\n{submitter}.\r\n"
        ));
        let name = format!("{submitter}!{domain}!{begin}!{end}.json.gz");
        out.push_str(&format!(
            "\r\n--{boundary}\r\nContent-Type: application/tlsrpt+gzip\r\nContent-Transfer-Encoding: base64\r\n\
             Content-Disposition: attachment;\r\n\tfilename=\"{name}\"\r\n\r\n"
        ));
        let mut out = out.into_bytes();
        base64(&mut out, &self.compressed()?);
        out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        Ok(out)
    }
}

/// As RFC 3339 has it.
pub fn date(day: u32) -> String {
    let (year, month, day) = civil(day);
    format!("{year:04}-{month:02}-{day:02}")
}

fn policy(domain: &str, sessions: &Sessions) -> Value {
    let Sessions { policy, successes, failures, details } = sessions;
    let mut about = Map::new();
    about.insert("policy-type".into(), json!(policy.kind));
    if !policy.lines.is_empty() {
        about.insert("policy-string".into(), json!(policy.lines));
    }
    about.insert("policy-domain".into(), json!(domain));
    if !policy.hosts.is_empty() {
        about.insert("mx-host".into(), json!(policy.hosts));
    }
    let mut out = Map::new();
    out.insert("policy".into(), about.into());
    let summary = json!({"total-successful-session-count": successes, "total-failure-session-count": failures});
    out.insert("summary".into(), summary);
    if !details.is_empty() {
        out.insert("failure-details".into(), details.iter().map(detail).collect());
    }
    out.into()
}

fn detail(detail: &Detail) -> Value {
    let Detail { failure, count } = detail;
    let mut out = Map::new();
    out.insert("result-type".into(), json!(failure.result));
    if let Some(address) = failure.sending_ip {
        out.insert("sending-mta-ip".into(), json!(address));
    }
    if let Some(host) = &failure.mx_host {
        out.insert("receiving-mx-hostname".into(), json!(host));
    }
    if let Some(address) = failure.receiving_ip {
        out.insert("receiving-ip".into(), json!(address));
    }
    out.insert("failed-session-count".into(), json!(count));
    if let Some(reason) = &failure.reason {
        out.insert("failure-reason-code".into(), json!(reason));
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::{Failure, Kind, Policy};
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn counts() -> Counts {
        let lines = ["version: STSv1", "mode: testing", "mx: *.a.test", "max_age: 86400"].map(str::to_owned).to_vec();
        let failure = Failure {
            result: "certificate-expired".into(),
            sending_ip: Some("2001:db8::1".parse().unwrap()),
            mx_host: Some("mx.a.test".into()),
            receiving_ip: Some([192, 0, 2, 2].into()),
            reason: Some("Expired".into()),
        };
        let sts = Sessions {
            policy: Policy { kind: Kind::Sts, lines, hosts: vec!["*.a.test".into()] },
            successes: 5_326,
            failures: 303,
            details: vec![Detail { failure, count: 303 }],
        };
        let nothing = Policy { kind: Kind::NotFound, lines: Vec::new(), hosts: Vec::new() };
        let none = Sessions { policy: nothing, successes: 1, failures: 0, details: Vec::new() };
        Counts { policies: vec![sts, none], not_before: 0 }
    }

    fn reporter() -> Reporter {
        let (organization, contact) = ("Company-X".into(), "tls@x.test".into());
        Reporter { organization, contact, from: "noreply-tls@mail.x.test".into() }
    }

    #[test]
    fn json_has_the_fields_of_the_rfc() {
        let (counts, by) = (counts(), reporter());

        let json = Report { domain: "a.test", day: 20_781, counts: &counts, by: &by }.json();

        let expected = json!({
            "organization-name": "Company-X",
            "date-range": {"start-datetime": "2026-11-24T00:00:00Z", "end-datetime": "2026-11-24T23:59:59Z"},
            "contact-info": "tls@x.test",
            "report-id": "2026-11-24.a.test@mail.x.test",
            "policies": [{
                "policy": {
                    "policy-type": "sts",
                    "policy-string": ["version: STSv1", "mode: testing", "mx: *.a.test", "max_age: 86400"],
                    "policy-domain": "a.test",
                    "mx-host": ["*.a.test"],
                },
                "summary": {"total-successful-session-count": 5_326, "total-failure-session-count": 303},
                "failure-details": [{
                    "result-type": "certificate-expired",
                    "sending-mta-ip": "2001:db8::1",
                    "receiving-mx-hostname": "mx.a.test",
                    "receiving-ip": "192.0.2.2",
                    "failed-session-count": 303,
                    "failure-reason-code": "Expired",
                }],
            }, {
                "policy": {"policy-type": "no-policy-found", "policy-domain": "a.test"},
                "summary": {"total-successful-session-count": 1, "total-failure-session-count": 0},
            }],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_message_is_a_multipart_report_with_the_compressed_json() {
        let (counts, by) = (counts(), reporter());
        let report = Report { domain: "a.test", day: 20_781, counts: &counts, by: &by };

        let text = String::from_utf8(report.message("r@a.test", UnixTime(1_795_600_000)).unwrap()).unwrap();

        let (header, body) = text.split_once("\r\n\r\n").unwrap();
        for line in [
            "From: <noreply-tls@mail.x.test>",
            "To: <r@a.test>",
            "Subject: Report Domain: a.test\r\n Submitter: mail.x.test\r\n Report-ID: <2026-11-24.a.test@mail.x.test>",
            "TLS-Report-Domain: a.test",
            "TLS-Report-Submitter: mail.x.test",
            "TLS-Required: No",
            "Content-Type: multipart/report; report-type=\"tlsrpt\";",
        ] {
            assert!(header.contains(line), "{line}: {header}");
        }
        assert!(text.lines().all(|line| line.len() <= 100) && !text.replace("\r\n", "").contains(['\r', '\n']));
        assert!(body.contains("filename=\"mail.x.test!a.test!1795478400!1795564799.json.gz\""), "{body}");
        let (_, part) = body.split_once("application/tlsrpt+gzip").unwrap();
        let (_, part) = part.split_once("\r\n\r\n").unwrap();
        let encoded = part.split("\r\n--").next().unwrap().replace("\r\n", "");
        let mut json = String::new();
        let octets = STANDARD.decode(encoded).unwrap();
        flate2::read::GzDecoder::new(&octets[..]).read_to_string(&mut json).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), report.json());
    }
}

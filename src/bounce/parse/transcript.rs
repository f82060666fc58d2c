//! What a report quotes of an SMTP session: `>>> RCPT TO:<a@b>` and `<<< 550 5.1.1 ...`, as Sendmail, Courier and others write
//! it, InterScan the other way round; and replies that stand in a line of their own.

use super::{address, shape};
use crate::message::Phase;

/// Most replies that are kept.
const REPLIES_MOST: usize = 500;
/// Most octets of one.
const REPLY_MOST: usize = 2_000;

/// What Sendmail puts before a reply in the list of addresses.
pub(super) const REASON: &str = "(reason:";

/// A refusal that is quoted.
#[derive(Clone, Debug)]
pub(super) struct Said {
    /// The step before it, if commands are quoted, too.
    pub step: Option<Phase>,
    /// Whom that command was about.
    pub recipient: Option<String>,
    /// The reply.
    pub reply: String,
    /// The line that it begins in.
    pub line: usize,
}

impl Said {
    /// Whom it is about, in lower case: by its command, and by what it says.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.recipient.iter().map(|name| name.to_ascii_lowercase()).collect();
        for name in address::all(&self.reply).map(str::to_ascii_lowercase) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

/// Every refusal that lines quote.
pub(super) fn read(lines: &[String]) -> Vec<Said> {
    let mut found: Vec<Said> = Vec::new();
    let (mut step, mut recipient) = (None, None);
    // Whom the list above is about: `<ann@a.test>`, and below `(reason: 550 ...)`.
    let mut listed: Option<String> = None;
    // The code of the reply that the line before has been, if it may go on.
    let mut open: Option<(u16, bool)> = None;
    // Whether something else has begun since the last reply.
    let mut is_over = false;
    for (at, line) in lines.iter().enumerate() {
        let text = line.trim_start_matches(['|', ' ', '\t']);
        let (mark, rest) = marked(text);
        if mark == Mark::Command
            || mark == Mark::None && rest.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("rcpt to:"))
        {
            step = command(rest);
            recipient = if step == Some(Phase::Rcpt) { address::only_in(rest) } else { None };
            open = None;
            continue;
        }
        if let Some((address, _)) = shape::leading(rest).filter(|_| mark == Mark::None) {
            listed = Some(address.to_owned());
            (open, is_over) = (None, true);
        }
        let is_quoted = mark == Mark::Reply;
        let is_reason = text.starts_with(REASON);
        match code(rest) {
            Some(code) if (400..600).contains(&code) => {
                let goes_on = open.is_some_and(|(before, quoted)| before == code && quoted == is_quoted);
                if goes_on {
                    append(&mut found, '\n', rest);
                } else if found.len() < REPLIES_MOST && !follows(code, rest) {
                    let (step, recipient) = match (is_reason, is_quoted) {
                        (true, _) => (None, listed.clone()),
                        (false, true) => (step, recipient.clone()),
                        (false, false) => (None, None),
                    };
                    is_over = false;
                    found.push(Said { step, recipient, reply: rest.to_owned(), line: at });
                }
                let is_continued = rest.as_bytes().get(3) == Some(&b'-');
                open = is_continued.then_some((code, is_quoted));
            }
            Some(_) => open = None,
            // A folded line of the same reply.
            None if open.is_some() || is_folded(line) && !is_over => {
                if !rest.is_empty() {
                    append(&mut found, ' ', rest);
                }
            }
            None => open = None,
        }
        if rest.is_empty() {
            (open, is_over) = (None, true);
        }
    }
    found
}

/// Whether a refusal only follows from those before it: DATA after every RCPT was refused.
fn follows(code: u16, text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    matches!(code, 503 | 554)
        && ["need rcpt", "no valid recipients", "valid rcpt"].iter().any(|words| lower.contains(words))
}

/// Adds a line to the last reply.
fn append(found: &mut [Said], between: char, text: &str) {
    if let Some(last) = found.last_mut().filter(|last| last.reply.len() < REPLY_MOST) {
        last.reply.push(between);
        last.reply.push_str(text);
    }
}

fn is_folded(line: &str) -> bool {
    line.starts_with(['\t', ' '])
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    None,
    Command,
    Reply,
}

/// Whose words a line is, and the words. MDaemon and others put the time before.
fn marked(text: &str) -> (Mark, &str) {
    let arrows = ["<-- ", "--> "].iter().filter_map(|arrow| text.find(arrow)).min();
    let is_timed =
        arrows.is_some_and(|at| at < 60 && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '['));
    let text = arrows.filter(|_| is_timed).and_then(|at| text.get(at..)).unwrap_or(text);
    let words = [
        ("Sent <<<", Mark::Command),
        ("Received >>>", Mark::Reply),
        ("Sent >>>", Mark::Command),
        ("Received <<<", Mark::Reply),
        (">>>>", Mark::Command),
        (">>>", Mark::Command),
        ("<<<", Mark::Reply),
        ("--> ", Mark::Command),
        ("<-- ", Mark::Reply),
        (REASON, Mark::Reply),
    ];
    for (start, mark) in words {
        if let Some(rest) = text.strip_prefix(start) {
            let rest = rest.trim();
            let rest = if start == REASON { rest.trim_end_matches(')') } else { rest };
            // `>>> 550 ...` is a reply whatever the arrow says.
            let mark = if code(rest).is_some() { Mark::Reply } else { mark };
            return (mark, rest);
        }
    }
    (Mark::None, text.trim_end())
}

/// The step that a command is.
fn command(text: &str) -> Option<Phase> {
    let word = text.split([' ', ':']).next().unwrap_or_default().to_ascii_lowercase();
    match word.as_str() {
        "mail" => Some(Phase::Mail),
        "rcpt" => Some(Phase::Rcpt),
        "data" => Some(Phase::Data),
        "." | "eom" => Some(Phase::EndOfData),
        "ehlo" | "helo" => Some(Phase::Ehlo),
        "starttls" => Some(Phase::StartTls),
        _ => None,
    }
}

/// The reply code that a line begins with.
pub(super) fn code(text: &str) -> Option<u16> {
    let digits = text.get(..3).filter(|digits| digits.bytes().all(|octet| octet.is_ascii_digit()))?;
    let is_end = text.as_bytes().get(3).is_none_or(|octet| matches!(octet, b' ' | b'-' | b':'));
    digits.parse().ok().filter(|code| is_end && (200..600).contains(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<(Option<Phase>, Option<String>, String)> {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        read(&lines).into_iter().map(|said| (said.step, said.recipient, said.reply)).collect()
    }

    #[test]
    fn replies_are_read_with_what_they_answer() {
        let ann = Some("ann@a.test".to_owned());

        assert_eq!(
            said(">>> RCPT To:<ann@a.test>\n<<< 550-5.1.1 no\n<<< 550 5.1.1 such user\n250 ok"),
            [(Some(Phase::Rcpt), ann.clone(), "550-5.1.1 no\n550 5.1.1 such user".to_owned())]
        );
        assert_eq!(
            said("Sent <<< RCPT TO:<ann@a.test>\nReceived >>> 550 no"),
            [(Some(Phase::Rcpt), ann.clone(), "550 no".to_owned())]
        );
        assert_eq!(
            said("Thu 23:34:45: --> RCPT To:<ann@a.test>\nThu 23:34:45: <-- 550 no"),
            [(Some(Phase::Rcpt), ann, "550 no".to_owned())]
        );
        assert_eq!(said("    (reason: 550 no)\n\nof 550 people"), [(None, None, "550 no".to_owned())]);
    }
}

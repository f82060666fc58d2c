//! How much of other people's labels the parser finds; the table is printed, and each figure has a floor.

use std::collections::BTreeMap;

use hikyaku::bounce::parse::{Kind, Parsed, Parser};

use crate::corpus::{self, Label};

/// Found, and how many there are.
#[derive(Clone, Copy, Default)]
struct Share(u32, u32);

impl Share {
    fn count(&mut self, is_found: bool) {
        self.0 += u32::from(is_found);
        self.1 += 1;
    }

    fn of_one(self) -> f64 {
        f64::from(self.0) / f64::from(self.1.max(1))
    }
}

#[derive(Default)]
struct Score {
    recipients: Share,
    kind: Share,
    permanent: Share,
    status: Share,
    reply_code: Share,
    final_address: Share,
    /// By coarse class: found, wrongly found, missed.
    classes: BTreeMap<&'static str, (u32, u32, u32)>,
}

impl Score {
    fn of(is_wanted: impl Fn(&str) -> bool) -> Self {
        let (parser, mails) = (Parser::built_in().unwrap(), corpus::sisimai());
        let mut score = Self::default();
        for (file, labels) in corpus::labels().into_iter().filter(|(file, _)| is_wanted(file)) {
            score.add(&parser.parse(&mails[file]), &labels, &mails[file]);
        }
        score
    }

    fn add(&mut self, parsed: &Parsed, labels: &[Label], mail: &[u8]) {
        let kind = match labels[0].reason {
            "feedback" => Kind::Feedback,
            "vacation" => Kind::AutoReply,
            "delivered" => Kind::Delivered,
            _ => Kind::Bounce,
        };
        self.kind.count(parsed.kind == kind);
        self.recipients.count(parsed.recipients.len() == labels.len());
        let finals = finals(mail);
        for (at, label) in labels.iter().enumerate() {
            let found = parsed.recipients.get(at);
            let is_permanent = parsed.kind == Kind::Bounce && found.is_some_and(|found| found.is_permanent());
            self.permanent.count(is_permanent == label.is_hard);
            self.class(coarse(parsed, at), corpus::coarse_of_reason(label.reason));
            if is_real(label.status) {
                let status = found.and_then(|found| found.status).map(|status| status.to_string());
                self.status.count(status.as_deref() == Some(label.status));
            }
            if !label.reply.is_empty() {
                self.reply_code.count(found.is_some_and(|found| found.reply_code.to_string() == label.reply));
            }
            if let Some(address) = found.and_then(|found| found.address.as_ref()).filter(|_| !finals.is_empty()) {
                let address = address.to_lowercase();
                self.final_address.count(finals.iter().any(|line| line.contains(&address)));
            }
        }
    }

    fn class(&mut self, found: &'static str, wanted: &'static str) {
        if found == wanted {
            self.classes.entry(wanted).or_default().0 += 1;
        } else {
            self.classes.entry(found).or_default().1 += 1;
            self.classes.entry(wanted).or_default().2 += 1;
        }
    }

    /// Over classes that have at least three labels.
    fn macro_f1(&self) -> f64 {
        let scored: Vec<f64> = self.classes.values().filter(|(hit, _, miss)| hit + miss >= 3).map(f1).collect();
        scored.iter().sum::<f64>() / scored.len() as f64
    }

    fn print(&self, name: &str) {
        println!("{name}: {} messages, {} recipients", self.recipients.1, self.permanent.1);
        for (what, share) in [
            ("recipients", self.recipients),
            ("kind", self.kind),
            ("permanent", self.permanent),
            ("status", self.status),
            ("reply code", self.reply_code),
            ("Final-Recipient", self.final_address),
        ] {
            println!("  {what:<16} {:>6.1} % of {}", 100.0 * share.of_one(), share.1);
        }
        println!("  {:<16} {:>6.3} macro-F1", "class", self.macro_f1());
        for (class, counts @ (hit, alarm, miss)) in &self.classes {
            println!("    {class:<14} {hit:>3} found {alarm:>3} wrongly {miss:>3} missed  F1 {:.3}", f1(counts));
        }
    }
}

fn f1((hit, alarm, miss): &(u32, u32, u32)) -> f64 {
    2.0 * f64::from(*hit) / f64::from((2 * hit + alarm + miss).max(1))
}

/// A status that is not Sisimai's own.
fn is_real(status: &str) -> bool {
    let detail = status.strip_prefix("4.0.").or_else(|| status.strip_prefix("5.0."));
    !status.is_empty() && !detail.is_some_and(|detail| detail.len() == 3 && detail.starts_with('9'))
}

/// What we say of a recipient, in coarse classes.
fn coarse(parsed: &Parsed, at: usize) -> &'static str {
    match parsed.kind {
        Kind::Bounce => {
            let verdict = parsed.recipients.get(at).and_then(|recipient| recipient.verdict.as_ref());
            verdict.map_or("unknown", |verdict| corpus::coarse_of_class(verdict.class.as_str()))
        }
        Kind::NotABounce => "unknown",
        _ => "not-a-failure",
    }
}

/// The lines of a message that are Final-Recipient, in lower case.
fn finals(mail: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(mail).to_lowercase();
    let lines = text.lines().map(|line| line.trim_start_matches(['>', ' ']));
    lines.filter(|line| line.starts_with("final-recipient:")).map(str::to_owned).collect()
}

#[test]
fn what_sisimai_was_made_for_is_found() {
    let (all, tuned, held_out) =
        (Score::of(|_| true), Score::of(|file| !corpus::is_held_out(file)), Score::of(corpus::is_held_out));
    tuned.print("sisimai, looked at");
    held_out.print("sisimai, held out");
    all.print("sisimai, all");

    for (what, share, least) in [
        ("recipients", all.recipients, 0.97),
        ("kind", all.kind, 0.97),
        ("permanent", all.permanent, 0.95),
        ("status", all.status, 0.95),
        ("reply code", all.reply_code, 0.95),
        ("Final-Recipient", all.final_address, 0.98),
        ("recipients held out", held_out.recipients, 0.95),
        ("permanent held out", held_out.permanent, 0.93),
        ("status held out", held_out.status, 0.93),
    ] {
        assert!(share.of_one() >= least, "{what}: {} of {}, at least {least}", share.0, share.1);
    }
    assert!(all.macro_f1() >= 0.88, "{}", all.macro_f1());
    assert!(held_out.macro_f1() >= 0.85, "held out: {}", held_out.macro_f1());
}

#[test]
fn what_mailman_finds_is_found() {
    let (parser, mails) = (Parser::built_in().unwrap(), corpus::flufl());
    let (mut looked_at, mut held_out, mut wrong) = (Share::default(), Share::default(), Vec::new());

    for (file, wanted) in corpus::addresses() {
        let parsed = parser.parse(&mails[file]);
        let recipients = parsed.recipients.iter().filter(|_| parsed.kind == Kind::Bounce);
        let mut found: Vec<String> =
            recipients.filter_map(|recipient| recipient.address.as_ref()).map(|a| a.to_lowercase()).collect();
        found.sort();
        found.dedup();
        let share = if corpus::is_held_out(file) { &mut held_out } else { &mut looked_at };
        share.count(found == wanted);
        if found != wanted {
            wrong.push(file);
        }
    }
    let all = Share(looked_at.0 + held_out.0, looked_at.1 + held_out.1);
    println!("flufl, looked at: {} of {}; held out: {} of {}", looked_at.0, looked_at.1, held_out.0, held_out.1);

    assert!(all.of_one() >= 0.92, "{} of {}: {wrong:?}", all.0, all.1);
}

#[test]
fn what_is_no_bounce_is_not_called_one() {
    let parser = Parser::built_in().unwrap();

    for (file, mail) in corpus::not_a_bounce() {
        let parsed = parser.parse(&mail);

        assert_ne!(parsed.kind, Kind::Bounce, "{file}");
    }
}

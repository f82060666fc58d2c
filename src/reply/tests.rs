//! Tables against their own examples, against replies of the field, and against what is no table at all.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::message::Phase;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

const FIELD: &str = include_str!("../../tests/data/replies/field.tsv");
const WORDS: &str = include_str!("../../tests/data/replies/words.tsv");
const SISIMAI: &str = include_str!("../../tests/data/replies/sisimai.tsv");

fn verdict(step: Option<Phase>, provider: Option<&str>, text: &str) -> Option<Verdict> {
    let diagnostic = Diagnostic::parse(text);
    let Diagnostic { code, status, text, .. } = &diagnostic;
    let step = step.or(diagnostic.step);
    Classifier::built_in().classify(&Refusal { step, code: *code, status: *status, text, provider })
}

#[test]
fn every_rule_decides_its_examples_and_none_of_its_counter_examples() {
    let classifier = Classifier::make(None).unwrap();
    let tiers = [Certainty::Provider, Certainty::Text, Certainty::Status, Certainty::Words, Certainty::Code];

    let mistakes: Vec<String> =
        tiers.into_iter().flat_map(|tier| classifier.mistakes(tier)).map(|mistake| mistake.to_string()).collect();

    assert!(classifier.len() > 150);
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn every_expression_of_the_tables_compiles() {
    assert_eq!(Classifier::make(None).unwrap().broken(), Vec::<String>::new());
}

#[test]
fn replies_of_the_field_are_of_their_class() {
    let mut wrong = Vec::new();
    for line in FIELD.lines().skip(1).chain(WORDS.lines().skip(1)) {
        let [step, provider, class, permanent, text] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let said = verdict(Phase::named(step), Some(provider), text).unwrap();
        if (said.class.as_str(), said.permanent()) != (class, permanent == "permanent") {
            wrong.push(format!("{} by {}: {line}", said.class, said.rule));
        }
    }

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_recipient_is_refused_before_it_is_named() {
    for step in [Phase::Greeting, Phase::Ehlo, Phase::StartTls, Phase::Mail] {
        for line in FIELD.lines().skip(1).chain(WORDS.lines().skip(1)) {
            let [_, provider, _, _, text] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let said = verdict(Some(step), Some(provider), text).unwrap();

            assert!(
                said.fault() != Fault::Recipient || &*said.rule == "521-greeting",
                "{step:?} {}: {line}",
                said.rule
            );
        }
    }
    for text in [
        "550 Host unknown",
        "550 5.1.2 Domain does not exist",
        "517-Domain does not exist: shop.test",
        "550 unknown user",
        "450 4.1.2 Domain not found",
        "552 5.2.2 mailbox full",
        "550 5.1.6 sorry",
    ] {
        assert_eq!(verdict(Some(Phase::Mail), None, text).unwrap().class, Class::SenderRejected, "{text}");
    }
    // RFC 7504, 3.
    assert_eq!(verdict(Some(Phase::Greeting), None, "521 mx.a.test takes no mail").unwrap().class, Class::BadDomain);
}

/// The classes by which bounces are labelled elsewhere.
fn coarse(class: Class) -> &'static str {
    match class {
        Class::BadMailbox | Class::MailboxMoved | Class::RecipientRejected => "recipient",
        Class::MailboxFull | Class::InactiveMailbox => "mailbox-state",
        Class::BadDomain => "domain",
        Class::Dns | Class::Network | Class::Timeout | Class::Expired => "network",
        Class::Reputation | Class::Greylisted => "reputation",
        Class::Authentication | Class::TlsRequired => "auth",
        Class::SpamContent
        | Class::Virus
        | Class::Policy
        | Class::Protocol
        | Class::MessageTooLarge
        | Class::RelayingDenied
        | Class::SenderRejected => "content-policy",
        Class::RateLimited | Class::TooManyConnections | Class::ConnectionUsedUp | Class::RecipientLimit => "rate",
        Class::System => "system",
        Class::Unknown => "unknown",
    }
}

/// FNV-1a; one file in five is held out.
fn is_held_out(file: &str) -> bool {
    file.bytes().fold(0x811c_9dc5_u32, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193)) % 5 == 0
}

#[derive(Default)]
struct Score {
    /// By class: hits, false alarms, misses.
    classes: BTreeMap<&'static str, (u32, u32, u32)>,
    permanent: (u32, u32),
}

impl Score {
    fn of(is_wanted: impl Fn(&str) -> bool) -> Self {
        let mut score = Self::default();
        for line in SISIMAI.lines().skip(1) {
            let [file, _, class, permanent, text] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
            if is_wanted(file) {
                let said = verdict(None, None, text);
                let found = said.as_ref().map_or("none", |verdict| coarse(verdict.class));
                score.permanent.1 += 1;
                score.permanent.0 +=
                    u32::from(said.is_some_and(|verdict| verdict.permanent()) == (permanent == "permanent"));
                if found == class {
                    score.classes.entry(class).or_default().0 += 1;
                } else {
                    score.classes.entry(found).or_default().1 += 1;
                    score.classes.entry(class).or_default().2 += 1;
                }
            }
        }
        score
    }

    /// The mean over classes with at least three labels.
    fn macro_f1(&self) -> f64 {
        let scored: Vec<f64> = self.classes.values().filter(|(hits, _, misses)| hits + misses >= 3).map(f1).collect();
        scored.iter().sum::<f64>() / f64::from(u32::try_from(scored.len()).unwrap())
    }

    fn permanence(&self) -> f64 {
        f64::from(self.permanent.0) / f64::from(self.permanent.1)
    }

    fn print(&self, name: &str) {
        println!("{name}\n  {:15} {:>4} {:>6} {:>6} {:>5}", "class", "hits", "alarms", "misses", "F1");
        for (class, counts @ (hits, alarms, misses)) in &self.classes {
            println!("  {class:15} {hits:4} {alarms:6} {misses:6} {:5.2}", f1(counts));
        }
        println!("  macro-F1 {:.3}, permanence {:.3}", self.macro_f1(), self.permanence());
    }
}

fn f1((hits, alarms, misses): &(u32, u32, u32)) -> f64 {
    2.0 * f64::from(*hits) / f64::from(2 * hits + alarms + misses)
}

#[test]
fn labelled_diagnostics_are_mostly_of_their_coarse_class() {
    let (tuned, held_out) = (Score::of(|file| !is_held_out(file)), Score::of(is_held_out));
    tuned.print("tuned on");
    held_out.print("held out");

    for score in [tuned, held_out] {
        assert!(score.macro_f1() > 0.8 && score.permanence() > 0.9, "{} {}", score.macro_f1(), score.permanence());
    }
}

#[test]
fn docomo_and_au_mean_a_filter_by_step_or_form() {
    for (step, provider, text, class) in [
        (Phase::Rcpt, "docomo", "550 Unknown user a@docomo.ne.jp", Class::BadMailbox),
        (Phase::EndOfData, "docomo", "550 Unknown user a@docomo.ne.jp", Class::RecipientRejected),
        (Phase::Rcpt, "au", "550 <a@ezweb.ne.jp>: User unknown", Class::BadMailbox),
        (Phase::Rcpt, "au", "550 : User unknown", Class::RecipientRejected),
    ] {
        let said = verdict(Some(step), Some(provider), text).unwrap();

        assert_eq!((said.class, said.permanent()), (class, class == Class::BadMailbox), "{text}");
        assert_eq!(said.certainty, Certainty::Provider);
    }
}

#[test]
fn one_text_means_something_else_at_another_provider() {
    let text = "421 4.7.0 Try again later, closing connection.";

    let (google, other) = (verdict(Some(Phase::Mail), Some("google"), text), verdict(Some(Phase::Mail), None, text));

    assert_eq!(google.unwrap().class, Class::RateLimited);
    assert_eq!(other.unwrap().class, Class::Unknown);
}

#[test]
fn a_success_is_no_refusal() {
    for text in ["250 2.0.0 mailbox full of joy", "354 go ahead", "2.0.0 discarded"] {
        assert_eq!(verdict(Some(Phase::EndOfData), None, text), None, "{text}");
    }
}

#[test]
fn the_list_that_a_refusal_names_is_told() {
    for (text, list) in [
        ("554 5.7.1 Client host [192.0.2.1] blocked using zen.spamhaus.org", Some("Spamhaus ZEN")),
        ("550 5.7.1 Client host [192.0.2.1] blocked using bl.example.org; no", Some("bl.example.org")),
        ("550 5.7.606 Access denied, banned sending IP [192.0.2.1].", Some("Microsoft")),
        ("550 5.7.1 Your IP address is blocked", None),
        ("550 5.1.1 <spamhaus@a.test>: User unknown", None),
    ] {
        let said = verdict(Some(Phase::Rcpt), Some("microsoft365"), text).unwrap();

        assert_eq!(said.list.as_deref(), list, "{text}");
    }
}

fn wants_rest(step: Phase, code: u16, status: Option<(u8, u16, u16)>, text: &str) -> bool {
    let status = status.map(|(class, subject, detail)| Status::new(class, subject, detail));
    let reply = Reply { code, status, text: text.into() };
    Classifier::built_in().of(step, &reply, None).unwrap().wants_rest()
}

#[test]
fn rate_and_load_replies_want_rest() {
    for (code, status, text) in [
        (421, None, "closing"),
        (421, Some((4, 7, 0)), "[TSS04] Messages from 192.0.2.1 temporarily deferred"),
        (450, Some((4, 7, 28)), "Our system has detected an unusual rate of unsolicited mail"),
        (451, Some((4, 7, 500)), "Server busy. Please try again later"),
        (452, Some((4, 3, 2)), "system not accepting"),
        (451, Some((4, 4, 5)), "congested"),
        (451, Some((4, 7, 1)), "Too many messages, slow down"),
        (450, None, "rate limited"),
        (451, Some((4, 3, 0)), "temporarily deferred"),
        (451, None, "try again later"),
    ] {
        assert!(wants_rest(Phase::Mail, code, status, text), "{code} {text}");
    }
}

#[test]
fn other_refusals_do_not_want_rest() {
    for (step, code, text) in [
        (Phase::EndOfData, 451, "local error in processing"),
        (Phase::EndOfData, 452, "mailbox full, quota exceeded"),
        (Phase::Mail, 451, "greylisted, try again later"),
        (Phase::Rcpt, 450, "rate limited for this mailbox"),
        (Phase::EndOfData, 0, "timed out"),
        (Phase::Mail, 550, "too many messages, rate limited"),
    ] {
        assert!(!wants_rest(step, code, None, text), "{code} {text}");
    }
}

#[test]
fn our_own_words_have_their_classes() {
    for (step, status, text, class) in [
        (
            Phase::Connect,
            (4, 4, 1),
            "cannot connect to 192.0.2.1:25: Connection refused (os error 111)",
            Class::Network,
        ),
        (Phase::Connect, (4, 4, 1), "cannot connect to 192.0.2.1:25: deadline has elapsed", Class::Timeout),
        (Phase::Mail, (4, 4, 2), "connection broken (mail): Connection reset by peer (os error 104)", Class::Network),
        (Phase::Greeting, (4, 4, 2), "connection closed by the receiver (greeting)", Class::Network),
        (Phase::EndOfData, (4, 4, 2), "no reply in time (end-of-data)", Class::Timeout),
        (Phase::StartTls, (4, 7, 5), "invalid peer certificate", Class::TlsRequired),
        (Phase::Dns, (4, 4, 3), "looking up the domain's MX records: no answer in time", Class::Dns),
        (Phase::Dns, (5, 1, 2), "the domain does not exist", Class::BadDomain),
        (Phase::Dns, (5, 1, 10), "the domain does not accept mail (null MX)", Class::BadDomain),
        (Phase::Dns, (5, 4, 4), "no MX host of the domain has an address", Class::Dns),
        (Phase::Queue, (5, 4, 7), "delivery time expired; last reply: rcpt at mx.test: 450 4.2.2 full", Class::Expired),
        (Phase::Queue, (5, 7, 1), "given up by the operator: user unknown", Class::Policy),
        (Phase::Mail, (4, 5, 0), "the receiver broke the protocol: a reply with a NUL in it", Class::Protocol),
        (Phase::Mail, (5, 3, 4), "the message is larger than the receiver allows", Class::MessageTooLarge),
        (Phase::Mail, (5, 7, 30), "the receiver does not support REQUIRETLS", Class::TlsRequired),
        (Phase::StartTls, (5, 7, 10), "mx.test is not used: its name", Class::TlsRequired),
    ] {
        let status = Status::new(status.0, status.1, status.2);
        let said = Classifier::built_in().of(step, &Reply::local(status, text), Some("mx.test")).unwrap();

        assert_eq!(said.class, class, "{text}: {}", said.rule);
    }
}

const OWN: &str = "[[rule]]\nid = \"house\"\ntext = [\"house rule 7\"]\nclass = \"rate-limited\"\nrest = false\n\
                   example = \"550 house rule 7\"\n";

#[test]
fn an_operators_rules_come_first_and_replace_those_of_the_same_name() {
    let own = format!("{OWN}{}", OWN.replace("house", "greylist").replace("rule 7", "rule 8"));
    let classifier = Classifier::with(&own).unwrap();
    let class = |text| {
        let refusal = Refusal { step: Some(Phase::Mail), code: 450, status: None, text, provider: None };
        classifier.classify(&refusal).map(|verdict| (verdict.class, verdict.certainty, verdict.wants_rest()))
    };

    assert_eq!(class("user unknown by House  Rule 7"), Some((Class::RateLimited, Certainty::Operator, false)));
    assert_ne!(class("greylisted").unwrap().0, Class::Greylisted);
    assert_eq!(classifier.len(), Classifier::built_in().len() + 1);
    assert_ne!(classifier.own(), Classifier::built_in().own());
}

#[test]
fn a_wrong_rule_is_told_with_its_name_its_key_and_what_is_allowed() {
    for (old, new, said) in [
        ("id = \"house\"", "id = \"\"", "rule 1: id: \"\": allowed: 1 to 64"),
        ("id = \"house\"\n", "", "rule 1: id: is missing"),
        ("rate-limited", "slow", "house: class: \"slow\": allowed: bad-mailbox, bad-domain"),
        ("class = \"rate-limited\"\n", "", "house: class: is missing; allowed: "),
        ("rest = false", "rest = 1", "house: rest: 1: allowed: true or false"),
        ("rest = false", "codes = [250]", "house: codes: 250: allowed: 400 to 599"),
        ("rest = false", "status = \"5.1\"", "house: status: \"5.1\": allowed: such as"),
        ("rest = false", "steps = \"dot\"", "house: steps: \"dot\": allowed: dns, connect"),
        ("rest = false", "provider = 1", "house: provider: 1: allowed: a text"),
        (
            "rest = false",
            "provider = \"nobody\"",
            "house: provider: \"nobody\": is no provider; allowed: the name of a site",
        ),
        (
            "\"550 house",
            "\"[foo] 550 house",
            "house: example: \"[foo] 550 house rule 7\": [foo] is no step; allowed: dns, ",
        ),
        ("rest = false", "colour = 1", "house: colour: is unknown; allowed: id, provider, steps"),
        ("rest = false", "steps = []", "house: steps: is empty; allowed: "),
        ("[\"house rule 7\"]", "[\"house (\"]", "house: text: \"house (\" is no regular expression: unclosed group"),
        ("[\"house rule 7\"]", "[\"House\"]", "house: text: \"House\" has upper case; allowed: lower case"),
        ("[\"house rule 7\"]", "[\".*\"]", "house: text: \".*\" matches everything; allowed: "),
        ("550 house rule 7", "550 user unknown", "house: example: \"550 user unknown\" is decided by no-mailbox"),
        ("550 house rule 7", "250 house rule 7", "house: example: \"250 house rule 7\" is no refusal"),
        ("example = \"550 house rule 7\"\n", "", "house: example: is missing; allowed: "),
        ("text = [\"house rule 7\"]\n", "", "house: text: no condition; allowed: at least one of"),
        (
            "rest = false",
            "counter = \"450 house rule 7\"",
            "house: counter: \"450 house rule 7\" is decided by this rule",
        ),
        ("[[rule]]", "[[rules]]", "rules: is unknown; allowed: [[rule]], [[list]]"),
        ("[[rule]]", "x = ", "line 1, column"),
        (OWN, "[[list]]\nname = \"a\"\n", "a: words: is missing; allowed: "),
    ] {
        assert!(OWN.contains(old), "{old}");

        let error = Classifier::with(&OWN.replace(old, new)).unwrap_err().to_string();

        assert!(error.contains(said), "{error}\nwanted: {said}");
    }
    let several = OWN.replace("rate-limited", "slow").replace("false", "1") + &OWN.replace("id = \"house\"", "");
    let several = Classifier::with(&several).unwrap_err();
    assert_eq!(several.each().len(), 3, "{several}");
    let nameless =
        OWN.replace("id = \"house\"", "id = \"a house\"").replace("rate-limited", "slow").replace("false", "1");
    let nameless = Classifier::with(&nameless).unwrap_err();
    assert_eq!(nameless.each().len(), 3, "what is wrong beside the id is told too: {nameless}");
    let twice = Classifier::with(&OWN.repeat(2)).unwrap_err().to_string();
    assert!(twice.contains("house: id: occurs twice; allowed: "), "{twice}");
}

proptest! {
    #[test]
    fn any_refusal_has_a_verdict(
        code in prop_oneof![Just(0_u16), 400..600_u16],
        numbers in proptest::option::of((4..=5_u8, 0..999_u16, 0..999_u16)),
        step in 0..Phase::ALL.len(),
        text in "\\PC{0,200}",
        words in "[a-z@<>: .0-9]{0,80}",
    ) {
        let status = numbers.map(|(class, subject, detail)| Status::new(class, subject, detail));
        for text in [&text, &words, &format!("user {words} unknown{text}")] {
            let refusal = Refusal { step: Some(Phase::ALL[step]), code, status, text, provider: Some("docomo") };
            prop_assert!(Classifier::built_in().classify(&refusal).is_some());
        }
    }
}

#[test]
fn a_reset_is_a_throttle_at_au_alone_and_only_what_asks_for_it_in_a_rule_of_lost_connections() {
    let reset = |phase: Phase| {
        let text = format!("connection broken ({}): Connection reset by peer (os error 104)", phase.as_str());
        Reply::local(Status::new(4, 4, 2), text)
    };
    let classifier = Classifier::built_in();
    let opening = [Phase::Connect, Phase::Greeting, Phase::Ehlo, Phase::StartTls];
    let session = [Phase::Mail, Phase::Rcpt, Phase::Data, Phase::Content, Phase::EndOfData];

    for (phases, class, rule) in
        [(&opening[..], Class::TooManyConnections, "au-reset-opening"), (&session[..], Class::RateLimited, "au-reset")]
    {
        for phase in phases {
            let at_au = classifier.of(*phase, &reset(*phase), Some("au")).unwrap();
            assert_eq!((at_au.class, &*at_au.rule, at_au.wants_rest()), (class, rule, true), "{phase:?}");
            for elsewhere in [Some("docomo"), Some("mx.a.test"), None] {
                let verdict = classifier.of(*phase, &reset(*phase), elsewhere).unwrap();
                assert!(matches!(verdict.class, Class::Network | Class::TlsRequired), "{phase:?} {verdict:?}");
                assert!(!verdict.wants_rest());
            }
        }
    }
    let own = "[[rule]]\nid = \"theirs\"\nprovider = \"mx.a.test\"\ncodes = \"none\"\ntext = 'connection closed'\n\
               class = \"rate-limited\"\nrest = true\nexample = \"4.4.2 connection closed by the receiver (mail)\"";
    let closed = Reply::local(Status::new(4, 4, 2), "connection closed by the receiver (mail)");
    let verdict = Classifier::with(own).unwrap().of(Phase::Mail, &closed, Some("mx.a.test")).unwrap();
    assert!(verdict.wants_rest());
    let also_replies = own.replace("\"none\"", "[\"none\", \"4yz\"]");
    let verdict = Classifier::with(&also_replies).unwrap().of(Phase::Mail, &closed, Some("mx.a.test")).unwrap();
    assert!(!verdict.wants_rest());
}

#[test]
fn a_well_known_domain_that_is_a_site_of_its_own_keeps_its_providers_rules() {
    for (site, text, rule) in [
        ("docomo.ne.jp", "[end-of-data] 550 Unknown user a@docomo.ne.jp", "docomo-filter"),
        ("ezweb.ne.jp", "[rcpt] 550 : User unknown", "au-filter"),
        ("ezweb.ne.jp", "[mail] 4.4.2 connection broken (mail): Connection reset by peer (os error 104)", "au-reset"),
    ] {
        let (step, text) = text[1..].split_once("] ").unwrap();
        let said = verdict(Phase::named(step), Some(site), text).unwrap();

        assert_eq!(&*said.rule, rule, "{site}: {text}");
    }
    let own = "[[rule]]\nid = \"mine\"\nprovider = \"ezweb.ne.jp\"\ncodes = [450]\ntext = 'house rule'\nclass = \"policy\"\n\
               example = \"450 house rule\"";
    let classifier = Classifier::with(own).unwrap();
    let of = |site: &str, text: &str| {
        let Diagnostic { code, status, text, .. } = &Diagnostic::parse(text);
        let refusal = Refusal { step: Some(Phase::Rcpt), code: *code, status: *status, text, provider: Some(site) };
        classifier.classify(&refusal).unwrap().rule.to_string()
    };
    assert_eq!(
        (&*of("ezweb.ne.jp", "450 house rule"), &*of("ezweb.ne.jp", "550 : User unknown")),
        ("mine", "au-filter")
    );
    assert_ne!(of("au", "450 house rule"), "mine");
}

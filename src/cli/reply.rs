//! `hikyaku reply`: what a receiver's reply means, by the rules that the daemon goes by. Asks neither a daemon nor DNS.

use std::io::{BufRead, Write};
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Subcommand;
use serde::Serialize;

use super::exit::{self, Exit, Failure};
use super::out;
use super::table::plain;
use crate::config::Config;
use crate::message::Phase;
use crate::provider::Map;
use crate::reply::{Classifier, Diagnostic, Refusal, Verdict};

/// Longest line of standard input: replies are kept to 1 KiB, what is written about them can be longer.
const LONGEST_LINE: u64 = 64 * 1024;

/// Sub-commands of `reply`.
#[derive(Debug, Subcommand)]
pub(super) enum Reply {
    /// Say what a reply is about, whether its address is finished, and what to do
    Classify(Classify),
}

/// Options of `reply classify`.
#[derive(Debug, clap::Args)]
pub(super) struct Classify {
    /// The reply, such as "550 5.1.1 no such user", or what a bounce says of one; `-`: one a line from standard input
    #[arg(value_name = "TEXT", allow_hyphen_values = true)]
    text: String,
    /// At which step it came [default: what the text tells]
    #[arg(long, value_parser = step)]
    step: Option<Phase>,
    /// The recipient's domain, which tells the provider if it is a well-known one
    #[arg(long, conflicts_with = "provider")]
    domain: Option<String>,
    /// The provider, by its name in the provider map
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// A configuration whose `replies.rules` are asked too [default: only the built-in rules]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// What is printed of one reply.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    /// None: it is no refusal.
    class: Option<&'static str>,
    permanent: bool,
    fault: Option<&'static str>,
    advice: Option<&'static str>,
    rule: Option<&'a str>,
    certainty: Option<&'static str>,
    list: Option<&'a str>,
    wants_rest: bool,
    code: Option<u16>,
    status: Option<String>,
    step: Option<&'static str>,
    provider: Option<&'a str>,
}

impl Reply {
    pub(super) fn execute(self) -> exit::Result {
        match self {
            Self::Classify(command) => command.execute(),
        }
    }
}

impl Classify {
    fn execute(self) -> exit::Result {
        let provider = self.provider()?;
        let classifier = match &self.config {
            None => Classifier::built_in(),
            Some(file) => {
                let config = Config::load(file).map_err(Failure::usage)?;
                config.replies.classifier().map_err(Failure::usage)?.get()
            }
        };
        if self.text != "-" {
            if self.text.trim().is_empty() {
                return Err(Failure::usage(anyhow!("TEXT is empty; allowed: a reply, or `-` for standard input")));
            }
            out::write(self.answer(&classifier, &self.text, provider.as_deref(), false)?.as_bytes())?;
            return Ok(Exit::Ok);
        }
        let mut out = std::io::BufWriter::new(out::Out::lock());
        let mut input = std::io::stdin().lock();
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = std::io::Read::take(&mut input, LONGEST_LINE).read_until(b'\n', &mut line);
            if read.context("cannot read standard input")? == 0 {
                break;
            }
            if !line.ends_with(b"\n") {
                // One line has one answer, however long it is.
                input.skip_until(b'\n').context("cannot read standard input")?;
            }
            let text = String::from_utf8_lossy(&line);
            out.write_all(self.answer(&classifier, &text, provider.as_deref(), true)?.as_bytes())?;
        }
        out.flush()?;
        Ok(Exit::Ok)
    }

    /// The provider that an option names, or whose the domain is.
    fn provider(&self) -> Result<Option<String>, Failure> {
        let map = Map::built_in()?;
        if let Some(name) = &self.provider {
            let known: Vec<&str> = map.names().collect();
            let allowed = || anyhow!("--provider {name:?} is unknown; allowed: {}", known.join(", "));
            return if known.contains(&name.as_str()) {
                Ok(Some(name.clone()))
            } else {
                Err(Failure::usage(allowed()))
            };
        }
        let Some(domain) = &self.domain else { return Ok(None) };
        let name =
            domain.rsplit_once('@').map_or(domain.as_str(), |(_, name)| name).trim_end_matches('.').to_lowercase();
        if !crate::config::names::is_host_name(&name) {
            let text = "is no domain; allowed: such as gmail.com";
            return Err(Failure::usage(anyhow!("--domain {domain:?} {text}")));
        }
        Ok(map.of_domain(&name).map(ToString::to_string))
    }

    /// What is printed of one reply; on one line if it is one of several.
    fn answer(
        &self,
        classifier: &Classifier,
        text: &str,
        provider: Option<&str>,
        is_one_of_several: bool,
    ) -> Result<String, serde_json::Error> {
        let Diagnostic { step, code, status, text } = Diagnostic::parse(text);
        let step = self.step.or(step);
        let verdict = classifier.classify(&Refusal { step, code, status, text: &text, provider });
        let verdict = verdict.as_ref();
        let answer = Answer {
            class: verdict.map(|verdict| verdict.class.as_str()),
            permanent: verdict.is_some_and(Verdict::permanent),
            fault: verdict.map(|verdict| verdict.fault().as_str()),
            advice: verdict.map(|verdict| verdict.advice().as_str()),
            rule: verdict.map(|verdict| &*verdict.rule),
            certainty: verdict.map(|verdict| verdict.certainty.as_str()),
            list: verdict.and_then(|verdict| verdict.list.as_deref()),
            wants_rest: verdict.is_some_and(Verdict::wants_rest),
            code: (code != 0).then_some(code),
            status: status.map(|status| status.to_string()),
            step: step.map(Phase::as_str),
            provider,
        };
        match (self.json, is_one_of_several) {
            (true, _) => Ok(format!("{}\n", serde_json::to_string(&answer)?)),
            (false, true) => Ok(answer.line()),
            (false, false) => Ok(answer.lines()),
        }
    }
}

impl Answer<'_> {
    fn fields(&self) -> [(&'static str, String); 7] {
        let or_none = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), plain);
        let permanent = if self.permanent { "yes" } else { "no" };
        [
            ("class", self.class.map_or_else(|| "no refusal".to_owned(), str::to_owned)),
            ("permanent", permanent.to_owned()),
            ("fault", or_none(self.fault)),
            ("advice", or_none(self.advice)),
            ("rule", or_none(self.rule)),
            ("certainty", or_none(self.certainty)),
            ("list", or_none(self.list)),
        ]
    }

    fn lines(&self) -> String {
        self.fields().into_iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
    }

    /// Columns that most values fit.
    fn line(&self) -> String {
        let [class, permanent, fault, advice, rule, certainty, list] = self.fields().map(|(_, value)| value);
        format!("{class:<20} {permanent:<4} {fault:<10} {advice:<9} {certainty:<9} {rule} {list}\n")
    }
}

/// A step by its name, or by what others call it.
fn step(name: &str) -> Result<Phase, String> {
    let phase = match name {
        "banner" => Some(Phase::Greeting),
        "helo" => Some(Phase::Ehlo),
        "dot" | "eod" | "body" => Some(Phase::EndOfData),
        name => Phase::named(name),
    };
    phase.ok_or_else(|| format!("allowed: {}", Phase::ALL.map(Phase::as_str).join(", ")))
}

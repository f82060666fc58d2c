//! `hikyaku tls`: what a domain publishes of TLS and what the daemon would do about it; and how TLS went, as it is reported.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::check::DEFAULT_CONFIG;
use super::client::escaped;
use super::exit::{self, Exit, Failure};
use super::patience::patiently;
use super::table::{Table, below, long, number, plain, text};
use super::{Remote, out, print_json, wait};
use crate::clock::Clock;
use crate::config::Config;
use crate::daemon;
use crate::dns::security::{self, Assurance, Demand, HostDane};
use crate::dns::settings::Forgetful;
use crate::dns::{Plan, Planner, Transport};
use crate::metrics::Registry;

/// For all questions together.
const PATIENCE: Duration = Duration::from_secs(60);

/// TLS towards receivers.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Tls {
    /// Look up what a domain publishes by DANE and MTA-STS, and say what a connection to each of its MX hosts must be
    Check(Check),
    /// Show what the daemon would report to domains now (RFC 8460)
    Report(Report),
}

/// Options of `tls report`.
#[derive(Debug, clap::Args)]
pub(super) struct Report {
    /// Only to this domain
    #[arg(long)]
    domain: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Options of `tls check`.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// A recipient domain
    domain: String,
    /// The configuration file whose rules and resolvers are used
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Found {
    domain: String,
    /// As the configuration has it.
    configured: &'static str,
    /// As it is after what the domain publishes.
    policy: &'static str,
    why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mta_sts: Option<Sts>,
    /// Why a policy that is announced is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    mta_sts_trouble: Option<String>,
    hosts: Vec<Host>,
}

#[derive(Debug, Serialize)]
struct Sts {
    id: String,
    mode: &'static str,
    mx: Vec<String>,
    max_age_seconds: u64,
}

#[derive(Debug, Serialize)]
struct Host {
    mx_host: String,
    preference: u16,
    tlsa: Vec<String>,
    demand: String,
    is_used: bool,
}

impl Tls {
    pub(super) fn execute(self) -> exit::Result {
        match self {
            Self::Check(check) => wait(check.execute()),
            Self::Report(report) => wait(report.execute()),
        }
    }
}

/// The fields of RFC 8460, 4.4 that are shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Shown {
    date_range: DateRange,
    policies: Vec<Sessions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct DateRange {
    start_datetime: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Sessions {
    policy: Policy,
    summary: Summary,
    failure_details: Vec<Failures>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Policy {
    policy_type: String,
    policy_domain: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Summary {
    total_successful_session_count: u64,
    total_failure_session_count: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Failures {
    result_type: String,
    receiving_mx_hostname: String,
    failed_session_count: u64,
    failure_reason_code: String,
}

impl Report {
    async fn execute(self) -> exit::Result {
        let query = self.domain.as_deref().map(|domain| format!("?domain={}", escaped(domain))).unwrap_or_default();
        let answer: Value = self.remote.get(&format!("/v1/tls/report{query}")).await?;
        if self.remote.json {
            return print_json(&answer);
        }
        let reports: Vec<Shown> = serde_json::from_value(answer)?;
        if reports.is_empty() {
            out::line(format_args!("nothing is counted: no session, or [tls_report] is not enabled"))?;
            return Ok(Exit::Ok);
        }
        table_of(&reports).print()?;
        Ok(Exit::Ok)
    }
}

fn table_of(reports: &[Shown]) -> Table {
    let mut table =
        Table::new(&[text("DAY"), long("DOMAIN"), text("POLICY"), number("GOOD"), number("FAILED"), below("FAILURES")]);
    for report in reports {
        for sessions in &report.policies {
            let failure = |failure: &Failures| {
                let words = [&failure.result_type, &failure.receiving_mx_hostname, &failure.failure_reason_code];
                let said: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).map(String::as_str).collect();
                format!("{} x {}", failure.failed_session_count, said.join(" "))
            };
            let failures: Vec<String> = sessions.failure_details.iter().map(failure).collect();
            table.row([
                report.date_range.start_datetime.chars().take(10).collect(),
                sessions.policy.policy_domain.clone(),
                sessions.policy.policy_type.clone(),
                sessions.summary.total_successful_session_count.to_string(),
                sessions.summary.total_failure_session_count.to_string(),
                failures.join("; "),
            ]);
        }
    }
    table
}

impl Check {
    async fn execute(self) -> exit::Result {
        let config = Config::load(&self.config).map_err(Failure::usage)?;
        let settings = daemon::dns_settings(&config, &daemon::hostname(&config), Arc::new(Forgetful))?;
        let planner = Planner::new(settings, Clock::system(), &Registry::new()?)?;
        let domain = self.domain.trim_end_matches('.').to_lowercase();
        let asking = async {
            let planned = planner.plan(&domain).await;
            (planned, planner.sts_trouble(&domain).await)
        };
        let asked = tokio::time::timeout(PATIENCE, asking);
        let (planned, trouble) = patiently("asking DNS", asked).await.context("the resolver does not answer")?;
        let plan = planned.map_err(|failure| {
            let (status, text) = (failure.status, plain(&failure.text));
            anyhow::anyhow!("{domain} has no next hop: {status} {text}")
        })?;
        let found = Found::of(&plan, trouble);
        let is_possible = found.hosts.is_empty() || found.hosts.iter().any(|host| host.is_used);
        let exit = if is_possible { Exit::Ok } else { Exit::Problem };
        match self.json {
            true => drop(print_json(&found)?),
            false => found.print()?,
        }
        Ok(exit)
    }
}

impl Found {
    fn of(plan: &Plan, mta_sts_trouble: Option<String>) -> Self {
        let (policy, why) = security::in_force(plan, Assurance::Usual);
        let sts = plan.security.as_ref().and_then(|security| security.sts.as_ref());
        let mta_sts = sts.map(|policy| Sts {
            id: policy.id.to_string(),
            mode: policy.mode.as_str(),
            mx: policy.mx.iter().map(ToString::to_string).collect(),
            max_age_seconds: policy.max_age,
        });
        let why = match plan.transport {
            Transport::Smtp => why,
            Transport::Relay => format!("{why}; a route, of which nothing is looked up"),
            Transport::Discard => "the mail is discarded".to_owned(),
        };
        let host = |host: &crate::dns::MxHost| {
            let demand = security::demand(plan, &host.name, Assurance::Usual);
            let known = plan.security.as_ref().and_then(|security| security.of_host(&host.name));
            Host {
                mx_host: host.name.to_string(),
                preference: host.preference,
                tlsa: tlsa(known),
                is_used: !matches!(demand, Demand::Refused(_)),
                demand: told(&demand),
            }
        };
        let hosts = plan.hosts.iter().map(host).collect();
        Self {
            domain: plan.domain.to_string(),
            configured: plan.tls.as_str(),
            policy,
            why,
            mta_sts,
            mta_sts_trouble,
            hosts,
        }
    }

    fn print(&self) -> std::io::Result<()> {
        out::line(format_args!("{}: {} ({})", self.domain, self.policy, self.why))?;
        if let Some(sts) = &self.mta_sts {
            let (mode, id, mx) = (sts.mode, &sts.id, sts.mx.join(", "));
            out::line(format_args!("  MTA-STS: {mode}, id {id}, hosts {mx}, for {} s", sts.max_age_seconds))?;
        }
        if let Some(trouble) = &self.mta_sts_trouble {
            out::line(format_args!("  MTA-STS: {}", plain(trouble)))?;
        }
        for host in &self.hosts {
            out::line(format_args!("  {} {}: {}", host.preference, host.mx_host, host.demand))?;
            for record in &host.tlsa {
                out::line(format_args!("    TLSA {record}"))?;
            }
        }
        Ok(())
    }
}

fn told(demand: &Demand) -> String {
    match demand {
        Demand::Clear => "in clear".to_owned(),
        Demand::Opportunistic => "encrypted if it offers STARTTLS, not verified".to_owned(),
        Demand::Encrypted => "must be encrypted, not verified".to_owned(),
        Demand::Observed { encrypted, is_listed } => {
            let must = if *encrypted { "must be encrypted" } else { "encrypted if it offers STARTTLS" };
            let listed = if *is_listed { "" } else { "; the tested policy does not name it" };
            format!("{must}; its certificate is looked at for a policy that is tested{listed}")
        }
        Demand::Pkix { names } => format!("must be encrypted, with a trusted certificate for {}", names.join(" or ")),
        Demand::Dane { names, .. } => {
            format!("must be encrypted, with a certificate of its TLSA records (names: {})", names.join(", "))
        }
        Demand::Refused(refusal) => format!("is not used: {}", refusal.text()),
    }
}

fn tlsa(known: Option<&HostDane>) -> Vec<String> {
    match known {
        Some(HostDane::Records { records, .. }) => records.iter().map(|record| record.presented(64)).collect(),
        _ => Vec::new(),
    }
}

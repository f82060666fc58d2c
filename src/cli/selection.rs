//! Which recipients a command is about: the same options wherever that is asked.

use anyhow::anyhow;

use super::client::escaped;
use super::exit::Failure;
use crate::state::Selection;

/// Recipients for which all of what is given is so.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Which recipients")]
pub(super) struct SelectionArguments {
    /// Of this recipient domain; `*.example.com`: of those below it
    #[arg(long)]
    domain: Option<String>,
    /// Of this site (a provider's name, an MX set or a domain, as `sites` shows it)
    #[arg(long)]
    site: Option<String>,
    /// Of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Of this campaign
    #[arg(long)]
    campaign: Option<String>,
    /// Of this lane: urgent, normal or bulk
    #[arg(long)]
    lane: Option<String>,
    /// That are tried, or were tried the last time, from this egress source
    #[arg(long)]
    source: Option<String>,
    /// With this reverse-path: an address, `@domain`, or `<>`
    #[arg(long, value_name = "ADDRESS")]
    sender: Option<String>,
    /// With this forward-path
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
}

impl SelectionArguments {
    /// As the daemon takes it; wrong values are wrong usage.
    pub(super) fn checked(&self) -> Result<Selection, Failure> {
        let boxed = |value: &Option<String>| value.as_deref().map(Into::into);
        let selection = Selection {
            domain: boxed(&self.domain),
            site: boxed(&self.site),
            tenant: boxed(&self.tenant),
            campaign: boxed(&self.campaign),
            lane: boxed(&self.lane),
            source: boxed(&self.source),
            sender: boxed(&self.sender),
            recipient: boxed(&self.recipient),
            message: None,
        };
        selection.checked().map_err(|error| Failure::usage(anyhow!("--{error}")))
    }

    /// The same where everything must be asked for in so many words.
    pub(super) fn checked_or_all(&self, all: bool) -> Result<Selection, Failure> {
        let selection = self.checked()?;
        match (selection.is_everything(), all) {
            (true, false) => Err(Failure::usage(anyhow!(
                "say which recipients (--domain, --site, --tenant, --campaign, --lane, --source, --sender, --recipient), or \
                 --all"
            ))),
            (false, true) => Err(Failure::usage(anyhow!("--all and a selection contradict each other"))),
            _ => Ok(selection),
        }
    }
}

/// A selection as a query string, each value with `&` in front.
pub(super) fn query(selection: &Selection) -> String {
    let values = selection.values();
    let given = values.iter().filter_map(|(key, value)| Some((key, (*value)?)));
    given.map(|(key, value)| format!("&{key}={}", escaped(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_must_be_asked_for() {
        let (none, some) = (
            SelectionArguments::default(),
            SelectionArguments { tenant: Some("shop".to_owned()), ..Default::default() },
        );

        assert!(none.checked_or_all(false).is_err() && some.checked_or_all(true).is_err());
        assert!(none.checked_or_all(true).unwrap().is_everything());
        assert_eq!(query(&some.checked_or_all(false).unwrap()), "&tenant=shop");
    }

    #[test]
    fn a_wrong_value_is_told_with_its_option() {
        let wrong = SelectionArguments { lane: Some("slow".to_owned()), ..Default::default() };

        let failure = wrong.checked().unwrap_err();

        assert!(failure.error.to_string().starts_with("--lane: \"slow\""), "{}", failure.error);
    }
}

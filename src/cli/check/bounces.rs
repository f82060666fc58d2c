//! What is suspicious about `[bounces]`.

use std::time::Duration;

use crate::config::{Config, Dsns, MaskMode, Mode};

/// What the daemon would accept of it and an operator should know.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let bounces = &config.bounces;
    let mut out = Vec::new();
    if bounces.has_domains() && !config.listeners.iter().any(|listener| listener.mode == Mode::Returns) {
        out.push(
            "bounces: no [[listener]] has mode = \"returns\": what comes back must be taken by another daemon"
                .to_owned(),
        );
    }
    if bounces.has_domains() && config.journal.enabled {
        let (believed, kept) = (Duration::from_secs(u64::from(bounces.believed_days) * 86_400), config.journal.keep.0);
        if believed > kept {
            out.push(format!(
                "bounces.believed_days: {} days, and the journal keeps {}: what comes back later is neither joined with its message nor \
                 passed on",
                bounces.believed_days, config.journal.keep
            ));
        }
    }
    let is_told = config.journal.enabled && config.privacy.mask == MaskMode::None;
    for (index, tenant) in bounces.tenants.iter().enumerate() {
        if bounces.feedback_domains.iter().any(|domain| domain.eq_ignore_ascii_case(&tenant.domain)) {
            let text =
                "is one of bounces.feedback_domains, too, where any mailbox takes mail, forged reverse-paths excepted";
            out.push(format!("bounces.tenant[{index}].domain: {text}"));
        }
        if !tenant.domain.is_empty() && tenant.dsn == Dsns::Send && !is_told {
            let text =
                "the journal is off or masked, so nobody knows the reverse-path that reports are to be passed on to";
            out.push(format!("bounces.tenant[{index}].dsn: {text}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_comes_back_after_its_message_is_forgotten_and_mailboxes_that_take_anything_are_warned_of() {
        let text = "[[listener]]\nmode = \"returns\"\n[bounces]\nbelieved_days = 90\nfeedback_domains = [\"b.test\"]\n\
                    [[bounces.tenant]]\nname = \"a\"\ndomain = \"B.test\"\n";

        let told = warnings(&Config::parse(text, Path::new("x")).unwrap());

        assert!(told.len() == 2 && told[0].contains("90 days, and the journal keeps 30d"), "{told:?}");
        assert!(told[1].starts_with("bounces.tenant[0].domain: "), "{told:?}");
    }

    #[test]
    fn domains_that_nobody_listens_for_and_reports_that_cannot_go_on_are_warned_of() {
        let text = "[journal]\nenabled = false\n[[bounces.tenant]]\nname = \"a\"\ndomain = \"b.test\"\n\
                    [[bounces.tenant]]\nname = \"b\"\ndomain = \"c.test\"\ndsn = \"events\"\n";
        let listener = "[[listener]]\nmode = \"returns\"\n";
        let told = |text: &str| warnings(&Config::parse(text, Path::new("x")).unwrap());

        let (alone, heard) = (told(text), told(&format!("{text}{listener}")));

        assert!(alone.len() == 2 && alone[0].starts_with("bounces: "), "{alone:?}");
        assert!(heard.len() == 1 && heard[0].starts_with("bounces.tenant[0].dsn: "), "{heard:?}");
        assert_eq!(told(listener.replace("returns", "submission").as_str()), [] as [&str; 0]);
    }
}

//! What is suspicious about `[[warmup]]`.

use crate::config::{Config, Warmup};

/// What the daemon would accept of its plans and an operator should know.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut out = Vec::new();
    for (index, plan) in config.warmups.iter().enumerate() {
        let mut warn = |key: &str, text: String| out.push(format!("warmup[{index}].{key}: {text}"));
        if !plan.volumes.is_sorted() {
            warn("volumes", "a day has less than the one before: volumes mostly grow".to_owned());
        }
        if !is_used(config, plan) {
            warn("source", format!("{} is in no [[pool]]: nothing leaves from it", plan.source));
        }
    }
    out
}

/// Whether something may leave from a plan's source: a pool has it, or another plan's overflow goes there.
fn is_used(config: &Config, plan: &Warmup) -> bool {
    let members = config.pools.iter().flat_map(|pool| &pool.sources).map(|member| member.source.as_str());
    members.chain(config.warmups.iter().filter_map(Warmup::overflow)).any(|source| source == plan.source)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn falling_volumes_and_a_source_without_a_pool_are_warned_of() {
        let text = "[[source]]\nname = \"a\"\n[[source]]\nname = \"b\"\n[[pool]]\nname = \"p\"\nsources = [{ source = \"a\" }]\n\
                    [[warmup]]\nsource = \"a\"\nstart = \"2026-12-01\"\nvolumes = [9, 5]\noverflow = \"b\"\n\
                    [[warmup]]\nsource = \"b\"\nstart = \"2026-12-01\"\nvolumes = [5, 9]\n";
        let config = Config::parse(text, Path::new("x")).unwrap();
        let mut alone = config.clone();
        alone.warmups[0].overflow = "hold".into();

        let (told, of_alone) = (warnings(&config), warnings(&alone));

        assert!(told.len() == 1 && told[0].starts_with("warmup[0].volumes: "), "{told:?}");
        assert!(of_alone.len() == 2 && of_alone[1].starts_with("warmup[1].source: b is in no"), "{of_alone:?}");
    }
}

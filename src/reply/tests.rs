//! Tables against their own examples and against replies of the field.

use super::*;

#[test]
fn every_rule_decides_its_examples_and_none_of_its_counter_examples() {
    let classifier = Classifier::make(None).unwrap();
    let tiers = [Certainty::Provider, Certainty::Text, Certainty::Status, Certainty::Words, Certainty::Code];

    let mistakes: Vec<String> =
        tiers.into_iter().flat_map(|tier| classifier.mistakes(tier)).map(|mistake| mistake.to_string()).collect();

    assert!(classifier.len() > 100);
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

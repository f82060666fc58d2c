//! Whatever is learnt, no more is done than the configuration allows (G6).

use hikyaku::limit::controller::Ceilings;
use hikyaku::simulate::Driver;

use crate::random::receivers;
use crate::stage::{all, profile};

#[test]
fn ceilings_of_the_configuration_are_never_exceeded() {
    let mut profiles = receivers();
    let names =
        ["p01-fixed-minute", "p02-bucket", "p03-five-connections", "p04-ten-messages", "p09-steps", "p12-opaque"];
    profiles.extend(names.map(profile));
    let some = Ceilings { rate: Some(2.0), connections: 3, messages_per_connection: 7, openings_per_minute: 20 };

    for ceilings in [some, Ceilings { rate: None, ..some }, Ceilings { openings_per_minute: 0, ..some }] {
        for runs in all(&profiles, &Driver::Learning { ceilings, learnt: None }) {
            for run in runs {
                assert_eq!(run.ceiling_violations, 0, "{ceilings:?}: {run:?}");
                assert!(run.accepted > 0);
            }
        }
    }
}

#[test]
fn what_nobody_has_tried_is_not_learnt_below_a_ceiling() {
    let ceilings = Ceilings { rate: Some(2.5), ..Ceilings::default() };

    for runs in all(&[profile("p02-bucket"), profile("p10-workers")], &Driver::Learning { ceilings, learnt: None }) {
        for run in runs {
            let kept = run.record.learnt.as_ref().unwrap();
            assert!(kept.rate <= 2.5 && !kept.is_limit, "{kept:?}");
        }
    }
}

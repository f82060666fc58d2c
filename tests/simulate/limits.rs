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

//! Whether the receivers are as strict as real ones: a fixed rate above the limit is refused, one below it is not.

use crate::stage::{mean, profile, three};
use hikyaku::simulate::Driver;

#[test]
fn twice_the_limit_is_refused_at_least_four_hundred_times_for_a_thousand_accepted() {
    for name in ["p01-fixed-minute", "p02-bucket", "p08-penalty-box"] {
        let refused = mean(&three(&profile(name), &Driver::Fixed(2.0)), |run| run.throttled_per_1000);

        assert!(refused >= 400.0, "{name}: {refused}");
    }
}

#[test]
fn a_fixed_rate_just_below_the_limit_is_hardly_refused() {
    for name in ["p01-fixed-minute", "p02-bucket"] {
        let runs = three(&profile(name), &Driver::Fixed(0.98));

        assert!(mean(&runs, |run| run.throttled_per_1000) < 2.0, "{name}");
        assert!(mean(&runs, |run| run.goodput) > 0.97, "{name}");
    }
}

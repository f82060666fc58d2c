//! Tenants share what a receiver allows (G7).

use hikyaku::simulate::Run;

use crate::stage::{cold, profile, three};

fn accepted(run: &Run, name: &str) -> f64 {
    run.tenants.iter().find(|tenant| tenant.name == name).unwrap().accepted as f64
}

/// Jain's index of shares.
fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = (shares.iter().sum::<f64>(), shares.iter().map(|share| share * share).sum::<f64>());
    sum * sum / (shares.len() as f64 * squares)
}

#[test]
fn equal_tenants_with_a_backlog_get_equal_shares() {
    for run in three(&profile("t1-equal-tenants"), &cold()) {
        let shares: Vec<f64> = run.tenants.iter().map(|tenant| tenant.accepted as f64).collect();

        assert!(jain(&shares) >= 0.95, "{shares:?}");
        assert!(run.goodput >= 0.9, "{run:?}");
    }
}

#[test]
fn a_light_tenant_hardly_waits_behind_a_flood() {
    for run in three(&profile("t2-flood-and-light"), &cold()) {
        let light = run.tenants.iter().find(|tenant| tenant.name == "light").unwrap();

        assert!(light.wait_p99_s.unwrap() <= 5.0, "{:?}", run.tenants);
    }
}

#[test]
fn weights_are_shares() {
    for run in three(&profile("t3-weights"), &cold()) {
        let ratio = accepted(&run, "large") / accepted(&run, "small");

        assert!((3.8..=4.2).contains(&ratio), "{:?}", run.tenants);
    }
}

#[test]
fn a_tenant_whose_content_is_refused_takes_nothing_from_the_others() {
    let alone = three(&profile("t4-content-refused"), &cold());
    let mut others = profile("t4-content-refused");
    others.tenants.retain(|tenant| !tenant.is_refused);
    let without = three(&others, &cold());

    for (run, without) in alone.iter().zip(&without) {
        let sum = |run: &Run| accepted(run, "a") + accepted(run, "b");
        assert!(sum(run) >= 0.98 * sum(without), "{:?} against {:?}", run.tenants, without.tenants);
    }
}

//! F15 of the fault tests: what DNS can do to a delivery plan, played by the demo's responder on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hikyaku::clock::Clock;
use hikyaku::config::units::Network;
use hikyaku::demo::responder::{Fault, Kind, Responder, Zone};
use hikyaku::dns::{Families, Plan, Planned, Planner, Route, Settings, TlsPolicy, Transport};
use hikyaku::metrics::Registry;

/// Public by the rules, reserved for documentation: nothing is ever sent there.
const PUBLIC: [u8; 4] = [192, 0, 2, 1];

struct Fixture {
    responder: Responder,
    planner: Arc<Planner>,
    registry: Registry,
}

async fn fixture(zone: impl FnOnce(&mut Zone), change: impl FnOnce(&mut Settings)) -> Fixture {
    let mut table = Zone::new();
    zone(&mut table);
    let responder = Responder::start(SocketAddr::from(([127, 0, 0, 1], 0)), table).await.unwrap();
    let mut settings = Settings {
        resolvers: vec![responder.address()],
        timeout: Duration::from_millis(150),
        attempts: 2,
        own_names: vec!["us.test".into()],
        own_addresses: vec![IpAddr::from([192, 0, 2, 99])],
        ..Settings::default()
    };
    change(&mut settings);
    let registry = Registry::new().unwrap();
    let planner = Arc::new(Planner::new(settings, Clock::system(), &registry).unwrap());
    Fixture { responder, planner, registry }
}

async fn plan_in(zone: impl FnOnce(&mut Zone), domain: &str) -> Planned {
    fixture(zone, |_| ()).await.planner.plan(domain).await
}

fn found(planned: Planned) -> Arc<Plan> {
    planned.unwrap_or_else(|failure| panic!("no plan: {failure:?}"))
}

fn status(planned: Planned) -> String {
    match planned {
        Ok(plan) => panic!("a plan: {plan:?}"),
        Err(failure) => failure.status.to_string(),
    }
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.hosts.iter().map(|host| &*host.name).collect()
}

fn lasts(until: Instant) -> u64 {
    until.saturating_duration_since(Instant::now()).as_secs_f64().round() as u64
}

#[tokio::test]
async fn hosts_come_in_order_of_preference_with_both_families() {
    let zone = |zone: &mut Zone| {
        zone.mx("a.test", 20, "Second.A.test").mx("a.test", 10, "first.a.test");
        zone.address("first.a.test", PUBLIC).address("first.a.test", "2001:db8::1".parse::<IpAddr>().unwrap());
        zone.address("second.a.test", [192, 0, 2, 2]);
    };

    let plan = found(plan_in(zone, "a.test").await);

    assert_eq!(names(&plan), ["first.a.test", "second.a.test"]);
    assert_eq!(plan.hosts[0].addresses[..], ["2001:db8::1".parse::<IpAddr>().unwrap(), IpAddr::from(PUBLIC)]);
    assert_eq!((&*plan.mx_set, &plan.site, plan.port), ("first.a.test,second.a.test", &plan.mx_set, 25));
    assert_eq!(plan.transport, Transport::Smtp);
}

#[tokio::test]
async fn servfail_of_the_mx_look_up_defers() {
    let zone = |zone: &mut Zone| {
        zone.address("a.test", PUBLIC).fault("a.test", Some(Kind::Mx), Fault::ServFail);
    };

    assert_eq!(status(plan_in(zone, "a.test").await), "4.4.3");
}

#[tokio::test]
async fn a_silent_or_broken_resolver_defers_within_its_time() {
    for fault in [Fault::Silent, Fault::Refused, Fault::Garbage(vec![0xff; 30]), Fault::TruncateAlways] {
        let begun = Instant::now();
        let zone = |zone: &mut Zone| {
            zone.mx("a.test", 10, "mx.a.test").fault("a.test", None, fault.clone());
        };

        assert_eq!(status(plan_in(zone, "a.test").await), "4.4.3", "{fault:?}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{fault:?}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn no_resolver_at_all_defers() {
    let fixture = fixture(|_| (), |settings| settings.resolvers = vec![SocketAddr::from(([127, 0, 0, 1], 9))]).await;

    assert_eq!(status(fixture.planner.plan("a.test").await), "4.4.3");
}

#[tokio::test]
async fn servfail_of_all_addresses_defers_but_of_one_host_does_not() {
    let zone = |zone: &mut Zone| {
        for domain in ["a.test", "b.test"] {
            zone.mx(domain, 10, "broken.test");
        }
        zone.mx("b.test", 20, "good.test").address("good.test", PUBLIC).fault("broken.test", None, Fault::ServFail);
    };
    let fixture = fixture(zone, |_| ()).await;

    assert_eq!(status(fixture.planner.plan("a.test").await), "4.4.3");
    let plan = found(fixture.planner.plan("b.test").await);
    assert_eq!(names(&plan), ["good.test"]);
    assert!(lasts(plan.valid_until) <= 30, "asked again soon: {}", lasts(plan.valid_until));
    assert_eq!(&*plan.mx_set, "broken.test,good.test", "a failure does not move the domain to another site");
}

#[tokio::test]
async fn a_domain_that_does_not_exist_is_5_1_2_for_at_most_five_minutes() {
    let planned = plan_in(|_| (), "a.test").await;

    assert!(lasts(planned.as_ref().unwrap_err().valid_until) <= 300);
    assert_eq!(status(planned), "5.1.2");
}

#[tokio::test]
async fn no_data_at_all_is_5_1_2() {
    let zone = |zone: &mut Zone| {
        zone.txt("a.test", "nothing else");
    };

    assert_eq!(status(plan_in(zone, "a.test").await), "5.1.2");
}

#[tokio::test]
async fn without_mx_the_domain_is_its_own_mx_host() {
    let zone = |zone: &mut Zone| {
        zone.address("a.test", PUBLIC);
    };

    let plan = found(plan_in(zone, "a.test").await);

    assert_eq!((names(&plan), plan.hosts[0].preference, &*plan.site), (vec!["a.test"], 0, "a.test"));
}

#[tokio::test]
async fn without_mx_a_failing_address_look_up_defers() {
    let zone = |zone: &mut Zone| {
        zone.txt("a.test", "x").fault("a.test", Some(Kind::A), Fault::ServFail);
    };

    assert_eq!(status(plan_in(zone, "a.test").await), "4.4.3");
}

#[tokio::test]
async fn a_null_mx_is_5_1_10() {
    let zone = |zone: &mut Zone| {
        zone.null_mx("a.test").address("a.test", PUBLIC);
    };

    assert_eq!(status(plan_in(zone, "a.test").await), "5.1.10");
}

#[tokio::test]
async fn a_circle_of_aliases_defers() {
    let zone = |zone: &mut Zone| {
        zone.cname("a.test", "b.test").cname("b.test", "a.test");
        zone.mx("c.test", 10, "a.test");
    };
    let fixture = fixture(zone, |_| ()).await;

    assert_eq!(status(fixture.planner.plan("a.test").await), "4.4.3");
    assert_eq!(status(fixture.planner.plan("c.test").await), "4.4.3");
}

#[tokio::test]
async fn a_domain_that_is_an_alias_gets_the_mx_of_its_target() {
    let zone = |zone: &mut Zone| {
        zone.cname("a.test", "b.test").mx("b.test", 10, "mx.b.test").address("mx.b.test", PUBLIC);
        zone.cname("c.test", "gone.test");
    };
    let fixture = fixture(zone, |_| ()).await;

    assert_eq!(names(&found(fixture.planner.plan("a.test").await)), ["mx.b.test"]);
    assert_eq!(status(fixture.planner.plan("c.test").await), "5.1.2");
}

#[tokio::test]
async fn an_mx_host_that_is_an_alias_is_tolerated() {
    let zone = |zone: &mut Zone| {
        zone.mx("a.test", 10, "alias.test").cname("alias.test", "real.test").address("real.test", PUBLIC);
    };

    let plan = found(plan_in(zone, "a.test").await);

    assert_eq!((names(&plan), plan.hosts[0].addresses.len()), (vec!["alias.test"], 1));
}

#[tokio::test]
async fn an_mx_record_with_an_address_as_text_is_passed_over() {
    let zone = |zone: &mut Zone| {
        zone.mx("a.test", 10, "192.0.2.7").mx("a.test", 20, "mx.test").address("mx.test", PUBLIC);
        zone.mx("b.test", 10, "192.0.2.7").address("b.test", PUBLIC);
    };
    let fixture = fixture(zone, |_| ()).await;

    assert_eq!(names(&found(fixture.planner.plan("a.test").await)), ["mx.test"]);
    assert_eq!(status(fixture.planner.plan("b.test").await), "5.4.4");
    assert_eq!(fixture.responder.asked("192.0.2.7"), 0);
}

#[tokio::test]
async fn mx_hosts_without_addresses_are_5_4_4() {
    let zone = |zone: &mut Zone| {
        zone.mx("a.test", 10, "gone.test").mx("a.test", 20, "empty.test").txt("empty.test", "x");
    };

    assert_eq!(status(plan_in(zone, "a.test").await), "5.4.4");
}

#[tokio::test]
async fn five_hundred_mx_records_give_twenty_addresses() {
    let zone = |zone: &mut Zone| {
        for number in 0..500 {
            zone.mx("a.test", 10 + number, &format!("mx{number}.a.test"));
        }
        zone.address("*.a.test", PUBLIC);
    };
    let fixture = fixture(zone, |_| ()).await;

    let plan = found(fixture.planner.plan("a.test").await);

    assert_eq!(plan.hosts.iter().map(|host| host.addresses.len()).sum::<usize>(), 20);
    assert_eq!(names(&plan)[..2], ["mx0.a.test", "mx1.a.test"]);
    assert!(plan.site.len() <= 200, "{}", plan.site);
    assert!(fixture.responder.queries() <= 60, "{} queries", fixture.responder.queries());
}

#[tokio::test]
async fn ten_thousand_addresses_give_twenty_of_all_hosts() {
    let zone = |zone: &mut Zone| {
        for host in 0..4_u8 {
            let name = format!("mx{host}.a.test");
            zone.mx("a.test", 10, &name);
            for number in 0..2_500_u16 {
                let [high, low] = number.to_be_bytes();
                zone.address(&name, [198, 51, high + 16 * host, low]);
            }
        }
    };

    let plan = found(plan_in(zone, "a.test").await);

    assert_eq!(plan.hosts.iter().map(|host| host.addresses.len()).collect::<Vec<_>>(), [5, 5, 5, 5]);
}

#[tokio::test]
async fn a_truncated_answer_is_asked_again_over_tcp() {
    let zone = |zone: &mut Zone| {
        zone.mx("a.test", 10, "mx.test").fault("a.test", None, Fault::Truncate).address("mx.test", PUBLIC);
        zone.fault("mx.test", None, Fault::Truncate);
    };

    assert_eq!(names(&found(plan_in(zone, "a.test").await)), ["mx.test"]);
}

#[tokio::test]
async fn ttls_are_kept_between_thirty_seconds_and_a_day() {
    let cases = [(0, 30), (5, 30), (100, 100), (i32::MAX as u32, 86_400), (1 << 31, 30), (u32::MAX, 30)];
    for (ttl, expected) in cases {
        let zone = |zone: &mut Zone| {
            zone.mx("a.test", 10, "mx.test").ttl("a.test", ttl).address("mx.test", PUBLIC).ttl("mx.test", 86_400);
        };

        let plan = found(plan_in(zone, "a.test").await);

        assert!(lasts(plan.valid_until).abs_diff(expected) <= 1, "{ttl}: {}", lasts(plan.valid_until));
    }
}

#[tokio::test]
async fn the_shortest_ttl_of_mx_and_addresses_counts() {
    let zone = |zone: &mut Zone| {
        zone.mx("a.test", 10, "mx.test").ttl("a.test", 3_600).address("mx.test", PUBLIC).ttl("mx.test", 60);
    };

    assert!(lasts(found(plan_in(zone, "a.test").await).valid_until).abs_diff(60) <= 1);
}

#[tokio::test]
async fn our_own_name_or_address_as_best_mx_host_is_5_4_6() {
    let zone = |zone: &mut Zone| {
        zone.mx("a.test", 10, "us.test").mx("a.test", 20, "mx.test").address("mx.test", PUBLIC);
        zone.mx("b.test", 10, "alias.test").address("alias.test", [192, 0, 2, 99]);
        zone.address("us.test", PUBLIC);
    };
    let fixture = fixture(zone, |_| ()).await;

    for domain in ["a.test", "b.test", "us.test", "[192.0.2.99]"] {
        assert_eq!(status(fixture.planner.plan(domain).await), "5.4.6", "{domain}");
    }
}

#[tokio::test]
async fn an_address_that_the_machine_says_is_its_own_counts_as_ours() {
    let zone = |zone: &mut Zone| {
        zone.mx("a.test", 10, "mx.test").address("mx.test", [192, 0, 2, 98]);
    };
    let fixture = fixture(zone, |settings| settings.is_own = |address| address == IpAddr::from([192, 0, 2, 98])).await;

    for domain in ["a.test", "[192.0.2.98]"] {
        assert_eq!(status(fixture.planner.plan(domain).await), "5.4.6", "{domain}");
    }
}

#[tokio::test]
async fn as_a_backup_mx_host_we_send_only_to_better_ones() {
    let zone = |zone: &mut Zone| {
        zone.mx("a.test", 10, "best.test").mx("a.test", 20, "US.test").mx("a.test", 20, "equal.test");
        zone.mx("a.test", 30, "worse.test");
        zone.mx("b.test", 10, "best.test").mx("b.test", 20, "alias.test").mx("b.test", 30, "worse.test");
        zone.address("alias.test", [192, 0, 2, 99]);
        for host in ["best.test", "equal.test", "worse.test"] {
            zone.address(host, PUBLIC);
        }
    };
    let fixture = fixture(zone, |_| ()).await;

    for domain in ["a.test", "b.test"] {
        let plan = found(fixture.planner.plan(domain).await);

        assert_eq!((names(&plan), &*plan.mx_set), (vec!["best.test"], "best.test"), "{domain}");
    }
}

#[tokio::test]
async fn hostile_names_reach_neither_plan_nor_text_nor_metrics() {
    let zone = |zone: &mut Zone| {
        zone.raw_mx("a.test", 10, &[b"evil\r\nRCPT TO:<x>", b"test"]).raw_mx("a.test", 10, &[b"\x1b[2J\0", b"test"]);
        zone.raw_mx("a.test", 10, &[b"\xff\xfe", b"test"]).raw_mx("a.test", 10, &[b"a.b", b"test"]);
        zone.mx("b.test", 20, "mx.test").raw_mx("b.test", 10, &[b"evil\nname", b"test"]).address("mx.test", PUBLIC);
    };
    let fixture = fixture(zone, |_| ()).await;

    let failure = fixture.planner.plan("a.test").await.unwrap_err();
    let plan = found(fixture.planner.plan("b.test").await);

    assert_eq!(failure.status.to_string(), "5.4.4");
    assert!(failure.text.chars().all(|c| (' '..='~').contains(&c)) && !failure.text.contains("evil"));
    assert_eq!((names(&plan), &*plan.site), (vec!["mx.test"], "mx.test"));
    assert!(!fixture.registry.render().contains("evil"));
}

#[tokio::test]
async fn damaged_answers_give_a_plan_or_a_failure_but_never_a_bad_name() {
    const SEEDS: u64 = 300;
    let zone = |zone: &mut Zone| {
        for seed in 0..SEEDS {
            let domain = format!("d{seed}.test");
            zone.mx(&domain, 10, "mx.test").mx(&domain, 20, "other-mx.test").fault(&domain, None, Fault::Damage(seed));
        }
        zone.address("*.test", PUBLIC);
    };
    let fixture = fixture(zone, |_| ()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..SEEDS {
        let planner = fixture.planner.clone();
        tasks.spawn(async move { planner.plan(&format!("d{seed}.test")).await });
    }

    let planned = tasks.join_all().await;

    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ',');
    let plans: Vec<_> = planned.iter().filter_map(|planned| planned.as_ref().ok()).collect();
    assert!(plans.len() > 30 && plans.len() < 290, "{} plans: the damage is too small or too large", plans.len());
    assert!(plans.iter().all(|plan| plan.mx_set.chars().all(is_plain) && !plan.hosts.is_empty()));
}

#[tokio::test]
async fn answers_that_point_into_our_network_are_refused_unless_allowed() {
    let zone = |zone: &mut Zone| {
        zone.mx("a.test", 10, "mx.a.test").address("mx.a.test", [127, 0, 0, 5]);
        zone.address("b.test", [10, 0, 0, 1]).address("c.test", "::1".parse::<IpAddr>().unwrap());
        zone.mx("d.test", 10, "mx.d.test").address("mx.d.test", [169, 254, 169, 254]).address("mx.d.test", PUBLIC);
    };
    let strict = fixture(zone, |_| ()).await;
    let network: Network = "127.0.0.0/8".parse().unwrap();
    let lenient = fixture(zone, |settings| settings.allow_networks = vec![network]).await;

    for domain in ["a.test", "b.test", "c.test", "[127.0.0.1]", "[ipv6:::1]", "localhost"] {
        assert_eq!(status(strict.planner.plan(domain).await), "5.4.4", "{domain}");
    }
    assert_eq!(found(strict.planner.plan("d.test").await).hosts[0].addresses[..], [IpAddr::from(PUBLIC)]);
    for domain in ["a.test", "[127.0.0.1]"] {
        found(lenient.planner.plan(domain).await);
    }
    assert_eq!(status(lenient.planner.plan("b.test").await), "5.4.4");
}

#[tokio::test]
async fn address_literals_are_dialled_directly() {
    let fixture = fixture(|_| (), |settings| settings.port = 2525).await;

    let v4 = found(fixture.planner.plan("[192.0.2.1]").await);
    let v6 = found(fixture.planner.plan("[ipv6:2001:db8::7]").await);

    assert_eq!((v4.hosts[0].addresses[0], v4.port, &*v4.site), (IpAddr::from(PUBLIC), 2525, "[192.0.2.1]"));
    assert_eq!(v6.hosts[0].addresses[0], "2001:db8::7".parse::<IpAddr>().unwrap());
    assert_eq!(fixture.responder.queries(), 0);
}

#[tokio::test]
async fn routes_replace_the_look_up_and_the_most_specific_wins() {
    let route = |pattern: &str, hop: &str| Route { pattern: pattern.into(), next_hop: hop.parse().unwrap() };
    let zone = |zone: &mut Zone| {
        zone.address("relay.test", [10, 0, 0, 1]).mx("else.org", 10, "mx.else.org").address("mx.else.org", PUBLIC);
    };
    let routes = vec![
        route("*.test", "smtp://127.0.0.1:2500"),
        route("named.test", "smtp://relay.test:26"),
        route("sink.test", "discard"),
        route("lost.test", "smtp://nowhere.test"),
    ];
    let fixture = fixture(zone, |settings| settings.routes = routes).await;

    let direct = found(fixture.planner.plan("any.test").await);
    let named = found(fixture.planner.plan("named.test").await);
    let sink = found(fixture.planner.plan("sink.test").await);

    assert_eq!((direct.hosts[0].addresses[0], direct.port), (IpAddr::from([127, 0, 0, 1]), 2500));
    assert_eq!((&*direct.site, &*named.site), ("127.0.0.1:2500", "relay.test:26"));
    assert_eq!(named.hosts[0].addresses[..], [IpAddr::from([10, 0, 0, 1])]);
    assert_eq!((sink.transport, sink.hosts.len()), (Transport::Discard, 0));
    assert_eq!(names(&found(fixture.planner.plan("else.org").await)), ["mx.else.org"]);
    assert_eq!(status(fixture.planner.plan("lost.test").await), "4.4.3", "a wrong route bounces nothing");
}

#[tokio::test]
async fn domains_of_one_provider_share_a_site_but_not_an_mx_set() {
    let zone = |zone: &mut Zone| {
        for domain in ["a", "b"] {
            zone.mx(&format!("{domain}.test"), 10, &format!("{domain}-test.mail.protection.outlook.com"));
        }
        zone.mx("c.test", 10, "mx.c.test").mx("c.test", 20, "aspmx.l.google.com").address("mx.c.test", PUBLIC);
        zone.address("*.mail.protection.outlook.com", PUBLIC).address("aspmx.l.google.com", PUBLIC);
    };
    let fixture = fixture(zone, |_| ()).await;

    let a = found(fixture.planner.plan("a.test").await);
    let b = found(fixture.planner.plan("b.test").await);
    let c = found(fixture.planner.plan("c.test").await);

    assert_eq!((&*a.site, &*b.site), ("microsoft365", "microsoft365"));
    assert_ne!(a.mx_set, b.mx_set);
    assert_eq!(&*c.site, "aspmx.l.google.com,mx.c.test", "only the most preferred host decides");
}

#[tokio::test]
async fn tls_follows_the_domain_pattern() {
    let zone = |zone: &mut Zone| {
        zone.address("a.test", PUBLIC).address("b.a.test", PUBLIC);
    };
    let fixture = fixture(zone, |settings| settings.tls = vec![("*.a.test".into(), TlsPolicy::None.into())]).await;

    assert_eq!(found(fixture.planner.plan("a.test").await).tls, TlsPolicy::Opportunistic);
    assert_eq!(found(fixture.planner.plan("b.a.test").await).tls, TlsPolicy::None);
}

#[tokio::test]
async fn one_family_only_asks_for_one_type() {
    let zone = |zone: &mut Zone| {
        zone.mx("a.test", 10, "mx.test").address("mx.test", PUBLIC);
        zone.address("mx.test", "2001:db8::1".parse::<IpAddr>().unwrap());
    };
    let fixture = fixture(zone, |settings| settings.families = Families::Ipv4).await;

    let plan = found(fixture.planner.plan("a.test").await);

    assert_eq!(plan.hosts[0].addresses[..], [IpAddr::from(PUBLIC)]);
    assert_eq!(fixture.responder.asked("mx.test"), 1);
}

#[tokio::test]
async fn names_beyond_ascii_are_asked_as_a_labels() {
    let zone = |zone: &mut Zone| {
        zone.mx("xn--bcher-kva.test", 10, "mx.test").address("mx.test", PUBLIC).address("xn--mxa.test", PUBLIC);
    };
    let fixture = fixture(zone, |_| ()).await;

    let plan = found(fixture.planner.plan("bücher.test").await);
    let implicit = found(fixture.planner.plan("α.test").await);

    assert_eq!((&*plan.domain, names(&plan)), ("bücher.test", vec!["mx.test"]));
    assert_eq!(names(&implicit), ["xn--mxa.test"]);
}

#[tokio::test]
async fn what_is_no_domain_name_is_5_1_2_without_a_question() {
    let fixture = fixture(|_| (), |_| ()).await;

    for bad in ["", ".", "a..b", "a b.test", "x\r\n.test", "[300.1.1.1]", &"a".repeat(300), &"a.".repeat(200)] {
        assert_eq!(status(fixture.planner.plan(bad).await), "5.1.2", "{bad:?}");
    }
    assert_eq!(fixture.responder.queries(), 0);
}

#[tokio::test]
async fn many_who_ask_at_once_cause_one_look_up() {
    let zone = |zone: &mut Zone| {
        for domain in 0..10 {
            zone.mx(&format!("d{domain}.test"), 10, "mx.test");
        }
        zone.address("mx.test", PUBLIC).fault("mx.test", None, Fault::Delay(Duration::from_millis(30)));
    };
    let fixture = fixture(zone, |_| ()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..200 {
        let planner = fixture.planner.clone();
        tasks.spawn(async move { planner.plan(&format!("d{}.test", number % 10)).await.is_ok() });
    }

    assert!(tasks.join_all().await.into_iter().all(|is_found| is_found));
    assert_eq!((fixture.responder.asked("d3.test"), fixture.responder.asked("mx.test")), (1, 2));
    assert!(fixture.planner.cached("d3.test").is_some());
}

#[tokio::test]
async fn metrics_tell_results_and_the_size_of_the_cache() {
    let zone = |zone: &mut Zone| {
        zone.null_mx("a.test").address("b.test", PUBLIC);
    };
    let fixture = fixture(zone, |_| ()).await;

    for domain in ["a.test", "b.test", "c.test"] {
        let _planned = fixture.planner.plan(domain).await;
    }

    let text = fixture.registry.render();
    for line in [
        "hikyaku_dns_plans_total{result=\"found\"} 1",
        "hikyaku_dns_plans_total{result=\"null-mx\"} 1",
        "hikyaku_dns_plans_total{result=\"no-domain\"} 1",
        "hikyaku_dns_cache_entries 3",
        "hikyaku_dns_lookups_total{result=\"no-name\"} 1",
        "hikyaku_dns_lookup_seconds_count",
    ] {
        assert!(text.contains(line), "{line} in:\n{text}");
    }
}

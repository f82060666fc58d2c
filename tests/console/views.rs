//! `status`, `sites`, `queue show` and `pools`.

use crate::running::{Character, Running};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_delivers_is_well_and_tells_its_rates() {
    let running = Running::start(&[("fine.test", Character::Takes)]).await;
    running.submit(&["a@fine.test", "b@fine.test"]).await;

    let delivered = |answer: &serde_json::Value| answer["outline"]["rates"]["delivered"].as_f64().unwrap() > 0.0;
    let answer = running.until_json(&["status"], delivered).await;
    let (code, screen, _) = running.command(&["status"]).await;

    assert_eq!(code, 0, "{screen}");
    assert!(screen.starts_with("all is well\n"), "{screen}");
    assert!(screen.contains("accepting messages") && screen.lines().count() <= 24, "{screen}");
    assert!(answer["outline"]["rates"]["submitted"].as_f64().unwrap() > 0.0, "{answer}");
    assert!(answer["process"]["memory"].as_u64().unwrap() > 1 << 20, "{answer}");
    assert_eq!(answer["problems"], serde_json::json!([]));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_holds_mail_up_is_named_and_is_no_problem_of_the_daemon() {
    let running = Running::start(&[("busy.test", Character::Busy)]).await;
    running.submit(&["a@busy.test"]).await;

    let (code, screen) = running.until(&["status"], |screen| screen.contains("holding up")).await;

    assert_eq!(code, 0, "{screen}");
    assert!(screen.contains("back-off for") && screen.contains("421 4.7.0 too many connections"), "{screen}");
    for command in [&["sites"][..], &["queue", "sites"]] {
        let (code, sites, _) = running.command(command).await;
        assert!(code == 0 && sites.contains("421 4.7.0 too many connections"), "{sites}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_daemon_ends_status_with_1_and_says_what() {
    let running = Running::start(&[("stalls.test", Character::Stalls)]).await;
    running.submit(&["a@stalls.test"]).await;
    let in_transaction = |text: &str| text.contains("end-of-data");
    running.until(&["queue", "show", "stalls.test"], in_transaction).await;

    let Running { daemon, folder } = running;
    let socket = folder.path().join("admin.sock");
    let stopping = tokio::spawn(daemon.stop(std::time::Duration::from_secs(3)));
    let mut seen = None;
    while !stopping.is_finished() {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_hikyaku"))
            .args(["status", "--socket", socket.to_str().unwrap()])
            .output()
            .await
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        if text.contains("DRAINING") {
            seen = Some((output.status.code(), text));
            break;
        }
    }
    stopping.await.unwrap();

    let (code, text) = seen.expect("status while it drains");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.starts_with("1 PROBLEM\n! draining"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_waits_is_shown_with_its_step_host_and_time() {
    let running = Running::start(&[("stalls.test", Character::Stalls)]).await;
    running.submit(&["a@stalls.test"]).await;

    let waits = |answer: &serde_json::Value| answer["connections"][0]["step"] == "end-of-data";
    let answer = running.until_json(&["queue", "show", "stalls.test"], waits).await;
    let (code, text, _) = running.command(&["queue", "show", "stalls.test"]).await;
    let (_, pools, _) = running.command(&["pools"]).await;
    let (_, pools_json, _) = running.command(&["pools", "--json"]).await;

    let connection = &answer["connections"][0];
    assert_eq!((connection["state"].as_str(), connection["messages"].as_u64()), (Some("transaction"), Some(0)));
    assert!(connection["mx_address"].as_str().unwrap().starts_with("127.0.0.1:"), "{connection}");
    assert_eq!(answer["summary"]["in_flight"], 1, "{answer}");
    let site = answer["limits"].as_array().unwrap().iter().find(|limit| limit["of"] == "site").unwrap();
    assert_eq!((site["what"].as_str(), site["used"].as_u64()), (Some("connections"), Some(1)));
    assert!(code == 0 && text.contains("transaction end-of-data") && text.contains("LIMIT"), "{text}");
    assert!(pools.contains("mta.test") && pools.contains("127.0.0.1"), "{pools}");
    // The source has no limit of its own.
    for text in [&text, &pools, &pools_json, &answer.to_string()] {
        assert!(!text.contains(&u32::MAX.to_string()), "{text}");
    }
    assert!(pools_json.contains("\"most_connections\": null"), "{pools_json}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_of_one_kind_are_counted_together_and_cannot_disturb_the_terminal() {
    let running = Running::start(&[("defers.test", Character::Defers)]).await;
    running.submit(&["a@defers.test"]).await;
    running.submit(&["b@defers.test"]).await;

    let both =
        |answer: &serde_json::Value| answer["replies"][0]["recipients"] == 2 && answer["summary"]["scheduled"] == 2;
    let answer = running.until_json(&["queue", "show", "Defers.Test."], both).await;
    let (code, text, _) = running.command(&["queue", "show", "defers.test"]).await;

    assert_eq!(answer["replies"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!(answer["depth"][0]["scheduled"], 2, "{answer}");
    assert_eq!((answer["depth"][0]["lane"].as_str(), answer["depth"][0]["ready"].as_u64()), (Some("normal"), Some(0)));
    assert!(code == 0 && text.contains("450 4.2.0 *"), "{text}");
    assert!(text.contains("the next retry is due"), "{text}");
    for command in [&["queue", "show", "defers.test"][..], &["sites"], &["status"], &["queue", "list"]] {
        let (_, text, errors) = running.command(command).await;
        assert!(!text.contains('\u{1b}') && !errors.contains('\u{1b}'), "{command:?}: {text}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_back_off_is_told_with_its_end_and_its_cause() {
    let running = Running::start(&[("busy.test", Character::Busy)]).await;
    // Several, so that some are ready while the path pauses.
    for _ in 0..5 {
        running.submit(&["a@busy.test"]).await;
    }

    let is_told = |text: &str| text.contains("the back-off ends") && text.contains("because of greeting at");
    let (code, text) = running.until(&["queue", "show", "busy.test"], is_told).await;

    assert_eq!(code, 0, "{text}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_rate_is_told_with_the_time_when_it_has_room() {
    let slow = |config: &mut hikyaku::config::Config| config.limits.site_rate = Some("1/h".parse().unwrap());
    let running = Running::start_with(&[("fine.test", Character::Takes)], slow).await;
    for _ in 0..4 {
        running.submit(&["a@fine.test"]).await;
    }

    let (_, text) =
        running.until(&["queue", "show", "fine.test"], |text| text.contains("the message rate has room")).await;

    assert!(text.contains("1 messages in 3600 s") && text.contains("1/1h 0m"), "{text}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_site_ends_with_1_and_says_where_to_look() {
    let running = Running::start(&[]).await;

    let (code, text, errors) = running.command(&["queue", "show", "nobody.test"]).await;

    assert!(code == 1 && text.is_empty() && errors.contains("hikyaku sites"), "{errors}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_without_a_plan_is_explained() {
    let no_resolver = |config: &mut hikyaku::config::Config| {
        config.dns.resolvers = vec!["127.0.0.1:9".parse().unwrap()];
        config.dns.attempts = 1;
        config.dns.timeout = hikyaku::config::units::Span(std::time::Duration::from_millis(100));
    };
    let running = Running::start_with(&[], no_resolver).await;
    running.submit(&["a@planless.test"]).await;

    let is_told = |text: &str| text.contains("1 scheduled");
    let (code, text) = running.until(&["queue", "show", "planless.test"], is_told).await;
    let (_, screen, _) = running.command(&["status"]).await;

    assert_eq!(code, 0, "{text}");
    assert!(screen.contains("1 of 1 domains with mail have no plan, such as planless.test"), "{screen}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_read_files_ask_the_daemon_where_they_are() {
    let running = Running::start(&[("fine.test", Character::Takes)]).await;
    running.submit(&["a@fine.test"]).await;

    let found = running.until(&["journal", "search"], |text| text.contains("delivered")).await;
    let (follow, events, errors) = running.command(&["journal", "follow", "--from", "start", "--once"]).await;
    let ended = running.until(&["message", "find", "--domain", "fine.test"], |text| text.contains("delivered")).await;
    let (check, said, check_errors) = running.command(&["spool", "check"]).await;

    assert_eq!((found.0, follow, ended.0), (0, 0, 0), "{errors}");
    assert!(events.contains("delivered"), "{events}");
    assert!(check == 0 && said.contains("sound"), "{said}{check_errors}");
    let missing = running.folder.path().join("missing.toml");
    let (code, _, errors) = running.command(&["spool", "check", "--config", missing.to_str().unwrap()]).await;
    assert!(code == 2 && errors.contains("missing.toml"), "what the command line names comes first: {errors}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_whose_address_is_not_ours_is_a_problem() {
    let running = Running::start_with(&[], |config| {
        let ipv4 = Some(std::net::Ipv4Addr::new(192, 0, 2, 1));
        config.sources =
            vec![hikyaku::config::Source { name: "mta1".into(), ipv4, ipv6: None, ehlo_name: None, connections: None }];
    })
    .await;

    let (code, screen, _) = running.command(&["status"]).await;

    assert_eq!(code, 1, "{screen}");
    assert!(screen.starts_with("1 PROBLEM\n! source mta1: 192.0.2.1 is no address of this machine"), "{screen}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_ended_is_found_by_patterns_and_while_the_daemon_is_down() {
    let running = Running::start(&[("mail.fine.test", Character::Takes)]).await;
    running.submit(&["a@mail.fine.test"]).await;
    let find = ["message", "find", "--sender", "@sender.test", "--domain", "*.fine.test"];
    let (code, found) = running.until(&find, |text| text.contains("delivered")).await;
    assert_eq!(code, 0, "{found}");
    let (_, found, _) = running.command(&["message", "find", "--domain", "*.other.test"]).await;
    assert!(found.contains("nothing in the journal"), "{found}");

    let journal = running.daemon.config().journal.path.clone();
    let Running { daemon, folder } = running;
    daemon.stop(crate::running::GRACE).await;
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_hikyaku"))
        .args(find)
        .args(["--path", journal.to_str().unwrap(), "--socket", folder.path().join("admin.sock").to_str().unwrap()])
        .output()
        .await
        .unwrap();

    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(3), "{text}{errors}");
    assert!(errors.contains("the queue was not asked") && text.contains("a@mail.fine.test"), "{text}{errors}");
    assert!(!text.contains("queued:"), "{text}");
}

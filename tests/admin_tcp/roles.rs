//! Which role may use which endpoint, by the daemon's own list of them: one that is new is in this test at once.

use std::fs;
use std::time::Duration;

use hikyaku::admin::{Endpoint, Role, endpoints};
use hikyaku::config::Certificate;

use crate::stage::{Stage, certify, token};

const DOCUMENT: &str = include_str!("../../docs/admin.md");

/// A path that is asked for.
fn path(endpoint: &Endpoint) -> String {
    endpoint.path.replace("{id}", "1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_endpoint_is_for_its_role_and_those_above_and_for_nobody_without_a_token() {
    let stage = Stage::start().await;
    let all = endpoints();
    assert!(all.len() > 20);

    for endpoint in &all {
        let (method, path) = (endpoint.method.as_str(), path(endpoint));
        let none = stage.ask(None, method, &path, "").await;
        assert_eq!(none.status, 401, "{method} {path}: {none:?}");
        assert!(none.head.to_lowercase().contains("www-authenticate: bearer"), "{none:?}");
        for role in Role::ALL {
            let answer = stage.ask(Some(stage.secret(role)), method, &path, "{}").await;
            let told = format!("{method} {path} as {role}: {answer:?}");
            if role < endpoint.needs {
                assert_eq!(answer.status, 403, "{told}");
                assert!(answer.body["error"].as_str().unwrap().contains(endpoint.needs.as_str()), "{told}");
            } else {
                assert!(![401, 403, 405, 500].contains(&answer.status), "{told}");
                // There is no such order, site or warm-up, which is told by the endpoint itself.
                let is_found = answer.status != 404 || !answer.body.to_string().contains("nothing at");
                assert!(is_found, "{told}");
            }
        }
    }
    stage.stop().await;
}

#[test]
fn what_changes_nothing_is_for_everybody_and_what_changes_something_is_not() {
    for endpoint in endpoints() {
        let is_get = endpoint.method == axum::http::Method::GET;

        assert_eq!(is_get, endpoint.action.is_none(), "{endpoint:?}");
        assert_eq!(is_get, endpoint.needs == Role::Viewer, "{endpoint:?}");
    }
}

#[test]
fn every_endpoint_is_documented_with_its_role_and_the_name_of_its_action() {
    for endpoint in endpoints() {
        let action = endpoint.action.map_or_else(|| "-".to_owned(), |action| format!("`{action}`"));
        let row = format!("| {} `{}` | {} | {action} |", endpoint.method, endpoint.path, endpoint.needs);

        assert!(DOCUMENT.contains(&row), "docs/admin.md lacks: {row}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_tokens_are_refused_and_then_held_and_counted() {
    let stage = Stage::start().await;
    let mut seen = Vec::new();

    for _ in 0..6 {
        seen.push(stage.ask(Some("guess"), "GET", "/v1/status", "").await.status);
    }

    assert_eq!(seen[..3], [401, 401, 401]);
    assert_eq!(seen[5], 429);
    let held = stage.ask(Some(stage.secret(Role::Admin)), "GET", "/v1/status", "").await;
    assert!(held.status == 429 && held.head.to_lowercase().contains("retry-after: "), "{held:?}");
    let metrics = stage.daemon.registry().render();
    assert!(metrics.contains("hikyaku_admin_refusals_total{reason=\"held\"}"), "{metrics}");
    assert!(!metrics.contains("hikyaku_admin_refusals_total{reason=\"wrong\"} 0"), "{metrics}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_from_elsewhere_is_refused_whatever_he_shows() {
    let stage = Stage::start().await;
    let far = token(&stage.tokens(), "far", Role::Admin, &["192.0.2.0/24"]);
    until(async || stage.ask(Some(&far), "GET", "/v1/status", "").await.status == 403).await;

    let elsewhere = Stage::with(|config, _| config.admin.networks = vec!["192.0.2.0/24".parse().unwrap()]).await;
    let answer = elsewhere.ask(Some(elsewhere.secret(Role::Admin)), "GET", "/v1/status", "").await;

    assert_eq!(answer.status, 403);
    elsewhere.stop().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_hashed_on_disk_and_one_that_is_removed_is_refused_without_a_reload() {
    let stage = Stage::start().await;
    let file = stage.tokens();
    let run = async |arguments: &[&str]| {
        let arguments = [&["token"][..], arguments, &["--file", file.to_str().unwrap()]].concat();
        stage.command(Role::Viewer, &arguments).await
    };

    let (code, said) = run(&["add", "deploy", "--role", "operator", "--network", "127.0.0.0/8"]).await;
    assert_eq!(code, 0, "{said}");
    let secret = said.lines().next().unwrap().to_owned();
    let written = fs::read_to_string(&file).unwrap();
    assert!(
        secret.starts_with("hikyaku_") && !written.contains(&secret) && written.contains("deploy operator sha256:")
    );
    let (_, list) = run(&["list"]).await;
    assert!(list.contains("deploy") && list.contains("127.0.0.0/8") && !list.contains("sha256"), "{list}");
    // What the file lacked would be held as a guess.
    tokio::time::sleep(Duration::from_secs(6)).await;
    until(async || stage.ask(Some(&secret), "GET", "/v1/status", "").await.status == 200).await;

    assert_eq!(run(&["remove", "deploy"]).await.0, 0);
    until(async || stage.ask(Some(&secret), "GET", "/v1/status", "").await.status != 200).await;

    let (code, said) = run(&["remove", "deploy"]).await;
    assert!(code == 1 && said.contains("there is no token"), "{said}");
    stage.stop().await;
}

async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("it never was so");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_work_over_tls_by_an_authority_of_their_own() {
    let stage = Stage::under_tls().await;
    let ca = stage.folder.path().join("ca.pem");
    let ca = ca.to_str().unwrap();

    let (code, said) = stage.command(Role::Viewer, &["spool", "stat", "--admin-ca", ca]).await;
    assert_eq!(code, 0, "{said}");
    let (code, said) = stage.command(Role::Viewer, &["status"]).await;
    assert!(code == 3 && said.contains("--admin-ca"), "nobody vouches for it: {said}");
    let clear = stage.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(clear.is_none(), "nothing is answered in clear: {clear:?}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_steer_over_tcp_as_far_as_their_role_goes() {
    let stage = Stage::start().await;
    let suspend = ["queue", "suspend", "--domain", "a.test", "--reason", "a test"];

    let (code, said) = stage.command(Role::Viewer, &suspend).await;
    assert!(code == 1 && said.contains("needs the role operator"), "{said}");
    let (code, said) = stage.command(Role::Operator, &suspend).await;
    assert_eq!(code, 0, "{said}");
    let (code, said) = stage.command(Role::Viewer, &["orders"]).await;
    assert!(code == 0 && said.contains("(token operator)"), "who is named: {said}");
    for arguments in [&["status", "--json"][..], &["sites"], &["pools"], &["queue", "list"], &["limits", "show"]] {
        let (code, said) = stage.command(Role::Viewer, arguments).await;
        assert_eq!(code, 0, "{arguments:?}: {said}");
    }
    let (code, said) = stage.command(Role::Operator, &["reload"]).await;
    assert!(code == 1 && said.contains("not started from a file"), "{said}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_reads_files_says_so_and_wrong_ways_to_ask_are_wrong_usage() {
    let stage = Stage::start().await;

    for arguments in [&["journal", "search"][..], &["spool", "check"]] {
        let (code, said) = stage.command(Role::Admin, arguments).await;
        assert!(code == 2 && said.contains("files of the daemon's machine"), "{arguments:?}: {said}");
    }
    let open = stage.folder.path().join("token");
    fs::write(&open, stage.secret(Role::Viewer)).unwrap();
    for (arguments, part) in [
        (&["status", "--admin", "http://192.0.2.1:8025"][..], "would be seen"),
        (&["status", "--admin", "https://mta.test"], "no port"),
        (&["status", "--admin", "x", "--socket", "/x"], "cannot be used with"),
        (&["status", "--token-file", open.to_str().unwrap()], "chmod 0640"),
    ] {
        let (code, said) = stage.command(Role::Admin, arguments).await;
        assert!(code == 2 && said.contains(part), "{arguments:?}: {said}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_puts_the_interface_under_tls_takes_another_tokens_file_and_ends_it() {
    let mut stage = Stage::start().await;
    let folder = stage.folder.path().to_owned();
    let ca = folder.join("ca.pem");
    certify(&folder);
    let mut config = stage.daemon.config().clone();
    config.certificates = vec![Certificate { chain: folder.join("chain.pem"), key: folder.join("key.pem") }];
    config.admin.tls = true;
    let address = stage.address();

    stage.daemon.reload(config.clone()).await.unwrap();
    assert_eq!(stage.address(), address, "the same socket");
    assert!(stage.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.is_none());
    let (code, said) =
        stage.command_by("https", Role::Viewer, &["spool", "stat", "--admin-ca", ca.to_str().unwrap()]).await;
    assert_eq!(code, 0, "{said}");

    config.admin.tokens = folder.join("none");
    let refused = stage.daemon.reload(config.clone()).await.unwrap_err().to_string();
    assert!(refused.contains("none"), "{refused}");
    config.admin.tokens = folder.join("others");
    let secret = token(&config.admin.tokens, "other", Role::Viewer, &[]);
    config.admin.tls = false;
    stage.daemon.reload(config.clone()).await.unwrap();
    assert_eq!(stage.ask(Some(&secret), "GET", "/healthz", "").await.status, 200);
    assert_eq!(stage.ask(Some(stage.secret(Role::Admin)), "GET", "/healthz", "").await.status, 401);

    config.admin.listen = Vec::new();
    stage.daemon.reload(config).await.unwrap();
    until(async || tokio::net::TcpStream::connect(address).await.is_err()).await;
    assert_eq!(stage.daemon.admin_addresses(), []);
    stage.stop().await;
}

//! `bench`: all three parts, and each alone.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use hikyaku::config::Route;
use rustix::process::{Pid, Signal, kill_process};

use crate::running::Running;

fn hikyaku() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
    command.arg("bench").stdin(Stdio::null());
    command
}

fn json(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn a_bench_of_its_own_loses_nothing_and_tells_cpu_and_latency() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--messages", "300", "--sessions", "10", "--domains", "5", "--size", "3KB", "--json", "--dir"];

    let output = hikyaku().args(arguments).arg(folder.path()).output().unwrap();

    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    let count = |name: &str| report[name].as_u64().unwrap();
    assert_eq!((count("messages"), count("lost"), count("duplicated"), count("altered")), (300, 0, 0, 0));
    assert!(report["cpu_us_per_message"].as_f64().is_some() && report["delivery_ms"]["p99"].as_f64().unwrap() > 0.0);
    assert!(report["end_of_data_ms"]["p50"].as_f64().unwrap() > 0.0, "{report}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the folder is removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_and_a_sink_work_with_a_daemon_that_runs_already() {
    let mut sink = hikyaku()
        .args(["sink", "--listen", "127.0.0.1:0", "--messages", "50", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(sink.stderr.take().unwrap());
    let mut first = String::new();
    said.read_line(&mut first).unwrap();
    let at = first.split_whitespace().nth(3).unwrap().trim_end_matches(';').to_owned();
    let route = Route { domain: "*.bench.test".to_owned(), next_hop: format!("smtp://{at}") };
    let running = Running::start_with(&[], |config| config.routes.push(route)).await;
    let to = running.daemon.submission_addresses()[0].to_string();

    let arguments = ["send", "--to", &to, "--messages", "50", "--sessions", "5", "--domains", "3", "--json"];
    let output = tokio::process::Command::from({
        let mut send = hikyaku();
        send.args(arguments);
        send
    })
    .output()
    .await
    .unwrap();
    let counted = tokio::task::spawn_blocking(move || sink.wait_with_output().unwrap()).await.unwrap();

    assert_eq!((output.status.code(), json(&output)["messages"].as_u64()), (Some(0), Some(50)));
    assert_eq!((counted.status.code(), json(&counted)["messages"].as_u64()), (Some(0), Some(50)));
    running.stop().await;
}

#[test]
fn a_sink_ends_in_order_at_a_signal_and_tells_its_count() {
    let mut sink = hikyaku()
        .args(["sink", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(sink.stderr.take().unwrap());
    said.read_line(&mut String::new()).unwrap();

    kill_process(Pid::from_child(&sink), Signal::INT).unwrap();

    let output = sink.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("0 messages"));
}

#[test]
fn wrong_targets_end_with_2_and_say_what_is_wanted() {
    for (arguments, told) in [
        (&["send", "--to", "nowhere", "--messages", "1"][..], "HOST:PORT"),
        (&["--to", "127.0.0.1:1"], "--sink"),
        (&["--size", "0"], "--size"),
        (&["sink", "--listen", "192.0.2.1:9"], "cannot listen"),
    ] {
        let output = hikyaku().args(arguments).output().unwrap();

        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && errors.contains(told), "{arguments:?}: {errors}");
    }
}

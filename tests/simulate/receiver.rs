//! Profiles: what is read, and how a wrong one is refused.

use std::path::Path;

use hikyaku::simulate::{Profile, Window};

const GOOD: &str = "name = \"a\"\nduration = \"4h\"\noptimum = 72000\n[receiver]\nrate_per_minute = 300\n";

fn refused(text: &str) -> String {
    Profile::parse(text, Path::new("a.toml")).unwrap_err().to_string()
}

#[test]
fn what_is_left_out_is_no_limit() {
    let profile = Profile::parse(GOOD, Path::new("a.toml")).unwrap();

    assert_eq!((profile.receiver.connections, profile.receiver.window), (0, Window::Sliding));
    assert!(profile.receiver.close_on_throttle && profile.receiver.penalty.is_none());
}

#[test]
fn the_published_example_is_read() {
    let text = "name = \"300 a minute, three connections\"\nduration = \"4h\"\noptimum = 72000\ndemand_per_minute = 0\n\
                [receiver]\nrate_per_minute = 300\nwindow = \"sliding\"\nburst = 0\nconnections = 3\n\
                messages_per_connection = 20\nhourly_cap = 0\nservice_time = \"150ms\"\nsetup_time = \"250ms\"\nworkers = 0\n\
                backlog = 0\ndead_hosts = 0.0\nnoise = 0.0\nnoise_class = \"mailbox\"\ngreylist = \"0s\"\nopaque = false\n\
                close_on_throttle = true\nsteps = [[\"90m\", 600], [\"3h\", 200]]\n[receiver.penalty]\ntries = 30\n\
                window = \"5m\"\nblock = \"30m\"\nextend = true\n";

    let profile = Profile::parse(text, Path::new("a.toml")).unwrap();

    assert_eq!(profile.receiver.steps.len(), 2);
    assert_eq!(profile.receiver.penalty.unwrap().tries, 30);
}

#[test]
fn a_wrong_value_is_told_with_file_key_and_allowed_range() {
    for (from, to, key, range) in [
        ("300", "-1", "receiver.rate_per_minute", "allowed: 0 to 60000000"),
        ("300", "300\nnoise = 1.5", "receiver.noise", "allowed: 0 to 1"),
        ("300", "300\nnoise = nan", "receiver.noise", "allowed: 0 to 1"),
        ("300", "300\nservice_time = \"0s\"", "receiver.service_time", "allowed: 1ms to 1h"),
        ("300", "300\nsteps = [[\"3h\", 1], [\"1h\", 1]]", "receiver.steps[1]", "allowed: 3h to 7d"),
        ("300", "300\n[receiver.penalty]\ntries = 3\nwindow = \"2d\"", "receiver.penalty.window", "allowed: 1s to 1d"),
        ("72000", "0", "optimum", "allowed: 1 to 1000000000"),
        ("\"4h\"", "\"1s\"", "duration", "allowed: 1m to 7d"),
        ("\"a\"", "\"\"", "name", "allowed: 1 to 200 octets"),
    ] {
        let said = refused(&GOOD.replace(from, to));

        assert!(said.contains(&format!("a.toml: {key}: ")) && said.contains(range), "{said}");
    }
}

#[test]
fn a_value_of_another_kind_and_an_unknown_key_are_told_too() {
    for (from, to, words) in [
        ("300", "\"many\"", vec!["a.toml", "rate_per_minute", "allowed: 0 to 60000000"]),
        ("300", "300\nconnections = -1", vec!["a.toml", "connections", "allowed: 0 to 1000000"]),
        ("300", "300\nsetup_time = 5", vec!["a.toml", "setup_time", "allowed: 0s to 1h"]),
        ("300", "300\nwindow = \"daily\"", vec!["a.toml", "window", "fixed", "sliding", "bucket"]),
        ("300", "300\nconection = 1", vec!["a.toml", "conection", "line 6"]),
        ("optimum = 72000\n", "", vec!["a.toml", "optimum"]),
    ] {
        let said = refused(&GOOD.replace(from, to));

        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}

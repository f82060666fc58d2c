//! `check`: DNS names of egress addresses, files, JSON.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use hikyaku::demo::responder::{Fault, Responder, Zone};

/// Runs the check on a configuration with two sources, the resolver being at `resolver`.
async fn check(folder: &Path, resolver: SocketAddr, options: &[&str]) -> (i32, serde_json::Value) {
    let place = folder.display();
    let config = format!(
        "hostname = \"mta.test\"\n[spool]\npath = \"{place}/spool\"\nreserve = \"1MiB\"\nsegment_size = \"1MiB\"\n\
         [journal]\npath = \"{place}/journal\"\nmax_size = \"1MiB\"\n\
         [admin]\nsocket = \"{place}/admin.sock\"\n\
         [dns]\nresolvers = [\"{resolver}\"]\nattempts = 1\ntimeout = \"1s\"\n\
         [[source]]\nname = \"a\"\nipv4 = \"192.0.2.11\"\nehlo_name = \"Out.mta.test\"\n\
         [[source]]\nname = \"b\"\nipv4 = \"192.0.2.12\"\n"
    );
    let file = folder.join("config.toml");
    std::fs::write(&file, config).unwrap();
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_hikyaku"))
        .args(["check", "--json", "--config"])
        .arg(&file)
        .args(options)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let found = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{errors}"));
    (output.status.code().unwrap(), found)
}

fn texts(found: &serde_json::Value, kind: &str) -> Vec<String> {
    let texts = found[kind].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned());
    // How many descriptors a test may open, that these addresses are nobody's (RFC 5737), and who runs it is not asked here.
    let others = ["descriptors", "no address of this machine", "stays root"];
    texts.filter(|text| !others.iter().any(|other| text.contains(other))).collect()
}

async fn responder(zone: Zone) -> Responder {
    Responder::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), zone).await.unwrap()
}

const A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 12);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_agree_with_their_names_are_not_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let mut zone = Zone::new();
    zone.ptr(A.into(), "out.mta.test").address("out.mta.test", A);
    zone.ptr(B.into(), "MTA.test").address("mta.test", B);
    let responder = responder(zone).await;

    let (code, found) = check(folder.path(), responder.address(), &[]).await;

    assert_eq!((code, texts(&found, "warnings"), texts(&found, "notes")), (0, vec![], vec![]), "{found}");
    assert!(responder.asked("11.2.0.192.in-addr.arpa") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_without_a_name_or_with_another_are_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let mut zone = Zone::new();
    zone.ptr(B.into(), "other.test");
    let responder = responder(zone.clone()).await;

    let (code, found) = check(folder.path(), responder.address(), &[]).await;

    let warnings = texts(&found, "warnings");
    assert!(code == 0 && warnings.len() == 2, "{found}");
    assert!(warnings[0].starts_with("source[0].ipv4: 192.0.2.11 has no PTR record"), "{found}");
    assert!(
        warnings[1].contains("192.0.2.12 is called other.test") && warnings[1].contains("says mta.test"),
        "{found}"
    );

    responder.change(|zone| {
        zone.remove("12.2.0.192.in-addr.arpa");
        zone.ptr(A.into(), "out.mta.test").ptr(B.into(), "mta.test");
    });
    let (_, found) = check(folder.path(), responder.address(), &[]).await;
    let warnings = texts(&found, "warnings");
    assert!(warnings.len() == 2 && warnings[0].contains("does not lead back to 192.0.2.11"), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resolver_that_does_not_answer_is_noted_and_offline_does_not_ask() {
    let folder = tempfile::tempdir().unwrap();
    let mut zone = Zone::new();
    zone.fault("*.in-addr.arpa", None, Fault::Silent);
    let responder = responder(zone).await;

    let (code, found) = check(folder.path(), responder.address(), &["--offline"]).await;
    assert_eq!((code, texts(&found, "notes"), responder.queries()), (0, vec![], 0), "{found}");

    let (code, found) = check(folder.path(), responder.address(), &[]).await;
    let notes = texts(&found, "notes");
    assert!(code == 0 && !notes.is_empty() && texts(&found, "warnings").is_empty(), "{found}");
    assert!(notes.iter().all(|note| note.contains("not looked at")), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_egress_address_of_another_machine_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();

    let (code, found) = check(folder.path(), SocketAddr::from((Ipv4Addr::LOCALHOST, 9)), &["--offline"]).await;

    let warnings: Vec<&str> = found["warnings"].as_array().unwrap().iter().filter_map(|text| text.as_str()).collect();
    for (number, address) in [(0, A), (1, B)] {
        let expected = format!("source[{number}].ipv4: {address} is no address of this machine");
        assert!(warnings.iter().any(|warning| warning.starts_with(&expected)), "{expected}: {found}");
    }
    assert_eq!(code, 0, "it is a warning");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_run_refuses_check_refuses() {
    // Only root's daemon can become another user.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display();
    let mode = |path: &str, mode| {
        let path = folder.path().join(path);
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    // As of /tmp: nobody can take away what is not theirs.
    mode("", 0o1777);
    std::fs::create_dir(folder.path().join("run")).unwrap();
    mode("run", 0o700);
    let config = |socket: &str| {
        format!(
            "user = \"nobody\"\n[spool]\npath = \"{place}/spool\"\nreserve = \"1MiB\"\n[journal]\nenabled = false\n\
             [admin]\nsocket = \"{place}/{socket}\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n[metrics]\nenabled = false\n"
        )
    };
    let file = folder.path().join("config.toml");
    for (socket, said) in [("run/admin.sock", "cannot use"), ("run/deeper/admin.sock", "cannot make")] {
        std::fs::write(&file, config(socket)).unwrap();
        mode("config.toml", 0o644);
        for command in [&["run"][..], &["check", "--offline"]] {
            let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_hikyaku"))
                .args(command)
                .arg("--config")
                .arg(&file)
                .output()
                .await
                .unwrap();

            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{command:?}: {errors}");
            assert!(errors.contains("admin.socket") && errors.contains(said), "{command:?}: {errors}");
        }
    }
}

//! Lists that break off, and what goes on beside one that is on its way.

use std::time::{Duration, Instant};

use hikyaku::admin::Role::{Admin, Operator};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::stage::Stage;
use crate::{json, ok, standing};

/// An import that is written chunk by chunk (RFC 9112, 7.1).
struct Import(BufReader<TcpStream>);

impl Import {
    async fn begin(stage: &Stage) -> Self {
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        let head = format!(
            "POST /v1/suppression/import HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\r\n",
            stage.secret(Admin)
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut import = Self(BufReader::new(stream));
        // The head comes before any line was sent: whoever is refused need not send any.
        assert!(import.line().await.starts_with("HTTP/1.1 200 "));
        while import.line().await != "\r\n" {}
        import
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = tokio::time::timeout(Duration::from_secs(60), self.0.read_line(&mut line));
        read.await.expect("a line in time").unwrap();
        line
    }

    async fn send(&mut self, lines: &str) {
        let chunk = format!("{:x}\r\n{lines}\r\n", lines.len());
        self.0.write_all(chunk.as_bytes()).await.unwrap();
    }

    /// What the answer tells next; `None`: it broke off.
    async fn told(&mut self) -> Option<Value> {
        loop {
            let line = self.line().await;
            if line.is_empty() {
                return None;
            }
            if line.starts_with('{') {
                return Some(serde_json::from_str(&line).unwrap());
            }
        }
    }
}

fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|number| format!("user{number}@example.com\n")).collect()
}

/// What the audit log has of the one import, when it has it.
async fn recorded(stage: &Stage) -> Value {
    let begun = Instant::now();
    let folder = stage.audit();
    loop {
        let list = ["audit", "list", "--action", "suppression.import", "--json", "--path", folder.to_str().unwrap()];
        let (_, said) = stage.command(Admin, &list).await;
        let records = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        if let Some(done) = records.into_iter().find(|record| record["kind"] == "done") {
            return done;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "no outcome: {said}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_broke_off_keeps_whole_lines_and_is_done_again() {
    let stage = Stage::start().await;
    let mut import = Import::begin(&stage).await;
    import.send(&lines(0..40_000)).await;
    let progress = import.told().await.unwrap();
    assert_eq!(progress["progress"]["added"], 32_768, "{progress}");

    import.send("user40000@exam").await;
    drop(import);

    let done = recorded(&stage).await;
    assert!(done["outcome"].as_str().unwrap().starts_with("cannot read on after line 40000"), "{done}");
    assert_eq!((&done["after"]["lines"], &done["after"]["added"]), (&40_000.into(), &40_000.into()), "{done}");
    assert_eq!(standing(&stage), 40_000);
    let stage = stage.restart().await;
    assert_eq!(standing(&stage), 40_000);

    let list = stage.folder.path().join("list");
    std::fs::write(&list, lines(0..50_000)).unwrap();
    let counts = json(&stage, &["suppress", "import", list.to_str().unwrap()]).await;
    assert_eq!((&counts["done"]["stood"], &counts["done"]["added"]), (&40_000.into(), &10_000.into()), "{counts}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_else_is_answered_while_lists_come_and_go() {
    let stage = Stage::start().await;
    let mut imports = Vec::new();
    for number in 0..8 {
        let mut import = Import::begin(&stage).await;
        import.send(&lines(number * 1_000..number * 1_000 + 900)).await;
        imports.push(import);
    }

    assert!(ok(&stage, Operator, &["status"]).await.contains("all is well"));
    ok(&stage, Operator, &["suppress", "add", "beside@example.com"]).await;
    assert_eq!(ok(&stage, Admin, &["suppress", "export"]).await.lines().count(), 1, "what comes is not stored yet");

    for import in &mut imports {
        import.0.write_all(b"0\r\n\r\n").await.unwrap();
        let mut last = import.told().await.unwrap();
        while last.get("progress").is_some() {
            last = import.told().await.unwrap();
        }
        assert_eq!(last["done"]["added"], 900, "{last}");
    }
    assert_eq!(standing(&stage), 8 * 900 + 1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_an_import_and_loses_no_line_that_was_told() {
    let stage = Stage::start().await;
    let mut import = Import::begin(&stage).await;
    import.send(&lines(0..32_768)).await;
    assert_eq!(import.told().await.unwrap()["progress"]["added"], 32_768);
    import.send(&lines(32_768..32_800)).await;

    let restarted = stage.restart();
    let (stage, told) = tokio::join!(restarted, import.told());

    // It says so, or is cut off: a stop does not wait for it.
    if let Some(told) = told {
        assert!(
            told.get("progress").is_some() || told["failed"]["error"].to_string().contains("being stopped"),
            "{told}"
        );
    }
    assert!(standing(&stage) >= 32_768, "{}", standing(&stage));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_nobody_reads_any_more_ends() {
    let stage = Stage::start().await;
    let list = stage.folder.path().join("list");
    std::fs::write(&list, lines(0..200_000)).unwrap();
    ok(&stage, Admin, &["suppress", "import", list.to_str().unwrap()]).await;
    let mut stream = TcpStream::connect(stage.address()).await.unwrap();
    let head = format!(
        "POST /v1/suppression/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 2\r\n\r\n{{}}",
        stage.secret(Admin)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut some = [0; 4_096];
    stream.read_exact(&mut some).await.unwrap();
    assert!(some.starts_with(b"HTTP/1.1 200 "));

    drop(stream);

    let begun = Instant::now();
    let folder = stage.audit();
    let list = ["audit", "list", "--action", "suppression.export", "--path", folder.to_str().unwrap()];
    loop {
        let (_, said) = stage.command(Admin, &list).await;
        if said.contains("the client went away") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{said}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_cannot_be_written_is_told_with_what_was_stored() {
    let stage = Stage::start().await;
    ok(&stage, Operator, &["suppress", "add", "first@example.com"]).await;
    let stage = stage.restart().await;
    // The next segment cannot be made.
    let folder = stage.folder.path().join("spool/state/suppression");
    let aside = folder.with_file_name("aside");
    std::fs::rename(&folder, &aside).unwrap();
    let list = stage.folder.path().join("list");
    std::fs::write(&list, "a@example.com\n").unwrap();

    let (code, said) = stage.command(Admin, &["suppress", "import", list.to_str().unwrap()]).await;
    assert!(
        code == 1 && said.contains("cannot store entries after line 0") && said.contains("stored: 0 lines"),
        "{said}"
    );
    let (code, said) = stage.command(Operator, &["suppress", "add", "a@example.com"]).await;
    assert!(code == 1 && said.contains("cannot be written") && said.contains("see to the spool's disk"), "{said}");
    let metrics = stage.daemon.registry().render();
    assert!(metrics.contains("hikyaku_suppression_errors_total{operation=\"change\"} 2\n"), "{metrics}");

    std::fs::rename(&aside, &folder).unwrap();
    ok(&stage, Operator, &["suppress", "add", "a@example.com"]).await;
    assert_eq!(standing(&stage), 2);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_to_the_end_of_the_list_is_told_from_a_write_that_was_cut_off_once_the_daemon_was_stopped() {
    let stage = Stage::start().await;
    ok(&stage, Operator, &["suppress", "add", "first@example.com"]).await;
    ok(&stage, Operator, &["suppress", "add", "last@example.com"]).await;
    let spool = stage.folder.path().join("spool");
    let segment = spool.join("state/suppression/0000000000000001.log");
    // Nothing is written to it any more.
    let stage = stage.restart().await;
    let mut octets = std::fs::read(&segment).unwrap();
    let at = octets.windows(16).position(|part| part == b"last@example.com").unwrap();
    octets[at] ^= 1;
    std::fs::write(&segment, octets).unwrap();

    let stage = stage.restart().await;

    assert_eq!(standing(&stage), 1);
    let copies = std::fs::read_dir(spool.join("quarantine")).unwrap().map(|entry| entry.unwrap().file_name());
    let copies: Vec<_> = copies.filter(|name| name.to_string_lossy().starts_with("suppression-")).collect();
    assert_eq!(copies.len(), 1, "{copies:?}");
    assert_eq!(std::fs::read_dir(spool.join("quarantine/tail")).unwrap().count(), 0);
    stage.stop().await;
}

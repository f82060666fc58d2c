//! Whole lists, in and out. 200,000 lines in the normal run; HIKYAKU_FULL=1 has the ten million of docs/suppression.md.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::Stdio;

use hikyaku::admin::Role::{Admin, Operator};
use serde_json::json;

use crate::stage::Stage;
use crate::{json as command, meets, ok, standing};

/// One of so many lines, of every kind.
fn line(number: u64) -> String {
    let (reason, end) = (["", "hard-bounce", "complaint", "unsubscribe"][number as usize % 4], "\n");
    match number % 6 {
        0 => format!("user{number}@d{}.example{end}", number % 977),
        1 => format!("user{number}@d{}.example\t{reason}\tnever\tshop{end}", number % 977),
        2 => format!("\"user {number}\"@example.com\t{reason}\t4102444800\tshop\tnews\t1790000000\t<{number}@x>{end}"),
        3 => format!("@d{number}.example\t{reason}{end}"),
        4 => format!("\u{fc}ser{number}@b\u{fc}cher.example\t\t\t\t\t\tlist \u{e4}{end}"),
        _ => format!("user{number}@example.org\t{reason}\tnever\ttenant{}{end}", number % 31),
    }
}

fn write(path: &Path, lines: u64) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    (0..lines).for_each(|number| file.write_all(line(number).as_bytes()).unwrap());
    file.flush().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_lines_are_told_by_their_numbers_and_the_others_are_stored() {
    let stage = Stage::start().await;
    let list = stage.folder.path().join("list");
    let lines = "\u{feff}ann@example.com\r\n\n# a remark\n\"bob@example.com\"\nnobody\u{7f}\neve@x.test\tbecause\n\
                 old@x.test\t\t60\nx@y.test\t\t\t\tnews\nlast@example.com";
    fs::write(&list, lines).unwrap();
    let list = list.to_str().unwrap();
    let told = ["line 5: neither a mailbox nor a domain", "line 6: the reason is none of", "line 8: a class is one of"];
    let is_told = |said: &str| told.iter().all(|part| said.contains(part)) && said.matches("line ").count() == 3;

    let (code, said) = stage.command(Admin, &["suppress", "import", list, "--dry-run"]).await;
    assert!(code == 1 && is_told(&said), "{said}");
    assert!(said.contains("nothing was stored. 9 lines: 3 added, 1 are over, 2 empty or remarks, 3 bad"), "{said}");
    assert_eq!(standing(&stage), 0);

    let (code, said) = stage.command(Admin, &["suppress", "import", list, "--reason", "hard-bounce"]).await;
    assert!(code == 1 && is_told(&said), "{said}");
    assert!(said.contains("\n9 lines: 3 added,") || said.starts_with("9 lines: 3 added,"), "{said}");
    assert_eq!(meets(&stage, ("", ""), "bob@example.com").as_deref(), Some("hard-bounce"));
    assert_eq!(meets(&stage, ("", ""), "last@example.com").as_deref(), Some("hard-bounce"));

    let (code, said) = stage.command(Admin, &["suppress", "import", list, "--tenant", "shop", "--json"]).await;
    let counts = &said[said.find('{').unwrap()..=said.rfind('}').unwrap()];
    let counts: serde_json::Value = serde_json::from_str(counts).unwrap();
    // The class has its tenant now.
    assert_eq!((code, &counts["done"]["added"], &counts["done"]["bad"]), (1, &json!(4), &json!(2)), "{said}");
    assert_eq!(meets(&stage, ("shop", "news"), "x@y.test").as_deref(), Some("import"));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_input_and_output_will_do_and_an_export_can_be_narrowed() {
    let stage = Stage::under_tls().await;
    let ca = stage.folder.path().join("ca.pem");
    let mut import = tokio::process::Command::new(env!("CARGO_BIN_EXE_hikyaku"))
        .args(["suppress", "import", "-", "--admin", &format!("https://{}", stage.address()), "--admin-ca"])
        .arg(&ca)
        .env("HIKYAKU_TOKEN", stage.secret(Admin))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = import.stdin.take().unwrap();
    for part in ["a@x.te", "st\n@y.test\tcomplaint\n", "b@y.test\t\t\tshop"] {
        tokio::io::AsyncWriteExt::write_all(&mut input, part.as_bytes()).await.unwrap();
    }
    drop(input);
    let said = import.wait_with_output().await.unwrap();
    assert_eq!((said.status.code(), &*said.stdout, &*said.stderr), (Some(0), &b"3 lines: 3 added\n"[..], &b""[..]));

    let export = async |arguments: &[&str]| {
        let arguments = [&["suppress", "export", "--admin-ca", ca.to_str().unwrap()], arguments].concat();
        let targets = ok(&stage, Admin, &arguments).await;
        targets.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(export(&[]).await, ["a@x.test", "@y.test", "b@y.test"]);
    assert_eq!(export(&["--domain", "y.test"]).await, ["@y.test", "b@y.test"]);
    assert_eq!(export(&["-", "--reason", "complaint"]).await, ["@y.test"]);
    assert_eq!(export(&["--tenant", "shop"]).await, ["b@y.test"]);
    stage.stop().await;
}

/// A list that is imported, exported, imported by another daemon and exported by that; how it ends.
async fn round_trip(lines: u64) {
    let (first, other) = (Stage::start().await, Stage::start().await);
    let [list, one, two] = ["list", "one", "two"].map(|name| first.folder.path().join(name));
    write(&list, lines);
    let [list, one, two] = [&list, &one, &two].map(|path| path.to_str().unwrap());

    let counts = command(&first, &["suppress", "import", list, "--source", "the old system"]).await;
    assert_eq!((&counts["done"]["lines"], &counts["done"]["added"]), (&json!(lines), &json!(lines)), "{counts}");
    ok(&first, Admin, &["suppress", "export", one]).await;
    let first = first.restart().await;
    assert_eq!(standing(&first), lines);
    let counts = command(&other, &["suppress", "import", one]).await;
    assert_eq!(counts["done"]["added"], lines, "{counts}");
    ok(&other, Admin, &["suppress", "export", two]).await;
    let again = command(&other, &["suppress", "import", list]).await;
    assert_eq!((&again["done"]["added"], &again["done"]["stood"]), (&json!(0), &json!(lines)), "{again}");

    // In the order of their coming, with everything that each says.
    let (one, two) = (BufReader::new(File::open(one).unwrap()), BufReader::new(File::open(two).unwrap()));
    let mut count = 0;
    for (one, two) in one.lines().zip(two.lines()) {
        assert_eq!(one.unwrap(), two.unwrap(), "line {count}");
        count += 1;
    }
    assert_eq!(count, lines);
    first.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_exported_is_imported_again_as_it_was() {
    let lines = if std::env::var_os("HIKYAKU_FULL").is_some() { 10_000_000 } else { 200_000 };

    round_trip(lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_has_what_stands_and_nothing_else() {
    let stage = Stage::start().await;
    let [list, out] = ["list", "out"].map(|name| stage.folder.path().join(name));
    write(&list, 3_000);
    fs::write(&out, "what was there before").unwrap();
    ok(&stage, Admin, &["suppress", "import", list.to_str().unwrap()]).await;
    let gone: Vec<String> =
        (0..500).map(|number| format!("user{}@d{}.example", number * 6, number * 6 % 977)).collect();
    let arguments: Vec<&str> = ["suppress", "remove"].into_iter().chain(gone.iter().map(String::as_str)).collect();
    ok(&stage, Operator, &arguments).await;

    let said = ok(&stage, Admin, &["suppress", "export", out.to_str().unwrap()]).await;

    assert_eq!(said, "2,500 entries\n");
    let lines = fs::read_to_string(&out).unwrap();
    let targets: BTreeSet<&str> = lines.lines().map(|line| line.split('\t').next().unwrap()).collect();
    assert!(targets.len() == 2_500 && gone.iter().all(|target| !targets.contains(target.as_str())));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&out).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    stage.stop().await;
}

//! AUTH with clients that others have written: swaks, Python's smtplib with a SCRAM client beside it, nodemailer and
//! `openssl s_client`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hikyaku::config::Config;
use hikyaku::daemon::Daemon;

use crate::packages::run;
use crate::skip::skip;

const NODE: &str = r#"
const nodemailer = require('nodemailer');
const [host, starttls, implicit, ca] = process.argv.slice(1);
const tls = { ca: require('fs').readFileSync(ca), servername: 'mx.test' };
const send = async (port, secure, method, pass) => {
  const transport = nodemailer.createTransport({ host, port: Number(port), secure, requireTLS: !secure, tls, authMethod: method,
    auth: { user: 'ann', pass } });
  const mail = { from: 'node@shop.test', to: 'b@other.test', subject: method, text: 'body' };
  return transport.sendMail(mail).then(told => told.response.slice(0, 3), error => error.responseCode);
};
(async () => {
  for (const method of ['PLAIN', 'LOGIN'])
    for (const [port, secure] of [[starttls, false], [implicit, true]])
      console.log(method, await send(port, secure, method, 'wrong'), await send(port, secure, method, 'right horse'));
})();
"#;

fn prepare(folder: &Path) -> Result<(), String> {
    run(Command::new("python3").args(["-c", "import smtplib"]))?;
    run(Command::new("swaks").arg("--version"))?;
    let made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=mx.test", "-addext"];
    let names = "subjectAltName=DNS:mx.test,IP:127.0.0.1";
    run(Command::new("openssl")
        .args(made)
        .args([names, "-keyout", "key.pem", "-out", "chain.pem"])
        .current_dir(folder))?;
    let quiet = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error", "nodemailer"];
    run(Command::new("npm").args(quiet).current_dir(folder)).map(drop)
}

fn user(folder: &Path) {
    let mut add = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
    let who = ["user", "add", "ann", "--tenant", "shop", "--sender", "*@shop.test", "--scram", "--password-stdin"];
    let mut child = add.args(who).arg("--file").arg(folder.join("users.toml")).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"right horse\n").unwrap();
    assert!(child.wait().unwrap().success());
}

fn config(folder: &Path) -> Config {
    let at = folder.display();
    let listener = |more: &str| {
        format!("[[listener]]\naddress = \"127.0.0.1:0\"\nnetworks = [\"192.0.2.0/24\"]\nauth = true\n{more}\n")
    };
    let text = format!(
        "hostname = \"mx.test\"\n[spool]\npath = \"{at}/spool\"\nreserve = \"1MiB\"\n[journal]\npath = \"{at}/journal\"\n\
         [admin]\nsocket = \"{at}/admin.sock\"\n[metrics]\naddress = \"127.0.0.1:0\"\n[dns]\nresolvers = [\"127.0.0.1:9\"]\n\
         [users]\nfile = \"{at}/users.toml\"\n[[certificate]]\nchain = \"{at}/chain.pem\"\nkey = \"{at}/key.pem\"\n{}{}{}",
        listener("tls = \"starttls\""),
        listener("tls = \"implicit\""),
        listener("auth_without_tls = true"),
    );
    Config::parse(&text, Path::new("x.toml")).unwrap()
}

fn python(folder: &Path, [starttls, implicit, _]: [SocketAddr; 3]) {
    let ports = [starttls.port().to_string(), implicit.port().to_string()];
    let mut command = Command::new("python3");
    command.args(["-c", include_str!("auth_client.py"), "127.0.0.1"]).args(ports).arg(folder.join("chain.pem"));
    let told = run(&mut command).unwrap();
    let lines: Vec<&str> = told.lines().collect();

    assert_eq!(lines.len(), 8, "{told}");
    assert!(lines.iter().all(|line| line.ends_with(" 535 235")), "{told}");
}

fn nodemailer(folder: &Path, [starttls, implicit, _]: [SocketAddr; 3]) {
    let ports = [starttls.port().to_string(), implicit.port().to_string()];
    let mut command = Command::new("node");
    command.args(["-e", NODE, "127.0.0.1"]).args(ports).arg("chain.pem").current_dir(folder);
    let told = run(&mut command).unwrap();

    assert_eq!(told.lines().filter(|line| line.ends_with(" 535 250")).count(), 4, "{told}");
}

fn swaks([_, _, clear]: [SocketAddr; 3]) {
    let send = |mechanism: &str, password: &str| {
        let mut command = Command::new("swaks");
        command.args(["--server", &clear.to_string(), "--ehlo", "swaks.test", "--from", "swaks@shop.test"]);
        command.args(["--to", "b@other.test", "--auth", mechanism, "--auth-user", "ann", "--auth-password", password]);
        run(&mut command)
    };
    for mechanism in ["PLAIN", "LOGIN"] {
        let (right, wrong) = (send(mechanism, "right horse"), send(mechanism, "wrong"));

        assert!(right.as_ref().is_ok_and(|told| told.contains("235 2.7.0")), "{right:?}");
        assert!(wrong.is_err(), "{wrong:?}");
    }
}

fn openssl(folder: &Path, [starttls, ..]: [SocketAddr; 3]) {
    let mut command = Command::new("openssl");
    command.args([
        "s_client",
        "-quiet",
        "-crlf",
        "-starttls",
        "smtp",
        "-servername",
        "mx.test",
        "-verify_return_error",
    ]);
    command.args(["-CAfile", "chain.pem", "-connect", &starttls.to_string()]).current_dir(folder);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // NUL ann NUL right horse.
    let said = "EHLO client.test\nAUTH PLAIN AGFubgByaWdodCBob3JzZQ==\nMAIL FROM:<x@other.test>\nQUIT\n";
    let mut input = child.stdin.take().unwrap();
    input.write_all(said.as_bytes()).unwrap();
    let told = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    drop(input);

    assert!(told.contains("235 2.7.0") && told.contains("553 5.7.1") && told.contains("221 2.0.0"), "{told}");
}

#[test]
fn clients_of_others_authenticate_with_the_right_password_and_only_with_that() {
    let folder = tempfile::tempdir().unwrap();
    if let Err(reason) = prepare(folder.path()) {
        return skip("clients_of_others_authenticate_with_the_right_password_and_only_with_that", &reason);
    }
    user(folder.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let daemon = runtime.block_on(Daemon::start(config(folder.path()))).unwrap();
    let addresses: [SocketAddr; 3] = daemon.submission_addresses().try_into().unwrap();

    swaks(addresses);
    openssl(folder.path(), addresses);
    python(folder.path(), addresses);
    nodemailer(folder.path(), addresses);

    runtime.block_on(daemon.stop(Duration::from_secs(5)));
}

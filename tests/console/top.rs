//! `top` on a pseudo-terminal, against a running daemon.

use std::process::{Command, Stdio};

use crate::running::{Character, Running};
use crate::skip::skip;

/// Runs a command on a pseudo-terminal of 24 lines, waits for each text, then sends the keys or the signal behind it.
/// Prints what the terminal got; ends with the command's exit code.
const DRIVER: &str = r#"
import fcntl, os, pty, select, signal, struct, sys, termios, time
steps = [step.split("=>") for step in sys.argv[1].split("|")]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
seen, all, end = b"", b"", time.time() + 30
while time.time() < end:
    if select.select([terminal], [], [], 0.1)[0]:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        seen, all = seen + data, all + data
    if steps and steps[0][0].encode() in seen:
        _, act = steps.pop(0)
        seen = b""
        if act.startswith("signal"):
            os.kill(pid, signal.SIGTERM)
        elif act.startswith("resize"):
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 60, 0, 0))
            os.kill(pid, signal.SIGWINCH)
        else:
            os.write(terminal, act.encode())
else:
    os.kill(pid, signal.SIGKILL)
_, status = os.waitpid(pid, 0)
sys.stdout.buffer.write(all)
sys.exit(os.waitstatus_to_exitcode(status) & 255 if not steps else 99)
"#;

/// What gives the alternate screen back.
const LEFT: &str = "\u{1b}[?1049l";

fn drive(steps: &str, arguments: &[&str]) -> Option<(i32, String)> {
    let mut driver = Command::new("python3");
    driver.args(["-c", DRIVER, steps, env!("CARGO_BIN_EXE_hikyaku")]).args(arguments).env("TERM", "xterm");
    let output = driver.stdin(Stdio::null()).output().ok()?;
    Some((output.status.code()?, String::from_utf8_lossy(&output.stdout).into_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sites_are_seen_live_and_the_terminal_is_given_back() {
    let running = Running::start(&[("busy.test", Character::Busy)]).await;
    running.submit(&["a@busy.test"]).await;
    running.until(&["sites"], |text| text.contains("421 4.7.0")).await;
    let socket = running.socket().to_str().unwrap().to_owned();

    for steps in ["127.0.0.1:=>t|TENANT=>resize|QUEUED=>q", "127.0.0.1:=>signal", "127.0.0.1:=>\u{3}"] {
        let arguments = ["top", "--socket", &socket, "--interval", "0.2"];
        let steps = steps.to_owned();
        let driven = {
            let arguments = arguments.map(str::to_owned);
            let drive = move || drive(&steps, &arguments.each_ref().map(String::as_str));
            tokio::task::spawn_blocking(drive).await.unwrap()
        };
        let Some((code, text)) = driven else {
            skip("sites_are_seen_live_and_the_terminal_is_given_back", "python3 is not there");
            break;
        };

        assert_eq!(code, 0, "{text:?}");
        // Blanks are skipped by moving the cursor, so words come one by one.
        assert!(text.contains("mta.test") && text.contains("accepting"), "{text:?}");
        assert!(text.rfind(LEFT) > text.rfind("READY"), "{text:?}");
    }
    running.stop().await;
}

#[test]
fn without_a_terminal_it_says_what_else_there_is() {
    let mut top = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
    let output = top.args(["top", "--socket", "/nonexistent"]).stdin(Stdio::null()).output().unwrap();

    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && errors.contains("hikyaku sites --json"), "{errors}");
    assert!(output.stdout.is_empty());
}

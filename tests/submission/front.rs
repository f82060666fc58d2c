//! A whole daemon whose threads that deliver are busy: clients do not notice.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use hikyaku::daemon::Daemon;

use crate::stopping::{config, until_queued};

/// Says something and gives the last line of the reply.
fn ask(stream: &mut BufReader<TcpStream>, text: &str) -> String {
    stream.get_mut().write_all(text.as_bytes()).unwrap();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        if line.as_bytes()[3] == b' ' {
            return line;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_message_is_accepted_while_every_thread_that_delivers_is_held_up() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(config(folder.path(), "1s")).await.unwrap();
    let (release, released) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    // This test itself is not on the one worker thread.
    let held_up = tokio::spawn(async move {
        tell.send(()).unwrap();
        let _ = released.recv();
    });
    told.recv().unwrap();

    let stream = TcpStream::connect(daemon.submission_addresses()[0]).unwrap();
    // Fails then, in place of a wait for ever.
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut stream = BufReader::new(stream);

    assert!(ask(&mut stream, "").starts_with("220 "));
    assert!(ask(&mut stream, "EHLO client.test\r\n").starts_with("250 "));
    assert!(ask(&mut stream, "MAIL FROM:<>\r\n").starts_with("250 "));
    assert!(ask(&mut stream, "RCPT TO:<a@receiver.test>\r\n").starts_with("250 "));
    assert!(ask(&mut stream, "DATA\r\n").starts_with("354 "));
    assert!(ask(&mut stream, "Subject: held up\r\n\r\nHello.\r\n.\r\n").starts_with("250 "));

    release.send(()).unwrap();
    held_up.await.unwrap();
    until_queued(&daemon, 1).await;
    daemon.stop(Duration::ZERO).await;
}

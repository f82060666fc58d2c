//! A strict receiver's connections, one thread each: a thread is woken to the tenth of a millisecond, a runtime's timer is not,
//! and at ten times the pace a millisecond is ten.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use hikyaku::demo::strict::{Dialog, Next, Strict};
use hikyaku::simulate::Time;
use hikyaku::simulate::receiver::Knock;

/// Serves for as long as the process lives.
pub fn start(strict: Arc<Strict>, listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let strict = Arc::clone(&strict);
            thread::spawn(move || drop(serve(&strict, stream)));
        }
    });
}

struct Open<'a>(&'a Strict);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.closed();
    }
}

fn serve(strict: &Strict, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (knock, at) = strict.knock(strict.time(Instant::now()));
    let open = (knock == Knock::Open).then(|| Open(strict));
    wait(strict, at);
    match knock {
        Knock::Dead | Knock::Silence => return Ok(()),
        Knock::TooMany => {
            stream.write_all(Dialog::refusal().as_bytes())?;
            return farewell(stream);
        }
        Knock::Open => {}
    }
    let mut replies = Dialog::greeting(strict).into_bytes();
    let (mut dialog, mut input, mut buffer) = (Dialog::default(), BytesMut::new(), [0; 16 << 10]);
    loop {
        let next = dialog.step(&mut input, &mut replies, strict, strict.time(Instant::now()));
        stream.write_all(&replies)?;
        replies.clear();
        match next {
            Next::Wait(until) => wait(strict, until),
            Next::Close => break,
            Next::Read => match stream.read(&mut buffer)? {
                0 => return Ok(()),
                length => input.extend_from_slice(&buffer[..length]),
            },
        }
    }
    drop(open);
    farewell(stream)
}

/// Closes in a way by which the last reply arrives.
fn farewell(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut rest = [0; 1024];
    while stream.read(&mut rest)? > 0 {}
    Ok(())
}

fn wait(strict: &Strict, until: Time) {
    thread::sleep(strict.instant(until).saturating_duration_since(Instant::now()));
}

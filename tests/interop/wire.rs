//! A relay between a client and the daemon that keeps what the client said: the truth about what was sent.
//!
//! It knows MAIL, RCPT and DATA of clients whose commands are all accepted; it knows no BDAT.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::arrivals::Arrival;

/// A listening relay. Its threads end with the test process.
pub struct Relay {
    pub address: SocketAddr,
    said: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Relay {
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let said: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let relay = Self { address: listener.local_addr().unwrap(), said: said.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let index = {
                    let mut said = said.lock().unwrap();
                    said.push(Vec::new());
                    said.len() - 1
                };
                let server = TcpStream::connect(server).unwrap();
                let (mut replies, mut client_writer) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || {
                    std::io::copy(&mut replies, &mut client_writer).ok();
                    client_writer.shutdown(Shutdown::Both).ok();
                });
                let said = said.clone();
                std::thread::spawn(move || {
                    forward(client, server, |octets| said.lock().unwrap()[index].extend(octets))
                });
            }
        });
        relay
    }

    /// Every recipient of every transaction so far.
    pub fn sent(&self) -> Vec<Arrival> {
        self.said.lock().unwrap().iter().flat_map(|octets| transactions(octets)).collect()
    }
}

fn forward(mut client: TcpStream, mut server: TcpStream, keep: impl Fn(&[u8])) {
    let mut buffer = [0; 65_536];
    while let Ok(length @ 1..) = client.read(&mut buffer) {
        // Kept first: nothing may arrive anywhere before it counts as sent.
        keep(&buffer[..length]);
        if server.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    server.shutdown(Shutdown::Write).ok();
}

fn transactions(octets: &[u8]) -> Vec<Arrival> {
    let (mut sent, mut recipients, mut reverse_path) = (Vec::new(), Vec::new(), String::new());
    let mut content: Option<Vec<u8>> = None;
    for line in octets.split_inclusive(|&octet| octet == b'\n') {
        if let Some(text) = content.as_mut() {
            if line != b".\r\n" {
                let unstuffed = line.strip_prefix(b".").unwrap_or(line);
                let line = unstuffed.strip_suffix(b"\r\n").expect("clients end their lines with CRLF");
                text.extend([line, b"\n"].concat());
                continue;
            }
            let arrival = |recipient| Arrival { recipient, reverse_path: reverse_path.clone(), content: text.clone() };
            sent.extend(recipients.drain(..).map(arrival));
            content = None;
            continue;
        }
        let command = String::from_utf8_lossy(line);
        let address = || command.split(['<', '>']).nth(1).unwrap().to_owned();
        match command.to_ascii_uppercase().split([' ', ':', '\r']).next() {
            Some("MAIL") => reverse_path = address(),
            Some("RCPT") => recipients.push(address()),
            Some("DATA") => content = Some(Vec::new()),
            Some("RSET") => recipients.clear(),
            _ => {}
        }
    }
    sent
}

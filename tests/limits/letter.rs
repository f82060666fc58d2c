//! A client that submits small messages over one session.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let mut client = Self { stream: BufReader::new(stream) };
        client.expect("220");
        client.say("EHLO client.test\r\n");
        client.expect("250");
        client
    }

    /// One message with these header fields, each ended by CRLF, to its 250.
    pub fn submit(&mut self, from: &str, to: &str, header: &str) {
        self.say(&format!("MAIL FROM:<{from}>\r\nRCPT TO:<{to}>\r\nDATA\r\n"));
        self.expect("250");
        self.expect("250");
        self.expect("354");
        self.say(&format!("{header}Subject: x\r\n\r\nHello.\r\n.\r\n"));
        self.expect("250");
    }

    fn say(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn expect(&mut self, code: &str) {
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            assert!(line.starts_with(code), "{line:?} in place of {code}");
            if line.as_bytes()[3] == b' ' {
                return;
            }
        }
    }
}

//! A daemon in the test's own process: the configuration that each needs, and a client that submits to it.
#![allow(dead_code)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use hikyaku::config::Config;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Everything below `folder`, on any port of loopback; it may send to loopback.
pub fn config(folder: &Path) -> Config {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut config = Config { hostname: "mta.test".to_owned(), ..Config::default() };
    config.listeners[0].address = any_port;
    config.spool.path = folder.join("spool");
    config.spool.reserve = "1MiB".parse().unwrap();
    config.journal.path = folder.join("journal");
    config.admin.socket = folder.join("admin.sock");
    config.metrics.address = any_port;
    config.dns.allow_networks = vec!["127.0.0.0/8".parse().unwrap()];
    config
}

/// Submits a message with this header section; the reply to its end of data, or the first that refuses it.
pub async fn submit(address: SocketAddr, from: &str, to: &[impl AsRef<str>], header: &str) -> String {
    let stream = TcpStream::connect(address).await.unwrap();
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    let mut commands = vec!["HELO client.test\r\n".to_owned(), format!("MAIL FROM:<{from}>\r\n")];
    commands.extend(to.iter().map(|to| format!("RCPT TO:<{}>\r\n", to.as_ref())));
    commands.push("DATA\r\n".to_owned());
    commands.push(format!("{header}\r\n\r\nbody\r\n.\r\n"));
    let mut last = lines.next_line().await.unwrap().unwrap();
    for command in commands {
        writer.write_all(command.as_bytes()).await.unwrap();
        last = lines.next_line().await.unwrap().unwrap();
        if !last.starts_with(['2', '3']) {
            break;
        }
    }
    last
}

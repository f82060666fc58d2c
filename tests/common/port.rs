//! A port of loopback that stays taken although nobody listens at it: connections to it are refused, and the system gives
//! it to nobody else. Only who asks for it by its number and with SO_REUSEADDR, as the daemon does, may listen there.
#![allow(dead_code)]

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};

/// Free again when dropped.
pub struct Port {
    pub address: SocketAddr,
    _socket: OwnedFd,
}

impl Port {
    pub fn take() -> Self {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = getsockname(&socket).unwrap().try_into().unwrap();
        Self { address, _socket: socket }
    }
}

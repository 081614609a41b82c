//! Binds an address once for each worker.
//!
//! With SO_REUSEPORT the kernel spreads connections over the workers' sockets; it would also let a second program
//! share the port unseen, so a probe without it comes first.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// An address that could not be bound.
#[derive(Debug)]
pub struct ListenError {
    /// The listener's name.
    pub listener: String,
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub error: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener \"{}\": cannot bind {}: {}", self.listener, self.address, self.error)
    }
}

impl std::error::Error for ListenError {}

/// Binds `address` for so many workers; port 0 lets the system pick one for all of them.
///
/// # Errors
/// Whatever the system says; `AddrInUse` also where another program would share the port, unless `shared`.
pub fn bind(address: SocketAddr, workers: usize, shared: bool) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    if !shared && address.port() != 0 {
        open(address, false)?;
    }
    let first = open(address, true)?;
    first.listen(BACKLOG)?;
    let first: TcpListener = first.into();
    let actual = first.local_addr()?;
    let mut sockets = vec![first];
    while sockets.len() < workers {
        let next = open(actual, true)?;
        next.listen(BACKLOG)?;
        sockets.push(next.into());
    }
    Ok((actual, sockets))
}

fn open(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` means every address of both families.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Without it the TIME_WAIT of a program that has just ended would keep the port.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_port_that_the_system_picked_and_nobody_else_gets_it() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let (address, sockets) = bind(any, 3, false).expect("a free port");
        assert_eq!(sockets.len(), 3);
        assert!(sockets.iter().all(|socket| socket.local_addr().ok() == Some(address)));
        assert_eq!(bind(address, 1, false).expect_err("in use").kind(), io::ErrorKind::AddrInUse);
        bind(address, 1, true).expect("a takeover may share it");
    }
}

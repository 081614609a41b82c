//! Binds an address once for each worker, for TCP or UDP, and finds out which addresses are bound already.
//!
//! With SO_REUSEPORT the kernel spreads connections over the workers' sockets; it would also let a second program
//! share the port unseen, so a probe without it comes first.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use crate::snapshot::Listener;
use crate::tunnel::endpoint;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// So many more ports are picked before it is said that none is free for both TCP and UDP. Of 28,000 even a thousand
/// taken ones meet all of them once in 10^24 times.
const PICKS: usize = 16;

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
    let listening = |socket: Socket| socket.listen(BACKLOG).map(|()| socket);
    let (actual, sockets) = for_each(Type::STREAM, address, workers, shared, listening)?;
    Ok((actual, sockets.into_iter().map(TcpListener::from).collect()))
}

/// The same for UDP.
///
/// # Errors
/// The same.
pub fn bind_udp(address: SocketAddr, workers: usize, shared: bool) -> io::Result<(SocketAddr, Vec<UdpSocket>)> {
    let prepared = |socket: Socket| endpoint::prepare(&socket).map(|()| socket);
    let (actual, sockets) = for_each(Type::DGRAM, address, workers, shared, prepared)?;
    Ok((actual, sockets.into_iter().map(UdpSocket::from).collect()))
}

/// What is bound at one address and port number.
pub type Both = (SocketAddr, Vec<TcpListener>, Vec<UdpSocket>);

/// Both, on ports of the same number.
///
/// # Errors
/// The same.
pub fn bind_both(address: SocketAddr, workers: usize, shared: bool) -> io::Result<Both> {
    let mut left = PICKS;
    loop {
        let (actual, tcp) = bind(address, workers, shared)?;
        match bind_udp(actual, workers, shared) {
            Ok((_, udp)) => return Ok((actual, tcp, udp)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && address.port() == 0 && left > 0 => left -= 1,
            Err(error) => return Err(error),
        }
    }
}

fn for_each(
    kind: Type,
    address: SocketAddr,
    workers: usize,
    shared: bool,
    make: impl Fn(Socket) -> io::Result<Socket>,
) -> io::Result<(SocketAddr, Vec<Socket>)> {
    if !shared && address.port() != 0 {
        open(kind, address, false)?;
    }
    let mut sockets = vec![make(open(kind, address, true)?)?];
    let actual = sockets[0].local_addr()?.as_socket().unwrap_or(address);
    while sockets.len() < workers {
        sockets.push(make(open(kind, actual, true)?)?);
    }
    Ok((actual, sockets))
}

fn open(kind: Type, address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        // `[::]` means every address of both families.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    if kind == Type::STREAM {
        // Without it the TIME_WAIT of a program that has just ended would keep the port. Of UDP it would let others in.
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The position of the socket that goes on, for each address of each listener; none where one has to be bound. Of each
/// socket that accepts: the listener's name, the address as it was asked for, the address that it got.
/// `binds` are the addresses of a listener.
pub(super) fn keep<'a>(
    wanted: &'a [Listener],
    accepting: &[(&str, SocketAddr, SocketAddr)],
    binds: impl Fn(&'a Listener) -> &'a [SocketAddr],
) -> Vec<Vec<Option<usize>>> {
    let mut taken = vec![false; accepting.len()];
    let mut kept: Vec<Vec<Option<usize>>> = wanted.iter().map(|listener| vec![None; binds(listener).len()]).collect();
    // A port that the system picked belongs to its listener; every other address is known by itself.
    for same_name in [true, false] {
        for (listener, kept) in wanted.iter().zip(&mut kept) {
            for (address, kept) in binds(listener).iter().zip(kept).filter(|(_, kept)| kept.is_none()) {
                let fits = |(name, asked, got): (&str, SocketAddr, SocketAddr)| match same_name {
                    true => name == listener.name && asked == *address,
                    false => address.port() != 0 && (asked == *address || got == *address),
                };
                *kept = (0..accepting.len()).find(|at| !taken[*at] && fits(accepting[*at]));
                if let Some(at) = *kept {
                    taken[at] = true;
                }
            }
        }
    }
    kept
}

/// True when one socket would take connections that the other one takes.
pub(super) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let covers =
        |wide: SocketAddr, narrow: SocketAddr| wide.ip().is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4());
    one.port() == other.port() && (one.ip() == other.ip() || covers(one, other) || covers(other, one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{DynamicEndpoints, ListenerKind, Transport};

    #[test]
    fn both_protocols_get_a_port_of_one_number_and_nobody_else_gets_it() {
        let (address, tcp, udp) = bind_both("127.0.0.1:0".parse().expect("an address"), 2, false).expect("a free port");
        assert!(tcp.iter().all(|socket| socket.local_addr().ok() == Some(address)));
        assert!(udp.iter().all(|socket| socket.local_addr().ok() == Some(address)));
        assert_eq!((tcp.len(), udp.len()), (2, 2));
        assert_eq!(bind_udp(address, 1, false).expect_err("in use").kind(), io::ErrorKind::AddrInUse);
        drop(tcp);
        bind(address, 1, false).expect("the other protocol's port is one by itself");
        bind_udp(address, 1, true).expect("a takeover may share it");
    }

    #[test]
    fn workers_share_a_port_that_the_system_picked_and_nobody_else_gets_it() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let (address, sockets) = bind(any, 3, false).expect("a free port");
        assert_eq!(sockets.len(), 3);
        assert!(sockets.iter().all(|socket| socket.local_addr().ok() == Some(address)));
        assert_eq!(bind(address, 1, false).expect_err("in use").kind(), io::ErrorKind::AddrInUse);
        bind(address, 1, true).expect("a takeover may share it");
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn listener(name: &str, bind: &str) -> Listener {
        let kind = ListenerKind::Http { dynamic_endpoints: DynamicEndpoints::Unnamed };
        Listener {
            name: name.into(),
            bind: vec![address(bind)],
            tls: None,
            proxy_protocol: Vec::new(),
            tenant: String::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            auth: None,
            transports: vec![Transport::WebSocket],
            quic_at: None,
            quic_tunnel: None,
            kind,
        }
    }

    fn kept(wanted: &[(&str, &str)], accepting: &[(&str, &str, &str)]) -> Vec<Option<usize>> {
        let wanted: Vec<_> = wanted.iter().map(|(name, bind)| listener(name, bind)).collect();
        let accepting: Vec<_> =
            accepting.iter().map(|(name, asked, got)| (*name, address(asked), address(got))).collect();
        keep(&wanted, &accepting, |one| &one.bind).into_iter().flatten().collect()
    }

    #[test]
    fn an_address_keeps_its_sockets_whatever_listener_it_belongs_to() {
        let running = [("a", "[::]:80", "[::]:80"), ("b", "[::]:81", "[::]:81")];
        assert_eq!(kept(&[("a", "[::]:80"), ("b", "[::]:81")], &running), [Some(0), Some(1)]);
        assert_eq!(kept(&[("a", "[::]:81"), ("b", "[::]:80")], &running), [Some(1), Some(0)]);
        assert_eq!(kept(&[("c", "[::]:81"), ("b", "[::]:82")], &running), [Some(1), None]);
    }

    #[test]
    fn a_port_that_was_picked_stays_with_its_listener() {
        let running = [("a", "[::1]:0", "[::1]:4000"), ("b", "[::1]:0", "[::1]:4001")];
        assert_eq!(kept(&[("b", "[::1]:0"), ("a", "[::1]:0")], &running), [Some(1), Some(0)]);
        assert_eq!(kept(&[("c", "[::1]:0"), ("a", "[::1]:4000")], &running), [None, Some(0)]);
        assert_eq!(kept(&[("b", "[::1]:4000"), ("a", "[::1]:0")], &running), [None, Some(0)]);
    }

    #[test]
    fn every_interface_overlaps_with_each_of_its_family() {
        let wide = address("[::]:80");
        assert!(overlap(wide, address("[::1]:80")) && overlap(address("127.0.0.1:80"), wide));
        assert!(overlap(address("0.0.0.0:80"), address("127.0.0.1:80")));
        assert!(!overlap(address("0.0.0.0:80"), address("[::1]:80")) && !overlap(wide, address("[::1]:81")));
    }
}

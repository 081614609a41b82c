//! Where QUIC is spoken: endpoints with a socket for each worker at one address, and those of somebody who dials.
//!
//! `ids` says in a connection's id which worker has it, `route` reads that in a datagram, `socket` hands datagrams on;
//! `path` says how large they may be.
//! Who is let in, and what a connection carries, is decided above.

pub mod ids;
pub mod path;
pub mod route;
pub mod socket;

mod runtime;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use aws_lc_rs::{hkdf, hmac};
use quinn::{EndpointConfig, Runtime, ServerConfig};
use socket2::{Domain, Protocol, Socket as RawSocket, Type};

use crate::shutdown::Drain;
use crate::worker::Worker;

use ids::Generator;
use path::LARGEST;
use runtime::Of;
use socket::{Counts, Mailbox, Socket};

/// What a socket is asked to hold of what has come: bursts of windows of 1 MiB. The system may allow less.
const RECEIVE_BUFFER: usize = 2 * 1024 * 1024;

/// Connections that may wait to be looked at, of a worker's socket.
const WAITING: usize = 1024;

/// What one of them may say until then, and all of them together.
const EARLY: u64 = 64 << 10;
const ALL_EARLY: u64 = 16 << 20;

/// What all endpoints of a process share: what one of them has made another one may meet.
pub struct Keys {
    ids: ids::Key,
    reset: [u8; 64],
    token: [u8; 64],
    /// What became of datagrams.
    pub counts: Arc<Counts>,
}

impl Keys {
    /// New ones: nothing of another process is known by them.
    ///
    /// # Errors
    /// Where the system has no randomness.
    pub fn new() -> io::Result<Keys> {
        let mut all = Keys { ids: ids::Key::default(), reset: [0; 64], token: [0; 64], counts: Arc::default() };
        for key in [&mut all.reset, &mut all.token] {
            getrandom::fill(key).map_err(io::Error::other)?;
        }
        Ok(all)
    }

    /// Settings of a server whose address tokens every worker of this process believes.
    pub fn server(&self, crypto: Arc<dyn quinn::crypto::ServerConfig>) -> ServerConfig {
        let token = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&self.token);
        let mut server = ServerConfig::new(crypto, Arc::new(token));
        server.max_incoming(WAITING).incoming_buffer_size(EARLY).incoming_buffer_size_total(ALL_EARLY);
        server
    }

    /// One endpoint for each socket, on the worker of the same number. `server`, made by [`Keys::server`], is for those
    /// connections that are taken with no other one.
    ///
    /// # Errors
    /// Where the process has no descriptor left for a selector.
    pub fn listen(
        &self,
        sockets: Vec<UdpSocket>,
        workers: &[Worker],
        drain: &Drain,
        server: &ServerConfig,
    ) -> io::Result<Vec<quinn::Endpoint>> {
        let mailboxes: Arc<[Mailbox]> = sockets.iter().map(|_| Mailbox::default()).collect();
        let open = |(socket, worker): (UdpSocket, &Worker)| {
            let runtime = Arc::new(Of { handle: worker.runtime.clone(), drain: drain.clone() });
            let _entered = worker.runtime.enter();
            let inner = runtime.wrap_udp_socket(socket)?;
            let (key, number) = (self.ids.clone(), worker.index);
            let (mailboxes, counts) = (mailboxes.clone(), self.counts.clone());
            let socket = Arc::new(Socket { inner, worker: number, mailboxes, key: key.clone(), counts });
            let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &self.reset)));
            takes_large_ones(&mut config);
            // Workers beyond the last number have no socket.
            let short = u8::try_from(number).unwrap_or(u8::MAX);
            config.cid_generator(move || Box::new(Generator { key: key.clone(), worker: short }));
            quinn::Endpoint::new_with_abstract_socket(config, Some(server.clone()), socket, runtime)
        };
        sockets.into_iter().zip(workers).map(open).collect()
    }
}

/// An endpoint of somebody who dials, on a port of its own. To be called on the worker.
///
/// # Errors
/// Where no port or descriptor is left.
pub fn dialling(worker: &Worker, drain: &Drain) -> io::Result<quinn::Endpoint> {
    let open = |address: SocketAddr| {
        let socket = RawSocket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        prepare(&socket)?;
        socket.bind(&address.into())?;
        Ok(UdpSocket::from(socket))
    };
    // Where IPv6 is off.
    let socket =
        open((Ipv6Addr::UNSPECIFIED, 0).into()).or_else(|_: io::Error| open((Ipv4Addr::UNSPECIFIED, 0).into()));
    let runtime = Arc::new(Of { handle: worker.runtime.clone(), drain: drain.clone() });
    let socket = runtime.wrap_udp_socket(socket?)?;
    let _entered = worker.runtime.enter();
    let mut config = EndpointConfig::default();
    takes_large_ones(&mut config);
    quinn::Endpoint::new_with_abstract_socket(config, None, socket, runtime)
}

fn takes_large_ones(config: &mut EndpointConfig) {
    // The only mistake is less than 1,200.
    let _ = config.max_udp_payload_size(LARGEST);
}

/// Makes a socket one of ours.
///
/// # Errors
/// What the system says.
pub fn prepare(socket: &RawSocket) -> io::Result<()> {
    // A wish: what the system allows is enough to work with.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.set_nonblocking(true)
}

//! An address on which QUIC is taken, with a socket for each worker.
//!
//! Connections of QUIC live on the sockets that took them. So an address that a new configuration has no more is given
//! up in two steps: nobody comes in any more and the agents are told; when the last of them has left the sockets close.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::hail::Tunnels;
use super::quic::{self, Open, QuicDoor};
use crate::tunnel::endpoint::Keys;
use crate::tunnel::quic::codes;

/// An address, as long as a connection lives on it.
pub struct QuicPort {
    /// What it bound.
    pub address: SocketAddr,
    state: Mutex<State>,
}

struct State {
    /// What connections come to; none: nobody comes in.
    door: Option<Open>,
    /// One for each worker; none: the last connection has ended, and the sockets with it.
    endpoints: Vec<quinn::Endpoint>,
}

impl QuicPort {
    /// Takes connections on these sockets, one a worker.
    ///
    /// # Errors
    /// Where the process has no descriptor left.
    pub fn open(
        tunnels: &Arc<Tunnels>,
        keys: &Keys,
        (address, sockets): (SocketAddr, Vec<UdpSocket>),
        door: Arc<QuicDoor>,
    ) -> std::io::Result<Arc<QuicPort>> {
        let workers = &tunnels.proxy.workers;
        let endpoints = keys.listen(sockets, workers, &tunnels.drain, &door.server)?;
        let state = State { door: Some((door, CancellationToken::new())), endpoints: endpoints.clone() };
        let port = Arc::new(QuicPort { address, state: Mutex::new(state) });
        for (worker, endpoint) in workers.iter().zip(endpoints) {
            let open = port.clone();
            let door = move || open.lock().door.clone();
            let task = quic::accept(tunnels.clone(), worker.index, endpoint, door);
            tunnels.drain.spawn_on(&worker.runtime, task);
        }
        Ok(port)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the next connection on behind this door. False where the sockets close already.
    pub fn lead_to(&self, door: &Arc<QuicDoor>) -> bool {
        let mut state = self.lock();
        if state.endpoints.is_empty() {
            return false;
        }
        let closed = state.door.take().map_or_else(CancellationToken::new, |(_, closed)| closed);
        state.door = Some((door.clone(), closed));
        true
    }

    /// True where it is of no use to anybody any more.
    pub fn is_over(&self) -> bool {
        self.lock().endpoints.is_empty()
    }

    /// Nobody comes in any more; the sockets close when the last connection has ended, if nobody has come back to them.
    pub fn give_up(self: &Arc<Self>, tunnels: &Tunnels) {
        let endpoints = {
            let mut state = self.lock();
            if let Some((_, closed)) = state.door.take() {
                closed.cancel();
            }
            state.endpoints.clone()
        };
        let port = self.clone();
        let last = async move {
            for endpoint in &endpoints {
                endpoint.wait_idle().await;
            }
            let mut state = port.lock();
            if state.door.is_none() {
                // Ends the loops that accept, which are the last to hold them.
                for endpoint in state.endpoints.drain(..) {
                    endpoint.close(codes::CLOSED, b"");
                }
            }
        };
        tunnels.drain.spawn_beside(tunnels.proxy.runtime(0), last);
    }
}

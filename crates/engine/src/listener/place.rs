//! An address on which tunnels over QUIC are taken, with a socket for each worker.
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
pub struct Place {
    /// What it bound.
    pub address: SocketAddr,
    state: Mutex<State>,
    endpoints: Vec<quinn::Endpoint>,
}

struct State {
    /// What connections come to; none: nobody comes in.
    door: Option<Open>,
    /// The last connection has ended, and the sockets close.
    is_over: bool,
}

impl Place {
    /// Takes connections on these sockets, one a worker.
    ///
    /// # Errors
    /// Where the process has no descriptor left.
    pub fn open(
        tunnels: &Arc<Tunnels>,
        keys: &Keys,
        (address, sockets): (SocketAddr, Vec<UdpSocket>),
        door: Arc<QuicDoor>,
    ) -> std::io::Result<Arc<Place>> {
        let workers = &tunnels.proxy.workers;
        let endpoints = keys.listen(sockets, workers, &tunnels.drain, &door.server)?;
        let state = Mutex::new(State { door: Some((door, CancellationToken::new())), is_over: false });
        let place = Arc::new(Place { address, state, endpoints });
        for (worker, endpoint) in workers.iter().zip(&place.endpoints) {
            let open = place.clone();
            let door = move || open.lock().door.clone();
            let task = quic::accept(tunnels.clone(), worker.index, endpoint.clone(), door);
            tunnels.drain.spawn_on(&worker.runtime, task);
        }
        Ok(place)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the next connection on behind this door. False where the sockets close already.
    pub fn lead_to(&self, door: &Arc<QuicDoor>) -> bool {
        let mut state = self.lock();
        if state.is_over {
            return false;
        }
        let closed = state.door.take().map_or_else(CancellationToken::new, |(_, closed)| closed);
        state.door = Some((door.clone(), closed));
        true
    }

    /// True where it is of no use to anybody any more.
    pub fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// Nobody comes in any more; the sockets close when the last connection has ended, if nobody has come back to them.
    pub fn give_up(self: &Arc<Self>, tunnels: &Tunnels) {
        if let Some((_, closed)) = self.lock().door.take() {
            closed.cancel();
        }
        let (place, ending) = (self.clone(), tunnels.drain.begun());
        let last = async move {
            let idle = async {
                for endpoint in &place.endpoints {
                    endpoint.wait_idle().await;
                }
            };
            tokio::select! {
                () = idle => {}
                () = ending => return,
            }
            let mut state = place.lock();
            if state.door.is_none() {
                state.is_over = true;
                for endpoint in &place.endpoints {
                    endpoint.close(codes::CLOSED, b"");
                }
            }
        };
        tunnels.drain.spawn_beside(tunnels.proxy.runtime(0), last);
    }
}

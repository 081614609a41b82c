//! All listeners of a gateway: what runs, and what a new configuration changes about that.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener as Socket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::accept::{Room, accept};
use super::bind::{ListenError, bind};
use super::tcp;
use super::tunnel::Tunnels;
use super::{http, tunnel};
use crate::proxy::shared::Proxy;
use crate::proxy::site::HttpListener;
use crate::snapshot::{Listener, ListenerKind};

/// The listeners that run.
pub struct Listeners {
    proxy: Arc<Proxy>,
    tunnels: Arc<Tunnels>,
    /// Visitors and agents have room of their own: neither can keep the others out.
    room: Arc<Room>,
    tunnel_room: Arc<Room>,
    running: Mutex<Vec<Running>>,
}

struct Running {
    listener: Listener,
    /// What it actually bound.
    addresses: Vec<SocketAddr>,
    kind: Kind,
    stop: CancellationToken,
    connections: Arc<AtomicUsize>,
}

#[derive(Clone)]
enum Kind {
    Http(Arc<HttpListener>),
    Tcp(Arc<tcp::TcpListener>),
    Tunnel,
}

/// One address, bound for every worker.
struct Bound {
    address: SocketAddr,
    sockets: Vec<Socket>,
}

impl Listeners {
    /// No listener yet, and room for so many connections of visitors and of agents.
    pub fn new(proxy: Arc<Proxy>, tunnels: Arc<Tunnels>, connections: usize) -> Self {
        let (room, tunnel_room) = (Room::new(connections), Room::new(connections));
        Listeners { proxy, tunnels, room, tunnel_room, running: Mutex::default() }
    }

    /// Makes these the listeners. What stands on the same addresses with the same name and kind goes on untouched; new
    /// ones are all bound before an old one is given up.
    ///
    /// # Errors
    /// The first address that could not be bound; then nothing has changed.
    pub fn apply(&self, wanted: &[Listener], connections: usize, takeover: bool) -> Result<(), ListenError> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let ours: HashSet<SocketAddr> = running.iter().flat_map(|one| one.listener.bind.iter().copied()).collect();
        let mut fresh = Vec::new();
        for listener in wanted.iter().filter(|wanted| !running.iter().any(|one| one.is_same(wanted))) {
            let mut bound = Vec::new();
            for address in &listener.bind {
                let shared = takeover || ours.contains(address);
                match bind(*address, self.proxy.workers.len(), shared) {
                    Ok((address, sockets)) => bound.push(Bound { address, sockets }),
                    Err(error) => {
                        return Err(ListenError { listener: listener.name.clone(), address: *address, error });
                    }
                }
            }
            fresh.push((listener, bound));
        }

        self.room.resize(connections);
        self.tunnel_room.resize(connections);
        running.retain_mut(|one| match wanted.iter().find(|wanted| one.is_same(wanted)) {
            Some(wanted) => {
                one.update(wanted);
                true
            }
            None => {
                one.stop.cancel();
                false
            }
        });
        for (listener, bound) in fresh {
            running.push(self.start(listener, bound));
        }
        let local = running.iter().filter(|one| matches!(one.kind, Kind::Http(_))).flat_map(|one| &one.addresses);
        let local = local.copied().find(|address| address.ip().is_loopback() || address.ip().is_unspecified());
        self.tunnels.local_port.store(local.map_or(0, |address| address.port()), Ordering::Relaxed);
        Ok(())
    }

    /// Stops accepting, everywhere.
    pub fn stop(&self) {
        for one in self.running.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            one.stop.cancel();
        }
    }

    /// Every listener: name, kind, addresses, open connections.
    pub fn status(&self) -> Value {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running
            .iter()
            .map(|one| {
                json!({
                    "name": one.listener.name,
                    "kind": one.kind.word(),
                    "addresses": one.addresses,
                    "connections": one.connections.load(Ordering::Relaxed),
                })
            })
            .collect()
    }

    /// Open connections of each listener.
    pub fn open(&self) -> Vec<(String, usize)> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.iter().map(|one| (one.listener.name.clone(), one.connections.load(Ordering::Relaxed))).collect()
    }

    /// Connections that are open and how many may be: of visitors, and of agents.
    pub fn room(&self) -> [(usize, usize); 2] {
        [self.room.taken(), self.tunnel_room.taken()]
    }

    fn start(&self, listener: &Listener, bound: Vec<Bound>) -> Running {
        let name: Arc<str> = listener.name.as_str().into();
        let kind = match &listener.kind {
            ListenerKind::Http { dynamic_endpoints } => {
                let dynamic = ArcSwap::from_pointee(dynamic_endpoints.clone());
                Kind::Http(Arc::new(HttpListener { name: name.clone(), dynamic }))
            }
            ListenerKind::Tcp { to } => {
                Kind::Tcp(Arc::new(tcp::TcpListener { name: name.clone(), to: ArcSwap::from_pointee(to.clone()) }))
            }
            ListenerKind::Tunnel {} => Kind::Tunnel,
        };
        let running = Running {
            listener: listener.clone(),
            addresses: bound.iter().map(|one| one.address).collect(),
            kind: kind.clone(),
            stop: CancellationToken::new(),
            connections: Arc::default(),
        };
        for Bound { address, sockets } in bound {
            for (worker, socket) in self.proxy.workers.iter().zip(sockets) {
                let task = self.accept_on(worker.index, socket, name.clone(), &running);
                // Counted by the drain: what the kernel has queued is taken before the gateway is done.
                self.proxy.drain.spawn_on(&worker.runtime, task);
            }
            info!(listener = &*name, kind = kind.word(), address = %address, "listening");
        }
        running
    }

    fn accept_on(
        &self,
        worker: usize,
        socket: Socket,
        name: Arc<str>,
        running: &Running,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (proxy, tunnels, kind) = (self.proxy.clone(), self.tunnels.clone(), running.kind.clone());
        let room = if matches!(kind, Kind::Tunnel) { &self.tunnel_room } else { &self.room };
        let (stop, room, here) = (running.stop.clone(), room.clone(), running.connections.clone());
        async move {
            // Fails only where the process has no descriptor left for the selector, and then nothing works.
            let Ok(socket) = TcpListener::from_std(socket) else { return };
            accept(socket, name, stop, room, here, |stream, from, place| {
                proxy.metrics.connections.fetch_add(1, Ordering::Relaxed);
                let runtime = proxy.runtime(worker);
                match &kind {
                    Kind::Http(listener) => {
                        let task = http::connection(proxy.clone(), worker, listener.clone(), stream, from, place);
                        proxy.drain.spawn_on(runtime, task);
                    }
                    Kind::Tcp(listener) => tcp::accepted(&proxy, worker, listener, stream, from, place),
                    Kind::Tunnel => {
                        let task = tunnel::connection(tunnels.clone(), worker, stream, from, place);
                        tunnels.drain.spawn_on(runtime, task);
                    }
                }
            })
            .await;
        }
    }
}

impl Running {
    /// True when `wanted` needs no other socket and no other kind of listener.
    fn is_same(&self, wanted: &Listener) -> bool {
        self.listener.name == wanted.name
            && self.listener.bind == wanted.bind
            && std::mem::discriminant(&self.listener.kind) == std::mem::discriminant(&wanted.kind)
    }

    fn update(&mut self, wanted: &Listener) {
        match (&self.kind, &wanted.kind) {
            (Kind::Http(listener), ListenerKind::Http { dynamic_endpoints }) => {
                listener.dynamic.store(Arc::new(dynamic_endpoints.clone()));
            }
            (Kind::Tcp(listener), ListenerKind::Tcp { to }) => listener.to.store(Arc::new(to.clone())),
            _ => {}
        }
        self.listener = wanted.clone();
    }
}

impl Kind {
    fn word(&self) -> &'static str {
        match self {
            Kind::Http(_) => "http",
            Kind::Tcp(_) => "tcp",
            Kind::Tunnel => "tunnel",
        }
    }
}

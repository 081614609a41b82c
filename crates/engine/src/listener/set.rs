//! All listeners of a gateway: what runs, and what a new configuration changes about that.

use std::io;
use std::net::{SocketAddr, TcpListener as Socket, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use hashbrown::HashSet;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::accept::{Door, accept};
use super::arrive::Arrival;
use super::bind::ListenError;
use super::hail::Tunnels;
use super::leads::{Kind, Leads, begin, update};
use super::plan::{Origin, plan};
use super::quic::{self, QuicDoor, Whom};
use super::quic_port::QuicPort;
use super::reach::Reached;
use super::tls::Tls;
use super::udp::Receiving;
use super::{refuse, udp};
use crate::metrics::Page;
use crate::proxy::shared::Proxy;
use crate::proxy::site::HttpListener;
use crate::proxy::table::Table;
use crate::room::{self, Room};
use crate::snapshot::{self, Gateway, Listener};
use crate::tunnel::endpoint::Keys;
use crate::tunnel::endpoint::path::{LARGEST, USUAL};

/// The listeners that run.
pub struct Listeners {
    proxy: Arc<Proxy>,
    tunnels: Arc<Tunnels>,
    /// Visitors and agents have room of their own: neither can keep the others out.
    room: Arc<Room>,
    tunnel_room: Arc<Room>,
    running: Mutex<Vec<Running>>,
    /// Addresses for QUIC that were given up and on which connections live.
    left: Mutex<Vec<Arc<QuicPort>>>,
    /// What the sockets of QUIC share.
    keys: Keys,
    /// Nothing is accepted any more, whatever a configuration that was on its way says.
    stopped: AtomicBool,
}

struct Running {
    listener: Listener,
    door: Arc<Door<Leads>>,
    sockets: Vec<Accepting>,
    /// For QUIC: each address as the configuration has it, and what stands there.
    quic: Vec<(SocketAddr, Arc<QuicPort>)>,
    /// For datagrams.
    ports: Vec<Receiving>,
}

/// An address that connections are accepted on, whatever listener it belongs to.
struct Accepting {
    /// As the configuration has it.
    wanted: SocketAddr,
    /// What it actually bound.
    address: SocketAddr,
    door: Arc<ArcSwap<Door<Leads>>>,
    stop: CancellationToken,
}

impl Listeners {
    /// No listener yet, and room for so many connections of visitors and of agents.
    ///
    /// # Errors
    /// Where the system has no randomness.
    pub fn new(proxy: Arc<Proxy>, tunnels: Arc<Tunnels>, connections: usize) -> io::Result<Self> {
        let (room, tunnel_room) = (Room::new(connections), Room::new(connections));
        let (running, left, stopped) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        Ok(Listeners { proxy, tunnels, room, tunnel_room, running, left, keys: Keys::new()?, stopped })
    }

    /// How each listener of a snapshot speaks TLS, in their order. What has not changed is what runs already, `before`.
    ///
    /// # Errors
    /// Says what cannot be.
    pub fn compile_tls(snapshot: &Gateway, before: Option<&Self>) -> Result<Vec<Option<Arc<Tls>>>, String> {
        let running = before.map(|before| before.running.lock().unwrap_or_else(PoisonError::into_inner));
        let compile = |listener: &Listener| {
            let before = running.iter().flat_map(|running| running.iter()).find(|one| is_same(&one.listener, listener));
            Tls::compile(listener, before.and_then(|one| one.door.leads.tls.load_full()))
        };
        snapshot.listeners.iter().map(compile).collect()
    }

    /// Makes these the listeners. An address that was bound before goes on with its sockets, whatever listener it now
    /// belongs to; new ones are all bound before an old one is given up. `table` is what they lead to; `commit` puts in
    /// force what they need, and is called when nothing can fail any more. `tls` is what [`Listeners::compile_tls`]
    /// made.
    ///
    /// # Errors
    /// The first address that could not be bound; then nothing has changed.
    pub fn apply(
        &self,
        snapshot: &Gateway,
        table: &Table,
        tls: Vec<Option<Arc<Tls>>>,
        commit: impl FnOnce(),
    ) -> Result<(), ListenError> {
        let wanted = &snapshot.listeners;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|port| !port.is_over());
        let (workers, shared) = (self.proxy.workers.len(), snapshot.takeover);
        let mut quic: Vec<_> = Vec::new();
        for one in running.iter() {
            quic.extend(one.quic.iter().map(|(wanted, port)| (one.listener.name.clone(), *wanted, port.clone())));
        }
        // Nobody's any more, until somebody wants the address.
        quic.extend(left.iter().map(|port| (String::new(), port.address, port.clone())));
        let udp: Vec<_> = quic.iter().map(|(name, wanted, port)| (name.as_str(), *wanted, port.address)).collect();
        let tcp = |one: &Running| one.sockets.iter().map(|socket| (socket.wanted, socket.address)).collect::<Vec<_>>();
        let tcp: Vec<_> = running
            .iter()
            .flat_map(|one| tcp(one).into_iter().map(|(wanted, got)| (&*one.listener.name, wanted, got)))
            .collect();
        let port = |one: &Running| one.ports.iter().map(|port| (port.wanted, port.address)).collect::<Vec<_>>();
        let ports: Vec<_> = running
            .iter()
            .flat_map(|one| port(one).into_iter().map(|(wanted, got)| (&*one.listener.name, wanted, got)))
            .collect();
        let plans = plan(wanted, (&tcp, &udp, &ports), workers, shared)?;

        commit();
        let (mut old, mut sockets, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        for one in running.drain(..) {
            sockets.extend(one.sockets.into_iter().map(Some));
            ports.extend(one.ports.into_iter().map(Some));
            old.push((one.listener, one.door));
        }
        left.clear();
        let mut quic: Vec<_> = quic.into_iter().map(|(_, _, port)| Some(port)).collect();
        for ((listener, plan), tls) in wanted.iter().zip(plans).zip(tls) {
            let before = old.iter().position(|(before, _)| is_same(before, listener)).map(|at| old.swap_remove(at));
            let (door, outdated) = match before {
                Some((_, door)) if door.leads.terms.are_of(listener) => (update(door, listener, table), None),
                Some((_, door)) => (self.door(listener, table, door.connections.clone()), Some(door)),
                None => (self.door(listener, table, Arc::default()), None),
            };
            door.leads.tls.store(tls);
            let accepts = plan.tcp.into_iter().filter_map(|(wanted, origin)| match origin {
                Origin::Bound(address, bound) => Some(self.start(wanted, (address, bound), &door)),
                Origin::Kept(at) => sockets[at].take().map(|socket| socket.lead_to(wanted, &door)),
            });
            let accepts = accepts.collect();
            let takes = match self.quic_door(&door, &snapshot.tunnel) {
                Some(way) => plan
                    .udp
                    .into_iter()
                    .filter_map(|(wanted, origin)| {
                        let port = match origin {
                            Origin::Bound(address, bound) => self.take(address, bound, &way),
                            Origin::Kept(at) => quic[at].take().filter(|port| port.lead_to(&way)),
                        };
                        port.map(|port| (wanted, port))
                    })
                    .collect(),
                None => Vec::new(),
            };
            let receives = plan.datagrams.into_iter().filter_map(|(wanted, origin)| match (origin, &door.leads.kind) {
                (Origin::Bound(address, bound), Kind::Udp(listener)) => {
                    Some(Receiving::start(&self.proxy, wanted, (address, bound), listener))
                }
                (Origin::Kept(at), Kind::Udp(listener)) => ports[at].take().map(|port| port.lead_to(wanted, listener)),
                _ => None,
            });
            let receives = receives.collect();
            let listener = listener.clone();
            running.push(Running { listener, sockets: accepts, quic: takes, ports: receives, door });
            // What is accepted from now on comes through the new door.
            if let Some(door) = outdated {
                info!(listener = &*door.name, connections = door.connections.load(Ordering::Relaxed), "terms changed");
                door.leads.terms.revoke();
            }
        }
        for socket in sockets.into_iter().flatten() {
            socket.stop.cancel();
            info!(listener = &*socket.door.load().name, address = %socket.address, "listener closed");
        }
        ports.iter().flatten().for_each(Receiving::close);
        for port in quic.into_iter().flatten() {
            port.give_up(&self.tunnels);
            left.push(port);
        }
        for (_, door) in old {
            door.leads.terms.end();
        }
        if self.stopped.load(Ordering::Relaxed) {
            cancel(&running);
        }
        // Last: whoever waits for room looks through its new door then.
        self.room.resize(snapshot.limits.connections);
        self.tunnel_room.resize(snapshot.limits.connections);
        // Told to agents as the way to what they offer, so it has to be one.
        let dynamic = |listener: &HttpListener| listener.access(table).dynamic.permits_any();
        let http = running.iter().filter(|one| matches!(&one.door.leads.kind, Kind::Http(http) if dynamic(http)));
        let local = http.flat_map(|one| &one.sockets).map(|socket| socket.address);
        let local = local.into_iter().find(|address| address.ip().is_loopback() || address.ip().is_unspecified());
        self.tunnels.local_port.store(local.map_or(0, |address| address.port()), Ordering::Relaxed);
        Ok(())
    }

    /// Stops accepting, everywhere.
    pub fn stop(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        self.stopped.store(true, Ordering::Relaxed);
        cancel(&running);
    }

    /// Every listener: name, kind, addresses, open connections.
    pub fn status(&self) -> Value {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running
            .iter()
            .map(|one| {
                json!({
                    "name": one.listener.name,
                    "kind": one.door.leads.kind.word(),
                    "addresses": one.addresses(),
                    "transports": one.listener.transports.iter().map(|one| one.word()).collect::<Vec<_>>(),
                    "connections": one.door.connections.load(Ordering::Relaxed),
                    "udp_sessions": one.udp_sessions(),
                })
            })
            .collect()
    }

    /// Every listener as the configuration has it, with the addresses that it bound.
    pub fn configured(&self) -> Vec<(Listener, Vec<SocketAddr>)> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.iter().map(|one| (one.listener.clone(), one.addresses())).collect()
    }

    /// Open connections of each listener.
    pub fn open(&self) -> Vec<(String, usize)> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let open = |one: &Running| (one.listener.name.clone(), one.door.connections.load(Ordering::Relaxed));
        running.iter().map(open).collect()
    }

    /// Connections that are open and how many may be: of visitors, and of agents.
    pub fn room(&self) -> [(usize, usize); 2] {
        [self.room.taken(), self.tunnel_room.taken()]
    }

    /// What was given up for want of room, and what became of datagrams.
    pub fn render_shed(&self, page: &mut Page) {
        room::render(&[&self.room, &self.tunnel_room], page);
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        udp::render(
            running.iter().filter_map(|one| match &one.door.leads.kind {
                Kind::Udp(listener) => Some(&**listener),
                _ => None,
            }),
            page,
        );
        drop(running);
        self.keys.counts.render(page);
    }

    /// Where a listener that was not there before leads, or one that asks for something else now: `connections` are
    /// open already.
    fn door(&self, listener: &Listener, table: &Table, connections: Arc<AtomicUsize>) -> Arc<Door<Leads>> {
        let name: Arc<str> = listener.name.as_str().into();
        let leads = Leads::new(listener, table, &connections, &self.proxy.drain);
        let room = if matches!(leads.kind, Kind::Tunnel(_)) { &self.tunnel_room } else { &self.room };
        let balancers = listener.proxy_protocol.clone();
        Arc::new(Door { name, room: room.clone(), connections, balancers, leads })
    }

    /// What connections over QUIC come to; none where none are taken.
    fn quic_door(&self, door: &Door<Leads>, tunnel: &snapshot::Tunnel) -> Option<Arc<QuicDoor>> {
        let tls = door.leads.tls.load_full()?;
        let whom = match &door.leads.kind {
            Kind::Tunnel(listener) => Whom::Agents(listener.clone()),
            Kind::Http(listener) => Whom::Forwards(Reached { listener: listener.clone(), acceptor: tls.acceptor()? }),
            Kind::Tcp(_) | Kind::Connect(_) | Kind::Udp(_) => return None,
        };
        let crypto = tls.quic()?;
        let server = |largest| {
            let mut server = self.keys.server(crypto.clone());
            server.transport_config(Arc::new(quic::transport(tunnel, largest)));
            Arc::new(server)
        };
        let (server, roomy) = (server(USUAL), server(LARGEST));
        let (name, room, connections) = (door.name.clone(), door.room.clone(), door.connections.clone());
        Some(Arc::new(QuicDoor { name, room, connections, whom, server, roomy }))
    }

    /// Takes connections over QUIC on an address that has just been bound.
    fn take(&self, address: SocketAddr, sockets: Vec<UdpSocket>, door: &Arc<QuicDoor>) -> Option<Arc<QuicPort>> {
        let port = QuicPort::open(&self.tunnels, &self.keys, (address, sockets), door.clone());
        match port {
            Ok(port) => {
                let kind = door.whom.kind();
                info!(listener = &*door.name, kind, address = %address, transport = "quic", "listening");
                Some(port)
            }
            // Only where the process has no descriptor left for a selector, and then nothing works.
            Err(error) => {
                warn!(listener = &*door.name, %error, "accepting rests");
                None
            }
        }
    }

    /// Accepts on an address that has just been bound.
    fn start(
        &self,
        wanted: SocketAddr,
        (address, sockets): (SocketAddr, Vec<Socket>),
        door: &Arc<Door<Leads>>,
    ) -> Accepting {
        let (stop, door) = (CancellationToken::new(), Arc::new(ArcSwap::new(door.clone())));
        for (worker, socket) in self.proxy.workers.iter().zip(sockets) {
            let task = self.accept_on(worker.index, socket, door.clone(), stop.clone());
            // Counted by the drain: what the kernel has queued is taken before the gateway is done.
            self.proxy.drain.spawn_on(&worker.runtime, task);
        }
        let accepting = Accepting { wanted, address, door, stop };
        accepting.announce();
        accepting
    }

    fn accept_on(
        &self,
        worker: usize,
        socket: Socket,
        door: Arc<ArcSwap<Door<Leads>>>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let tunnels = self.tunnels.clone();
        async move {
            // Fails only where the process has no descriptor left for the selector, and then nothing works.
            let Ok(socket) = TcpListener::from_std(socket) else { return };
            accept(
                socket,
                stop,
                || door.load_full(),
                |door, stream, from, place| match place {
                    Ok(place) => {
                        tunnels.proxy.metrics.connections.fetch_add(1, Ordering::Relaxed);
                        begin(&tunnels, worker, door, from.ip(), Arrival::new(stream, from, place));
                    }
                    Err(full) => {
                        let leads = &door.leads;
                        let speaks_http = !matches!(leads.kind, Kind::Tcp(_)) && leads.tls.load().is_none();
                        let how = (full, speaks_http);
                        refuse::for_want_of_room(&tunnels.proxy, worker, &door.name, Box::new(stream), from, how);
                    }
                },
            )
            .await;
        }
    }
}

impl Running {
    /// What it bound, each once.
    fn addresses(&self) -> Vec<SocketAddr> {
        let quic = self.quic.iter().map(|(_, port)| port.address);
        let udp = self.ports.iter().map(|port| port.address);
        let mut all: Vec<_> = self.sockets.iter().map(|socket| socket.address).chain(quic).chain(udp).collect();
        let mut seen = HashSet::new();
        all.retain(|address| seen.insert(*address));
        all
    }

    /// Sources of datagrams that are served.
    fn udp_sessions(&self) -> usize {
        match &self.door.leads.kind {
            Kind::Udp(_) => self.door.connections.load(Ordering::Relaxed),
            _ => 0,
        }
    }
}

impl Accepting {
    /// From the next connection on behind this door.
    fn lead_to(mut self, wanted: SocketAddr, door: &Arc<Door<Leads>>) -> Self {
        self.wanted = wanted;
        let before = self.door.swap(door.clone());
        if before.name != door.name || before.leads.kind.word() != door.leads.kind.word() {
            self.announce();
        }
        self
    }

    fn announce(&self) {
        let door = self.door.load();
        let kind = door.leads.kind.word();
        info!(listener = &*door.name, kind, address = %self.address, transport = "tcp", "listening");
    }
}

fn cancel(running: &[Running]) {
    for socket in running.iter().flat_map(|one| &one.sockets) {
        socket.stop.cancel();
    }
    running.iter().flat_map(|one| &one.ports).for_each(Receiving::stop);
}

/// True when the connections of the one are connections of the other.
fn is_same(before: &Listener, wanted: &Listener) -> bool {
    before.name == wanted.name && std::mem::discriminant(&before.kind) == std::mem::discriminant(&wanted.kind)
}

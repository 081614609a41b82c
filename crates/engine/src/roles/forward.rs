//! A forward: local TCP ports that lead to endpoints.
//!
//! Each connection of a `port` is a byte stream at a gateway: of the one session that `reach` keeps there where QUIC
//! works, else a WebSocket of its own (compat.md §1.3).

pub mod port;
pub mod reach;
pub mod udp;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::handle::{Role, StartError};
use super::link::Changes;
use crate::connect::{Gateway, Token};
use crate::event::Events;
use crate::listener::ListenError;
use crate::listener::bind::{bind, bind_udp};
use crate::metrics::Page;
use crate::proxy::access::AccessLog;
use crate::proxy::shared::{Proxy, Settings};
use crate::registry::Registry;
use crate::room::{self, Room};
use crate::shutdown::Drain;
use crate::snapshot::{self, Snapshot};
use crate::worker::Workers;

use port::{Port, Shared};
use reach::{Dialler, Keeper, Reach};

/// How long sessions may take to end after the last connection.
const SESSIONS_END: Duration = Duration::from_secs(1);

/// A running forward.
pub struct Forward {
    ports: Vec<Arc<Port>>,
    ways: Vec<Arc<Reach>>,
    /// Ends the sessions.
    sessions: Drain,
    proxy: Arc<Proxy>,
    room: Arc<Room>,
    stop: CancellationToken,
    token: Arc<Token>,
    version: String,
    since: Instant,
    workers: Workers,
}

impl Forward {
    /// Starts a forward. Its ports are bound when this returns; sessions come up by themselves, and come back.
    pub fn start(snapshot: snapshot::Forward, events: &Arc<Events>) -> Result<Self, StartError> {
        // What can be wrong is found before anything is started.
        let (gateways, token) = Gateway::all(&snapshot.connect).map_err(StartError::Snapshot)?;
        let access = AccessLog::open(&snapshot.access_log, false, None)?;
        let workers = Workers::start("forward", 1, events)?;
        let settings = Settings::new(&snapshot.timeouts, &snapshot.limits);
        let list = workers.list().clone();
        let proxy = Proxy::new(settings, &snapshot.limits, Registry::new(), access, Drain::new(), list);

        // Sessions end after the connections on them, so they are drained apart.
        let sessions = Drain::new();
        let transport = snapshot.connect.transport;
        let ways: Vec<_> = gateways.into_iter().map(|gateway| Reach::new(gateway, transport)).collect();
        let dialler = Arc::new(Dialler {
            proxy: proxy.clone(),
            sessions: sessions.clone(),
            version: snapshot.version.clone(),
            timeouts: snapshot.timeouts.clone(),
            tunnel: snapshot.tunnel.clone(),
            token: token.clone(),
        });
        let version = snapshot.version.clone();
        let shared = Arc::new(Shared { proxy: proxy.clone(), ways: ways.clone(), version });
        let (stop, room) = (CancellationToken::new(), Room::new(snapshot.limits.connections));
        let mut ports = Vec::new();
        for forward in &snapshot.forwards {
            for wanted in &forward.bind {
                let (listener, address) = (forward.endpoint.clone(), *wanted);
                let failed = |error| ListenError { listener, address, error };
                let runtime = &workers.list()[0].runtime;
                let port = |address| {
                    let endpoint: Arc<str> = forward.endpoint.as_str().into();
                    Arc::new(Port { address, endpoint, connections: Arc::default() })
                };
                let port = if let Some(idle) = forward.udp_idle {
                    let (address, mut sockets) = bind_udp(address, 1, false).map_err(failed)?;
                    let port = port(address);
                    if let Some(socket) = sockets.pop() {
                        let task = udp::take(port.clone(), socket, idle, shared.clone(), stop.clone());
                        proxy.drain.spawn_beside(runtime, task);
                    }
                    port
                } else {
                    let (address, mut sockets) = bind(address, 1, false).map_err(failed)?;
                    let port = port(address);
                    if let Some(socket) = sockets.pop() {
                        let task = port.clone().accept(socket, shared.clone(), stop.clone(), room.clone());
                        proxy.drain.spawn_on(runtime, task);
                    }
                    port
                };
                let address = port.address;
                info!(address = %address, endpoint = &*port.endpoint, "listening");
                ports.push(port);
            }
        }
        for reach in &ways {
            let keeper = Keeper::new(reach.clone(), dialler.clone());
            sessions.spawn_on(&workers.list()[0].runtime, keeper.keep());
        }
        let (version, since) = (snapshot.version, Instant::now());
        Ok(Forward { ports, ways, sessions, proxy, room, stop, token, version, since, workers })
    }
}

impl Role for Forward {
    fn apply(&self, _: Snapshot) -> Result<(), StartError> {
        Err(StartError::Snapshot("a forward takes a new configuration when it is started again".to_owned()))
    }

    fn status(&self) -> Value {
        let forwards: Vec<Value> = self
            .ports
            .iter()
            .map(|port| {
                let connections = port.connections.load(Ordering::Relaxed);
                json!({"address": port.address.to_string(), "endpoint": &*port.endpoint, "connections": connections})
            })
            .collect();
        let (requests, errors) = self.proxy.metrics.totals();
        json!({
            "role": "forward",
            "version": self.version,
            "uptime": self.since.elapsed().as_secs_f64(),
            "state": if self.proxy.drain.is_begun() { "draining" } else { "running" },
            "forwards": forwards,
            "gateways": self.ways.iter().map(|reach| reach.describe()).collect::<Value>(),
            "totals": {"requests": requests, "errors": errors},
        })
    }

    fn metrics(&self) -> String {
        let mut page = Page::default();
        self.proxy.metrics.render(&mut page);
        room::render(&[&self.room], &mut page);
        Changes::render(self.ways.iter().map(|reach| &reach.changes), &mut page);
        page.finish()
    }

    fn drain(&self, grace: Duration) {
        let requests = self.proxy.metrics.in_flight.load(Ordering::Relaxed);
        let open = self.ways.iter().filter(|reach| reach.is_up()).count();
        info!(requests, sessions = open, "draining");
        self.stop.cancel();
        let (proxy, sessions) = (self.proxy.clone(), self.sessions.clone());
        self.workers.list()[0].runtime.spawn(async move {
            let clean = proxy.drain.finish(grace).await;
            sessions.finish(SESSIONS_END).await;
            info!(clean, "stopped");
        });
    }

    fn set_token(&self, token: String) -> Result<(), String> {
        self.token.set(token);
        Ok(())
    }

    fn stop(&self) {
        self.stop.cancel();
        self.proxy.drain.cut();
        self.proxy.close_log();
        self.sessions.cut();
    }
}

//! A forward: local TCP ports that lead to endpoints, one WebSocket a connection (compat.md §1.3).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::handle::{Role, StartError};
use crate::connect::{Gateway, Request, Token};
use crate::error::{Code, Error};
use crate::event::Events;
use crate::io::{BoxedIo, Buffer, Io};
use crate::listener::ListenError;
use crate::listener::accept::{Door, accept};
use crate::listener::bind::bind;
use crate::metrics::Page;
use crate::proxy::access::{AccessLog, Answered, Record};
use crate::proxy::relay::Leg;
use crate::proxy::shared::{Proxy, Settings};
use crate::proxy::stream;
use crate::registry::Registry;
use crate::room::{self, Place, Room};
use crate::shutdown::Drain;
use crate::snapshot::{self, Snapshot};
use crate::tunnel::hello::TCP_PATH;
use crate::tunnel::websocket::{Channel, Side};
use crate::worker::Workers;

/// A running forward.
pub struct Forward {
    ports: Vec<Arc<Port>>,
    proxy: Arc<Proxy>,
    room: Arc<Room>,
    stop: CancellationToken,
    token: Arc<Token>,
    version: String,
    since: Instant,
    workers: Workers,
}

/// A local port.
struct Port {
    address: SocketAddr,
    endpoint: Arc<str>,
    connections: Arc<AtomicUsize>,
}

/// What all connections share.
struct Shared {
    proxy: Arc<Proxy>,
    gateways: Vec<Gateway>,
    version: String,
}

impl Forward {
    /// Starts a forward. Its ports are bound when this returns; the gateway is dialled for each connection.
    pub fn start(snapshot: snapshot::Forward, events: &Arc<Events>) -> Result<Self, StartError> {
        // What can be wrong is found before anything is started.
        let (gateways, token) = Gateway::all(&snapshot.connect).map_err(StartError::Snapshot)?;
        let access = AccessLog::open(&snapshot.access_log, false, None)?;
        let workers = Workers::start("forward", 1, events)?;
        let settings = Settings::new(&snapshot.timeouts, &snapshot.limits);
        let list = workers.list().clone();
        let proxy = Proxy::new(settings, &snapshot.limits, Registry::new(), access, Drain::new(), list);

        let shared = Arc::new(Shared { proxy: proxy.clone(), gateways, version: snapshot.version.clone() });
        let (stop, room) = (CancellationToken::new(), Room::new(snapshot.limits.connections));
        let mut ports = Vec::new();
        for forward in &snapshot.forwards {
            for wanted in &forward.bind {
                let (address, mut sockets) = bind(*wanted, 1, false).map_err(|error| ListenError {
                    listener: forward.endpoint.clone(),
                    address: *wanted,
                    error,
                })?;
                let endpoint: Arc<str> = forward.endpoint.as_str().into();
                let port = Arc::new(Port { address, endpoint, connections: Arc::default() });
                if let Some(socket) = sockets.pop() {
                    let runtime = &workers.list()[0].runtime;
                    let task = port.clone().accept(socket, shared.clone(), stop.clone(), room.clone());
                    proxy.drain.spawn_on(runtime, task);
                }
                info!(address = %address, endpoint = &*port.endpoint, "listening");
                ports.push(port);
            }
        }
        Ok(Forward { ports, proxy, room, stop, token, version: snapshot.version, since: Instant::now(), workers })
    }
}

impl Port {
    async fn accept(
        self: Arc<Self>,
        socket: std::net::TcpListener,
        shared: Arc<Shared>,
        stop: CancellationToken,
        room: Arc<Room>,
    ) {
        // Fails only where the process has no descriptor left for the selector, and then nothing works.
        let Ok(socket) = TcpListener::from_std(socket) else { return };
        let (name, connections) = (self.endpoint.clone(), self.connections.clone());
        let door = Arc::new(Door { name, room, connections, balancers: Vec::new(), leads: () });
        accept(
            socket,
            stop,
            || door.clone(),
            |_, mut stream, from, place| {
                shared.proxy.metrics.connections.fetch_add(1, Ordering::Relaxed);
                match place {
                    Ok(place) => {
                        let task = self.clone().carry(shared.clone(), stream, from, place);
                        shared.proxy.drain.spawn_on(shared.proxy.runtime(0), task);
                    }
                    Err(_) => stream.reset(),
                }
            },
        )
        .await;
    }

    /// Carries one connection.
    async fn carry(self: Arc<Self>, shared: Arc<Shared>, mut stream: TcpStream, from: SocketAddr, _place: Place) {
        let proxy = &shared.proxy;
        let mut record = Record::new(proxy.next_request(), from, self.endpoint.clone(), Answered::Upstream);
        record.endpoint = Some(self.endpoint.clone());
        proxy.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        match self.open(&shared, &mut record).await {
            Ok(channel) => {
                let near = Leg { io: Box::new(stream), read: Buffer::new() };
                stream::relay_open(proxy, near, channel, &mut record).await
            }
            Err(reason) => {
                warn!(endpoint = &*self.endpoint, reason = &*reason, "stream refused");
                stream.reset();
                record.error = Some(Error::undelivered(Code::UpstreamUnreachable, reason));
            }
        }
        proxy.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
        proxy.finish(0, &record);
    }

    /// Opens a byte stream at the first gateway that has the endpoint; else what the last one said.
    async fn open(&self, shared: &Shared, record: &mut Record) -> Result<BoxedIo, String> {
        let path = &*format!("{TCP_PATH}{}", self.endpoint);
        let request = Request { path, agent: None, version: &shared.version, h2: false, not_quic: "" };
        let timeouts = &shared.proxy.settings.load_full().timeouts;
        let mut last = String::new();
        for gateway in &shared.gateways {
            record.attempts += 1;
            record.upstream.clone_from(&gateway.url);
            match gateway.open(&request, timeouts).await {
                Ok((io, early, told)) => {
                    return Ok(Box::new(Channel::new(io, early, Side::Client, told.features.half_close)));
                }
                Err(refused) => last = refused.reason,
            }
        }
        Err(last)
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
            "totals": {"requests": requests, "errors": errors},
        })
    }

    fn metrics(&self) -> String {
        let mut page = Page::default();
        self.proxy.metrics.render(&mut page);
        room::render(&[&self.room], &mut page);
        page.finish()
    }

    fn drain(&self, grace: Duration) {
        let requests = self.proxy.metrics.in_flight.load(Ordering::Relaxed);
        info!(requests, sessions = 0, "draining");
        self.stop.cancel();
        let proxy = self.proxy.clone();
        self.workers.list()[0].runtime.spawn(async move {
            let clean = proxy.drain.finish(grace).await;
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
    }
}

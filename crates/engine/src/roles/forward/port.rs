//! A local port: each of its connections is a byte stream to an endpoint, at the first gateway that has it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::reach::Reach;
use crate::connect::{Refused, Request};
use crate::error::{Code, Error};
use crate::io::{Buffer, Io};
use crate::listener::accept::{Door, accept};
use crate::proxy::access::{Answered, Record};
use crate::proxy::relay::Leg;
use crate::proxy::shared::Proxy;
use crate::proxy::stream;
use crate::room::{Place, Room};
use crate::snapshot::Timeouts;
use crate::tunnel::Session;
use crate::tunnel::hello::{TCP_PATH, Upgrade};
use crate::tunnel::websocket::{Channel, Side};

/// A connection that does not belong to its session any more: another one may be taken.
const MISDIRECTED: u16 = 421;

/// A local port.
pub struct Port {
    /// What it bound.
    pub address: SocketAddr,
    /// Where it leads.
    pub endpoint: Arc<str>,
    /// Open connections.
    pub connections: Arc<AtomicUsize>,
}

/// What all connections share.
pub struct Shared {
    /// What carries them.
    pub proxy: Arc<Proxy>,
    /// The gateways, in the order in which they are asked.
    pub ways: Vec<Arc<Reach>>,
    /// The program's version.
    pub version: String,
}

impl Port {
    /// Accepts until told to stop.
    pub async fn accept(
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
            Ok(far) => {
                let near = Leg { io: Box::new(stream), read: Buffer::new() };
                stream::relay_legs(proxy, near, far, &proxy.anonymous, &mut record).await
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
    async fn open(&self, shared: &Shared, record: &mut Record) -> Result<Leg, String> {
        let path = &*format!("{TCP_PATH}{}", self.endpoint);
        let request = Request { path, agent: None, version: &shared.version, h2: false, datagram: false, not_quic: "" };
        let timeouts = &shared.proxy.settings.load_full().timeouts;
        let mut last = String::new();
        for reach in &shared.ways {
            record.attempts += 1;
            record.upstream.clone_from(&reach.gateway.url);
            match open_at(reach, &request, timeouts).await {
                Ok(far) => return Ok(far),
                Err(reason) => last = reason,
            }
        }
        Err(last)
    }
}

/// Opens a byte stream at one gateway, by the session that is there, else by a WebSocket of its own.
async fn open_at(reach: &Reach, request: &Request<'_>, timeouts: &Timeouts) -> Result<Leg, String> {
    if reach.is_quic_alone() {
        let session = reach.session(timeouts.connect).await?;
        return match over(reach, &session, request, timeouts).await {
            Ok(far) => Ok(far),
            Err(Failure::Refused(refused) | Failure::Lost(refused)) => Err(refused.reason),
        };
    }
    if let Some(session) = reach.way().await {
        let outcome = tokio::select! {
            biased;
            outcome = over(reach, &session, request, timeouts) => Some(outcome),
            // Nothing of what is to be carried has left yet.
            () = session.silence(true) => None,
        };
        match outcome {
            Some(Ok(far)) => return Ok(far),
            Some(Err(Failure::Refused(refused))) => return Err(refused.reason),
            Some(Err(Failure::Lost(_))) | None => {}
        }
    }
    let (io, early, told) = reach.gateway.open(request, timeouts).await.map_err(|refused| refused.reason)?;
    reach.hear(told.quic);
    let channel = Channel::new(io, early, Side::Client, told.features.half_close);
    Ok(Leg { io: Box::new(channel), read: Buffer::new() })
}

/// Why there is no stream on a session.
enum Failure {
    /// The gateway has answered.
    Refused(Refused),
    /// It has not, or another session may be: a WebSocket can be tried.
    Lost(Refused),
}

async fn over(reach: &Reach, session: &Session, request: &Request<'_>, timeouts: &Timeouts) -> Result<Leg, Failure> {
    let none = |why: &str| Failure::Lost(Refused { reason: format!("{}: {why}", reach.gateway.url), status: None });
    let io = match reach.is_quic_alone() {
        true => tokio::time::timeout(timeouts.connect, session.open_when_answered()).await.ok().and_then(Result::ok),
        false => session.open().ok(),
    };
    let io = io.ok_or_else(|| none("the session takes no stream"))?;
    match reach.gateway.ask(io, request, Upgrade::Bytes, timeouts.handshake).await {
        Ok((io, read, _)) => Ok(Leg { io, read }),
        Err(refused) if refused.status.is_none_or(|status| status == MISDIRECTED) => Err(Failure::Lost(refused)),
        Err(refused) => Err(Failure::Refused(refused)),
    }
}

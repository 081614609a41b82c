//! A local port for datagrams: each source that speaks to it has a flow to an endpoint, on the session of the first
//! gateway that has it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::port::{Port, Shared};
use super::reach::Reach;
use crate::connect::Request;
use crate::error::{Code, Error};
use crate::metrics::{Direction, Fate};
use crate::proxy::access::{Answered, Record};
use crate::proxy::datagrams::{Pump, rest};
use crate::proxy::sources::{Source, Sources, Taken, receive};
use crate::snapshot::Timeouts;
use crate::tunnel::Flow;
use crate::tunnel::hello::{UDP_PATH, Upgrade};

/// Sources at once; of more the one that has been idle longest is forgotten.
const SOURCES: usize = 4096;

/// Takes datagrams until told to stop.
pub async fn take(
    port: Arc<Port>,
    socket: std::net::UdpSocket,
    idle: Duration,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    // Fails only where the process has no descriptor left for the selector, and then nothing works.
    let Ok(socket) = UdpSocket::from_std(socket).map(Arc::new) else { return };
    let (own, sources) = (socket.clone(), Sources::new(port.connections.clone()));
    receive(socket, stop, |payload, from| match sources.take(&own, from, payload, SOURCES) {
        Taken::Queued => {}
        Taken::Full => shared.proxy.metrics.datagram(Direction::In, Fate::QueueFull),
        Taken::Begins(source) => {
            let task = carry(port.clone(), source, idle, shared.clone());
            shared.proxy.drain.spawn_on(shared.proxy.runtime(0), task);
        }
    })
    .await;
}

/// Carries what one source says and gets.
async fn carry(port: Arc<Port>, mut source: Source, idle: Duration, shared: Arc<Shared>) {
    let proxy = &shared.proxy;
    let client = SocketAddr::new(source.address.ip().to_canonical(), source.address.port());
    let mut record = Record::new(proxy.next_request(), client, port.endpoint.clone(), Answered::Upstream);
    record.endpoint = Some(port.endpoint.clone());
    proxy.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
    match open(&port, &shared, &mut record).await {
        Ok(mut flow) => {
            Pump::new(proxy, 0, &mut record).run(&mut source, &mut flow, idle, proxy.drain.begun()).await;
            flow.end();
        }
        Err(reason) => {
            warn!(endpoint = &*port.endpoint, reason = &*reason, "stream refused");
            record.error = Some(Error::undelivered(Code::UpstreamUnreachable, reason));
        }
    }
    proxy.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
    let failed = record.error.is_some();
    proxy.finish(0, &record);
    if failed {
        rest(proxy, source).await;
    }
}

/// Opens a flow at the first gateway that has the endpoint; else what the last one said.
async fn open(port: &Port, shared: &Shared, record: &mut Record) -> Result<Flow, String> {
    let path = &*format!("{UDP_PATH}{}", port.endpoint);
    let request = Request { path, agent: None, version: &shared.version, h2: false, datagram: false, not_quic: "" };
    let timeouts = &shared.proxy.settings.load_full().timeouts;
    let mut last = String::new();
    for reach in &shared.ways {
        record.attempts += 1;
        record.upstream.clone_from(&reach.gateway.url);
        match open_at(reach, &request, timeouts).await {
            Ok(flow) => return Ok(flow),
            Err(reason) => last = reason,
        }
    }
    Err(last)
}

async fn open_at(reach: &Reach, request: &Request<'_>, timeouts: &Timeouts) -> Result<Flow, String> {
    let session = reach.session(timeouts.connect).await?;
    let url = &reach.gateway.url;
    let mut flow = match timeout(timeouts.connect, session.open_flow_when_answered()).await {
        Ok(Ok(flow)) => flow,
        Ok(Err(error)) => return Err(format!("{url}: {error}")),
        Err(_) => return Err(format!("{url}: the session takes no flow")),
    };
    match timeout(timeouts.handshake, reach.gateway.upgrade(flow.io(), request, Upgrade::Datagrams)).await {
        Ok(Ok(_)) => Ok(flow),
        Ok(Err(refused)) => Err(refused.reason),
        Err(_) => Err(format!("{url} did not answer within {:?}", timeouts.handshake)),
    }
}

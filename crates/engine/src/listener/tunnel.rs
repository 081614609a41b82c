//! Tunnels of WebSocket at a listener of kind tunnel.
//!
//! The upgrade is read where the connection was accepted and answered by the worker that then drives the tunnel.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::arrive::Arrival;
use super::hail::{Applicant, Greeting, TunnelListener, Tunnels, applicant, refusal};
use super::session;
use crate::error::{Error, Result};
use crate::http1::head::HeadLimits;
use crate::io::{BoxedIo, Buffer};
use crate::message::RequestHead;
use crate::proxy::http1::{Http1, Stop};
use crate::snapshot::Way;
use crate::tunnel::hello::{self, Welcome};
use crate::tunnel::{Config, start};

/// Reads the upgrade of an accepted connection and hands it to the worker with the fewest tunnels of that endpoint.
/// `certificate`: what the agent has shown by TLS.
pub async fn connection(
    tunnels: Arc<Tunnels>,
    worker: usize,
    listener: Arc<TunnelListener>,
    arrival: Arrival,
    certificate: Option<CertificateDer<'static>>,
) {
    let Arrival { io, read: begun, client: from, place } = arrival;
    let greeting = tunnels.greeting.load_full();
    let mut connection = Http1::new(io, begun);
    place.idle(Instant::now());
    let head = tokio::select! {
        head = tokio::time::timeout(greeting.handshake, read(&mut connection, &greeting.head)) => head,
        () = place.evicted() => return,
    };
    place.busy();
    let applicant = match head {
        Ok(Ok(Some(head))) => {
            applicant(&tunnels, &listener, (Way::WebSocket, &head), certificate.as_deref(), from).await
        }
        Ok(Ok(None)) | Err(_) => return,
        Ok(Err(error)) => Err(error),
    };
    let applicant = match applicant {
        Ok(applicant) => Box::new(applicant),
        Err(error) => return refuse(&tunnels, &mut connection, &error, from).await,
    };
    let workers = tunnels.proxy.workers.len();
    let counts = tunnels.proxy.registry.tunnels_by_worker(&applicant.admitted.tenant, &applicant.endpoint, workers);
    let fewest = (0..counts.len()).min_by_key(|i| (counts[*i], *i != worker)).unwrap_or(worker);
    let (io, early) = connection.take_stream();
    let tunnels_there = tunnels.clone();
    tunnels.proxy.carry_on(&tunnels.drain, io, (worker, fewest), move |worker, io| async move {
        let _place = place;
        serve(tunnels_there, worker, &listener, (io, early), from, applicant, &greeting).await;
    });
}

async fn read(connection: &mut Http1, limits: &HeadLimits) -> Result<Option<RequestHead>> {
    let mut head = RequestHead::new();
    match poll_fn(|cx| connection.poll_request(cx, &mut head, limits)).await {
        Ok(true) => Ok(Some(head)),
        Err(Stop::Malformed(error)) => Err(error.of_request()),
        Ok(false) | Err(_) => Ok(None),
    }
}

async fn refuse(tunnels: &Tunnels, connection: &mut Http1, error: &Error, from: SocketAddr) {
    connection.send_raw(&refusal(tunnels, error, from));
    // One that does not read its refusal does not get it.
    let greeting = tunnels.greeting.load_full();
    let _ = tokio::time::timeout(greeting.handshake, poll_fn(|cx| connection.poll_shutdown(cx))).await;
}

async fn serve(
    tunnels: Arc<Tunnels>,
    worker: usize,
    listener: &TunnelListener,
    (mut io, early): (BoxedIo, Buffer),
    from: SocketAddr,
    applicant: Box<Applicant>,
    greeting: &Greeting,
) {
    let url = tunnels.url_of(&applicant.endpoint, greeting, from);
    let quic = listener.quic.load();
    let welcome = Welcome { node: &greeting.node, version: &greeting.version, url: url.as_deref(), quic: &quic };
    let mut out = Buffer::new();
    out.extend(&hello::accept_tunnel(Some(&applicant.key), &welcome));
    let written = tokio::time::timeout(greeting.handshake, poll_fn(|cx| out.poll_drain(cx, &mut *io))).await;
    if !matches!(written, Ok(Ok(()))) {
        return;
    }
    let (session, driver) = start(io, early, Config::gateway(&greeting.tunnel));
    // A connection of TCP goes on when its port is given up.
    let open = CancellationToken::new();
    session::run(tunnels, (worker, from), (&listener.terms, &open), applicant, (session, Box::pin(driver))).await;
}

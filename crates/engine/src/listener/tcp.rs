//! Connections of a listener of kind tcp: raw bytes to one endpoint or upstream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use tokio::net::TcpStream;

use super::accept::Place;
use crate::error::{Code, Error};
use crate::io::Io;
use crate::proxy::access::{Answered, Record};
use crate::proxy::shared::Proxy;
use crate::proxy::stream;
use crate::snapshot::Destination;

/// A listener of kind tcp.
pub struct TcpListener {
    /// Its name.
    pub name: Arc<str>,
    /// Where it leads.
    pub to: ArcSwap<Destination>,
}

/// Relays an accepted connection, on a worker that drives a tunnel of the endpoint where there is one.
pub fn accepted(
    proxy: &Arc<Proxy>,
    worker: usize,
    listener: &Arc<TcpListener>,
    mut stream: TcpStream,
    client: SocketAddr,
    place: Place,
) {
    let mut record = Record::new(proxy.next_request(), client, listener.name.clone(), Answered::Gateway);
    let to = listener.to.load();
    let Some((upstreams, label)) = proxy.destination(&to, client.ip()) else {
        stream.reset();
        record.error = Some(Error::undelivered(Code::NoUpstream, ""));
        return proxy.finish(worker, &record);
    };
    record.endpoint = label;
    let target = upstreams.better_worker(worker).unwrap_or(worker);
    let Ok(stream) = stream.into_std() else { return };
    let proxy_there = proxy.clone();
    proxy.drain.spawn_on(proxy.runtime(target), async move {
        let _place = place;
        // Registration fails only where the process has no memory or descriptor left: the connection ends.
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        let in_flight = &proxy_there.metrics.in_flight;
        in_flight.fetch_add(1, Ordering::Relaxed);
        let entry = proxy_there.directory.enter(proxy_there.anonymous.clone());
        tokio::select! {
            () = stream::relay_tcp(&proxy_there, target, &upstreams, Box::new(stream), client, &mut record) => {}
            () = entry.ended() => {}
        }
        in_flight.fetch_sub(1, Ordering::Relaxed);
        proxy_there.finish(target, &record);
    });
}

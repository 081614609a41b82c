//! Connections of a listener of kind tcp: raw bytes to one endpoint or upstream.

use std::net::{IpAddr, SocketAddr};
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
use crate::proxy::table::Table;
use crate::snapshot::Destination;
use crate::upstream::{Group, UpstreamSet};

/// A listener of kind tcp.
pub struct TcpListener {
    /// Its name.
    pub name: Arc<str>,
    /// Where it leads.
    pub to: ArcSwap<To>,
}

/// Where a listener leads. An upstream is held, so that a connection finds it whatever has changed meanwhile.
pub enum To {
    /// An endpoint or upstream, looked up for each connection.
    Named(Destination),
    /// An upstream.
    Group(Arc<Group>),
}

impl To {
    /// A destination as a table has it.
    pub fn new(to: &Destination, table: &Table) -> Self {
        let group = match to {
            Destination::Upstream(name) => table.group(name).cloned(),
            Destination::Endpoint(_) => None,
        };
        group.map_or_else(|| To::Named(to.clone()), To::Group)
    }

    fn find(&self, proxy: &Proxy, client: IpAddr) -> Option<(UpstreamSet, Arc<str>)> {
        match self {
            To::Named(to) => proxy.destination(to, client),
            To::Group(group) => {
                let key = group.key_of(None, client);
                Some((UpstreamSet::Group(group.clone(), key), group.name.clone()))
            }
        }
    }
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
    let Some((upstreams, label)) = listener.to.load().find(proxy, client.ip()) else {
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

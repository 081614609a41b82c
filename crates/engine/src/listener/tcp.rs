//! Connections of a listener of kind tcp: raw bytes to one endpoint or upstream.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;

use crate::error::{Code, Error};
use crate::io::BoxedIo;
use crate::proxy::access::{Answered, Record};
use crate::proxy::shared::Proxy;
use crate::proxy::stream;
use crate::proxy::table::Table;
use crate::room::Place;
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

/// Relays a connection of this listener.
pub fn accepted(
    proxy: &Arc<Proxy>,
    worker: usize,
    listener: &Arc<TcpListener>,
    io: BoxedIo,
    client: SocketAddr,
    place: Place,
) {
    let to = listener.to.load().find(proxy, client.ip());
    relay(proxy, worker, &listener.name, to, io, client, place);
}

/// Relays a connection, on a worker that drives a tunnel of the endpoint where there is one.
pub fn relay(
    proxy: &Arc<Proxy>,
    worker: usize,
    listener: &Arc<str>,
    to: Option<(UpstreamSet, Arc<str>)>,
    mut io: BoxedIo,
    client: SocketAddr,
    place: Place,
) {
    let mut record = Record::new(proxy.next_request(), client, listener.clone(), Answered::Gateway);
    let Some((upstreams, label)) = to else {
        io.reset();
        record.error = Some(Error::undelivered(Code::NoUpstream, ""));
        return proxy.finish(worker, &record);
    };
    record.endpoint = label;
    let (there, proxy_there) = (upstreams.better_worker(worker).unwrap_or(worker), proxy.clone());
    let carry = move |worker: usize, io: BoxedIo| async move {
        let _place = place;
        let in_flight = &proxy_there.metrics.in_flight;
        in_flight.fetch_add(1, Ordering::Relaxed);
        let entry = proxy_there.directory.enter(proxy_there.anonymous.clone());
        tokio::select! {
            () = stream::relay_tcp(&proxy_there, worker, &upstreams, io, client, &mut record) => {}
            () = entry.ended() => {}
        }
        in_flight.fetch_sub(1, Ordering::Relaxed);
        proxy_there.finish(worker, &record);
    };
    proxy.carry_on(&proxy.drain, io, (worker, there), carry);
}

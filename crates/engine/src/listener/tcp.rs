//! Connections of a listener of kind tcp: raw bytes to one endpoint or upstream.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::arrive::Arrival;
use crate::proxy::passthrough::{self, Opaque};
use crate::proxy::shared::Proxy;
use crate::proxy::site;
use crate::proxy::table::Table;
use crate::snapshot::Destination;
use crate::terms::Terms;
use crate::upstream::{Group, UpstreamSet};

/// A listener of kind tcp.
pub struct TcpListener {
    /// Its name.
    pub name: Arc<str>,
    /// Where it leads.
    pub to: ArcSwap<To>,
    /// What connections were let in by.
    pub terms: Arc<Terms>,
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
            To::Group(group) => Some(UpstreamSet::of_group(group, None, client)),
        }
    }
}

/// Relays a connection that has arrived.
pub fn arrived(proxy: &Arc<Proxy>, worker: usize, listener: &TcpListener, arrival: Arrival) {
    let Arrival { io, read, client, place } = arrival;
    let to = match listener.terms.are_revoked() {
        true => Err(site::revoked()),
        false => listener.to.load().find(proxy, client.ip()).ok_or_else(passthrough::nobody),
    };
    let listener = listener.name.clone();
    let route = Arc::default();
    passthrough::pass(proxy, worker, Opaque { io, read, client, listener, server_name: None, route, place }, to);
}

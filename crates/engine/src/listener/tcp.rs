//! Connections of a listener of kind tcp: raw bytes to one endpoint or upstream.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::arrive::Arrival;
use crate::proxy::passthrough;
use crate::proxy::shared::Proxy;
use crate::proxy::site;
use crate::proxy::table::Table;
use crate::snapshot::Destination;
use crate::terms::Terms;
use crate::upstream::{Group, UpstreamSet};
use crate::verdict::Access;

/// A listener of kind tcp.
pub struct TcpListener {
    /// Its name.
    pub name: Arc<str>,
    /// Where it leads.
    pub to: ArcSwap<To>,
    /// Who may come in.
    pub access: ArcSwap<Access>,
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

    fn find(&self, proxy: &Proxy, tenant: &str, client: IpAddr) -> Option<(UpstreamSet, Arc<str>)> {
        match self {
            To::Named(to) => proxy.destination(to, tenant, client),
            To::Group(group) => Some(UpstreamSet::of_group(group, None, client)),
        }
    }
}

/// Relays a connection that has arrived.
pub fn arrived(proxy: &Arc<Proxy>, worker: usize, listener: &TcpListener, arrival: Arrival) {
    let (access, client) = (listener.access.load(), arrival.client.ip());
    let to = match listener.terms.are_revoked() {
        true => Err(site::revoked()),
        false => listener.to.load().find(proxy, &access.tenant, client).ok_or_else(passthrough::nobody),
    };
    passthrough::pass(proxy, worker, arrival.opaque(listener.name.clone()), to);
}

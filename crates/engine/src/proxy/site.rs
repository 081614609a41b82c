//! Where a request came in, and where that leads it.
//!
//! A gateway's listener reads an endpoint from the request; an agent's service is one address. Nothing else differs
//! between a request that a gateway proxies and one that an agent does.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::access::Answered;
use super::shared::Proxy;
use super::table::{Lead, Table};
use crate::error::{Code, Error, Result};
use crate::identity::Identity;
use crate::message::{Known, RequestHead, tokens};
use crate::route::{self, Named};
use crate::snapshot::route::Forward;
use crate::snapshot::{DynamicEndpoints, HostHeader};
use crate::upstream::{Upstream, UpstreamSet};

/// Where requests come in.
#[derive(Clone)]
pub enum Site {
    /// A listener of a gateway.
    Listener(Arc<HttpListener>),
    /// An agent's stream, for one local service.
    Service(Arc<Service>),
}

/// A listener of kind http.
pub struct HttpListener {
    /// Its name.
    pub name: Arc<str>,
    /// Which endpoints a request may name by itself.
    pub dynamic: ArcSwap<DynamicEndpoints>,
    /// The listener or the gateway ends: connections finish the request that runs.
    pub closing: CancellationToken,
}

impl HttpListener {
    /// True when a request may name an endpoint by itself.
    pub fn names_endpoints(&self) -> bool {
        **self.dynamic.load() != DynamicEndpoints::Allow(Vec::new())
    }
}

/// A local service that an agent offers.
pub struct Service {
    /// The endpoint.
    pub endpoint: Arc<str>,
    /// The local address.
    pub upstream: Upstream,
    /// What the service sees as Host.
    pub host_header: HostHeader,
    /// Its own host and port.
    pub authority: String,
}

/// Where a request leads.
pub struct Route {
    /// Whoever may serve it.
    pub upstreams: UpstreamSet,
    /// The endpoint's name, or that of the upstream, for logs and metrics.
    pub endpoint: Arc<str>,
    /// The route of the configuration that it took, where it took one.
    pub lead: Option<Arc<Lead>>,
    /// A byte stream over WebSocket is asked for, not an HTTP exchange.
    pub tcp: bool,
}

impl Route {
    /// How the configuration wants the request sent on.
    pub fn forward(&self) -> Option<&Forward> {
        self.lead.as_ref()?.forward()
    }
}

/// True when a request may name this endpoint by itself.
fn permits(dynamic: &DynamicEndpoints, table: &Table, endpoint: &str) -> bool {
    match dynamic {
        DynamicEndpoints::Unnamed => !table.names(endpoint),
        DynamicEndpoints::Allow(names) => names.iter().any(|name| name == endpoint),
    }
}

impl Site {
    /// The listener's name for logs and metrics.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Site::Listener(listener) => &listener.name,
            Site::Service(service) => &service.endpoint,
        }
    }

    /// Who answers when we do.
    pub fn answered(&self) -> Answered {
        match self {
            Site::Listener(_) => Answered::Gateway,
            Site::Service(_) => Answered::Agent,
        }
    }

    /// An error of the way to the upstream, as the far end of the tunnel understands it.
    pub fn blame(&self, error: Error) -> Error {
        match self {
            Site::Listener(_) => error,
            Site::Service(_) => Error { detail: format!("{} at the agent", error.detail).into(), ..error },
        }
    }

    /// Who asks, as far as is known: behind a tunnel only the gateway saw, and says so in the head.
    pub fn client(&self, head: &RequestHead, peer: SocketAddr) -> SocketAddr {
        let said = || {
            let first = tokens(head.fields.get(Known::XForwardedFor)?).next()?;
            std::str::from_utf8(first).ok()?.parse().ok()
        };
        match self {
            Site::Listener(_) => peer,
            Site::Service(_) => said().map_or(peer, |ip| SocketAddr::new(ip, 0)),
        }
    }

    /// Resolves when connections should end, after the request that runs.
    pub fn closing(&self, proxy: &Proxy) -> WaitForCancellationFutureOwned {
        match self {
            Site::Listener(listener) => listener.closing.clone().cancelled_owned(),
            Site::Service(_) => proxy.drain.begun(),
        }
    }

    /// True when connections should end, after the request that runs.
    pub fn is_closing(&self, proxy: &Proxy) -> bool {
        match self {
            Site::Listener(listener) => listener.closing.is_cancelled(),
            Site::Service(_) => proxy.drain.is_begun(),
        }
    }

    /// Finds where a request leads.
    pub fn route(&self, head: &RequestHead, proxy: &Proxy, identity: &Identity, client: IpAddr) -> Result<Route> {
        let listener = match self {
            Site::Service(service) => {
                return Ok(Route {
                    upstreams: UpstreamSet::One(service.upstream.clone()),
                    endpoint: service.endpoint.clone(),
                    lead: None,
                    tcp: false,
                });
            }
            Site::Listener(listener) => listener,
        };
        let table = proxy.table.load();
        if let Some(lead) = table.find(&listener.name, head) {
            return follow(lead.clone(), proxy, head, client);
        }
        let dynamic = listener.dynamic.load();
        if !table.has_no_routes() && !listener.names_endpoints() {
            return Err(Error::new(Code::NoRoute, ""));
        }
        let (name, tcp): (Cow<'_, str>, bool) = match route::endpoint_of(head) {
            Ok(Named::Http(name)) => (name, false),
            Ok(Named::Tcp(name)) => (name.into(), true),
            Err(error) if error.code == Code::MissingEndpoint && !table.has_no_routes() => {
                return Err(Error::new(Code::NoRoute, ""));
            }
            Err(error) => return Err(error),
        };
        // A name that is not permitted is answered like one that nobody offers, so that nothing is told by the difference.
        let endpoint = (permits(&dynamic, &table, &name) && identity.reach.contains(&name))
            .then(|| proxy.registry.find(&identity.tenant, &name))
            .flatten()
            .ok_or(Error::undelivered(Code::NoUpstream, ""))?;
        let label = endpoint.name.clone();
        Ok(Route { upstreams: UpstreamSet::Endpoint(endpoint), endpoint: label, lead: None, tcp })
    }
}

/// Where a route of the configuration leads.
fn follow(lead: Arc<Lead>, proxy: &Proxy, head: &RequestHead, client: IpAddr) -> Result<Route> {
    lead.requests.fetch_add(1, Ordering::Relaxed);
    let Some(forward) = lead.forward() else {
        return Err(Error::new(Code::NoRoute, "redirects and fixed answers"));
    };
    let (upstreams, endpoint) = match &lead.group {
        Some(group) => (UpstreamSet::Group(group.clone(), group.key_of(Some(head), client)), group.name.clone()),
        None => proxy.destination(&forward.to, client).ok_or(Error::undelivered(Code::NoUpstream, ""))?,
    };
    Ok(Route { upstreams, endpoint, lead: Some(lead), tcp: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_endpoint_that_allow_names_is_reached_by_name() {
        let allowed = DynamicEndpoints::Allow(vec!["postgres".into()]);
        let table = Table::empty();
        assert!(permits(&allowed, &table, "postgres") && !permits(&allowed, &table, "web"));
        assert!(permits(&DynamicEndpoints::Unnamed, &table, "web"));
    }
}

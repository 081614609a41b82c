//! Where a request came in, and where that leads it.
//!
//! A gateway's listener reads an endpoint from the request; an agent's service is one address. Nothing else differs
//! between a request that a gateway proxies and one that an agent does.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::access::Answered;
use super::shared::Proxy;
use crate::error::{Code, Error, Result};
use crate::identity::Identity;
use crate::message::{Known, RequestHead, tokens};
use crate::route::{self, Named};
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
    /// What is in force on it.
    pub rules: ArcSwap<Rules>,
}

/// Which endpoints a request may name by itself.
pub struct Rules {
    dynamic: DynamicEndpoints,
    /// Names that something else of the configuration leads to.
    named: HashSet<String>,
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
    /// The endpoint's name, for logs and metrics.
    pub endpoint: Arc<str>,
    /// A byte stream over WebSocket is asked for, not an HTTP exchange.
    pub tcp: bool,
}

impl Rules {
    /// Rules as the snapshot has them; `named` are endpoints that TCP listeners lead to.
    pub fn new(dynamic: DynamicEndpoints, named: HashSet<String>) -> Self {
        Rules { dynamic, named }
    }

    /// True when a request may name this endpoint.
    pub fn permits(&self, endpoint: &str) -> bool {
        match &self.dynamic {
            DynamicEndpoints::Unnamed => !self.named.contains(endpoint),
            DynamicEndpoints::Allow(names) => names.iter().any(|name| name == endpoint),
        }
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

    /// Finds where a request leads.
    pub fn route(&self, head: &RequestHead, proxy: &Proxy, identity: &Identity) -> Result<Route> {
        let listener = match self {
            Site::Service(service) => {
                return Ok(Route {
                    upstreams: UpstreamSet::One(service.upstream.clone()),
                    endpoint: service.endpoint.clone(),
                    tcp: false,
                });
            }
            Site::Listener(listener) => listener,
        };
        let (name, tcp): (Cow<'_, str>, bool) = match route::endpoint_of(head)? {
            Named::Http(name) => (name, false),
            Named::Tcp(name) => (name.into(), true),
        };
        // A name that is not permitted is answered like one that nobody offers, so that nothing is told by the difference.
        let endpoint = (listener.rules.load().permits(&name) && identity.reach.contains(&name))
            .then(|| proxy.registry.find(&identity.tenant, &name))
            .flatten()
            .ok_or(Error::undelivered(Code::NoUpstream, ""))?;
        let label = endpoint.name.clone();
        Ok(Route { upstreams: UpstreamSet::Endpoint(endpoint), endpoint: label, tcp })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_of_a_tcp_listener_is_reached_by_name_only_where_allow_says_so() {
        let named = HashSet::from(["postgres".to_owned()]);
        let unnamed = Rules::new(DynamicEndpoints::Unnamed, named.clone());
        assert!(unnamed.permits("web") && !unnamed.permits("postgres"));
        let allowed = Rules::new(DynamicEndpoints::Allow(vec!["postgres".into()]), named);
        assert!(allowed.permits("postgres") && !allowed.permits("web"));
    }
}

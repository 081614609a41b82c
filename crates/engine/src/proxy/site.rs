//! Where a request came in, and where that leads it.
//!
//! A gateway's listener reads an endpoint from the request; an agent's service is one address. Nothing else differs
//! between a request that a gateway proxies and one that an agent does.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::{ArcSwap, Guard};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::access::Answered;
use super::respond::Answer;
use super::shared::{Proxy, Settings};
use super::table::{Lead, Table};
use crate::error::{Code, Error, Result};
use crate::forwarded::Visitor;
use crate::http1::target;
use crate::identity::Identity;
use crate::message::{Known, RequestHead, tokens};
use crate::route::matcher::TwoWays;
use crate::route::{self, Named, path, redirect};
use crate::snapshot::route::{Action, Forward, PathRewrite, Redirect};
use crate::snapshot::{Destination, DynamicEndpoints, HostHeader};
use crate::terms::Terms;
use crate::tunnel::hello::Offers;
use crate::upstream::{Upstream, UpstreamSet};
use crate::verdict::Access;

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
    /// Who may come in by a table that does not know it any more.
    pub last: ArcSwap<Access>,
    /// What connections were let in by.
    pub terms: Arc<Terms>,
    /// Where forwards are told that QUIC is.
    pub quic: ArcSwap<Offers>,
}

/// Who may come in by a listener.
pub enum Entry<'a> {
    /// As the table says that a request goes by.
    Known(&'a Access),
    /// As it was when the listener went.
    Last(Guard<Arc<Access>>),
}

impl Deref for Entry<'_> {
    type Target = Access;

    fn deref(&self) -> &Access {
        match self {
            Entry::Known(access) => access,
            Entry::Last(access) => access,
        }
    }
}

impl HttpListener {
    /// Who may come in by the table that a request goes by: what it asks for and where it leads are of one
    /// configuration, whatever is put in force meanwhile.
    pub fn access<'a>(&self, table: &'a Table) -> Entry<'a> {
        table.access_of(&self.name).map_or_else(|| Entry::Last(self.last.load()), Entry::Known)
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

/// What becomes of a request.
pub enum Way {
    /// It is sent on: where to, and what logs and metrics call that.
    On(Route, Arc<str>),
    /// The configuration answers it.
    Answered(Answer, Arc<Lead>),
}

/// Where a request leads.
pub struct Route {
    /// Whoever may serve it.
    pub upstreams: UpstreamSet,
    /// The route of the configuration that it took, where it took one.
    pub lead: Option<Arc<Lead>>,
    /// The target that is sent on, where it is another one.
    pub target: Option<Vec<u8>>,
    /// What is asked for.
    pub wants: Wants,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// An HTTP exchange.
    Exchange,
    /// A byte stream.
    Bytes,
    /// A flow of datagrams.
    Datagrams,
}

impl Route {
    /// How the configuration wants the request sent on.
    pub fn forward(&self) -> Option<&Forward> {
        self.lead.as_ref()?.forward()
    }

    /// The deadlines of the route, where it has its own.
    pub fn settings(&self, usual: &Settings) -> Option<Settings> {
        let forward = self.forward()?;
        if forward.response_timeout.is_none() && forward.idle_timeout.is_none() {
            return None;
        }
        let mut settings = usual.clone();
        settings.timeouts.response = forward.response_timeout.unwrap_or(settings.timeouts.response);
        settings.timeouts.idle = forward.idle_timeout.unwrap_or(settings.timeouts.idle);
        Some(settings)
    }
}

/// True when a request may name this endpoint by itself.
fn permits(dynamic: &DynamicEndpoints, table: &Table, owner: &str, endpoint: &str) -> bool {
    match dynamic {
        DynamicEndpoints::Unnamed => !table.names(owner, endpoint),
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

    /// Who asks, as far as is known: behind a tunnel only the gateway saw, and says so in the head.
    pub fn visitor(&self, head: &RequestHead, peer: SocketAddr, proto: &'static str, table: &Table) -> Visitor {
        let said = || {
            let first = tokens(head.fields.get(Known::XForwardedFor)?).next()?;
            std::str::from_utf8(first).ok()?.parse().ok()
        };
        match self {
            Site::Listener(_) => Visitor::of(&head.fields, peer, proto, &table.trusted_proxies),
            Site::Service(_) => Visitor::direct(said().map_or(peer, |ip| SocketAddr::new(ip, 0)), proto),
        }
    }

    /// Resolves when connections should end, after the request that runs.
    pub fn closing(&self, proxy: &Proxy) -> WaitForCancellationFutureOwned {
        match self {
            Site::Listener(listener) => listener.terms.closing(),
            Site::Service(_) => proxy.drain.begun(),
        }
    }

    /// True when connections should end, after the request that runs.
    pub fn is_closing(&self, proxy: &Proxy) -> bool {
        match self {
            Site::Listener(listener) => listener.terms.are_closing(),
            Site::Service(_) => proxy.drain.is_begun(),
        }
    }

    /// Refuses a request on a connection that would not be let in like this any more.
    pub fn admit(&self) -> Result<()> {
        match self {
            Site::Listener(listener) if listener.terms.are_revoked() => Err(revoked()),
            Site::Listener(_) | Site::Service(_) => Ok(()),
        }
    }

    /// The route of the configuration that a request takes; none where it takes none.
    pub fn find(&self, head: &RequestHead, table: &Table) -> Result<Option<Arc<Lead>>> {
        match self {
            Site::Service(_) => Ok(None),
            Site::Listener(listener) => {
                table.find(&listener.name, head).map(Option::<&Arc<Lead>>::cloned).map_err(two_ways)
            }
        }
    }

    /// What becomes of a request that takes this route of `table`, or has to name an endpoint by itself, and was let
    /// in.
    pub fn way(
        &self,
        table: &Table,
        lead: Option<Arc<Lead>>,
        head: &RequestHead,
        visitor: &Visitor,
        proxy: &Proxy,
        identity: &Identity,
    ) -> Result<Way> {
        let listener = match self {
            Site::Service(service) => {
                let upstreams = UpstreamSet::One(service.upstream.clone());
                let route = Route { upstreams, lead: None, target: None, wants: Wants::Exchange };
                return Ok(Way::On(route, service.endpoint.clone()));
            }
            Site::Listener(listener) => listener,
        };
        let access = listener.access(table);
        if let Some(lead) = lead {
            return follow(lead, &access, head, visitor, proxy, identity);
        }
        let owner = if access.tenant.is_empty() { &identity.tenant } else { &access.tenant };
        let (name, wants) = named(table, &access.dynamic, owner, head)?;
        let found = if identity.may_reach(owner, &name) { proxy.registry.find(owner, &name) } else { None };
        let endpoint = found.ok_or(Error::undelivered(Code::NoUpstream, ""))?;
        let label = endpoint.name.clone();
        let upstreams = UpstreamSet::Endpoint(endpoint);
        Ok(Way::On(Route { upstreams, lead: None, target: None, wants }, label))
    }
}

/// The endpoint that a request names by itself, where it may, and what it wants there. `owner`: whose
/// endpoints it means.
pub(super) fn named<'a>(
    table: &Table,
    dynamic: &DynamicEndpoints,
    owner: &str,
    head: &'a RequestHead,
) -> Result<(Cow<'a, str>, Wants)> {
    if !table.has_no_routes() && *dynamic == DynamicEndpoints::Allow(Vec::new()) {
        return Err(Error::new(Code::NoRoute, ""));
    }
    let (name, wants): (Cow<'_, str>, Wants) = match route::endpoint_of(head) {
        Ok(Named::Http(name)) => (name, Wants::Exchange),
        Ok(Named::Tcp(name)) => (name.into(), Wants::Bytes),
        Ok(Named::Udp(name)) => (name.into(), Wants::Datagrams),
        Err(error) if error.code == Code::MissingEndpoint && !table.has_no_routes() => {
            return Err(Error::new(Code::NoRoute, ""));
        }
        Err(error) => return Err(error),
    };
    // A name that is not permitted is answered like one that nobody offers, so that nothing is told by the difference.
    if !permits(dynamic, table, owner, &name) {
        return Err(Error::undelivered(Code::NoUpstream, ""));
    }
    Ok((name, wants))
}

/// What begins too late on a connection that was let in by other terms.
pub fn revoked() -> Error {
    Error::new(Code::Misdirected, "the terms of this connection are in force no more: open another one")
}

/// What a route of the configuration makes of a request that came by `access`.
fn follow(
    lead: Arc<Lead>,
    access: &Access,
    head: &RequestHead,
    visitor: &Visitor,
    proxy: &Proxy,
    identity: &Identity,
) -> Result<Way> {
    lead.requests.fetch_add(1, Ordering::Relaxed);
    let endpoint = lead.forward().and_then(|forward| match &forward.to {
        Destination::Endpoint(to) => Some(to),
        Destination::Upstream(_) => None,
    });
    // Whose endpoints it leads to where it does not say.
    let tenant = &*access.tenant;
    let challenge = |error| match lead.policy(access.policy.as_ref()) {
        Some(policy) => policy.challenge(error),
        None => error,
    };
    // An endpoint has an owner of its own; whatever else is here belongs to the route.
    let owner = if lead.route.tenant.is_empty() { tenant } else { &lead.route.tenant };
    match endpoint {
        Some(to) if !identity.may_reach(to.owner(tenant), &to.endpoint) => {
            return Err(challenge(Error::new(Code::EndpointNotPermitted, "")));
        }
        None if !owner.is_empty() && !identity.tenant.is_empty() && *identity.tenant != *owner => {
            return Err(challenge(Error::new(Code::UnknownTenant, "this route is another tenant's")));
        }
        _ => {}
    }
    let forward = match (&lead.route.action, &lead.answer) {
        (Action::Forward(forward), _) => forward,
        (Action::Redirect(to), _) => return Ok(Way::Answered(redirected(to, head, visitor)?, lead.clone())),
        (Action::Respond(_), answer) => {
            let answer = answer.clone().unwrap_or_else(|| Answer::new(204));
            return Ok(Way::Answered(answer, lead.clone()));
        }
    };
    let client = visitor.client.ip();
    let (upstreams, label) = match &lead.group {
        Some(group) => UpstreamSet::of_group(group, Some(head), client),
        None => proxy.destination(&forward.to, tenant, client).ok_or(Error::undelivered(Code::NoUpstream, ""))?,
    };
    let target = rewritten(head, &lead, forward)?;
    Ok(Way::On(Route { upstreams, lead: Some(lead), target, wants: Wants::Exchange }, label))
}

/// The target that is sent on, where it is another one than came.
pub(super) fn rewritten(head: &RequestHead, lead: &Lead, forward: &Forward) -> Result<Option<Vec<u8>>> {
    let by = match &forward.path {
        PathRewrite::Keep => return Ok(None),
        PathRewrite::Strip => "",
        PathRewrite::Replace(by) => by,
    };
    // Cut off from what stood before them, dot segments would lead out of what the route stands for.
    if path::has_dot_segments(&path::normal(head.path())) {
        return Err(Error::new(Code::MalformedRequest, "the path has dot segments, and this route rewrites it"));
    }
    Ok(path::replaced(head.target(), &lead.matched, by.as_bytes()))
}

/// The answer of a redirect.
pub(super) fn redirected(redirect: &Redirect, head: &RequestHead, visitor: &Visitor) -> Result<Answer> {
    let told = visitor.behind.as_ref().and_then(|behind| behind.host.as_deref());
    let (host, _) = target::split(told.or(head.fields.get(Known::Host)).unwrap_or_default());
    let asked = redirect::Asked { scheme: visitor.proto, host, target: head.target() };
    let location = redirect::location(&redirect.to, &asked);
    let location = location.ok_or(Error::new(Code::MalformedRequest, "a request without Host cannot be redirected"))?;
    let mut answer = Answer::new(redirect.status);
    answer.fields.push(b"Location", &location);
    Ok(answer)
}

/// A path that is refused because it may be read in two ways.
pub(super) fn two_ways(_: TwoWays) -> Error {
    let detail = "the path may be read in two ways that take different routes: write it without //, dot segments, ; \
                  and escaped slashes";
    Error::new(Code::MalformedRequest, detail)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::shutdown::Drain;
    use crate::snapshot::Listener;

    #[test]
    fn only_an_endpoint_that_allow_names_is_reached_by_name() {
        let allowed = DynamicEndpoints::Allow(vec!["postgres".into()]);
        let table = Table::empty();
        assert!(permits(&allowed, &table, "", "postgres") && !permits(&allowed, &table, "", "web"));
        assert!(permits(&DynamicEndpoints::Unnamed, &table, "", "web"));
    }

    #[test]
    fn which_endpoints_may_be_named_is_said_by_the_table_that_says_what_is_asked() {
        let dynamic = |word: &str| {
            let whole = json!({
                "version": "0", "node": "n", "workers": 1, "takeover": false, "upstreams": [], "routes": [],
                "routing": "specific", "no_route_status": 404, "trusted_proxies": [], "public_url": null,
                "error_pages": {"html": null, "json": null},
                "timeouts": {"connect": 5.0, "handshake": 5.0, "head": 5.0, "response": 10.0, "idle": 30.0,
                             "keep_alive": 30.0, "upstream_keep_alive": 30.0},
                "limits": {"head_bytes": 65536, "head_fields": 100, "connections": 400, "idle_upstreams": 10,
                           "retry_percent": 20, "http2_streams": 100},
                "tunnel": {"ping_interval": 30.0, "ping_timeout": 10.0, "congestion": "cubic"},
                "access_log": {"to": null, "format": "text"},
                "listeners": [{"name": "web", "bind": [], "tls": null, "proxy_protocol": [], "kind": "http",
                    "transports": ["websocket"],
                               "dynamic_endpoints": serde_json::from_str::<Value>(word).expect("JSON")}],
            });
            Table::compile(&serde_json::from_value(whole).expect("a snapshot"), &Table::empty()).expect("a table")
        };
        let (before, after) = (dynamic(r#""unnamed""#), dynamic(r#"{"allow": []}"#));
        let listener: Listener = serde_json::from_value(json!({
            "name": "web", "bind": [], "tls": null, "proxy_protocol": [], "transports": ["websocket"], "kind": "http",
            "dynamic_endpoints": "unnamed",
        }))
        .expect("a listener");
        // The table is in force, and the listener has not heard of it yet.
        let (last, terms) = (ArcSwap::new(before.access("web")), Terms::of(&listener, &Drain::new()));
        let listener = HttpListener { name: "web".into(), last, terms, quic: ArcSwap::default() };
        assert!(listener.access(&before).dynamic.permits_any() && !listener.access(&after).dynamic.permits_any());
        assert!(listener.access(&Table::empty()).dynamic.permits_any());
    }
}

//! The routes and upstreams in force, compiled from one snapshot and replaced whole.
//!
//! Which route a request takes is `route::matcher`; what an upstream does with it is `upstream::group`.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hashbrown::HashMap;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::respond::{Answer, Pages};
use crate::credential::head::Shows;
use crate::error::{Code, Error};
use crate::headers;
use crate::message::RequestHead;
use crate::route::matcher::{Matcher, TwoWays};
use crate::route::path;
use crate::route::server_name::{Decision, ServerNames};
use crate::snapshot::auth::RouteAuth;
use crate::snapshot::route::{Action, Edits, Forward, PathMatch};
use crate::snapshot::{self, Auth, Destination, DynamicEndpoints, EndpointRef, ListenerKind, Neighbours, Routing};
use crate::upstream::Group;
use crate::verdict::{Access, Policy};

/// Everything that routes lead to.
pub struct Table {
    matcher: Matcher,
    server_names: ServerNames,
    leads: Vec<Arc<Lead>>,
    groups: HashMap<String, Arc<Group>>,
    /// Endpoints that something in the configuration leads to, and whose they are.
    named: HashMap<String, Vec<String>>,
    /// What a request gets that no route matches.
    no_route_status: u16,
    pages: Pages,
    /// Which of several matching routes counts.
    pub routing: Routing,
    /// Whose `X-Forwarded-...` fields are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Who may come in by each listener.
    accesses: HashMap<String, Arc<Access>>,
    /// Ids that verdicts about credentials may be given under.
    credential_ids: HashSet<String>,
}

/// A route, ready to be followed.
pub struct Lead {
    /// The route as the configuration has it.
    pub route: snapshot::Route,
    /// The upstream that it leads to, where that is one.
    pub group: Option<Arc<Group>>,
    /// Its name, for logs and metrics.
    pub name: Arc<str>,
    /// The part of a path that it matches, in normal form.
    pub matched: Box<[u8]>,
    /// The fixed answer, where it gives one.
    pub answer: Option<Answer>,
    /// From where it may be taken.
    pub neighbours: Neighbours,
    /// What it asks for; none: whatever its listener does.
    pub asks: Option<Asks>,
    /// Requests and streams that took it; a route that stays as it is goes on counting.
    pub requests: Arc<AtomicU64>,
}

/// What a route asks for by itself.
pub enum Asks {
    /// Nothing.
    Nothing,
    /// A credential.
    Credential(Arc<Policy>),
}

impl Lead {
    /// Which credentials it asks for, on a listener where `usual` are asked for.
    pub fn policy<'a>(&'a self, usual: Option<&'a Arc<Policy>>) -> Option<&'a Arc<Policy>> {
        match &self.asks {
            None => usual,
            Some(Asks::Nothing) => None,
            Some(Asks::Credential(policy)) => Some(policy),
        }
    }

    /// What it is for, and how often it was taken.
    pub fn describe(&self) -> Value {
        json!({
            "name": &*self.name,
            "match": self.route.wanted(),
            "to": self.route.action.to_string(),
            "requests": self.requests.load(Ordering::Relaxed),
        })
    }

    /// How requests are sent on, where they are.
    pub fn forward(&self) -> Option<&Forward> {
        match &self.route.action {
            Action::Forward(forward) => Some(forward),
            Action::Redirect(_) | Action::Respond(_) => None,
        }
    }
}

impl Table {
    /// No route and no upstream: what an agent has.
    pub fn empty() -> Self {
        Table {
            matcher: Matcher::new(&[], Routing::Specific),
            server_names: ServerNames::new(&[]),
            leads: Vec::new(),
            groups: HashMap::new(),
            named: HashMap::new(),
            no_route_status: 404,
            pages: Pages::default(),
            routing: Routing::Specific,
            trusted_proxies: Vec::new(),
            accesses: HashMap::new(),
            credential_ids: HashSet::new(),
        }
    }

    /// The table of a snapshot. Upstreams that are as they were go on with their state. An error says what cannot be.
    pub fn compile(snapshot: &snapshot::Gateway, before: &Table) -> Result<Self, String> {
        let mut groups = HashMap::new();
        for upstream in &snapshot.upstreams {
            let group = match before.groups.get(&upstream.name) {
                Some(group) if group.is_as_in(upstream, &snapshot.timeouts) => group.clone(),
                other => Group::new(upstream, &snapshot.timeouts, other.map(|group| &**group))?,
            };
            groups.insert(upstream.name.clone(), group);
        }
        for listener in &snapshot.listeners {
            if let ListenerKind::Tcp { to } = &listener.kind {
                group_of(to, &groups)
                    .map_err(|name| format!("listener \"{}\": there is no upstream \"{name}\"", listener.name))?;
            }
        }
        let (mut accesses, mut credential_ids) = (HashMap::new(), HashSet::new());
        let mut policy = |auth: &Auth, by: Shows, what: String| {
            credential_ids.extend(auth.ids().map(str::to_owned));
            Policy::compile(auth, by, &snapshot.verifier_sets).map_err(|why| format!("{what}: {why}"))
        };
        for listener in &snapshot.listeners {
            let named = || format!("listener \"{}\"", listener.name);
            let by = match &listener.kind {
                ListenerKind::Connect { .. } => Shows::ToProxy,
                _ => Shows::ToService,
            };
            let policy = listener.auth.as_ref().map(|auth| policy(auth, by, named())).transpose()?;
            let neighbours = Neighbours { allow: listener.allow.clone(), deny: listener.deny.clone() };
            let dynamic = match &listener.kind {
                ListenerKind::Http { dynamic_endpoints } => dynamic_endpoints.clone(),
                ListenerKind::Tcp { .. }
                | ListenerKind::Udp { .. }
                | ListenerKind::Tunnel {}
                | ListenerKind::Connect { .. } => DynamicEndpoints::default(),
            };
            let access = Access { neighbours, tenant: listener.tenant.as_str().into(), dynamic, policy };
            accesses.insert(listener.name.clone(), Arc::new(access));
        }
        let counted: HashMap<&str, &Arc<Lead>> = before.leads.iter().map(|lead| (&*lead.name, lead)).collect();
        let mut leads = Vec::new();
        for route in &snapshot.routes {
            let group = match &route.action {
                Action::Forward(forward) => group_of(&forward.to, &groups)
                    .map_err(|name| format!("route \"{}\": there is no upstream \"{name}\"", route.name))?,
                Action::Redirect(_) | Action::Respond(_) => None,
            };
            let asks = match &route.auth {
                RouteAuth::Inherit => None,
                RouteAuth::Open => Some(Asks::Nothing),
                RouteAuth::Own(auth) => {
                    Some(Asks::Credential(policy(auth, Shows::ToService, format!("route \"{}\"", route.name))?))
                }
            };
            let same = counted.get(route.name.as_str()).filter(|lead| lead.route == *route);
            leads.push(Arc::new(Lead {
                group,
                name: route.name.as_str().into(),
                matched: matched(route),
                answer: answer(route)?,
                neighbours: Neighbours { allow: route.allow.clone(), deny: route.deny.clone() },
                asks,
                requests: same.map_or_else(Arc::default, |lead| lead.requests.clone()),
                route: route.clone(),
            }));
        }
        Ok(Table {
            matcher: Matcher::new(&snapshot.routes, snapshot.routing),
            server_names: ServerNames::new(&snapshot.routes),
            leads,
            groups,
            named: endpoints_named(snapshot),
            no_route_status: snapshot.no_route_status,
            pages: Pages::new(&snapshot.error_pages),
            routing: snapshot.routing,
            trusted_proxies: snapshot.trusted_proxies.clone(),
            accesses,
            credential_ids,
        })
    }

    /// Who may come in by a listener.
    pub fn access(&self, listener: &str) -> Arc<Access> {
        self.accesses.get(listener).cloned().unwrap_or_default()
    }

    /// The same, where there is such a listener.
    pub fn access_of(&self, listener: &str) -> Option<&Access> {
        self.accesses.get(listener).map(|access| &**access)
    }

    /// Ids that verdicts about credentials may be given under.
    pub fn credential_ids(&self) -> &HashSet<String> {
        &self.credential_ids
    }

    /// The route that a request takes on a listener.
    pub fn find(&self, listener: &str, head: &RequestHead) -> Result<Option<&Arc<Lead>>, TwoWays> {
        Ok(self.matcher.find(listener, head)?.map(|position| &self.leads[position]))
    }

    /// Every route, in the order of the configuration.
    pub fn leads(&self) -> &[Arc<Lead>] {
        &self.leads
    }

    /// The answer to an error.
    pub fn answer(&self, error: &Error, request_id: u64, prefers_html: bool) -> Answer {
        let status = if error.code == Code::NoRoute { self.no_route_status } else { error.code.status() };
        self.pages.answer(error, status, request_id, prefers_html)
    }

    /// The answer to an error for a program that has named the upstream itself.
    pub fn explain(&self, error: &Error, status: u16, request_id: u64) -> Answer {
        self.pages.explain(error, status, request_id)
    }

    /// What becomes of a TLS connection for `name` on a listener. `ends_here`: the listener has certificates.
    pub fn decide(&self, listener: &str, name: Option<&str>, ends_here: bool) -> Decision {
        self.server_names.decide(listener, name, ends_here)
    }

    /// True when a route on the listener is for this host, or for every host.
    pub fn answers(&self, listener: &str, host: &str) -> bool {
        self.server_names.answers(listener, host)
    }

    /// True when some route passes TLS connections through.
    pub fn pass_through(&self) -> bool {
        self.server_names.pass_through()
    }

    /// The route at a position that [`Table::decide`] gave.
    pub fn lead(&self, position: usize) -> &Arc<Lead> {
        &self.leads[position]
    }

    /// The upstream of this name.
    pub fn group(&self, name: &str) -> Option<&Arc<Group>> {
        self.groups.get(name)
    }

    /// Every upstream.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.groups.values()
    }

    /// True where there is no route, so that a request has to name its endpoint by itself.
    pub fn has_no_routes(&self) -> bool {
        self.leads.is_empty()
    }

    /// True when something in the configuration leads to this endpoint of an owner, or may lead there: what names no
    /// owner leads to those of its listener.
    pub fn names(&self, owner: &str, endpoint: &str) -> bool {
        self.named.get(endpoint).is_some_and(|owners| owners.iter().any(|one| one.is_empty() || one == owner))
    }
}

/// The part of a path that a route matches.
fn matched(route: &snapshot::Route) -> Box<[u8]> {
    match &route.path {
        None => Box::default(),
        Some(PathMatch::Exact(path)) => path::normal(path.as_bytes()).into(),
        Some(PathMatch::Prefix(prefix)) => path::without_slash(&path::normal(prefix.as_bytes())).into(),
    }
}

/// The answer of a route that gives a fixed one, and what cannot be written into fields.
fn answer(route: &snapshot::Route) -> Result<Option<Answer>, String> {
    let refused = |(name, value): (&str, &str)| {
        let why = headers::refuse_edit(name, value)?;
        Some(format!("route \"{}\": the field \"{name}\" {why}", route.name))
    };
    let pair = |(name, value): &'_ (String, String)| refused((name, value));
    let edits = |edits: &Edits| {
        let removed = edits.remove.iter().find_map(|name| refused((name, "")));
        removed.or_else(|| edits.set.iter().chain(&edits.add).find_map(pair))
    };
    let (mistake, answer) = match &route.action {
        Action::Forward(forward) => (edits(&forward.request_headers).or(edits(&forward.response_headers)), None),
        Action::Redirect(redirect) => (refused(("location", &redirect.to)), None),
        Action::Respond(respond) => {
            let mistake = respond.headers.iter().find_map(pair);
            let body = Bytes::copy_from_slice(respond.body.as_bytes());
            let mut answer = Answer { body, ..Answer::new(respond.status) };
            // What cannot be written is refused before anybody gets it.
            for (name, value) in respond.headers.iter().filter(|_| mistake.is_none()) {
                answer.fields.push(name.as_bytes(), value.as_bytes());
            }
            if !respond.body.is_empty() && answer.fields.find("content-type").is_none() {
                answer.fields.push(b"Content-Type", b"text/plain; charset=utf-8");
            }
            (mistake, Some(answer))
        }
    };
    mistake.map_or(Ok(answer), Err)
}

fn group_of(to: &Destination, groups: &HashMap<String, Arc<Group>>) -> Result<Option<Arc<Group>>, String> {
    match to {
        Destination::Endpoint(_) => Ok(None),
        Destination::Upstream(name) => groups.get(name).cloned().map(Some).ok_or_else(|| name.clone()),
    }
}

fn endpoints_named(snapshot: &snapshot::Gateway) -> HashMap<String, Vec<String>> {
    let mut named: HashMap<String, Vec<String>> = HashMap::new();
    let mut name = |to: &EndpointRef, tenant: &str| {
        named.entry(to.endpoint.clone()).or_default().push(to.owner(tenant).to_owned());
    };
    for route in &snapshot.routes {
        if let Action::Forward(forward) = &route.action
            && let Destination::Endpoint(to) = &forward.to
        {
            name(to, "");
        }
    }
    for listener in &snapshot.listeners {
        match &listener.kind {
            ListenerKind::Tcp { to: Destination::Endpoint(to) } | ListenerKind::Udp { to, .. } => {
                name(to, &listener.tenant);
            }
            ListenerKind::Connect { to } => to.iter().for_each(|one| name(&one.to, &listener.tenant)),
            ListenerKind::Tcp { .. } | ListenerKind::Http { .. } | ListenerKind::Tunnel {} => {}
        }
    }
    named
}

//! What becomes of a request, and why: the same decisions as `secured` and `site` make, told instead of carried out.
//!
//! Works on a table in force as well as on one that was compiled only to be asked. What agents offer at the moment is
//! told by whoever knows.

use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::secured::{Fate, Rules};
use super::site::{named, redirected, rewritten};
use super::table::{Asks, Lead, Table};
use crate::error::{Code, Error};
use crate::forwarded::Visitor;
use crate::http1::head::{HeadLimits, parse_request};
use crate::http1::target;
use crate::message::{Known, RequestHead, is_value};
use crate::route::path;
use crate::route::why::{Asked, why_first, why_not};
use crate::snapshot::route::{Action, Destination, Forward};
use crate::snapshot::{DynamicEndpoints, HostHeader, Listener, ListenerKind};
use crate::sniff::name;
use crate::tls::server::CertificateNames;
use crate::upstream::Group;

/// Routes that were not taken and are told about.
const TOLD: usize = 10;

/// A request that somebody wants to know about.
#[derive(Clone, Debug, Deserialize)]
pub struct Question {
    /// Where it comes in; none: the one at the host's port, else the first that fits.
    pub listener: Option<String>,
    /// `http` or `https`.
    pub scheme: String,
    /// The host with a port, where the URL has one.
    pub host: String,
    /// The path with its query.
    pub target: String,
    /// The method.
    pub method: String,
    /// Fields besides Host.
    pub headers: Vec<(String, String)>,
    /// The TLS server name; none: the host.
    pub sni: Option<String>,
}

/// A listener, and where it can be reached.
pub struct Place<'a> {
    /// As the configuration has it.
    pub listener: &'a Listener,
    /// The addresses that are bound; as configured where nothing is.
    pub addresses: Vec<SocketAddr>,
}

/// Tells who offers an endpoint, by its owner and name; none where nobody does.
pub type Offers<'a> = &'a dyn Fn(&str, &str) -> Option<Value>;

/// What becomes of a request. `offers` and the state of addresses are told where something runs. An error says what
/// cannot be asked.
pub fn explain(
    table: &Table,
    places: &[Place<'_>],
    question: &Question,
    offers: Option<Offers<'_>>,
) -> Result<Value, String> {
    let head = match read(question)? {
        Ok(head) => head,
        Err(error) => return Ok(json!({"listener": null, "route": null, "answer": refusal(table, &error)})),
    };
    let place = place(places, question)?;
    let listener = place.listener;
    let mut told = Map::new();
    told.insert(
        "listener".into(),
        json!({"name": listener.name, "addresses": place.addresses, "tls": listener.tls.is_some()}),
    );
    let mut teller = Teller { table, offers, tenant: &listener.tenant, told };
    let dynamic = match &listener.kind {
        ListenerKind::Http { dynamic_endpoints } => dynamic_endpoints,
        ListenerKind::Tcp { to } => {
            teller.say("route", Value::Null);
            teller.say("does", json!("everything that comes in here is passed on; routes do not count"));
            teller.leads_to(to);
            return Ok(Value::Object(teller.told));
        }
        ListenerKind::Udp { .. } => {
            return Err(format!("listener \"{}\" takes datagrams, not requests", listener.name));
        }
        ListenerKind::Connect { .. } => {
            return Err(format!("listener \"{}\" serves CONNECT, and no other request", listener.name));
        }
        ListenerKind::Tunnel {} => {
            return Err(format!("listener \"{}\" is for agents, not for requests", listener.name));
        }
    };
    match (question.scheme == "https", listener.tls.is_some()) {
        (true, false) => return Err(format!("listener \"{}\" speaks no TLS (ask for http://)", listener.name)),
        (false, true) => return Err(format!("listener \"{}\" speaks TLS (ask for https://)", listener.name)),
        (false, false) if question.sni.is_some() => return Err("a server name belongs to https://".to_owned()),
        (false, false) => {}
        (true, true) => {
            let shown = listener.tls.iter().map(|tls| &*tls.certificates).find(|shown| !shown.is_empty());
            let certificates = shown.map(CertificateNames::of).transpose()?;
            let rules = Rules {
                listener: &listener.name,
                certificates: certificates.as_ref(),
                names_endpoints: dynamic.permits_any(),
            };
            let server_name = server_name(question)?;
            teller.say("sni", json!(server_name));
            if !teller.tls(&rules, server_name.as_deref(), &head) {
                return Ok(Value::Object(teller.told));
            }
        }
    }
    let scheme = if question.scheme == "https" { "https" } else { "http" };
    teller.request(listener, dynamic, &head, scheme);
    Ok(Value::Object(teller.told))
}

/// The request as it would be read from a connection.
fn read(question: &Question) -> Result<Result<RequestHead, Error>, String> {
    let mut text = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", question.method, question.target, question.host);
    for (name, value) in &question.headers {
        if !is_value(name.as_bytes()) || !is_value(value.as_bytes()) {
            return Err("a field with control characters".to_owned());
        }
        text += &format!("{name}: {value}\r\n");
    }
    if text.matches("\r\n").count() != question.headers.len() + 2 || text.contains('\0') {
        return Err("a method, host or path with control characters".to_owned());
    }
    text += "\r\n";
    let mut head = RequestHead::new();
    let limits = HeadLimits { bytes: text.len(), fields: question.headers.len() + 1 };
    Ok(match parse_request(text.as_bytes(), &mut 0, &mut head, &limits) {
        Ok(Some(_)) => Ok(head),
        Ok(None) => Err(Error::new(Code::MalformedRequest, "")),
        Err(error) => Err(error.of_request()),
    })
}

fn place<'a>(places: &'a [Place<'a>], question: &Question) -> Result<&'a Place<'a>, String> {
    if let Some(name) = &question.listener {
        return places.iter().find(|place| place.listener.name == *name).ok_or_else(|| {
            let known: Vec<&str> = places.iter().map(|place| place.listener.name.as_str()).collect();
            format!("there is no listener \"{name}\" (there is {})", known.join(", "))
        });
    }
    let wants_tls = question.scheme == "https";
    let fits = |place: &&Place<'_>| {
        matches!(place.listener.kind, ListenerKind::Http { .. }) && place.listener.tls.is_some() == wants_tls
    };
    let (_, port) = target::split(question.host.as_bytes());
    let named: Option<u16> = port.and_then(|port| std::str::from_utf8(port).ok()?.parse().ok());
    let port = named.unwrap_or(if wants_tls { 443 } else { 80 });
    let at_port = |place: &&Place<'_>| place.addresses.iter().any(|address| address.port() == port);
    let mut fitting = places.iter().filter(fits);
    if let Some(first) = fitting.clone().find(at_port) {
        return Ok(first);
    }
    if named.is_none() {
        let none =
            || format!("no listener of kind http takes {}:// (name one with a port of the URL)", question.scheme);
        return fitting.next().ok_or_else(none);
    }
    // What another kind does with it, or why it cannot be asked, is told as if it had been named.
    places.iter().find(at_port).ok_or_else(|| {
        let on = |place: &Place<'_>| {
            let addresses: Vec<String> = place.addresses.iter().map(ToString::to_string).collect();
            format!("{} on {}", place.listener.name, addresses.join(" and "))
        };
        let known: Vec<String> = places.iter().map(on).collect();
        format!("no listener is on port {port} (there is {}; one can be asked by its name)", known.join(", "))
    })
}

fn server_name(question: &Question) -> Result<Option<String>, String> {
    if let Some(asked) = &question.sni {
        let normal = name::normal(asked.as_bytes()).ok_or_else(|| format!("{asked:?} is no TLS server name"))?;
        return Ok(Some(normal.into_owned()));
    }
    let (host, _) = target::split(question.host.as_bytes());
    Ok(name::normal(host).filter(|name| !name::is_ip(name.as_bytes())).map(Into::into))
}

/// The answer of ours to an error.
fn refusal(table: &Table, error: &Error) -> Value {
    let status = table.answer(error, 0, false).status;
    json!({"status": status, "error": error.code.as_str(), "detail": error.detail})
}

/// Collects what there is to say.
struct Teller<'a> {
    table: &'a Table,
    offers: Option<Offers<'a>>,
    /// Whose endpoints are meant where nothing else says.
    tenant: &'a str,
    told: Map<String, Value>,
}

impl Teller<'_> {
    fn say(&mut self, what: &str, value: Value) {
        self.told.insert(what.to_owned(), value);
    }

    fn took(&mut self, lead: &Lead) {
        let route = &lead.route;
        self.say("route", json!({"name": &*lead.name, "match": route.wanted(), "to": route.action.to_string()}));
    }

    /// What TLS decides; false where it ends there.
    fn tls(&mut self, rules: &Rules<'_>, server_name: Option<&str>, head: &RequestHead) -> bool {
        let table = self.table;
        let fate = rules.fate_of(server_name, table);
        match fate {
            Fate::Terminate(_) => self.say("tls", json!("ends here")),
            Fate::Unknown => {
                let nobody =
                    if rules.certificates.is_some() { "neither a route nor a certificate" } else { "no route" };
                self.say("tls", json!(format!("refused with the alert unrecognized_name: {nobody} has this name")));
                self.say("route", Value::Null);
                return false;
            }
            Fate::PassThrough(position) => {
                let lead = table.lead(position);
                self.say("tls", json!("passed through undecrypted"));
                self.took(lead);
                if let Some(forward) = lead.forward() {
                    self.leads_to(&forward.to);
                }
                return false;
            }
        }
        if let Err(error) = rules.admit(fate, head, false, table) {
            self.say("route", Value::Null);
            self.say("answer", refusal(table, &error));
            return false;
        }
        if let Err(error) = rules.admit(fate, head, true, table) {
            self.say("answer_over_http2", refusal(table, &error));
        }
        true
    }

    /// What becomes of a request whose TLS, if any, ended here.
    fn request(&mut self, listener: &Listener, dynamic: &DynamicEndpoints, head: &RequestHead, scheme: &'static str) {
        let (table, peer) = (self.table, SocketAddr::from(([0, 0, 0, 0], 0)));
        let found = table.find(&listener.name, head);
        self.others(listener, head, found.ok().flatten());
        let lead = match found {
            Ok(found) => found,
            Err(two_ways) => {
                self.say("route", Value::Null);
                return self.say("answer", refusal(table, &super::site::two_ways(two_ways)));
            }
        };
        self.asks(listener, lead);
        let Some(lead) = lead else {
            self.say("route", Value::Null);
            return match named(table, dynamic, &listener.tenant, head) {
                Ok((endpoint, _)) => {
                    self.say("does", json!("no route matches; the request names the endpoint by itself"));
                    self.endpoint(self.tenant, &endpoint);
                }
                Err(error) => self.say("answer", refusal(table, &error)),
            };
        };
        self.took(lead);
        match (&lead.route.action, &lead.answer) {
            (Action::Forward(forward), _) => match rewritten(head, lead, forward) {
                Ok(target) => {
                    let target = target.as_deref().unwrap_or(head.target());
                    self.say("sends", sends(forward, head, target));
                    self.leads_to(&forward.to);
                }
                Err(error) => self.say("answer", refusal(table, &error)),
            },
            (Action::Redirect(redirect), _) => match redirected(redirect, head, &Visitor::direct(peer, scheme)) {
                Ok(answer) => {
                    let location = answer.fields.find("location").map(String::from_utf8_lossy);
                    self.say("answer", json!({"status": answer.status, "location": location}));
                }
                Err(error) => self.say("answer", refusal(table, &error)),
            },
            (Action::Respond(respond), _) => self.say("answer", json!({"status": respond.status})),
        }
    }

    /// From where and with what credential a request may come; nothing where that does not matter.
    fn asks(&mut self, listener: &Listener, lead: Option<&std::sync::Arc<Lead>>) {
        let access = self.table.access(&listener.name);
        let (policy, by) = match lead.and_then(|lead| lead.asks.as_ref()) {
            Some(Asks::Nothing) => (None, "route"),
            Some(Asks::Credential(policy)) => (Some(policy), "route"),
            None => (access.policy.as_ref(), "listener"),
        };
        if let Some(policy) = policy {
            self.say("asks", json!({"by": by, "takes": policy.takes()}));
        }
        let rules = [Some(&access.neighbours), lead.map(|lead| &lead.neighbours)].into_iter().flatten();
        let rules: Vec<Value> = rules
            .filter(|rule| !rule.allow.is_empty() || !rule.deny.is_empty())
            .map(|rule| json!({"allow": rule.allow, "deny": rule.deny}))
            .collect();
        if !rules.is_empty() {
            self.say("addresses", Value::Array(rules));
        }
    }

    /// The routes that came nearest, and why they were not taken.
    fn others(&mut self, listener: &Listener, head: &RequestHead, taken: Option<&std::sync::Arc<Lead>>) {
        let (host, _) = target::split(head.fields.get(Known::Host).unwrap_or_default());
        let host = name::host(host);
        let path = path::normal(head.path());
        let asked = Asked { listener: &listener.name, host: host.as_deref(), path: &path, head };
        let mut others: Vec<(u8, &Lead, String)> = Vec::new();
        for lead in self.table.leads().iter().map(|lead| &**lead) {
            if taken.is_some_and(|taken| taken.name == lead.name) {
                continue;
            }
            others.push(match (why_not(&lead.route, &asked), taken) {
                (Some((near, why)), _) => (near, lead, why),
                (None, Some(taken)) => {
                    let first = why_first(&taken.route, &lead.route, self.table.routing);
                    (u8::MAX, lead, format!("it matches too, but {} {first}", taken.name))
                }
                (None, None) => (u8::MAX, lead, "it matches as the path was sent, not as it may be read".to_owned()),
            });
        }
        others.sort_by_key(|(near, ..)| std::cmp::Reverse(*near));
        let left_out = others.len().saturating_sub(TOLD);
        let told = |(_, lead, why): &(u8, &Lead, String)| {
            let wanted = lead.route.wanted();
            json!({"name": &*lead.name, "match": wanted, "why": why})
        };
        self.say("others", others.iter().take(TOLD).map(told).collect());
        self.say("others_left_out", json!(left_out));
    }

    fn leads_to(&mut self, to: &Destination) {
        match to {
            Destination::Endpoint(to) => self.endpoint(to.owner(self.tenant), &to.endpoint),
            Destination::Upstream(name) => {
                if let Some(group) = self.table.group(name).cloned() {
                    self.group(&group);
                }
            }
        }
    }

    fn group(&mut self, group: &Group) {
        if self.offers.is_some() {
            self.say("upstream", group.describe());
            if group.ids().is_empty() {
                self.say("answer", refusal(self.table, &Error::new(Code::NoUpstream, "")));
            }
            return;
        }
        let address = |address: &crate::snapshot::upstream::UpstreamAddress| {
            let host = if address.host.contains(':') { format!("[{}]", address.host) } else { address.host.clone() };
            let authority = format!("{host}:{}", address.port);
            json!({"address": authority, "tls": address.tls.is_some(), "weight": address.weight})
        };
        let addresses: Vec<Value> = group.made_from.addresses.iter().map(address).collect();
        self.say("upstream", json!({"name": &*group.name, "addresses": addresses}));
    }

    fn endpoint(&mut self, tenant: &str, name: &str) {
        self.say("endpoint", json!({"tenant": tenant, "name": name}));
        let Some(offers) = self.offers else { return };
        match offers(tenant, name) {
            Some(offered) => self.say("endpoint", offered),
            None => self.say("answer", refusal(self.table, &Error::new(Code::NoUpstream, ""))),
        }
    }
}

/// What reaches the upstream.
fn sends(forward: &Forward, head: &RequestHead, target: &[u8]) -> Value {
    let host = match &forward.host_header {
        HostHeader::Keep => String::from_utf8_lossy(head.fields.get(Known::Host).unwrap_or_default()).into_owned(),
        HostHeader::Rewrite => "the address's own".to_owned(),
        HostHeader::Set(name) => name.clone(),
    };
    let (edits, method) = (&forward.request_headers, String::from_utf8_lossy(head.method()));
    let edited = !edits.remove.is_empty() || !edits.set.is_empty() || !edits.add.is_empty();
    json!({"method": method, "target": String::from_utf8_lossy(target), "host": host, "edited": edited})
}

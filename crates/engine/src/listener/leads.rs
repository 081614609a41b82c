//! What a listener does with its connections: one of the kinds, under terms, behind TLS or not.
//!
//! A connection that has a place is handed to what serves its kind. Which listeners there are, and on which sockets, is
//! `set`'s.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::accept::Door;
use super::arrive::{Arrival, Source};
use super::hail::{TunnelListener, Tunnels};
use super::tls::{self, Tls};
use super::udp::{To, UdpListener};
use super::{connect, http, tcp, tunnel};
use crate::proxy::access::{Answered, Record};
use crate::proxy::passthrough;
use crate::proxy::site::HttpListener;
use crate::proxy::table::Table;
use crate::shutdown::Drain;
use crate::snapshot::{Listener, ListenerKind, Transport};
use crate::target::rules::Rules;
use crate::terms::Terms;
use crate::tunnel::hello::Offers;

/// What a listener does with its connections.
pub struct Leads {
    /// What is spoken on it.
    pub kind: Kind,
    /// What connections are let in by.
    pub terms: Arc<Terms>,
    /// How it speaks TLS; none: it does not.
    pub tls: ArcSwapOption<Tls>,
}

/// A kind of listener, and what it is known by.
pub enum Kind {
    /// Requests, routed one by one.
    Http(Arc<HttpListener>),
    /// Bytes that lead to one place.
    Tcp(Arc<tcp::TcpListener>),
    /// Agents.
    Tunnel(Arc<TunnelListener>),
    /// Proxy requests, led by their target.
    Connect(Arc<connect::ConnectListener>),
    /// Datagrams.
    Udp(Arc<UdpListener>),
}

impl Leads {
    /// What this listener leads to; `connections` counts those that are open.
    pub fn new(listener: &Listener, table: &Table, connections: &Arc<AtomicUsize>, drain: &Drain) -> Self {
        let name: Arc<str> = listener.name.as_str().into();
        let access = ArcSwap::new(table.access(&listener.name));
        let terms = Terms::of(listener, drain);
        let kind = match &listener.kind {
            ListenerKind::Http { .. } => {
                let (name, terms) = (name.clone(), terms.clone());
                let quic = ArcSwap::from_pointee(offers(listener));
                Kind::Http(Arc::new(HttpListener { name, last: access, terms, quic }))
            }
            ListenerKind::Tcp { to } => {
                let to = ArcSwap::from_pointee(tcp::To::new(to, table));
                Kind::Tcp(Arc::new(tcp::TcpListener { name: name.clone(), to, access, terms: terms.clone() }))
            }
            ListenerKind::Udp { to, idle, sessions } => {
                let (name, terms, to) = (name.clone(), terms.clone(), To::new(to, *idle, *sessions));
                Kind::Udp(Arc::new(UdpListener::new(name, to, access, terms, connections.clone())))
            }
            ListenerKind::Tunnel {} => {
                let quic = ArcSwap::from_pointee(offers(listener));
                let (terms, quic_tunnel) = (terms.clone(), listener.quic_tunnel.clone());
                Kind::Tunnel(Arc::new(TunnelListener { access, terms, quic, quic_tunnel }))
            }
            ListenerKind::Connect { to } => {
                let (name, terms) = (name.clone(), terms.clone());
                let rules = ArcSwap::from_pointee(Rules::new(to));
                Kind::Connect(Arc::new(connect::ConnectListener { name, rules, access, terms }))
            }
        };
        Leads { kind, terms, tls: ArcSwapOption::empty() }
    }
}

impl Kind {
    /// Its name in the configuration.
    pub fn word(&self) -> &'static str {
        match self {
            Kind::Http(_) => "http",
            Kind::Tcp(_) => "tcp",
            Kind::Tunnel(_) => "tunnel",
            Kind::Connect(_) => "connect",
            Kind::Udp(_) => "udp",
        }
    }
}

/// Begins to serve a connection that has a place.
pub fn begin(tunnels: &Arc<Tunnels>, worker: usize, door: &Arc<Door<Leads>>, from: IpAddr, arrival: Arrival) {
    let leads = &door.leads;
    match (Source::of(from, &door.balancers), &leads.kind) {
        // Agents come by sockets of their own.
        (_, Kind::Tunnel(_)) => hand_on(tunnels, worker, door, arrival),
        // Nothing is accepted on its ports.
        (_, Kind::Udp(_)) => {}
        (Source::Balancer, _) => {
            let task = behind_balancer(tunnels.clone(), worker, door.clone(), arrival);
            tunnels.proxy.drain.spawn_on(tunnels.proxy.runtime(worker), task);
        }
        // HTTP and TLS refuse it by themselves.
        (Source::Stranger, Kind::Tcp(_)) if leads.tls.load().is_none() => {
            hand_on(tunnels, worker, door, arrival.nameless());
        }
        (Source::Client | Source::Stranger, _) => hand_on(tunnels, worker, door, arrival),
    }
}

/// Finds out whose connection a load balancer has opened, and hands it on.
async fn behind_balancer(tunnels: Arc<Tunnels>, worker: usize, door: Arc<Door<Leads>>, arrival: Arrival) {
    let proxy = &tunnels.proxy;
    let (client, within) = (arrival.client, proxy.settings.load().timeouts.handshake);
    match arrival.named(within).await {
        Ok(Some(arrival)) => hand_on(&tunnels, worker, &door, arrival),
        Ok(None) => {}
        Err(error) => {
            let mut record = Record::new(proxy.next_request(), client, door.name.clone(), Answered::Gateway);
            record.error = Some(error);
            proxy.finish(worker, &record);
        }
    }
}

/// Gives a connection to what serves its kind.
fn hand_on(tunnels: &Arc<Tunnels>, worker: usize, door: &Door<Leads>, arrival: Arrival) {
    let proxy = &tunnels.proxy;
    let runtime = proxy.runtime(worker);
    let access = match &door.leads.kind {
        // A request is answered, and may come from somebody else than the connection.
        Kind::Http(_) | Kind::Udp(_) => None,
        Kind::Tcp(listener) => Some(listener.access.load()),
        Kind::Tunnel(listener) => Some(listener.access.load()),
        Kind::Connect(listener) => Some(listener.access.load()),
    };
    if access.is_some_and(|access| !access.neighbours.admit(arrival.client.ip())) {
        return passthrough::pass(proxy, worker, arrival.opaque(door.name.clone()), Err(passthrough::denied()));
    }
    let Some(tls) = door.leads.tls.load_full() else {
        return match &door.leads.kind {
            Kind::Http(listener) => {
                let task = http::connection(proxy.clone(), worker, listener.clone(), arrival, None);
                proxy.drain.spawn_on(runtime, task);
            }
            Kind::Tcp(listener) => tcp::arrived(proxy, worker, listener, arrival),
            Kind::Udp(_) => {}
            Kind::Tunnel(listener) => {
                let task = tunnel::connection(tunnels.clone(), worker, listener.clone(), arrival, None);
                tunnels.drain.spawn_on(runtime, task);
            }
            Kind::Connect(listener) => {
                let task = connect::connection(proxy.clone(), worker, listener.clone(), arrival, None);
                proxy.drain.spawn_on(runtime, task);
            }
        };
    };
    let knock = tls::Knock::new(proxy.clone(), worker, door.name.clone(), arrival);
    match &door.leads.kind {
        Kind::Http(listener) => proxy.drain.spawn_on(runtime, tls::http(knock, listener.clone(), tls)),
        Kind::Tcp(listener) => proxy.drain.spawn_on(runtime, tls::tcp(knock, listener.clone(), tls)),
        Kind::Connect(listener) => proxy.drain.spawn_on(runtime, tls::connect(knock, listener.clone(), tls)),
        Kind::Udp(_) => {}
        Kind::Tunnel(listener) => {
            tunnels.drain.spawn_on(runtime, tls::tunnel(knock, listener.clone(), tunnels.clone(), tls));
        }
    }
}

/// A listener that goes on, under its new rules.
pub fn update(door: Arc<Door<Leads>>, wanted: &Listener, table: &Table) -> Arc<Door<Leads>> {
    let access = match &door.leads.kind {
        Kind::Http(listener) => &listener.last,
        Kind::Tcp(listener) => &listener.access,
        Kind::Tunnel(listener) => &listener.access,
        Kind::Connect(listener) => &listener.access,
        Kind::Udp(listener) => &listener.access,
    };
    access.store(table.access(&wanted.name));
    // After what is asked of newcomers: whoever was let in meanwhile by what was asked before finds the change here.
    door.leads.terms.go_on(wanted);
    match (&door.leads.kind, &wanted.kind) {
        (Kind::Tcp(listener), ListenerKind::Tcp { to }) => listener.to.store(Arc::new(tcp::To::new(to, table))),
        (Kind::Connect(listener), ListenerKind::Connect { to }) => listener.rules.store(Arc::new(Rules::new(to))),
        (Kind::Udp(listener), ListenerKind::Udp { to, idle, sessions }) => {
            listener.lead_to(To::new(to, *idle, *sessions));
        }
        (Kind::Http(listener), _) => listener.quic.store(Arc::new(offers(wanted))),
        (Kind::Tunnel(listener), _) => listener.quic.store(Arc::new(offers(wanted))),
        _ => {}
    }
    door
}

/// Where those who come by WebSocket are told that QUIC is.
fn offers(listener: &Listener) -> Offers {
    match &listener.quic_at {
        Some(at) => Offers::At(at.clone()),
        None if listener.takes(Transport::Quic) => Offers::SamePort,
        None => Offers::No,
    }
}

//! What an agent says first, on whatever its tunnel is made of: who it is, and what it wants to offer (compat.md §1.1).
//!
//! The request's head in, who was let in or a refusal out. Reading it and answering is `tunnel`'s and `quic`'s.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tracing::info;

use crate::allowance::{Taken, Wanted};
use crate::error::{Code, Error, Result};
use crate::http1::head::HeadLimits;
use crate::identity::Identity;
use crate::message::{RequestHead, Version};
use crate::proxy::admission::{WITHIN, too_many};
use crate::proxy::respond::Pages;
use crate::proxy::shared::Proxy;
use crate::route::valid_name;
use crate::shutdown::Drain;
use crate::snapshot::{Tunnel, Way};
use crate::terms::Terms;
use crate::tunnel::hello::{self, Features, Offers, UPSTREAM_PATH};
use crate::verdict::{Access, Policy};

/// What a gateway tells agents, and how it watches them.
pub struct Greeting {
    /// The node's name.
    pub node: String,
    /// The program's version.
    pub version: String,
    /// Where endpoints are reached, with `{endpoint}` for the name.
    pub public_url: Option<String>,
    /// Keep-alive.
    pub tunnel: Tunnel,
    /// Absolute, for the upgrade.
    pub handshake: Duration,
    /// Sizes of heads.
    pub head: HeadLimits,
}

/// What all tunnel listeners of a gateway share.
pub struct Tunnels {
    /// What carries requests to the agents.
    pub proxy: Arc<Proxy>,
    /// What is in force.
    pub greeting: ArcSwap<Greeting>,
    /// Ends the sessions, after the requests on them have ended.
    pub drain: Drain,
    /// The port of an http listener that `NAME.localhost` reaches; 0 where there is none.
    pub local_port: AtomicU16,
}

impl Tunnels {
    /// Where an endpoint is reached: as the operator says, else on this machine for an agent on this machine.
    pub fn url_of(&self, endpoint: &str, greeting: &Greeting, agent: SocketAddr) -> Option<String> {
        // A host name leads to its first label, in lower case.
        if endpoint.bytes().any(|byte| byte == b'.' || byte.is_ascii_uppercase()) {
            return None;
        }
        if let Some(url) = &greeting.public_url {
            return Some(url.replace("{endpoint}", endpoint));
        }
        let port = self.local_port.load(Ordering::Relaxed);
        (port != 0 && agent.ip().to_canonical().is_loopback()).then(|| format!("http://{endpoint}.localhost:{port}"))
    }
}

/// A listener of kind tunnel.
pub struct TunnelListener {
    /// Who may come in.
    pub access: ArcSwap<Access>,
    /// What connections were let in by.
    pub terms: Arc<Terms>,
    /// Where agents are told that QUIC is.
    pub quic: ArcSwap<Offers>,
    /// What agents of quic-reverse-http-tunnel offer, where those are who connects: they say nothing.
    pub quic_tunnel: Option<String>,
}

/// Who wants to offer what.
pub struct Applicant {
    /// Who it is.
    pub admitted: Admitted,
    /// The endpoint that is offered.
    pub endpoint: String,
    /// Of the WebSocket; empty over QUIC.
    pub key: String,
    /// What the agent can do.
    pub features: Features,
    /// Its id and the number of the tunnel.
    pub agent: Option<Arc<str>>,
    /// Why its tunnel is no QUIC, in its own words.
    pub not_quic: Option<Arc<str>>,
}

/// Who was let in.
pub struct Admitted {
    /// By its credential.
    pub identity: Arc<Identity>,
    /// The owner of what is offered.
    pub tenant: Arc<str>,
    /// The session ends when the credential expires.
    pub ends: bool,
    /// What the session counts against.
    pub taken: Taken,
}

/// Finds out who asks for what. Nothing is said about endpoints before it is known who asks.
///
/// # Errors
/// The refusal.
pub async fn applicant(
    tunnels: &Tunnels,
    listener: &TunnelListener,
    (way, head): (Way, &RequestHead),
    certificate: Option<&[u8]>,
    from: SocketAddr,
) -> Result<Applicant> {
    let Some(name) = head.path().strip_prefix(UPSTREAM_PATH.as_bytes()) else {
        return Err(Error::new(
            Code::NoRoute,
            "agents connect to /piko/v1/upstream/ENDPOINT; requests go to a proxy port",
        ));
    };
    let key = match way {
        Way::WebSocket => hello::websocket_key(head)?,
        Way::Quic => hello::quic_upgrade(head).map(|()| String::new())?,
    };
    let access = listener.access.load_full();
    let (identity, ends) = match &access.policy {
        None => (tunnels.proxy.anonymous.clone(), false),
        Some(policy) => {
            let identity = identify(tunnels, policy, head, certificate, from).await?;
            (identity, policy.disconnect_on_expiry)
        }
    };
    let endpoint = valid_name(name)
        .ok_or_else(|| Error::new(Code::InvalidEndpoint, "an endpoint's name has 1 to 128 of A-Z a-z 0-9 . _ -"))?;
    let challenge = |error| match &access.policy {
        Some(policy) => policy.challenge(error),
        None => error,
    };
    let tenant = match (&identity.tenant, &access.tenant) {
        (own, here) if own == here || here.is_empty() => own.clone(),
        (own, here) if own.is_empty() => here.clone(),
        _ => return Err(challenge(Error::new(Code::UnknownTenant, "this listener is another tenant's"))),
    };
    if !identity.listen.contains(endpoint) {
        return Err(challenge(Error::new(Code::EndpointNotPermitted, "")));
    }
    let admitted = admit(tunnels, listener, (identity, ends), tenant)?;
    let agent = head.fields.find("x-tidegate-agent").and_then(valid_name).map(Arc::from);
    let not_quic = hello::not_quic(&head.fields, &listener.quic.load()).map(Arc::from);
    let (endpoint, features) = (endpoint.to_owned(), Features::of(&head.fields));
    Ok(Applicant { admitted, endpoint, key, features, agent, not_quic })
}

/// Who says nothing, and has shown its certificate: what it offers is what stands at the listener.
///
/// # Errors
/// The refusal.
pub fn unspoken(tunnels: &Tunnels, listener: &TunnelListener, endpoint: &str) -> Result<Applicant> {
    let tenant = listener.access.load().tenant.clone();
    let admitted = admit(tunnels, listener, (tunnels.proxy.anonymous.clone(), false), tenant)?;
    let (key, features) = (String::new(), Features::default());
    Ok(Applicant { admitted, endpoint: endpoint.to_owned(), key, features, agent: None, not_quic: None })
}

/// Lets somebody in, if there is room for one more and time.
fn admit(
    tunnels: &Tunnels,
    listener: &TunnelListener,
    (identity, ends): (Arc<Identity>, bool),
    tenant: Arc<str>,
) -> Result<Admitted> {
    let shared = tunnels.proxy.verdicts.allowance_of(&tenant);
    let all = identity.allowances.iter().cloned().chain(shared);
    let taken = Taken::from(all, Wanted::Session).map_err(too_many)?;
    stays(tunnels, &listener.terms)?;
    Ok(Admitted { identity, tenant, ends, taken })
}

/// Refuses whoever would be told to leave at once.
///
/// # Errors
/// Says why.
pub fn stays(tunnels: &Tunnels, terms: &Terms) -> Result<()> {
    let leaving = match (tunnels.proxy.drain.is_begun(), terms.have_ended()) {
        (true, _) => "this gateway is leaving: connect to another",
        (_, true) => "the terms of this connection are in force no more: connect again",
        (false, false) => return Ok(()),
    };
    Err(Error::new(Code::Draining, leaving))
}

async fn identify(
    tunnels: &Tunnels,
    policy: &Policy,
    head: &RequestHead,
    certificate: Option<&[u8]>,
    from: SocketAddr,
) -> Result<Arc<Identity>> {
    let verdicts = &tunnels.proxy.verdicts;
    let counted = |error: Error| {
        verdicts.count(error.code);
        error
    };
    let shown = policy.shown(&head.fields, certificate.is_some()).map_err(counted)?;
    let ask = policy.ask(shown.as_ref(), &head.fields, certificate).map_err(counted)?;
    verdicts.judge(&ask, ask.digest(), from.ip(), WITHIN).await.map_err(|error| policy.challenge(error))
}

/// The line about an agent that is refused.
pub fn log_refusal(error: &Error, from: SocketAddr) {
    info!(address = %from, error = error.code.as_str(), detail = %error.detail, "agent refused");
}

/// The answer that refuses an agent, and the line about it.
pub fn refusal(tunnels: &Tunnels, error: &Error, from: SocketAddr) -> Vec<u8> {
    log_refusal(error, from);
    in_words(tunnels, error)
}

/// The answer that refuses a session.
pub fn in_words(tunnels: &Tunnels, error: &Error) -> Vec<u8> {
    let id = tunnels.proxy.next_request();
    // A program asks here, whatever it accepts.
    let answer = Pages::default().answer(error, error.code.status(), id, false);
    answer.to_http1(Version::Http11, false, false)
}

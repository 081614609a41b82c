//! Connections of a listener of kind tunnel: agents that offer an endpoint (compat.md §1.1).
//!
//! The upgrade is read where the connection was accepted and answered by the worker that then drives the tunnel.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::arrive::Arrival;
use crate::allowance::{Taken, Wanted};
use crate::error::{Code, Error, Result};
use crate::http1::head::HeadLimits;
use crate::identity::Identity;
use crate::io::{BoxedIo, Buffer};
use crate::message::{RequestHead, Version};
use crate::proxy::admission::{WITHIN, too_many};
use crate::proxy::http1::{Http1, Stop};
use crate::proxy::respond::Pages;
use crate::proxy::shared::Proxy;
use crate::route::valid_name;
use crate::shutdown::Drain;
use crate::snapshot::Tunnel;
use crate::terms::Terms;
use crate::tunnel::hello::{self, Features, UPSTREAM_PATH, Welcome};
use crate::tunnel::{Config, Ending, Session, start};
use crate::upstream::ejection::Condition;
use crate::upstream::{AgentSession, next_id};
use crate::verdict::{Access, Policy};

/// How long before its end a session is told that it comes.
const ANNOUNCED: Duration = Duration::from_secs(2);

/// How long what an agent offers is still used after the terms have ended that it came by: a few round trips to dial,
/// to shake hands and to be registered, from far away.
const COME_BACK: Duration = Duration::from_secs(2);

/// How often a session that is to end is looked at.
const LOOK: Duration = Duration::from_millis(200);

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
    fn url_of(&self, endpoint: &str, greeting: &Greeting, agent: SocketAddr) -> Option<String> {
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
}

/// Who wants to offer what.
struct Applicant {
    admitted: Admitted,
    endpoint: String,
    key: String,
    features: Features,
    agent: Option<Arc<str>>,
}

/// Who was let in.
struct Admitted {
    identity: Arc<Identity>,
    /// The owner of what is offered.
    tenant: Arc<str>,
    /// The session ends when the credential expires.
    ends: bool,
    /// What the session counts against.
    taken: Taken,
}

/// Reads the upgrade of an accepted connection and hands it to the worker with the fewest tunnels of that endpoint.
/// `certificate`: what the agent has shown by TLS.
pub async fn connection(
    tunnels: Arc<Tunnels>,
    worker: usize,
    listener: Arc<TunnelListener>,
    arrival: Arrival,
    certificate: Option<CertificateDer<'static>>,
) {
    let Arrival { io, read: begun, client: from, place } = arrival;
    let (greeting, terms) = (tunnels.greeting.load_full(), listener.terms.clone());
    let mut connection = Http1::new(io, begun);
    place.idle(Instant::now());
    let head = tokio::select! {
        head = tokio::time::timeout(greeting.handshake, read(&mut connection, &greeting.head)) => head,
        () = place.evicted() => return,
    };
    place.busy();
    let applicant = match head {
        Ok(Ok(Some(head))) => applicant(&tunnels, &listener, &head, certificate.as_deref(), from).await,
        Ok(Ok(None)) | Err(_) => return,
        Ok(Err(error)) => Err(error),
    };
    let applicant = match applicant {
        Ok(applicant) => applicant,
        Err(error) => return refuse(&tunnels, &mut connection, &error, from).await,
    };
    let leaving = match (tunnels.proxy.drain.is_begun(), terms.have_ended()) {
        (true, _) => Some("this gateway is leaving: connect to another"),
        (_, true) => Some("the terms of this connection are in force no more: connect again"),
        (false, false) => None,
    };
    if let Some(why) = leaving {
        return refuse(&tunnels, &mut connection, &Error::new(Code::Draining, why), from).await;
    }
    let workers = tunnels.proxy.workers.len();
    let counts = tunnels.proxy.registry.tunnels_by_worker(&applicant.admitted.tenant, &applicant.endpoint, workers);
    let fewest = (0..counts.len()).min_by_key(|i| (counts[*i], *i != worker)).unwrap_or(worker);
    let (io, early) = connection.take_stream();
    let tunnels_there = tunnels.clone();
    tunnels.proxy.carry_on(&tunnels.drain, io, (worker, fewest), move |worker, io| async move {
        let _place = place;
        serve(tunnels_there, worker, &terms, (io, early), from, applicant, &greeting).await;
    });
}

async fn read(connection: &mut Http1, limits: &HeadLimits) -> Result<Option<RequestHead>> {
    let mut head = RequestHead::new();
    match poll_fn(|cx| connection.poll_request(cx, &mut head, limits)).await {
        Ok(true) => Ok(Some(head)),
        Err(Stop::Malformed(error)) => Err(error.of_request()),
        Ok(false) | Err(_) => Ok(None),
    }
}

/// Finds out who asks for what. Nothing is said about endpoints before it is known who asks.
async fn applicant(
    tunnels: &Tunnels,
    listener: &TunnelListener,
    head: &RequestHead,
    certificate: Option<&[u8]>,
    from: SocketAddr,
) -> Result<Applicant> {
    let Some(name) = head.path().strip_prefix(UPSTREAM_PATH.as_bytes()) else {
        return Err(Error::new(
            Code::NoRoute,
            "agents connect to /piko/v1/upstream/ENDPOINT; requests go to a proxy port",
        ));
    };
    let key = hello::websocket_key(head)?;
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
    let shared = tunnels.proxy.verdicts.allowance_of(&tenant);
    let all = identity.allowances.iter().cloned().chain(shared);
    let taken = Taken::from(all, Wanted::Session).map_err(too_many)?;
    let agent = head.fields.find("x-tidegate-agent").and_then(valid_name).map(Arc::from);
    let admitted = Admitted { identity, tenant, ends, taken };
    Ok(Applicant { admitted, endpoint: endpoint.to_owned(), key, features: Features::of(&head.fields), agent })
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

async fn refuse(tunnels: &Tunnels, connection: &mut Http1, error: &Error, from: SocketAddr) {
    info!(address = %from, error = error.code.as_str(), detail = %error.detail, "agent refused");
    let id = tunnels.proxy.next_request();
    // A program asks here, whatever it accepts.
    let answer = Pages::default().answer(error, error.code.status(), id, false);
    connection.send_raw(&answer.to_http1(Version::Http11, false, false));
    // One that does not read its refusal does not get it.
    let greeting = tunnels.greeting.load_full();
    let _ = tokio::time::timeout(greeting.handshake, poll_fn(|cx| connection.poll_shutdown(cx))).await;
}

async fn serve(
    tunnels: Arc<Tunnels>,
    worker: usize,
    terms: &Terms,
    (mut io, early): (BoxedIo, Buffer),
    from: SocketAddr,
    applicant: Applicant,
    greeting: &Greeting,
) {
    let url = tunnels.url_of(&applicant.endpoint, greeting, from);
    let welcome = Welcome { node: &greeting.node, version: &greeting.version, url: url.as_deref() };
    let mut out = Buffer::new();
    out.extend(&hello::accept_tunnel(&applicant.key, &welcome));
    let written = tokio::time::timeout(greeting.handshake, poll_fn(|cx| out.poll_drain(cx, &mut *io))).await;
    if !matches!(written, Ok(Ok(()))) {
        return;
    }
    let admitted = applicant.admitted;
    let (tunnel, driver) = start(io, early, Config::gateway(&greeting.tunnel));
    let proxy = &tunnels.proxy;
    let session = Arc::new(AgentSession {
        id: next_id(),
        tenant: admitted.tenant,
        endpoint: applicant.endpoint.into(),
        agent: applicant.agent,
        address: from,
        since: SystemTime::now(),
        identity: admitted.identity,
        features: applicant.features,
        tunnel,
        open_timeout: proxy.settings.load().timeouts.connect,
        worker,
        in_flight: AtomicUsize::new(0),
        condition: Condition::default(),
    });
    proxy.metrics.sessions.fetch_add(1, Ordering::Relaxed);
    if let Some(older) = proxy.registry.add(session.clone()) {
        older.tunnel.end(Ending::Reset);
    }
    info!(
        tenant = &*session.tenant, endpoint = &*session.endpoint, session = session.id,
        address = %from, transport = "websocket", "agent connected"
    );
    let ends = Ends { terms, with_credential: admitted.ends };
    drive(&tunnels, &session, &ends, driver).await;
    drop(admitted.taken);
    proxy.registry.remove(&session);
    proxy.forget(session.id);
    let reason = session.tunnel.end_reason().map_or_else(String::new, |end| end.to_string());
    info!(
        tenant = &*session.tenant, endpoint = &*session.endpoint, session = session.id,
        address = %from, reason, "agent disconnected"
    );
}

/// What a session ends with, besides its agent and its gateway.
struct Ends<'a> {
    /// The terms of its listener.
    terms: &'a Terms,
    /// The time of its credential.
    with_credential: bool,
}

/// Runs a session to its end, which is the agent's, that of its credential, or ours when the gateway leaves or its
/// listener's terms have ended.
async fn drive(tunnels: &Tunnels, session: &AgentSession, ends: &Ends<'_>, driver: impl Future<Output = ()>) {
    let identity = &session.identity;
    let (known, expires) = (!identity.is_anonymous(), ends.with_credential);
    let mut driver = pin!(driver);
    let mut leaving = pin!(tunnels.proxy.drain.begun());
    let mut ending = pin!(tunnels.drain.begun());
    let mut gone_away = pin!(session.tunnel.gone_away());
    let mut expiring = pin!(soon_over(identity.expires.filter(|_| expires)));
    let (mut over, mut revoked) = (pin!(identity.ended()), pin!(identity.revoked()));
    let mut outlived = pin!(outlive(tunnels, session, ends.terms));
    let (mut said, mut withdrawn, mut ended) = (false, false, false);
    loop {
        tokio::select! {
            () = &mut driver => return,
            () = &mut gone_away, if !withdrawn => {
                // The agent drains: nothing new goes there, and what is kept idle is given up, so that it can leave.
                withdrawn = true;
                tunnels.proxy.registry.remove(session);
                tunnels.proxy.forget(session.id);
            }
            () = &mut leaving, if !said => {
                said = true;
                session.tunnel.go_away();
            }
            () = &mut expiring, if known && !said => {
                said = true;
                session.tunnel.go_away();
            }
            () = &mut revoked, if known && !ended => {
                ended = true;
                end(&session.tunnel, session.features);
            }
            // As Piko's own server does: an agent whose token is over has nothing to come back with.
            () = &mut over, if known && expires && !ended && !identity.is_revoked() => {
                ended = true;
                session.tunnel.end(Ending::Close);
            }
            () = &mut outlived, if !ended => {
                ended = true;
                end(&session.tunnel, session.features);
            }
            () = &mut ending, if !ended => {
                ended = true;
                end(&session.tunnel, session.features);
            }
        }
    }
}

/// Resolves when it is time to tell an agent that its session will end: in the second half of what is left, so that one
/// whose time is short is not told at once.
async fn soon_over(expires: Option<SystemTime>) {
    let Some(expires) = expires else { return std::future::pending().await };
    let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
    sleep(left.saturating_sub(ANNOUNCED.min(left / 2))).await;
}

/// Waits until nothing runs any more on a session whose terms have ended, or that shows what is taken no more. Its
/// agent is told, and has a moment to come back by what is asked now; from then on nothing new goes to this session.
async fn outlive(tunnels: &Tunnels, session: &AgentSession, terms: &Terms) {
    tokio::select! {
        () = terms.closing() => {
            if !terms.have_ended() {
                // The gateway leaves, with all its sessions.
                return std::future::pending().await;
            }
        }
        () = terms.refuse(&session.identity.key, &session.identity.tenant) => {}
    }
    session.tunnel.go_away();
    sleep(COME_BACK).await;
    tunnels.proxy.registry.remove(session);
    loop {
        // What ended just now may have been kept for another request.
        tunnels.proxy.forget(session.id);
        if session.tunnel.streams() == 0 {
            return;
        }
        sleep(LOOK).await;
    }
}

/// Ends a session so that its agent comes back: a Piko agent exits after an orderly close (compat.md §1.1).
fn end(tunnel: &Session, features: Features) {
    tunnel.end(if features == Features::default() { Ending::GoAway2 } else { Ending::Close });
}

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
use tokio::time::{Instant, sleep};
use tracing::info;

use super::arrive::Arrival;
use crate::error::{Code, Error, Result};
use crate::http1::head::HeadLimits;
use crate::io::{BoxedIo, Buffer};
use crate::message::{RequestHead, Version};
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

/// Who wants to offer what.
struct Asked {
    endpoint: String,
    key: String,
    features: Features,
    agent: Option<Arc<str>>,
}

/// Reads the upgrade of an accepted connection and hands it to the worker with the fewest tunnels of that endpoint.
pub async fn connection(tunnels: Arc<Tunnels>, worker: usize, terms: Arc<Terms>, arrival: Arrival) {
    let Arrival { io, read: begun, client: from, place } = arrival;
    let greeting = tunnels.greeting.load_full();
    let mut connection = Http1::new(io, begun);
    place.idle(Instant::now());
    let asked = tokio::select! {
        asked = tokio::time::timeout(greeting.handshake, read(&mut connection, &greeting.head)) => asked,
        () = place.evicted() => return,
    };
    place.busy();
    let asked = match asked {
        Ok(Ok(Some(asked))) => asked,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return refuse(&tunnels, &mut connection, &error, from).await,
        Err(_) => return,
    };
    let leaving = match (tunnels.proxy.drain.is_begun(), terms.have_ended()) {
        (true, _) => Some("this gateway is leaving: connect to another"),
        (_, true) => Some("the terms of this connection are in force no more: connect again"),
        (false, false) => None,
    };
    if let Some(why) = leaving {
        return refuse(&tunnels, &mut connection, &Error::new(Code::Draining, why), from).await;
    }
    let counts = tunnels.proxy.registry.tunnels_by_worker(
        &tunnels.proxy.anonymous.tenant,
        &asked.endpoint,
        tunnels.proxy.workers.len(),
    );
    let fewest = (0..counts.len()).min_by_key(|i| (counts[*i], *i != worker)).unwrap_or(worker);
    let (io, early) = connection.take_stream();
    let tunnels_there = tunnels.clone();
    tunnels.proxy.carry_on(&tunnels.drain, io, (worker, fewest), move |worker, io| async move {
        let _place = place;
        serve(tunnels_there, worker, &terms, (io, early), from, asked, &greeting).await;
    });
}

async fn read(connection: &mut Http1, limits: &HeadLimits) -> Result<Option<Asked>> {
    let mut head = RequestHead::new();
    match poll_fn(|cx| connection.poll_request(cx, &mut head, limits)).await {
        Ok(true) => {}
        Err(Stop::Malformed(error)) => return Err(error.of_request()),
        Ok(false) | Err(_) => return Ok(None),
    }
    let Some(name) = head.path().strip_prefix(UPSTREAM_PATH.as_bytes()) else {
        return Err(Error::new(
            Code::NoRoute,
            "agents connect to /piko/v1/upstream/ENDPOINT; requests go to a proxy port",
        ));
    };
    let endpoint = valid_name(name)
        .ok_or_else(|| Error::new(Code::InvalidEndpoint, "an endpoint's name has 1 to 128 of A-Z a-z 0-9 . _ -"))?;
    let key = hello::websocket_key(&head)?;
    let agent = head.fields.find("x-tidegate-agent").and_then(valid_name).map(Arc::from);
    Ok(Some(Asked { endpoint: endpoint.to_owned(), key, features: Features::of(&head.fields), agent }))
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
    asked: Asked,
    greeting: &Greeting,
) {
    let url = tunnels.url_of(&asked.endpoint, greeting, from);
    let welcome = Welcome { node: &greeting.node, version: &greeting.version, url: url.as_deref() };
    let mut out = Buffer::new();
    out.extend(&hello::accept_tunnel(&asked.key, &welcome));
    let written = tokio::time::timeout(greeting.handshake, poll_fn(|cx| out.poll_drain(cx, &mut *io))).await;
    if !matches!(written, Ok(Ok(()))) {
        return;
    }
    let (tunnel, driver) = start(io, early, Config::gateway(&greeting.tunnel));
    let proxy = &tunnels.proxy;
    let session = Arc::new(AgentSession {
        id: next_id(),
        tenant: proxy.anonymous.tenant.clone(),
        endpoint: asked.endpoint.into(),
        agent: asked.agent,
        address: from,
        since: SystemTime::now(),
        identity: proxy.anonymous.clone(),
        features: asked.features,
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
    drive(&tunnels, &session, terms, driver).await;
    proxy.registry.remove(&session);
    proxy.forget(session.id);
    let reason = session.tunnel.end_reason().map_or_else(String::new, |end| end.to_string());
    info!(
        tenant = &*session.tenant, endpoint = &*session.endpoint, session = session.id,
        address = %from, reason, "agent disconnected"
    );
}

/// Runs a session to its end, which is the agent's, or ours when the gateway leaves or its listener's terms have ended.
async fn drive(tunnels: &Tunnels, session: &AgentSession, terms: &Terms, driver: impl Future<Output = ()>) {
    let mut driver = pin!(driver);
    let mut leaving = pin!(tunnels.proxy.drain.begun());
    let mut ending = pin!(tunnels.drain.begun());
    let mut gone_away = pin!(session.tunnel.gone_away());
    let entry = tunnels.proxy.directory.enter(session.identity.clone());
    let mut disowned = pin!(entry.ended());
    let mut outlived = pin!(outlive(tunnels, session, terms));
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
            () = &mut disowned, if !ended => {
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

/// Waits until nothing runs any more on a session whose terms have ended. Its agent is told, and has a moment to come
/// back by what is asked now; from then on nothing new goes to this session.
async fn outlive(tunnels: &Tunnels, session: &AgentSession, terms: &Terms) {
    terms.closing().await;
    if !terms.have_ended() {
        // The gateway leaves, with all its sessions.
        return std::future::pending().await;
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

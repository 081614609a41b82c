//! The session of an agent that was let in, from its first moment to its last, whatever its tunnel is made of.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::hail::{Applicant, Tunnels};
use crate::allowance::Taken;
use crate::aside::Aside;
use crate::terms::Terms;
use crate::tunnel::hello::Features;
use crate::tunnel::{Ending, Session};
use crate::upstream::ejection::Condition;
use crate::upstream::{AgentSession, next_id};

/// How long before its end a session is told that it comes.
const ANNOUNCED: Duration = Duration::from_secs(2);

/// How long what an agent offers is still used after the terms have ended that it came by: a few round trips to dial,
/// to shake hands and to be registered, from far away.
const COME_BACK: Duration = Duration::from_secs(2);

/// How often a session that is to end is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What moves a session. It has a place of its own: handed from one future to the next, each would have room for it.
pub type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Enters a session among those that offer the endpoint, and runs it to its end. `closed` says that tunnels are taken
/// no more where it came.
pub async fn run(
    tunnels: Arc<Tunnels>,
    whom: (usize, SocketAddr),
    (terms, closed): (&Terms, &CancellationToken),
    applicant: Box<Applicant>,
    (tunnel, driver): (Session, Driver),
) {
    let proxy = &tunnels.proxy;
    let (session, with_credential, taken) = {
        // Its box ends here.
        let applicant = applicant;
        enter(&tunnels, whom, *applicant, tunnel)
    };
    let ends = Ends { terms, closed, with_credential };
    drive(&tunnels, &session, &ends, driver).await;
    drop(taken);
    proxy.registry.remove(&session);
    proxy.forget(session.id);
    let reason = session.tunnel.end_reason().map_or_else(String::new, |end| end.to_string());
    info!(
        tenant = &*session.tenant, endpoint = &*session.endpoint, session = session.id,
        address = %session.address, reason, "agent disconnected"
    );
}

/// Makes a session one that requests go to; whether it ends with its credential, and what it counts against.
fn enter(
    tunnels: &Tunnels,
    (worker, from): (usize, SocketAddr),
    applicant: Applicant,
    tunnel: Session,
) -> (Arc<AgentSession>, bool, Taken) {
    let proxy = &tunnels.proxy;
    let admitted = applicant.admitted;
    let session = Arc::new(AgentSession {
        id: next_id(),
        tenant: admitted.tenant,
        endpoint: applicant.endpoint.into(),
        agent: applicant.agent,
        address: from,
        since: SystemTime::now(),
        identity: admitted.identity,
        features: applicant.features,
        not_quic: applicant.not_quic,
        tunnel,
        open_timeout: proxy.settings.load().timeouts.connect,
        worker,
        in_flight: AtomicUsize::new(0),
        condition: Condition::default(),
        doubted_by: ArcSwapOption::empty(),
    });
    proxy.metrics.sessions.fetch_add(1, Ordering::Relaxed);
    if let Some(older) = proxy.registry.add(session.clone()) {
        older.tunnel.end(Ending::Reset);
    }
    info!(
        tenant = &*session.tenant, endpoint = &*session.endpoint, session = session.id,
        address = %from, transport = session.tunnel.transport().word(), "agent connected"
    );
    (session, admitted.ends, admitted.taken)
}

/// What a session ends with, besides its agent and its gateway.
struct Ends<'a> {
    /// The terms of its listener.
    terms: &'a Terms,
    /// The place where it came in.
    closed: &'a CancellationToken,
    /// The time of its credential.
    with_credential: bool,
}

/// Runs a session to its end, which is the agent's, that of its credential, or ours when the gateway leaves or its
/// listener's terms have ended.
async fn drive(tunnels: &Tunnels, session: &AgentSession, ends: &Ends<'_>, driver: Driver) {
    // Bytes come often, everything else once in the life of a session.
    let heeding = Aside::new(heed(tunnels, session, ends));
    tokio::select! {
        biased;
        () = driver => {}
        () = heeding => {}
    }
}

/// Tells a session what it has to know of the world around it, for as long as it lives.
async fn heed(tunnels: &Tunnels, session: &AgentSession, ends: &Ends<'_>) {
    let identity = &session.identity;
    let (known, expires) = (!identity.is_anonymous(), ends.with_credential);
    let mut leaving = pin!(tunnels.proxy.drain.begun());
    let mut ending = pin!(tunnels.drain.begun());
    let mut gone_away = pin!(session.tunnel.gone_away());
    let mut expiring = pin!(soon_over(identity.expires.filter(|_| expires)));
    let (mut over, mut revoked) = (pin!(ends.terms.expire(identity)), pin!(identity.revoked()));
    let mut outlived = pin!(outlive(tunnels, session, ends));
    let (mut said, mut withdrawn, mut ended) = (false, false, false);
    loop {
        tokio::select! {
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
            () = &mut over, if known && !ended && !identity.is_revoked() => {
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
            else => return std::future::pending().await,
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

/// Waits until nothing runs any more on a session whose terms have ended, whose way in is closed, or that shows what is
/// taken no more. Its agent is told, and has a moment to come back by what is asked now; from then on nothing new goes
/// to this session.
async fn outlive(tunnels: &Tunnels, session: &AgentSession, ends: &Ends<'_>) {
    let terms = ends.terms;
    tokio::select! {
        () = terms.closing() => {
            if !terms.have_ended() {
                // The gateway leaves, with all its sessions.
                return std::future::pending().await;
            }
        }
        () = ends.closed.cancelled() => {}
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

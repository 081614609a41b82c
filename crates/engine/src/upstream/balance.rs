//! Which upstream of a set a request gets.
//!
//! Among the sessions of an endpoint the one with the fewest requests, between equals in turn, and one whose packets
//! are not answered only where there is no other; among addresses as their `group` says. Requests that were tried
//! elsewhere come back with the ids they must not meet again, and say how they fared: who fails again and again is left
//! out for a while.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tracing::{info, warn};

use super::any::Upstream;
use super::group::Group;
use super::info::StreamKind;
use super::session::AgentSession;
use crate::message::RequestHead;
use crate::snapshot::upstream::Ejection;

/// When a session is left out: an agent whose service fails while others' work. The same as an upstream's default.
const SESSIONS: Ejection = Ejection { failures: 5, time: Duration::from_secs(10) };

/// One endpoint and the sessions that offer it.
pub struct Endpoint {
    /// Its owner; empty where there are no tenants.
    pub tenant: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Whose turn it is among equals.
    turn: AtomicUsize,
    sessions: ArcSwap<Vec<Arc<AgentSession>>>,
}

impl Endpoint {
    /// An endpoint that nobody offers yet.
    pub fn new(tenant: Arc<str>, name: Arc<str>) -> Self {
        Endpoint { tenant, name, turn: AtomicUsize::new(0), sessions: ArcSwap::default() }
    }

    /// The sessions that offer it now.
    pub fn sessions(&self) -> arc_swap::Guard<Arc<Vec<Arc<AgentSession>>>> {
        self.sessions.load()
    }

    /// Replaces the sessions. Callers take turns: the registry changes one endpoint at a time.
    pub fn set_sessions(&self, sessions: Vec<Arc<AgentSession>>) {
        self.sessions.store(Arc::new(sessions));
    }

    /// Takes what became of a request on one of its sessions.
    fn report(&self, session: &AgentSession, failed: Option<&dyn Display>) {
        let (upstream, address) = (&*self.name, format_args!("session {}", session.id));
        let Some(why) = failed else {
            if session.condition.succeeded() {
                info!(upstream, %address, reason = "a request worked again", "upstream up");
            }
            return;
        };
        let others = || {
            let sessions = self.sessions();
            sessions.iter().any(|other| other.id != session.id && other.tunnel.is_open() && other.condition.is_usable())
        };
        if let Some(time) = session.condition.failed(&SESSIONS, || why.to_string().into(), others) {
            warn!(upstream, %address, reason = %why, seconds = time.as_secs_f64(), "upstream ejected");
        }
    }
}

/// The upstreams that may serve one request.
#[derive(Clone)]
pub enum UpstreamSet {
    /// Whoever offers an endpoint at the moment.
    Endpoint(Arc<Endpoint>),
    /// The addresses of a named upstream, and what requests that belong together have in common.
    Group(Arc<Group>, u64),
    /// Exactly one.
    One(Upstream),
}

impl UpstreamSet {
    /// The addresses of a named upstream for whoever asks, and what logs and metrics call them. `head`: the request,
    /// where there is one.
    pub fn of_group(group: &Arc<Group>, head: Option<&RequestHead>, client: IpAddr) -> (Self, Arc<str>) {
        (UpstreamSet::Group(group.clone(), group.key_of(head, client)), group.name.clone())
    }

    /// The one with the fewest requests that is not in `tried`. Among tunnels of one agent that are equally busy, the
    /// one that `worker` drives itself: it spares a wake-up across threads and changes nothing for the agent.
    pub fn pick(&self, worker: usize, tried: &[u64]) -> Option<Upstream> {
        self.pick_for(StreamKind::Tcp, worker, tried)
    }

    /// The same among those that carry this: an agent takes datagrams or streams for an endpoint, never both.
    pub fn pick_for(&self, kind: StreamKind, worker: usize, tried: &[u64]) -> Option<Upstream> {
        let datagrams = kind == StreamKind::Datagram;
        let endpoint = match self {
            UpstreamSet::Group(group, key) => return group.pick(worker, *key, tried),
            UpstreamSet::One(upstream) => return (!tried.contains(&upstream.id())).then(|| upstream.clone()),
            UpstreamSet::Endpoint(endpoint) => endpoint,
        };
        let sessions = endpoint.sessions();
        let fits =
            |one: &AgentSession| !tried.contains(&one.id) && one.tunnel.is_open() && one.features.datagram == datagrams;
        if let [only] = &sessions[..] {
            return fits(only).then(|| Upstream::Session(only.clone()));
        }
        let turn = endpoint.turn.fetch_add(1, Ordering::Relaxed);
        let open = |i: &usize| fits(&sessions[*i]);
        // One that was left out is still better than none.
        let all_left_out = !(0..sessions.len()).any(|i| open(&i) && sessions[i].condition.is_usable());
        let usable = |i: &usize| open(i) && (all_left_out || sessions[*i].condition.is_usable());
        // Whom nobody hears gets nothing as long as there is another.
        let load = |i: usize| (sessions[i].is_doubtful(), sessions[i].in_flight.load(Ordering::Relaxed));
        let first = (0..sessions.len())
            .map(|offset| (turn.wrapping_add(offset)) % sessions.len())
            .filter(usable)
            .min_by_key(|i| load(*i))?;
        let sibling = || {
            let agent = sessions[first].agent_process()?;
            (0..sessions.len()).filter(usable).find(|i| {
                sessions[*i].worker == worker
                    && load(*i) <= load(first)
                    && sessions[*i].agent_process().is_some_and(|other| other == agent)
            })
        };
        let chosen = if sessions[first].worker == worker { first } else { sibling().unwrap_or(first) };
        Some(Upstream::Session(sessions[chosen].clone()))
    }

    /// Takes what became of a request to one of them: nothing where it worked, else why it failed.
    pub fn report(&self, upstream: &Upstream, failed: Option<&dyn Display>) {
        match (self, upstream) {
            (UpstreamSet::Group(group, _), Upstream::Address(address)) => group.report(address, failed),
            (UpstreamSet::Endpoint(endpoint), Upstream::Session(session)) => endpoint.report(session, failed),
            _ => {}
        }
    }

    /// Who owns the endpoint; empty where there are no tenants.
    pub fn tenant(&self) -> Arc<str> {
        match self {
            UpstreamSet::Endpoint(endpoint) => endpoint.tenant.clone(),
            UpstreamSet::Group(..) | UpstreamSet::One(_) => Arc::default(),
        }
    }

    /// The same, where there is one.
    pub fn owner(&self) -> Option<&Arc<str>> {
        match self {
            UpstreamSet::Endpoint(endpoint) => Some(&endpoint.tenant).filter(|tenant| !tenant.is_empty()),
            UpstreamSet::Group(..) | UpstreamSet::One(_) => None,
        }
    }

    /// The ids of every tunnel that leads to the same agent process as `upstream`, itself included.
    pub fn siblings(&self, upstream: &Upstream) -> Vec<u64> {
        let (UpstreamSet::Endpoint(endpoint), Upstream::Session(session)) = (self, upstream) else {
            return vec![upstream.id()];
        };
        let same = |other: &AgentSession| {
            other.id == session.id || session.agent_process().is_some_and(|agent| other.agent_process() == Some(agent))
        };
        endpoint.sessions().iter().filter(|other| same(other)).map(|other| other.id).collect()
    }

    /// A worker that drives a tunnel of this set, where `worker` drives none.
    pub fn better_worker(&self, worker: usize) -> Option<usize> {
        let UpstreamSet::Endpoint(endpoint) = self else { return None };
        let sessions = endpoint.sessions();
        let mut elsewhere = None;
        for session in sessions.iter().filter(|session| session.tunnel.is_open()) {
            if session.worker == worker {
                return None;
            }
            elsewhere = Some(session.worker);
        }
        elsewhere
    }
}

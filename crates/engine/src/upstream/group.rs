//! A named upstream: addresses of which each may serve a request.
//!
//! Which of them there are, and how each fares, is known here; which one a request gets is `members`. What keeps that
//! knowledge fresh is `tending`; which connections are kept to them is `pool`.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::any::Upstream;
use super::hash::hash;
use super::members::{Members, Turns};
use super::resolve::is_name;
use super::tcp::{Address, Spec};
use crate::message::{Known, RequestHead};
use crate::snapshot::upstream::Balance;
use crate::snapshot::{self, Timeouts};
use crate::tls::client::Connector;

/// Addresses that stand for each other.
pub struct Group {
    /// Its name in the configuration, in logs, metrics and status.
    pub name: Arc<str>,
    /// What it was made from: an equal one goes on with its state when the configuration changes.
    pub made_from: snapshot::Upstream,
    turns: Turns,
    members: ArcSwap<Members>,
    sources: Mutex<Vec<Source>>,
    /// It is not part of the configuration any more: nobody asks after its addresses.
    pub(super) ended: CancellationToken,
}

/// One address of the configuration, and what it stands for at the moment.
struct Source {
    made_from: snapshot::upstream::UpstreamAddress,
    spec: Spec,
    members: Vec<Arc<Address>>,
    /// Why the last look-up failed; empty where it did not.
    problem: String,
}

impl Group {
    /// A group as the snapshot has it. Addresses that were in `before` in the same way go on with their state. An error
    /// says what cannot be used.
    pub fn new(from: &snapshot::Upstream, timeouts: &Timeouts, before: Option<&Group>) -> Result<Arc<Self>, String> {
        let comparable = before.filter(|before| {
            before.made_from.health == from.health && before.made_from.proxy_protocol == from.proxy_protocol
        });
        let old = comparable.map(Group::sources);
        let mut sources = Vec::new();
        for address in &from.addresses {
            let tls = match &address.tls {
                Some(tls) => Some(Connector::new(tls).map_err(|why| format!("upstream \"{}\": {why}", from.name))?),
                None => None,
            };
            let mut spec = Spec::new(&address.host, address.port, tls, address.protocol, timeouts);
            spec.weight = address.weight;
            spec.proxy_protocol = from.proxy_protocol;
            let kept = old.iter().flat_map(|old| old.iter()).find(|old| {
                old.made_from == *address
                    && old.spec.connect_timeout == spec.connect_timeout
                    && old.spec.handshake_timeout == spec.handshake_timeout
            });
            let (members, problem) = match kept {
                Some(kept) => (kept.members.clone(), kept.problem.clone()),
                // Until a name has been looked up, each connection does that for itself.
                None => (vec![Arc::new(Address::new(spec.clone(), None))], String::new()),
            };
            sources.push(Source { made_from: address.clone(), spec, members, problem });
        }
        drop(old);
        Ok(Arc::new(Group {
            name: from.name.as_str().into(),
            made_from: from.clone(),
            turns: Turns::default(),
            members: ArcSwap::from_pointee(members_of(&sources)),
            sources: Mutex::new(sources),
            ended: CancellationToken::new(),
        }))
    }

    /// True when it is what the snapshot wants, down to the deadlines.
    pub fn is_as_in(&self, from: &snapshot::Upstream, timeouts: &Timeouts) -> bool {
        let same = |source: &Source| {
            source.spec.connect_timeout == timeouts.connect && source.spec.handshake_timeout == timeouts.handshake
        };
        self.made_from == *from && self.sources().iter().all(same)
    }

    /// What requests that belong together have in common: the value of a cookie, else the source address. 0 where the
    /// balance does not ask.
    pub fn key_of(&self, head: Option<&RequestHead>, client: IpAddr) -> u64 {
        let cookie = match &self.made_from.balance {
            Balance::RoundRobin | Balance::LeastRequests => return 0,
            Balance::Source => None,
            Balance::Cookie(name) => head.and_then(|head| cookie(head, name.as_bytes())),
        };
        match (cookie, client.to_canonical()) {
            (Some(value), _) => hash(value),
            (None, IpAddr::V4(ip)) => hash(&ip.octets()),
            (None, IpAddr::V6(ip)) => hash(&ip.octets()),
        }
    }

    /// The address for a request that is not in `tried`. `key` is the same for requests that belong together.
    pub fn pick(&self, worker: usize, key: u64, tried: &[u64]) -> Option<Upstream> {
        let members = self.members.load();
        let picked = members.pick(&self.made_from.balance, &self.turns, worker, key, tried);
        picked.map(|address| Upstream::Address(address.clone()))
    }

    /// Takes what became of a request to one of its addresses.
    pub fn report(&self, address: &Address, failed: Option<&dyn Display>) {
        let Some(why) = failed else {
            if address.condition.succeeded() {
                info!(upstream = &*self.name, address = %address, reason = "a request worked again", "upstream up");
            }
            return;
        };
        address.failures.fetch_add(1, Ordering::Relaxed);
        let Some(rule) = &self.made_from.ejection else { return };
        let others = || self.members.load().has_other_than(address);
        if let Some(time) = address.condition.failed(rule, || why.to_string().into(), others) {
            warn!(
                upstream = &*self.name, address = %address, reason = %why, seconds = time.as_secs_f64(),
                "upstream ejected"
            );
        }
    }

    /// Every address of the group that there is now.
    pub fn addresses(&self) -> Vec<Arc<Address>> {
        self.members.load().list().to_vec()
    }

    /// What identifies every address of the group that there is now.
    pub fn ids(&self) -> Vec<u64> {
        self.members.load().list().iter().map(|address| address.id).collect()
    }

    /// Ends everything that is done for the group by itself; requests that run go on.
    pub fn end(&self) {
        self.ended.cancel();
    }

    /// The names that are to be looked up, by their position among the addresses of the configuration.
    pub fn names(&self) -> Vec<(usize, String)> {
        let hosts = self.made_from.addresses.iter().map(|address| address.host.clone()).enumerate();
        hosts.filter(|(_, host)| is_name(host)).collect()
    }

    /// A name stands for these addresses now. Those that vanish, whose connections nobody needs any more.
    pub fn found(&self, position: usize, ips: &[IpAddr]) -> Vec<Arc<Address>> {
        let mut sources = self.sources();
        let Some(source) = sources.get_mut(position) else { return Vec::new() };
        source.problem.clear();
        let before = std::mem::take(&mut source.members);
        let kept = |ip: &IpAddr| before.iter().find(|address| address.ip == Some(*ip)).cloned();
        let made = |ip: &IpAddr| Arc::new(Address::new(source.spec.clone(), Some(*ip)));
        source.members = ips.iter().map(|ip| kept(ip).unwrap_or_else(|| made(ip))).collect();
        let stays = |old: &Address| source.members.iter().any(|address| address.id == old.id);
        let vanished: Vec<_> = before.iter().filter(|old| !stays(old)).cloned().collect();
        if vanished.is_empty() && before.len() == source.members.len() {
            return vanished;
        }
        let shown: Vec<String> = ips.iter().map(IpAddr::to_string).collect();
        info!(upstream = &*self.name, name = &*source.spec.host, addresses = %shown.join(" "), "upstream resolved");
        self.members.store(Arc::new(members_of(&sources)));
        vanished.iter().for_each(|address| address.leave());
        vanished
    }

    /// A name could not be looked up: what it stood for goes on.
    pub fn not_found(&self, position: usize, why: &str) {
        let mut sources = self.sources();
        let Some(source) = sources.get_mut(position) else { return };
        if source.problem.is_empty() {
            warn!(upstream = &*self.name, name = &*source.spec.host, reason = why, "upstream not resolved");
        }
        source.problem = why.to_owned();
    }

    /// What an operator should look at, in sentences.
    pub fn problems(&self) -> Vec<String> {
        let name = &self.name;
        let unresolved = |source: &Source| {
            let host = &source.spec.host;
            format!("upstream {name}: {host} cannot be looked up ({}): its last addresses are used", source.problem)
        };
        let sources = self.sources();
        let mut problems: Vec<_> = sources.iter().filter(|source| !source.problem.is_empty()).map(unresolved).collect();
        let members = self.members.load();
        let unusable = members.list().iter().filter(|address| !address.condition.is_usable()).count();
        match (unusable, members.list().len()) {
            (0, _) => {}
            (down, all) if down == all => problems.push(format!("upstream {name}: none of its addresses works")),
            (down, all) => problems.push(format!("upstream {name}: {down} of {all} addresses do not work")),
        }
        problems
    }

    /// The group and its addresses.
    pub fn describe(&self) -> Value {
        let members = self.members.load();
        let describe = |address: &Arc<Address>| {
            let known = address.condition.known();
            json!({
                "address": address.to_string(),
                "name": address.spec.whole(),
                "state": known.state,
                "since": known.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
                "reason": known.reason,
                "weight": address.spec.weight,
                "requests_in_flight": address.in_flight.load(Ordering::Relaxed),
                "requests": address.requests.load(Ordering::Relaxed),
                "failures": address.failures.load(Ordering::Relaxed),
            })
        };
        let addresses: Vec<Value> = members.list().iter().map(describe).collect();
        let balance = match &self.made_from.balance {
            Balance::RoundRobin => "round-robin",
            Balance::LeastRequests => "least-requests",
            Balance::Cookie(_) => "cookie",
            Balance::Source => "source",
        };
        json!({"name": &*self.name, "balance": balance, "addresses": addresses})
    }

    fn sources(&self) -> MutexGuard<'_, Vec<Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn members_of(sources: &[Source]) -> Members {
    Members::new(sources.iter().flat_map(|source| source.members.iter().cloned()).collect())
}

/// The value of a cookie, where the request has it.
fn cookie<'a>(head: &'a RequestHead, name: &[u8]) -> Option<&'a [u8]> {
    let pairs = head.fields.all(Known::Cookie).flat_map(|field| field.split(|byte| *byte == b';'));
    let mut named = pairs.filter_map(|pair| pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"="));
    named.next()
}

#[cfg(test)]
mod tests;

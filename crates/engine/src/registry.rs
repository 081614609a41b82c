//! Who offers what: (tenant, endpoint) to the sessions of agents.
//!
//! Read on every request, changed when an agent comes or goes. Choosing among the sessions is `upstream::balance`.

use std::sync::{Arc, PoisonError, RwLock};

use hashbrown::HashMap;

use crate::upstream::{AgentSession, Endpoint};

type ByName = HashMap<(Arc<str>, Arc<str>), Arc<Endpoint>>;

/// All endpoints of this node.
#[derive(Clone, Default)]
pub struct Registry {
    endpoints: Arc<RwLock<ByName>>,
}

#[derive(Hash)]
struct Name<'a>(&'a str, &'a str);

impl hashbrown::Equivalent<(Arc<str>, Arc<str>)> for Name<'_> {
    fn equivalent(&self, key: &(Arc<str>, Arc<str>)) -> bool {
        *self.0 == *key.0 && *self.1 == *key.1
    }
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Registry::default()
    }

    /// The endpoint, where at least one session offers it.
    pub fn find(&self, tenant: &str, endpoint: &str) -> Option<Arc<Endpoint>> {
        self.endpoints.read().unwrap_or_else(PoisonError::into_inner).get(&Name(tenant, endpoint)).cloned()
    }

    /// Adds a session. Returns the older session of the same agent and tunnel, which the caller ends: its agent has
    /// come back, so the old one is dead even if nothing has said so yet.
    pub fn add(&self, session: Arc<AgentSession>) -> Option<Arc<AgentSession>> {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        let key = (session.tenant.clone(), session.endpoint.clone());
        let endpoint = endpoints
            .entry(key)
            .or_insert_with(|| Arc::new(Endpoint::new(session.tenant.clone(), session.endpoint.clone())));
        let mut sessions = Vec::clone(&endpoint.sessions());
        let older = sessions.iter().position(|old| session.agent.is_some() && old.agent == session.agent);
        let older = older.map(|i| sessions.remove(i));
        for other in &sessions {
            other.hear_of(&session);
        }
        sessions.push(session);
        endpoint.set_sessions(sessions);
        older
    }

    /// Removes a session, and its endpoint with the last one. False where it was not there any more.
    pub fn remove(&self, session: &AgentSession) -> bool {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        let name = Name(&session.tenant, &session.endpoint);
        let Some(endpoint) = endpoints.get(&name) else { return false };
        let mut sessions = Vec::clone(&endpoint.sessions());
        let before = sessions.len();
        sessions.retain(|other| other.id != session.id);
        let removed = sessions.len() < before;
        let empty = sessions.is_empty();
        endpoint.set_sessions(sessions);
        if empty {
            endpoints.remove(&name);
        }
        removed
    }

    /// How many tunnels of an endpoint each of `workers` workers drives.
    pub fn tunnels_by_worker(&self, tenant: &str, endpoint: &str, workers: usize) -> Vec<usize> {
        let mut counts = vec![0; workers];
        if let Some(endpoint) = self.find(tenant, endpoint) {
            for session in endpoint.sessions().iter() {
                counts[session.worker] += 1;
            }
        }
        counts
    }

    /// Every endpoint, by tenant and name.
    pub fn all(&self) -> Vec<Arc<Endpoint>> {
        let mut all: Vec<_> = self.endpoints.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        all.sort_by(|a, b| (&a.tenant, &a.name).cmp(&(&b.tenant, &b.name)));
        all
    }
}

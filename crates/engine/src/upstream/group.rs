//! A named upstream: addresses of which each may serve a request.
//!
//! Which of them exist and work is known here; which connections are kept to them is `pool`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::any::{Upstream, next_id};
use super::tcp::Address;
use crate::snapshot::{self, Timeouts};
use crate::tls::client::Connector;

/// Addresses that stand for each other.
pub struct Group {
    /// Its name in the configuration, in logs, metrics and status.
    pub name: Arc<str>,
    /// What it was made from: an equal one goes on with its state when the configuration changes.
    pub made_from: snapshot::Upstream,
    turn: AtomicUsize,
    members: Vec<Arc<Address>>,
}

impl Group {
    /// A group as the snapshot has it. An error says what cannot be used.
    pub fn new(from: &snapshot::Upstream, timeouts: &Timeouts) -> Result<Arc<Self>, String> {
        let mut members = Vec::new();
        for address in &from.addresses {
            let tls = match &address.tls {
                Some(tls) => {
                    let connector = Connector::new(tls).map_err(|why| format!("upstream \"{}\": {why}", from.name))?;
                    Some(connector.speaking(address.protocol))
                }
                None => None,
            };
            members.push(Arc::new(Address {
                id: next_id(),
                host: address.host.clone(),
                port: address.port,
                tls,
                protocol: address.protocol,
                connect_timeout: timeouts.connect,
                handshake_timeout: timeouts.handshake,
                in_flight: AtomicUsize::new(0),
            }));
        }
        let name = from.name.as_str().into();
        Ok(Arc::new(Group { name, made_from: from.clone(), turn: AtomicUsize::new(0), members }))
    }

    /// The address for a request that is not in `tried`. `key` is the same for requests that belong together.
    pub fn pick(&self, _key: u64, tried: &[u64]) -> Option<Upstream> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.members.len();
        let members = (0..count).map(|offset| &self.members[turn.wrapping_add(offset) % count]);
        let mut usable = members.filter(|address| !tried.contains(&address.id));
        usable.next().map(|address| Upstream::Address(address.clone()))
    }

    /// What identifies every address of the group that there is now.
    pub fn ids(&self) -> Vec<u64> {
        self.members.iter().map(|address| address.id).collect()
    }
}

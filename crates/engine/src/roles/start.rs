//! From a snapshot to what it describes.

use std::sync::Arc;

use super::agent::Agent;
use super::forward::Forward;
use super::gateway::Gateway;
use super::handle::{Role, StartError};
use crate::event::{self, Events};
use crate::snapshot::Snapshot;

/// Reads a snapshot.
pub fn read(snapshot: &[u8]) -> Result<Snapshot, StartError> {
    serde_json::from_slice(snapshot)
        .map_err(|error| StartError::Snapshot(format!("the snapshot does not fit: {error}")))
}

/// Starts what the snapshot describes. Listeners are bound when this returns.
pub fn start(snapshot: Snapshot, events: &Arc<Events>) -> Result<Box<dyn Role>, StartError> {
    let _subscribed = event::subscribe(events);
    Ok(match snapshot {
        Snapshot::Gateway(snapshot) => Box::new(Gateway::start(snapshot, events)?),
        Snapshot::Agent(snapshot) => Box::new(Agent::start(snapshot, events)?),
        Snapshot::Forward(snapshot) => Box::new(Forward::start(snapshot, events)?),
    })
}

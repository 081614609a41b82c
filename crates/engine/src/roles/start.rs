//! From a snapshot to what it describes.

use std::sync::Arc;

use serde_json::Value;

use super::agent::Agent;
use super::forward::Forward;
use super::gateway::Gateway;
use super::handle::{Role, StartError};
use crate::event::{self, Events};
use crate::proxy::explain::{self, Place, Question};
use crate::proxy::table::Table;
use crate::snapshot::Snapshot;

/// Reads a snapshot.
pub fn read(snapshot: &[u8]) -> Result<Snapshot, StartError> {
    serde_json::from_slice(snapshot)
        .map_err(|error| StartError::Snapshot(format!("the snapshot does not fit: {error}")))
}

/// Reads a question about a request.
pub fn question(json: &[u8]) -> Result<Question, String> {
    serde_json::from_slice(json).map_err(|error| format!("the question does not fit: {error}"))
}

/// What would become of a request under a snapshot. Nothing is started. An error says what cannot be asked.
pub fn explain(snapshot: Snapshot, question: &Question) -> Result<Value, String> {
    let Snapshot::Gateway(snapshot) = snapshot else { return Err("only a gateway has routes".to_owned()) };
    let table = Table::compile(&snapshot, &Table::empty())?;
    let place = |listener| Place { listener, addresses: Vec::clone(&listener.bind) };
    let places: Vec<Place<'_>> = snapshot.listeners.iter().map(place).collect();
    explain::explain(&table, &places, question, None)
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

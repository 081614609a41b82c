//! A running role, whatever it is: what the frontier to Python needs of it, and nothing else.

use std::fmt;
use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use crate::listener::ListenError;
use crate::proxy::explain::Question;
use crate::snapshot::Snapshot;
use crate::verdict::Kind;

/// A running gateway, agent or forward. Dropping it ends everything.
pub trait Role: Send + Sync {
    /// Replaces the whole configuration, or changes nothing.
    fn apply(&self, snapshot: Snapshot) -> Result<(), StartError>;
    /// The state of everything.
    fn status(&self) -> Value;
    /// What may be thousands of entries long, and is left out of the status: routes and upstreams.
    fn lists(&self) -> Value {
        json!({})
    }
    /// All metrics in Prometheus' text format.
    fn metrics(&self) -> String;
    /// What becomes of a request, and why. An error says what cannot be asked.
    fn explain(&self, question: &Question) -> Result<Value, String> {
        let _ = question;
        Err("only a gateway has routes".to_owned())
    }
    /// Waits for the next question about a credential, one JSON object: none where there is none within `timeout`, or
    /// where there will be none any more.
    fn next_question(&self, kind: Kind, timeout: Duration) -> Option<Vec<u8>> {
        let _ = (kind, timeout);
        None
    }
    /// Takes the answer to a question. An error says what cannot be understood.
    fn answer(&self, number: u64, verdict: &[u8]) -> Result<(), String> {
        let _ = (number, verdict);
        Ok(())
    }
    /// Ends what was verified by these keys, at once; how many credentials that were.
    fn revoke(&self, keys: &[String]) -> usize {
        let _ = keys;
        0
    }
    /// What is shown to gateways from the next connection on. An error says why there is nobody to show it to.
    fn set_token(&self, token: String) -> Result<(), String> {
        let _ = token;
        Err("only an agent or a forward shows a token".to_owned())
    }
    /// Begins to leave; the event `stopped` says when that has ended.
    fn drain(&self, grace: Duration);
    /// Ends everything where it stands.
    fn stop(&self);
}

/// Why a snapshot is not in force.
#[derive(Debug)]
pub enum StartError {
    /// An address could not be bound.
    Listen(ListenError),
    /// Something in the snapshot cannot be.
    Snapshot(String),
    /// The system refused a thread, a descriptor or a file.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen(error) => write!(f, "{error}"),
            StartError::Snapshot(why) => f.write_str(why),
            StartError::System(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<ListenError> for StartError {
    fn from(error: ListenError) -> Self {
        StartError::Listen(error)
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        StartError::System(error)
    }
}

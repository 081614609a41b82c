//! The session of an agent, as an upstream: one tunnel, one endpoint.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, SystemTime};

use crate::error::{Code, Error, Result};
use crate::identity::Identity;
use crate::io::BoxedIo;
use crate::tunnel::hello::Features;
use crate::tunnel::{self, OpenError, Transport};

use super::ejection::Condition;
use super::info::StreamInfo;

/// How long an agent that answers to no stream may let one wait: permission for more may be on its way. After that
/// whoever waits comes to another agent, or is told.
const ROUND_TRIP: Duration = Duration::from_millis(250);

/// One session of one agent for one endpoint.
pub struct AgentSession {
    /// Unique in this process.
    pub id: u64,
    /// The owner of the endpoint; empty where there are no tenants.
    pub tenant: Arc<str>,
    /// The endpoint it offers.
    pub endpoint: Arc<str>,
    /// The agent's own random id and the number of this tunnel, where it told them: the same again means that it came
    /// back and the older session is dead.
    pub agent: Option<Arc<str>>,
    /// Where the agent connected from.
    pub address: SocketAddr,
    /// Since when.
    pub since: SystemTime,
    /// Who the agent is.
    pub identity: Arc<Identity>,
    /// What was negotiated.
    pub features: Features,
    /// The tunnel that carries it.
    pub tunnel: tunnel::Session,
    /// How long opening a stream may wait for the agent's answer to others.
    pub open_timeout: Duration,
    /// The worker whose thread drives it.
    pub worker: usize,
    /// Requests and streams that run on it.
    pub in_flight: AtomicUsize,
    /// Whether it may be picked.
    pub condition: Condition,
}

impl AgentSession {
    /// The agent's process: its id without the number of the tunnel.
    pub fn agent_process(&self) -> Option<&str> {
        let agent = self.agent.as_deref()?;
        Some(agent.split_once('.').map_or(agent, |(process, _)| process))
    }

    /// Opens a stream: at once, but for an agent that is late with its answers to the last ones.
    pub async fn open(&self, _: &StreamInfo) -> Result<BoxedIo> {
        let opened = match self.tunnel.open() {
            Err(OpenError::Unanswered) => {
                let patience = match self.tunnel.transport() {
                    Transport::QuicTunnel => self.open_timeout.min(ROUND_TRIP),
                    _ => self.open_timeout,
                };
                let opened = tokio::time::timeout(patience, self.tunnel.open_when_answered()).await;
                opened.unwrap_or(Err(OpenError::Unanswered))
            }
            opened => opened,
        };
        opened.map_err(|error| match error {
            OpenError::Busy => Error::undelivered(Code::Overload, error.to_string()),
            error => Error::undelivered(Code::UpstreamUnreachable, error.to_string()),
        })
    }
}

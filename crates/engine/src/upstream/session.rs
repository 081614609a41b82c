//! The session of an agent, as an upstream: one tunnel, one endpoint.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;

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
    /// Why the tunnel is no QUIC, in the agent's words.
    pub not_quic: Option<Arc<str>>,
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
    /// A younger session of the same agent that came by WebSocket because QUIC is not answered.
    pub doubted_by: ArcSwapOption<AgentSession>,
}

impl AgentSession {
    /// The agent's process: its id without the number of the tunnel.
    pub fn agent_process(&self) -> Option<&str> {
        let agent = self.agent.as_deref()?;
        Some(agent.split_once('.').map_or(agent, |(process, _)| process))
    }

    /// True where any other session is the better choice: what is sent over this one is not answered, as we see
    /// ourselves or its agent says.
    pub fn is_doubtful(&self) -> bool {
        if self.tunnel.transport() == Transport::WebSocket {
            return false;
        }
        let doubted = || self.doubted_by.load().as_ref().is_some_and(|younger| younger.tunnel.is_open());
        self.tunnel.is_silent() || doubted()
    }

    /// Takes into account what a younger session of the same agent says about the way that this one takes.
    pub fn hear_of(&self, younger: &Arc<AgentSession>) {
        let same = self.agent_process().is_some() && self.agent_process() == younger.agent_process();
        if same && younger.not_quic.is_some() && self.tunnel.transport() != Transport::WebSocket {
            self.doubted_by.store(Some(younger.clone()));
        }
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

//! One authenticated connection that carries many streams: yamux, as HashiCorp's library speaks it, plain or inside
//! WebSocket messages; or QUIC.
//!
//! Bottom up: `frame` and `websocket` turn bytes into frames, [`mux`] holds every decision about streams and knows no
//! socket, `driver` moves its bytes over one byte stream, `yamux` is a handle on it, and `stream` is a byte stream
//! again. `quic` does the same with the streams of a QUIC connection. A [`Session`] is what everybody above uses. Who
//! may open a tunnel, and what its streams are for, is decided above.

mod chunks;
mod driver;
mod end;
pub mod endpoint;
pub mod frame;
pub mod hello;
pub mod memory;
pub mod mux;
pub mod quic;
mod session;
mod shared;
mod stream;
pub mod websocket;
mod yamux;

use std::time::Duration;

use crate::snapshot;

pub use crate::snapshot::Transport;
pub use end::{End, Ending, OpenError, StreamReset, never_accepted};
pub use quic::{Flow, FlowError, Sent};
pub use session::Session;
pub use yamux::start;

/// Which of the two ends of a session we are: it decides whose stream ids are odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens odd ids: an agent.
    Client,
    /// Opens even ids: a gateway.
    Server,
}

/// What the frames travel in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Nothing: the byte stream is theirs alone.
    Raw,
    /// Binary WebSocket messages of the side that sent the upgrade; masked.
    WebSocketClient,
    /// Binary WebSocket messages of the side that answered the upgrade.
    WebSocketServer,
}

/// How a session behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which end we are.
    pub role: Role,
    /// What the frames travel in.
    pub framing: Framing,
    /// Silence after which we ask whether the peer is there.
    pub ping_interval: Duration,
    /// Silence after the question, or time in which the peer takes no byte, that ends the session.
    pub ping_timeout: Duration,
    /// Whether the peer may open streams; where nobody takes them they are refused.
    pub takes_streams: bool,
}

impl Config {
    /// A gateway's end: it opens streams and takes none (compat.md §1.1).
    pub fn gateway(tunnel: &snapshot::Tunnel) -> Self {
        Config::new(Role::Server, Framing::WebSocketServer, tunnel, false)
    }

    /// An agent's end: it takes streams.
    pub fn agent(tunnel: &snapshot::Tunnel) -> Self {
        Config::new(Role::Client, Framing::WebSocketClient, tunnel, true)
    }

    fn new(role: Role, framing: Framing, tunnel: &snapshot::Tunnel, takes_streams: bool) -> Self {
        let snapshot::Tunnel { ping_interval, ping_timeout, .. } = *tunnel;
        Config { role, framing, ping_interval, ping_timeout, takes_streams }
    }
}

/// What a session has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Round trip as the last ping or packet measured it.
    pub rtt: Option<Duration>,
    /// Bytes of frames received.
    pub bytes_in: u64,
    /// Bytes of frames sent.
    pub bytes_out: u64,
    /// Streams we opened.
    pub opened: u64,
    /// Streams the peer opened and we did not refuse.
    pub accepted: u64,
    /// Streams the peer opened and we refused: we are leaving, or too many waited to be taken.
    pub refused: u64,
    /// Streams the peer reset.
    pub resets_in: u64,
    /// Streams we reset.
    pub resets_out: u64,
    /// Streams reset because the session held too many unread bytes.
    pub overruns: u64,
    /// Bytes that came for streams already closed.
    pub discarded: u64,
    /// Bytes received and not yet read; of QUIC only what was looked at already.
    pub unread: u64,
    /// Packets lost; 0 where nobody can tell.
    pub lost: u64,
    /// The largest packet that the path is known to carry; 0 where there are none.
    pub mtu: u16,
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// Datagrams received that belonged to no flow, or that nobody took in time.
    pub datagrams_dropped: u64,
}

//! Two connected sessions over a pipe in memory, for tests of everything above.

use std::time::Duration;

use super::{Config, Framing, Role, Session, start};
use crate::io::{BoxedIo, Buffer};

/// What the pipe holds in each direction.
const PIPE: usize = 256 * 1024;

/// An agent's and a gateway's end, driven by tasks of the current runtime.
pub fn pair() -> (Session, Session) {
    let (agent, gateway) = tokio::io::duplex(PIPE);
    over(Box::new(agent), Box::new(gateway), false)
}

/// The same over any two connected byte streams, plain or inside WebSocket messages.
pub fn over(agent: BoxedIo, gateway: BoxedIo, websocket: bool) -> (Session, Session) {
    let framing = |framing| if websocket { framing } else { Framing::Raw };
    let (agent, driver) = start(agent, Buffer::new(), config(Role::Client, framing(Framing::WebSocketClient)));
    tokio::spawn(driver);
    let (gateway, driver) = start(gateway, Buffer::new(), config(Role::Server, framing(Framing::WebSocketServer)));
    tokio::spawn(driver);
    (agent, gateway)
}

/// The pings of a real session.
pub fn config(role: Role, framing: Framing) -> Config {
    Config {
        role,
        framing,
        ping_interval: Duration::from_secs(30),
        ping_timeout: Duration::from_secs(10),
        takes_streams: true,
    }
}

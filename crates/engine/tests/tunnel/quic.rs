//! Sessions over QUIC: the pairs that the suite runs on, and what only they promise.

use tidegate_engine::tunnel::Session;
use tidegate_engine::tunnel::quic::{Config, start};

#[path = "../support/quic.rs"]
mod support;

/// Both ends take streams.
const TAKES: Config = Config { takes_streams: true, asks: false };

/// Sessions on a connection between two sockets: the agent's and the gateway's.
pub(crate) async fn pair() -> (Session, Session) {
    let (client, server) = support::connected(&support::tunnel()).await;
    let [agent, gateway] = support::greeted(&client, &server).await;
    let (agent, driver) = start(client, Some(agent), TAKES);
    tokio::spawn(driver);
    let (gateway, driver) = start(server, Some(gateway), TAKES);
    tokio::spawn(driver);
    (agent, gateway)
}

/// The same where streams are all that there is.
pub(crate) async fn plain_pair() -> (Session, Session) {
    let (client, server) = support::connected(&support::tunnel()).await;
    let (agent, driver) = start(client, None, TAKES);
    tokio::spawn(driver);
    let (gateway, driver) = start(server, None, TAKES);
    tokio::spawn(driver);
    (agent, gateway)
}

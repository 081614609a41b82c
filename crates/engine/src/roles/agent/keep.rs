//! Keeps one tunnel of one endpoint up: dials, serves what the gateway opens, and dials again.

use std::pin::pin;
use std::sync::Arc;

use tokio::time::sleep;
use tracing::{info, warn};

use super::service::Offered;
use super::state::Word;
use crate::backoff::Backoff;
use crate::connect::{Gateway, Refused};
use crate::io::{BoxedIo, Buffer};
use crate::proxy::shared::Proxy;
use crate::shutdown::Drain;
use crate::snapshot::{self, Timeouts};
use crate::tunnel::hello::{Told, UPSTREAM_PATH};
use crate::tunnel::{Config, Ending, Framing, Role, Session, start};

/// What all tunnels of an agent share.
pub struct Dialler {
    gateways: Vec<Gateway>,
    id: String,
    version: String,
    connections: usize,
    timeouts: Timeouts,
    tunnel: snapshot::Tunnel,
    proxy: Arc<Proxy>,
    tunnels: Drain,
}

impl Dialler {
    /// What a snapshot says about reaching gateways.
    pub fn new(gateways: Vec<Gateway>, snapshot: &snapshot::Agent, proxy: Arc<Proxy>, tunnels: Drain) -> Self {
        Dialler {
            gateways,
            id: snapshot.id.clone(),
            version: snapshot.version.clone(),
            connections: snapshot.connections,
            timeouts: snapshot.timeouts.clone(),
            tunnel: snapshot.tunnel.clone(),
            proxy,
            tunnels,
        }
    }
}

/// Keeps the tunnel with this number up until the agent leaves or every gateway has refused it for good.
pub async fn keep(dialler: Arc<Dialler>, offer: Arc<Offered>, slot: usize) {
    let state = &offer.tunnels[slot];
    let path = format!("{UPSTREAM_PATH}{}", offer.name);
    let mut leaving = pin!(dialler.proxy.drain.begun());
    let mut backoff = Backoff::new();
    let (mut turn, mut refusals, mut generation) = (slot, 0, 0);
    while !dialler.proxy.drain.is_begun() {
        let gateway = &dialler.gateways[turn % dialler.gateways.len()];
        turn += 1;
        state.set(Word::Connecting, &gateway.url, "", "");
        // While an old tunnel finishes, its successor is not the same one that came back.
        let number = slot + dialler.connections * (generation % 2);
        let agent = format!("{}.{number}", dialler.id);
        let opened = tokio::select! {
            () = &mut leaving => return,
            opened = gateway.open(&path, Some(&agent), &dialler.version, &dialler.timeouts) => opened,
        };
        let reason = match opened {
            Ok((io, early, told)) => {
                refusals = 0;
                backoff.reset();
                state.set(Word::Connected, &gateway.url, "", &told.url);
                info!(
                    endpoint = &*offer.name,
                    gateway = &*gateway.url,
                    slot,
                    url = &*told.url,
                    node = &*told.node,
                    tcp = offer.is_tcp(),
                    "connected"
                );
                match serve(&dialler, &offer, io, early, &told).await {
                    Left::Replace => {
                        generation += 1;
                        continue;
                    }
                    Left::Ended(reason) => reason,
                }
            }
            Err(refused) => match give_up(&dialler, &refused, &mut refusals) {
                true => {
                    state.set(Word::Refused, &gateway.url, &refused.reason, "");
                    warn!(
                        endpoint = &*offer.name,
                        gateway = &*gateway.url,
                        slot,
                        reason = &*refused.reason,
                        status = refused.status.unwrap_or_default(),
                        "refused"
                    );
                    return;
                }
                false => refused.reason,
            },
        };
        if dialler.proxy.drain.is_begun() {
            return;
        }
        let wait = backoff.next_wait();
        state.set(Word::Waiting, &gateway.url, &reason, "");
        warn!(
            endpoint = &*offer.name,
            gateway = &*gateway.url,
            slot,
            reason = &*reason,
            retry_in = wait.as_secs_f64(),
            "disconnected"
        );
        tokio::select! {
            () = &mut leaving => return,
            () = sleep(wait) => {}
        }
    }
}

/// True when every gateway has given an answer that no time will change.
fn give_up(dialler: &Dialler, refused: &Refused, refusals: &mut usize) -> bool {
    *refusals = if refused.may_pass() { 0 } else { *refusals + 1 };
    *refusals >= dialler.gateways.len()
}

/// How a tunnel came to its end, or to the time for another.
enum Left {
    /// The gateway drains: the old tunnel finishes by itself, a new one is wanted now.
    Replace,
    /// It ended.
    Ended(String),
}

async fn serve(dialler: &Arc<Dialler>, offer: &Arc<Offered>, io: BoxedIo, early: Buffer, told: &Told) -> Left {
    let config = Config {
        role: Role::Client,
        framing: Framing::WebSocketClient,
        ping_interval: dialler.tunnel.ping_interval,
        ping_timeout: dialler.tunnel.ping_timeout,
    };
    let (session, driver) = start(io, early, config);
    let runtime = dialler.proxy.runtime(0);
    dialler.tunnels.spawn_on(runtime, driver);
    dialler.tunnels.spawn_on(runtime, accept(dialler.clone(), offer.clone(), session.clone(), told.features.reuse));
    tokio::select! {
        end = session.ended() => Left::Ended(end.to_string()),
        () = session.gone_away() => match session.end_reason() {
            Some(end) => Left::Ended(end.to_string()),
            None => Left::Replace,
        },
    }
}

/// Serves every stream of a session, and ends the session when the agent leaves.
async fn accept(dialler: Arc<Dialler>, offer: Arc<Offered>, session: Session, patient: bool) {
    let proxy = &dialler.proxy;
    let mut leaving = pin!(proxy.drain.begun());
    let mut ending = pin!(dialler.tunnels.begun());
    let mut said = false;
    loop {
        tokio::select! {
            stream = session.accept() => {
                let Some(stream) = stream else { return };
                let (proxy, offer) = (proxy.clone(), offer.clone());
                let runtime = dialler.proxy.runtime(0);
                dialler.proxy.drain.spawn_on(runtime, async move {
                    offer.serve(proxy, 0, stream, patient).await;
                });
            }
            () = &mut leaving, if !said => {
                said = true;
                session.go_away();
            }
            () = &mut ending => return session.end(Ending::Close),
        }
    }
}

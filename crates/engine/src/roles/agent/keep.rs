//! Keeps one tunnel of one endpoint up: dials, serves what the gateway opens, and dials again.

use std::pin::pin;
use std::sync::Arc;

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::service::Offered;
use super::state::Word;
use crate::backoff::Backoff;
use crate::connect::{Gateway, Refused, Token, Tunnel, Wanted};
use crate::proxy::shared::Proxy;
use crate::shutdown::Drain;
use crate::snapshot::{self, Timeouts, Transport};
use crate::tunnel::hello::UPSTREAM_PATH;
use crate::tunnel::{Ending, Session};

/// Tunnels of one slot that may finish beside each other before a number comes again, which would end the oldest.
const GENERATIONS: usize = 16;

/// How often a tunnel that was taken back is looked at.
const LOOK: std::time::Duration = std::time::Duration::from_millis(200);

/// What all tunnels of an agent share.
pub struct Dialler {
    gateways: Vec<Gateway>,
    token: Arc<Token>,
    renews: bool,
    id: String,
    version: String,
    connections: usize,
    transport: Transport,
    timeouts: Timeouts,
    tunnel: snapshot::Tunnel,
    proxy: Arc<Proxy>,
    tunnels: Drain,
}

impl Dialler {
    /// What a snapshot says about reaching gateways.
    pub fn new(
        (gateways, token): (Vec<Gateway>, Arc<Token>),
        snapshot: &snapshot::Agent,
        proxy: Arc<Proxy>,
        tunnels: Drain,
    ) -> Self {
        Dialler {
            gateways,
            token,
            renews: snapshot.connect.renews,
            id: snapshot.id.clone(),
            version: snapshot.version.clone(),
            connections: snapshot.connections,
            transport: snapshot.connect.transport,
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
    let (mut turn, mut refusals, mut generation, mut was_up) = (slot, 0, 0, false);
    while !dialler.proxy.drain.is_begun() {
        if let Some(reason) = offer.works.problem() {
            state.set(Word::Unhealthy, "", &reason);
            tokio::select! {
                () = &mut leaving => return,
                () = offer.works.works() => {}
            }
        }
        let gateway = &dialler.gateways[turn % dialler.gateways.len()];
        turn += 1;
        state.set(Word::Connecting, &gateway.url, "");
        // While an old tunnel finishes, its successor is not the same one that came back.
        let number = slot + dialler.connections * (generation % GENERATIONS);
        let agent = format!("{}.{number}", dialler.id);
        let wanted = Wanted {
            path: &path,
            agent: &agent,
            version: &dialler.version,
            h2: offer.is_http2(),
            timeouts: &dialler.timeouts,
            tunnel: &dialler.tunnel,
            worker: &dialler.proxy.workers[0],
            drain: &dialler.tunnels,
        };
        let opened = tokio::select! {
            () = &mut leaving => return,
            opened = gateway.tunnel(dialler.transport, &wanted) => opened,
        };
        let reason = match opened {
            Ok(tunnel) => {
                refusals = 0;
                was_up = true;
                let since = Instant::now();
                let (told, transport) = (&tunnel.told, tunnel.session.transport().word());
                state.connected(&gateway.url, transport, &told.url);
                info!(
                    endpoint = &*offer.name,
                    gateway = &*gateway.url,
                    slot,
                    url = &*told.url,
                    node = &*told.node,
                    tcp = offer.is_raw(),
                    transport,
                    "connected"
                );
                let left = serve(&dialler, &offer, tunnel).await;
                // A gateway that takes tunnels and drops them at once is no better than one that does not answer.
                let lived = since.elapsed() >= dialler.tunnel.ping_interval;
                if lived {
                    backoff.reset();
                }
                match left {
                    Left::Withdrawn => {
                        generation += 1;
                        continue;
                    }
                    Left::Replace => {
                        generation += 1;
                        if lived || backoff.is_fresh() {
                            backoff.next_wait();
                            continue;
                        }
                        "the gateway sent this tunnel away at once".to_owned()
                    }
                    Left::Ended(reason) => reason,
                }
            }
            Err(refused) => match give_up(&dialler, &refused, &mut refusals, was_up) {
                true => {
                    state.set(Word::Refused, &gateway.url, &refused.reason);
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
        state.set(Word::Waiting, &gateway.url, &reason);
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
            () = dialler.token.changed() => backoff.reset(),
            () = sleep(wait) => {}
        }
    }
}

/// True when every gateway has given an answer that no time will change. `was_up`: there was a good token before.
fn give_up(dialler: &Dialler, refused: &Refused, refusals: &mut usize, was_up: bool) -> bool {
    let over = was_up && dialler.renews && refused.status == Some(401);
    *refusals = if refused.may_pass() || over { 0 } else { *refusals + 1 };
    *refusals >= dialler.gateways.len()
}

/// How a tunnel came to its end, or to the time for another.
enum Left {
    /// The service does not work: the tunnel finishes by itself, another is wanted when it works again.
    Withdrawn,
    /// The gateway drains: the old tunnel finishes by itself, a new one is wanted now.
    Replace,
    /// It ended.
    Ended(String),
}

async fn serve(dialler: &Arc<Dialler>, offer: &Arc<Offered>, tunnel: Tunnel) -> Left {
    let Tunnel { session, driver, told } = tunnel;
    let runtime = dialler.proxy.runtime(0);
    dialler.tunnels.spawn_on(runtime, driver);
    dialler.proxy.drain.spawn_on(runtime, leave(session.clone(), dialler.proxy.drain.begun()));
    dialler.tunnels.spawn_on(runtime, accept(dialler.clone(), offer.clone(), session.clone(), told.features.reuse));
    tokio::select! {
        end = session.ended() => Left::Ended(end.to_string()),
        () = session.gone_away() => match session.end_reason() {
            Some(end) => Left::Ended(end.to_string()),
            None => Left::Replace,
        },
        () = offer.works.fails() => {
            dialler.tunnels.spawn_on(runtime, withdraw(session));
            Left::Withdrawn
        }
    }
}

/// Takes a tunnel back: the gateway is told to open nothing more on it and gives up what it keeps idle there; it ends
/// when what runs on it has ended.
async fn withdraw(session: Session) {
    session.go_away();
    session.settle().await;
    while session.streams() > 0 && session.end_reason().is_none() {
        sleep(LOOK).await;
    }
    session.end(Ending::Close);
}

/// Tells the gateway when the agent leaves, and waits for the streams that crossed that word: they are served, or
/// refused so that the gateway knows they went nowhere.
async fn leave(session: Session, begun: impl Future<Output = ()>) {
    tokio::select! {
        _ = session.ended() => {}
        () = begun => {
            session.go_away();
            session.settle().await;
        }
    }
}

/// Serves every stream of a session, and ends the session when the agent has left.
async fn accept(dialler: Arc<Dialler>, offer: Arc<Offered>, session: Session, patient: bool) {
    let mut ending = pin!(dialler.tunnels.begun());
    loop {
        tokio::select! {
            stream = session.accept() => {
                let Some(stream) = stream else { return };
                let (proxy, offer) = (dialler.proxy.clone(), offer.clone());
                let runtime = dialler.proxy.runtime(0);
                dialler.proxy.drain.spawn_on(runtime, async move {
                    offer.serve(proxy, 0, stream, patient).await;
                });
            }
            () = &mut ending => return session.end(Ending::Close),
        }
    }
}

//! A tunnel of an agent that is up: serves what the gateway opens on it, until it ends or is taken back.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::sleep;

use super::choice::Way;
use super::service::Offered;
use crate::connect::{Gateway, Refused, Request, Token, Tunnel, Wanted};
use crate::proxy::shared::Proxy;
use crate::shutdown::Drain;
use crate::snapshot::{self, Timeouts, Transport, TransportChoice};
use crate::tunnel::hello::UPSTREAM_PATH;
use crate::tunnel::{Ending, Session};

/// How often a tunnel that was taken back is looked at.
const LOOK: std::time::Duration = std::time::Duration::from_millis(200);

/// What all tunnels of an agent share.
pub struct Dialler {
    pub(super) gateways: Vec<Gateway>,
    pub(super) token: Arc<Token>,
    pub(super) renews: bool,
    id: String,
    version: String,
    pub(super) connections: usize,
    pub(super) transport: TransportChoice,
    timeouts: Timeouts,
    pub(super) tunnel: snapshot::Tunnel,
    pub(super) proxy: Arc<Proxy>,
    pub(super) tunnels: Drain,
    /// How often new requests came over the other transport from then on: to QUIC, to WebSocket.
    changes: [AtomicU64; 2],
}

/// What differs from one attempt to dial to the next.
pub struct Attempt {
    /// Which gateway.
    pub gateway: usize,
    /// The number of the tunnel, which others of this agent at that gateway have not.
    pub number: usize,
    /// What the tunnel is to be made of.
    pub transport: Transport,
    /// Where the gateway said that QUIC is.
    pub quic_at: Option<String>,
    /// Why it is no QUIC.
    pub not_quic: String,
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
            changes: [const { AtomicU64::new(0) }; 2],
        }
    }

    /// What a tunnel is made of that goes this way.
    pub fn made_of(&self, way: Way) -> Transport {
        match (way, self.transport) {
            (Way::WebSocket, _) => Transport::WebSocket,
            (Way::Quic, TransportChoice::QuicTunnel) => Transport::QuicTunnel,
            (Way::Quic, _) => Transport::Quic,
        }
    }

    /// New requests come over `to` from now on.
    pub fn changed(&self, to: Way) {
        self.changes[usize::from(to == Way::WebSocket)].fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was, to QUIC and to WebSocket.
    pub fn changes(&self) -> [u64; 2] {
        [&self.changes[0], &self.changes[1]].map(|count| count.load(Ordering::Relaxed))
    }

    /// Opens a tunnel for what is offered.
    pub async fn dial(&self, offer: &Offered, attempt: &Attempt) -> Result<Tunnel, Refused> {
        let request = Request {
            path: &format!("{UPSTREAM_PATH}{}", offer.name),
            agent: Some(&format!("{}.{}", self.id, attempt.number)),
            version: &self.version,
            h2: offer.is_http2(),
            not_quic: &attempt.not_quic,
        };
        let wanted = Wanted {
            request,
            quic_at: attempt.quic_at.as_deref(),
            asks: self.transport == TransportChoice::Auto,
            timeouts: &self.timeouts,
            tunnel: &self.tunnel,
            worker: &self.proxy.workers[0],
            drain: &self.tunnels,
        };
        self.gateways[attempt.gateway].tunnel(attempt.transport, &wanted).await
    }

    /// Serves a tunnel to its end; `number` is held until then.
    pub fn serve(self: &Arc<Self>, offer: &Arc<Offered>, tunnel: Tunnel, number: Arc<()>) -> Session {
        let Tunnel { session, driver, told } = tunnel;
        let (runtime, drain) = (self.proxy.runtime(0), &self.proxy.drain);
        self.tunnels.spawn_on(runtime, driver);
        drain.spawn_on(runtime, leave(session.clone(), drain.begun()));
        let accept = accept(self.clone(), offer.clone(), session.clone(), told.features.reuse);
        self.tunnels.spawn_on(runtime, async move {
            let _number = number;
            accept.await;
        });
        session
    }

    /// Takes a tunnel back.
    pub fn withdraw(&self, session: Session) {
        self.tunnels.spawn_on(self.proxy.runtime(0), withdraw(session));
    }
}

/// The gateway is told to open nothing more on a tunnel and gives up what it keeps idle there; the tunnel ends when
/// what runs on it has ended.
pub async fn withdraw(session: Session) {
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

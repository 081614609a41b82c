//! A tunnel of an agent that is up: serves what the gateway opens on it, until it ends or is taken back.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::service::Offered;
use crate::connect::{Gateway, Refused, Request, Token, Tunnel, Wanted};
use crate::proxy::shared::Proxy;
use crate::roles::link::{Changes, wind_down};
use crate::shutdown::Drain;
use crate::snapshot::{self, Timeouts, Transport, TransportChoice, Way};
use crate::tunnel::hello::UPSTREAM_PATH;
use crate::tunnel::{Ending, Session};

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
    pub(super) changes: Changes,
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
            changes: Changes::default(),
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

    /// Opens a tunnel for what is offered.
    pub async fn dial(&self, offer: &Offered, attempt: &Attempt) -> Result<Tunnel, Refused> {
        let request = Request {
            path: &format!("{UPSTREAM_PATH}{}", offer.name),
            agent: Some(&format!("{}.{}", self.id, attempt.number)),
            version: &self.version,
            h2: offer.is_http2(),
            datagram: offer.is_udp(),
            not_quic: &attempt.not_quic,
        };
        let wanted = Wanted {
            request,
            quic_at: attempt.quic_at.as_deref(),
            serves: true,
            asks: offer.transport(self.transport) == TransportChoice::Auto,
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

    /// Takes a tunnel back: the gateway gives up what it keeps idle there.
    pub fn withdraw(&self, session: Session) {
        self.tunnels.spawn_on(self.proxy.runtime(0), wind_down(session));
    }
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

/// Resolves when an agent that leaves hears nothing any more of the gateway that it takes leave of.
async fn lost(session: &Session, begun: impl Future<Output = ()>, within: Duration) {
    begun.await;
    loop {
        session.silence(true).await;
        if timeout(within, session.silence(false)).await.is_err() || session.end_reason().is_some() {
            return;
        }
    }
}

/// Serves every stream and flow of a session, and ends the session when the agent has left.
async fn accept(dialler: Arc<Dialler>, offer: Arc<Offered>, session: Session, patient: bool) {
    let mut ending = pin!(dialler.tunnels.begun());
    let mut lost = pin!(lost(&session, dialler.proxy.drain.begun(), dialler.tunnel.ping_timeout));
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
            flow = session.accept_flow(), if offer.is_udp() => {
                let Some(flow) = flow else { return };
                let (proxy, offer) = (dialler.proxy.clone(), offer.clone());
                let runtime = dialler.proxy.runtime(0);
                dialler.proxy.drain.spawn_on(runtime, async move {
                    offer.serve_flow(proxy, 0, flow).await;
                });
            }
            () = &mut ending => return session.end(Ending::Close),
            // What runs there has nobody to answer to.
            () = &mut lost => return session.end(Ending::Close),
        }
    }
}

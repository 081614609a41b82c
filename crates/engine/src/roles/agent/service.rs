//! One endpoint that an agent offers: the local service behind it and what is done with a stream for it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tracing::warn;

use super::state::{TunnelState, Word};
use super::works::Works;
use crate::io::{BoxedIo, Buffer};
use crate::proxy::access::{Answered, Record};
use crate::proxy::relay::Leg;
use crate::proxy::serve::{Connection, serve};
use crate::proxy::shared::Proxy;
use crate::proxy::site::{Service, Site};
use crate::proxy::stream;
use crate::snapshot::upstream::Protocol;
use crate::snapshot::{self, OfferKind};
use crate::tls::client::Connector;
use crate::upstream::tcp::Spec;
use crate::upstream::{Address, Upstream, UpstreamSet};

/// A gateway does not say where its downstream's TCP connection came from; the head of a request may.
const UNKNOWN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// An endpoint on offer.
pub struct Offered {
    /// Its name.
    pub name: Arc<str>,
    kind: OfferKind,
    address: Arc<Address>,
    service: Arc<Service>,
    /// Whether the service works, where it is asked.
    pub works: Works,
    /// Its tunnels.
    pub tunnels: Vec<TunnelState>,
}

impl Offered {
    /// Everything a configuration offers. An error names the endpoint and what is wrong with it.
    pub fn all(snapshot: &snapshot::Agent) -> Result<Vec<Arc<Offered>>, String> {
        snapshot.endpoints.iter().map(|offer| Offered::new(offer, snapshot).map(Arc::new)).collect()
    }

    fn new(offer: &snapshot::Offer, snapshot: &snapshot::Agent) -> Result<Self, String> {
        let tls = match &offer.to.tls {
            Some(tls) => Some(Connector::new(tls).map_err(|why| format!("endpoint \"{}\": {why}", offer.name))?),
            None => None,
        };
        let spec = Spec::new(&offer.to.host, offer.to.port, tls, offer.protocol, &snapshot.timeouts);
        let address = Arc::new(Address::new(spec, None));
        let authority = address.authority.clone();
        let name: Arc<str> = offer.name.as_str().into();
        let service = Arc::new(Service {
            endpoint: name.clone(),
            upstream: Upstream::Address(address.clone()),
            host_header: offer.host_header.clone(),
            authority,
        });
        let tunnels = (0..snapshot.connections).map(|_| TunnelState::default()).collect();
        let works = Works::new(offer.health.clone());
        Ok(Offered { name, kind: offer.kind, address, service, works, tunnels })
    }

    /// True for a service that speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        self.kind == OfferKind::Http && self.address.spec.protocol == Protocol::Http2
    }

    /// True for a service of raw bytes.
    pub fn is_tcp(&self) -> bool {
        self.kind == OfferKind::Tcp
    }

    /// Tunnels that are up.
    pub fn connected(&self) -> usize {
        self.tunnels.iter().filter(|tunnel| tunnel.word() == Word::Connected).count()
    }

    /// The endpoint, its service and its tunnels.
    pub fn describe(&self) -> Value {
        let tunnels: Vec<Value> = self.tunnels.iter().enumerate().map(|(slot, one)| one.describe(slot)).collect();
        let kind = if self.is_tcp() { "tcp" } else { "http" };
        let health = self.works.describe();
        json!({"name": &*self.name, "kind": kind, "to": self.address.to_string(), "health": health, "tunnels": tunnels})
    }

    /// Serves one stream that a gateway opened. `patient`: only the gateway ends it while it is idle.
    pub async fn serve(&self, proxy: Arc<Proxy>, worker: usize, stream: BoxedIo, patient: bool) {
        if !self.is_tcp() {
            let connection = Connection {
                io: stream,
                read: Buffer::new(),
                client: UNKNOWN,
                identity: proxy.anonymous.clone(),
                site: Site::Service(self.service.clone()),
                head: None,
                secured: None,
                place: None,
                patient,
            };
            return serve(proxy, worker, connection).await;
        }
        let mut record = Record::new(proxy.next_request(), UNKNOWN, self.name.clone(), Answered::Agent);
        record.endpoint = self.name.clone();
        let upstreams = UpstreamSet::One(self.service.upstream.clone());
        let near = Leg { io: stream, read: Buffer::new() };
        proxy.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        stream::relay_tcp(&proxy, worker, &upstreams, near, UNKNOWN, &mut record).await;
        proxy.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
        proxy.finish(worker, &record);
    }
}

/// Watches whether the service works, until the agent leaves; where nothing is to be asked, says once that nothing
/// answers at the local address: it may still come.
pub async fn watch(offer: Arc<Offered>, leaving: impl Future<Output = ()>) {
    if offer.works.is_asked() {
        return tokio::select! {
            () = offer.works.watch(&offer.name, &offer.address) => {}
            () = leaving => {}
        };
    }
    if let Err(error) = offer.address.open(None).await {
        warn!(
            endpoint = &*offer.name, address = %offer.address, reason = &*error.detail,
            "service unreachable"
        );
    }
}

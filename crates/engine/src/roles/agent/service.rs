//! One endpoint that an agent offers: the local service behind it and what is done with a stream for it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tracing::warn;

use super::state::{TunnelState, Word};
use super::works::Works;
use crate::dial::Lookups;
use crate::io::{BoxedIo, Buffer};
use crate::proxy::access::{Answered, Record};
use crate::proxy::connecting::Connecting;
use crate::proxy::relay::Leg;
use crate::proxy::serve::{Connection, serve};
use crate::proxy::shared::Proxy;
use crate::proxy::site::{Service, Site};
use crate::proxy::stream;
use crate::snapshot::upstream::Protocol;
use crate::snapshot::{self, OfferKind};
use crate::target::allowed::Allowed;
use crate::tls::client::Connector;
use crate::upstream::tcp::Spec;
use crate::upstream::{Address, Upstream, UpstreamSet};

/// Names that an endpoint of CONNECT looks up at once, at most.
const LOOKUPS: usize = 32;

/// A gateway does not say where its downstream's TCP connection came from; the head of a request may.
const UNKNOWN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// An endpoint on offer.
pub struct Offered {
    /// Its name.
    pub name: Arc<str>,
    serves: Serves,
    /// Whether the service works, where it is asked.
    pub works: Works,
    /// Its tunnels.
    pub tunnels: Vec<TunnelState>,
}

/// What is behind an endpoint.
enum Serves {
    /// A service of HTTP.
    Http(Local),
    /// One of raw bytes.
    Tcp(Local),
    /// Whatever each stream asks for, as far as it is allowed.
    Connect(Connecting),
}

/// One local service.
struct Local {
    address: Arc<Address>,
    service: Arc<Service>,
}

impl Offered {
    /// Everything a configuration offers. An error names the endpoint and what is wrong with it.
    pub fn all(snapshot: &snapshot::Agent) -> Result<Vec<Arc<Offered>>, String> {
        snapshot.endpoints.iter().map(|offer| Offered::new(offer, snapshot).map(Arc::new)).collect()
    }

    fn new(offer: &snapshot::Offer, snapshot: &snapshot::Agent) -> Result<Self, String> {
        let name: Arc<str> = offer.name.as_str().into();
        let serves = match offer.kind {
            OfferKind::Http => Serves::Http(Local::new(offer, &name, snapshot)?),
            OfferKind::Tcp => Serves::Tcp(Local::new(offer, &name, snapshot)?),
            OfferKind::Connect => {
                let allowed = Allowed::new(&offer.allow, &offer.connect);
                if allowed.is_empty() {
                    warn!(endpoint = &*name, "nothing is allowed");
                }
                Serves::Connect(Connecting {
                    endpoint: name.clone(),
                    allowed,
                    lookups: Lookups::new(LOOKUPS),
                    failed_status: offer.connect.failed_status,
                })
            }
        };
        let tunnels = (0..snapshot.connections).map(|_| TunnelState::default()).collect();
        let works = Works::new(offer.health.clone());
        Ok(Offered { name, serves, works, tunnels })
    }

    /// True for a service that speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(&self.serves, Serves::Http(local) if local.address.spec.protocol == Protocol::Http2)
    }

    /// True where streams carry something else than requests for one service.
    pub fn is_raw(&self) -> bool {
        !matches!(self.serves, Serves::Http(_))
    }

    /// Tunnels that are up.
    pub fn connected(&self) -> usize {
        self.tunnels.iter().filter(|tunnel| tunnel.word() == Word::Connected).count()
    }

    /// The endpoint, its service and its tunnels.
    pub fn describe(&self) -> Value {
        let tunnels: Vec<Value> = self.tunnels.iter().enumerate().map(|(slot, one)| one.describe(slot)).collect();
        let (kind, to) = match &self.serves {
            Serves::Http(local) => ("http", local.address.to_string()),
            Serves::Tcp(local) => ("tcp", local.address.to_string()),
            Serves::Connect(_) => ("connect", "connect".to_owned()),
        };
        json!({"name": &*self.name, "kind": kind, "to": to, "health": self.works.describe(), "tunnels": tunnels})
    }

    /// Serves one stream that a gateway opened. `patient`: only the gateway ends it while it is idle.
    pub async fn serve(&self, proxy: Arc<Proxy>, worker: usize, stream: BoxedIo, patient: bool) {
        let mut record = Record::new(proxy.next_request(), UNKNOWN, self.name.clone(), Answered::Agent);
        record.endpoint = Some(self.name.clone());
        let local = match &self.serves {
            Serves::Http(local) => {
                let connection = Connection {
                    io: stream,
                    read: Buffer::new(),
                    client: UNKNOWN,
                    identity: proxy.anonymous.clone(),
                    site: Site::Service(local.service.clone()),
                    head: None,
                    secured: None,
                    place: None,
                    patient,
                };
                return serve(proxy, worker, connection).await;
            }
            Serves::Tcp(local) => local,
            Serves::Connect(connecting) => return connecting.serve(&proxy, worker, stream, record).await,
        };
        let upstreams = UpstreamSet::One(local.service.upstream.clone());
        let near = Leg { io: stream, read: Buffer::new() };
        proxy.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        stream::relay_tcp(&proxy, worker, &upstreams, near, UNKNOWN, &mut record).await;
        proxy.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
        proxy.finish(worker, &record);
    }
}

impl Local {
    fn new(offer: &snapshot::Offer, name: &Arc<str>, snapshot: &snapshot::Agent) -> Result<Self, String> {
        let fails = |why: String| format!("endpoint \"{name}\": {why}");
        let to = offer.to.as_ref().ok_or_else(|| fails("it has no service".to_owned()))?;
        let tls = to.tls.as_ref().map(Connector::new).transpose().map_err(fails)?;
        let spec = Spec::new(&to.host, to.port, tls, offer.protocol, &snapshot.timeouts);
        let address = Arc::new(Address::new(spec, None));
        let service = Arc::new(Service {
            endpoint: name.clone(),
            upstream: Upstream::Address(address.clone()),
            host_header: offer.host_header.clone(),
            authority: address.authority.clone(),
        });
        Ok(Local { address, service })
    }
}

/// Watches whether the service works, until the agent leaves; where nothing is to be asked, says once that nothing
/// answers at the local address: it may still come.
pub async fn watch(offer: Arc<Offered>, leaving: impl Future<Output = ()>) {
    let address = match &offer.serves {
        Serves::Http(local) | Serves::Tcp(local) => &local.address,
        Serves::Connect(_) => return,
    };
    if offer.works.is_asked() {
        return tokio::select! {
            () = offer.works.watch(&offer.name, address) => {}
            () = leaving => {}
        };
    }
    if let Err(error) = address.open(None).await {
        warn!(
            endpoint = &*offer.name, %address, reason = &*error.detail,
            "service unreachable"
        );
    }
}

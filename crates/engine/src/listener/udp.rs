//! Listeners of kind udp: datagrams to one endpoint, a flow for each source address.
//!
//! With a socket for each worker the kernel brings what one source says to the same of them every time.

use std::net::{SocketAddr, UdpSocket as Socket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::allowance::{Taken as Allowed, Wanted};
use crate::error::Result;
use crate::metrics::{Direction, Fate, Page};
use crate::proxy::access::{Answered, Record};
use crate::proxy::admission::too_many;
use crate::proxy::datagrams::{Pump, rest};
use crate::proxy::passthrough::nobody;
use crate::proxy::shared::Proxy;
use crate::proxy::site;
use crate::proxy::sources::{Source, Sources, Taken, receive};
use crate::snapshot::{Destination, EndpointRef};
use crate::terms::Terms;
use crate::upstream::UpstreamSet;
use crate::verdict::Access;

/// A listener of kind udp.
pub struct UdpListener {
    /// Its name.
    pub name: Arc<str>,
    /// Where it leads, and how.
    pub to: ArcSwap<To>,
    /// Who may come in.
    pub access: ArcSwap<Access>,
    /// What sessions were let in by.
    pub terms: Arc<Terms>,
    /// Its sessions.
    pub sources: Arc<Sources>,
}

/// Where a listener leads.
pub struct To {
    endpoint: Destination,
    /// Sessions end after so long without a datagram.
    idle: Duration,
    /// Sessions at once.
    most: usize,
    /// It leads there no more.
    over: CancellationToken,
}

impl To {
    /// As a snapshot has it.
    pub fn new(endpoint: &EndpointRef, idle: Duration, most: usize) -> Self {
        let over = CancellationToken::new();
        To { endpoint: Destination::Endpoint(endpoint.clone()), idle, most, over }
    }
}

impl UdpListener {
    /// No session yet; `open` counts them.
    pub fn new(name: Arc<str>, to: To, access: ArcSwap<Access>, terms: Arc<Terms>, open: Arc<AtomicUsize>) -> Self {
        UdpListener { name, to: ArcSwap::from_pointee(to), access, terms, sources: Sources::new(open) }
    }

    /// From the next datagram on to there. Sessions that lead elsewhere end soon.
    pub fn lead_to(&self, to: To) {
        let before = self.to.load();
        if before.endpoint == to.endpoint {
            // What runs there is still wanted.
            let over = before.over.clone();
            self.to.store(Arc::new(To { over, ..to }));
            return;
        }
        let before = self.to.swap(Arc::new(to));
        before.over.cancel();
    }
}

/// An address that datagrams are taken on.
pub struct Receiving {
    /// As the configuration has it.
    pub wanted: SocketAddr,
    /// What it actually bound.
    pub address: SocketAddr,
    listener: Arc<ArcSwap<UdpListener>>,
    stop: CancellationToken,
}

impl Receiving {
    /// Takes datagrams on an address that has just been bound, with a socket for each worker.
    pub fn start(
        proxy: &Arc<Proxy>,
        wanted: SocketAddr,
        (address, sockets): (SocketAddr, Vec<Socket>),
        listener: &Arc<UdpListener>,
    ) -> Self {
        let (stop, listener) = (CancellationToken::new(), Arc::new(ArcSwap::new(listener.clone())));
        for (worker, socket) in proxy.workers.iter().zip(sockets) {
            let task = take(proxy.clone(), worker.index, socket, listener.clone(), stop.clone());
            proxy.drain.spawn_beside(&worker.runtime, task);
        }
        let receiving = Receiving { wanted, address, listener, stop };
        receiving.announce();
        receiving
    }

    /// From the next datagram on to this listener.
    pub fn lead_to(mut self, wanted: SocketAddr, listener: &Arc<UdpListener>) -> Self {
        self.wanted = wanted;
        let before = self.listener.swap(listener.clone());
        if before.name != listener.name {
            self.announce();
        }
        self
    }

    fn announce(&self) {
        let listener = self.listener.load();
        info!(listener = &*listener.name, kind = "udp", address = %self.address, transport = "udp", "listening");
    }

    /// Takes no more.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// The same, because nobody wants the address any more.
    pub fn close(&self) {
        self.stop();
        info!(listener = &*self.listener.load().name, address = %self.address, "listener closed");
    }
}

/// Takes what comes by one socket.
async fn take(
    proxy: Arc<Proxy>,
    worker: usize,
    socket: Socket,
    listener: Arc<ArcSwap<UdpListener>>,
    stop: CancellationToken,
) {
    // Fails only where the process has no descriptor left for the selector, and then nothing works.
    let Ok(socket) = UdpSocket::from_std(socket).map(Arc::new) else { return };
    let shared = socket.clone();
    receive(socket, stop, |payload, from| {
        let listener = listener.load();
        let ip = from.ip().to_canonical();
        let drop_it = |fate| proxy.metrics.datagram(Direction::In, fate);
        if !listener.access.load().neighbours.admit(ip) {
            return drop_it(Fate::Denied);
        }
        if listener.terms.are_revoked() || proxy.drain.is_begun() {
            return drop_it(Fate::NoSession);
        }
        let to = listener.to.load_full();
        match listener.sources.take(&shared, from, payload, to.most) {
            Taken::Queued => {}
            Taken::Full => drop_it(Fate::QueueFull),
            Taken::Begins(source) => {
                let task = session(proxy.clone(), worker, listener.clone(), to, source);
                proxy.drain.spawn_on(proxy.runtime(worker), task);
            }
        }
    })
    .await;
}

/// A session, from its first datagram to its last.
async fn session(proxy: Arc<Proxy>, worker: usize, listener: Arc<UdpListener>, to: Arc<To>, mut source: Source) {
    let client = SocketAddr::new(source.address.ip().to_canonical(), source.address.port());
    let mut record = Record::new(proxy.next_request(), client, listener.name.clone(), Answered::Gateway);
    proxy.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
    let leaving = async {
        tokio::select! {
            () = listener.terms.closing() => {}
            () = to.over.cancelled() => {}
        }
    };
    match lead(&proxy, &listener, &to, client, &mut record) {
        Ok(upstreams) => {
            let mut pump = Pump::new(&proxy, worker, &mut record);
            match pump.open(&upstreams, &mut source).await {
                Ok((mut flow, _busy)) => {
                    pump.run(&mut source, &mut flow, to.idle, leaving).await;
                    flow.end();
                }
                Err(error) => record.error = Some(error),
            }
        }
        Err(error) => record.error = Some(error),
    }
    proxy.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
    record.charge();
    let failed = record.error.is_some();
    proxy.finish(worker, &record);
    if failed {
        rest(&proxy, source).await;
    }
}

fn lead(
    proxy: &Proxy,
    listener: &UdpListener,
    to: &To,
    client: SocketAddr,
    record: &mut Record,
) -> Result<UpstreamSet> {
    if listener.terms.are_revoked() {
        return Err(site::revoked());
    }
    let tenant = &listener.access.load().tenant;
    let (upstreams, label) = proxy.destination(&to.endpoint, tenant, client.ip()).ok_or_else(nobody)?;
    record.endpoint = Some(label);
    if let Some(owner) = upstreams.owner() {
        record.tenant = Some(owner.clone());
        record.taken = Allowed::from(proxy.verdicts.allowance_of(owner), Wanted::Stream).map_err(too_many)?;
    }
    Ok(upstreams)
}

/// Sessions of these listeners, and those that had to go.
pub fn render<'a>(listeners: impl Iterator<Item = &'a UdpListener>, page: &mut Page) {
    let counted: Vec<_> = listeners.map(|one| (&*one.name, one.sources.open(), one.sources.evicted())).collect();
    page.family("tidegate_udp_sessions", "gauge", "Source addresses of datagrams that are served, or flows of them.");
    for (listener, open, _) in &counted {
        page.value(&[("listener", listener)], *open as f64);
    }
    let help = "Sessions of source addresses that ended early because there were too many.";
    page.family("tidegate_udp_evicted_total", "counter", help);
    for (listener, _, evicted) in &counted {
        page.value(&[("listener", listener)], *evicted as f64);
    }
}

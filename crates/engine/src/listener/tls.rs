//! TLS at the door: reads what a connection begins with and decides who answers it.
//!
//! The hello, the handshake and eviction for want of room have one deadline together, `timeouts.handshake`. A
//! connection of kind http is passed through, ended here or refused, as `proxy::secured` decides by its server name; of
//! the other kinds TLS always ends here. What was read of it goes on, whoever gets it.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::arrive::Arrival;
use super::connect::{self, ConnectListener};
use super::hail::{TunnelListener, Tunnels};
use super::http;
use super::refuse::part;
use super::tcp::{self, TcpListener};
use super::tunnel;
use crate::error::{Code, Error};
use crate::io::{BoxedIo, Buffer, Io, WithEarly};
use crate::message::{Known, RequestHead, Version};
use crate::proxy::access::{Answered, Record, Words};
use crate::proxy::http1::Http1;
use crate::proxy::passthrough::{self, Opaque};
use crate::proxy::respond;
use crate::proxy::secured::{Fate, Rules, Secured};
use crate::proxy::shared::Proxy;
use crate::proxy::site::{self, HttpListener};
use crate::room::Place;
use crate::snapshot::{Listener, ListenerKind, Transport};
use crate::sniff::tls::{Alert, ClientHello, Sniffed, Sniffer};
use crate::tls::quic;
use crate::tls::server::{Acceptor, Agreed};
use crate::tunnel::hello::{QUIC_PROTOCOLS, QUIC_TUNNEL_PROTOCOLS};

/// What a listener of kind http offers by ALPN, the preferred one first.
const HTTP: &[&[u8]] = &[b"h2", b"http/1.1"];

/// What listeners of kind tunnel and connect offer.
const HTTP1: &[&[u8]] = &[b"http/1.1"];

/// What a listener of kind tcp offers: it does not know what is spoken inside.
const TCP: &[&[u8]] = &[];

/// How a listener speaks TLS.
pub struct Tls {
    /// What ends it; none: everything is passed through.
    acceptor: Option<Arc<Acceptor>>,
    /// What ends it in QUIC, where that is spoken.
    quic: Option<Arc<QuicServerConfig>>,
    /// What is spoken then.
    over_quic: &'static [&'static [u8]],
}

impl Tls {
    /// What a listener asks for, if anything; the one of `before` where nothing has changed, so that its sessions are
    /// still resumed.
    ///
    /// # Errors
    /// Says what cannot be.
    pub fn compile(listener: &Listener, before: Option<Arc<Tls>>) -> Result<Option<Arc<Tls>>, String> {
        let Some(policy) = &listener.tls else { return Ok(None) };
        let protocols = match listener.kind {
            ListenerKind::Http { .. } => HTTP,
            ListenerKind::Tcp { .. } | ListenerKind::Udp { .. } => TCP,
            ListenerKind::Tunnel {} | ListenerKind::Connect { .. } => HTTP1,
        };
        let fails = |why: String| format!("listener \"{}\": {why}", listener.name);
        if policy.certificates.is_empty() {
            return match listener.kind {
                ListenerKind::Http { .. } => Ok(Some(Arc::new(Tls { acceptor: None, quic: None, over_quic: &[] }))),
                _ => Err(fails("tls needs a certificate".to_owned())),
            };
        }
        let over_quic: &'static [&'static [u8]] = match &listener.quic_tunnel {
            _ if !listener.takes(Transport::Quic) => &[],
            Some(_) => QUIC_TUNNEL_PROTOCOLS,
            None => QUIC_PROTOCOLS,
        };
        let is_of = |acceptor: &Arc<Acceptor>| acceptor.is_of(policy, protocols);
        let kept = before.filter(|tls| tls.acceptor.as_ref().is_some_and(is_of) && tls.over_quic == over_quic);
        let made = || {
            let acceptor = Some(Arc::new(Acceptor::new(policy, protocols).map_err(fails)?));
            let quic = match over_quic {
                [] => None,
                protocols => Some(quic::server(policy, protocols).map_err(fails)?),
            };
            Ok(Arc::new(Tls { acceptor, quic, over_quic }))
        };
        kept.map_or_else(made, Ok).map(Some)
    }

    /// What ends it over TCP, if anything.
    pub fn acceptor(&self) -> Option<Arc<Acceptor>> {
        self.acceptor.clone()
    }

    /// What ends it in QUIC, where that is spoken.
    pub fn quic(&self) -> Option<Arc<QuicServerConfig>> {
        self.quic.clone()
    }
}

/// A connection of which nothing has been answered yet.
pub struct Knock {
    proxy: Arc<Proxy>,
    worker: usize,
    /// The listener's name.
    listener: Arc<str>,
    io: BoxedIo,
    /// What has been read from it.
    read: Vec<u8>,
    client: SocketAddr,
    place: Place,
    /// When the handshake has to be over.
    by: Instant,
}

/// Why a connection is not served.
enum Refusal {
    PlainHttp,
    Alert(Alert),
    Failed(io::Error, Option<BoxedIo>),
    Timeout(Duration),
    Evicted,
}

impl Refusal {
    /// As the metric calls it.
    fn outcome(&self) -> &'static str {
        match self {
            Refusal::PlainHttp => "plain_http",
            Refusal::Alert(Alert::UnrecognizedName) => "unrecognized_name",
            Refusal::Alert(_) => "malformed",
            Refusal::Failed(..) => "failed",
            Refusal::Timeout(_) => "timeout",
            Refusal::Evicted => "evicted",
        }
    }

    fn reason(&self) -> String {
        match self {
            Refusal::PlainHttp => "plain HTTP on a port that speaks TLS".to_owned(),
            Refusal::Alert(alert) => alert.as_str().to_owned(),
            Refusal::Failed(error, _) => error.to_string(),
            Refusal::Timeout(within) => format!("not done within {within:?}"),
            Refusal::Evicted => "ended to make room for another connection".to_owned(),
        }
    }
}

/// Serves a connection of a listener of kind http.
pub async fn http(mut knock: Knock, listener: Arc<HttpListener>, tls: Arc<Tls>) {
    let name = match knock.hello().await {
        Ok(hello) => hello.server_name,
        Err(refusal) => return knock.refuse(refusal, true).await,
    };
    let table = knock.proxy.table.load_full();
    let fate = Rules::of(&listener, &table, tls.acceptor.as_deref()).fate_of(name.as_deref(), &table);
    match (fate, &tls.acceptor) {
        (Fate::PassThrough(position), _) => {
            knock.proxy.metrics.handshake(&knock.listener, "passed_through");
            let from = listener;
            let Knock { proxy, worker, listener, io, read, client, place, .. } = knock;
            place.busy();
            let lead = table.lead(position);
            let (read, route) = (Buffer::from(read), lead.name.clone());
            let opaque = Opaque { io, read, client, listener, server_name: name, route, place };
            let access = from.access(&table);
            match access.neighbours.admit(client.ip()) {
                _ if from.terms.are_revoked() => passthrough::pass(&proxy, worker, opaque, Err(site::revoked())),
                true => passthrough::pass_to(&proxy, worker, opaque, lead, &access.tenant),
                false => passthrough::pass(&proxy, worker, opaque, Err(passthrough::denied())),
            }
        }
        (Fate::Terminate(certificate), Some(acceptor)) => {
            let (proxy, worker) = (knock.proxy.clone(), knock.worker);
            let Some((arrival, agreed)) = knock.end_tls(acceptor, certificate).await else { return };
            let (http2, client, acceptor) = (agreed.http2, agreed.client, acceptor.clone());
            let secured = Secured { client, http2, fate, acceptor, session: None };
            http::connection(proxy, worker, listener, arrival, Some(Arc::new(secured))).await;
        }
        _ => knock.refuse(Refusal::Alert(Alert::UnrecognizedName), true).await,
    }
}

/// Serves a connection of a listener of kind tcp.
pub async fn tcp(knock: Knock, listener: Arc<TcpListener>, tls: Arc<Tls>) {
    let (proxy, worker) = (knock.proxy.clone(), knock.worker);
    if let Some((arrival, _)) = end_always(knock, &tls, false).await {
        tcp::arrived(&proxy, worker, &listener, arrival);
    }
}

/// Serves a connection of a listener of kind tunnel.
pub async fn tunnel(knock: Knock, listener: Arc<TunnelListener>, tunnels: Arc<Tunnels>, tls: Arc<Tls>) {
    let worker = knock.worker;
    if let Some((arrival, agreed)) = end_always(knock, &tls, true).await {
        tunnel::connection(tunnels, worker, listener, arrival, agreed.client).await;
    }
}

/// Serves a connection of a listener of kind connect.
pub async fn connect(knock: Knock, listener: Arc<ConnectListener>, tls: Arc<Tls>) {
    let (proxy, worker) = (knock.proxy.clone(), knock.worker);
    if let Some((arrival, agreed)) = end_always(knock, &tls, true).await {
        connect::connection(proxy, worker, listener, arrival, agreed.client).await;
    }
}

/// Ends TLS whatever the server name, with the certificate that fits it best.
async fn end_always(mut knock: Knock, tls: &Tls, speaks_http: bool) -> Option<(Arrival, Agreed)> {
    let acceptor = tls.acceptor.as_ref()?;
    match knock.hello().await {
        Ok(hello) => {
            let fits = hello.server_name.and_then(|name| acceptor.names().find(&name));
            knock.end_tls(acceptor, fits.unwrap_or(0)).await
        }
        Err(refusal) => {
            knock.refuse(refusal, speaks_http).await;
            None
        }
    }
}

impl Knock {
    /// A connection that has arrived: from now on until the deadline the other side has to make TLS of it.
    pub fn new(proxy: Arc<Proxy>, worker: usize, listener: Arc<str>, arrival: Arrival) -> Knock {
        let Arrival { io, read, client, place } = arrival;
        let now = Instant::now();
        place.idle(now);
        let by = now + proxy.settings.load().timeouts.handshake;
        Knock { proxy, worker, listener, io, read: read.chunk().to_vec(), client, place, by }
    }

    /// Reads the hello, which stays in `read`.
    async fn hello(&mut self) -> Result<ClientHello, Refusal> {
        let Knock { io, read, place, proxy, by, .. } = self;
        let sniffed = within(place, proxy, *by, first_words(&mut **io, read)).await?;
        match sniffed.map_err(|error| Refusal::Failed(error, None))? {
            Sniffed::Hello(hello) => Ok(hello),
            Sniffed::PlainHttp => Err(Refusal::PlainHttp),
            Sniffed::Refuse(alert) => Err(Refusal::Alert(alert)),
            Sniffed::More => Err(Refusal::Failed(io::ErrorKind::UnexpectedEof.into(), None)),
        }
    }

    /// Shakes hands. None: it failed, and that has been dealt with.
    async fn end_tls(self, acceptor: &Acceptor, certificate: usize) -> Option<(Arrival, Agreed)> {
        let Knock { proxy, listener, io, read, client, place, by, .. } = self;
        let io = Box::new(WithEarly::new(Buffer::from(read), io));
        let shaken = match within(&place, &proxy, by, acceptor.accept(io, certificate)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err((error, io))) => Err(Refusal::Failed(error, Some(io))),
            Err(refusal) => Err(refusal),
        };
        match shaken {
            Ok((io, agreed)) => {
                place.busy();
                proxy.metrics.handshake(&listener, if agreed.resumed { "resumed" } else { "full" });
                Some((Arrival { io, read: Buffer::new(), client, place }, agreed))
            }
            Err(refusal) => {
                note(&proxy, &listener, client, &refusal);
                if let Refusal::Failed(_, Some(io)) = refusal {
                    // Its alert is on its way.
                    part(io, &[]).await;
                }
                None
            }
        }
    }

    /// Ends a connection of which no byte has been answered yet.
    async fn refuse(self, refusal: Refusal, speaks_http: bool) {
        note(&self.proxy, &self.listener, self.client, &refusal);
        match refusal {
            Refusal::PlainHttp if speaks_http => self.answer_plain_http().await,
            Refusal::PlainHttp => part(self.io, &Alert::UnexpectedMessage.record()).await,
            Refusal::Alert(alert) => part(self.io, &alert.record()).await,
            // It never began, so nothing more exact fits.
            Refusal::Timeout(_) => part(self.io, &Alert::HandshakeFailure.record()).await,
            Refusal::Failed(..) | Refusal::Evicted => {}
        }
    }

    /// Tells whoever speaks HTTP without TLS that TLS is spoken here.
    async fn answer_plain_http(self) {
        let Knock { proxy, worker, listener, io, read, client, place, by } = self;
        let mut record = Record::new(proxy.next_request(), client, listener, Answered::Gateway);
        let limits = proxy.settings.load().head;
        let (mut connection, mut head) = (Http1::new(io, Buffer::from(read)), RequestHead::new());
        let asked = poll_fn(|cx| connection.poll_request(cx, &mut head, &limits));
        let heard = matches!(within(&place, &proxy, by, asked).await, Ok(Ok(true)));
        if heard {
            record.asked = proxy.access.is_on().then(|| Words::of(&head));
        }
        let prefers_html = heard && respond::prefers_html(head.fields.all(Known::Accept));
        let error = Error::new(Code::TlsExpected, "ask for https:// instead of http://");
        let answer = proxy.table.load().answer(&error, record.id, prefers_html);
        let is_head = heard && head.method() == b"HEAD";
        record.status = answer.status;
        record.bytes_out = answer.sent(is_head).len() as u64;
        record.error = Some(error);
        proxy.finish(worker, &record);
        let (io, ..) = connection.into_parts();
        part(io, &answer.to_http1(Version::Http11, false, is_head)).await;
    }
}

/// Counts why a connection is not served, and says it to whoever wants to know.
fn note(proxy: &Proxy, listener: &Arc<str>, client: SocketAddr, refusal: &Refusal) {
    proxy.metrics.handshake(listener, refusal.outcome());
    debug!(listener = &**listener, address = %client, reason = refusal.reason(), "handshake failed");
}

/// What `waiting` comes to, where the deadline leaves time and the room leaves the place.
async fn within<T>(place: &Place, proxy: &Proxy, by: Instant, waiting: impl Future<Output = T>) -> Result<T, Refusal> {
    tokio::select! {
        biased;
        done = timeout_at(by, waiting) => {
            done.map_err(|_| Refusal::Timeout(proxy.settings.load().timeouts.handshake))
        }
        () = place.evicted() => Err(Refusal::Evicted),
    }
}

/// Reads until it is known what a connection begins with; [`Sniffed::More`] where it ends before. Many connections may
/// wait in the middle of their hello: what is kept of it takes no more memory than it needs.
async fn first_words(io: &mut dyn Io, read: &mut Vec<u8>) -> io::Result<Sniffed> {
    let (mut sniffer, mut buffer) = (Sniffer::default(), Buffer::new());
    loop {
        match sniffer.sniff(read) {
            Sniffed::More => {}
            known => return Ok(known),
        }
        if poll_fn(|cx| buffer.poll_fill(cx, io)).await? == 0 {
            return Ok(Sniffed::More);
        }
        read.extend_from_slice(buffer.chunk());
        buffer.release();
    }
}

//! QUIC at a listener: who is let in, from the first datagram to the answer on the first stream.
//!
//! One loop for each worker and address. Who comes from where nobody may come from is not answered; whoever has not
//! proved an address proves it first when there are many; the handshake, the request and the answer have one deadline
//! together. What the request asks for is `hail`'s to judge where agents come, as it is over WebSocket, and `reach`'s
//! where forwards do.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quinn::{Connection, ConnectionError, Incoming, RecvStream, SendStream, ServerConfig, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::hail::{Applicant, Greeting, TunnelListener, Tunnels, applicant, in_words, log_refusal, refusal, unspoken};
use super::handshakes::{Handshake, Handshakes, Turn};
use super::reach::{self, Arrived, Reached};
use super::session;
use crate::error::{Code, Error, Result};
use crate::http1::head::{HeadLimits, parse_request};
use crate::io::Buffer;
use crate::message::RequestHead;
use crate::proxy::secured::Fate;
use crate::room::{Place, Room};
use crate::snapshot::{self, Way};
use crate::tunnel::endpoint::path::{USUAL, discovery, largest};
use crate::tunnel::hello::{self, Offers, Welcome};
use crate::tunnel::quic::{self as tunnel, codes};

/// What may be on its way of somebody who has not been let in.
const STRANGERS_WINDOW: VarInt = VarInt::from_u32(64 << 10);

/// The same of an agent; it grows with the streams that are open.
const WINDOW: VarInt = VarInt::from_u32(8 << 20);

/// The same of a forward, which has not said who it is.
const FORWARDS_WINDOW: VarInt = VarInt::from_u32(1 << 20);

/// All streams of a forward together may have so much unread, at most.
const FORWARDS_UNREAD: u64 = 16 << 20;

/// How long somebody who was refused may take to read why.
const READ_WHY: Duration = Duration::from_secs(5);

/// How often it is looked at where an agent is now.
const LOOK: Duration = Duration::from_secs(2);

/// The end of a TLS handshake without a common protocol (RFC 9001 §4.8, RFC 7301 §3.2).
const NO_PROTOCOL: u64 = 0x178;

/// What connections over QUIC come to.
pub struct QuicDoor {
    /// The listener's name.
    pub name: Arc<str>,
    /// Where there has to be room.
    pub room: Arc<Room>,
    /// Open connections of this listener.
    pub connections: Arc<AtomicUsize>,
    /// Whom it is for.
    pub whom: Whom,
    /// How QUIC and TLS are spoken.
    pub server: Arc<ServerConfig>,
    /// The same where the way back carries large datagrams.
    pub roomy: Arc<ServerConfig>,
}

/// Whom a listener is for.
pub enum Whom {
    /// Agents, who offer something.
    Agents(Arc<TunnelListener>),
    /// Forwards, whose streams are connections of visitors.
    Forwards(Reached),
}

impl Whom {
    /// The kind of the listener.
    pub fn kind(&self) -> &'static str {
        match self {
            Whom::Agents(_) => "tunnel",
            Whom::Forwards(_) => "http",
        }
    }

    fn admits(&self, tunnels: &Tunnels, from: IpAddr) -> bool {
        match self {
            Whom::Agents(listener) => listener.access.load().neighbours.admit(from),
            Whom::Forwards(reached) => reached.admits(tunnels, from),
        }
    }
}

/// What is spoken with whoever comes: sessions are watched like `tunnel` says, and only one stream is theirs to open.
/// `largest` is what a datagram may become.
pub fn transport(tunnel: &snapshot::Tunnel, largest: u16) -> TransportConfig {
    let mut transport = tunnel::transport(tunnel, false);
    transport.mtu_discovery_config(Some(discovery(largest)));
    transport.receive_window(STRANGERS_WINDOW).max_concurrent_bidi_streams(VarInt::from_u32(1));
    transport
}

/// What whoever comes now comes to, and the word that nobody comes in any more.
pub type Open = (Arc<QuicDoor>, CancellationToken);

/// Takes connections until the tunnels end, and then waits for what the sessions say last.
pub async fn accept(
    tunnels: Arc<Tunnels>,
    worker: usize,
    endpoint: quinn::Endpoint,
    door: impl Fn() -> Option<Open> + Send + 'static,
) {
    let running = Handshakes::default();
    let mut ending = pin!(tunnels.drain.begun());
    loop {
        let incoming = tokio::select! {
            biased;
            () = &mut ending => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        let Some((door, closed)) = door() else {
            incoming.refuse();
            continue;
        };
        let count = |outcome| tunnels.proxy.metrics.quic_handshake(&door.name, outcome);
        match judge(&tunnels, &door, &incoming, &running) {
            Judged::Comes(place, handshake) => {
                tunnels.proxy.metrics.connections.fetch_add(1, Ordering::Relaxed);
                let caller = Caller { tunnels: tunnels.clone(), worker, door, closed, place };
                tunnels.drain.spawn_on(tunnels.proxy.runtime(worker), caller.connection(incoming, handshake));
            }
            Judged::Proves => {
                count("retried");
                // One that has proved its address is not asked again.
                let _ = incoming.retry();
            }
            Judged::Refused => {
                count("refused");
                incoming.refuse();
            }
            Judged::Ignored(why) => {
                count(why);
                incoming.ignore();
            }
        }
    }
    endpoint.wait_idle().await;
}

/// What becomes of a connection that somebody wants.
enum Judged {
    /// It is taken.
    Comes(Place, Handshake),
    /// First the address is proved.
    Proves,
    /// It is told that there is no way in.
    Refused,
    /// It is told nothing.
    Ignored(&'static str),
}

fn judge(tunnels: &Tunnels, door: &QuicDoor, incoming: &Incoming, running: &Handshakes) -> Judged {
    let from = incoming.remote_address().ip().to_canonical();
    if !door.whom.admits(tunnels, from) {
        return Judged::Ignored("denied");
    }
    let (open, most) = door.room.taken();
    let handshake = match running.begin(from, incoming.remote_address_validated(), open >= most / 2) {
        Turn::Runs(handshake) => handshake,
        Turn::Proves => return Judged::Proves,
        Turn::TooMany => return Judged::Ignored("overload"),
    };
    if tunnels.proxy.drain.is_begun() {
        return Judged::Refused;
    }
    match door.room.admit_without_descriptor(&door.connections) {
        Ok(place) => Judged::Comes(place, handshake),
        Err(_) => Judged::Refused,
    }
}

/// Where somebody has come to.
struct Caller {
    tunnels: Arc<Tunnels>,
    worker: usize,
    door: Arc<QuicDoor>,
    /// Tunnels are taken no more where it came.
    closed: CancellationToken,
    place: Place,
}

/// What is said first, and the stream on which it is answered.
struct Hello {
    send: SendStream,
    recv: RecvStream,
    head: Result<RequestHead>,
}

/// The first stream, behind the hello, where there was one.
type Control = Option<(SendStream, RecvStream)>;

/// Who was let in and the answer to them, or the refusal.
type Judgement = std::result::Result<(Guest, Vec<u8>), Vec<u8>>;

/// Somebody who was let in.
enum Guest {
    Agent(Box<Applicant>),
    Forward(Fate),
}

impl Caller {
    async fn connection(self, incoming: Incoming, handshake: Handshake) {
        // What is over when the session begins has a place of its own until then.
        let arrived = Box::pin(self.arrive(incoming, handshake)).await;
        let door = self.door.clone();
        match (&door.whom, arrived) {
            (Whom::Agents(listener), Some((connection, control, Guest::Agent(applicant)))) => {
                self.run(listener, connection, control, applicant).await;
            }
            (Whom::Forwards(reached), Some((connection, control, Guest::Forward(fate)))) => {
                Box::pin(self.reach(reached, connection, control, fate)).await;
            }
            _ => {}
        }
    }

    /// From the first datagram to the answer; none where there is to be no session.
    async fn arrive(&self, incoming: Incoming, handshake: Handshake) -> Option<(Connection, Control, Guest)> {
        let greeting = self.tunnels.greeting.load_full();
        self.place.idle(Instant::now());
        let begun = async {
            let by = Instant::now() + greeting.handshake;
            let connection = self.shake_hands(incoming, by).await?;
            drop(handshake);
            if let Whom::Agents(listener) = &self.door.whom
                && listener.quic_tunnel.is_some()
            {
                return Some((connection, None));
            }
            let hello = timeout_at(by, hello(&connection, &greeting.head)).await.ok()??;
            Some((connection, Some(hello)))
        };
        let (connection, hello) = tokio::select! {
            begun = begun => begun?,
            () = self.place.evicted() => return None,
        };
        self.place.busy();
        let Some(Hello { mut send, recv, head }) = hello else {
            let applicant = self.unspoken(&connection)?;
            return Some((connection, None, Guest::Agent(Box::new(applicant))));
        };
        let judged = match (&self.door.whom, head) {
            (Whom::Agents(listener), head) => self.applies(listener, &connection, head, &greeting).await,
            (Whom::Forwards(reached), head) => self.forwards(reached, &connection, head, &greeting),
        };
        match judged {
            Ok((guest, answer)) => {
                timeout(greeting.handshake, send.write_all(&answer)).await.ok()?.ok()?;
                Some((connection, Some((send, recv)), guest))
            }
            Err(refusal) => {
                refuse(&connection, send, recv, &refusal).await;
                None
            }
        }
    }

    async fn shake_hands(&self, incoming: Incoming, by: Instant) -> Option<Connection> {
        let from = incoming.remote_address();
        let server = if largest(from) > USUAL { &self.door.roomy } else { &self.door.server };
        let shake = async { incoming.accept_with(server.clone())?.await };
        let (outcome, connection) = match timeout_at(by, shake).await {
            Ok(Ok(connection)) => ("full", Ok(connection)),
            Ok(Err(error)) => (outcome(&error), Err(error)),
            Err(_) => ("timeout", Err(ConnectionError::TimedOut)),
        };
        self.tunnels.proxy.metrics.quic_handshake(&self.door.name, outcome);
        if let Err(error) = &connection {
            let listener = &*self.door.name;
            debug!(listener, address = %from, reason = error.to_string(), "handshake failed");
        }
        connection.ok()
    }

    /// An agent asks; the answer, or a refusal, as it is said.
    async fn applies(
        &self,
        listener: &TunnelListener,
        connection: &Connection,
        head: Result<RequestHead>,
        greeting: &Greeting,
    ) -> Judgement {
        let (tunnels, from, certificate) = (&self.tunnels, address(connection), certificate(connection));
        let applicant = match head {
            Ok(head) => applicant(tunnels, listener, (Way::Quic, &head), certificate.as_deref(), from).await,
            Err(error) => Err(error),
        };
        let applicant = applicant.map_err(|error| refusal(tunnels, &error, from))?;
        let answer = welcome(tunnels, &applicant, greeting, from);
        Ok((Guest::Agent(Box::new(applicant)), answer))
    }

    /// The same of a forward: whoever speaks as one may come in, and each of its streams is judged by itself.
    fn forwards(
        &self,
        reached: &Reached,
        connection: &Connection,
        head: Result<RequestHead>,
        greeting: &Greeting,
    ) -> Judgement {
        let fate = head.and_then(|head| reached.greeted(&self.tunnels, &head, connection));
        let fate = fate.map_err(|error| in_words(&self.tunnels, &error))?;
        let (node, version) = (&*greeting.node, &*greeting.version);
        let answer = hello::accept_tunnel(None, &Welcome { node, version, url: None, quic: &Offers::No });
        Ok((Guest::Forward(fate), answer))
    }

    /// Agents of quic-reverse-http-tunnel wait for streams, and that is all.
    fn unspoken(&self, connection: &Connection) -> Option<Applicant> {
        let Whom::Agents(listener) = &self.door.whom else { return None };
        let endpoint = listener.quic_tunnel.as_deref().unwrap_or_default();
        match unspoken(&self.tunnels, listener, endpoint) {
            Ok(applicant) => Some(applicant),
            Err(error) => {
                log_refusal(&error, address(connection));
                connection.close(codes::NOT_WELCOME, error.detail.as_bytes());
                None
            }
        }
    }

    async fn run(
        &self,
        listener: &TunnelListener,
        connection: Connection,
        control: Control,
        applicant: Box<Applicant>,
    ) {
        let whom = (self.worker, address(&connection));
        // A stranger was given what a request needs, an agent gets what its streams need.
        connection.set_receive_window(WINDOW);
        let unread = tunnel::UNREAD;
        let config = tunnel::Config { takes_streams: false, datagrams: false, asks: false, unread };
        let (session, driver) = tunnel::start(connection.clone(), control, config);
        let session = (session, Box::pin(driver) as session::Driver);
        let ends = (&*listener.terms, &self.closed);
        tokio::select! {
            () = session::run(self.tunnels.clone(), whom, ends, applicant, session) => {}
            // It only ever ends the connection.
            () = follow(&connection, &self.tunnels, &self.door.whom) => {}
        }
    }

    /// A forward's session.
    async fn reach(self, reached: &Reached, connection: Connection, control: Control, fate: Fate) {
        connection.set_receive_window(FORWARDS_WINDOW);
        connection.set_max_concurrent_bi_streams(tunnel::STREAMS);
        let unread = (FORWARDS_WINDOW.into_inner(), FORWARDS_UNREAD);
        let config = tunnel::Config { takes_streams: true, datagrams: true, asks: false, unread };
        let session = tunnel::start(connection.clone(), control, config);
        let door = &self.door;
        let arrived = Arrived {
            worker: self.worker,
            name: door.name.clone(),
            room: door.room.clone(),
            connections: door.connections.clone(),
            fate,
            certificate: certificate(&connection),
        };
        tokio::select! {
            () = reach::run(self.tunnels.clone(), reached, arrived, (self.place, &self.closed), session) => {}
            // It only ever ends the connection.
            () = follow(&connection, &self.tunnels, &self.door.whom) => {}
        }
    }
}

/// Watches where the other end is: whoever moves to where nobody may come from is let go.
async fn follow(connection: &Connection, tunnels: &Tunnels, whom: &Whom) {
    let mut last = address(connection);
    loop {
        sleep(LOOK).await;
        let now = address(connection);
        if now == last {
            continue;
        }
        debug!(before = %last, address = %now, "address changed");
        last = now;
        if !whom.admits(tunnels, now.ip()) {
            connection.close(codes::ADDRESS_DENIED, b"this address may not connect");
            return std::future::pending().await;
        }
    }
}

/// The request on the first stream; none where nobody makes one.
async fn hello(connection: &Connection, limits: &HeadLimits) -> Option<Hello> {
    let (send, mut recv) = connection.accept_bi().await.ok()?;
    let (mut read, mut scanned, mut head) = (Buffer::new(), 0, RequestHead::new());
    let head = loop {
        match parse_request(read.chunk(), &mut scanned, &mut head, limits) {
            Ok(Some(length)) if length == read.len() => break Ok(head),
            Ok(Some(_)) => {
                break Err(Error::new(Code::MalformedRequest, "nothing follows a request before its answer"));
            }
            Ok(None) => {}
            Err(error) => break Err(error.of_request()),
        }
        let chunk = recv.read_chunk(limits.bytes, true).await.ok()??;
        read.extend(&chunk.bytes);
    };
    Some(Hello { send, recv, head })
}

fn welcome(tunnels: &Tunnels, applicant: &Applicant, greeting: &Greeting, from: SocketAddr) -> Vec<u8> {
    let url = tunnels.url_of(&applicant.endpoint, greeting, from);
    // Who is here knows the way.
    let (node, version, url) = (&*greeting.node, &*greeting.version, url.as_deref());
    hello::accept_tunnel(None, &Welcome { node, version, url, quic: &Offers::No })
}

/// Says why, and closes when that has been read.
async fn refuse(connection: &Connection, mut send: SendStream, mut recv: RecvStream, answer: &[u8]) {
    let said = async {
        if send.write_all(answer).await.is_ok() && send.finish().is_ok() {
            // Whatever it still says is of no use to anybody, and not waited for if it is much.
            let mut left = usize::try_from(STRANGERS_WINDOW.into_inner()).unwrap_or_default();
            while let Ok(Some(chunk)) = recv.read_chunk(left, true).await {
                left -= chunk.bytes.len();
                if left == 0 {
                    break;
                }
            }
        }
    };
    let _ = timeout(READ_WHY, said).await;
    connection.close(codes::NOT_WELCOME, b"refused");
}

/// Where the other end is, in the form that networks are compared with.
fn address(connection: &Connection) -> SocketAddr {
    let address = connection.remote_address();
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What the other end has shown by TLS, checked against `client_ca`.
fn certificate(connection: &Connection) -> Option<CertificateDer<'static>> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.into_iter().next()
}

/// What a handshake that failed is counted as.
fn outcome(error: &ConnectionError) -> &'static str {
    let code = match error {
        ConnectionError::TransportError(error) => u64::from(error.code),
        ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
        ConnectionError::TimedOut => return "timeout",
        _ => return "failed",
    };
    match code {
        NO_PROTOCOL => "alpn",
        // Any alert of TLS.
        0x100..0x200 => "tls",
        _ => "failed",
    }
}

//! Sessions of forwards: QUIC at a listener of kind http, where every stream is a connection of that listener.
//!
//! A session shows no credential: each request on it shows its own, and meets what it would have met over TCP. So what
//! a session may hold is bounded. It has a place among the visitors' connections, and so has each of its streams; one
//! without streams ends where another connection needs the place.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quinn::Connection;
use quinn::crypto::rustls::HandshakeData;
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::arrive::Arrival;
use super::hail::{Tunnels, stays};
use super::{http, refuse};
use crate::error::{Code, Error, Result};
use crate::io::{BoxedIo, Buffer};
use crate::message::RequestHead;
use crate::proxy::secured::{Fate, Rules, Secured, Within};
use crate::proxy::site::HttpListener;
use crate::room::{Place, Room};
use crate::sniff::name;
use crate::tls::server::Acceptor;
use crate::tunnel::hello::{self, REACH_PATH};
use crate::tunnel::{Ending, Session};

/// How long a forward may take to say what it had sent when it was told to open nothing more.
const SETTLE: Duration = Duration::from_secs(2);

/// How often a session that is to end is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Where forwards come in.
pub struct Reached {
    /// The listener whose connections their streams are.
    pub listener: Arc<HttpListener>,
    /// What ends TLS there.
    pub acceptor: Arc<Acceptor>,
}

impl Reached {
    /// True where this address may connect at all.
    pub fn admits(&self, tunnels: &Tunnels, from: IpAddr) -> bool {
        self.listener.access(&tunnels.proxy.table.load()).neighbours.admit(from)
    }

    /// Judges what is said on the first stream, and by which name this gateway was called. What is asked on the others
    /// is not known yet.
    ///
    /// # Errors
    /// The refusal.
    pub fn greeted(&self, tunnels: &Tunnels, head: &RequestHead, connection: &Connection) -> Result<Fate> {
        if head.path() != REACH_PATH.as_bytes() {
            return Err(Error::new(
                Code::NoRoute,
                "forwards come here by QUIC; agents connect to port 8001 by default",
            ));
        }
        hello::quic_upgrade(head)?;
        stays(tunnels, &self.listener.terms)?;
        let table = tunnels.proxy.table.load();
        let called = server_name(connection);
        match Rules::of(&self.listener, &table, Some(&self.acceptor)).fate_of(called.as_deref(), &table) {
            fate @ Fate::Terminate(_) => Ok(fate),
            Fate::PassThrough(_) | Fate::Unknown => {
                Err(Error::new(Code::Misdirected, "no requests are answered here under that server name"))
            }
        }
    }
}

/// The name that the other side has asked for, in normal form.
fn server_name(connection: &Connection) -> Option<String> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    name::normal(data.server_name?.as_bytes()).map(|name| name.into_owned())
}

/// What is known of a session from its beginning.
pub struct Arrived {
    /// The worker that runs it.
    pub worker: usize,
    /// The listener's name.
    pub name: Arc<str>,
    /// Where there has to be room for its streams.
    pub room: Arc<Room>,
    /// Open connections of the listener.
    pub connections: Arc<AtomicUsize>,
    /// What was decided by the server name.
    pub fate: Fate,
    /// The certificate that was shown.
    pub certificate: Option<CertificateDer<'static>>,
}

/// A session's place, and how many of its streams run.
struct Held {
    place: Place,
    streams: AtomicUsize,
}

/// A stream that runs.
struct Stay(Arc<Held>);

impl Stay {
    fn new(held: &Arc<Held>) -> Stay {
        held.streams.fetch_add(1, Ordering::Relaxed);
        held.place.busy();
        Stay(held.clone())
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.place.idle(Instant::now());
        }
    }
}

/// Serves a session to its end: its forward's, or ours when the gateway leaves, its listener asks for something else,
/// or another connection needs its place. Then it is told to open nothing more, and what runs goes on. `closed` says
/// that nobody comes in any more where it came.
pub async fn run(
    tunnels: Arc<Tunnels>,
    reached: &Reached,
    arrived: Arrived,
    (place, closed): (Place, &CancellationToken),
    (session, driver): (Session, impl Future<Output = ()>),
) {
    place.idle(Instant::now());
    let held = Arc::new(Held { place, streams: AtomicUsize::new(0) });
    let (mut driver, mut ending) = (pin!(driver), pin!(tunnels.drain.begun()));
    let mut leaving = pin!(async {
        tokio::select! {
            // The gateway's end is one, too.
            () = reached.listener.terms.closing() => {}
            () = closed.cancelled() => {}
            () = held.place.evicted() => {}
        }
        session.go_away();
        let _ = timeout(SETTLE, session.settle()).await;
    });
    let (mut left, mut ended) = (false, false);
    loop {
        if left && !ended && held.streams.load(Ordering::Relaxed) == 0 {
            ended = true;
            session.end(Ending::Close);
        }
        tokio::select! {
            () = &mut driver => return,
            Some(stream) = session.accept(), if !ended => take(&tunnels, reached, &arrived, &session, &held, stream),
            // Its stream is a connection until it is asked to stand for datagrams.
            Some(flow) = session.accept_flow(), if !ended => {
                take(&tunnels, reached, &arrived, &session, &held, Box::new(flow));
            }
            () = &mut leaving, if !left => left = true,
            () = tokio::time::sleep(LOOK), if left && !ended => {}
            () = &mut ending, if !ended => {
                ended = true;
                session.end(Ending::Close);
            }
        }
    }
}

/// Serves a stream as a connection of the listener.
fn take(
    tunnels: &Arc<Tunnels>,
    reached: &Reached,
    arrived: &Arrived,
    session: &Session,
    held: &Arc<Held>,
    io: BoxedIo,
) {
    let (proxy, worker) = (&tunnels.proxy, arrived.worker);
    let Some(remote) = session.remote() else { return };
    let client = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    proxy.metrics.connections.fetch_add(1, Ordering::Relaxed);
    let place = match arrived.room.admit_without_descriptor(&arrived.connections) {
        Ok(place) => place,
        Err(full) => return refuse::for_want_of_room(proxy, worker, &arrived.name, io, client, (full, true)),
    };
    let secured = Secured {
        client: arrived.certificate.clone(),
        http2: false,
        fate: arrived.fate,
        acceptor: reached.acceptor.clone(),
        session: Some(Within { session: session.clone(), from: client.ip(), stay: Box::new(Stay::new(held)) }),
    };
    let arrival = Arrival { io, read: Buffer::new(), client, place };
    let serve = http::connection(proxy.clone(), worker, reached.listener.clone(), arrival, Some(Arc::new(secured)));
    proxy.drain.spawn_on(proxy.runtime(worker), serve);
}

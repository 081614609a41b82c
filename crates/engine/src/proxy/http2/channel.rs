//! One connection to an upstream that carries many requests.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::SendStream;
use h2::client::{Connection, ResponseFuture, SendRequest};
use http::Request;
use tokio::time::Instant;

use super::held::{Held, Piece};
use super::wire::{Watch, Wire};
use crate::http1::head::HeadLimits;
use crate::io::BoxedIo;

/// Streams on one connection, where its peer permits more: what is beyond them gets another connection.
const STREAMS: usize = 128;

/// What a stream may be sent without our having taken it. The sum of all streams' is the connection's, so that no
/// stream that is stuck takes the room of another.
const STREAM_WINDOW: u32 = 256 * 1024;

/// What drives a channel.
pub type Driver = Connection<Wire, Piece>;

/// A connection to an upstream, as those who use it see it.
#[derive(Clone)]
pub struct Channel {
    sender: SendRequest<Piece>,
    state: Arc<State>,
}

/// What all users of a channel share.
struct State {
    id: u64,
    tls: bool,
    /// Streams that run.
    active: AtomicUsize,
    /// Nothing new goes there.
    retired: AtomicBool,
    /// Since when nothing runs on it.
    idle_since: Mutex<Instant>,
    held: Arc<Held>,
    watch: Arc<Watch>,
}

impl Channel {
    /// Begins HTTP/2 on a connection. The caller drives what is returned beside the channel.
    pub async fn open(io: BoxedIo, tls: bool, limits: &HeadLimits) -> Result<(Channel, Driver), h2::Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (wire, watch) = Wire::opened(io);
        let (sender, driver) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * STREAMS as u32)
            .max_header_list_size(header_list(limits))
            .max_send_buffer_size(STREAM_WINDOW as usize)
            .handshake(wire)
            .await?;
        let state = Arc::new(State {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            tls,
            active: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            idle_since: Mutex::new(Instant::now()),
            held: Arc::default(),
            watch,
        });
        Ok((Channel { sender, state }, driver))
    }

    /// What tells it apart from every other channel.
    pub fn id(&self) -> u64 {
        self.state.id
    }

    /// False when a request on it is certain to fail.
    pub fn is_good(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        !self.state.retired.load(Ordering::Relaxed) && !matches!(self.sender.poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    fn active(&self) -> usize {
        self.state.active.load(Ordering::Relaxed)
    }

    /// For how long nothing has run on it.
    pub fn idle_for(&self) -> Duration {
        match self.active() {
            0 => self.state.idle_since.lock().unwrap_or_else(PoisonError::into_inner).elapsed(),
            _ => Duration::ZERO,
        }
    }

    /// A place for one more stream, where there is one.
    pub fn lease(&self) -> Option<Lease> {
        let most = self.sender.current_max_send_streams().min(STREAMS);
        (self.active() < most).then(|| self.lease_anyway())
    }

    /// A place for one more stream, which waits for its turn where there are too many.
    pub fn lease_anyway(&self) -> Lease {
        self.state.active.fetch_add(1, Ordering::Relaxed);
        Lease { sender: self.sender.clone(), state: self.state.clone() }
    }

    /// What is known of it without keeping it open.
    pub fn observer(&self) -> Observer {
        Observer(self.state.clone())
    }
}

/// A channel as its driver sees it: it ends when nobody else has it any more.
pub struct Observer(Arc<State>);

impl Observer {
    /// What tells the channel apart from every other.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Streams that run on it.
    pub fn active(&self) -> usize {
        self.0.active.load(Ordering::Relaxed)
    }

    /// What passes on it.
    pub fn watch(&self) -> &Watch {
        &self.0.watch
    }
}

/// The place of one stream on a channel.
pub struct Lease {
    sender: SendRequest<Piece>,
    state: Arc<State>,
}

impl Lease {
    /// Opens the stream.
    pub fn send(&self, request: Request<()>, ended: bool) -> Result<(ResponseFuture, SendStream<Piece>), h2::Error> {
        self.sender.clone().send_request(request, ended)
    }

    /// What the connection holds.
    pub fn held(&self) -> &Arc<Held> {
        &self.state.held
    }

    /// True where the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.state.tls
    }

    /// Bytes that the whole connection has brought so far.
    pub fn heard(&self) -> u64 {
        self.state.watch.received()
    }

    /// Nothing new goes to this connection any more.
    pub fn retire(&self) {
        self.state.retired.store(true, Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.state.active.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.state.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}

/// The largest head as `h2` counts it, which adds 32 bytes to each field (RFC 9113 §6.5.2). What is beyond our own
/// limits and within this is refused by us, and so is logged and counted.
pub fn header_list(limits: &HeadLimits) -> u32 {
    u32::try_from(limits.bytes.saturating_add(limits.fields.saturating_mul(32))).unwrap_or(u32::MAX)
}

//! The life of a downstream connection of HTTP/2: a task that drives it, and one for each request.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use tokio::time::Instant;

use super::http::Http;
use super::http1::{LINGER, Part};
use super::http2::channel::header_list;
use super::http2::held::{Held, Piece};
use super::http2::stream::Stream;
use super::http2::wire::{FIRST_WORDS, Watch, Wire};
use super::secured::Secured;
use super::shared::{Proxy, Settings};
use super::site::Site;
use super::turn::{Connection, InFlight, Last, Turn};
use crate::aside::Aside;
use crate::http2::frames::Flood;
use crate::http2::head;
use crate::identity::Identity;
use crate::message::{RequestHead, ResponseHead, Version};
use crate::metrics::Http2Closed;
use crate::room::Place;
use crate::timer::Timer;

/// What a stream may send without our having taken it.
const STREAM_WINDOW: u32 = 256 * 1024;

/// The same of all streams of a visitor's connection. A gateway's, behind which stand many visitors, gets as much for
/// each stream, so that none takes the room of another.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What a stream's answer may wait for the socket.
const SEND_BUFFER: usize = 128 * 1024;

/// Streams that were reset before anybody saw them.
const UNSEEN_RESETS: usize = 100;

/// Streams that a peer may break in the life of a connection: what it makes us reset costs us more than it.
const BROKEN: usize = 256;

/// Serves a connection that speaks HTTP/2, by ALPN or by its first bytes, until it ends.
pub async fn serve_http2(proxy: Arc<Proxy>, worker: usize, connection: Connection) {
    let Connection { io, read, client, identity, site, head: _, secured, place, patient } = connection;
    let settings = proxy.settings.load_full();
    let now = Instant::now();
    let begin_by = now + settings.timeouts.head;
    let (wire, watch) = Wire::accepted(io, read, patient);
    let window = if patient { STREAM_WINDOW.saturating_mul(settings.http2_streams) } else { CONNECTION_WINDOW };
    let handshake = server::Builder::new()
        .max_concurrent_streams(settings.http2_streams)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(window.clamp(CONNECTION_WINDOW, i32::MAX as u32))
        .max_header_list_size(header_list(&settings.head))
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(if patient { usize::MAX } else { UNSEEN_RESETS })
        .max_local_error_reset_streams((!patient).then_some(BROKEN))
        .handshake::<_, Piece>(wire);
    let evicted = async {
        match &place {
            Some(place) => {
                // Nothing has been asked yet.
                place.idle(now);
                place.evicted().await;
            }
            None => std::future::pending().await,
        }
    };
    let begun = tokio::select! {
        biased;
        begun = tokio::time::timeout_at(begin_by, handshake) => begun,
        () = evicted => return,
    };
    let Ok(begun) = begun else { return proxy.metrics.http2_closed(Http2Closed::Preface) };
    // One that began with other words is not answered: it would not understand.
    let Ok(connection) = begun else { return proxy.metrics.http2_closed(Http2Closed::Protocol) };
    let from = From { proxy, worker, client, identity, site, secured, held: Arc::default(), streams: Arc::default() };
    let idle_since = Instant::now();
    let mut driver = Driver { connection, watch, from, settings, begin_by, idle_since, leaving: None, place, patient };
    if let Some(why) = driver.run().await {
        driver.from.proxy.metrics.http2_closed(why);
    }
}

/// What all requests of a connection have in common.
struct From {
    proxy: Arc<Proxy>,
    worker: usize,
    client: SocketAddr,
    identity: Arc<Identity>,
    site: Site,
    secured: Option<Arc<Secured>>,
    held: Arc<Held>,
    /// Requests that run.
    streams: Arc<AtomicUsize>,
}

struct Driver {
    connection: server::Connection<Wire, Piece>,
    watch: Arc<Watch>,
    from: From,
    settings: Arc<Settings>,
    /// When the peer has said its first words at the latest.
    begin_by: Instant,
    idle_since: Instant,
    /// The peer has been told that we leave; then when it is over at the latest, where nothing runs.
    leaving: Option<Instant>,
    place: Option<Place>,
    patient: bool,
}

impl Driver {
    /// Drives the connection to its end. Says what was wrong where something was.
    async fn run(&mut self) -> Option<Http2Closed> {
        let mut begun = Aside::new(self.from.site.closing(&self.from.proxy));
        let (mut draining, mut timer) = (false, Timer::new());
        let why = poll_fn(|cx| {
            loop {
                match self.connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok((request, response)))) => self.from.spawn(request, response),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(reason(&error)),
                    Poll::Ready(None) => return Poll::Ready(None),
                    Poll::Pending => break,
                }
            }
            if let Some(flood) = self.watch.flood() {
                return Poll::Ready(Some(match flood {
                    Flood::Resets => Http2Closed::Resets,
                    Flood::Frames => Http2Closed::Frames,
                }));
            }
            if !draining && Pin::new(&mut begun).poll(cx).is_ready() {
                draining = true;
                self.leave(cx);
            }
            self.poll_deadline(cx, &mut timer)
        })
        .await;
        if matches!(why, Some(Http2Closed::Resets | Http2Closed::Frames)) {
            self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            let told = poll_fn(|cx| self.connection.poll_closed(cx));
            // One that does not read why does not get it.
            let _ = tokio::time::timeout(LINGER, told).await;
        }
        why
    }

    /// Tells the peer to open no more streams; those that run end by themselves.
    fn leave(&mut self, cx: &mut Context<'_>) {
        if self.leaving.is_none() {
            self.leaving = Some(Instant::now() + LINGER);
            self.connection.graceful_shutdown();
            cx.waker().wake_by_ref();
        }
    }

    /// Ready when a deadline has passed that ends the connection.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, timer: &mut Timer) -> Poll<Option<Http2Closed>> {
        let settings = self.settings.clone();
        let timeouts = &settings.timeouts;
        if let Some(blocked) = self.watch.blocked_for() {
            if blocked >= timeouts.idle {
                return Poll::Ready(Some(Http2Closed::Stuck));
            }
            let by = Instant::now() + (timeouts.idle - blocked);
            return timer.poll_until(cx, by).map(|()| Some(Http2Closed::Stuck));
        }
        if self.from.streams.load(Ordering::Relaxed) > 0 {
            // Whoever ends the last one wakes us: `h2` has something to do then.
            self.idle_since = Instant::now();
            if let Some(place) = &self.place {
                place.busy();
            }
            if let Some(leaving) = &mut self.leaving {
                *leaving = self.idle_since + LINGER;
            }
            // And we look again all the same.
            if timer.poll_until(cx, self.idle_since + timeouts.keep_alive).is_ready() {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        if let Some(place) = &mut self.place {
            place.idle(self.idle_since);
            if place.poll_evicted(cx).is_ready() {
                self.leave(cx);
            }
        }
        match self.leaving {
            Some(by) => timer.poll_until(cx, by).map(|()| None),
            None if self.patient => Poll::Pending,
            None if self.watch.received() < FIRST_WORDS => {
                timer.poll_until(cx, self.begin_by).map(|()| Some(Http2Closed::Preface))
            }
            None => {
                if timer.poll_until(cx, self.idle_since + timeouts.keep_alive).is_ready() {
                    self.leave(cx);
                }
                Poll::Pending
            }
        }
    }
}

/// What was wrong where `h2` ended a connection.
fn reason(error: &h2::Error) -> Option<Http2Closed> {
    match error.reason() {
        Some(Reason::ENHANCE_YOUR_CALM) if error.is_library() => Some(Http2Closed::Calm),
        _ if error.is_library() => Some(Http2Closed::Protocol),
        _ => None,
    }
}

impl From {
    /// Serves one request in a task of its own.
    fn spawn(&self, request: Request<RecvStream>, mut response: SendResponse<Piece>) {
        if self.site.admit().is_err() {
            // It says that nothing was done: whoever asks may ask again, on another connection.
            return response.send_reset(Reason::REFUSED_STREAM);
        }
        let (parts, body) = request.into_parts();
        // A request has the settings that are in force when it begins, however old its connection is.
        let (settings, running) = (self.proxy.settings.load_full(), Running::new(&self.streams));
        let stream = Stream::accepted(body, response, self.held.clone(), &settings.head);
        let mut turn = Turn {
            proxy: self.proxy.clone(),
            worker: self.worker,
            client: self.client,
            identity: self.identity.clone(),
            hides: false,
            site: self.site.clone(),
            secured: self.secured.clone(),
            down: Http::Two(Box::new(stream)),
            request: RequestHead::new(),
            response: ResponseHead::new(),
            timer: Timer::new(),
            in_flight: InFlight::new(&self.proxy),
        };
        let read = head::request_from(&parts, &mut turn.request, &settings.head);
        self.proxy.drain.spawn_on(self.proxy.runtime(self.worker), async move {
            match read {
                Ok(()) => {
                    let (visitor, way) = turn.route().await;
                    match turn.run(&settings, way, &visitor).await {
                        // What was said before it broke goes first: a reset drops what is still queued.
                        Some(Last::Reset) => {
                            turn.down.flush_within(&mut turn.timer, LINGER).await;
                            tokio::task::yield_now().await;
                            turn.down.reset();
                        }
                        // Some clients take an answer that ends their request early for a broken one.
                        Some(Last::Linger) => discard(&mut turn).await,
                        Some(Last::Close) | None => {}
                    }
                }
                Err(error) => turn.refuse(error.of_request(), Version::Http2).await,
            }
            // The stream is given up before it counts as ended.
            drop(turn);
            drop(running);
        });
    }
}

/// Reads on for a moment what is not wanted any more.
async fn discard(turn: &mut Turn) {
    let until = Instant::now() + LINGER;
    poll_fn(|cx| {
        loop {
            match turn.down.poll_part(cx) {
                Poll::Ready(Ok(Part::Data(length))) => turn.down.took(length),
                Poll::Ready(Ok(Part::Trailers(_))) => {}
                Poll::Ready(Ok(Part::End) | Err(_)) => return Poll::Ready(()),
                Poll::Pending => return turn.timer.poll_until(cx, until),
            }
        }
    })
    .await;
}

/// A request that runs.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Running(streams.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

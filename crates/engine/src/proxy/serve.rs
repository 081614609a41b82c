//! The life of a downstream connection: head after head, each routed and carried by itself.
//!
//! What happens to one request is `exchange`; where it leads is `site`; raw bytes are `stream`'s.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::access::{Asked, Record};
use super::exchange::{Exchange, Next, malformed};
use super::http1::{Http1, Stop};
use super::respond::{self, Answer};
use super::secured::Secured;
use super::shared::{Proxy, Settings};
use super::site::{Route, Site};
use super::stream;
use crate::error::{Code, Error, Result, Side};
use crate::http1::framing::{self, Framing};
use crate::identity::Identity;
use crate::io::{BoxedIo, Buffer};
use crate::message::{Known, RequestHead, ResponseHead, Version};
use crate::room::Place;
use crate::timer::Timer;

/// How long the rest of a request is read after an answer that ends the connection: a reset would take the answer away
/// from a downstream that is still writing.
const LINGER: Duration = Duration::from_secs(2);

/// How long a connection that was accepted just before the gateway began to leave may take to ask something.
const FRESH: Duration = Duration::from_secs(1);

/// A connection on which requests come in.
pub struct Connection {
    /// The byte stream.
    pub io: BoxedIo,
    /// Bytes that were read from it already.
    pub read: Buffer,
    /// Who connected.
    pub client: SocketAddr,
    /// Who that is.
    pub identity: Arc<Identity>,
    /// Where it came in.
    pub site: Site,
    /// A head that was read and not answered: the connection was moved to the worker that can.
    pub head: Option<Box<RequestHead>>,
    /// What TLS settled, where this gateway ended it.
    pub secured: Option<Arc<Secured>>,
    /// Held as long as the connection lives; none where nobody counts them.
    pub place: Option<Place>,
    /// Only the other side ends it while it is idle (design.md "Tunnels": only the gateway closes an idle kept stream).
    pub patient: bool,
}

/// Serves a connection on the worker whose thread this is, until it ends.
pub async fn serve(proxy: Arc<Proxy>, worker: usize, connection: Connection) {
    let begun = Box::pin(connection.site.closing(&proxy));
    let Connection { io, read, client, identity, site, head, secured, place, patient } = connection;
    let down = Http1::new(io, read);
    let (request, response) = (RequestHead::new(), ResponseHead::new());
    let mut downstream = Downstream {
        proxy,
        worker,
        client,
        identity,
        site,
        down,
        timer: Timer::new(),
        request,
        response,
        begun,
        secured,
        place,
        patient,
        served: false,
    };
    let moved = head.is_some();
    if let Some(head) = head {
        downstream.request = *head;
    }
    let entry = downstream.proxy.directory.enter(downstream.identity.clone());
    let last = tokio::select! {
        biased;
        last = downstream.requests(moved) => last,
        () = entry.ended() => Last::Reset,
    };
    downstream.end(last).await;
}

struct Downstream {
    proxy: Arc<Proxy>,
    worker: usize,
    client: SocketAddr,
    identity: Arc<Identity>,
    site: Site,
    down: Http1,
    timer: Timer,
    request: RequestHead,
    response: ResponseHead,
    begun: Pin<Box<WaitForCancellationFutureOwned>>,
    secured: Option<Arc<Secured>>,
    place: Option<Place>,
    patient: bool,
    /// It has carried a request.
    served: bool,
}

/// How a connection ends.
enum Last {
    /// In order, at once.
    Close,
    /// In order, when the other side has had time to read.
    Linger,
    /// Broken.
    Reset,
    /// Not here: another worker has a tunnel for it.
    Move(usize),
}

impl Downstream {
    async fn requests(&mut self, mut has_head: bool) -> Last {
        let mut movable = !has_head;
        loop {
            let settings = self.proxy.settings.load_full();
            if !std::mem::take(&mut has_head) {
                match self.next_head(&settings).await {
                    Ok(true) => {}
                    Ok(false) => return Last::Close,
                    Err(error) => {
                        let mut record = self.record();
                        self.answer_error(&mut record, error, Version::Http11, false, false).await;
                        self.proxy.finish(self.worker, &record);
                        return Last::Linger;
                    }
                }
            }
            let route = match &self.secured {
                Some(secured) => secured.admit(&self.request, &self.site, &self.proxy),
                None => Ok(()),
            };
            let found = || self.site.route(&self.request, &self.proxy, &self.identity, self.client.ip());
            let route = route.and_then(|()| found());
            if std::mem::take(&mut movable)
                && let Ok(route) = &route
                && let Some(better) = route.upstreams.better_worker(self.worker)
            {
                return Last::Move(better);
            }
            self.served = true;
            let mut record = self.record();
            record.client = self.site.client(&self.request, self.client);
            self.proxy.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
            let next = self.exchange(&settings, route, &mut record).await;
            self.proxy.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
            self.proxy.finish(self.worker, &record);
            if let Some(last) = next {
                return last;
            }
        }
    }

    /// Waits for the next request. `false`: there is none, and nothing is left to say.
    async fn next_head(&mut self, settings: &Settings) -> Result<bool> {
        let timeouts = &settings.timeouts;
        let now = Instant::now();
        let idle_by = now + timeouts.keep_alive;
        if let Some(place) = &self.place {
            place.idle(now);
        }
        let (mut head_by, mut fresh_by) = (None, None);
        let Self { down, request, timer, begun, place, patient, served, .. } = self;
        let mut draining = false;
        poll_fn(|cx| {
            let asked = down.poll_request(cx, request, &settings.head);
            if let Some(place) = place
                && (asked.is_ready() || down.has_input())
            {
                place.busy();
            }
            match asked {
                Poll::Ready(Ok(arrived)) => return Poll::Ready(Ok(arrived)),
                Poll::Ready(Err(Stop::Malformed(error))) => return Poll::Ready(Err(malformed(error))),
                Poll::Ready(Err(Stop::Io(_) | Stop::Closed)) => return Poll::Ready(Ok(false)),
                Poll::Pending => {}
            }
            // The answer before may still be on its way; a downstream that does not read it gets no more.
            if let Poll::Ready(Err(_)) = down.poll_flush(cx) {
                return Poll::Ready(Ok(false));
            }
            if !down.has_input() {
                if *patient {
                    return Poll::Pending;
                }
                if place.as_ref().is_some_and(|place| place.poll_evicted(cx).is_ready()) {
                    return Poll::Ready(Ok(false));
                }
                draining = draining || begun.as_mut().poll(cx).is_ready();
                let until = match (draining, *served) {
                    (false, _) => idle_by,
                    (true, true) => return Poll::Ready(Ok(false)),
                    // It was let in, and what it asks may be on its way.
                    (true, false) => *fresh_by.get_or_insert_with(|| Instant::now() + FRESH),
                };
                return timer.poll_until(cx, until).map(|()| Ok(false));
            }
            let head_by = *head_by.get_or_insert_with(|| Instant::now() + timeouts.head);
            timer.poll_until(cx, head_by).map(|()| {
                Err(Error::new(Code::DownstreamTimeout, format!("the head was not whole within {:?}", timeouts.head)))
            })
        })
        .await
    }

    fn record(&self) -> Record {
        Record::new(self.proxy.next_request(), self.client, self.site.name().clone(), self.site.answered())
    }

    /// Carries one request. None: the connection waits for the next.
    async fn exchange(&mut self, settings: &Settings, route: Result<Route>, record: &mut Record) -> Option<Last> {
        let logged = self.proxy.access.load().is_some();
        record.asked = logged.then(|| Asked::of(&self.request));
        let (version, is_head) = (self.request.version, self.request.method() == b"HEAD");
        let wants_more = framing::keeps_alive_request(&self.request);
        let outcome = match self.expect_body(settings).and_then(|framing| Ok((framing, route?))) {
            Err(error) => Err(error),
            Ok((framing, route)) => {
                record.endpoint = route.endpoint.clone();
                let mut exchange = Exchange {
                    proxy: &self.proxy,
                    settings,
                    site: &self.site,
                    worker: self.worker,
                    client: self.client,
                    proto: if self.secured.is_some() { "https" } else { "http" },
                    timer: &mut self.timer,
                    response: &mut self.response,
                    record,
                };
                match route.tcp {
                    true => stream::over_websocket(&mut exchange, &mut self.down, &self.request, &route).await,
                    false => exchange.run(&mut self.down, &mut self.request, framing, &route).await,
                }
            }
        };
        match outcome {
            Ok(Next::KeepAlive) => None,
            Ok(Next::Close) => Some(Last::Linger),
            Ok(Next::Reset) => Some(Last::Reset),
            Ok(Next::Taken) => Some(Last::Close),
            Ok(Next::Upgraded(up, busy)) => {
                stream::relay_upgraded(&mut self.down, *up, settings, &mut self.timer, record).await;
                drop(busy);
                Some(Last::Close)
            }
            Err(error) if error.code == Code::DownstreamClosed => {
                record.status = error.code.status();
                record.error = Some(error);
                Some(Last::Reset)
            }
            Err(error) => {
                let misunderstood = error.code.side() == Side::Downstream && error.code != Code::MissingEndpoint;
                let keep =
                    wants_more && !misunderstood && self.down.skip_arrived_body() && !self.site.is_closing(&self.proxy);
                self.answer_error(record, error, version, keep, is_head).await;
                (!keep).then_some(Last::Linger)
            }
        }
    }

    /// Says how the body of the request is framed, and refuses what is never carried.
    fn expect_body(&mut self, settings: &Settings) -> Result<Framing> {
        let framing = framing::request_framing(&self.request).map_err(malformed)?;
        self.down.expect_body(framing, &settings.head);
        if self.request.method() == b"CONNECT" {
            return Err(Error::new(Code::MethodNotSupported, "CONNECT is not served here"));
        }
        Ok(framing)
    }

    async fn answer_error(&mut self, record: &mut Record, error: Error, version: Version, keep: bool, is_head: bool) {
        // A head that was not understood asks for nothing.
        let heard = !matches!(error.code, Code::MalformedRequest | Code::HeadTooLarge | Code::DownstreamTimeout);
        let prefers_html = heard && respond::prefers_html(self.request.fields.all(Known::Accept));
        let answer = self.proxy.table.load().answer(&error, record.id, prefers_html);
        record.error = Some(error);
        self.send_answer(record, &answer, version, keep, is_head).await;
    }

    /// Sends an answer of our own.
    async fn send_answer(&mut self, record: &mut Record, answer: &Answer, version: Version, keep: bool, is_head: bool) {
        record.status = answer.status;
        record.answered = self.site.answered();
        record.first_byte = Some(Instant::now());
        record.bytes_out = answer.sent(is_head).len() as u64;
        self.down.send_raw(&answer.to_http1(version, keep, is_head));
        // A downstream that cannot be told has left, which the next read shows.
        self.down.flush_within(&mut self.timer, LINGER).await;
    }

    async fn end(mut self, last: Last) {
        match last {
            Last::Close => {
                // TLS has a last word, for which there may be no room.
                let until = Instant::now() + LINGER;
                poll_fn(|cx| match self.down.poll_shutdown(cx) {
                    Poll::Ready(_) => Poll::Ready(()),
                    Poll::Pending => self.timer.poll_until(cx, until),
                })
                .await;
            }
            Last::Reset => {
                // What was said before it broke goes first, in a tunnel too, where a reset overtakes data.
                self.down.flush_within(&mut self.timer, LINGER).await;
                tokio::task::yield_now().await;
                self.down.reset();
            }
            Last::Linger => {
                let until = Instant::now() + LINGER;
                poll_fn(|cx| {
                    // Ended in order or not: either way only what is still being sent is left to drop.
                    let _ = self.down.poll_shutdown(cx);
                    let gone = self.down.poll_discard(cx);
                    if gone.is_ready() { gone } else { self.timer.poll_until(cx, until) }
                })
                .await;
            }
            Last::Move(worker) => self.move_to(worker),
        }
    }

    /// Takes the connection to another worker, or serves it from here where it cannot be moved.
    fn move_to(self, worker: usize) {
        let (io, read, _) = self.down.into_parts();
        let (head, moves) = (Some(Box::new(self.request)), (self.secured, self.place, self.patient));
        let rest = (self.client, self.identity, self.site, head, moves);
        let proxy = self.proxy.clone();
        let again = move |worker: usize, io: BoxedIo| -> Pin<Box<dyn Future<Output = ()> + Send>> {
            let (client, identity, site, head, (secured, place, patient)) = rest;
            let connection = Connection { io, read, client, identity, site, head, secured, place, patient };
            Box::pin(serve(proxy, worker, connection))
        };
        self.proxy.carry_on(&self.proxy.drain, io, (self.worker, worker), again);
    }
}

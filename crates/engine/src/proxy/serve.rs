//! The life of a downstream connection of HTTP/1: head after head, each routed and carried by itself.
//!
//! What happens to one request is `turn`; a connection that turns out to speak HTTP/2 is `serve_http2`'s.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use arc_swap::Cache;
use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::http::Http;
use super::http1::{Http1, LINGER, Stop};
use super::http2::wire::PREFACE_HEAD;
use super::serve_http2::serve_http2;
use super::shared::{Proxy, Settings};
use super::site::Way;
pub use super::turn::Connection;
use super::turn::{InFlight, Last, Turn};
use crate::aside::Aside;
use crate::error::{Code, Error, Result};
use crate::io::{BoxedIo, ended};
use crate::message::{RequestHead, ResponseHead, Version};
use crate::room::Place;
use crate::timer::Timer;

/// How long a connection that was accepted just before the gateway began to leave may take to ask something.
const FRESH: Duration = Duration::from_secs(1);

/// Serves a connection on the worker whose thread this is, until it ends.
pub async fn serve(proxy: Arc<Proxy>, worker: usize, connection: Connection) {
    let begun = Aside::new(connection.site.closing(&proxy));
    let Connection { io, read, client, identity, site, head, secured, place, patient } = connection;
    let moved = head.is_some();
    let request = head.map_or_else(RequestHead::new, |head| *head);
    let (down, response, timer) = (Http::One(Box::new(Http1::new(io, read))), ResponseHead::new(), Timer::new());
    let in_flight = InFlight::new(&proxy);
    let turn = Turn {
        proxy,
        worker,
        client,
        identity,
        hides: false,
        site,
        secured,
        down,
        request,
        response,
        timer,
        in_flight,
    };
    let mut downstream = Downstream { turn, begun, place, patient, served: false };
    match downstream.requests(moved).await {
        After::End(last) => downstream.end(last).await,
        After::Move(worker) => downstream.move_to(worker),
        After::Http2 => {
            let (proxy, worker) = (downstream.turn.proxy.clone(), downstream.turn.worker);
            if let Some(connection) = downstream.into_connection() {
                Box::pin(serve_http2(proxy, worker, connection)).await;
            }
        }
    }
}

struct Downstream {
    turn: Turn,
    begun: Aside<WaitForCancellationFutureOwned>,
    place: Option<Place>,
    patient: bool,
    /// It has carried a request.
    served: bool,
}

/// What comes after the last request here.
enum After {
    /// The end.
    End(Last),
    /// Another worker has a tunnel for it.
    Move(usize),
    /// It speaks HTTP/2.
    Http2,
}

/// What was waited for.
enum Arrived {
    /// The head of a request.
    Head,
    /// Nothing, and nothing is left to say.
    Nothing,
    /// What begins HTTP/2.
    Http2,
}

impl Downstream {
    async fn requests(&mut self, mut has_head: bool) -> After {
        let mut movable = !has_head;
        // Looked at for each request, and replaced where others are in force.
        let mut settings = Cache::new(self.turn.proxy.settings.clone());
        loop {
            let settings = settings.load();
            if !std::mem::take(&mut has_head) {
                match self.next_head(settings).await {
                    Ok(Arrived::Head) => {}
                    Ok(Arrived::Nothing) => return After::End(Last::Close),
                    Ok(Arrived::Http2) => return After::Http2,
                    Err(error) => {
                        self.turn.refuse(error, Version::Http11).await;
                        return After::End(Last::Linger);
                    }
                }
            }
            let (visitor, way) = self.turn.route().await;
            if std::mem::take(&mut movable)
                && let Ok(Way::On(route, _)) = &way
                && let Some(better) = route.upstreams.better_worker(self.turn.worker)
            {
                return After::Move(better);
            }
            self.served = true;
            if let Some(last) = self.turn.run(settings, way, &visitor).await {
                return After::End(last);
            }
        }
    }

    /// Waits for the next request.
    async fn next_head(&mut self, settings: &Settings) -> Result<Arrived> {
        let timeouts = &settings.timeouts;
        let now = Instant::now();
        let idle_by = now + timeouts.keep_alive;
        if let Some(place) = &self.place {
            place.idle(now);
        }
        let (mut head_by, mut fresh_by) = (None, None);
        let Self { turn, begun, place, patient, served } = self;
        let Turn { down: Http::One(down), request, timer, .. } = turn else { return Ok(Arrived::Nothing) };
        let mut draining = false;
        poll_fn(|cx| {
            let asked = down.poll_request(cx, request, &settings.head);
            if let Some(place) = place
                && asked.is_ready()
            {
                place.busy();
            }
            match asked {
                Poll::Ready(Ok(true)) => return Poll::Ready(Ok(Arrived::Head)),
                // What begins HTTP/2 is no head of HTTP/1 (RFC 9113 §3.4).
                Poll::Ready(Err(Stop::Malformed(_))) if !*served && down.data().starts_with(PREFACE_HEAD) => {
                    return Poll::Ready(Ok(Arrived::Http2));
                }
                Poll::Ready(Err(Stop::Malformed(error))) => return Poll::Ready(Err(error.of_request())),
                Poll::Ready(_) => return Poll::Ready(Ok(Arrived::Nothing)),
                Poll::Pending => {}
            }
            // The answer before may still be on its way; a downstream that does not read it gets no more.
            if let Poll::Ready(Err(_)) = down.poll_flush(cx) {
                return Poll::Ready(Ok(Arrived::Nothing));
            }
            if !down.has_input() {
                if *patient {
                    return Poll::Pending;
                }
                if place.as_mut().is_some_and(|place| place.poll_evicted(cx).is_ready()) {
                    return Poll::Ready(Ok(Arrived::Nothing));
                }
                draining = draining || Pin::new(&mut *begun).poll(cx).is_ready();
                let until = match (draining, *served) {
                    (false, _) => idle_by,
                    (true, true) => return Poll::Ready(Ok(Arrived::Nothing)),
                    // It was let in, and what it asks may be on its way.
                    (true, false) => *fresh_by.get_or_insert_with(|| Instant::now() + FRESH),
                };
                return timer.poll_until(cx, until).map(|()| Ok(Arrived::Nothing));
            }
            let head_by = *head_by.get_or_insert_with(|| {
                let now = Instant::now();
                if let Some(place) = place {
                    place.half(now);
                }
                now + timeouts.head
            });
            if place.as_mut().is_some_and(|place| place.poll_evicted(cx).is_ready()) {
                return Poll::Ready(Ok(Arrived::Nothing));
            }
            timer.poll_until(cx, head_by).map(|()| {
                Err(Error::new(Code::DownstreamTimeout, format!("the head was not whole within {:?}", timeouts.head)))
            })
        })
        .await
    }

    async fn end(mut self, last: Last) {
        let turn = &mut self.turn;
        let Turn { down: Http::One(down), timer, .. } = turn else { return };
        match last {
            Last::Close => {
                // TLS has a last word, for which there may be no room.
                let until = Instant::now() + LINGER;
                poll_fn(|cx| match down.poll_shutdown(cx) {
                    Poll::Ready(_) => Poll::Ready(()),
                    Poll::Pending => timer.poll_until(cx, until),
                })
                .await;
            }
            Last::Reset => {
                // What was said before it broke goes first, in a tunnel too, where a reset overtakes data.
                turn.down.flush_within(&mut turn.timer, LINGER).await;
                tokio::task::yield_now().await;
                turn.down.reset();
            }
            Last::Linger => down.part(timer).await,
        }
    }

    /// What is left when no request of HTTP/1 is under way.
    fn into_connection(self) -> Option<Connection> {
        let Self { turn, place, patient, .. } = self;
        let Turn { client, identity, site, secured, down, .. } = turn;
        let Http::One(down) = down else { return None };
        let (io, read, _) = down.into_parts();
        Some(Connection { io, read, client, identity, site, head: None, secured, place, patient })
    }

    /// Takes the connection to another worker, or serves it from here where it cannot be moved.
    fn move_to(mut self, worker: usize) {
        let (proxy, here) = (self.turn.proxy.clone(), self.turn.worker);
        let head = Some(Box::new(std::mem::take(&mut self.turn.request)));
        let Some(mut connection) = self.into_connection() else { return };
        connection.head = head;
        let io = std::mem::replace(&mut connection.io, ended());
        let (there, drain) = (proxy.clone(), proxy.drain.clone());
        let again = move |worker: usize, io: BoxedIo| -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(serve(there, worker, Connection { io, ..connection }))
        };
        proxy.carry_on(&drain, io, (here, worker), again);
    }
}

//! Connections to upstreams: which one a request gets, and what becomes of it afterwards.
//!
//! Which upstream it is, and what a failure means for the request, is `exchange`'s.

use std::future::poll_fn;
use std::task::Poll;

use super::http::Http;
use super::http1::Http1;
use super::http2::channels::Opening;
use super::http2::stream::Stream;
use super::shared::{Proxy, Settings};
use crate::error::Result;
use crate::io::Buffer;
use crate::upstream::{StreamInfo, StreamKind, Upstream};

/// What takes and gives back the connections of one worker.
pub struct Connector<'a> {
    /// What all connections share.
    pub proxy: &'a Proxy,
    /// The deadlines and limits of the request.
    pub settings: &'a Settings,
    /// The worker that carries it.
    pub worker: usize,
}

/// What may be done with a request when its connection turns out to have ended.
#[derive(Clone, Copy)]
pub struct Kept {
    /// It may go to a connection that is kept.
    pub allowed: bool,
    /// It may be sent again although it may have been delivered.
    pub idempotent: bool,
}

impl Connector<'_> {
    /// A kept connection, else a new one, or a place on one that many share. Says whether it was there. `info`: who asks,
    /// for a connection that carries this.
    pub async fn take(
        &self,
        upstream: &Upstream,
        kept: Kept,
        info: impl FnOnce(StreamKind) -> StreamInfo,
    ) -> Result<(Http, bool)> {
        // HTTP/2 knows no Upgrade: there the request goes without it, as a server may treat it (RFC 9110 §7.8).
        let kind = upstream.http();
        if kind != StreamKind::Http1 {
            let opening = Opening {
                runtime: self.proxy.runtime(self.worker),
                drain: &self.proxy.drain,
                timeouts: &self.settings.timeouts,
                limits: self.settings.head,
                info: info(kind),
            };
            // On the heap, where a connection of HTTP/1 has no room for it.
            let (lease, was_there) = Box::pin(self.proxy.channels(self.worker).lease(upstream, &opening)).await?;
            return Ok((Http::Two(Box::new(Stream::opened(lease, &self.settings.head))), was_there && kept.allowed));
        }
        if kept.allowed && (upstream.features().reuse || kept.idempotent) {
            while let Some(mut kept) = self.proxy.pool(self.worker, |pool| pool.take(upstream.id(), kind)) {
                if kept.is_quiet() {
                    return Ok((Http::One(kept), true));
                }
            }
        }
        let io = upstream.open(&info(kind)).await?;
        Ok((Http::One(Http1::new(io, Buffer::new())), false))
    }

    /// Keeps what a whole exchange leaves for the next one, or ends it in order.
    pub async fn give_back(&self, connection: Http, reusable: bool, upstream: &Upstream) {
        let surplus = match connection {
            Http::One(connection) if reusable && upstream.is_open() && !self.proxy.drain.is_begun() => {
                self.proxy.pool(self.worker, |pool| pool.put(upstream.id(), StreamKind::Http1, connection))
            }
            Http::One(connection) => Some(connection),
            Http::Two(stream) if stream.has_ended() => return,
            Http::Two(stream) => return self.proxy.drain.spawn_on(self.proxy.runtime(self.worker), stream.finish()),
        };
        // It may have begun to leave just now, when what is kept for it had been given up already.
        if reusable && !upstream.is_open() {
            self.proxy.forget(upstream.id());
        }
        if let Some(mut surplus) = surplus {
            // An idle connection is ended in order; that it cannot be ended at once is no concern of anybody.
            let _ = poll_fn(|cx| Poll::Ready(surplus.poll_shutdown(cx))).await;
        }
    }
}

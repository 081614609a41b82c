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

impl Connector<'_> {
    /// A connection that was kept and is quiet. `again`: the request may be sent a second time, should that one turn
    /// out to have ended.
    pub fn kept(&self, upstream: &Upstream, again: bool) -> Option<Http> {
        // Where many share a connection, `open` finds it.
        if upstream.http() != StreamKind::Http1 || !(again || upstream.features().reuse) {
            return None;
        }
        loop {
            let mut kept = self.proxy.pool(self.worker, |pool| pool.take(upstream.id(), StreamKind::Http1))?;
            if kept.is_quiet() {
                return Some(Http::One(kept));
            }
        }
    }

    /// A new connection, or a place on one that many share. Says whether that was there.
    pub async fn open(&self, upstream: &Upstream, info: &StreamInfo) -> Result<(Http, bool)> {
        if info.kind == StreamKind::Http1 {
            let io = upstream.open(info).await?;
            return Ok((Http::One(Box::new(Http1::new(io, Buffer::new()))), false));
        }
        // On the heap, where a connection of HTTP/1 has no room for it.
        Box::pin(self.share(upstream, info)).await
    }

    async fn share(&self, upstream: &Upstream, info: &StreamInfo) -> Result<(Http, bool)> {
        let opening = Opening {
            runtime: self.proxy.runtime(self.worker),
            drain: &self.proxy.drain,
            timeouts: &self.settings.timeouts,
            limits: self.settings.head,
            info,
        };
        let (lease, was_there) = self.proxy.channels(self.worker).lease(upstream, &opening).await?;
        Ok((Http::Two(Box::new(Stream::opened(lease, &self.settings.head))), was_there))
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
            // An idle connection is ended in order.
            let _ = poll_fn(|cx| Poll::Ready(surplus.poll_shutdown(cx))).await;
        }
    }
}

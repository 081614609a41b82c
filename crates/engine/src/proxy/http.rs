//! One side of an exchange, whichever version of HTTP it speaks: a connection of HTTP/1, or a stream of HTTP/2.
//!
//! Nothing above knows which; what it polls is the same.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::http1::{Http1, Part, Stop};
use super::http2::stream::Stream;
use super::respond::Answer;
use crate::http1::framing::{self, Framing};
use crate::http1::head::HeadLimits;
use crate::http1::refusal::HeadError;
use crate::http2;
use crate::message::{Fields, RequestHead, ResponseHead, Version};
use crate::timer::Timer;

/// One side of an exchange.
pub enum Http {
    /// A connection, whole. In a box, because it goes from hand to hand with every request.
    One(Box<Http1>),
    /// A stream among others.
    Two(Box<Stream>),
}

/// Does the same to either.
macro_rules! either {
    ($side:expr, $it:ident => $what:expr) => {
        match $side {
            Http::One($it) => $what,
            Http::Two($it) => $what,
        }
    };
}

impl Http {
    /// Bytes that went through, either way: whoever watches for progress compares it.
    pub fn moved(&self) -> u64 {
        either!(self, it => it.moved)
    }

    /// Bytes that the other side has sent so far.
    pub fn received(&self) -> u64 {
        either!(self, it => it.received)
    }

    /// Waits for a response's head, interim ones included. `false`: the stream ended cleanly before one.
    pub fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
        limits: &HeadLimits,
    ) -> Poll<Result<bool, Stop>> {
        match self {
            Http::One(it) => it.poll_response(cx, head, limits),
            Http::Two(it) => it.poll_response(cx, head),
        }
    }

    /// How the body of a request that was read ends; from here on it is read like this.
    pub fn expect_request_body(&mut self, head: &RequestHead, limits: &HeadLimits) -> Result<Framing, HeadError> {
        match self {
            Http::One(it) => {
                let framing = framing::request_framing(head)?;
                it.expect_body(framing, limits);
                Ok(framing)
            }
            Http::Two(it) => http2::head::request_framing(head, it.has_ended()),
        }
    }

    /// How the body of a response that was read ends; from here on it is read like this.
    pub fn expect_response_body(
        &mut self,
        head: &ResponseHead,
        method: &[u8],
        limits: &HeadLimits,
    ) -> Result<Framing, HeadError> {
        let framing = framing::response_framing(head, method)?;
        match self {
            Http::One(it) => it.expect_body(framing, limits),
            // A head that ends its stream may hold what others say in trailers: nothing may follow it.
            Http::Two(it) if framing == Framing::Chunked && it.has_ended() => return Ok(Framing::Length(0)),
            Http::Two(_) => {}
        }
        Ok(framing)
    }

    /// Waits for the next part of the body that is being read.
    pub fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, Stop>> {
        either!(self, it => it.poll_part(cx))
    }

    /// What was read and not yet taken; a part of the body stands at its front.
    pub fn data(&self) -> &[u8] {
        either!(self, it => it.data())
    }

    /// Takes `n` bytes of the part.
    pub fn took(&mut self, n: usize) {
        either!(self, it => it.took(n));
    }

    /// Drops what has arrived of the body that is being read. True when another message may follow all the same.
    pub fn skip_arrived_body(&mut self) -> bool {
        match self {
            Http::One(it) => it.skip_arrived_body(),
            Http::Two(_) => true,
        }
    }

    /// Queues a request's head; nothing is written before a flush.
    pub fn send_request(&mut self, head: &RequestHead, framing: Framing) {
        either!(self, it => it.send_request(head, framing));
    }

    /// Queues a response's head; nothing is written before a flush.
    pub fn send_response(&mut self, head: &ResponseHead, framing: Framing) {
        either!(self, it => it.send_response(head, framing));
    }

    /// Queues an interim response; the answer itself is still to come.
    pub fn send_interim(&mut self, head: &ResponseHead) {
        either!(self, it => it.send_interim(head));
    }

    /// Queues an answer of our own, whole.
    pub fn send_answer(&mut self, answer: &Answer, version: Version, keep_alive: bool, is_head: bool) {
        match self {
            Http::One(it) => it.send_raw(&answer.to_http1(version, keep_alive, is_head)),
            Http::Two(it) => it.send_whole(&answer.head(), answer.sent(is_head)),
        }
    }

    /// Queues body data as far as there is room; says how much was taken.
    pub fn poll_data(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, Stop>> {
        either!(self, it => it.poll_data(cx, data))
    }

    /// Ends the body that is being written.
    pub fn end_body(&mut self, trailers: Option<&Fields>) -> Result<(), Stop> {
        either!(self, it => it.end_body(trailers))
    }

    /// True when the body that is being written is whole.
    pub fn body_sent(&self) -> bool {
        either!(self, it => it.body_sent())
    }

    /// Writes what is queued.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        match self {
            Http::One(it) => it.poll_flush(cx).map_err(Stop::Io),
            Http::Two(it) => it.poll_flush(cx),
        }
    }

    /// Writes what is queued. False when the other side has left, or has not taken it within `within`.
    pub async fn flush_within(&mut self, timer: &mut Timer, within: Duration) -> bool {
        let until = Instant::now() + within;
        poll_fn(|cx| match self.poll_flush(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome.is_ok()),
            Poll::Pending => timer.poll_until(cx, until).map(|()| false),
        })
        .await
    }

    /// True when nothing is queued.
    pub fn is_flushed(&self) -> bool {
        either!(self, it => it.is_flushed())
    }

    /// Ready when the other side has left. Bytes that arrive meanwhile are kept, up to a buffer of them.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        either!(self, it => it.poll_gone(cx))
    }

    /// Makes the end of this side a broken one, so that the other side does not take half a message for a whole.
    pub fn reset(&mut self) {
        either!(self, it => it.reset());
    }

    /// The connection itself, which only HTTP/1 can turn into something else.
    pub fn connection(&mut self) -> Option<&mut Http1> {
        match self {
            Http::One(it) => Some(it),
            Http::Two(_) => None,
        }
    }
}

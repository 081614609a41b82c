//! A flow: datagrams in both directions that belong together. It lives as long as the stream that stands for it.

use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use quinn::SendDatagramError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::channel::Channel;
use super::demux::{datagram, length_of};
use super::shared::Shared;
use super::stream::Stream;
use crate::io::{BoxedIo, Io};

/// Bytes of a flow's stream that are thrown away in one go: nothing is said on it while the flow runs.
const THROWN_AWAY: usize = 16 * 1024;

/// Datagrams between two ends, each whole or not at all. Dropping it ends it.
pub struct Flow {
    shared: Arc<Shared>,
    stream: Stream,
    id: u64,
    over: bool,
}

/// What sending a datagram has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way, as far as anybody knows.
    Sent,
    /// The same, and older ones that waited were dropped for it.
    Displacing,
}

/// Why a datagram was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowError {
    /// The path carries none of its size.
    TooBig {
        /// The largest payload that it carries now.
        most: usize,
    },
    /// The flow has ended.
    Ended,
}

impl fmt::Display for FlowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FlowError::TooBig { most } => write!(f, "the path carries at most {most} bytes"),
            FlowError::Ended => f.write_str("the flow has ended"),
        }
    }
}

impl std::error::Error for FlowError {}

impl Flow {
    /// One whose stream has just been opened, or taken.
    pub(super) fn new(shared: Arc<Shared>, channel: Arc<Channel>) -> Self {
        let id = channel.id.into();
        if !channel.lock().taken {
            // Our own; a flow of the peer's has begun with its first byte.
            shared.demux().begin(id, std::time::Instant::now());
        }
        Flow { stream: Stream::new(shared.clone(), channel), shared, id, over: false }
    }

    /// Sends a datagram. That it is sent says nothing about whether it arrives.
    pub fn send(&self, payload: &[u8]) -> Result<Sent, FlowError> {
        let connection = &self.shared.connection;
        let whole = datagram(self.id, payload);
        let displacing = connection.datagram_send_buffer_space() < whole.len();
        match connection.send_datagram(whole) {
            Ok(()) if displacing => Ok(Sent::Displacing),
            Ok(()) => Ok(Sent::Sent),
            Err(SendDatagramError::TooLarge) => Err(FlowError::TooBig { most: self.max() }),
            Err(_) => Err(FlowError::Ended),
        }
    }

    /// The largest payload that the path is known to carry now. It changes while the path is explored.
    pub fn max(&self) -> usize {
        self.shared.connection.max_datagram_size().unwrap_or(0).saturating_sub(length_of(self.id))
    }

    /// Waits for a datagram; `None` when the flow has ended. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Bytes> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The same, to be asked turn by turn.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(payload) = self.shared.demux().next(self.id, cx.waker()) {
            return Poll::Ready(Some(payload));
        }
        if self.over || self.poll_over(cx).is_ready() {
            self.over = true;
            return Poll::Ready(None);
        }
        Poll::Pending
    }

    /// Ready when the stream has ended, in whatever way.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut thrown_away = [0; 256];
        for _ in 0..THROWN_AWAY / thrown_away.len() {
            let mut buf = ReadBuf::new(&mut thrown_away);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Waits until the peer has taken the flow.
    ///
    /// # Errors
    /// It was refused, or has ended: see [`never_accepted`](crate::tunnel::never_accepted).
    pub async fn taken(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.stream.poll_taken(cx)).await
    }

    /// Datagrams that came and were dropped because nobody took them, since this was last asked.
    pub fn missed(&self) -> u64 {
        self.shared.demux().missed(self.id)
    }

    /// Ends it in order; the peer is told.
    pub fn end(&mut self) {
        self.over = true;
        // At once, or not at all.
        let _ = Pin::new(&mut self.stream).poll_shutdown(&mut Context::from_waker(std::task::Waker::noop()));
    }

    /// Its stream, on which something may be said before datagrams are.
    pub fn io(&mut self) -> &mut dyn Io {
        &mut self.stream
    }
}

/// Its stream, for whoever finds out later that it is a flow's.
impl AsyncRead for Flow {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Flow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Io for Flow {
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_read_ready(cx)
    }

    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_taken(cx)
    }

    fn reset(&mut self) {
        self.stream.reset();
    }

    fn into_tcp(self: Box<Self>) -> Result<TcpStream, BoxedIo> {
        Err(self)
    }

    fn as_any(&mut self) -> Option<&mut (dyn Any + Send)> {
        Some(self)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.shared.demux().end(self.id);
    }
}

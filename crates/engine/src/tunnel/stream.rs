//! One stream of a session, as a byte stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::mux::Fault;
use super::shared::Shared;
use super::{End, StreamReset};
use crate::io::Io;

/// A channel inside a session. Dropping one that has not ended in both directions resets it.
pub(super) struct Stream {
    shared: Arc<Shared>,
    id: u32,
    hard: bool,
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>, id: u32) -> Self {
        Stream { shared, id, hard: false }
    }
}

fn error(fault: Fault, end: Option<&End>) -> io::Error {
    match fault {
        Fault::Reset { accepted } => io::Error::new(io::ErrorKind::ConnectionReset, StreamReset { accepted }),
        Fault::Overrun => io::Error::new(io::ErrorKind::ConnectionAborted, "stream reset: too many unread bytes"),
        Fault::Finished => io::Error::new(io::ErrorKind::BrokenPipe, "the stream was shut down for writing"),
        Fault::SessionEnded => io::Error::new(io::ErrorKind::ConnectionAborted, end.cloned().unwrap_or(End::Reset)),
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let outcome = self.shared.with(|mux| {
            let outcome = mux.read(self.id, buf.initialize_unfilled());
            if outcome.is_pending() {
                mux.wait_read(self.id, cx.waker());
            }
            outcome.map_err(|fault| error(fault, mux.ended()))
        });
        let n = ready!(outcome)?;
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.with(|mux| {
            let outcome = mux.write(self.id, data);
            if outcome.is_pending() {
                mux.wait_write(self.id, cx.waker());
            }
            outcome.map_err(|fault| error(fault, mux.ended()))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was written leaves with the session's next message in any case.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.with(|mux| {
            let outcome = mux.finish(self.id);
            if outcome.is_pending() {
                mux.wait_write(self.id, cx.waker());
            }
            outcome.map_err(|fault| error(fault, mux.ended()))
        })
    }
}

impl Io for Stream {
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.with(|mux| {
            if mux.is_readable(self.id) {
                return Poll::Ready(());
            }
            mux.wait_read(self.id, cx.waker());
            Poll::Pending
        })
    }

    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.with(|mux| {
            let outcome = mux.taken(self.id);
            if outcome.is_pending() {
                mux.wait_read(self.id, cx.waker());
            }
            outcome.map_err(|fault| error(fault, mux.ended()))
        })
    }

    fn reset(&mut self) {
        self.hard = true;
    }

    fn into_tcp(self: Box<Self>) -> Result<tokio::net::TcpStream, crate::io::BoxedIo> {
        Err(self)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.with(|mux| mux.drop_stream(self.id, self.hard));
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({})", self.id)
    }
}

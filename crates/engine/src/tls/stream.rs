//! The byte stream that a finished handshake leaves, on either side.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use crate::io::{BoxedIo, Detached, Io, ended};

/// A TLS connection.
pub(super) struct Encrypted {
    stream: TlsStream<BoxedIo>,
    /// Bytes of the write under way that rustls has taken and the connection below has not, else 0.
    unflushed: usize,
}

impl Encrypted {
    /// A connection whose handshake is over.
    pub(super) fn new(stream: impl Into<TlsStream<BoxedIo>>) -> Self {
        Encrypted { stream: stream.into(), unflushed: 0 }
    }
}

impl Io for Encrypted {
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (io, tls) = self.stream.get_mut();
        // What has been received and decrypted already makes no socket readable again.
        if tls.wants_read() { io.poll_read_ready(cx) } else { Poll::Ready(()) }
    }

    fn reset(&mut self) {
        self.stream.get_mut().0.reset();
    }

    fn into_tcp(self: Box<Self>) -> Result<tokio::net::TcpStream, BoxedIo> {
        Err(self)
    }

    fn detach(mut self: Box<Self>) -> Result<Detached, BoxedIo> {
        let below = self.stream.get_mut().0;
        match std::mem::replace(below, ended()).detach() {
            Ok(detached) => Ok(detached.within(|io| {
                *self.stream.get_mut().0 = io;
                self
            })),
            Err(io) => {
                *self.stream.get_mut().0 = io;
                Err(self)
            }
        }
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Encrypted {
    /// Ready when the bytes are below, not only encrypted: nobody who writes to an [`Io`] flushes it, and a record that
    /// is left behind would wait for the next write. While this is pending the caller comes back with the same bytes.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.unflushed == 0 {
            self.unflushed = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut self.unflushed).min(bytes.len())))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

//! One TCP connection carried by one WebSocket: the byte stream of `/_piko/v1/tcp/NAME`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Decoder, Event, NORMAL, PROTOCOL_ERROR, Payload, RESERVE, Side, close, pong, seal};
use crate::io::{BUFFER_SIZE, BoxedIo, Buffer, Io};

/// A byte stream inside the messages of a WebSocket.
///
/// What was written leaves as far as the connection takes it; the rest follows with any later poll, reading included.
pub struct Channel {
    io: BoxedIo,
    side: Side,
    half_close: bool,
    decoder: Decoder,
    inbound: Buffer,
    /// Bytes at the front of `inbound` that are payload.
    payload: usize,
    outbound: Buffer,
    pong: Option<Payload>,
    /// The peer's close frame has come.
    read_closed: bool,
    /// What was wrong with what the peer sent.
    broken: Option<&'static str>,
    /// Our close frame has been written, or nothing may be written any more.
    write_closed: bool,
}

impl Channel {
    /// A byte stream over `io`, whose upgrade is done; `early` holds the bytes read behind it. With `half_close`, which
    /// both sides must have agreed on, a close frame ends one direction; without it, both.
    pub fn new(io: BoxedIo, early: Buffer, side: Side, half_close: bool) -> Self {
        Channel {
            io,
            side,
            half_close,
            decoder: Decoder::new(side),
            inbound: early,
            payload: 0,
            outbound: Buffer::new(),
            pong: None,
            read_closed: false,
            broken: None,
            write_closed: false,
        }
    }

    /// Finds payload in what has been read. Ready when there is some, or when there will be no more.
    fn poll_payload(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.payload == 0 && !self.read_closed {
            if let Some(reason) = self.broken {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, reason)));
            }
            if self.inbound.is_empty() && ready!(self.inbound.poll_fill(cx, &mut *self.io))? == 0 {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::ConnectionReset,
                    "the websocket ended without a close frame",
                )));
            }
            let (used, event) = match self.decoder.next(self.inbound.chunk_mut()) {
                Ok(found) => found,
                Err(reason) => {
                    self.broken = Some(reason);
                    self.inbound.release();
                    self.send_close(Some(PROTOCOL_ERROR));
                    continue;
                }
            };
            match event {
                Some(Event::Data(range)) => {
                    self.payload = range.len();
                    self.inbound.consume(range.start);
                    continue;
                }
                Some(Event::Ping(payload)) => self.pong = Some(payload),
                Some(Event::Close(close)) => {
                    self.read_closed = true;
                    if !self.half_close {
                        self.send_close(close.code);
                    }
                    self.inbound.release();
                    break;
                }
                None => {}
            }
            self.inbound.consume(used);
        }
        Poll::Ready(Ok(()))
    }

    fn send_close(&mut self, code: Option<u16>) {
        if !self.write_closed {
            self.write_closed = true;
            close(code, self.side, &mut self.outbound);
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.outbound.poll_drain(cx, &mut *self.io))?;
        if let Some(payload) = self.pong.take()
            && !self.write_closed
        {
            pong(&payload, self.side, &mut self.outbound);
            ready!(self.outbound.poll_drain(cx, &mut *self.io))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Lets what is to go out go on while only reading is asked for. Its errors show when writing is.
    fn push_out(&mut self, cx: &mut Context<'_>) {
        if !self.outbound.is_empty() || self.pong.is_some() {
            let _ = self.poll_drain(cx);
        }
    }
}

impl AsyncRead for Channel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let outcome = this.poll_payload(cx);
        this.push_out(cx);
        ready!(outcome)?;
        let n = this.payload.min(buf.remaining());
        if n > 0 {
            buf.put_slice(&this.inbound.chunk()[..n]);
            this.inbound.consume(n);
            this.payload -= n;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Channel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.write_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(this.poll_drain(cx))?;
        let n = data.len().min(BUFFER_SIZE - RESERVE);
        if n > 0 {
            this.outbound.extend(&[0; RESERVE]);
            this.outbound.extend(&data[..n]);
            seal(&mut this.outbound, this.side);
            if let Poll::Ready(outcome) = this.poll_drain(cx) {
                outcome?;
            }
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut *self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.send_close(Some(NORMAL));
        ready!(this.poll_drain(cx))?;
        ready!(Pin::new(&mut *this.io).poll_flush(cx))?;
        Poll::Ready(Ok(()))
    }
}

impl Io for Channel {
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.push_out(cx);
        if self.payload > 0 || self.read_closed || !self.inbound.is_empty() {
            return Poll::Ready(());
        }
        self.io.poll_read_ready(cx)
    }

    fn reset(&mut self) {
        self.io.reset();
    }

    fn into_tcp(self: Box<Self>) -> Result<tokio::net::TcpStream, BoxedIo> {
        Err(self)
    }
}

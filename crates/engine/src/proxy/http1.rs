//! One HTTP/1 connection, either side of it: heads and body parts in and out of a byte stream.
//!
//! Knows buffers and framing, not what a request means. Everything is polled, so that one task can move both directions
//! of an exchange without splitting the stream.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::http1::body::{Decoder, Encoder, What};
use crate::http1::framing::Framing;
use crate::http1::head::{self, HeadLimits};
use crate::http1::refusal::HeadError;
use crate::io::{BUFFER_SIZE, BoxedIo, Buffer, Io, ended};
use crate::message::{Fields, RequestHead, ResponseHead};
use crate::timer::Timer;

/// From this many bytes on, body data goes straight from one buffer to the other stream, without a copy.
const DIRECT: usize = 8 * 1024;

/// How long the last word on a connection or stream may take to be read, and the other side to end.
pub const LINGER: Duration = Duration::from_secs(2);

/// Why a connection can say no more.
#[derive(Debug)]
pub enum Stop {
    /// The stream failed.
    Io(io::Error),
    /// It ended in the middle of a message.
    Closed,
    /// It broke the rules of HTTP.
    Malformed(HeadError),
    /// It refused a message before it looked at it.
    Refused,
    /// A message of somebody else that cannot be said in the version it speaks.
    Unsayable(HeadError),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Io(error)
    }
}

impl From<HeadError> for Stop {
    fn from(error: HeadError) -> Self {
        Stop::Malformed(error)
    }
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stop::Io(error) => write!(f, "{error}"),
            Stop::Closed => f.write_str("closed in the middle of a message"),
            Stop::Malformed(why) | Stop::Unsayable(why) => f.write_str(why.detail()),
            Stop::Refused => f.write_str("refused before it was looked at"),
        }
    }
}

/// What comes next of a body.
pub enum Part {
    /// So many bytes at the front of what `data` shows.
    Data(usize),
    /// The fields after a chunked body.
    Trailers(Fields),
    /// The body is whole.
    End,
}

/// An HTTP/1 connection.
pub struct Http1 {
    io: BoxedIo,
    input: Buffer,
    output: Buffer,
    /// How far the input was searched for the end of a head.
    scanned: usize,
    decoder: Decoder,
    encoder: Encoder,
    /// The other side has sent its last byte.
    ended: bool,
    /// Bytes that went through, either way: whoever watches for progress compares it.
    pub moved: u64,
    /// Bytes that the other side has sent so far.
    pub received: u64,
}

impl Http1 {
    /// A connection on which `input` was already read.
    pub fn new(io: BoxedIo, input: Buffer) -> Self {
        Http1 {
            io,
            input,
            output: Buffer::new(),
            scanned: 0,
            decoder: Decoder::new(Framing::None, &HeadLimits { bytes: 0, fields: 0 }),
            encoder: Encoder::new(Framing::None),
            ended: false,
            moved: 0,
            received: 0,
        }
    }

    /// Waits for a request's head. `false`: the stream ended cleanly before one.
    pub fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut RequestHead,
        limits: &HeadLimits,
    ) -> Poll<Result<bool, Stop>> {
        self.poll_head(cx, |input, scanned| head::parse_request(input, scanned, head, limits))
    }

    /// Waits for a response's head, interim ones included. `false`: the stream ended cleanly before one.
    pub fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
        limits: &HeadLimits,
    ) -> Poll<Result<bool, Stop>> {
        self.poll_head(cx, |input, scanned| head::parse_response(input, scanned, head, limits))
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        mut parse: impl FnMut(&[u8], &mut usize) -> Result<Option<usize>, HeadError>,
    ) -> Poll<Result<bool, Stop>> {
        loop {
            if !self.input.is_empty()
                && let Some(length) = parse(self.input.chunk(), &mut self.scanned)?
            {
                self.input.consume(length);
                self.scanned = 0;
                return Poll::Ready(Ok(true));
            }
            if self.ended {
                return Poll::Ready(if self.input.is_empty() { Ok(false) } else { Err(Stop::Closed) });
            }
            ready!(self.poll_fill(cx))?;
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let n = ready!(self.input.poll_fill(cx, &mut *self.io))?;
        self.ended = n == 0;
        self.moved += n as u64;
        self.received += n as u64;
        Poll::Ready(Ok(()))
    }

    /// True when bytes of a next message have arrived.
    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Says how the body of the message whose head was read is framed.
    pub fn expect_body(&mut self, framing: Framing, limits: &HeadLimits) {
        self.decoder = Decoder::new(framing, limits);
    }

    /// Waits for the next part of the body that is being read.
    pub fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, Stop>> {
        loop {
            let step = self.decoder.decode(self.input.chunk())?;
            self.input.consume(step.skip);
            match step.what {
                What::Data(length) => return Poll::Ready(Ok(Part::Data(length))),
                What::Trailers(fields) => return Poll::Ready(Ok(Part::Trailers(fields))),
                What::End => return Poll::Ready(Ok(Part::End)),
                What::More if self.ended => {
                    self.decoder.finish().map_err(|_| Stop::Closed)?;
                    return Poll::Ready(Ok(Part::End));
                }
                What::More => ready!(self.poll_fill(cx))?,
            }
        }
    }

    /// What was read and not yet taken; a part of the body stands at its front.
    pub fn data(&self) -> &[u8] {
        self.input.chunk()
    }

    /// Takes `n` bytes of the part.
    pub fn took(&mut self, n: usize) {
        self.decoder.took(n);
        self.input.consume(n);
    }

    /// Drops what has arrived of the body that is being read. True when nothing of it is still to come.
    pub fn skip_arrived_body(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let mut skipped = 0;
        // More than a buffer of it is not worth the connection.
        while skipped <= BUFFER_SIZE
            && let Poll::Ready(Ok(part)) = self.poll_part(&mut cx)
        {
            match part {
                Part::Data(length) => {
                    skipped += length;
                    self.took(length);
                }
                Part::Trailers(_) => {}
                Part::End => return true,
            }
        }
        false
    }

    /// Queues a request's head; nothing is written before a flush.
    pub fn send_request(&mut self, head: &RequestHead, framing: Framing) {
        head::write_request(head, &mut self.output);
        self.encoder = Encoder::new(framing);
    }

    /// Queues a response's head; nothing is written before a flush.
    pub fn send_response(&mut self, head: &ResponseHead, framing: Framing) {
        head::write_response(head, &mut self.output);
        self.encoder = Encoder::new(framing);
    }

    /// Queues an interim response; the answer itself is still to come.
    pub fn send_interim(&mut self, head: &ResponseHead) {
        head::write_response(head, &mut self.output);
    }

    /// Queues bytes that are a whole message already.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.output.extend(bytes);
        self.encoder = Encoder::new(Framing::None);
    }

    /// Queues body data as far as there is room; says how much was taken.
    pub fn poll_data(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, Stop>> {
        if data.len() >= DIRECT && self.encoder.passthrough() {
            ready!(self.poll_flush(cx))?;
            let n = ready!(Pin::new(&mut *self.io).poll_write(cx, data))?;
            // Nothing stands in front of such data: this only counts it.
            self.encoder.before_data(n, &mut self.output)?;
            self.moved += n as u64;
            return Poll::Ready(Ok(n));
        }
        if self.output.len() >= BUFFER_SIZE {
            ready!(self.poll_flush(cx))?;
        }
        let n = data.len().min(BUFFER_SIZE);
        self.encoder.data(&data[..n], &mut self.output)?;
        Poll::Ready(Ok(n))
    }

    /// Ends the body that is being written.
    pub fn end_body(&mut self, trailers: Option<&Fields>) -> Result<(), Stop> {
        Ok(self.encoder.end(trailers, &mut self.output)?)
    }

    /// True when the body that is being written is whole.
    pub fn body_sent(&self) -> bool {
        self.encoder.is_done()
    }

    /// Writes what is queued.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = self.output.len();
        let outcome = self.output.poll_drain(cx, &mut *self.io);
        self.moved += (before - self.output.len()) as u64;
        outcome
    }

    /// True when nothing is queued.
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// Ready when the other side has left. Bytes that arrive meanwhile are kept, up to a buffer of them.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.ended && self.input.len() < BUFFER_SIZE {
            if ready!(self.poll_fill(cx)).is_err() {
                self.ended = true;
            }
        }
        if self.ended { Poll::Ready(()) } else { Poll::Pending }
    }

    /// True when a new message may be sent on this kept connection: all is quiet and nobody has left.
    pub fn is_quiet(&mut self) -> bool {
        !self.ended && self.input.is_empty() && self.output.is_empty() && self.io.is_quiet()
    }

    /// Lets the other side know that nothing more comes.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }

    /// Drops what arrives; ready at the end of the stream.
    pub fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.ended {
            self.input.release();
            if ready!(self.poll_fill(cx)).is_err() {
                self.ended = true;
            }
        }
        Poll::Ready(())
    }

    /// Says the last word that is queued, ends our direction, and reads on until the other side ends too: a reset would
    /// overtake what it has not read. One that does not end in time is closed.
    pub async fn part(&mut self, timer: &mut Timer) {
        let until = Instant::now() + LINGER;
        poll_fn(|cx| {
            // Ended in order or not: either way only what is still being sent is left to drop.
            let _ = self.poll_shutdown(cx);
            let gone = self.poll_discard(cx);
            if gone.is_ready() { gone } else { timer.poll_until(cx, until) }
        })
        .await;
    }

    /// Makes the end of this connection a broken one, so that the other side does not take half a message for a whole.
    pub fn reset(&mut self) {
        self.io.reset();
    }

    /// The stream, to be looked at.
    pub fn io(&mut self) -> &mut dyn Io {
        &mut *self.io
    }

    /// Takes the stream and the bytes read from it; what is left of the connection is at its end.
    pub fn take_stream(&mut self) -> (BoxedIo, Buffer) {
        self.ended = true;
        self.output.release();
        (std::mem::replace(&mut self.io, ended()), std::mem::take(&mut self.input))
    }

    /// The stream itself, with the bytes read and not taken and those queued and not written.
    pub fn into_parts(self) -> (BoxedIo, Buffer, Buffer) {
        (self.io, self.input, self.output)
    }
}

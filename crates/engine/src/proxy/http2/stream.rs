//! One message exchange of an HTTP/2 connection, either side of it: polled like a connection of HTTP/1.
//!
//! Whatever is queued here is on its way as soon as the task that drives the connection runs.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};

use super::super::http1::{Part, Stop};
use super::channel::Lease;
use super::held::{Held, Piece};
use crate::http1::framing::Framing;
use crate::http1::head::HeadLimits;
use crate::http1::refusal::HeadError::Malformed;
use crate::http2::head;
use crate::io::BUFFER_SIZE;
use crate::message::{Fields, RequestHead, ResponseHead};

/// A connection that has brought nothing at all for so long, while an answer was awaited, gets no new requests when
/// that one is given up.
const SILENT: Duration = Duration::from_secs(1);

/// How long the end of a stream may come behind its last byte.
const END: Duration = Duration::from_secs(1);

/// One stream.
pub struct Stream {
    arriving: Arriving,
    /// Data that arrived and was not taken.
    data: Bytes,
    leaving: Leaving,
    /// Data that left us and is not yet queued: with it the end of the body may go in one frame.
    last: Option<Bytes>,
    /// What the body that is being written still lacks, where its length was said.
    lacking: Option<u64>,
    /// The body that is being written is whole.
    sent: bool,
    /// The other side has to read before more of it can leave.
    starved: bool,
    /// When a request was sent, and what its connection had brought by then.
    asked: Option<(Instant, u64)>,
    held: Arc<Held>,
    limits: HeadLimits,
    /// Bytes of bodies that went through, either way: whoever watches for progress compares it.
    pub moved: u64,
    /// Bytes that the other side has sent so far; a head counts as one.
    pub received: u64,
}

/// Where the message is that the other side sends.
enum Arriving {
    /// Its head is awaited.
    Head(ResponseFuture),
    Body(RecvStream),
    /// Its data is whole.
    Trailers(RecvStream),
    /// Nothing is to come.
    Ended,
}

/// Where the message is that we send.
enum Leaving {
    /// A request, when there is one.
    Request(Lease),
    /// A request that could not be sent.
    Failed(Option<Stop>),
    /// A response, when there is one.
    Response(SendResponse<Piece>),
    /// Its body. A lease counts the stream until it has ended.
    Body(SendStream<Piece>, Option<Lease>),
}

impl Stream {
    /// A stream that a peer opened; the head of its request has been taken from it.
    pub fn accepted(request: RecvStream, response: SendResponse<Piece>, held: Arc<Held>, limits: &HeadLimits) -> Self {
        Stream::new(Arriving::Body(request), Leaving::Response(response), held, limits)
    }

    /// A stream that begins with the request that is sent on it.
    pub fn opened(lease: Lease, limits: &HeadLimits) -> Self {
        let held = lease.held().clone();
        Stream::new(Arriving::Ended, Leaving::Request(lease), held, limits)
    }

    fn new(arriving: Arriving, leaving: Leaving, held: Arc<Held>, limits: &HeadLimits) -> Self {
        Stream {
            arriving,
            data: Bytes::new(),
            leaving,
            last: None,
            lacking: None,
            sent: false,
            starved: false,
            asked: None,
            held,
            limits: *limits,
            moved: 0,
            received: 0,
        }
    }

    /// True when nothing follows what has been read.
    pub fn has_ended(&self) -> bool {
        match &self.arriving {
            Arriving::Head(_) => false,
            Arriving::Body(body) | Arriving::Trailers(body) => self.data.is_empty() && body.is_end_stream(),
            Arriving::Ended => true,
        }
    }

    /// Waits for a response's head, interim ones included.
    pub fn poll_response(&mut self, cx: &mut Context<'_>, to: &mut ResponseHead) -> Poll<Result<bool, Stop>> {
        if let Leaving::Failed(stop) = &mut self.leaving {
            return Poll::Ready(Err(stop.take().unwrap_or(Stop::Closed)));
        }
        let Arriving::Head(response) = &mut self.arriving else { return Poll::Ready(Err(Stop::Closed)) };
        let interim = match response.poll_informational(cx) {
            Poll::Ready(Some(Ok(interim))) => Some(interim),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(stop_of(error))),
            Poll::Ready(None) => None,
            Poll::Pending => return Poll::Pending,
        };
        let parts = match interim {
            Some(interim) => interim.into_parts().0,
            None => {
                let (parts, body) = ready!(Pin::new(response).poll(cx)).map_err(stop_of)?.into_parts();
                self.arriving = Arriving::Body(body);
                parts
            }
        };
        self.moved += 1;
        self.received += 1;
        if parts.status == http::StatusCode::SWITCHING_PROTOCOLS {
            return Poll::Ready(Err(Stop::Malformed(Malformed("101 in HTTP/2"))));
        }
        head::response_from(&parts, to, &self.limits)?;
        Poll::Ready(Ok(true))
    }

    /// Waits for the next part of the body that is being read.
    pub fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, Stop>> {
        loop {
            if !self.data.is_empty() {
                return Poll::Ready(Ok(Part::Data(self.data.len())));
            }
            match &mut self.arriving {
                Arriving::Head(_) => return Poll::Ready(Err(Stop::Closed)),
                Arriving::Ended => return Poll::Ready(Ok(Part::End)),
                Arriving::Body(body) => match ready!(body.poll_data(cx)) {
                    Some(Ok(data)) => {
                        self.moved += data.len() as u64;
                        self.received += data.len() as u64;
                        self.data = data;
                    }
                    Some(Err(error)) => return Poll::Ready(Err(stop_of(error))),
                    None => {
                        if let Arriving::Body(body) = std::mem::replace(&mut self.arriving, Arriving::Ended) {
                            self.arriving = Arriving::Trailers(body);
                        }
                    }
                },
                Arriving::Trailers(body) => {
                    let trailers = ready!(body.poll_trailers(cx)).map_err(stop_of)?;
                    self.arriving = Arriving::Ended;
                    if let Some(trailers) = trailers {
                        let fields = head::trailers_from(&trailers, &self.limits)?;
                        if !fields.is_empty() {
                            return Poll::Ready(Ok(Part::Trailers(fields)));
                        }
                    }
                }
            }
        }
    }

    /// What has arrived of a part.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Takes `n` bytes of the part: the other side may send as many again.
    pub fn took(&mut self, n: usize) {
        self.data.advance(n);
        if let Arriving::Body(body) = &mut self.arriving {
            // Refused only for more than there was.
            let _ = body.flow_control().release_capacity(n);
        }
    }

    /// Opens the stream with a request. Where that fails, the response's head says so.
    pub fn send_request(&mut self, head: &RequestHead, framing: Framing) {
        let ended = self.begin(framing);
        let Leaving::Request(lease) = &self.leaving else { return };
        let sent = head::request_to(head, lease.is_tls()).map_err(Stop::Unsayable).and_then(|request: Request<()>| {
            // A connection that takes no more streams took no byte of this one.
            lease.send(request, ended).map_err(|_| Stop::Refused)
        });
        match (sent, std::mem::replace(&mut self.leaving, Leaving::Failed(None))) {
            (Ok((response, body)), Leaving::Request(lease)) => {
                self.arriving = Arriving::Head(response);
                self.asked = Some((Instant::now(), lease.heard()));
                self.leaving = Leaving::Body(body, Some(lease));
            }
            (Err(stop), _) => self.leaving = Leaving::Failed(Some(stop)),
            (Ok(_), _) => {}
        }
    }

    /// Sends a response's head.
    pub fn send_response(&mut self, head: &ResponseHead, framing: Framing) {
        let ended = self.begin(framing);
        let Leaving::Response(response) = &mut self.leaving else { return };
        let sent = head::response_to(head)
            .map_err(Stop::Malformed)
            .and_then(|head: Response<()>| response.send_response(head, ended).map_err(stop_of));
        self.leaving = match sent {
            Ok(body) => Leaving::Body(body, None),
            Err(stop) => Leaving::Failed(Some(stop)),
        };
    }

    /// Notes how the body is framed that follows a head. True where there is none.
    fn begin(&mut self, framing: Framing) -> bool {
        self.lacking = match framing {
            Framing::Length(n) => Some(n),
            _ => None,
        };
        self.sent = matches!(framing, Framing::None | Framing::Length(0));
        self.sent
    }

    /// Sends an interim response; the answer itself is still to come.
    pub fn send_interim(&mut self, head: &ResponseHead) {
        if let (Leaving::Response(response), Ok(head)) = (&mut self.leaving, head::response_to(head)) {
            // A downstream that has left is met when the answer is sent.
            let _ = response.send_informational(head);
        }
    }

    /// Sends a response whose body is in memory already.
    pub fn send_whole(&mut self, head: &ResponseHead, body: &[u8]) {
        self.send_response(head, Framing::Length(body.len() as u64));
        if let Leaving::Body(to, _) = &mut self.leaving
            && !self.sent
        {
            self.sent = true;
            let _ = to.send_data(Piece::new(Bytes::copy_from_slice(body), &self.held), true);
        }
    }

    /// Queues body data as far as there is room; says how much was taken.
    pub fn poll_data(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, Stop>> {
        self.hand_over()?;
        self.starved = true;
        ready!(self.held.poll_room(cx));
        let Leaving::Body(body, _) = &mut self.leaving else { return Poll::Ready(Err(self.failure())) };
        let wanted = data.len().min(BUFFER_SIZE);
        body.reserve_capacity(wanted);
        while body.capacity() == 0 {
            match ready!(body.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(stop_of(error))),
                None => return Poll::Ready(Err(Stop::Closed)),
            }
        }
        self.starved = false;
        let n = wanted.min(body.capacity());
        if let Some(lacking) = &mut self.lacking {
            *lacking = lacking.checked_sub(n as u64).ok_or(Malformed("the body is longer than its Content-Length"))?;
        }
        self.last = Some(Bytes::copy_from_slice(&data[..n]));
        self.moved += n as u64;
        Poll::Ready(Ok(n))
    }

    /// Queues the data that was kept for the end of the body to join it.
    fn hand_over(&mut self) -> Result<(), Stop> {
        let Some(last) = self.last.take() else { return Ok(()) };
        let Leaving::Body(body, _) = &mut self.leaving else { return Ok(()) };
        body.send_data(Piece::new(last, &self.held), false).map_err(stop_of)
    }

    fn failure(&mut self) -> Stop {
        match &mut self.leaving {
            Leaving::Failed(stop) => stop.take().unwrap_or(Stop::Closed),
            _ => Stop::Closed,
        }
    }

    /// Ends the body that is being written.
    pub fn end_body(&mut self, trailers: Option<&Fields>) -> Result<(), Stop> {
        if self.sent {
            return Ok(());
        }
        if self.lacking.is_some_and(|lacking| lacking > 0) {
            return Err(Malformed("the body is shorter than its Content-Length").into());
        }
        if trailers.is_some() {
            self.hand_over()?;
        }
        let Leaving::Body(body, _) = &mut self.leaving else { return Err(self.failure()) };
        self.sent = true;
        match trailers {
            Some(trailers) => body.send_trailers(head::trailers_to(trailers)).map_err(stop_of),
            None => {
                let last = self.last.take().unwrap_or_default();
                body.send_data(Piece::new(last, &self.held), true).map_err(stop_of)
            }
        }
    }

    /// True when the body that is being written is whole.
    pub fn body_sent(&self) -> bool {
        self.sent
    }

    /// Ready when what is queued is no more than a connection may hold.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        self.hand_over()?;
        self.held.poll_room(cx).map(Ok)
    }

    /// True when nothing waits for the other side to read.
    pub fn is_flushed(&self) -> bool {
        self.last.is_none() && !self.starved && self.held.has_room()
    }

    /// Ready when the other side has given the stream up, or has left.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.leaving {
            Leaving::Response(response) => response.poll_reset(cx).map(drop),
            Leaving::Body(body, _) => body.poll_reset(cx).map(drop),
            Leaving::Request(_) | Leaving::Failed(_) => Poll::Ready(()),
        }
    }

    /// Waits a moment for the end of what the other side sends: a stream that is dropped before it looks given up.
    pub async fn finish(mut self: Box<Self>) {
        let mut passed = 0;
        let ended = std::future::poll_fn(|cx| {
            while passed <= BUFFER_SIZE {
                match ready!(self.poll_part(cx)) {
                    Ok(Part::Data(length)) => {
                        passed += length;
                        self.took(length);
                    }
                    Ok(Part::Trailers(_)) => {}
                    Ok(Part::End) | Err(_) => break,
                }
            }
            Poll::Ready(())
        });
        // One that goes on is given up.
        let _ = tokio::time::timeout(END, ended).await;
    }

    /// Gives the stream up, so that the other side does not take half a message for a whole.
    pub fn reset(&mut self) {
        match &mut self.leaving {
            Leaving::Response(response) => response.send_reset(Reason::INTERNAL_ERROR),
            Leaving::Body(body, None) => body.send_reset(Reason::INTERNAL_ERROR),
            Leaving::Body(body, Some(_)) => body.send_reset(Reason::CANCEL),
            Leaving::Request(_) | Leaving::Failed(_) => {}
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let (Leaving::Body(_, Some(lease)), Some((since, heard))) = (&self.leaving, self.asked) else { return };
        if lease.heard() == heard && since.elapsed() >= SILENT {
            lease.retire();
        }
    }
}

/// What an error of `h2` means for an exchange.
fn stop_of(error: h2::Error) -> Stop {
    if error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM)) {
        // A stream beyond the last one that a GOAWAY names was not looked at, nor one refused (RFC 9113 §8.7).
        return Stop::Refused;
    }
    if error.is_library() {
        return Stop::Malformed(Malformed("a message that breaks RFC 9113"));
    }
    match error.into_io() {
        Some(error) => Stop::Io(error),
        None => Stop::Closed,
    }
}

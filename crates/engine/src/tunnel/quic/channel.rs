//! The two halves of a stream, as its handle and the session's driver see them.

use std::pin::{Pin, pin};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::{Buf, Bytes};
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, StreamId, VarInt, WriteError};
use tokio::io::ReadBuf;

use super::codes::{OVERRUN, REFUSED, RESET};

/// The most that is read ahead of whoever asks whether there is something to read.
const AHEAD: usize = 64 * 1024;
/// The first byte of a stream that is taken.
pub(super) const TAKEN: u8 = 0;

/// One stream. The lock is held for the time of a copy.
pub(super) struct Channel {
    /// Its number on the wire.
    pub(super) id: StreamId,
    halves: Mutex<Halves>,
}

/// How reading or writing has ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    /// The peer has said all it had to say.
    Finished,
    /// The peer has reset the stream, or wants no more of it.
    Reset {
        /// False where it is certain that it never took it.
        accepted: bool,
    },
    /// We have reset it: nobody has read it.
    Overrun,
    /// The peer has answered the stream with something unknown.
    Broken,
    /// The connection is gone.
    Lost(ConnectionError),
}

pub(super) struct Halves {
    /// Gone when both directions have ended.
    pub(super) send: Option<SendStream>,
    recv: RecvStream,
    /// Read, and not yet taken.
    pub(super) ahead: Bytes,
    /// The peer has taken the stream, or we have.
    pub(super) taken: bool,
    /// It counts among those that the peer has not answered yet.
    pub(super) awaited: bool,
    /// The peer was seen to want no more of it before it had taken it.
    stopped: bool,
    /// We have said all we had to say.
    pub(super) finished: bool,
    /// How reading has ended.
    pub(super) over: Option<Fate>,
    /// The session's books know it.
    pub(super) booked: bool,
    /// Who waits to read.
    reader: Option<Waker>,
    /// Who waits to write.
    writer: Option<Waker>,
    /// Since when bytes have waited that nobody reads, as far as somebody has looked.
    pub(super) unread_since: Option<Instant>,
}

impl Channel {
    /// `taken`: the peer's answer is not waited for.
    pub(super) fn new(send: SendStream, recv: RecvStream, taken: bool) -> Self {
        let id = send.id();
        let halves = Halves {
            send: Some(send),
            recv,
            ahead: Bytes::new(),
            taken,
            awaited: !taken,
            stopped: false,
            finished: false,
            over: None,
            booked: false,
            reader: None,
            writer: None,
            unread_since: None,
        };
        Channel { id, halves: Mutex::new(halves) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Halves> {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Halves {
    /// Ready when the peer has taken the stream or reading has ended.
    pub(super) fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.taken || self.over.is_some() {
            return Poll::Ready(());
        }
        let mut byte = [1];
        let mut buf = ReadBuf::new(&mut byte);
        match self.recv.poll_read_buf(cx, &mut buf) {
            Poll::Pending => {
                self.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(Err(error)) => self.over = Some(self.fate_of_reading(error)),
            Poll::Ready(Ok(())) if buf.filled() == [TAKEN] => self.taken = true,
            Poll::Ready(Ok(())) => self.over = Some(Fate::Broken),
        }
        Poll::Ready(())
    }

    /// Ready when there is something to take, or reading has ended.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_taken(cx));
        if !self.ahead.is_empty() || self.over.is_some() {
            return Poll::Ready(());
        }
        let outcome = pin!(self.recv.read_chunk(AHEAD, true)).poll(cx);
        match outcome {
            Poll::Pending => {
                self.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(Ok(Some(chunk))) => self.ahead = chunk.bytes,
            Poll::Ready(Ok(None)) => self.over = Some(Fate::Finished),
            Poll::Ready(Err(error)) => self.over = Some(self.fate_of_reading(error)),
        }
        Poll::Ready(())
    }

    /// Fills `buf`, which has room, with what is there. Ready without a byte when reading has ended.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<()> {
        ready!(self.poll_taken(cx));
        self.unread_since = None;
        let n = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..n]);
        self.ahead.advance(n);
        if buf.remaining() == 0 || self.over.is_some() {
            return Poll::Ready(());
        }
        let before = buf.filled().len();
        match self.recv.poll_read_buf(cx, buf) {
            Poll::Pending => {
                self.reader = Some(cx.waker().clone());
                if n == 0 {
                    return Poll::Pending;
                }
            }
            Poll::Ready(Err(error)) => self.over = Some(self.fate_of_reading(error)),
            Poll::Ready(Ok(())) if buf.filled().len() == before => self.over = Some(Fate::Finished),
            Poll::Ready(Ok(())) => {}
        }
        Poll::Ready(())
    }

    /// Writes what the stream takes now.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, Fate>> {
        let stopped = |taken: bool, code| Fate::Reset { accepted: taken || code != REFUSED };
        let Some(send) = &mut self.send else { return Poll::Ready(Err(Fate::Reset { accepted: true })) };
        match Pin::new(&mut *send).poll_write(cx, data) {
            Poll::Ready(Ok(n)) => Poll::Ready(Ok(n)),
            Poll::Ready(Err(WriteError::Stopped(code))) => Poll::Ready(Err(stopped(self.taken, code))),
            Poll::Ready(Err(WriteError::ConnectionLost(error))) => Poll::Ready(Err(Fate::Lost(error))),
            Poll::Ready(Err(_)) => Poll::Ready(Err(Fate::Reset { accepted: true })),
            // While the connection takes nothing at all, `quinn` does not tell that the peer wants no more.
            Poll::Pending => match pin!(send.stopped()).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(Some(code))) => Poll::Ready(Err(stopped(self.taken, code))),
                _ => {
                    self.writer = Some(cx.waker().clone());
                    Poll::Pending
                }
            },
        }
    }

    /// Looks whether bytes wait that nobody reads, and since when. Whoever waits to read is still woken.
    pub(super) fn look(&mut self, now: Instant) -> Option<Instant> {
        let waker = self.reader.clone().unwrap_or_else(|| Waker::noop().clone());
        if self.over.is_none() && self.ahead.is_empty() {
            let _ = self.poll_ahead(&mut Context::from_waker(&waker));
        }
        if self.ahead.is_empty() {
            return None;
        }
        Some(*self.unread_since.get_or_insert(now))
    }

    /// Ends a stream that the peer has stopped and not taken. What it has said may come after that it listens no more:
    /// unless it has refused the stream, it has until the next look.
    pub(super) fn give_up_stopped(&mut self) {
        let Some(send) = self.send.as_ref().filter(|_| !self.taken && self.over.is_none()) else { return };
        let mut now = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(Some(code))) = pin!(send.stopped()).poll(&mut now) else { return };
        if code == REFUSED || std::mem::replace(&mut self.stopped, true) {
            self.fail(Fate::Reset { accepted: code != REFUSED });
        }
    }

    /// Ends both directions because nobody reads, and gives up what has come.
    pub(super) fn overrun(&mut self) {
        self.abort(OVERRUN);
        self.fail(Fate::Overrun);
    }

    /// Ends with the session; what has been said is given back, to be sent to the end.
    pub(super) fn part(&mut self) -> Option<SendStream> {
        let said = if self.finished { self.send.take() } else { None };
        self.abort(RESET);
        self.fail(Fate::Lost(ConnectionError::LocallyClosed));
        said
    }

    fn fail(&mut self, fate: Fate) {
        self.ahead = Bytes::new();
        self.over = Some(fate);
        for waiting in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waiting.wake();
        }
    }

    /// Ends with this code what has not ended.
    pub(super) fn abort(&mut self, code: VarInt) {
        // What has ended already is none the worse for it.
        if let Some(send) = &mut self.send {
            let _ = send.reset(code);
        }
        self.stop(code);
    }

    /// Wants no more of the peer.
    pub(super) fn stop(&mut self, code: VarInt) {
        if self.over.is_none() {
            let _ = self.recv.stop(code);
        }
    }

    fn fate_of_reading(&self, error: ReadError) -> Fate {
        match error {
            ReadError::Reset(code) => Fate::Reset { accepted: self.taken || code != REFUSED },
            ReadError::ConnectionLost(error) => Fate::Lost(error),
            ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
                Fate::Reset { accepted: true }
            }
        }
    }
}

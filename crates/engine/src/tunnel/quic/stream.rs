//! A stream of a session, as a byte stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::channel::{Channel, Fate, Halves};
use super::codes::{RESET, end_of};
use super::shared::Shared;
use crate::io::{BoxedIo, Io};
use crate::tunnel::StreamReset;

/// A channel inside a session. Dropping one that has not ended in both directions resets it.
pub(in crate::tunnel) struct Stream {
    shared: Arc<Shared>,
    channel: Arc<Channel>,
    hard: bool,
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>, channel: Arc<Channel>) -> Self {
        Stream { shared, channel, hard: false }
    }

    /// Uses the halves, then does the session's books.
    fn with<T>(&self, f: impl FnOnce(&mut Halves) -> T) -> T {
        let mut halves = self.channel.lock();
        let value = f(&mut halves);
        if halves.over.is_some() && !std::mem::replace(&mut halves.booked, true) {
            self.read_out(&mut halves);
        }
        if halves.awaited && halves.taken {
            self.answered(&mut halves);
        }
        value
    }

    /// Reading has just ended.
    fn read_out(&self, halves: &mut Halves) {
        if matches!(halves.over, Some(Fate::Reset { .. })) {
            self.shared.lock().stats.resets_in += 1;
        }
        if halves.over == Some(Fate::Broken) {
            self.shared.broken("a stream was taken with an unknown word");
        }
        self.answered(halves);
        self.both_ended(halves);
    }

    /// Nobody waits for the peer's answer any more.
    fn answered(&self, halves: &mut Halves) {
        if std::mem::take(&mut halves.awaited) && self.shared.lock().heard_of_one() {
            self.shared.changed.notify_waiters();
        }
    }

    fn both_ended(&self, halves: &mut Halves) {
        if halves.finished
            && halves.over.is_some()
            && let Some(send) = halves.send.take()
        {
            let mut state = self.shared.lock();
            state.channels.remove(&self.channel.id);
            state.linger(send);
        }
    }

    fn error(&self, fate: Fate) -> io::Error {
        match fate {
            Fate::Reset { accepted } => io::Error::new(io::ErrorKind::ConnectionReset, StreamReset { accepted }),
            Fate::Overrun => io::Error::new(io::ErrorKind::ConnectionAborted, "stream reset: too many unread bytes"),
            Fate::Finished => io::ErrorKind::UnexpectedEof.into(),
            Fate::Broken => io::Error::new(io::ErrorKind::ConnectionReset, StreamReset { accepted: true }),
            Fate::Lost(error) => {
                let end = self.shared.lock().end.clone();
                io::Error::new(io::ErrorKind::ConnectionAborted, end.unwrap_or_else(|| end_of(&error)))
            }
        }
    }

    /// How the stream has ended, where that leaves nothing to write either.
    fn broken(halves: &Halves) -> Option<Fate> {
        halves.over.clone().filter(|fate| *fate != Fate::Finished)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let outcome = self.with(|halves| halves.poll_read(cx, buf).map(|()| halves.over.clone()));
        match ready!(outcome) {
            Some(fate) if fate != Fate::Finished && buf.filled().len() == before => Poll::Ready(Err(self.error(fate))),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = self.with(|halves| {
            if halves.finished {
                return Poll::Ready(Ok(None));
            }
            if let Some(fate) = Stream::broken(halves) {
                return Poll::Ready(Err(fate));
            }
            halves.poll_write(cx, data).map_ok(Some)
        });
        Poll::Ready(match ready!(outcome) {
            Ok(Some(n)) => Ok(n),
            Ok(None) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the stream was shut down for writing")),
            Err(fate) => Err(self.error(fate)),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was written leaves as soon as the path takes it, in any case.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = self.with(|halves| {
            if let (Some(fate), false) = (Stream::broken(halves), halves.finished) {
                return Err(fate);
            }
            if let (Some(send), false) = (&mut halves.send, halves.finished) {
                // The only mistake is that it has ended already.
                let _ = send.finish();
            }
            halves.finished = true;
            self.both_ended(halves);
            Ok(())
        });
        Poll::Ready(outcome.map_err(|fate| self.error(fate)))
    }
}

impl Io for Stream {
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.with(|halves| halves.poll_ahead(cx))
    }

    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome =
            self.with(|halves| halves.poll_taken(cx).map(|()| if halves.taken { None } else { halves.over.clone() }));
        Poll::Ready(match ready!(outcome) {
            Some(fate) => Err(self.error(fate)),
            None => Ok(()),
        })
    }

    fn reset(&mut self) {
        self.hard = true;
    }

    fn into_tcp(self: Box<Self>) -> Result<tokio::net::TcpStream, BoxedIo> {
        Err(self)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut halves = self.channel.lock();
        self.answered(&mut halves);
        if halves.send.is_none() {
            return;
        }
        let whole = halves.finished && !self.hard;
        // Dropping what `quinn` has for it would end it as if all had been said.
        if whole {
            halves.stop(RESET)
        } else {
            halves.abort(RESET)
        }
        let mut state = self.shared.lock();
        state.channels.remove(&self.channel.id);
        if matches!(halves.over, None | Some(Fate::Finished)) {
            state.stats.resets_out += 1;
        }
        if whole && let Some(send) = halves.send.take() {
            state.linger(send);
        }
    }
}

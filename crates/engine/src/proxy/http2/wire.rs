//! The byte stream below an HTTP/2 connection: one write a turn, and an eye on what passes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http2::frames::{Account, Flood};
use crate::io::{BUFFER_SIZE, BoxedIo, Buffer, WithEarly};

/// What a client says before its first frame (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// As much of it as looks like a head of HTTP/1.
pub const PREFACE_HEAD: &[u8] = PREFACE.split_at(18).0;

/// Bytes that every client owes at once: those, and no less than the header of its SETTINGS.
pub const FIRST_WORDS: u64 = PREFACE.len() as u64 + 9;

/// What whoever drives a connection sees of its wire.
#[derive(Default)]
pub struct Watch {
    received: AtomicU64,
    blocked: AtomicBool,
    /// When the socket took bytes last, while it does not take all.
    blocked_since: Mutex<Option<Instant>>,
    flood: Mutex<Option<Flood>>,
}

impl Watch {
    /// Bytes that the peer has sent so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// For how long the peer has taken no byte of what waits.
    pub fn blocked_for(&self) -> Option<Duration> {
        if !self.blocked.load(Ordering::Relaxed) {
            return None;
        }
        self.blocked_since.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }

    /// What the peer sends too much of.
    pub fn flood(&self) -> Option<Flood> {
        *self.flood.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_blocked(&self, since: Option<Instant>) {
        self.blocked.store(since.is_some(), Ordering::Relaxed);
        *self.blocked_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// A byte stream that `h2` reads and writes.
pub struct Wire {
    io: WithEarly<BoxedIo>,
    output: Buffer,
    account: Option<Account>,
    watch: Arc<Watch>,
    flooded: bool,
}

impl Wire {
    /// The wire of a connection that the peer opened; `early` was read from it already. What a `trusted` peer sends is
    /// not counted: it speaks for many, of whom each was counted where it came in.
    pub fn accepted(io: BoxedIo, early: Buffer, trusted: bool) -> (Self, Arc<Watch>) {
        Wire::new(WithEarly::new(early, io), (!trusted).then(|| Account::of_downstream(PREFACE.len(), Instant::now())))
    }

    /// The wire of a connection that we opened.
    pub fn opened(io: BoxedIo) -> (Self, Arc<Watch>) {
        let account = Account::of_upstream(PREFACE.len(), Instant::now());
        Wire::new(WithEarly::new(Buffer::new(), io), Some(account))
    }

    fn new(io: WithEarly<BoxedIo>, account: Option<Account>) -> (Self, Arc<Watch>) {
        let watch = Arc::new(Watch::default());
        (Wire { io, output: Buffer::new(), account, watch: watch.clone(), flooded: false }, watch)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = self.output.len();
        let outcome = self.output.poll_drain(cx, &mut self.io);
        let moved = self.output.len() != before;
        match outcome {
            Poll::Pending if moved || !self.watch.blocked.load(Ordering::Relaxed) => {
                self.watch.set_blocked(Some(Instant::now()));
            }
            Poll::Pending => {}
            Poll::Ready(_) if self.watch.blocked.load(Ordering::Relaxed) => self.watch.set_blocked(None),
            Poll::Ready(_) => {}
        }
        outcome
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if me.flooded {
            // Whoever drives the connection looks at the watch when this turn ends, and ends it.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut me.io).poll_read(cx, buf))?;
        let arrived = &buf.filled()[before..];
        me.watch.received.fetch_add(arrived.len() as u64, Ordering::Relaxed);
        if let Some(account) = &mut me.account
            && let Err(flood) = account.arrived(arrived, Instant::now)
        {
            me.flooded = true;
            *me.watch.flood.lock().unwrap_or_else(PoisonError::into_inner) = Some(flood);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        if me.output.len() >= BUFFER_SIZE {
            ready!(me.poll_drain(cx))?;
        }
        // The buffer stays one that is pooled.
        let n = bytes.len().min(BUFFER_SIZE - me.output.len());
        if let Some(account) = &mut me.account {
            account.left(&bytes[..n]);
        }
        me.output.extend(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        ready!(me.poll_drain(cx))?;
        Pin::new(&mut me.io).poll_shutdown(cx)
    }
}

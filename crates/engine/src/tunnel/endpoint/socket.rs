//! One worker's socket of an address that all workers share: what belongs to another worker goes to it.
//!
//! Whose a datagram is says `route`. What cannot be handed on at once is dropped and counted: to its connection it is
//! one that the network has lost.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::ids::Key;
use super::route::owner;
use crate::metrics::Page;

/// Receptions that wait for a worker, of at most 64 datagrams each.
const WAITING: usize = 256;

/// What has become of datagrams, of all sockets of a process.
#[derive(Default)]
pub struct Counts {
    /// Handed to the worker whose connection they belong to.
    pub passed_on: AtomicU64,
    /// Dropped: too many wait for that worker.
    pub queue_full: AtomicU64,
    /// Not received, for a reason of the system's.
    pub receive_error: AtomicU64,
    /// What came.
    pub received: Traffic,
    /// What left.
    pub sent: Traffic,
}

impl Counts {
    /// As metrics.
    pub fn render(&self, page: &mut Page) {
        page.family(
            "tidegate_quic_datagrams_total",
            "counter",
            "Datagrams that came to another worker than their connection's and were passed on, or were lost here.",
        );
        for (outcome, count) in
            [("passed_on", &self.passed_on), ("queue_full", &self.queue_full), ("receive_error", &self.receive_error)]
        {
            page.value(&[("outcome", outcome)], count.load(Ordering::Relaxed) as f64);
        }
        let directions = [("in", &self.received), ("out", &self.sent)];
        page.family("tidegate_quic_udp_datagrams_total", "counter", "Datagrams that QUIC has received and sent.");
        for (direction, traffic) in directions {
            page.value(&[("direction", direction)], traffic.datagrams.load(Ordering::Relaxed) as f64);
        }
        page.family(
            "tidegate_quic_udp_calls_total",
            "counter",
            "System calls by which they were: fewer than datagrams where the kernel takes several at once (GSO, GRO).",
        );
        for (direction, traffic) in directions {
            page.value(&[("direction", direction)], traffic.calls.load(Ordering::Relaxed) as f64);
        }
    }
}

/// Datagrams of one direction. The kernel takes and gives several in one call where it can (GSO, GRO).
#[derive(Default)]
pub struct Traffic {
    /// How many.
    pub datagrams: AtomicU64,
    /// By how many system calls.
    pub calls: AtomicU64,
}

impl Traffic {
    fn count(&self, datagrams: usize) {
        self.datagrams.fetch_add(datagrams as u64, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
}

/// What other workers have received for one.
#[derive(Default)]
pub struct Mailbox(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    received: VecDeque<(RecvMeta, Box<[u8]>)>,
    waker: Option<Waker>,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False where too many wait already.
    fn put(&self, meta: RecvMeta, bytes: &[u8]) -> bool {
        let mut waiting = self.lock();
        if waiting.received.len() >= WAITING {
            return false;
        }
        waiting.received.push_back((meta, bytes.into()));
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
        }
        true
    }

    /// Takes what waits, into `bufs`; ready when there was something.
    fn poll_take(&self, cx: &Context<'_>, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> Poll<usize> {
        let mut waiting = self.lock();
        let mut taken = 0;
        for (buf, meta) in bufs.iter_mut().zip(metas) {
            let Some((of, bytes)) = waiting.received.pop_front() else { break };
            let n = bytes.len().min(buf.len());
            buf[..n].copy_from_slice(&bytes[..n]);
            *meta = RecvMeta { len: n, ..of };
            taken += 1;
        }
        if taken > 0 {
            return Poll::Ready(taken);
        }
        if !waiting.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            waiting.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// The socket of one worker.
pub struct Socket {
    /// What is received from and sent by.
    pub inner: Arc<dyn AsyncUdpSocket>,
    /// Whose it is.
    pub worker: usize,
    /// Of every worker at this address, by number.
    pub mailboxes: Arc<[Mailbox]>,
    /// Reads the ids of this process.
    pub key: Key,
    /// What became of what came.
    pub counts: Arc<Counts>,
}

impl Socket {
    /// Hands on what belongs to another worker: nothing of it is left for this one.
    fn sort(&self, bufs: &[IoSliceMut<'_>], metas: &mut [RecvMeta]) {
        if self.mailboxes.len() < 2 {
            return;
        }
        for (buf, meta) in bufs.iter().zip(metas) {
            // What the kernel has received in one piece comes from one address, so one decision stands for all of it.
            let bytes = &buf[..meta.len.min(buf.len())];
            let Some(worker) = owner(bytes, &self.key).filter(|worker| *worker != self.worker) else { continue };
            let Some(mailbox) = self.mailboxes.get(worker) else { continue };
            let datagrams = pieces(bytes.len(), Some(meta.stride));
            let counter = if mailbox.put(*meta, bytes) { &self.counts.passed_on } else { &self.counts.queue_full };
            counter.fetch_add(datagrams as u64, Ordering::Relaxed);
            meta.len = 0;
        }
    }
}

/// How many datagrams these bytes are.
fn pieces(bytes: usize, each: Option<usize>) -> usize {
    bytes.div_ceil(each.unwrap_or(bytes).max(1)).max(1)
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)?;
        self.counts.sent.count(pieces(transmit.contents.len(), transmit.segment_size));
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if let Some(mailbox) = self.mailboxes.get(self.worker)
            && let Poll::Ready(n) = mailbox.poll_take(cx, bufs, metas)
        {
            return Poll::Ready(Ok(n));
        }
        match self.inner.poll_recv(cx, bufs, metas) {
            Poll::Ready(Ok(n)) => {
                let metas = &mut metas[..n];
                self.counts.received.count(metas.iter().map(|meta| pieces(meta.len, Some(meta.stride))).sum());
                self.sort(bufs, metas);
                Poll::Ready(Ok(n))
            }
            // One that went further would end every connection of the endpoint.
            Poll::Ready(Err(_)) => {
                self.counts.receive_error.fetch_add(1, Ordering::Relaxed);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket(worker {})", self.worker)
    }
}

//! Bytes that a connection holds until its socket takes them, counted and bounded.
//!
//! `h2` queues what it is given per stream; this bounds the sum, so that a peer with many streams that stops reading
//! costs no more than one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};

/// Bytes of bodies that wait for the socket of one connection, beyond which its streams wait.
const MOST: usize = 256 * 1024;

/// What one connection holds.
#[derive(Default)]
pub struct Held {
    bytes: AtomicUsize,
    waiting: Mutex<Vec<Waker>>,
}

impl Held {
    /// True when more may be queued.
    pub fn has_room(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) < MOST
    }

    /// Ready when more may be queued.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        // The last piece may have left just now, before it could see who waits.
        if self.has_room() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn add(&self, n: usize) {
        self.bytes.fetch_add(n, Ordering::Relaxed);
    }

    fn remove(&self, n: usize) {
        let before = self.bytes.fetch_sub(n, Ordering::AcqRel);
        if before >= MOST && before - n < MOST {
            let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

/// A piece of a body on its way to the socket.
pub struct Piece {
    bytes: Bytes,
    size: usize,
    held: Arc<Held>,
}

impl Piece {
    /// Counts `bytes` as held until the piece is dropped.
    pub fn new(bytes: Bytes, held: &Arc<Held>) -> Self {
        held.add(bytes.len());
        Piece { size: bytes.len(), bytes, held: held.clone() }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.held.remove(self.size);
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, n: usize) {
        self.bytes.advance(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_wait_while_a_connection_holds_too_much() {
        let held = Arc::new(Held::default());
        let mut cx = Context::from_waker(Waker::noop());
        let first = Piece::new(Bytes::from(vec![0; MOST]), &held);
        let second = Piece::new(Bytes::from_static(b"x"), &held);
        assert!(held.poll_room(&mut cx).is_pending());
        drop(second);
        assert!(held.poll_room(&mut cx).is_pending());
        drop(first);
        assert!(held.poll_room(&mut cx).is_ready());
    }
}

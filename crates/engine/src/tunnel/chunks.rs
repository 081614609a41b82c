//! A byte queue that holds memory only for what is in it.

use std::cell::RefCell;
use std::collections::VecDeque;

use crate::io::{BUFFER_SIZE, Buffer};

/// Whole pieces that a thread keeps for the next queue: without them bulk spends a tenth of its time on page faults.
const POOLED: usize = 32;

/// Bytes of a small piece, for a message as most are: to allocate each anew costs as much as all else that is done to
/// it here.
const SMALL: usize = 1024;

/// Small pieces that a thread keeps likewise: 256 KiB.
const SMALL_POOLED: usize = 256;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static SMALL_POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes in the order in which they came, in pieces of at most [`BUFFER_SIZE`].
#[derive(Default)]
pub(super) struct Chunks {
    /// The oldest piece; `start` bytes of it have been taken.
    head: Vec<u8>,
    start: usize,
    /// The pieces behind it.
    rest: VecDeque<Vec<u8>>,
    len: usize,
}

impl Chunks {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends `data`. `expected` bytes, these included, are to come soon: a guess that saves growing step by step.
    pub(super) fn push(&mut self, mut data: &[u8], expected: usize) {
        let whole = self.len + expected >= BUFFER_SIZE / 4;
        self.len += data.len();
        while !data.is_empty() {
            let tail = self.rest.back_mut().unwrap_or(&mut self.head);
            // A short piece may grow, a long one is left as it is: nothing is copied twice more than a few times.
            let limit = if tail.capacity() < BUFFER_SIZE / 2 { BUFFER_SIZE } else { tail.capacity() };
            let n = data.len().min(limit - tail.len().min(limit));
            if n == 0 {
                self.rest.push_back(Vec::new());
                continue;
            }
            if tail.capacity() == 0 && whole {
                *tail = POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(BUFFER_SIZE));
            } else if tail.capacity() == 0 && n <= SMALL {
                *tail = SMALL_POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(SMALL));
            }
            tail.extend_from_slice(&data[..n]);
            data = &data[n..];
        }
    }

    /// Moves bytes to `target`; says how many.
    pub(super) fn take(&mut self, target: &mut [u8]) -> usize {
        let mut done = 0;
        self.drain(target.len(), |piece| {
            target[done..done + piece.len()].copy_from_slice(piece);
            done += piece.len();
        });
        done
    }

    /// Moves the first `n` bytes, as far as there are, behind what `target` holds.
    pub(super) fn move_to(&mut self, target: &mut Buffer, n: usize) {
        self.drain(n, |piece| target.extend(piece));
    }

    pub(super) fn clear(&mut self) {
        *self = Chunks::default();
    }

    fn drain(&mut self, mut n: usize, mut each: impl FnMut(&[u8])) {
        n = n.min(self.len);
        self.len -= n;
        while n > 0 {
            let piece = &self.head[self.start..];
            let taken = n.min(piece.len());
            each(&piece[..taken]);
            n -= taken;
            self.start += taken;
            if self.start == self.head.len() {
                self.start = 0;
                give_back(std::mem::replace(&mut self.head, self.rest.pop_front().unwrap_or_default()));
            }
        }
        if self.len == 0 {
            self.rest = VecDeque::new();
        }
    }
}

fn give_back(mut piece: Vec<u8>) {
    let (pool, most) = match piece.capacity() {
        BUFFER_SIZE => (&POOL, POOLED),
        SMALL => (&SMALL_POOL, SMALL_POOLED),
        _ => return,
    };
    piece.clear();
    pool.with_borrow_mut(|pool| {
        if pool.len() < most {
            pool.push(piece);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_they_came_and_leave_no_memory() {
        let mut chunks = Chunks::default();
        let (mut next_in, mut next_out) = (0u32, 0u32);
        for round in 0..400usize {
            let data: Vec<u8> = (0..round * 997 % 70_000).map(|i| (next_in as usize + i) as u8).collect();
            next_in = next_in.wrapping_add(data.len() as u32);
            chunks.push(&data, data.len());
            let mut target = vec![0; round * 1009 % 80_000];
            let n = chunks.take(&mut target);
            for byte in &target[..n] {
                assert_eq!(*byte, next_out as u8);
                next_out = next_out.wrapping_add(1);
            }
        }
        let mut rest = Buffer::new();
        chunks.move_to(&mut rest, usize::MAX);
        assert_eq!(rest.len(), (next_in - next_out) as usize);
        assert!(chunks.is_empty());
        assert_eq!((chunks.head.capacity(), chunks.rest.capacity()), (0, 0));
    }
}

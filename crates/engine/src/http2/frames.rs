//! Counts the frames of a connection and says when a peer sends too many that carry nothing.
//!
//! Bytes in, a verdict out: payloads are passed over, so that a frame costs a few instructions and a byte costs none.
//! Resets, pings, settings, window updates and empty DATA are paid for by frames that carry something, in either
//! direction, and by time.

use std::time::{Duration, Instant};

/// Bytes in front of every payload (RFC 9113 §4.1).
const HEADER: usize = 9;

/// What is saved up at most, and there is at the start: a burst as a browser or a gRPC channel may make it.
const SAVED: i64 = 2000;

/// What a second earns, whatever passes.
const PER_SECOND: i64 = 100;

/// What a frame with a head or data in it earns.
const EARNED: i64 = 4;

/// What a downstream's reset costs: the request it ends has been routed and sent on by then. An upstream's costs as
/// little as any other frame: a request of ours went before it.
const RESET: i64 = 20;

/// What a frame costs that carries nothing.
const EMPTY: i64 = 1;

/// What of a connection is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// Streams opened and reset.
    Resets,
    /// Frames that carry nothing.
    Frames,
}

/// Finds the frames in what passes in one direction.
struct Scanner {
    header: [u8; HEADER],
    have: usize,
    /// Bytes to pass over: a payload, or the words before the first frame.
    skip: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Something of a message.
    Message,
    Reset,
    /// Nothing that anybody waits for.
    Empty,
}

impl Scanner {
    /// A scanner at the start of a connection; `skip` bytes come before its first frame.
    fn new(skip: usize) -> Self {
        Scanner { header: [0; HEADER], have: 0, skip }
    }

    fn scan(&mut self, mut bytes: &[u8], mut on: impl FnMut(Kind)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let n = self.skip.min(bytes.len());
                self.skip -= n;
                bytes = &bytes[n..];
                continue;
            }
            let n = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + n].copy_from_slice(&bytes[..n]);
            self.have += n;
            bytes = &bytes[n..];
            if self.have == HEADER {
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.header;
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                on(match kind {
                    // DATA that ends a stream says something even when it is empty.
                    0 if self.skip > 0 || flags & 1 == 1 => Kind::Message,
                    1 => Kind::Message,
                    3 => Kind::Reset,
                    _ => Kind::Empty,
                });
            }
        }
    }
}

/// The account of one connection.
pub struct Account {
    arriving: Scanner,
    leaving: Scanner,
    left: i64,
    /// What a reset costs.
    reset: i64,
    earned: Instant,
    resets: u64,
    empty: u64,
}

impl Account {
    /// The account of a downstream at the start of its connection; so many bytes arrive before the first frame.
    pub fn of_downstream(before: usize, now: Instant) -> Self {
        Account::new(Scanner::new(before), Scanner::new(0), RESET, now)
    }

    /// The account of an upstream at the start of a connection; so many bytes leave before the first frame.
    pub fn of_upstream(before: usize, now: Instant) -> Self {
        Account::new(Scanner::new(0), Scanner::new(before), EMPTY, now)
    }

    fn new(arriving: Scanner, leaving: Scanner, reset: i64, now: Instant) -> Self {
        Account { arriving, leaving, left: SAVED, reset, earned: now, resets: 0, empty: 0 }
    }

    /// Bytes have arrived.
    pub fn arrived(&mut self, bytes: &[u8], now: impl FnOnce() -> Instant) -> Result<(), Flood> {
        let (left, reset, resets, empty) = (&mut self.left, self.reset, &mut self.resets, &mut self.empty);
        self.arriving.scan(bytes, |kind| match kind {
            Kind::Message => *left = (*left + EARNED).min(SAVED),
            Kind::Reset => {
                *left -= reset;
                *resets += reset as u64;
            }
            Kind::Empty => {
                *left -= EMPTY;
                *empty += EMPTY as u64;
            }
        });
        if self.left >= 0 {
            return Ok(());
        }
        // Time is asked for only where there is no other excuse.
        let now = now();
        let seconds = now.saturating_duration_since(self.earned).min(Duration::from_secs(SAVED as u64));
        self.earned = now;
        self.left = (self.left + (seconds.as_secs_f64() * PER_SECOND as f64) as i64).min(SAVED);
        match self.left {
            0.. => Ok(()),
            _ if self.resets > self.empty => Err(Flood::Resets),
            _ => Err(Flood::Frames),
        }
    }

    /// Bytes have left: answers are worth what the peer says about them.
    pub fn left(&mut self, bytes: &[u8]) {
        let left = &mut self.left;
        self.leaving.scan(bytes, |kind| {
            if kind == Kind::Message {
                *left = (*left + EARNED).min(SAVED);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![(length >> 16) as u8, (length >> 8) as u8, length as u8, kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER + length, b'x');
        frame
    }

    #[test]
    fn frames_are_found_wherever_the_bytes_are_cut() {
        let bytes =
            [b"12345".to_vec(), frame(1, 4, 20), frame(0, 0, 0), frame(0, 1, 0), frame(3, 0, 4), frame(0, 0, 300)];
        let bytes = bytes.concat();
        let expected = [Kind::Message, Kind::Empty, Kind::Message, Kind::Reset, Kind::Message];
        for cut in 1..bytes.len() {
            let (mut scanner, mut found) = (Scanner::new(5), Vec::new());
            for piece in bytes.chunks(cut) {
                scanner.scan(piece, |kind| found.push(kind));
            }
            assert_eq!(found, expected, "cut at {cut}");
        }
    }

    #[test]
    fn cases_16_to_19_what_carries_nothing_is_bounded_by_what_carries_something_and_by_time() {
        let start = Instant::now();
        let ping = frame(6, 0, 8);
        let mut account = Account::of_downstream(0, start);
        let burst = (0..10_000).position(|_| account.arrived(&ping, || start).is_err());
        assert_eq!(burst, Some(SAVED as usize));
        assert_eq!(account.arrived(&ping, || start), Err(Flood::Frames));
        assert_eq!(account.arrived(&ping, || start + Duration::from_secs(1)), Ok(()));

        // A peer that answers each frame of a body with a ping and two window updates goes on for ever.
        let mut account = Account::of_downstream(0, start);
        for _ in 0..100_000 {
            account.left(&frame(0, 0, 5));
            for _ in 0..3 {
                assert_eq!(account.arrived(&ping, || start), Ok(()));
            }
        }

        // An upstream may refuse every request, and may not say more about it than that.
        let mut account = Account::of_upstream(0, start);
        let reset = frame(3, 0, 4);
        for _ in 0..100_000 {
            account.left(&frame(1, 5, 10));
            assert_eq!(account.arrived(&reset, || start), Ok(()));
        }
        account.left(&frame(1, 5, 10));
        let burst = (0..10_000).position(|_| account.arrived(&reset, || start).is_err());
        assert_eq!(burst, Some(SAVED as usize));

        // Rapid reset: each stream earns less than its end costs.
        let mut account = Account::of_downstream(0, start);
        let pair = [frame(1, 5, 10), frame(3, 0, 4)].concat();
        let refused = (0..1000).find_map(|_| account.arrived(&pair, || start).err());
        assert_eq!(refused, Some(Flood::Resets));
    }
}

//! Moves raw bytes between two streams until both directions have ended.
//!
//! A half-close on one side becomes a half-close on the other, a break becomes a break. Nothing is understood of what
//! passes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::io::{BUFFER_SIZE, BoxedIo, Buffer};
use crate::timer::Timer;

/// One of two streams, with the bytes read from it and not yet written to the other.
pub struct Leg {
    /// The stream.
    pub io: BoxedIo,
    /// Bytes on their way to the other stream.
    pub read: Buffer,
}

/// How a relay ended.
#[derive(Debug)]
pub enum Ended {
    /// Both directions ended by themselves.
    Clean,
    /// The first leg broke; the second was reset.
    First(io::Error),
    /// The second leg broke; the first was reset.
    Second(io::Error),
    /// No byte moved for the idle time; both were reset.
    Idle,
}

/// What has passed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    /// Bytes from the first leg to the second.
    pub forth: u64,
    /// Bytes from the second leg to the first.
    pub back: u64,
}

#[derive(PartialEq)]
enum Direction {
    Open,
    /// The reading side has ended; what was read is being written.
    Ending,
    Ended,
}

/// Relays between two streams; `idle` bounds how long no byte may move in either direction.
pub async fn relay(first: &mut Leg, second: &mut Leg, idle: Duration, timer: &mut Timer) -> (Passed, Ended) {
    let mut passed = Passed::default();
    let (mut forth, mut back) = (Direction::Open, Direction::Open);
    let (mut seen, mut idle_by) = (0, Instant::now() + idle);
    let ended = std::future::poll_fn(|cx| {
        if let Poll::Ready(Err((reading, error))) = poll_direction(cx, first, second, &mut forth, &mut passed.forth) {
            return Poll::Ready(if reading { Ended::First(error) } else { Ended::Second(error) });
        }
        if let Poll::Ready(Err((reading, error))) = poll_direction(cx, second, first, &mut back, &mut passed.back) {
            return Poll::Ready(if reading { Ended::Second(error) } else { Ended::First(error) });
        }
        if forth == Direction::Ended && back == Direction::Ended {
            return Poll::Ready(Ended::Clean);
        }
        let moved = passed.forth + passed.back;
        if moved != seen {
            (seen, idle_by) = (moved, Instant::now() + idle);
        }
        timer.poll_until(cx, idle_by).map(|()| Ended::Idle)
    })
    .await;
    match ended {
        Ended::Clean => {}
        Ended::First(_) => second.io.reset(),
        Ended::Second(_) => first.io.reset(),
        Ended::Idle => {
            first.io.reset();
            second.io.reset();
        }
    }
    (passed, ended)
}

/// Moves one direction as far as it goes. The error says whether it was met while reading.
fn poll_direction(
    cx: &mut Context<'_>,
    from: &mut Leg,
    to: &mut Leg,
    direction: &mut Direction,
    passed: &mut u64,
) -> Poll<Result<(), (bool, io::Error)>> {
    loop {
        if *direction == Direction::Ended {
            return Poll::Ready(Ok(()));
        }
        if *direction == Direction::Open && from.read.len() < BUFFER_SIZE {
            match from.read.poll_fill(cx, &mut *from.io) {
                Poll::Ready(Ok(0)) => *direction = Direction::Ending,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err((true, error))),
                // With nothing to write there is nothing to do but wait for more to read.
                Poll::Pending if from.read.is_empty() => {
                    let flushed = ready!(Pin::new(&mut *to.io).poll_flush(cx));
                    return flushed.map_or_else(|e| Poll::Ready(Err((false, e))), |()| Poll::Pending);
                }
                Poll::Pending => {}
            }
        }
        while !from.read.is_empty() {
            let n = ready!(Pin::new(&mut *to.io).poll_write(cx, from.read.chunk())).map_err(|e| (false, e))?;
            if n == 0 {
                return Poll::Ready(Err((false, io::ErrorKind::WriteZero.into())));
            }
            from.read.consume(n);
            *passed += n as u64;
        }
        if *direction == Direction::Ending {
            ready!(Pin::new(&mut *to.io).poll_shutdown(cx)).map_err(|e| (false, e))?;
            *direction = Direction::Ended;
        }
    }
}

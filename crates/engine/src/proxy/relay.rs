//! Moves raw bytes between two streams until both directions have ended.
//!
//! A half-close on one side becomes a half-close on the other, a break becomes a break. Nothing is understood of what
//! passes.

use std::io;
use std::mem::take;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::splice::Held;
use crate::io::{BUFFER_SIZE, BoxedIo, Buffer};
use crate::timer::Timer;

/// So many reads that fill a buffer, with no small one between, are bulk, which the kernel moves by itself between two
/// TCP connections.
const FULL_READS: u32 = 4;

/// So many of them stand to its credit where there was bulk before: answers of one service are alike.
const FULL_BEFORE: u32 = FULL_READS - 1;

/// What comes in pieces below this is cheaper to copy.
const SMALL: usize = 16 * 1024;

/// Turns of bulk before other connections get theirs: about a millisecond.
const TURNS: u32 = 4;

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

/// What has passed since it was last told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    /// Bytes from the first leg to the second.
    pub forth: u64,
    /// Bytes from the second leg to the first.
    pub back: u64,
}

/// One of the two directions.
#[derive(Default)]
struct Direction {
    state: State,
    /// Bytes that were not told yet.
    passed: u64,
    /// Reads that filled the buffer since the last small one.
    full: u32,
    /// What a small read sets `full` to.
    credit: u32,
    /// Bytes that the kernel holds for us.
    held: Held,
}

#[derive(Default, PartialEq)]
enum State {
    #[default]
    Open,
    /// The reading side has ended; what was read is being written.
    Ending,
    Ended,
}

/// Relays between two streams; `idle` bounds how long no byte may move in either direction. What passes is told to
/// `tell` on the way, so that it is known also of a relay that is cut.
pub async fn relay(
    first: &mut Leg,
    second: &mut Leg,
    idle: Duration,
    timer: &mut Timer,
    mut tell: impl FnMut(Passed),
) -> Ended {
    let (mut forth, mut back) = (Direction::default(), Direction::default());
    let mut idle_by = Instant::now() + idle;
    let ended = std::future::poll_fn(|cx| {
        if let Poll::Ready(Err((reading, error))) = poll_direction(cx, first, second, &mut forth) {
            return Poll::Ready(if reading { Ended::First(error) } else { Ended::Second(error) });
        }
        if let Poll::Ready(Err((reading, error))) = poll_direction(cx, second, first, &mut back) {
            return Poll::Ready(if reading { Ended::Second(error) } else { Ended::First(error) });
        }
        if forth.state == State::Ended && back.state == State::Ended {
            return Poll::Ready(Ended::Clean);
        }
        let passed = Passed { forth: take(&mut forth.passed), back: take(&mut back.passed) };
        if passed.forth + passed.back > 0 {
            tell(passed);
            idle_by = Instant::now() + idle;
        }
        timer.poll_until(cx, idle_by).map(|()| Ended::Idle)
    })
    .await;
    tell(Passed { forth: forth.passed, back: back.passed });
    match ended {
        Ended::Clean => {}
        Ended::First(_) => second.io.reset(),
        Ended::Second(_) => first.io.reset(),
        Ended::Idle => {
            first.io.reset();
            second.io.reset();
        }
    }
    ended
}

/// Moves one direction as far as it goes. The error says whether it was met while reading.
fn poll_direction(
    cx: &mut Context<'_>,
    from: &mut Leg,
    to: &mut Leg,
    direction: &mut Direction,
) -> Poll<Result<(), (bool, io::Error)>> {
    loop {
        if direction.state == State::Ended {
            return Poll::Ready(Ok(()));
        }
        if from.read.is_empty() && (direction.full >= FULL_READS || !direction.held.is_empty()) {
            ready!(poll_bulk(cx, from, to, direction))?;
        }
        if direction.state == State::Open && from.read.len() < BUFFER_SIZE {
            match from.read.poll_fill(cx, &mut *from.io) {
                Poll::Ready(Ok(0)) => direction.state = State::Ending,
                Poll::Ready(Ok(_)) if from.read.len() >= BUFFER_SIZE => direction.full += 1,
                Poll::Ready(Ok(n)) if n < SMALL => direction.full = direction.credit,
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
            direction.passed += n as u64;
        }
        if direction.state == State::Ending {
            ready!(Pin::new(&mut *to.io).poll_shutdown(cx)).map_err(|e| (false, e))?;
            direction.state = State::Ended;
        }
    }
}

/// Moves bulk between two TCP connections without copying it. Ready when there is an end, or nothing left that is worth
/// it.
fn poll_bulk(
    cx: &mut Context<'_>,
    from: &Leg,
    to: &Leg,
    direction: &mut Direction,
) -> Poll<Result<(), (bool, io::Error)>> {
    let (Some(from), Some(to)) = (from.io.as_tcp(), to.io.as_tcp()) else {
        direction.full = 0;
        return Poll::Ready(Ok(()));
    };
    for _ in 0..TURNS {
        while !direction.held.is_empty() {
            direction.passed += ready!(direction.held.poll_drain(cx, to)).map_err(|e| (false, e))? as u64;
        }
        if direction.full < FULL_READS {
            return Poll::Ready(Ok(()));
        }
        match ready!(direction.held.poll_fill(cx, from)).map_err(|e| (true, e))? {
            Some(0) => {
                direction.state = State::Ending;
                return Poll::Ready(Ok(()));
            }
            Some(n) if n >= SMALL => direction.full = FULL_READS + 1,
            Some(_) | None => {
                // Where it was not worth it, the credit is gone.
                direction.credit = if direction.full > FULL_READS { FULL_BEFORE } else { 0 };
                direction.full = direction.credit;
            }
        }
    }
    // The other connections of this thread are to have their turns.
    cx.waker().wake_by_ref();
    Poll::Pending
}

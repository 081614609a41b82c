//! Moves a body from one connection to another, with back-pressure, and remembers its beginning for another attempt.

use std::task::{Context, Poll, ready};

use super::http::Http;
use super::http1::{Part, Stop};

/// Which side of a pump failed.
#[derive(Debug)]
pub enum PumpError {
    /// The side that was read.
    From(Stop),
    /// The side that was written.
    To(Stop),
}

/// Moves as much as there is and writes it. Ready when the body is whole and written.
///
/// What leaves `from` is kept in `replay`, where there is one.
pub fn poll_pump(
    cx: &mut Context<'_>,
    from: &mut Http,
    to: &mut Http,
    mut replay: Option<&mut Replay>,
    bytes: &mut u64,
) -> Poll<Result<(), PumpError>> {
    while !to.body_sent() {
        match from.poll_part(cx) {
            Poll::Ready(Ok(Part::Data(length))) => {
                let data = &from.data()[..length];
                let n = ready!(to.poll_data(cx, data)).map_err(PumpError::To)?;
                if let Some(replay) = replay.as_deref_mut() {
                    replay.keep(&data[..n]);
                }
                *bytes += n as u64;
                from.took(n);
            }
            Poll::Ready(Ok(Part::Trailers(fields))) => {
                if let Some(replay) = replay.as_deref_mut() {
                    replay.lose();
                }
                to.end_body(Some(&fields)).map_err(PumpError::To)?;
            }
            Poll::Ready(Ok(Part::End)) => to.end_body(None).map_err(PumpError::To)?,
            Poll::Ready(Err(stop)) => return Poll::Ready(Err(PumpError::From(stop))),
            Poll::Pending => {
                ready!(to.poll_flush(cx)).map_err(PumpError::To)?;
                return Poll::Pending;
            }
        }
    }
    to.poll_flush(cx).map_err(PumpError::To)
}

/// Bytes of a body kept for another attempt (hardening.md "Retry").
const KEPT: usize = 64 * 1024;

/// The beginning of a request's body, kept until a byte of the response has come.
#[derive(Default)]
pub struct Replay {
    kept: Vec<u8>,
    /// How much of it the present attempt has sent.
    sent: usize,
    /// More has gone out than is kept.
    lost: bool,
}

impl Replay {
    /// Keeps `data` as long as all of the body so far can be kept.
    pub fn keep(&mut self, data: &[u8]) {
        if self.lost || self.kept.len() + data.len() > KEPT {
            return self.lose();
        }
        self.kept.extend_from_slice(data);
        self.sent = self.kept.len();
    }

    /// Something has gone out that is not kept.
    pub fn lose(&mut self) {
        self.lost = true;
        self.kept = Vec::new();
    }

    /// False when a body has begun to go out and cannot be repeated.
    pub fn is_whole(&self) -> bool {
        !self.lost
    }

    /// Begins anew for another attempt.
    pub fn rewind(&mut self) {
        self.sent = 0;
    }

    /// Sends again what an earlier attempt has sent. Ready when all of it is queued.
    pub fn poll_resend(&mut self, cx: &mut Context<'_>, to: &mut Http) -> Poll<Result<(), Stop>> {
        while self.sent < self.kept.len() {
            self.sent += ready!(to.poll_data(cx, &self.kept[self.sent..]))?;
        }
        Poll::Ready(Ok(()))
    }
}

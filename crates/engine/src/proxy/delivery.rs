//! A request on its way to one upstream: how far it has gone, and what it means where either side ends meanwhile.

use std::task::{Context, Poll};

use super::http::Http;
use super::http1::Stop;
use super::pump::{PumpError, Replay, poll_pump};
use crate::error::{Code, Error, Result};
use crate::http1::refusal::HeadError;
use crate::tunnel::never_accepted;

/// The connection to an upstream while a request goes out on it.
pub struct Delivery {
    /// The connection itself.
    pub connection: Http,
    /// The whole request has gone out.
    pub request_done: bool,
    /// The upstream takes no more of it; an answer may still come.
    pub request_broken: bool,
}

impl Delivery {
    /// Nothing has gone out yet.
    pub fn new(connection: Http) -> Self {
        Delivery { connection, request_done: false, request_broken: false }
    }

    /// Sends the request as far as it goes. An error is the downstream's.
    pub fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut Http,
        mut replay: Option<&mut Replay>,
        bytes: &mut u64,
    ) -> Poll<Result<()>> {
        if self.request_done || self.request_broken {
            return Poll::Ready(Ok(()));
        }
        let resent = match replay.as_deref_mut() {
            Some(replay) => replay.poll_resend(cx, &mut self.connection),
            None => Poll::Ready(Ok(())),
        };
        let sent = match resent {
            Poll::Ready(Ok(())) => poll_pump(cx, down, &mut self.connection, replay, bytes),
            Poll::Ready(Err(stop)) => Poll::Ready(Err(PumpError::To(stop))),
            Poll::Pending => Poll::Pending,
        };
        match sent {
            Poll::Ready(Ok(())) => self.request_done = true,
            // Its answer may have come before it stopped reading.
            Poll::Ready(Err(PumpError::To(_))) => self.request_broken = true,
            Poll::Ready(Err(PumpError::From(Stop::Malformed(error)))) => {
                self.connection.reset();
                return Poll::Ready(Err(error.of_request()));
            }
            Poll::Ready(Err(PumpError::From(_))) => {
                self.connection.reset();
                return Poll::Ready(Err(downstream_left()));
            }
            Poll::Pending => return Poll::Pending,
        }
        Poll::Ready(Ok(()))
    }

    /// The answer cannot be sent on.
    pub fn refuse(mut self, why: HeadError) -> Error {
        self.connection.reset();
        Error::new(Code::UpstreamMalformed, why.detail())
    }
}

/// The downstream has ended its connection.
pub fn downstream_left() -> Error {
    Error::new(Code::DownstreamClosed, "")
}

/// The upstream ended before its answer began.
pub fn no_answer(stop: &Stop) -> Error {
    match stop {
        Stop::Malformed(error) => Error::new(Code::UpstreamMalformed, error.detail()),
        Stop::Unsayable(error) => Error::new(Code::MalformedRequest, error.detail()),
        Stop::Refused => Error::undelivered(Code::UpstreamUnreachable, "the stream was refused"),
        Stop::Io(error) if never_accepted(error) => {
            Error::undelivered(Code::UpstreamUnreachable, "the stream was not accepted")
        }
        Stop::Io(_) | Stop::Closed => Error::new(Code::UpstreamClosed, "before it answered"),
    }
}

/// The upstream ended in the middle of its answer.
pub fn cut_answer(stop: &Stop) -> Error {
    match stop {
        Stop::Malformed(error) => Error::new(Code::UpstreamMalformed, error.detail()),
        _ => Error::new(Code::UpstreamClosed, "in the middle of its answer"),
    }
}

//! How sessions and streams end, in types that logs and retries can look at.

use std::borrow::Cow;
use std::fmt;
use std::io;

/// How to end a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In order: a WebSocket close frame, then the end of the byte stream. A Piko agent's process exits after it.
    Close,
    /// yamux GoAway with code 2, then the end of the byte stream. A Piko agent reconnects after it.
    GoAway2,
    /// The byte stream is reset.
    Reset,
}

/// Why a session has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// One side closed it.
    Closed {
        /// Whether it was the other side.
        by_peer: bool,
        /// Status of the WebSocket close frame, where there was one.
        code: Option<u16>,
        /// Its reason, without control characters.
        reason: String,
    },
    /// The peer sent a yamux GoAway with a code other than 0.
    GoAway(u32),
    /// The byte stream was reset, by the peer, by [`Ending::Reset`] or because nobody drives the session any more.
    Reset,
    /// The peer was silent after a ping.
    PingTimeout,
    /// The peer took no byte of what we had to send for the time of a ping.
    Stalled,
    /// The peer broke the protocol, or flooded us.
    Protocol(Cow<'static, str>),
    /// The byte stream failed.
    Io(String),
}

impl End {
    pub(in crate::tunnel) fn protocol(reason: &'static str) -> Self {
        End::Protocol(Cow::Borrowed(reason))
    }

    pub(super) fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => End::Reset,
            _ => End::Io(error.to_string()),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Closed { by_peer, code, reason } => {
                f.write_str(if *by_peer { "closed by the peer" } else { "closed" })?;
                if let Some(code) = code {
                    write!(f, " with code {code}")?;
                }
                if reason.is_empty() { Ok(()) } else { write!(f, ": {reason}") }
            }
            End::GoAway(code) => write!(f, "the peer gave up with yamux code {code}"),
            End::Reset => f.write_str("connection reset"),
            End::PingTimeout => f.write_str("no answer to a ping"),
            End::Stalled => f.write_str("the peer stopped reading"),
            End::Protocol(reason) => write!(f, "protocol error: {reason}"),
            End::Io(error) => f.write_str(error),
        }
    }
}

impl std::error::Error for End {}

/// Why no stream could be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The session has ended.
    Ended,
    /// One of the two sides is leaving.
    GoneAway,
    /// Too many streams wait for the peer's answer.
    Unanswered,
    /// Too many bytes wait to be read, or no stream id is left.
    Busy,
    /// The session carries no datagrams: it is no QUIC, or its peer takes none.
    NoDatagrams,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OpenError::Ended => "the tunnel session has ended",
            OpenError::GoneAway => "the tunnel session is draining",
            OpenError::Unanswered => "the agent does not answer new streams",
            OpenError::Busy => "the tunnel session is busy",
            OpenError::NoDatagrams => "the tunnel session carries no datagrams",
        })
    }
}

impl std::error::Error for OpenError {}

/// The inner error of an [`io::Error`] when a stream was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamReset {
    /// False where it is certain that the peer never took the stream: another listener may be tried.
    pub accepted: bool,
}

impl fmt::Display for StreamReset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.accepted { "stream reset by the peer" } else { "stream never accepted by the peer" })
    }
}

impl std::error::Error for StreamReset {}

/// True when `error` says that the peer never took the stream.
pub fn never_accepted(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<StreamReset>()).is_some_and(|reset| !reset.accepted)
}

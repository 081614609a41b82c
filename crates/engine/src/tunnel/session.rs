//! The handle of a session, whatever carries it: opens and takes streams, drains, ends.

use std::net::SocketAddr;

use super::{End, Ending, Flow, OpenError, Stats, Transport, quic, yamux};
use crate::io::BoxedIo;

/// One authenticated connection with the streams on it. Cheap to clone.
#[derive(Clone)]
pub struct Session(Kind);

#[derive(Clone)]
enum Kind {
    Yamux(yamux::Handle),
    Quic(quic::Handle),
}

impl Session {
    pub(super) fn yamux(handle: yamux::Handle) -> Self {
        Session(Kind::Yamux(handle))
    }

    pub(super) fn quic(handle: quic::Handle) -> Self {
        Session(Kind::Quic(handle))
    }

    /// Opens a stream, at once. Whether the peer takes it shows when it is read or written.
    pub fn open(&self) -> Result<BoxedIo, OpenError> {
        match &self.0 {
            Kind::Yamux(session) => Ok(Box::new(session.open()?)),
            Kind::Quic(session) => Ok(Box::new(session.open()?)),
        }
    }

    /// The same, after waiting for the peer where too many streams lack its answer. Cancel-safe.
    pub async fn open_when_answered(&self) -> Result<BoxedIo, OpenError> {
        match &self.0 {
            Kind::Yamux(session) => Ok(Box::new(session.open_when_answered().await?)),
            Kind::Quic(session) => Ok(Box::new(session.open_when_answered().await?)),
        }
    }

    /// Waits for a stream of the peer; `None` when the session has ended. Cancel-safe.
    pub async fn accept(&self) -> Option<BoxedIo> {
        match &self.0 {
            Kind::Yamux(session) => Some(Box::new(session.accept().await?)),
            Kind::Quic(session) => Some(Box::new(session.accept().await?)),
        }
    }

    /// Opens a flow of datagrams, at once. Whether the peer takes it shows as it does of a stream.
    pub fn open_flow(&self) -> Result<Flow, OpenError> {
        match &self.0 {
            Kind::Yamux(_) => Err(OpenError::NoDatagrams),
            Kind::Quic(session) => session.open_flow(),
        }
    }

    /// The same, after waiting as [`Session::open_when_answered`] does. Cancel-safe.
    pub async fn open_flow_when_answered(&self) -> Result<Flow, OpenError> {
        match &self.0 {
            Kind::Yamux(_) => Err(OpenError::NoDatagrams),
            Kind::Quic(session) => session.open_flow_when_answered().await,
        }
    }

    /// Waits for a flow of the peer; `None` when the session has ended. Cancel-safe.
    pub async fn accept_flow(&self) -> Option<Flow> {
        match &self.0 {
            Kind::Yamux(session) => {
                session.ended().await;
                None
            }
            Kind::Quic(session) => session.accept_flow().await,
        }
    }

    /// Whether it is worth calling [`Session::open`]: not ended, and the peer is not leaving.
    pub fn is_open(&self) -> bool {
        match &self.0 {
            Kind::Yamux(session) => session.is_open(),
            Kind::Quic(session) => session.is_open(),
        }
    }

    /// Drains: the peer is told to open no more streams, and is refused where it does. Running streams go on.
    pub fn go_away(&self) {
        match &self.0 {
            Kind::Yamux(session) => session.go_away(),
            Kind::Quic(session) => session.go_away(),
        }
    }

    /// Waits until the peer has answered a question sent from now on: whatever it had sent before it read what we said
    /// last has come then. Returns at the end of the session, too.
    pub async fn settle(&self) {
        match &self.0 {
            Kind::Yamux(session) => session.settle().await,
            Kind::Quic(session) => session.settle().await,
        }
    }

    /// Ends the session and all its streams.
    pub fn end(&self, how: Ending) {
        match &self.0 {
            Kind::Yamux(session) => session.end(how),
            Kind::Quic(session) => session.end(how),
        }
    }

    /// Waits for the end of the session and says why. Any number may wait.
    pub async fn ended(&self) -> End {
        match &self.0 {
            Kind::Yamux(session) => session.ended().await,
            Kind::Quic(session) => session.ended().await,
        }
    }

    /// Why the session has ended, if it has.
    pub fn end_reason(&self) -> Option<End> {
        match &self.0 {
            Kind::Yamux(session) => session.end_reason(),
            Kind::Quic(session) => session.end_reason(),
        }
    }

    /// Waits until the peer is leaving or the session has ended.
    pub async fn gone_away(&self) {
        match &self.0 {
            Kind::Yamux(session) => session.gone_away().await,
            Kind::Quic(session) => session.gone_away().await,
        }
    }

    /// What carries the session.
    pub fn transport(&self) -> Transport {
        match &self.0 {
            Kind::Yamux(_) => Transport::WebSocket,
            Kind::Quic(session) => session.transport(),
        }
    }

    /// Whether what we sent has not been acknowledged for a second. Only QUIC can tell.
    pub fn is_silent(&self) -> bool {
        match &self.0 {
            Kind::Yamux(_) => false,
            Kind::Quic(session) => session.is_silent(),
        }
    }

    /// Waits until [`Session::is_silent`] is `silent`, or the session has ended.
    pub async fn silence(&self, silent: bool) {
        match &self.0 {
            Kind::Yamux(session) if silent => drop(session.ended().await),
            Kind::Yamux(_) => {}
            Kind::Quic(session) => session.silence(silent).await,
        }
    }

    /// Where the peer is now, where it can move.
    pub fn remote(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Yamux(_) => None,
            Kind::Quic(session) => Some(session.remote()),
        }
    }

    /// Streams open now.
    pub fn streams(&self) -> usize {
        match &self.0 {
            Kind::Yamux(session) => session.streams(),
            Kind::Quic(session) => session.streams(),
        }
    }

    /// What the session has done so far.
    pub fn stats(&self) -> Stats {
        match &self.0 {
            Kind::Yamux(session) => session.stats(),
            Kind::Quic(session) => session.stats(),
        }
    }

    /// Memory held for streams and messages, roughly, in bytes. Over QUIC without what has come and was not looked at,
    /// which nobody tells: it is bounded by [`UNREAD`](super::quic::UNREAD).
    pub fn memory(&self) -> usize {
        match &self.0 {
            Kind::Yamux(session) => session.memory(),
            Kind::Quic(session) => session.memory(),
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({} streams)", self.streams())
    }
}

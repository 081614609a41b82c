//! The numbers by which streams and connections end, and what they mean as the [`End`] of a session.

use quinn::{ConnectionError, VarInt};

use crate::tunnel::End;

/// A stream ends before its time.
pub(super) const RESET: VarInt = VarInt::from_u32(0);
/// A stream was never taken: another session may be tried.
pub(super) const REFUSED: VarInt = VarInt::from_u32(1);
/// Nobody has read the stream while others waited for the room that it takes.
pub(super) const OVERRUN: VarInt = VarInt::from_u32(2);

/// The connection is closed in order.
pub const CLOSED: VarInt = VarInt::from_u32(0);
/// The connection is closed, and its peer is to come back.
pub const COME_BACK: VarInt = VarInt::from_u32(2);
/// The peer has broken the rules of sessions.
pub const PROTOCOL: VarInt = VarInt::from_u32(3);
/// The first stream was answered with a refusal.
pub const NOT_WELCOME: VarInt = VarInt::from_u32(4);
/// There is no place for the connection.
pub const OVERLOAD: VarInt = VarInt::from_u32(5);
/// The peer's address is not permitted, or no more since it has moved.
pub const ADDRESS_DENIED: VarInt = VarInt::from_u32(6);

/// The reason of a connection that is closed as if its byte stream was reset: QUIC has no such end.
pub(super) const RESET_REASON: &str = "reset";

/// The longest reason of a peer that is kept.
const REASON: usize = 200;

/// Why a session has ended whose connection has.
pub(super) fn end_of(error: &ConnectionError) -> End {
    match error {
        ConnectionError::ApplicationClosed(close) if close.error_code == COME_BACK => End::GoAway(2),
        ConnectionError::ApplicationClosed(close) => {
            let code = u16::try_from(close.error_code.into_inner()).ok().filter(|code| *code != 0);
            End::Closed { by_peer: true, code, reason: readable(&close.reason) }
        }
        ConnectionError::ConnectionClosed(close) => End::Closed {
            by_peer: true,
            code: None,
            reason: format!("{} {}", close.error_code, readable(&close.reason)),
        },
        ConnectionError::TimedOut => End::PingTimeout,
        ConnectionError::Reset => End::Reset,
        ConnectionError::LocallyClosed => End::Closed { by_peer: false, code: None, reason: String::new() },
        ConnectionError::TransportError(error) => End::Protocol(error.to_string().into()),
        ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => End::Io(error.to_string()),
    }
}

fn readable(reason: &[u8]) -> String {
    let reason = &reason[..reason.len().min(REASON)];
    String::from_utf8_lossy(reason).chars().filter(|c| !c.is_control()).collect()
}

//! A session whose streams are those of a QUIC connection.
//!
//! The first stream, opened by the client, carries a hello before it comes here; then `control` frames. Every other
//! stream begins with one byte of whoever opened it and one of whoever took it, so that both are known at once.
//! `transport` and `codes` are the numbers of the protocol, `channel` and `stream` are a stream, `demux` and `flow` a
//! flow of datagrams, which is a stream and what bears its number, `shared` the books of a session; `driver` does what
//! happens by itself, `tending` what is looked at from time to time. Endpoints, sockets and connections are made above.

mod channel;
pub mod codes;
pub mod control;
pub mod demux;
mod driver;
mod flow;
mod handle;
mod shared;
mod stream;
mod tending;
mod transport;

use std::future::Future;
use std::sync::Arc;

use quinn::{Connection, RecvStream, SendStream};

use super::{End, Session};
use shared::Shared;

pub use flow::{Flow, FlowError, Sent};
pub(super) use handle::Handle;
pub use transport::{RECEIVE_WINDOW as UNREAD, STREAMS, transport};

/// How a session over QUIC behaves.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Whether the peer may open streams; where nobody takes them they are refused.
    pub takes_streams: bool,
    /// Whether the peer may open flows of datagrams, where it may open streams.
    pub datagrams: bool,
    /// Whether the peer is asked for a sign of life within a second, because there is another way than this.
    pub asks: bool,
    /// What all streams together may bring before it is read: with few streams, and at most. Where it is not
    /// [`UNREAD`], the caller has told the connection the first of them.
    pub unread: (u64, u64),
}

/// Starts a session on a connection. `control` is its first stream, behind the hello; none: the connection carries
/// streams and nothing else, as quic-reverse-http-tunnel's do. The caller spawns the driver, which ends when the
/// session has; dropping it resets the session. Dropping all handles does not end the session.
pub fn start(
    connection: Connection,
    control: Option<(SendStream, RecvStream)>,
    config: Config,
) -> (Session, impl Future<Output = ()> + Send + 'static) {
    let shared = Shared::new(connection, control.is_none());
    let guard = Guard(shared.clone());
    let driven = shared.clone();
    let driver = async move {
        let _guard = guard;
        driver::run(driven, control, config).await;
    };
    (Session::quic(Handle { shared }), driver)
}

/// Ends the session when nobody drives it any more.
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        if self.0.connection.close_reason().is_none() {
            self.0.end(End::Reset, Some((codes::CLOSED, codes::RESET_REASON)));
        }
    }
}

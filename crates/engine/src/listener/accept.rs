//! Accepts connections, and refuses those for which there is no room.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::room::{Full, Place, Room};

/// How long accepting rests when the process has no descriptor or memory left.
const REST: Duration = Duration::from_millis(100);

/// Accepts until told to stop, then takes what the kernel has already queued, so that nobody who was let in is dropped.
pub async fn accept(
    listener: TcpListener,
    name: Arc<str>,
    stop: CancellationToken,
    room: Arc<Room>,
    here: Arc<AtomicUsize>,
    mut on: impl FnMut(TcpStream, SocketAddr, Result<Place, Full>),
) {
    let mut full = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                full = false;
                // Refused only on a socket that is gone already.
                let _ = stream.set_nodelay(true);
                let place = room.admit(&stream, &here);
                on(stream, from, place);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut full, true) {
                    warn!(listener = %name, %error, "accepting rests");
                }
                tokio::time::sleep(REST).await;
            }
        }
    }
    if let Ok(listener) = listener.into_std() {
        loop {
            let (stream, from) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(_) => break,
            };
            let ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
            if let (Ok(()), Ok(stream)) = (ready, TcpStream::from_std(stream)) {
                let place = room.admit(&stream, &here);
                on(stream, from, place);
            }
        }
    }
}

/// True for errors that belong to the connection that was to be accepted, not to the listener (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable
    )
}

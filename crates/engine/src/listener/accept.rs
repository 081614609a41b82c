//! Accepts connections, and no more than there is room for.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How long accepting rests when the process has no descriptor or memory left.
const REST: Duration = Duration::from_millis(100);

/// How many connections there may be, of all listeners together.
pub struct Room {
    open: AtomicUsize,
    most: AtomicUsize,
    freed: Notify,
    /// It has been said that there is none left.
    said: AtomicBool,
}

/// One connection's place.
pub struct Place(Arc<Room>, Arc<AtomicUsize>);

/// What an accepted connection has come to. A new configuration may put another one behind the same socket.
pub struct Door<T> {
    /// The listener's name.
    pub name: Arc<str>,
    /// Where there has to be room.
    pub room: Arc<Room>,
    /// Open connections of this listener.
    pub connections: Arc<AtomicUsize>,
    /// Networks whose connections begin with a PROXY header.
    pub balancers: ArcSwap<Vec<IpNet>>,
    /// What is done with them.
    pub leads: T,
}

impl Room {
    /// Room for so many.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Room {
            open: AtomicUsize::new(0),
            most: AtomicUsize::new(most),
            freed: Notify::new(),
            said: AtomicBool::new(false),
        })
    }

    /// From now on room for so many.
    pub fn resize(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
        self.freed.notify_waiters();
    }

    /// Connections that are open, and how many may be.
    pub fn taken(&self) -> (usize, usize) {
        (self.open.load(Ordering::Relaxed), self.most.load(Ordering::Relaxed))
    }

    fn is_full(&self) -> bool {
        let full = self.open.load(Ordering::Relaxed) >= self.most.load(Ordering::Relaxed);
        if full && !self.said.swap(true, Ordering::Relaxed) {
            warn!(connections = self.most.load(Ordering::Relaxed), "no room for more connections");
        }
        full
    }

    /// Takes a place for a connection; `here` counts those of its listener.
    fn place(self: &Arc<Self>, here: &Arc<AtomicUsize>) -> Place {
        self.open.fetch_add(1, Ordering::Relaxed);
        here.fetch_add(1, Ordering::Relaxed);
        Place(self.clone(), here.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let open = self.0.open.fetch_sub(1, Ordering::Relaxed) - 1;
        // Said again only after there was room worth the name, or a full gateway would say nothing else.
        if open < self.0.most.load(Ordering::Relaxed) / 10 * 9 {
            self.0.said.store(false, Ordering::Relaxed);
        }
        self.1.fetch_sub(1, Ordering::Relaxed);
        // All of them: the one that has a connection waiting is not known.
        self.0.freed.notify_waiters();
    }
}

/// Waits until there is room behind the door. Each worker may go one connection beyond it.
async fn room<T>(door: &impl Fn() -> Arc<Door<T>>) {
    loop {
        let room = door().room.clone();
        let freed = room.freed.notified();
        if !room.is_full() {
            return;
        }
        freed.await;
    }
}

/// Accepts until told to stop, then takes what the kernel has already queued, so that nobody who was let in is dropped.
pub async fn accept<T>(
    listener: TcpListener,
    stop: CancellationToken,
    door: impl Fn() -> Arc<Door<T>>,
    mut on: impl FnMut(&Arc<Door<T>>, TcpStream, SocketAddr, Place),
) {
    let mut full = false;
    loop {
        let next = async {
            room(&door).await;
            listener.accept().await
        };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = next => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                full = false;
                // Refused only on a socket that is gone already.
                let _ = stream.set_nodelay(true);
                let door = door();
                on(&door, stream, from, door.room.place(&door.connections));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut full, true) {
                    warn!(listener = %door().name, %error, "accepting rests");
                }
                tokio::time::sleep(REST).await;
            }
        }
    }
    if let Ok(listener) = listener.into_std() {
        let door = door();
        loop {
            let (stream, from) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(_) => break,
            };
            let ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
            if let (Ok(()), Ok(stream)) = (ready, TcpStream::from_std(stream)) {
                on(&door, stream, from, door.room.place(&door.connections));
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

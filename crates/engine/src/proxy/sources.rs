//! Tells apart who speaks to a port for datagrams: every source address has a session of its own.
//!
//! Anybody can write any source into a datagram, so there are only so many sessions, and of too many the one that has
//! been idle longest ends. What a session does with its datagrams is the caller's.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use hashbrown::HashMap;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::datagrams::{End, LARGEST, Unsent, unsent};

/// Datagrams of one source that may wait until its session takes them.
const QUEUE: usize = 16;
/// Bytes that may wait so, of all sources together.
const WAITING: usize = 8 << 20;
/// Datagrams taken from a socket before others have their turn.
const TURN: usize = 64;

/// The sessions of one port, whichever of its sockets they came by.
pub struct Sources {
    state: Mutex<State>,
    /// Bytes that wait.
    waiting: Arc<AtomicUsize>,
    /// Sessions there are.
    open: Arc<AtomicUsize>,
    /// Sessions that ended because there were too many.
    evicted: AtomicU64,
    since: Instant,
}

#[derive(Default)]
struct State {
    sessions: HashMap<SocketAddr, Known>,
    /// When sessions were used at last, as far as it was looked: the earliest first.
    idle: BinaryHeap<Reverse<(u64, u64, SocketAddr)>>,
    next: u64,
}

/// A session, as its port sees it.
struct Known {
    number: u64,
    queue: mpsc::Sender<Held>,
    used: Arc<AtomicU64>,
}

/// A datagram that waits.
struct Held {
    payload: Bytes,
    waiting: Arc<AtomicUsize>,
}

/// What became of a datagram.
pub enum Taken {
    /// Its session has it.
    Queued,
    /// It is dropped: too many wait.
    Full,
    /// It is the first one of a session, which the caller begins.
    Begins(Source),
}

/// What a source says, and the way back to it. Dropping it ends the session.
pub struct Source {
    /// Who it is.
    pub address: SocketAddr,
    number: u64,
    queue: mpsc::Receiver<Held>,
    socket: Arc<UdpSocket>,
    used: Arc<AtomicU64>,
    sources: Arc<Sources>,
}

impl Sources {
    /// None yet; `open` counts them.
    pub fn new(open: Arc<AtomicUsize>) -> Arc<Self> {
        let (state, waiting, evicted) = (Mutex::default(), Arc::default(), AtomicU64::new(0));
        Arc::new(Sources { state, waiting, open, evicted, since: Instant::now() })
    }

    /// Sessions there are.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Sessions that ended because there were too many.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Takes a datagram that came by `socket`. There are at most so many sessions.
    pub fn take(self: &Arc<Self>, socket: &Arc<UdpSocket>, from: SocketAddr, payload: &[u8], most: usize) -> Taken {
        if self.waiting.load(Ordering::Relaxed) + payload.len() > WAITING {
            return Taken::Full;
        }
        let held = Held::new(payload, &self.waiting);
        let mut state = self.lock();
        let held = match state.sessions.get(&from) {
            Some(known) => {
                known.used.store(self.now(), Ordering::Relaxed);
                match known.queue.try_send(held) {
                    Ok(()) => return Taken::Queued,
                    Err(mpsc::error::TrySendError::Full(_)) => return Taken::Full,
                    // It is about to be gone.
                    Err(mpsc::error::TrySendError::Closed(held)) => held,
                }
            }
            None => held,
        };
        while state.sessions.len() >= most.max(1) && !state.sessions.contains_key(&from) {
            if !state.evict() {
                break;
            }
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
        Taken::Begins(self.begin(&mut state, socket.clone(), from, held))
    }

    fn begin(self: &Arc<Self>, state: &mut State, socket: Arc<UdpSocket>, address: SocketAddr, first: Held) -> Source {
        let (into, queue) = mpsc::channel(QUEUE);
        // There is room for the first one.
        let _ = into.try_send(first);
        let (number, now) = (state.next, self.now());
        state.next += 1;
        let used = Arc::new(AtomicU64::new(now));
        state.idle.push(Reverse((now, number, address)));
        state.sessions.insert(address, Known { number, queue: into, used: used.clone() });
        self.open.store(state.sessions.len(), Ordering::Relaxed);
        Source { address, number, queue, socket, used, sources: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl State {
    /// Ends the session that has been idle longest; false where there is none.
    fn evict(&mut self) -> bool {
        while let Some(Reverse((looked, number, address))) = self.idle.pop() {
            let Some(known) = self.sessions.get(&address).filter(|known| known.number == number) else { continue };
            let used = known.used.load(Ordering::Relaxed);
            if used > looked {
                self.idle.push(Reverse((used, number, address)));
                continue;
            }
            self.sessions.remove(&address);
            return true;
        }
        false
    }

    fn leave(&mut self, address: SocketAddr, number: u64) {
        if self.sessions.get(&address).is_some_and(|known| known.number == number) {
            self.sessions.remove(&address);
        }
        // Those of sessions that are gone are met when one is to end, which may never be.
        if self.idle.len() > 2 * self.sessions.len() + 64 {
            let sessions = &self.sessions;
            self.idle.retain(|Reverse((_, number, address))| {
                sessions.get(address).is_some_and(|known| known.number == *number)
            });
        }
    }
}

impl Held {
    fn new(payload: &[u8], waiting: &Arc<AtomicUsize>) -> Self {
        waiting.fetch_add(payload.len(), Ordering::Relaxed);
        Held { payload: Bytes::copy_from_slice(payload), waiting: waiting.clone() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.payload.len(), Ordering::Relaxed);
    }
}

impl End for Source {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.queue.poll_recv(cx).map(|held| held.map(|held| held.payload.clone()))
    }

    fn send(&mut self, payload: &[u8]) -> Result<(), Unsent> {
        self.used.store(self.sources.now(), Ordering::Relaxed);
        unsent(SockRef::from(&*self.socket).send_to(payload, &self.address.into()))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut state = self.sources.lock();
        state.leave(self.address, self.number);
        self.sources.open.store(state.sessions.len(), Ordering::Relaxed);
    }
}

/// Hands on every datagram that comes, until told to stop.
pub async fn receive(socket: Arc<UdpSocket>, stop: CancellationToken, mut on: impl FnMut(&[u8], SocketAddr)) {
    let mut space = vec![0; LARGEST].into_boxed_slice();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // It has no error of its own.
            _ = socket.readable() => {}
        }
        for _ in 0..TURN {
            match socket.try_recv_from(&mut space) {
                Ok((length, from)) => on(&space[..length], from),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                // About a datagram that was sent.
                Err(_) => {}
            }
        }
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn port() -> Arc<UdpSocket> {
        Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("bind"))
    }

    fn from(number: u16) -> SocketAddr {
        ([10, 0, (number >> 8) as u8, number as u8], 53).into()
    }

    fn begins(taken: Taken) -> Source {
        match taken {
            Taken::Begins(source) => source,
            Taken::Queued => panic!("it is known"),
            Taken::Full => panic!("it is full"),
        }
    }

    async fn next(source: &mut Source) -> Option<Bytes> {
        std::future::poll_fn(|cx| source.poll_recv(cx)).await
    }

    #[tokio::test]
    async fn every_source_has_its_own_and_keeps_it() {
        let (sources, socket) = (Sources::new(Arc::default()), port().await);
        let mut one = begins(sources.take(&socket, from(1), b"a", 8));
        let mut other = begins(sources.take(&socket, from(2), b"b", 8));
        assert!(matches!(sources.take(&socket, from(1), b"c", 8), Taken::Queued));
        assert_eq!(next(&mut one).await.as_deref(), Some(&b"a"[..]));
        assert_eq!(next(&mut one).await.as_deref(), Some(&b"c"[..]));
        assert_eq!(next(&mut other).await.as_deref(), Some(&b"b"[..]));
        drop(one);
        assert_eq!(sources.open.load(Ordering::Relaxed), 1);
        let again = begins(sources.take(&socket, from(1), b"d", 8));
        drop((again, other));
        assert_eq!((sources.open.load(Ordering::Relaxed), sources.waiting.load(Ordering::Relaxed)), (0, 0));
    }

    #[tokio::test]
    async fn of_too_many_the_one_that_was_idle_longest_ends() {
        let (sources, socket) = (Sources::new(Arc::default()), port().await);
        let mut kept: Vec<_> = (0..4).map(|n| begins(sources.take(&socket, from(n), b"x", 4))).collect();
        for source in &mut kept {
            next(source).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        // The first is used, and so is the second, by what goes back to it.
        assert!(matches!(sources.take(&socket, from(0), b"y", 4), Taken::Queued));
        let _ = kept[1].send(b"back");
        let new = begins(sources.take(&socket, from(9), b"z", 4));
        assert_eq!((sources.evicted(), sources.open.load(Ordering::Relaxed)), (1, 4));
        assert_eq!(next(&mut kept[2]).await, None);
        for known in [0, 1, 3] {
            assert!(matches!(sources.take(&socket, from(known), b"y", 4), Taken::Queued));
        }
        drop(new);
    }

    #[tokio::test]
    async fn what_nobody_takes_is_bounded_and_so_is_what_is_remembered() {
        let (sources, socket) = (Sources::new(Arc::default()), port().await);
        let mut kept = Vec::new();
        for number in 0..5000u16 {
            if let Taken::Begins(source) = sources.take(&socket, from(number), &[0; 1400], 64) {
                kept.push(source);
            }
        }
        assert!(sources.waiting.load(Ordering::Relaxed) <= WAITING);
        assert_eq!(sources.open.load(Ordering::Relaxed), 64);
        let first = kept.pop().expect("the last one");
        for _ in 1..QUEUE {
            assert!(!matches!(sources.take(&socket, first.address, b"", 64), Taken::Begins(_)));
        }
        assert!(matches!(sources.take(&socket, first.address, b"", 64), Taken::Full));
        drop(kept);
        drop(first);
        for number in 0..1000 {
            drop(begins(sources.take(&socket, from(number), b"x", 64)));
        }
        let state = sources.lock();
        assert!(state.sessions.is_empty() && state.idle.len() < 200, "{}", state.idle.len());
    }
}

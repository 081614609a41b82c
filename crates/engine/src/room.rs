//! How many connections there may be, and which of them makes room for another when all places are taken.
//!
//! A connection says when it waits for the other side to ask something, and when for the rest of what it asks. Where
//! there is no place left the one that has waited longest ends, if it has waited a while; else the new one is refused.
//! One on which half a request has come ends after those that lose nothing. What a refusal looks like is
//! `listener::refuse`'s.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hashbrown::HashMap;
use rustix::process::{Resource, getrlimit};
use tokio::time::Instant;
use tracing::warn;

use crate::metrics::Page;

/// A connection that waits shorter than this may have a request on its way.
const RESTED: Duration = Duration::from_secs(1);

/// From one search for those that wait longest to the next, which may find none again: it looks at every connection.
const SEARCH: Duration = Duration::from_millis(100);

/// How many of them one search remembers.
const FOUND: usize = 1024;

/// Descriptors that visitors cannot take, for the admin listener, agents, upstreams and files; fewer where there are
/// few.
const RESERVED: u64 = 128;

/// Places for connections, of all listeners that share them.
pub struct Room {
    open: AtomicUsize,
    most: AtomicUsize,
    began: Instant,
    /// It has been said that there is none left.
    said: AtomicBool,
    seats: Mutex<Seats>,
    rested: Mutex<Rested>,
    /// Connections that ended to make room.
    idle: AtomicU64,
    /// Connections refused because there was none.
    full: AtomicU64,
    /// Connections refused because descriptors are short.
    descriptors: AtomicU64,
}

#[derive(Default)]
struct Seats {
    next: u64,
    taken: HashMap<u64, Arc<Seat>>,
}

/// Those that a search has found, the longest wait last.
struct Rested {
    found: Vec<(u64, Arc<Seat>)>,
    again: Instant,
}

/// What a connection does just now.
struct Seat {
    /// Milliseconds from the room's beginning to that of the wait, with `HALF` where half a request has come; `BUSY` or
    /// `EVICTED`.
    since: AtomicU64,
    waker: Mutex<Option<Waker>>,
    /// The waker is that of the place.
    is_places: AtomicBool,
}

const BUSY: u64 = 0;
const HALF: u64 = 1 << 63;
const EVICTED: u64 = u64::MAX;

/// One connection's place. Busy until it says otherwise.
pub struct Place {
    room: Arc<Room>,
    here: Arc<AtomicUsize>,
    number: u64,
    seat: Arc<Seat>,
    /// Who is woken when it is to end: the seat knows that already.
    registered: Option<Waker>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// As many connections as there may be.
    Connections,
    /// Almost no descriptor is left.
    Descriptors,
}

impl Full {
    /// In words.
    pub fn why(self) -> &'static str {
        match self {
            Full::Connections => "as many connections as limits.connections allows",
            Full::Descriptors => "almost no descriptor is left for this process",
        }
    }
}

impl Room {
    /// Room for so many.
    pub fn new(most: usize) -> Arc<Self> {
        let began = Instant::now();
        Arc::new(Room {
            open: AtomicUsize::new(0),
            most: AtomicUsize::new(most),
            began,
            said: AtomicBool::new(false),
            seats: Mutex::default(),
            rested: Mutex::new(Rested { found: Vec::new(), again: began }),
            idle: AtomicU64::new(0),
            full: AtomicU64::new(0),
            descriptors: AtomicU64::new(0),
        })
    }

    /// From now on room for so many.
    pub fn resize(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Connections that are open, and how many may be.
    pub fn taken(&self) -> (usize, usize) {
        (self.open.load(Ordering::Relaxed), self.most.load(Ordering::Relaxed))
    }

    /// A place for a connection that was accepted; `here` counts those of its listener. Whoever has to end for it ends
    /// soon: for that moment each worker may go beyond what there is room for.
    pub fn admit(self: &Arc<Self>, connection: impl AsFd, here: &Arc<AtomicUsize>) -> Result<Place, Full> {
        self.admit_where(descriptors_left(connection), here)
    }

    /// The same for a connection that takes no descriptor: many share a socket.
    pub fn admit_without_descriptor(self: &Arc<Self>, here: &Arc<AtomicUsize>) -> Result<Place, Full> {
        self.admit_where(Left::Enough, here)
    }

    fn admit_where(self: &Arc<Self>, left: Left, here: &Arc<AtomicUsize>) -> Result<Place, Full> {
        let (open, most) = self.taken();
        let short = match (open >= most, left) {
            (_, Left::None) => {
                self.say(most);
                // What ends now makes room for those that come later.
                self.idle.fetch_add(u64::from(self.evict()), Ordering::Relaxed);
                self.descriptors.fetch_add(1, Ordering::Relaxed);
                return Err(Full::Descriptors);
            }
            (true, _) => Some((Full::Connections, &self.full)),
            (false, Left::Few) => Some((Full::Descriptors, &self.descriptors)),
            (false, Left::Enough) => None,
        };
        if let Some((why, refused)) = short {
            self.say(most);
            if !self.evict() {
                refused.fetch_add(1, Ordering::Relaxed);
                return Err(why);
            }
            self.idle.fetch_add(1, Ordering::Relaxed);
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        here.fetch_add(1, Ordering::Relaxed);
        let seat =
            Arc::new(Seat { since: AtomicU64::new(BUSY), waker: Mutex::default(), is_places: AtomicBool::new(false) });
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let number = seats.next;
        seats.next += 1;
        seats.taken.insert(number, seat.clone());
        Ok(Place { room: self.clone(), here: here.clone(), number, seat, registered: None })
    }

    fn say(&self, most: usize) {
        if !self.said.swap(true, Ordering::Relaxed) {
            warn!(connections = most, "no room for more connections");
        }
    }

    /// Ends the connection that has waited longest. False where none has waited long enough.
    fn evict(&self) -> bool {
        let mut rested = self.rested.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            while let Some((since, seat)) = rested.found.pop() {
                if seat.evict(since) {
                    return true;
                }
            }
            let now = Instant::now();
            if now < rested.again {
                return false;
            }
            rested.again = now + SEARCH;
            rested.found = self.search(now);
            if rested.found.is_empty() {
                return false;
            }
        }
    }

    fn search(&self, now: Instant) -> Vec<(u64, Arc<Seat>)> {
        let Some(before) = now.checked_sub(RESTED).filter(|then| *then > self.began) else { return Vec::new() };
        let before = self.millis(before);
        let seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = seats.taken.values().map(|seat| (seat.since.load(Ordering::Relaxed), seat));
        let mut found: Vec<_> = waiting.filter(|(since, _)| (1..=before).contains(&(since & !HALF))).collect();
        found.sort_unstable_by_key(|(since, _)| *since);
        found.truncate(FOUND);
        found.into_iter().rev().map(|(since, seat)| (since, seat.clone())).collect()
    }

    /// Milliseconds since the room began, and one, so that they are never `BUSY`.
    fn millis(&self, then: Instant) -> u64 {
        u64::try_from(then.saturating_duration_since(self.began).as_millis()).unwrap_or(HALF - 3) + 1
    }
}

impl Seat {
    fn evict(&self, since: u64) -> bool {
        let evicted = self.since.compare_exchange(since, EVICTED, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if evicted && let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
        evicted
    }

    fn is_evicted(&self) -> bool {
        self.since.load(Ordering::Acquire) == EVICTED
    }

    fn poll_evicted(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_evicted() {
            return Poll::Ready(());
        }
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Place {
    /// The connection waits for the other side, since `now` if it was busy until then.
    pub fn idle(&self, now: Instant) {
        let since = self.room.millis(now);
        // It is idle already, or is to end.
        let _ = self.seat.since.compare_exchange(BUSY, since, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Half of what the other side asks has come, the first byte of it `now`: the connection waits for the rest.
    pub fn half(&self, now: Instant) {
        self.becomes(self.room.millis(now) | HALF);
    }

    /// The other side has asked something. Where it was too late to be spared the connection ends after that.
    pub fn busy(&self) {
        self.becomes(BUSY);
    }

    fn becomes(&self, what: u64) {
        let since = self.seat.since.load(Ordering::Relaxed);
        if since != EVICTED {
            // Evicted between the two lines.
            let _ = self.seat.since.compare_exchange(since, what, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Ready when the connection is to end to make room for another.
    pub fn poll_evicted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_known = self.registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if !is_known || !self.seat.is_places.load(Ordering::Acquire) {
            self.registered = Some(cx.waker().clone());
            self.seat.is_places.store(true, Ordering::Release);
            return self.seat.poll_evicted(cx);
        }
        if self.seat.is_evicted() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Resolves when the connection is to end to make room for another.
    pub async fn evicted(&self) {
        let _waiting = Waiting(&self.seat);
        std::future::poll_fn(|cx| self.seat.poll_evicted(cx)).await;
    }
}

/// A task that waits until its connection is evicted. When it does no more, nothing holds its memory: whoever is to be
/// woken keeps it whole, and the connection may live on in another task.
struct Waiting<'a>(&'a Seat);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.is_places.store(false, Ordering::Release);
        *self.0.waker.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let room = &self.room;
        room.seats.lock().unwrap_or_else(PoisonError::into_inner).taken.remove(&self.number);
        let open = room.open.fetch_sub(1, Ordering::Relaxed) - 1;
        // Said again only after there was room worth the name, or a full gateway would say nothing else.
        if open < room.most.load(Ordering::Relaxed) / 10 * 9 {
            room.said.store(false, Ordering::Relaxed);
        }
        self.here.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What was given up for want of room, of all rooms of a role.
pub fn render(rooms: &[&Room], page: &mut Page) {
    page.family(
        "tidegate_connections_shed_total",
        "counter",
        "Connections ended or refused for want of room: idle ones that ended, new ones that were refused.",
    );
    let sum = |pick: fn(&Room) -> &AtomicU64| rooms.iter().map(|room| pick(room).load(Ordering::Relaxed)).sum::<u64>();
    for (reason, count) in [
        ("idle", sum(|room| &room.idle)),
        ("full", sum(|room| &room.full)),
        ("descriptors", sum(|room| &room.descriptors)),
    ] {
        page.value(&[("reason", reason)], count as f64);
    }
}

/// How many descriptors the process has left besides those of the reserve.
enum Left {
    Enough,
    Few,
    None,
}

/// Judges by the newest descriptor: the system gives the lowest that is free.
fn descriptors_left(newest: impl AsFd) -> Left {
    let Some(most) = getrlimit(Resource::Nofile).current else { return Left::Enough };
    let reserved = RESERVED.min(most / 4);
    let above = u64::try_from(newest.as_fd().as_raw_fd()).unwrap_or_default();
    match most.saturating_sub(above) {
        left if left <= reserved / 2 => Left::None,
        left if left <= reserved => Left::Few,
        _ => Left::Enough,
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::pin::pin;
    use std::task::Wake;

    use super::*;

    fn some_descriptor() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").expect("a socket")
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_that_waits_longest_makes_room() {
        let (room, here, fd) = (Room::new(2), Arc::default(), some_descriptor());
        let first = room.admit(&fd, &here).expect("room");
        let second = room.admit(&fd, &here).expect("room");
        second.idle(Instant::now());
        tokio::time::advance(Duration::from_millis(10)).await;
        first.idle(Instant::now());
        tokio::time::advance(RESTED * 2).await;

        let third = room.admit(&fd, &here).expect("room is made");
        second.evicted().await;
        drop(second);
        assert_eq!((room.taken(), here.load(Ordering::Relaxed)), ((2, 2), 2));
        let fourth = room.admit(&fd, &here).expect("room is made");
        first.evicted().await;
        drop((first, third, fourth));
        assert_eq!((room.taken().0, here.load(Ordering::Relaxed)), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_request_makes_room_after_those_that_lose_nothing_and_the_oldest_first() {
        let (room, here, fd) = (Room::new(3), Arc::default(), some_descriptor());
        let places: Vec<Place> = (0..3).map(|_| room.admit(&fd, &here).expect("room")).collect();
        for place in &places {
            place.idle(Instant::now());
        }
        // The byte counts, not when the connection began to wait for it.
        for half in [&places[1], &places[0]] {
            tokio::time::advance(Duration::from_millis(10)).await;
            half.half(Instant::now());
        }
        tokio::time::advance(RESTED * 2).await;
        for next in [2, 1, 0] {
            let _new = room.admit(&fd, &here).expect("room is made");
            places[next].evicted().await;
        }
        assert_eq!(room.admit(&fd, &here).err(), Some(Full::Connections));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_who_is_busy_or_has_just_asked_makes_room() {
        let (room, here, fd) = (Room::new(2), Arc::default(), some_descriptor());
        let busy = room.admit(&fd, &here).expect("room");
        let recent = room.admit(&fd, &here).expect("room");
        recent.idle(Instant::now());
        assert_eq!(room.admit(&fd, &here).err(), Some(Full::Connections));
        tokio::time::advance(RESTED * 2).await;
        recent.busy();
        assert_eq!(room.admit(&fd, &here).err(), Some(Full::Connections));
        drop(busy);
        assert!(room.admit(&fd, &here).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_comes_too_late_is_answered_and_is_the_last() {
        let (room, here, fd) = (Room::new(1), Arc::default(), some_descriptor());
        let late = room.admit(&fd, &here).expect("room");
        late.idle(Instant::now());
        tokio::time::advance(RESTED * 2).await;
        let _new = room.admit(&fd, &here).expect("room is made");
        late.busy();
        late.idle(Instant::now());
        late.evicted().await;
    }

    #[derive(Default)]
    struct Told(AtomicBool);

    impl Wake for Told {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_waits_no_more_is_held_by_nobody_and_one_that_waits_again_is_woken() {
        let (room, here, fd) = (Room::new(1), Arc::default(), some_descriptor());
        let mut place = room.admit(&fd, &here).expect("room");
        place.idle(Instant::now());
        let told = Arc::new(Told::default());
        let waker = Waker::from(told.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(place.poll_evicted(&mut cx).is_pending());
        assert!(pin!(place.evicted()).poll(&mut cx).is_pending());
        assert!(place.seat.waker.lock().is_ok_and(|waker| waker.is_none()));

        assert!(place.poll_evicted(&mut cx).is_pending());
        tokio::time::advance(RESTED * 2).await;
        let _new = room.admit(&fd, &here).expect("room is made");
        assert!(told.0.load(Ordering::Relaxed) && place.poll_evicted(&mut cx).is_ready());
    }
}

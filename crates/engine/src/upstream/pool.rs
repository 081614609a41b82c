//! Connections kept open between requests, by upstream and protocol, newest first out, one pool a worker.
//!
//! What a connection is, and how one sees that it is still good, is the owner's: the pool keeps and forgets.

use std::time::Duration;

use hashbrown::HashMap;
use tokio::time::Instant;

use super::info::StreamKind;

/// Idle connections by upstream id and protocol.
pub struct Pool<C> {
    idle: HashMap<(u64, StreamKind), Vec<(C, Instant)>>,
    capacity: usize,
    keep: Duration,
}

impl<C> Pool<C> {
    /// Keeps at most `capacity` connections for an upstream, each for `keep`.
    pub fn new(capacity: usize, keep: Duration) -> Self {
        Pool { idle: HashMap::new(), capacity, keep }
    }

    /// The connection that was put back last; the caller looks whether it is still good and asks again if not.
    pub fn take(&mut self, upstream: u64, kind: StreamKind) -> Option<C> {
        let idle = self.idle.get_mut(&(upstream, kind))?;
        // Where the newest was kept too long, all were: they wait to be swept.
        let fresh = idle.last().is_some_and(|(_, since)| since.elapsed() < self.keep);
        if fresh { idle.pop().map(|(connection, _)| connection) } else { None }
    }

    /// From now on keeps at most `capacity` connections for an upstream, each for `keep`.
    pub fn resize(&mut self, capacity: usize, keep: Duration) {
        (self.capacity, self.keep) = (capacity, keep);
    }

    /// Keeps a connection, or gives it back to be closed where there are enough.
    pub fn put(&mut self, upstream: u64, kind: StreamKind, connection: C) -> Option<C> {
        let idle = self.idle.entry((upstream, kind)).or_default();
        if idle.len() >= self.capacity {
            return Some(connection);
        }
        idle.push((connection, Instant::now()));
        None
    }

    /// Takes out what was kept too long or is no longer good, to be dropped where no lock is held.
    pub fn sweep(&mut self, mut is_good: impl FnMut(&mut C) -> bool) -> Vec<C> {
        let (now, keep) = (Instant::now(), self.keep);
        let mut gone = Vec::new();
        self.idle.retain(|_, idle| {
            gone.extend(
                idle.extract_if(.., |(c, since)| now.duration_since(*since) >= keep || !is_good(c)).map(|(c, _)| c),
            );
            !idle.is_empty()
        });
        gone
    }

    /// Takes out everything kept for an upstream.
    pub fn remove(&mut self, upstream: u64) -> Vec<C> {
        let removed = self.idle.extract_if(|(id, _), _| *id == upstream);
        removed.flat_map(|(_, idle)| idle).map(|(connection, _)| connection).collect()
    }

    /// Takes out everything.
    pub fn clear(&mut self) -> Vec<C> {
        self.idle.drain().flat_map(|(_, idle)| idle).map(|(connection, _)| connection).collect()
    }

    /// How many connections are kept.
    pub fn len(&self) -> usize {
        self.idle.values().map(Vec::len).sum()
    }

    /// True when none is kept.
    pub fn is_empty(&self) -> bool {
        self.idle.values().all(Vec::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_newest_comes_out_first_and_the_old_are_swept() {
        let mut pool = Pool::new(2, Duration::from_secs(10));
        assert_eq!(pool.put(1, StreamKind::Http1, "a"), None);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(pool.put(1, StreamKind::Http1, "b"), None);
        assert_eq!(pool.put(1, StreamKind::Http1, "c"), Some("c"));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(pool.sweep(|_| true), ["a"]);
        assert_eq!(pool.take(1, StreamKind::Http1), Some("b"));
        assert_eq!(pool.take(1, StreamKind::Http1), None);
        assert!(pool.is_empty());
    }
}

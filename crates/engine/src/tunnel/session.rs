//! The handle of a session: opens and takes streams, drains, ends.

use std::future::{Future, poll_fn};
use std::sync::Arc;

use super::driver::Driver;
use super::shared::Shared;
use super::{Config, End, Ending, OpenError, Stats, Stream, frame};
use crate::io::{BoxedIo, Buffer};

/// Starts a session on `io`. `early` holds the bytes that were read behind the upgrade. The caller spawns the driver,
/// which ends when the session has; dropping it resets the session. Dropping all handles does not end the session.
pub fn start(io: BoxedIo, early: Buffer, config: Config) -> (Session, impl Future<Output = ()> + Send + 'static) {
    let (shared, mut driver) = Driver::new(io, early, config);
    (Session { shared }, async move { poll_fn(|cx| driver.poll(cx)).await })
}

/// One authenticated connection with the streams on it. Cheap to clone.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

impl Session {
    /// Opens a stream, at once. Whether the peer takes it shows when it is read or written.
    pub fn open(&self) -> Result<Stream, OpenError> {
        let id = self.shared.with(|mux| mux.open())?;
        Ok(Stream::new(self.shared.clone(), id))
    }

    /// The same, after waiting for the peer where too many streams lack its answer. Cancel-safe.
    pub async fn open_when_answered(&self) -> Result<Stream, OpenError> {
        loop {
            let changed = self.shared.changed.notified();
            match self.open() {
                Err(OpenError::Unanswered) => changed.await,
                outcome => return outcome,
            }
        }
    }

    /// Waits for a stream of the peer; `None` when the session has ended. Cancel-safe.
    pub async fn accept(&self) -> Option<Stream> {
        loop {
            let arrived = self.shared.arrived.notified();
            {
                let mut state = self.shared.lock();
                if let Some(id) = state.mux.accept() {
                    drop(state);
                    return Some(Stream::new(self.shared.clone(), id));
                }
                if state.mux.ended().is_some() {
                    return None;
                }
            }
            arrived.await;
        }
    }

    /// Whether it is worth calling [`Session::open`]: not ended, and the peer is not leaving.
    pub fn is_open(&self) -> bool {
        self.shared.lock().mux.is_open()
    }

    /// Drains: the peer is told to open no more streams, and is refused where it does. Running streams go on.
    pub fn go_away(&self) {
        self.shared.with(|mux| mux.go_away());
    }

    /// Waits until the peer has answered a ping sent from now on: whatever it had sent before it read what we said last
    /// has come then. Returns at the end of the session, too.
    pub async fn settle(&self) {
        let mut awaited = None;
        loop {
            let changed = self.shared.changed.notified();
            let settled = self.shared.with(|mux| match awaited {
                _ if mux.ended().is_some() => true,
                Some(answers) => mux.answers() >= answers,
                None => {
                    if !mux.is_asking() {
                        mux.ask();
                        awaited = Some(mux.answers() + 1);
                    }
                    false
                }
            });
            if settled {
                return;
            }
            changed.await;
        }
    }

    /// Ends the session and all its streams.
    pub fn end(&self, how: Ending) {
        self.shared.lock().ending.get_or_insert(how);
        let closed = End::Closed { by_peer: false, code: None, reason: String::new() };
        match how {
            Ending::Close => self.shared.end(closed, None),
            Ending::GoAway2 => self.shared.end(closed, Some(frame::GO_AWAY_INTERNAL)),
            Ending::Reset => self.shared.end(End::Reset, None),
        }
    }

    /// Waits for the end of the session and says why. Any number may wait.
    pub async fn ended(&self) -> End {
        loop {
            let changed = self.shared.changed.notified();
            if let Some(end) = self.end_reason() {
                return end;
            }
            changed.await;
        }
    }

    /// Why the session has ended, if it has.
    pub fn end_reason(&self) -> Option<End> {
        self.shared.lock().mux.ended().cloned()
    }

    /// Waits until the peer is leaving or the session has ended.
    pub async fn gone_away(&self) {
        loop {
            let changed = self.shared.changed.notified();
            {
                let state = self.shared.lock();
                if state.mux.peer_is_leaving() || state.mux.ended().is_some() {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Streams open now.
    pub fn streams(&self) -> usize {
        self.shared.lock().mux.streams()
    }

    /// What the session has done so far.
    pub fn stats(&self) -> Stats {
        self.shared.lock().mux.stats()
    }

    /// Memory held for streams and messages, roughly, in bytes.
    pub fn memory(&self) -> usize {
        self.shared.lock().mux.memory()
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({} streams)", self.streams())
    }
}

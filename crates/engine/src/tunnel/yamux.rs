//! A session of yamux over one byte stream, as its handle sees it.

use std::future::{Future, poll_fn};
use std::sync::Arc;

use super::driver::Driver;
use super::shared::Shared;
use super::stream::Stream;
use super::{Config, End, Ending, OpenError, Session, Stats, frame};
use crate::io::{BoxedIo, Buffer};

/// Starts a session on `io`. `early` holds the bytes that were read behind the upgrade. The caller spawns the driver,
/// which ends when the session has; dropping it resets the session. Dropping all handles does not end the session.
pub fn start(io: BoxedIo, early: Buffer, config: Config) -> (Session, impl Future<Output = ()> + Send + 'static) {
    let (shared, driver) = Driver::new(io, early, config);
    // In a box: every future that it is handed to on its way would have room for it.
    let mut driver = Box::new(driver);
    (Session::yamux(Handle { shared }), async move { poll_fn(|cx| driver.poll(cx)).await })
}

/// What [`Session`] stands for where it is yamux; its methods are described there.
#[derive(Clone)]
pub(super) struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn open(&self) -> Result<Stream, OpenError> {
        let id = self.shared.with(|mux| mux.open())?;
        Ok(Stream::new(self.shared.clone(), id))
    }

    pub(super) async fn open_when_answered(&self) -> Result<Stream, OpenError> {
        loop {
            let changed = self.shared.changed.notified();
            match self.open() {
                Err(OpenError::Unanswered) => changed.await,
                outcome => return outcome,
            }
        }
    }

    pub(super) async fn accept(&self) -> Option<Stream> {
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

    pub(super) fn is_open(&self) -> bool {
        self.shared.lock().mux.is_open()
    }

    pub(super) fn go_away(&self) {
        self.shared.with(|mux| mux.go_away());
    }

    pub(super) async fn settle(&self) {
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

    pub(super) fn end(&self, how: Ending) {
        self.shared.lock().ending.get_or_insert(how);
        let closed = End::Closed { by_peer: false, code: None, reason: String::new() };
        match how {
            Ending::Close => self.shared.end(closed, None),
            Ending::GoAway2 => self.shared.end(closed, Some(frame::GO_AWAY_INTERNAL)),
            Ending::Reset => self.shared.end(End::Reset, None),
        }
    }

    pub(super) async fn ended(&self) -> End {
        loop {
            let changed = self.shared.changed.notified();
            if let Some(end) = self.end_reason() {
                return end;
            }
            changed.await;
        }
    }

    pub(super) fn end_reason(&self) -> Option<End> {
        self.shared.lock().mux.ended().cloned()
    }

    pub(super) async fn gone_away(&self) {
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

    pub(super) fn streams(&self) -> usize {
        self.shared.lock().mux.streams()
    }

    pub(super) fn stats(&self) -> Stats {
        self.shared.lock().mux.stats()
    }

    pub(super) fn memory(&self) -> usize {
        self.shared.lock().mux.memory()
    }
}

//! What the handle of a session, its streams and its driver share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::sync::Notify;

use super::mux::Mux;
use super::{End, Ending};

/// One lock for everything: it is held for the time of a copy, and wakers are called when it is free again.
pub(super) struct Shared {
    state: Mutex<State>,
    /// A stream has come, or the session has ended.
    pub(super) arrived: Notify,
    /// The peer is leaving, has answered where somebody waited for that, or the session has ended.
    pub(super) changed: Notify,
}

pub(super) struct State {
    pub(super) mux: Mux,
    /// Wakes the driver while it sleeps.
    pub(super) driver: Option<Waker>,
    /// The driver waits for the byte stream to take bytes; more of them are no reason to wake it.
    pub(super) blocked: bool,
    /// How the session is to be ended.
    pub(super) ending: Option<Ending>,
}

impl Shared {
    pub(super) fn new(mux: Mux) -> Arc<Self> {
        let state = State { mux, driver: None, blocked: false, ending: None };
        Arc::new(Shared { state: Mutex::new(state), arrived: Notify::new(), changed: Notify::new() })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` on the streams and wakes whoever can go on after it, the driver included.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Mux) -> T) -> T {
        let mut state = self.lock();
        let value = f(&mut state.mux);
        let mut wakes = Vec::new();
        state.mux.take_wakes(&mut wakes);
        let ended = state.mux.ended().is_some();
        if ended || (!state.blocked && state.mux.has_work()) {
            wakes.extend(state.driver.take());
        }
        drop(state);
        wakes.into_iter().for_each(Waker::wake);
        value
    }

    /// Ends the session for its streams and its handles.
    pub(super) fn end(&self, reason: End, code: Option<u32>) {
        self.with(|mux| mux.end(reason, code));
        self.notify_ended();
    }

    pub(super) fn notify_ended(&self) {
        self.arrived.notify_waiters();
        self.changed.notify_waiters();
    }

    /// Tells those who wait for a stream that `count` have come.
    pub(super) fn notify_arrived(&self, count: usize) {
        (0..count).for_each(|_| self.arrived.notify_one());
    }

    pub(super) fn notify_changed(&self) {
        self.changed.notify_waiters();
    }
}

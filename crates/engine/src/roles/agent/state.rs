//! What is known of one tunnel, for whoever asks.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// The state of one tunnel of an endpoint.
#[derive(Default)]
pub struct TunnelState(Mutex<State>);

#[derive(Default)]
struct State {
    word: Word,
    gateway: String,
    since: Option<SystemTime>,
    reason: String,
    url: String,
    transport: &'static str,
    not_quic: String,
}

/// Where a tunnel is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Word {
    /// It is being dialled.
    #[default]
    Connecting,
    /// It is up.
    Connected,
    /// It failed and is tried again later.
    Waiting,
    /// Every gateway refused it for good.
    Refused,
    /// It is not wanted: the service does not work.
    Unhealthy,
}

impl TunnelState {
    /// It has come to `word`, at `gateway`.
    pub fn set(&self, word: Word, gateway: &str, reason: &str) {
        self.now(State { word, gateway: gateway.into(), reason: reason.into(), ..State::default() });
    }

    /// It is up at `gateway`, made of `transport`; `url` is where the endpoint is reached.
    pub fn connected(&self, gateway: &str, transport: &'static str, url: &str) {
        let (word, gateway, url) = (Word::Connected, gateway.into(), url.into());
        self.now(State { word, gateway, url, transport, ..State::default() });
    }

    fn now(&self, state: State) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let not_quic = std::mem::take(&mut held.not_quic);
        *held = State { since: Some(SystemTime::now()), not_quic, ..state };
    }

    /// Why it is no QUIC, as far as that is known; empty where there is nothing to say.
    pub fn not_quic(&self, why: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).not_quic = why.into();
    }

    /// True where it is up at this gateway, or is about to be.
    pub fn is_at(&self, gateway: &str) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(state.word, Word::Connecting | Word::Connected) && state.gateway == gateway
    }

    /// Where it is.
    pub fn word(&self) -> Word {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).word
    }

    /// True while it is up and made of this.
    pub fn is_up_over(&self, transport: &str) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.word == Word::Connected && state.transport == transport
    }

    /// All of it.
    pub fn describe(&self, slot: usize) -> Value {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "slot": slot,
            "gateway": state.gateway,
            "state": match state.word {
                Word::Connecting => "connecting",
                Word::Connected => "connected",
                Word::Waiting => "waiting",
                Word::Refused => "refused",
                Word::Unhealthy => "unhealthy",
            },
            "since": state.since.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map(|at| at.as_secs_f64()),
            "reason": state.reason,
            "url": state.url,
            "transport": state.transport,
            "not_quic": state.not_quic,
        })
    }
}

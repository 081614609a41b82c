//! Whether a local service works, as its checks say: while it does not, its endpoint is not offered.
//!
//! Nothing is offered before the first check has succeeded. After that `fall` failures in a row withdraw the endpoint,
//! `rise` successes in a row offer it again.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::watch::{Receiver, Sender, channel};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::snapshot::upstream::Health;
use crate::upstream::Address;
use crate::upstream::ejection::Verdict;
use crate::upstream::health::{check, pause};

/// What the checks of a service say.
pub struct Works {
    health: Option<Health>,
    known: Sender<Known>,
}

#[derive(Clone)]
struct Known {
    works: bool,
    since: Option<SystemTime>,
    reason: String,
}

impl Works {
    /// Of a service that is asked in this way; one that is not asked works.
    pub fn new(health: Option<Health>) -> Self {
        let reason = if health.is_some() { "it has not been checked yet" } else { "" };
        let known = Known { works: health.is_none(), since: None, reason: reason.to_owned() };
        Works { health, known: channel(known).0 }
    }

    /// True where there is something to ask.
    pub fn is_asked(&self) -> bool {
        self.health.is_some()
    }

    /// Why it is not offered, where it is not.
    pub fn problem(&self) -> Option<String> {
        let known = self.known.borrow();
        (!known.works).then(|| known.reason.clone())
    }

    /// Resolves when it works.
    pub async fn works(&self) {
        wait(self.known.subscribe(), true).await;
    }

    /// Resolves when it does not work.
    pub async fn fails(&self) {
        wait(self.known.subscribe(), false).await;
    }

    /// Asks again and again.
    pub async fn watch(&self, endpoint: &str, address: &Address) {
        let Some(health) = &self.health else { return };
        let mut verdict = Verdict::default();
        loop {
            let next = sleep(pause(health));
            let outcome = check(address, health).await;
            if verdict.takes(outcome.is_ok(), health) {
                self.now(endpoint, address, outcome);
            }
            next.await;
        }
    }

    fn now(&self, endpoint: &str, address: &Address, outcome: Result<(), String>) {
        let works = outcome.is_ok();
        let reason = outcome.err().unwrap_or_default();
        if works {
            info!(endpoint, %address, "service healthy");
        } else {
            warn!(endpoint, %address, reason = &*reason, "service unhealthy");
        }
        self.known.send_replace(Known { works, since: Some(SystemTime::now()), reason });
    }

    /// The last word, for whoever asks; null where nothing is asked.
    pub fn describe(&self) -> Value {
        if self.health.is_none() {
            return Value::Null;
        }
        let known = self.known.borrow();
        let since = known.since.and_then(|since| since.duration_since(UNIX_EPOCH).ok());
        json!({
            "state": if known.works { "up" } else { "down" },
            "since": since.map(|since| since.as_secs_f64()),
            "reason": known.reason,
        })
    }
}

async fn wait(mut known: Receiver<Known>, works: bool) {
    if known.wait_for(|known| known.works == works).await.is_err() {
        // Whoever says so is gone, and everything with it.
        std::future::pending::<()>().await;
    }
}

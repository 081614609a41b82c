//! What agents and forwards have in common about the sessions that they dial: what is heard of one, how it is taken
//! back, and how often another transport was used from then on.

use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{sleep, sleep_until};

use super::choice::Offer;
use crate::metrics::Page;
use crate::snapshot::{Transport, Way};
use crate::tunnel::hello::Offers;
use crate::tunnel::{Ending, Session};

/// How often a session that was taken back is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What a session tells.
pub enum News {
    /// What is sent is not answered, or is again.
    Silence(bool),
    /// Its gateway drains.
    Leaving,
    /// It has ended.
    Ended(String),
}

/// What happens next to a session that is up, if one is; beside it stands whether it was silent.
pub async fn watch(up: Option<(&Session, &mut bool)>) -> News {
    let Some((session, silent)) = up else { return pending().await };
    let news = tokio::select! {
        biased;
        end = session.ended() => News::Ended(end.to_string()),
        () = session.gone_away() => News::Leaving,
        () = toggled(session, !*silent) => {
            *silent = !*silent;
            News::Silence(*silent)
        }
    };
    // What ends has told everybody else, too.
    session.end_reason().map_or(news, |end| News::Ended(end.to_string()))
}

/// Only QUIC falls silent.
async fn toggled(session: &Session, silent: bool) {
    match session.transport() {
        Transport::WebSocket => pending().await,
        _ => session.silence(silent).await,
    }
}

/// Waits for a moment, if there is one.
pub async fn until(due: Option<std::time::Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => pending().await,
    }
}

/// What the word of a gateway means for whoever has looked for QUIC at `known`, which becomes what was said.
pub fn offer_of(said: &Offers, known: &mut Option<String>) -> Offer {
    let told = match said {
        Offers::No => return Offer::No,
        Offers::SamePort => None,
        Offers::At(place) => Some(place.clone()),
    };
    let offer = if *known == told { Offer::Here } else { Offer::Elsewhere };
    *known = told;
    offer
}

/// Takes a session back: the gateway is told to open nothing more on it, and it ends when what runs on it has ended.
pub async fn wind_down(session: Session) {
    session.go_away();
    session.settle().await;
    while session.streams() > 0 && session.end_reason().is_none() {
        sleep(LOOK).await;
    }
    session.end(Ending::Close);
}

/// How often what is new went over the other transport from then on.
#[derive(Default)]
pub struct Changes {
    to_quic: AtomicU64,
    to_websocket: AtomicU64,
}

impl Changes {
    /// What is new goes over `to` from now on.
    pub fn add(&self, to: Way) {
        let count = match to {
            Way::Quic => &self.to_quic,
            Way::WebSocket => &self.to_websocket,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// All of them together, for the metrics.
    pub fn render<'a>(all: impl IntoIterator<Item = &'a Changes>, page: &mut Page) {
        let counts = all.into_iter().map(|one| [&one.to_quic, &one.to_websocket].map(|n| n.load(Ordering::Relaxed)));
        let sum = counts.fold([0, 0], |[a, b], [c, d]| [a + c, b + d]);
        page.family("tidegate_transport_changes_total", "counter", "Changes from one transport to the other.");
        let words = [Way::Quic, Way::WebSocket].map(Way::word);
        for (i, count) in sum.into_iter().enumerate() {
            page.value(&[("from", words[1 - i]), ("to", words[i])], count as f64);
        }
    }
}

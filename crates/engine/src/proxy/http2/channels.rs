//! The connections of one worker that carry many requests, by upstream: opened once while many wait, shared, kept.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use hashbrown::HashMap;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::channel::{Channel, Driver, Lease, Observer};
use crate::error::{Code, Error, Result};
use crate::http1::head::HeadLimits;
use crate::shutdown::Drain;
use crate::snapshot::Timeouts;
use crate::timer::Timer;
use crate::upstream::{StreamInfo, Upstream};

/// What came of opening a connection; none as long as nobody knows.
type Opened = Option<Result<()>>;

/// The channels of one worker.
#[derive(Default)]
pub struct Channels {
    entries: Mutex<HashMap<u64, Entry>>,
}

#[derive(Default)]
struct Entry {
    open: Vec<Channel>,
    opening: Option<watch::Receiver<Opened>>,
}

/// What a new connection is opened with.
pub struct Opening<'a> {
    /// Where its task runs.
    pub runtime: &'a Handle,
    /// What ends its task.
    pub drain: &'a Drain,
    /// Deadlines.
    pub timeouts: &'a Timeouts,
    /// Sizes of heads.
    pub limits: HeadLimits,
    /// Who asks.
    pub info: &'a StreamInfo,
}

impl Channels {
    /// A place for a stream to `upstream`, on a connection that is there or a new one. Says whether it was there.
    pub async fn lease(self: &Arc<Self>, upstream: &Upstream, opening: &Opening<'_>) -> Result<(Lease, bool)> {
        let mut waited = false;
        loop {
            let mut opened = {
                let mut entries = self.lock();
                let entry = entries.entry(upstream.id()).or_default();
                entry.open.retain_mut(Channel::is_good);
                let place = entry.open.iter().find_map(Channel::lease);
                // A peer that wants no stream at all is not asked by ever more connections.
                let place = place.or_else(|| entry.open.last().filter(|_| waited).map(Channel::lease_anyway));
                if let Some(lease) = place {
                    return Ok((lease, !waited));
                }
                // Others may be asked; this one is not dialled again and again.
                if waited {
                    return Err(Error::undelivered(Code::UpstreamUnreachable, "its connection ended as it began"));
                }
                entry.opening.get_or_insert_with(|| self.open(upstream, opening)).clone()
            };
            waited = true;
            let outcome = match opened.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone(),
                Err(_) => None,
            };
            outcome
                .unwrap_or_else(|| Err(Error::undelivered(Code::UpstreamUnreachable, "nobody opens it any more")))?;
        }
    }

    /// Opens a connection in a task of its own, so that nobody who waits for it has to stay.
    fn open(self: &Arc<Self>, upstream: &Upstream, opening: &Opening<'_>) -> watch::Receiver<Opened> {
        let (say, opened) = watch::channel(None);
        let (channels, upstream, info) = (self.clone(), upstream.clone(), opening.info.clone());
        let (handshake, idle) = (opening.timeouts.handshake, opening.timeouts.idle);
        let (limits, begun) = (opening.limits, opening.drain.begun());
        opening.drain.spawn_on(opening.runtime, async move {
            let outcome = connect(&upstream, &info, handshake, &limits).await;
            let (outcome, driver) = match outcome {
                Ok((channel, driver)) => {
                    let observer = channel.observer();
                    channels.publish(upstream.id(), Some(channel));
                    (Ok(()), Some((driver, observer)))
                }
                Err(error) => {
                    channels.publish(upstream.id(), None);
                    (Err(error), None)
                }
            };
            say.send_replace(Some(outcome));
            if let Some((driver, observer)) = driver {
                let leaving = || channels.take_out(upstream.id(), observer.id());
                drive(driver, &observer, begun, idle, leaving).await;
                leaving();
                if observer.watch().flood().is_some() {
                    warn!(%upstream, reason = "it sends frames that carry nothing", "upstream flooded");
                }
            }
        });
        opened
    }

    fn publish(&self, upstream: u64, channel: Option<Channel>) {
        let mut entries = self.lock();
        let entry = entries.entry(upstream).or_default();
        entry.opening = None;
        entry.open.extend(channel);
    }

    fn take_out(&self, upstream: u64, channel: u64) {
        let mut taken = Vec::new();
        if let Some(entry) = self.lock().get_mut(&upstream) {
            taken.extend(entry.open.extract_if(.., |one| one.id() == channel));
        }
        // Dropped where no lock is held.
        drop(taken);
    }

    /// Gives up what has been idle for `keep`, and what is broken.
    pub fn sweep(&self, keep: Duration) {
        let mut gone = Vec::new();
        self.lock().retain(|_, entry| {
            gone.extend(entry.open.extract_if(.., |one| !one.is_good() || one.idle_for() >= keep));
            !entry.open.is_empty() || entry.opening.is_some()
        });
        drop(gone);
    }

    /// Gives up what is kept for an upstream. Streams that run go on.
    pub fn remove(&self, upstream: u64) {
        let mut gone = Vec::new();
        if let Some(entry) = self.lock().get_mut(&upstream) {
            gone.append(&mut entry.open);
        }
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(
    upstream: &Upstream,
    info: &StreamInfo,
    handshake: Duration,
    limits: &HeadLimits,
) -> Result<(Channel, Driver)> {
    let io = upstream.open(info).await?;
    let failed = |why: String| Err(Error::undelivered(Code::UpstreamUnreachable, why));
    match timeout(handshake, Channel::open(io, upstream.is_tls(), limits)).await {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(error)) => failed(format!("HTTP/2 with {upstream} did not begin: {error}")),
        Err(_) => failed(format!("HTTP/2 with {upstream} did not begin within {handshake:?}")),
    }
}

/// Moves what passes on a channel until it ends: by itself when nobody has it any more, at once where the peer takes no
/// byte for `idle` or sends too much that carries nothing.
async fn drive(
    mut driver: Driver,
    observer: &Observer,
    begun: impl Future<Output = ()>,
    idle: Duration,
    leave: impl Fn(),
) {
    let (mut begun, mut draining, mut left, mut timer) = (pin!(begun), false, false, Timer::new());
    poll_fn(|cx| {
        if Pin::new(&mut driver).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if observer.watch().flood().is_some() {
            return Poll::Ready(());
        }
        draining = draining || begun.as_mut().poll(cx).is_ready();
        if draining && !left && observer.active() == 0 {
            left = true;
            leave();
        }
        match observer.watch().blocked_for() {
            Some(blocked) if blocked >= idle => Poll::Ready(()),
            Some(blocked) => timer.poll_until(cx, Instant::now() + (idle - blocked)),
            None => Poll::Pending,
        }
    })
    .await;
}

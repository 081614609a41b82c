//! Looks at a connection four times a second while it is used: whether its peer is heard, how much may be on its way,
//! whether streams that nobody reads hold up the others, and whether the peer will never answer one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{ConnectionStats, FrameStats, VarInt};

use super::Config;
use super::channel::Channel;
use super::shared::Shared;
use super::transport::{SEND_WINDOW, STREAM_WINDOW};

/// Time between two looks while there are streams.
const TICK: Duration = Duration::from_millis(250);
/// The same for an idle session that is to notice that its peer has gone.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// Time without an acknowledgement of what we sent after which the peer is silent.
const SILENCE: Duration = Duration::from_secs(1);
/// Time without a packet after which a session that wants to know asks.
const QUIET: Duration = Duration::from_millis(500);
/// Time for which nobody has read a stream that may be cut for the others' sake.
const STUCK: Duration = Duration::from_secs(1);
/// Streams cut at once: their windows are what flow control moves by.
const CUT: usize = 8;

/// What was seen at the last look.
pub(super) struct Tending {
    config: Config,
    due: Option<Instant>,
    heard: Instant,
    received: u64,
    eliciting: u64,
    /// Since when something of ours waits for its acknowledgement.
    unanswered: Option<Instant>,
    receive_window: u64,
    send_window: u64,
    blocked: u64,
}

impl Tending {
    pub(super) fn new(config: Config) -> Self {
        Tending {
            config,
            due: None,
            heard: Instant::now(),
            received: 0,
            eliciting: 0,
            unanswered: None,
            receive_window: config.unread.0,
            send_window: SEND_WINDOW.0,
            blocked: 0,
        }
    }

    /// When to look next; `None` while there is nothing to look at.
    pub(super) fn due(&mut self, shared: &Shared) -> Option<Instant> {
        let state = shared.lock();
        let every = match () {
            () if state.open() > 0 || state.silent => TICK,
            () if self.config.asks => IDLE_TICK,
            () => {
                self.due = None;
                return None;
            }
        };
        drop(state);
        let latest = now() + every;
        Some(*self.due.insert(self.due.map_or(latest, |due| due.min(latest))))
    }

    pub(super) fn tick(&mut self, shared: &Shared) {
        self.due = None;
        let (now, stats) = (now(), shared.connection.stats());
        let streams = shared.lock().streams();
        self.listen(shared, &stats, now);
        if self.config.asks && streams > 0 && now >= self.heard + QUIET {
            let mut state = shared.lock();
            // One question at a time.
            if state.asked == state.answered {
                state.asked += 1;
            }
        }
        give_up_stopped(shared);
        self.size(shared, &stats, streams as u64);
        self.relieve(shared, &stats, now);
    }

    /// Finds out whether what we send is acknowledged.
    fn listen(&mut self, shared: &Shared, stats: &ConnectionStats, now: Instant) {
        let sent = eliciting(&stats.frame_tx);
        if stats.udp_rx.datagrams != self.received {
            (self.received, self.eliciting, self.heard, self.unanswered) = (stats.udp_rx.datagrams, sent, now, None);
        } else if sent > self.eliciting {
            self.unanswered.get_or_insert(now);
        }
        let silent = self.unanswered.is_some_and(|since| now >= since + SILENCE);
        let mut state = shared.lock();
        if std::mem::replace(&mut state.silent, silent) != silent {
            drop(state);
            shared.changed.notify_waiters();
        }
    }

    /// Lets as much be on its way as is used.
    fn size(&mut self, shared: &Shared, stats: &ConnectionStats, streams: u64) {
        let receive = receive_window(streams, self.config.unread);
        if receive != self.receive_window {
            self.receive_window = receive;
            self.set_receive_window(shared, receive);
        }
        let send = send_window(stats.path.cwnd);
        if send != self.send_window {
            self.send_window = send;
            shared.connection.set_send_window(send);
        }
    }

    fn set_receive_window(&self, shared: &Shared, window: u64) {
        if let Ok(window) = VarInt::from_u64(window) {
            shared.connection.set_receive_window(window);
        }
    }

    /// Makes room where the peer has none left because of streams that nobody reads.
    fn relieve(&mut self, shared: &Shared, stats: &ConnectionStats, now: Instant) {
        let pressed = stats.frame_rx.data_blocked > self.blocked && self.receive_window == self.config.unread.1;
        self.blocked = stats.frame_rx.data_blocked;
        if !pressed {
            return;
        }
        let channels: Vec<Arc<Channel>> = shared.lock().channels.values().cloned().collect();
        let mut stuck: Vec<(Instant, Arc<Channel>)> = channels
            .into_iter()
            .filter_map(|channel| {
                let since = channel.lock().look(now)?;
                (now >= since + STUCK).then_some((since, channel))
            })
            .collect();
        stuck.sort_unstable_by_key(|(since, _)| *since);
        for (_, channel) in stuck.iter().take(CUT) {
            channel.lock().overrun();
            shared.lock().stats.overruns += 1;
        }
        // What has been read is told in steps of an eighth of the window, unless the window moves: a peer that is
        // still blocked says so again.
        self.set_receive_window(shared, self.receive_window - 1);
        self.set_receive_window(shared, self.receive_window);
    }
}

/// Ends streams that the peer has stopped and does not take.
fn give_up_stopped(shared: &Shared) {
    let channels: Vec<Arc<Channel>> = {
        let state = shared.lock();
        if !state.awaits_answers() {
            return;
        }
        state.channels.values().cloned().collect()
    };
    for channel in channels {
        channel.lock().give_up_stopped();
    }
}

/// Bytes that may be on their way to us, and wait here to be read.
fn receive_window(streams: u64, (first, most): (u64, u64)) -> u64 {
    (streams * 2 * u64::from(STREAM_WINDOW)).clamp(first, most)
}

/// Bytes that we keep until they are acknowledged: as many again as the path takes at once.
fn send_window(congestion_window: u64) -> u64 {
    congestion_window.saturating_mul(2).clamp(SEND_WINDOW.0, SEND_WINDOW.1)
}

/// The clock that tests may stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Frames that a peer acknowledges.
fn eliciting(sent: &FrameStats) -> u64 {
    sent.ack_frequency
        + sent.crypto
        + sent.data_blocked
        + sent.datagram
        + sent.immediate_ack
        + sent.max_data
        + sent.max_stream_data
        + sent.max_streams_bidi
        + sent.max_streams_uni
        + sent.new_connection_id
        + sent.new_token
        + sent.path_challenge
        + sent.path_response
        + sent.ping
        + sent.reset_stream
        + sent.retire_connection_id
        + sent.stop_sending
        + sent.stream
        + sent.stream_data_blocked
        + sent.streams_blocked_bidi
        + sent.streams_blocked_uni
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::quic::UNREAD;

    const MIB: u64 = 1 << 20;

    #[test]
    fn windows_grow_with_the_streams_and_with_the_path_to_a_bound() {
        assert_eq!(
            [0, 1, 4, 5, 20, 32, 33, 1024].map(|streams| receive_window(streams, UNREAD)),
            [8, 8, 8, 8, 20, 32, 32, 32].map(|n| n * MIB)
        );
        assert_eq!([0, MIB / 2, MIB, 5 * MIB, u64::MAX].map(send_window), [1, 1, 2, 10, 16].map(|n| n * MIB));
    }
}

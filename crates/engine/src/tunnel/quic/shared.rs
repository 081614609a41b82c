//! What the handle of a session, its streams and its driver share.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use hashbrown::HashMap;
use quinn::{Connection, RecvStream, SendStream, Side, StreamId, VarInt};
use tokio::sync::Notify;

use super::channel::Channel;
use super::codes::PROTOCOL;
use super::demux::Demux;
use crate::tunnel::{End, OpenError, Stats};

/// The first byte of a stream: it carries bytes.
pub(super) const BYTES: u8 = 0;
/// The same: it stands for a flow of datagrams, and carries nothing itself once that has begun.
pub(super) const FLOW: u8 = 1;
/// Streams of ours that may lack the peer's answer.
const UNANSWERED: usize = 256;
/// Ended streams whose last bytes may wait for an acknowledgement before it is looked which have got it.
const LINGERING: usize = 64;

/// A stream of the connection, both halves.
pub(super) type Pair = (SendStream, RecvStream);

/// One lock for the books of a session, beside those of its streams; a stream's lock may be held when it is taken.
pub(super) struct Shared {
    pub(super) connection: Connection,
    /// Streams begin with no word of ours, and nothing is said beside them: quic-reverse-http-tunnel.
    pub(super) plain: bool,
    state: Mutex<State>,
    /// Datagrams that have come. Never taken beside another lock.
    demux: Mutex<Demux>,
    /// Opened, but the connection had no room for its first byte: the next stream. Waiters queue for it.
    pub(super) spare: tokio::sync::Mutex<Option<Pair>>,
    /// A stream has come, or the session has ended.
    pub(super) arrived: Notify,
    /// The same of a flow.
    pub(super) flow_arrived: Notify,
    /// Something has changed that somebody may wait for.
    pub(super) changed: Notify,
    /// A stream of the peer has been accepted or refused, a question answered, or the session has ended.
    pub(super) settled: Notify,
    /// There is work for the driver.
    pub(super) work: Notify,
}

#[derive(Default)]
pub(super) struct State {
    /// Why the session has ended.
    pub(super) end: Option<End>,
    /// With which code the connection is to be closed when all that was said has been acknowledged.
    pub(super) farewell: Option<VarInt>,
    /// We are leaving: streams of the peer are refused.
    pub(super) leaving: bool,
    /// The peer is leaving: we open no more.
    pub(super) gone: bool,
    /// We open no more, and nobody is told.
    pub(super) shut: bool,
    /// Streams that have not ended in both directions, by number.
    pub(super) channels: HashMap<StreamId, Arc<Channel>>,
    /// Streams of the peer that wait to be accepted.
    pub(super) backlog: VecDeque<Arc<Channel>>,
    /// The same of flows.
    pub(super) flows: VecDeque<Arc<Channel>>,
    /// Streams of the peer that wait for their first byte, or for room for ours.
    pub(super) arriving: usize,
    /// Streams that have ended in both directions, but for the acknowledgement of what we said last.
    lingering: Vec<SendStream>,
    /// When so many linger it is looked again.
    enough: usize,
    /// Streams of ours that lack the peer's answer.
    unanswered: usize,
    /// Streams that we have opened.
    pub(super) opened: u64,
    /// Streams of the peer that we have accepted or refused.
    pub(super) handled: u64,
    /// Questions that were to be asked so far.
    pub(super) asked: u64,
    /// Questions that the peer has answered.
    pub(super) answered: u64,
    /// Streams that the peer has opened, by its last answer.
    pub(super) peer_opened: u64,
    /// What we sent has not been acknowledged for a while.
    pub(super) silent: bool,
    /// What is counted here and not by the connection.
    pub(super) stats: Stats,
}

impl State {
    /// Streams open now: none of them may be cut by the end of the session without losing something.
    pub(super) fn streams(&mut self) -> usize {
        self.sweep();
        self.open()
    }

    /// The same without looking what has been acknowledged.
    pub(super) fn open(&self) -> usize {
        self.channels.len() + self.arriving + self.lingering.len()
    }

    /// Whether it is worth opening a stream.
    pub(super) fn may_open(&self) -> Result<(), OpenError> {
        match () {
            () if self.end.is_some() => Err(OpenError::Ended),
            () if self.gone || self.shut => Err(OpenError::GoneAway),
            () => Ok(()),
        }
    }

    fn sweep(&mut self) {
        self.lingering.retain(|send| pin!(send.stopped()).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        self.enough = LINGERING.max(2 * self.lingering.len());
    }

    /// Whether all that was said on streams we have finished has been acknowledged.
    pub(super) fn is_acknowledged(&mut self) -> bool {
        self.sweep();
        self.lingering.is_empty()
    }

    /// Keeps what may have to be sent again.
    pub(super) fn linger(&mut self, send: SendStream) {
        if self.lingering.len() >= self.enough {
            self.sweep();
        }
        self.lingering.push(send);
    }

    /// Whether streams of ours lack the peer's answer.
    pub(super) fn awaits_answers(&self) -> bool {
        self.unanswered > 0
    }

    /// The peer has taken or refused a stream of ours, or nobody waits for it; true where somebody may go on.
    pub(super) fn heard_of_one(&mut self) -> bool {
        self.unanswered -= 1;
        self.unanswered == UNANSWERED - 1
    }
}

impl Shared {
    pub(super) fn new(connection: Connection, plain: bool) -> Arc<Self> {
        let demux = Mutex::new(Demux::new(connection.side() == Side::Client));
        Arc::new(Shared {
            connection,
            plain,
            state: Mutex::default(),
            demux,
            spare: tokio::sync::Mutex::default(),
            arrived: Notify::new(),
            flow_arrived: Notify::new(),
            changed: Notify::new(),
            settled: Notify::new(),
            work: Notify::new(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn demux(&self) -> MutexGuard<'_, Demux> {
        self.demux.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the next stream, once there is one, where the peer permits it now. `kind`: what it is for.
    pub(super) fn poll_open(
        &self,
        kind: u8,
        spare: &mut Option<Pair>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Arc<Channel>, OpenError>> {
        // Held to the end: a stream that an answer to the peer does not count must not be there afterwards.
        let mut state = self.lock();
        state.may_open()?;
        if state.unanswered >= UNANSWERED {
            return Poll::Pending;
        }
        if let (Some((send, _)), false) = (&mut *spare, self.plain)
            && ready!(Pin::new(send).poll_write(cx, &[kind])).is_err()
        {
            return Poll::Ready(Err(OpenError::Ended));
        }
        let Some((send, recv)) = spare.take() else { return Poll::Pending };
        let channel = Arc::new(Channel::new(send, recv, self.plain));
        if state.channels.is_empty() {
            self.work.notify_one();
        }
        state.unanswered += usize::from(!self.plain);
        state.opened += 1;
        state.stats.opened += 1;
        state.channels.insert(channel.id, channel.clone());
        Poll::Ready(Ok(channel))
    }

    /// Ends the session for its streams and its handles; the first reason counts. `close`: what the peer is told.
    pub(super) fn end(&self, end: End, close: Option<(VarInt, &str)>) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        let (streams, flows) = (std::mem::take(&mut state.backlog), std::mem::take(&mut state.flows));
        for channel in streams.into_iter().chain(flows) {
            state.channels.remove(&channel.id);
        }
        drop(state);
        if let Some((code, reason)) = close {
            self.connection.close(code, reason.as_bytes());
        }
        self.notify();
    }

    fn notify(&self) {
        for waiting in [&self.arrived, &self.flow_arrived, &self.changed, &self.settled] {
            waiting.notify_waiters();
        }
    }

    /// Ends the session in order: its streams are over, and what was said on those that we have finished still leaves.
    pub(super) fn part(&self, code: VarInt) {
        let closed = End::Closed { by_peer: false, code: None, reason: String::new() };
        let mut state = self.lock();
        if state.end.is_some() {
            return;
        }
        state.end = Some(closed.clone());
        let channels = std::mem::take(&mut state.channels);
        state.backlog.clear();
        state.flows.clear();
        drop(state);
        let said: Vec<SendStream> = channels.values().filter_map(|channel| channel.lock().part()).collect();
        let mut state = self.lock();
        said.into_iter().for_each(|send| state.linger(send));
        if state.is_acknowledged() {
            drop(state);
            return self.end(closed, Some((code, "")));
        }
        state.farewell = Some(code);
        drop(state);
        self.work.notify_one();
        self.notify();
    }

    /// Ends the session because the peer has broken its rules.
    pub(super) fn broken(&self, reason: &'static str) {
        self.end(End::protocol(reason), Some((PROTOCOL, reason)));
    }
}

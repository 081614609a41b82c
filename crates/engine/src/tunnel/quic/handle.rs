//! A session over a QUIC connection, as its handle sees it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use super::channel::Channel;
use super::codes::{CLOSED, COME_BACK, RESET_REASON};
use super::flow::Flow;
use super::shared::{BYTES, FLOW, Shared, State};
use super::stream::Stream;
use crate::tunnel::{End, Ending, OpenError, Stats, Transport};

/// What `Session` stands for where it is QUIC; its methods are described there.
#[derive(Clone)]
pub(in crate::tunnel) struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    pub(in crate::tunnel) fn open(&self) -> Result<Stream, OpenError> {
        self.open_now(BYTES).map(|channel| self.stream(channel))
    }

    fn open_now(&self, kind: u8) -> Result<Arc<Channel>, OpenError> {
        // Whoever holds it waits for the peer.
        let Ok(mut spare) = self.shared.spare.try_lock() else { return Err(OpenError::Unanswered) };
        let mut now = Context::from_waker(Waker::noop());
        if spare.is_none()
            && let Poll::Ready(pair) = pin!(self.shared.connection.open_bi()).poll(&mut now)
        {
            *spare = pair.ok();
        }
        match self.shared.poll_open(kind, &mut spare, &mut now) {
            Poll::Ready(channel) => channel,
            Poll::Pending => Err(OpenError::Unanswered),
        }
    }

    pub(in crate::tunnel) async fn open_when_answered(&self) -> Result<Stream, OpenError> {
        self.open_later(BYTES).await.map(|channel| self.stream(channel))
    }

    pub(in crate::tunnel) fn open_flow(&self) -> Result<Flow, OpenError> {
        self.carries_datagrams()?;
        self.open_now(FLOW).map(|channel| Flow::new(self.shared.clone(), channel))
    }

    pub(in crate::tunnel) async fn open_flow_when_answered(&self) -> Result<Flow, OpenError> {
        self.carries_datagrams()?;
        self.open_later(FLOW).await.map(|channel| Flow::new(self.shared.clone(), channel))
    }

    fn carries_datagrams(&self) -> Result<(), OpenError> {
        let carries = !self.shared.plain && self.shared.connection.max_datagram_size().is_some();
        if carries { Ok(()) } else { Err(OpenError::NoDatagrams) }
    }

    async fn open_later(&self, kind: u8) -> Result<Arc<Channel>, OpenError> {
        let mut spare = self.shared.spare.lock().await;
        loop {
            let changed = self.shared.changed.notified();
            self.shared.lock().may_open()?;
            if spare.is_none() {
                tokio::select! {
                    pair = self.shared.connection.open_bi() => *spare = pair.ok(),
                    () = changed => {}
                }
                continue;
            }
            tokio::select! {
                channel = poll_fn(|cx| self.shared.poll_open(kind, &mut spare, cx)) => return channel,
                () = changed => {}
            }
        }
    }

    fn stream(&self, channel: Arc<Channel>) -> Stream {
        Stream::new(self.shared.clone(), channel)
    }

    pub(in crate::tunnel) async fn accept(&self) -> Option<Stream> {
        self.taken(&self.shared.arrived, |state| &mut state.backlog).await.map(|channel| self.stream(channel))
    }

    pub(in crate::tunnel) async fn accept_flow(&self) -> Option<Flow> {
        let channel = self.taken(&self.shared.flow_arrived, |state| &mut state.flows).await?;
        Some(Flow::new(self.shared.clone(), channel))
    }

    /// The next one of the peer's in one of the two backlogs.
    async fn taken(
        &self,
        arrived: &Notify,
        backlog: impl Fn(&mut State) -> &mut VecDeque<Arc<Channel>>,
    ) -> Option<Arc<Channel>> {
        loop {
            let arrived = arrived.notified();
            {
                let mut state = self.shared.lock();
                let next = backlog(&mut state).pop_front();
                if next.is_some() || state.end.is_some() {
                    return next;
                }
            }
            arrived.await;
        }
    }

    pub(in crate::tunnel) fn is_open(&self) -> bool {
        self.shared.lock().may_open().is_ok()
    }

    pub(in crate::tunnel) fn go_away(&self) {
        let mut state = self.shared.lock();
        state.leaving = true;
        // Where nobody can be told, streams are refused on both sides.
        state.shut |= self.shared.plain;
        drop(state);
        self.shared.work.notify_one();
    }

    pub(in crate::tunnel) async fn settle(&self) {
        if self.shared.plain {
            return;
        }
        let number = {
            let mut state = self.shared.lock();
            state.asked += 1;
            state.asked
        };
        self.shared.work.notify_one();
        let mut awaited = None;
        loop {
            let settled = self.shared.settled.notified();
            {
                let state = self.shared.lock();
                if awaited.is_none() && state.answered >= number {
                    awaited = Some(state.peer_opened);
                }
                if state.end.is_some() || awaited.is_some_and(|opened| state.handled >= opened) {
                    return;
                }
            }
            settled.await;
        }
    }

    pub(in crate::tunnel) fn end(&self, how: Ending) {
        match how {
            Ending::Close => self.shared.part(CLOSED),
            Ending::GoAway2 => self.shared.part(COME_BACK),
            Ending::Reset => self.shared.end(End::Reset, Some((CLOSED, RESET_REASON))),
        }
    }

    pub(in crate::tunnel) async fn ended(&self) -> End {
        self.until(|state| state.end.clone()).await
    }

    pub(in crate::tunnel) fn end_reason(&self) -> Option<End> {
        self.shared.lock().end.clone()
    }

    pub(in crate::tunnel) async fn gone_away(&self) {
        self.until(|state| (state.gone || state.end.is_some()).then_some(())).await;
    }

    pub(in crate::tunnel) fn is_silent(&self) -> bool {
        self.shared.lock().silent
    }

    pub(in crate::tunnel) async fn silence(&self, silent: bool) {
        self.until(|state| (state.silent == silent || state.end.is_some()).then_some(())).await;
    }

    async fn until<T>(&self, condition: impl Fn(&State) -> Option<T>) -> T {
        loop {
            let changed = self.shared.changed.notified();
            if let Some(value) = condition(&self.shared.lock()) {
                return value;
            }
            changed.await;
        }
    }

    pub(in crate::tunnel) fn streams(&self) -> usize {
        self.shared.lock().streams()
    }

    pub(in crate::tunnel) fn stats(&self) -> Stats {
        let connection = self.shared.connection.stats();
        Stats {
            rtt: Some(connection.path.rtt),
            bytes_in: connection.udp_rx.bytes,
            bytes_out: connection.udp_tx.bytes,
            lost: connection.path.lost_packets,
            mtu: connection.path.current_mtu,
            unread: self.read_ahead() as u64,
            datagrams_in: connection.frame_rx.datagram,
            datagrams_out: connection.frame_tx.datagram,
            datagrams_dropped: self.shared.demux().dropped(),
            ..self.shared.lock().stats
        }
    }

    pub(in crate::tunnel) fn memory(&self) -> usize {
        let ahead = self.read_ahead() + self.shared.demux().held();
        let mut state = self.shared.lock();
        ahead + state.streams() * size_of::<Channel>()
    }

    fn read_ahead(&self) -> usize {
        let channels: Vec<Arc<Channel>> = self.shared.lock().channels.values().cloned().collect();
        channels.iter().map(|channel| channel.lock().ahead.len()).sum()
    }

    pub(in crate::tunnel) fn transport(&self) -> Transport {
        if self.shared.plain { Transport::QuicTunnel } else { Transport::Quic }
    }

    pub(in crate::tunnel) fn remote(&self) -> SocketAddr {
        self.shared.connection.remote_address()
    }
}

//! A session over a QUIC connection, as its handle sees it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::channel::Channel;
use super::codes::{CLOSED, COME_BACK, RESET_REASON};
use super::shared::{Shared, State};
use super::stream::Stream;
use crate::tunnel::{End, Ending, OpenError, Stats, Transport};

/// What `Session` stands for where it is QUIC; its methods are described there.
#[derive(Clone)]
pub(in crate::tunnel) struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    pub(in crate::tunnel) fn open(&self) -> Result<Stream, OpenError> {
        // Whoever holds it waits for the peer.
        let Ok(mut spare) = self.shared.spare.try_lock() else { return Err(OpenError::Unanswered) };
        let mut now = Context::from_waker(Waker::noop());
        if spare.is_none()
            && let Poll::Ready(pair) = pin!(self.shared.connection.open_bi()).poll(&mut now)
        {
            *spare = pair.ok();
        }
        match self.shared.poll_open(&mut spare, &mut now) {
            Poll::Ready(channel) => Ok(self.stream(channel?)),
            Poll::Pending => Err(OpenError::Unanswered),
        }
    }

    pub(in crate::tunnel) async fn open_when_answered(&self) -> Result<Stream, OpenError> {
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
                channel = poll_fn(|cx| self.shared.poll_open(&mut spare, cx)) => return Ok(self.stream(channel?)),
                () = changed => {}
            }
        }
    }

    fn stream(&self, channel: Arc<Channel>) -> Stream {
        Stream::new(self.shared.clone(), channel)
    }

    pub(in crate::tunnel) async fn accept(&self) -> Option<Stream> {
        loop {
            let arrived = self.shared.arrived.notified();
            {
                let mut state = self.shared.lock();
                if let Some(channel) = state.backlog.pop_front() {
                    drop(state);
                    return Some(self.stream(channel));
                }
                if state.end.is_some() {
                    return None;
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
            ..self.shared.lock().stats
        }
    }

    pub(in crate::tunnel) fn memory(&self) -> usize {
        let ahead = self.read_ahead();
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

//! Moves the bytes of one session between its byte stream and its [`Mux`].
//!
//! One task, one poll loop: everything that can be read is read and handed over, then everything that is ready leaves
//! in one message and one write. Reading never waits for writing. Buffers are held only while there are bytes in them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::frame::GO_AWAY_PROTOCOL;
use super::mux::Mux;
use super::shared::Shared;
use super::websocket::{self, Decoder, Event, Payload, Side};
use super::{Config, End, Ending, Framing};
use crate::io::{BoxedIo, Buffer};

/// Buffers filled and messages written in one go, before the other direction has its turn.
const TURN: usize = 4;
/// How long the peer may take to see the end of a session.
const FAREWELL: Duration = Duration::from_secs(2);

pub(super) struct Driver {
    shared: Arc<Shared>,
    io: BoxedIo,
    side: Option<Side>,
    decoder: Option<Decoder>,
    ping_interval: Duration,
    ping_timeout: Duration,
    inbound: Buffer,
    outbound: Buffer,
    flushing: bool,
    pong: Option<Payload>,
    timer: Pin<Box<Sleep>>,
    heard: Instant,
    /// Since when the peer has taken no byte of what is to go out.
    blocked: Option<Instant>,
    wakes: Vec<Waker>,
    peer_leaving: bool,
    /// Writing has failed; what the peer sent before it closed may still be there to read.
    unwritable: bool,
    farewell: Option<Farewell>,
}

/// What is still to be said to the peer when the session has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Farewell {
    /// The message in which the streams left their GoAway.
    GoAway,
    /// A WebSocket close frame, where there is WebSocket.
    Close(Option<u16>),
    /// Said; the byte stream is to be closed for writing.
    Shutdown,
    /// The peer's end is awaited: closing before it would destroy what it has not read.
    Linger,
    /// Nothing.
    Over,
}

impl Driver {
    pub(super) fn new(io: BoxedIo, early: Buffer, config: Config) -> (Arc<Shared>, Self) {
        let side = match config.framing {
            Framing::Raw => None,
            Framing::WebSocketClient => Some(Side::Client),
            Framing::WebSocketServer => Some(Side::Server),
        };
        let mut mux = Mux::new(config.role, if side.is_some() { websocket::RESERVE } else { 0 });
        if !config.takes_streams {
            mux.refuse_streams();
        }
        let shared = Shared::new(mux);
        let now = Instant::now();
        let driver = Driver {
            shared: shared.clone(),
            io,
            side,
            decoder: side.map(Decoder::new),
            ping_interval: config.ping_interval,
            ping_timeout: config.ping_timeout,
            inbound: early,
            outbound: Buffer::new(),
            flushing: false,
            pong: None,
            timer: Box::pin(sleep_until(now + config.ping_interval)),
            heard: now,
            blocked: None,
            wakes: Vec::new(),
            peer_leaving: false,
            unwritable: false,
            farewell: None,
        };
        (shared, driver)
    }

    /// Ready when the session has ended and the peer has been told.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.farewell.is_none() {
            ready!(self.run(cx));
            self.timer.as_mut().reset(Instant::now() + FAREWELL);
        }
        self.part(cx)
    }

    /// Ready when the session has ended.
    fn run(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        self.keep_alive(cx, now);
        let more = self.read(cx, now);
        let written = self.write(cx, now);

        let mut state = self.shared.lock();
        if state.mux.ended().is_some() {
            let ending = state.ending;
            drop(state);
            self.shared.notify_ended();
            // What the driver itself has met comes first; the handle's wish may be later.
            self.farewell.get_or_insert(match ending {
                Some(Ending::GoAway2) => Farewell::GoAway,
                Some(Ending::Close) => Farewell::Close(Some(websocket::NORMAL)),
                Some(Ending::Reset) | None => {
                    self.io.reset();
                    Farewell::Over
                }
            });
            return Poll::Ready(());
        }
        if more || (written.is_ready() && state.mux.has_work()) {
            // The streams have their turn first: what they take now is still in the cache.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        state.blocked = written.is_pending();
        state.driver = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Reads and hands over, as much as one turn may; true when there may be more.
    fn read(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if !self.inbound.is_empty() {
            self.hand_over(now);
        }
        for _ in 0..TURN {
            if self.farewell.is_some() {
                return false;
            }
            match self.inbound.poll_fill(cx, &mut *self.io) {
                Poll::Pending => return false,
                Poll::Ready(Ok(0)) => {
                    let end = End::Closed { by_peer: true, code: None, reason: String::new() };
                    self.end(end, Farewell::Over);
                }
                Poll::Ready(Ok(_)) => {
                    self.heard = now;
                    self.hand_over(now);
                }
                Poll::Ready(Err(error)) => self.end(End::of_io(&error), Farewell::Over),
            }
        }
        self.farewell.is_none()
    }

    /// Hands the bytes that were read to the streams, and releases their buffer.
    fn hand_over(&mut self, now: Instant) {
        let mut state = self.shared.lock();
        let outcome = receive(&mut state.mux, self.decoder.as_mut(), self.inbound.chunk_mut(), &mut self.pong, now);
        state.mux.take_wakes(&mut self.wakes);
        let arrived = state.mux.take_arrived();
        let changed = state.mux.take_room() | state.mux.take_answered();
        let leaving = state.mux.peer_is_leaving() && !self.peer_leaving;
        drop(state);
        self.inbound.release();
        self.wakes.drain(..).for_each(Waker::wake);
        self.shared.notify_arrived(arrived);
        if changed {
            self.shared.notify_changed();
        }
        if leaving {
            self.peer_leaving = true;
            self.shared.notify_changed();
        }
        if let Err((end, farewell)) = outcome {
            self.end(end, farewell);
        }
    }

    /// Writes what is ready, as much as one turn may. Pending when the byte stream takes no more.
    fn write(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        for _ in 0..TURN {
            if self.farewell.is_some() {
                break;
            }
            if self.outbound.is_empty() && !self.next_message(now) && !self.flushing {
                break;
            }
            if self.unwritable {
                self.outbound.release();
                continue;
            }
            let before = self.outbound.len();
            match self.drain(cx) {
                Poll::Ready(Ok(())) => self.blocked = None,
                // The end is read, not guessed: answers may stand before it that the peer sent before it closed.
                Poll::Ready(Err(_)) => {
                    (self.unwritable, self.flushing) = (true, false);
                    self.outbound.release();
                }
                Poll::Pending => {
                    if self.blocked.is_none() || self.outbound.len() < before {
                        self.blocked = Some(now);
                    }
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    }

    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushing = true;
        ready!(self.outbound.poll_drain(cx, &mut *self.io))?;
        ready!(Pin::new(&mut *self.io).poll_flush(cx))?;
        self.flushing = false;
        Poll::Ready(Ok(()))
    }

    /// Fills the empty outbound buffer; false when there is nothing to send.
    fn next_message(&mut self, now: Instant) -> bool {
        if let (Some(payload), Some(side)) = (self.pong.take(), self.side) {
            websocket::pong(&payload, side, &mut self.outbound);
            return true;
        }
        let mut state = self.shared.lock();
        self.outbound = state.mux.transmit(now.into_std());
        state.mux.take_wakes(&mut self.wakes);
        drop(state);
        self.wakes.drain(..).for_each(Waker::wake);
        if let (Some(side), false) = (self.side, self.outbound.is_empty()) {
            websocket::seal(&mut self.outbound, side);
        }
        !self.outbound.is_empty()
    }

    /// Asks a silent peer for a sign of life, and ends the session when none comes.
    fn keep_alive(&mut self, cx: &mut Context<'_>, now: Instant) {
        while self.farewell.is_none() && self.timer.as_mut().poll(cx).is_ready() {
            let asked = self.shared.lock().mux.asked();
            let mut next = match asked {
                // Whatever comes after the question is a sign of life: its answer may stand behind a lot of data.
                Some(asked) => Instant::from_std(asked).max(self.heard) + self.ping_timeout,
                None => self.heard + self.ping_interval,
            };
            if let Some(blocked) = self.blocked {
                if now >= blocked + self.ping_timeout {
                    return self.end(End::Stalled, Farewell::Over);
                }
                next = next.min(blocked + self.ping_timeout);
            }
            if now >= next {
                if asked.is_some() {
                    return self.end(End::PingTimeout, Farewell::Over);
                }
                self.shared.lock().mux.ask();
                next = now + self.ping_timeout;
            }
            self.timer.as_mut().reset(next);
        }
    }

    /// Ends the session because of something that was met here.
    fn end(&mut self, reason: End, farewell: Farewell) {
        self.farewell.get_or_insert(farewell);
        let code = (farewell == Farewell::GoAway).then_some(GO_AWAY_PROTOCOL);
        self.shared.end(reason, code);
    }

    /// Says farewell and closes, within [`FAREWELL`].
    fn part(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        loop {
            let Some(farewell) = self.farewell else { return Poll::Ready(()) };
            // A message that is half out must be whole before anything else.
            if farewell != Farewell::Over && farewell != Farewell::Linger {
                match ready!(self.drain(cx)) {
                    Ok(()) => {}
                    Err(_) => return Poll::Ready(()),
                }
            }
            self.farewell = Some(match farewell {
                Farewell::GoAway => {
                    self.pong = None;
                    self.next_message(Instant::now());
                    Farewell::Shutdown
                }
                Farewell::Close(code) => {
                    if let Some(side) = self.side {
                        websocket::close(code, side, &mut self.outbound);
                    }
                    Farewell::Shutdown
                }
                Farewell::Shutdown => match ready!(Pin::new(&mut *self.io).poll_shutdown(cx)) {
                    Ok(()) => Farewell::Linger,
                    Err(_) => Farewell::Over,
                },
                Farewell::Linger => match ready!(self.inbound.poll_fill(cx, &mut *self.io)) {
                    Ok(1..) => {
                        self.inbound.release();
                        Farewell::Linger
                    }
                    _ => Farewell::Over,
                },
                Farewell::Over => return Poll::Ready(()),
            });
        }
    }
}

/// Takes bytes of the peer out of their framing and hands them to the streams.
fn receive(
    mux: &mut Mux,
    decoder: Option<&mut Decoder>,
    mut bytes: &mut [u8],
    pong: &mut Option<Payload>,
    now: Instant,
) -> Result<(), (End, Farewell)> {
    let broken = |end| match end {
        End::Protocol(_) => (end, Farewell::GoAway),
        // The peer is going; it waits for nothing from us.
        end => (end, Farewell::Shutdown),
    };
    let now = now.into_std();
    let Some(decoder) = decoder else { return mux.receive(bytes, now).map_err(broken) };
    while !bytes.is_empty() {
        let (used, event) = decoder
            .next(bytes)
            .map_err(|reason| (End::protocol(reason), Farewell::Close(Some(websocket::PROTOCOL_ERROR))))?;
        match event {
            Some(Event::Data(range)) => mux.receive(&bytes[range], now).map_err(broken)?,
            Some(Event::Ping(payload)) => *pong = Some(payload),
            Some(Event::Close(close)) => {
                let end = End::Closed { by_peer: true, code: close.code, reason: close.reason };
                return Err((end, Farewell::Close(close.code)));
            }
            None => {}
        }
        bytes = &mut bytes[used..];
    }
    Ok(())
}

impl Drop for Driver {
    fn drop(&mut self) {
        let ended = self.shared.lock().mux.ended().is_some();
        if !ended {
            self.io.reset();
            self.shared.end(End::Reset, None);
        }
    }
}

//! Does what happens on a session by itself: takes the peer's streams, speaks on the first one, looks after the rest.
//!
//! Streams read and write for themselves; `quinn` moves the packets in a task of its own.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use quinn::{ReadError, RecvStream, SendStream, WriteError};
use tokio::time::{Sleep, sleep, sleep_until, timeout};

use super::Config;
use super::channel::{Channel, TAKEN};
use super::codes::{REFUSED, end_of};
use super::control::{Decoder, Frame};
use super::shared::{BYTES, FLOW, Pair, Shared};
use super::tending::Tending;

/// Streams of the peer that may wait to be accepted.
const BACKLOG: usize = 256;
/// Streams refused since the last one that was not: nobody who listens to refusals goes on for so long.
const REFUSALS: u32 = 16 * 1024;
/// How long a session that ends in order may take to say its last words.
const FAREWELL: Duration = Duration::from_secs(2);
/// Time between two looks whether they have arrived.
const LOOK: Duration = Duration::from_millis(5);
/// Streams and datagrams taken in one go, before those who wait for them have their turn.
const TURN: u32 = 32;

/// Ready when the session has ended.
pub(super) async fn run(shared: Arc<Shared>, first: Option<Pair>, config: Config) {
    let connection = shared.connection.clone();
    let mut closed = pin!(connection.closed());
    let mut control = first.map(Control::new);
    let mut arriving = Arriving { shared: shared.clone(), waiting: Vec::new(), config, refusals: 0 };
    let mut tending = Tending::new(config);
    let mut timer: Pin<Box<Sleep>> = Box::pin(sleep_until(tokio::time::Instant::now()));
    let mut taken = 0;
    loop {
        let farewell = shared.lock().farewell;
        if let Some(code) = farewell {
            tokio::select! {
                _ = &mut closed => {}
                _ = timeout(FAREWELL, acknowledged(&shared)) => connection.close(code, &[]),
            }
            return;
        }
        let due = tending.due(&shared);
        if let Some(due) = due
            && timer.deadline().into_std() != due
        {
            timer.as_mut().reset(due.into());
        }
        let busy = poll_fn(|cx| {
            arriving.poll(cx);
            match &mut control {
                Some(control) => control.poll(&shared, cx),
                None => Poll::Pending,
            }
        });
        tokio::select! {
            biased;
            error = &mut closed => return shared.end(end_of(&error), None),
            reason = busy => shared.broken(reason),
            () = shared.work.notified() => {}
            () = &mut timer, if due.is_some() => tending.tick(&shared),
            Ok(pair) = connection.accept_bi() => {
                taken += 1;
                if let Err(reason) = arriving.take(pair) {
                    shared.broken(reason);
                }
            }
            Ok(datagram) = connection.read_datagram() => {
                taken += deliver(&shared, &datagram);
            }
        }
        if taken >= TURN {
            taken = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Hands on a datagram and what has come behind it, and says how many that were.
fn deliver(shared: &Shared, first: &[u8]) -> u32 {
    let (mut demux, now, mut taken) = (shared.demux(), Instant::now(), 1);
    demux.take(first, now);
    let mut none = Context::from_waker(Waker::noop());
    while taken < TURN
        && let Poll::Ready(Ok(datagram)) = pin!(shared.connection.read_datagram()).poll(&mut none)
    {
        demux.take(&datagram, now);
        taken += 1;
    }
    taken
}

/// Waits until the peer has got what was said on finished streams.
async fn acknowledged(shared: &Shared) {
    while !shared.lock().is_acknowledged() {
        sleep(LOOK).await;
    }
}

/// Streams of the peer between their first packet and the backlog.
struct Arriving {
    shared: Arc<Shared>,
    /// With their first byte, where it has come.
    waiting: Vec<(SendStream, RecvStream, Option<u8>)>,
    config: Config,
    refusals: u32,
}

impl Arriving {
    fn take(&mut self, (send, recv): Pair) -> Result<(), &'static str> {
        let state = self.shared.lock();
        let full = state.backlog.len() + state.flows.len() + self.waiting.len() >= BACKLOG;
        let refused = full || state.leaving || !self.config.takes_streams;
        drop(state);
        if refused {
            self.refuse(send, recv);
        } else if self.shared.plain {
            self.arrived(send, recv, BYTES);
        } else {
            if self.config.datagrams {
                self.shared.demux().comes(send.id().into());
            }
            self.waiting.push((send, recv, None));
            self.shared.lock().arriving = self.waiting.len();
        }
        if self.refusals > REFUSALS { Err("a flood of new streams") } else { Ok(()) }
    }

    /// Reads first bytes and answers them.
    fn poll(&mut self, cx: &mut Context<'_>) {
        let mut place = 0;
        let datagrams = self.config.datagrams;
        while let Some((send, recv, read)) = self.waiting.get_mut(place) {
            let Poll::Ready(kind) = greet(send, recv, (read, datagrams), cx) else {
                place += 1;
                continue;
            };
            let (send, recv, _) = self.waiting.swap_remove(place);
            self.shared.lock().arriving = self.waiting.len();
            if datagrams {
                let (mut demux, id) = (self.shared.demux(), send.id().into());
                if kind == Some(FLOW) { demux.begin(id, Instant::now()) } else { demux.end(id) }
            }
            match kind {
                Some(kind) => self.arrived(send, recv, kind),
                None => self.refuse(send, recv),
            }
        }
    }

    fn arrived(&mut self, send: SendStream, recv: RecvStream, kind: u8) {
        self.refusals = 0;
        let channel = Arc::new(Channel::new(send, recv, true));
        let mut state = self.shared.lock();
        if state.end.is_some() {
            return;
        }
        state.stats.accepted += 1;
        state.handled += 1;
        state.channels.insert(channel.id, channel.clone());
        let arrived = if kind == FLOW {
            state.flows.push_back(channel);
            &self.shared.flow_arrived
        } else {
            state.backlog.push_back(channel);
            &self.shared.arrived
        };
        drop(state);
        arrived.notify_one();
        self.shared.settled.notify_waiters();
    }

    fn refuse(&mut self, mut send: SendStream, mut recv: RecvStream) {
        // It may have ended already.
        let _ = send.reset(REFUSED);
        let _ = recv.stop(REFUSED);
        self.refusals += 1;
        let mut state = self.shared.lock();
        state.stats.refused += 1;
        state.handled += 1;
        drop(state);
        self.shared.settled.notify_waiters();
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.shared.lock().arriving = 0;
    }
}

/// Ready when the first byte has come and is answered, or there is nothing to wait for; with that byte where the stream
/// is taken.
fn greet(
    send: &mut SendStream,
    recv: &mut RecvStream,
    (read, datagrams): (&mut Option<u8>, bool),
    cx: &mut Context<'_>,
) -> Poll<Option<u8>> {
    if read.is_none() {
        let mut byte = [0];
        match ready!(recv.poll_read(cx, &mut byte)) {
            Ok(1) if byte == [BYTES] || (datagrams && byte == [FLOW]) => *read = Some(byte[0]),
            _ => return Poll::Ready(None),
        }
    }
    let answered = ready!(Pin::new(send).poll_write(cx, &[TAKEN]));
    Poll::Ready(read.filter(|_| answered.is_ok()))
}

/// The first stream, after the hello.
struct Control {
    send: SendStream,
    recv: RecvStream,
    decoder: Decoder,
    out: Vec<u8>,
    /// The peer knows that we are leaving.
    told: bool,
    /// The last question that is on its way.
    asked: u64,
    /// The peer's last question that is not answered.
    question: Option<u64>,
}

impl Control {
    fn new((send, recv): Pair) -> Self {
        let decoder = Decoder::new(Instant::now());
        // What is said here is not to wait for what streams carry; that it has ended is found out soon enough.
        let _ = send.set_priority(1);
        Control { send, recv, decoder, out: Vec::new(), told: false, asked: 0, question: None }
    }

    /// Reads and writes what there is; ready with the rule that the peer has broken.
    fn poll(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Poll<&'static str> {
        let mut buf = [0; 256];
        while let Poll::Ready(outcome) = self.recv.poll_read(cx, &mut buf) {
            match outcome {
                Ok(n @ 1..) => self.decoder.push(&buf[..n]),
                // Its end is told by the connection.
                Err(ReadError::ConnectionLost(_)) => return Poll::Pending,
                Ok(_) | Err(_) => return Poll::Ready("the first stream has ended"),
            }
            loop {
                match self.decoder.next(Instant::now()) {
                    Ok(Some(frame)) => self.handle(frame, shared),
                    Ok(None) => break,
                    Err(reason) => return Poll::Ready(reason),
                }
            }
        }
        loop {
            self.fill(shared);
            if self.out.is_empty() {
                return Poll::Pending;
            }
            match ready!(Pin::new(&mut self.send).poll_write(cx, &self.out)) {
                Ok(n) => drop(self.out.drain(..n)),
                Err(WriteError::ConnectionLost(_)) => return Poll::Pending,
                Err(_) => return Poll::Ready("the first stream has ended"),
            }
        }
    }

    fn handle(&mut self, frame: Frame, shared: &Shared) {
        let mut state = shared.lock();
        match frame {
            Frame::GoAway => {
                state.gone = true;
                drop(state);
                shared.changed.notify_waiters();
            }
            // Questions are numbered upwards: the last answer is an answer to all.
            Frame::Ask(number) => self.question = Some(number),
            Frame::Answer { number, opened } => {
                (state.answered, state.peer_opened) = (state.answered.max(number), opened);
                drop(state);
                shared.settled.notify_waiters();
            }
        }
    }

    /// Puts down what is to be said, if nothing waits to be written: a peer that does not read holds no more than that.
    fn fill(&mut self, shared: &Shared) {
        if !self.out.is_empty() {
            return;
        }
        let state = shared.lock();
        if state.leaving && !self.told {
            self.told = true;
            Frame::GoAway.encode(&mut self.out);
        }
        if let Some(number) = self.question.take() {
            Frame::Answer { number, opened: state.opened }.encode(&mut self.out);
        }
        if state.asked > self.asked {
            self.asked = state.asked;
            Frame::Ask(self.asked).encode(&mut self.out);
        }
    }
}

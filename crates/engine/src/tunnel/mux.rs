//! The yamux state machine: bytes of the peer in, bytes for the peer out, and what the streams make of it.
//!
//! Knows no socket, no clock and no task: `driver` moves the bytes, tells the time and wakes whom it names. What is
//! owed to the peer (acknowledgements, window updates, pongs, resets) is state of a stream or of the session, never a
//! queue that the peer can fill.
//!
//! Two habits of HashiCorp's library shape what is sent: it handles the flags of a data frame before its bytes, so a
//! FIN there can hide them, and never goes out on one of ours; and it ends the session at a second FIN or ACK.

mod ids;
mod receive;
mod slot;
#[cfg(test)]
mod tests;
mod transmit;

use std::collections::VecDeque;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::{End, OpenError, Role, Stats};
use crate::io::{BUFFER_SIZE, Buffer};
use ids::PeerIds;
use receive::Parser;
pub use slot::Fault;
use slot::{Holder, Slot};

/// Window of a stream when it opens, in both directions: the specification's.
pub const INITIAL_WINDOW: u32 = 256 * 1024;
/// The most that a window grows to.
pub const MAX_WINDOW: u32 = 16 * 1024 * 1024;
/// Unread bytes of a session at which the stream with the most of them is reset.
pub const RECEIVE_BUDGET: usize = 64 * 1024 * 1024;
/// Streams that may wait for the peer's acknowledgement, and streams of the peer that may wait to be taken.
pub const BACKLOG: usize = 256;
/// Bytes a stream holds that could not be sent yet.
pub const OUTBOX: usize = 256 * 1024;
/// Bytes that all streams together hold so, before each may hold only one [`TURN`].
pub const OUTBOXES: usize = 512 * 1024;
/// The most that one stream sends before the next has its turn.
pub const TURN: usize = 32 * 1024;

/// Resets of refused streams that may wait to be sent. A peer has at most [`BACKLOG`] streams unacknowledged.
const REFUSED: usize = 1024;
/// Streams refused since the last one that was not: nobody who listens to resets goes on for so long.
const REFUSALS: u32 = 16 * 1024;
/// Resets of our own that may wait to be sent, before a peer that does not read is given up.
const RESETS: usize = 64 * 1024;

/// Room of a message that is filled by data; what is left to [`BUFFER_SIZE`] is for control frames.
const DATA_ROOM: usize = BUFFER_SIZE - 4096;
/// How long a measured round trip is believed.
const RTT_AGE: Duration = Duration::from_secs(10);

/// One end of a session.
pub struct Mux {
    /// Bytes to leave free in front of each message.
    reserve: usize,
    streams: HashMap<u32, Slot>,
    /// Streams not yet over in both directions.
    open: usize,
    next_id: u64,
    peer_ids: PeerIds,
    /// The peer's streams that nobody has taken yet.
    backlog: VecDeque<u32>,
    /// Streams that owe the peer something other than data, each once.
    control: VecDeque<u32>,
    /// Streams with data that may be sent, each once.
    ready: VecDeque<u32>,
    refused: VecDeque<u32>,
    resets: VecDeque<u32>,
    refusals: u32,
    /// Streams of ours that the peer has not acknowledged.
    unacknowledged: usize,
    /// Somebody waits for an answer to open another.
    wanted: bool,
    /// Nobody here takes streams.
    refusing: bool,
    /// Pings of ours that were answered, and whether one was since somebody asked.
    answers: u64,
    answered: bool,
    /// What all windows together have grown by.
    grown: u64,
    parser: Parser,
    /// The message that goes out next.
    staged: Buffer,
    /// The stream that alone has written into it.
    stager: Option<u32>,
    /// Bytes in all outboxes.
    queued: usize,
    pong: Option<u32>,
    ping_due: bool,
    /// The ping on its way: its number and when it left.
    ping: Option<(u32, Instant)>,
    pings: u32,
    measured: Option<Instant>,
    go_away_due: Option<u32>,
    leaving: bool,
    peer_leaving: bool,
    arrived: usize,
    wakes: Vec<Waker>,
    end: Option<End>,
    stats: Stats,
}

impl Mux {
    /// A session without streams. `reserve` bytes stay free in front of each message for the framing.
    pub fn new(role: Role, reserve: usize) -> Self {
        let (ours, theirs) = match role {
            Role::Client => (1, 2),
            Role::Server => (2, 1),
        };
        Mux {
            reserve,
            streams: HashMap::new(),
            open: 0,
            next_id: ours,
            peer_ids: PeerIds::new(theirs),
            backlog: VecDeque::new(),
            control: VecDeque::new(),
            ready: VecDeque::new(),
            refused: VecDeque::new(),
            resets: VecDeque::new(),
            refusals: 0,
            unacknowledged: 0,
            wanted: false,
            refusing: false,
            answers: 0,
            answered: false,
            grown: 0,
            parser: Parser::default(),
            staged: Buffer::new(),
            stager: None,
            queued: 0,
            pong: None,
            ping_due: false,
            ping: None,
            pings: 0,
            measured: None,
            go_away_due: None,
            leaving: false,
            peer_leaving: false,
            arrived: 0,
            wakes: Vec::new(),
            end: None,
            stats: Stats::default(),
        }
    }

    /// Opens a stream. Its SYN leaves with the next message.
    pub fn open(&mut self) -> Result<u32, OpenError> {
        if self.end.is_some() {
            return Err(OpenError::Ended);
        }
        if self.peer_leaving {
            return Err(OpenError::GoneAway);
        }
        let id = match u32::try_from(self.next_id) {
            // HashiCorp's library stops one short of the last id, so we do.
            Ok(id) if id < u32::MAX - 1 => id,
            _ => return Err(OpenError::Busy),
        };
        if self.stats.unread as usize > RECEIVE_BUDGET / 2 {
            return Err(OpenError::Busy);
        }
        if self.unacknowledged >= BACKLOG {
            self.wanted = true;
            return Err(OpenError::Unanswered);
        }
        self.next_id += 2;
        self.unacknowledged += 1;
        self.open += 1;
        self.stats.opened += 1;
        self.streams.insert(id, Slot::opened());
        self.control.push_back(id);
        Ok(id)
    }

    /// Takes the oldest stream that the peer has opened.
    pub fn accept(&mut self) -> Option<u32> {
        let id = self.backlog.pop_front()?;
        if let Some(slot) = self.streams.get_mut(&id) {
            slot.holder = Holder::Handle;
        }
        Some(id)
    }

    /// Reads what has come on a stream. `Ok(0)` is the peer's FIN.
    pub fn read(&mut self, id: u32, target: &mut [u8]) -> Poll<Result<usize, Fault>> {
        let Some(slot) = self.streams.get_mut(&id) else { return Poll::Ready(Err(Fault::Reset { accepted: true })) };
        if slot.inbox.is_empty() {
            return match slot.fault {
                _ if slot.peer_finished => Poll::Ready(Ok(0)),
                Some(fault) => Poll::Ready(Err(fault)),
                None => Poll::Pending,
            };
        }
        let n = slot.inbox.take(target);
        self.stats.unread -= n as u64;
        if slot.window_is_due() {
            slot.owe_window(id, &mut self.control);
        }
        Poll::Ready(Ok(n))
    }

    /// Ready when the peer has taken the stream.
    pub fn taken(&self, id: u32) -> Poll<Result<(), Fault>> {
        match self.streams.get(&id) {
            None => Poll::Ready(Err(Fault::Reset { accepted: true })),
            Some(slot) => match slot.fault {
                Some(fault @ Fault::Reset { accepted: false }) => Poll::Ready(Err(fault)),
                None if slot.unacknowledged => Poll::Pending,
                // What it said before any other fault is still to be read.
                _ => Poll::Ready(Ok(())),
            },
        }
    }

    /// True when a read would not wait.
    pub fn is_readable(&self, id: u32) -> bool {
        self.streams.get(&id).is_none_or(|slot| !slot.inbox.is_empty() || slot.peer_finished || slot.fault.is_some())
    }

    /// Writes to a stream, as much as may wait for its turn.
    pub fn write(&mut self, id: u32, data: &[u8]) -> Poll<Result<usize, Fault>> {
        let Some(slot) = self.streams.get_mut(&id) else { return Poll::Ready(Err(Fault::Reset { accepted: true })) };
        if let Some(fault) = slot.fault {
            return Poll::Ready(Err(fault));
        }
        if slot.finishing {
            return Poll::Ready(Err(Fault::Finished));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        // Where nobody waits for a turn, the bytes go straight into the message.
        if slot.outbox.is_empty() && !slot.syn_due && self.ready.is_empty() {
            let first = self.staged.is_empty();
            let n = slot.stage(id, data, self.reserve, &mut self.staged);
            if n > 0 {
                self.stager = Some(id).filter(|_| first || self.stager == Some(id));
                return Poll::Ready(Ok(n));
            }
            // A stream that has filled the message alone waits for the next: cheaper than to copy twice.
            if self.stager == Some(id) && slot.allowance > 0 {
                return Poll::Pending;
            }
        }
        let limit = if self.queued < OUTBOXES { OUTBOX } else { TURN };
        let n = data.len().min(limit.saturating_sub(slot.outbox.len()));
        if n == 0 {
            return Poll::Pending;
        }
        slot.outbox.push(&data[..n], n);
        self.queued += n;
        slot.queue_data(id, &mut self.ready);
        Poll::Ready(Ok(n))
    }

    /// Ends our direction after what was written. Waits until all of that is on its way.
    pub fn finish(&mut self, id: u32) -> Poll<Result<(), Fault>> {
        let Some(slot) = self.streams.get_mut(&id) else { return Poll::Ready(Err(Fault::Reset { accepted: true })) };
        if slot.finished || (slot.finishing && slot.outbox.is_empty() && slot.fault.is_none()) {
            return Poll::Ready(Ok(()));
        }
        if let Some(fault) = slot.fault {
            return Poll::Ready(Err(fault));
        }
        slot.finishing = true;
        if !slot.outbox.is_empty() {
            return Poll::Pending;
        }
        slot.owe(id, &mut self.control);
        Poll::Ready(Ok(()))
    }

    /// Has `waker` woken when a read may go on.
    pub fn wait_read(&mut self, id: u32, waker: &Waker) {
        if let Some(slot) = self.streams.get_mut(&id) {
            slot::keep(&mut slot.reader, waker);
        }
    }

    /// Has `waker` woken when a write or finish may go on.
    pub fn wait_write(&mut self, id: u32, waker: &Waker) {
        if let Some(slot) = self.streams.get_mut(&id) {
            slot::keep(&mut slot.writer, waker);
        }
    }

    /// Forgets a stream whose handle is gone; resets it unless both directions have ended. `hard` resets it even where
    /// only its FIN waits to be sent.
    pub fn drop_stream(&mut self, id: u32, hard: bool) {
        let Some(slot) = self.streams.get_mut(&id) else { return };
        self.stats.unread -= slot.inbox.len() as u64;
        slot.inbox.clear();
        if slot.fault.is_some() || (slot.finished && slot.peer_finished) {
            self.remove(id);
        } else if !hard && slot.finishing && !slot.finished && slot.outbox.is_empty() {
            // The FIN is still to go out; whoever sends it sees that nobody is left.
            slot.holder = Holder::Nobody;
            (slot.reader, slot.writer) = (None, None);
        } else {
            self.reset(id);
        }
    }

    /// Asks the peer to open no more streams: GoAway 0. Ours may still be opened (yamux "Go Away": it is about the
    /// streams of whoever receives it).
    pub fn go_away(&mut self) {
        if !self.leaving && self.end.is_none() {
            self.leaving = true;
            self.go_away_due.get_or_insert(super::frame::GO_AWAY_NORMAL);
        }
    }

    /// Ends the session for `reason`, as far as streams are concerned; the first reason counts. Where `code` is given,
    /// the last message is a GoAway with it.
    pub fn end(&mut self, reason: End, code: Option<u32>) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(reason);
        self.staged.release();
        self.backlog = VecDeque::new();
        (self.control, self.ready) = (VecDeque::new(), VecDeque::new());
        (self.refused, self.resets) = (VecDeque::new(), VecDeque::new());
        (self.pong, self.ping_due) = (None, false);
        self.go_away_due = code;
        self.streams.retain(|_, slot| {
            if slot.holder != Holder::Handle {
                self.stats.unread -= slot.inbox.len() as u64;
                return false;
            }
            if slot.fault.is_none() && !(slot.finished && slot.peer_finished) {
                // A SYN that never left is the one thing that is certain.
                slot.fault = Some(if slot.syn_due { Fault::Reset { accepted: false } } else { Fault::SessionEnded });
            }
            slot.outbox.clear();
            self.queued = 0;
            self.wakes.extend(slot.reader.take());
            self.wakes.extend(slot.writer.take());
            true
        });
        self.open = 0;
    }

    /// Why the session has ended, once it has.
    pub fn ended(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// True once after [`Mux::open`] has failed as unanswered and may succeed again.
    pub fn take_room(&mut self) -> bool {
        self.unacknowledged < BACKLOG && std::mem::take(&mut self.wanted)
    }

    /// True while [`Mux::open`] may succeed.
    pub fn is_open(&self) -> bool {
        self.end.is_none() && !self.peer_leaving
    }

    /// True when the peer has sent GoAway 0.
    pub fn peer_is_leaving(&self) -> bool {
        self.peer_leaving
    }

    /// Streams open now.
    pub fn streams(&self) -> usize {
        self.open
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Asks the peer whether it is there, unless it has been asked.
    pub fn ask(&mut self) {
        self.ping_due |= self.ping.is_none();
    }

    /// True while a ping is to be sent or answered.
    pub fn is_asking(&self) -> bool {
        self.ping_due || self.ping.is_some()
    }

    /// How many pings were answered.
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// True once after a ping was answered.
    pub fn take_answered(&mut self) -> bool {
        std::mem::take(&mut self.answered)
    }

    /// From now on every stream of the peer is refused.
    pub fn refuse_streams(&mut self) {
        self.refusing = true;
    }

    /// When the ping left that has not been answered.
    pub fn asked(&self) -> Option<Instant> {
        self.ping.map(|(_, sent)| sent)
    }

    /// The wakers of whoever can go on now.
    pub fn take_wakes(&mut self, into: &mut Vec<Waker>) {
        into.append(&mut self.wakes);
        if self.wakes.capacity() > 64 {
            self.wakes = Vec::new();
        }
    }

    /// How many streams the peer has opened since the last call.
    pub fn take_arrived(&mut self) -> usize {
        std::mem::take(&mut self.arrived)
    }

    /// Memory held for streams and messages, roughly, in bytes.
    pub fn memory(&self) -> usize {
        let queues = self.backlog.capacity() + self.control.capacity() + self.ready.capacity();
        let resets = self.refused.capacity() + self.resets.capacity();
        self.streams.capacity() * size_of::<Slot>()
            + (queues + resets) * size_of::<u32>()
            + self.staged.len()
            + self.queued
            + self.stats.unread as usize
    }

    /// Ends a stream at once and owes the peer a RST, if the peer knows the stream.
    fn reset(&mut self, id: u32) {
        let Some(slot) = self.streams.get_mut(&id) else { return };
        if !slot.syn_due {
            self.resets.push_back(id);
            self.stats.resets_out += 1;
        }
        self.remove(id);
        if self.resets.len() > RESETS {
            self.end(End::Stalled, None);
        }
    }

    fn remove(&mut self, id: u32) {
        let Some(slot) = self.streams.remove(&id) else { return };
        self.stats.unread -= slot.inbox.len() as u64;
        self.queued -= slot.outbox.len();
        self.closed(&slot);
        self.grown -= u64::from(slot.window - INITIAL_WINDOW);
        if self.streams.is_empty() {
            self.streams = HashMap::new();
            (self.control, self.ready, self.backlog) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        }
    }

    /// Counts a stream out that was open until now.
    fn closed(&mut self, slot: &Slot) {
        if slot.fault.is_none() && !(slot.finished && slot.peer_finished) {
            self.open -= 1;
        }
        self.unacknowledged -= usize::from(slot.unacknowledged);
    }
}

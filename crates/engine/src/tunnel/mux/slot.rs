//! What is known of one stream.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Instant;

use super::{DATA_ROOM, INITIAL_WINDOW};
use crate::io::Buffer;
use crate::tunnel::chunks::Chunks;
use crate::tunnel::frame::{ACK, HEADER, Header, Kind, SYN};

/// Why a stream does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The peer reset it; without `accepted` it certainly never took it.
    Reset {
        /// Whether the peer may have taken it.
        accepted: bool,
    },
    /// The session held too many unread bytes, and this stream the most of them.
    Overrun,
    /// We have ended our direction.
    Finished,
    /// The session has ended.
    SessionEnded,
}

/// Who has a stream in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// The peer opened it and nobody has taken it.
    Backlog,
    /// A handle.
    Handle,
    /// The handle is gone; only the FIN is still to be sent.
    Nobody,
}

pub(super) struct Slot {
    pub(super) inbox: Chunks,
    pub(super) outbox: Chunks,
    /// What the peer may still send.
    pub(super) credit: u32,
    /// What the peer may have on its way or unread at most.
    pub(super) window: u32,
    /// When the window was last opened.
    pub(super) opened: Option<Instant>,
    /// What we may still send.
    pub(super) allowance: u32,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) holder: Holder,
    pub(super) fault: Option<Fault>,
    pub(super) syn_due: bool,
    pub(super) ack_due: bool,
    pub(super) window_due: bool,
    /// Opened by us and not acknowledged.
    pub(super) unacknowledged: bool,
    /// We write no more; the FIN follows what is in the outbox.
    pub(super) finishing: bool,
    /// Our FIN has gone out.
    pub(super) finished: bool,
    pub(super) peer_finished: bool,
    in_control: bool,
    in_ready: bool,
}

impl Slot {
    fn new(holder: Holder) -> Self {
        Slot {
            inbox: Chunks::default(),
            outbox: Chunks::default(),
            credit: INITIAL_WINDOW,
            window: INITIAL_WINDOW,
            opened: None,
            allowance: INITIAL_WINDOW,
            reader: None,
            writer: None,
            holder,
            fault: None,
            syn_due: false,
            ack_due: false,
            window_due: false,
            unacknowledged: false,
            finishing: false,
            finished: false,
            peer_finished: false,
            in_control: false,
            in_ready: false,
        }
    }

    /// A stream that we open; the caller puts it into the control queue.
    pub(super) fn opened() -> Self {
        Slot { syn_due: true, unacknowledged: true, in_control: true, ..Slot::new(Holder::Handle) }
    }

    /// A stream that the peer opens; the caller puts it into the control queue.
    pub(super) fn accepted() -> Self {
        Slot { ack_due: true, in_control: true, ..Slot::new(Holder::Backlog) }
    }

    /// Bytes by which the window could be opened.
    pub(super) fn closed_window(&self) -> u32 {
        self.window - self.credit - self.inbox.len() as u32
    }

    pub(super) fn window_is_due(&self) -> bool {
        !self.window_due && !self.peer_finished && self.fault.is_none() && self.closed_window() >= self.window / 2
    }

    pub(super) fn owe_window(&mut self, id: u32, control: &mut VecDeque<u32>) {
        self.window_due = true;
        self.owe(id, control);
    }

    /// Sees to it that what the stream owes the peer is sent.
    pub(super) fn owe(&mut self, id: u32, control: &mut VecDeque<u32>) {
        if !self.in_control {
            self.in_control = true;
            control.push_back(id);
        }
    }

    pub(super) fn left_control(&mut self) {
        self.in_control = false;
    }

    /// Puts the stream in line for a turn, if it has something to send and may.
    pub(super) fn queue_data(&mut self, id: u32, ready: &mut VecDeque<u32>) {
        // The first data of a stream leave with its SYN, which the control queue sends.
        if !self.in_ready && !self.syn_due && self.allowance > 0 && !self.outbox.is_empty() {
            self.in_ready = true;
            ready.push_back(id);
        }
    }

    pub(super) fn left_ready(&mut self) {
        self.in_ready = false;
    }

    /// Flags of the next frame, which thereby are sent.
    pub(super) fn take_flags(&mut self) -> u16 {
        let flags = (u16::from(self.syn_due) * SYN) | (u16::from(self.ack_due) * ACK);
        (self.syn_due, self.ack_due) = (false, false);
        flags
    }

    /// Writes a frame with the first bytes of `data` into the message, as many as fit and are allowed.
    pub(super) fn stage(&mut self, id: u32, data: &[u8], reserve: usize, staged: &mut Buffer) -> usize {
        let room = DATA_ROOM.saturating_sub(staged.len() + reserve + HEADER);
        let n = data.len().min(room).min(self.allowance as usize);
        if n > 0 {
            self.begin_data(id, n, reserve, staged);
            staged.extend(&data[..n]);
        }
        n
    }

    /// The same from the outbox, at most `limit` bytes of it. The frame is sent empty where it carries flags.
    pub(super) fn stage_outbox(&mut self, id: u32, limit: usize, reserve: usize, staged: &mut Buffer) -> usize {
        let room = DATA_ROOM.saturating_sub(staged.len() + reserve + HEADER);
        let n = self.outbox.len().min(room).min(limit).min(self.allowance as usize);
        if n > 0 {
            self.begin_data(id, n, reserve, staged);
            self.outbox.move_to(staged, n);
        }
        n
    }

    fn begin_data(&mut self, id: u32, n: usize, reserve: usize, staged: &mut Buffer) {
        let header = Header { kind: Kind::Data, flags: self.take_flags(), stream: id, length: n as u32 };
        self.allowance -= n as u32;
        begin(staged, reserve);
        staged.extend(&header.encode());
    }
}

/// Leaves room for the framing in front of a message that is empty.
pub(super) fn begin(staged: &mut Buffer, reserve: usize) {
    if staged.is_empty() {
        staged.extend(&[0; 16][..reserve]);
    }
}

/// Keeps `waker` where it is not the one that is kept already.
pub(super) fn keep(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(kept) if kept.will_wake(waker) => {}
        _ => *place = Some(waker.clone()),
    }
}

//! What goes out to the peer, and in which order.

use std::time::Instant;

use super::slot::{Holder, begin};
use super::{INITIAL_WINDOW, MAX_WINDOW, Mux, OUTBOX, OUTBOXES, RECEIVE_BUDGET, TURN};
use crate::io::{BUFFER_SIZE, Buffer};
use crate::tunnel::frame::{ACK, FIN, HEADER, Header, Kind, RST, SYN};

impl Mux {
    /// The next message: everything that is ready, control frames first, as far as it fits. Empty when there is
    /// nothing.
    pub fn transmit(&mut self, now: Instant) -> Buffer {
        if self.end.is_none() {
            self.session_frames(now);
            self.reset_frames();
            self.control_frames(now);
            self.data_frames();
        } else if let Some(code) = self.go_away_due.take() {
            self.push(Header { kind: Kind::GoAway, flags: 0, stream: 0, length: code });
        }
        if let Some(slot) = self.stager.take().and_then(|id| self.streams.get_mut(&id)) {
            self.wakes.extend(slot.writer.take());
        }
        let message = std::mem::take(&mut self.staged);
        self.stats.bytes_out += message.len().saturating_sub(self.reserve) as u64;
        message
    }

    /// True when [`Mux::transmit`] has something to say.
    pub fn has_work(&self) -> bool {
        !self.staged.is_empty()
            || !self.control.is_empty()
            || !self.ready.is_empty()
            || self.pong.is_some()
            || self.ping_due
            || self.go_away_due.is_some()
            || !self.resets.is_empty()
            || !self.refused.is_empty()
    }

    fn push(&mut self, header: Header) {
        begin(&mut self.staged, self.reserve);
        self.staged.extend(&header.encode());
    }

    fn has_room(&self) -> bool {
        self.staged.len() + self.reserve + 2 * HEADER <= BUFFER_SIZE
    }

    fn session_frames(&mut self, now: Instant) {
        if let Some(code) = self.go_away_due.take() {
            self.push(Header { kind: Kind::GoAway, flags: 0, stream: 0, length: code });
        }
        if let Some(number) = self.pong.take() {
            self.push(Header { kind: Kind::Ping, flags: ACK, stream: 0, length: number });
        }
        if std::mem::take(&mut self.ping_due) {
            self.push(Header { kind: Kind::Ping, flags: SYN, stream: 0, length: self.pings });
            self.ping = Some((self.pings, now));
            self.pings = self.pings.wrapping_add(1);
        }
    }

    fn reset_frames(&mut self) {
        while self.has_room() {
            let Some(id) = self.refused.pop_front().or_else(|| self.resets.pop_front()) else { break };
            self.push(Header { kind: Kind::WindowUpdate, flags: RST, stream: id, length: 0 });
        }
        if self.refused.is_empty() && self.refused.capacity() > 0 {
            self.refused = Default::default();
        }
        if self.resets.is_empty() && self.resets.capacity() > 0 {
            self.resets = Default::default();
        }
    }

    fn control_frames(&mut self, now: Instant) {
        while self.has_room() {
            let Some(id) = self.control.pop_front() else { break };
            let Some(slot) = self.streams.get_mut(&id) else { continue };
            slot.left_control();
            if slot.fault.is_some() {
                continue;
            }
            if slot.syn_due {
                let n = slot.stage_outbox(id, TURN, self.reserve, &mut self.staged);
                self.queued -= n;
                if n > 0 {
                    slot.queue_data(id, &mut self.ready);
                    self.wakes.extend(slot.writer.take());
                }
            }
            self.window_frame(id, now);
            self.fin_frame(id);
        }
    }

    /// Sends what can stand in a window update: the flags of a stream without data, and the window.
    fn window_frame(&mut self, id: u32, now: Instant) {
        let budget = (RECEIVE_BUDGET / 2) as u64;
        let Some(slot) = self.streams.get_mut(&id) else { return };
        let mut delta = 0;
        if std::mem::take(&mut slot.window_due) && !slot.peer_finished {
            // Half a window used within a round trip: the window, not the reader, is what holds the peer up.
            let quick = match (slot.opened, self.stats.rtt) {
                (Some(opened), Some(rtt)) => now.saturating_duration_since(opened) < rtt,
                _ => false,
            };
            let affordable = self.grown + u64::from(slot.window) <= budget && self.stats.unread < budget / 2;
            if quick && affordable && slot.window < MAX_WINDOW {
                self.grown += u64::from(slot.window);
                slot.window *= 2;
            }
            delta = slot.closed_window();
            slot.credit += delta;
            slot.opened = Some(now);
        }
        let flags = slot.take_flags();
        if flags != 0 || delta != 0 {
            if flags & SYN != 0 {
                slot.queue_data(id, &mut self.ready);
            }
            self.push(Header { kind: Kind::WindowUpdate, flags, stream: id, length: delta });
        }
    }

    fn fin_frame(&mut self, id: u32) {
        let Some(slot) = self.streams.get_mut(&id) else { return };
        if !slot.finishing || slot.finished || !slot.outbox.is_empty() {
            return;
        }
        slot.finished = true;
        let (over, abandoned) = (slot.peer_finished, slot.holder == Holder::Nobody);
        self.wakes.extend(slot.writer.take());
        self.push(Header { kind: Kind::WindowUpdate, flags: FIN, stream: id, length: 0 });
        if over {
            self.open -= 1;
        }
        if abandoned {
            if over { self.remove(id) } else { self.reset(id) }
        }
    }

    fn data_frames(&mut self) {
        while let Some(id) = self.ready.pop_front() {
            let Some(slot) = self.streams.get_mut(&id) else { continue };
            slot.left_ready();
            if slot.fault.is_some() || slot.outbox.is_empty() || slot.allowance == 0 {
                continue;
            }
            let n = slot.stage_outbox(id, TURN, self.reserve, &mut self.staged);
            self.queued -= n;
            let limit = if self.queued < OUTBOXES { OUTBOX } else { TURN };
            if slot.outbox.len() <= limit / 2 && (!slot.finishing || slot.outbox.is_empty()) {
                self.wakes.extend(slot.writer.take());
            }
            slot.queue_data(id, &mut self.ready);
            let drained = slot.finishing && slot.outbox.is_empty();
            if n == 0 {
                // No room left; the stream keeps its place for the next message.
                self.ready.rotate_right(usize::from(!self.ready.is_empty()));
                break;
            }
            if drained {
                self.fin_frame(id);
            }
        }
    }
}

const _: () = assert!(INITIAL_WINDOW <= MAX_WINDOW && MAX_WINDOW as usize <= RECEIVE_BUDGET);

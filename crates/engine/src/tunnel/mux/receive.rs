//! What the peer's bytes do to a session.

use std::time::Instant;

use super::slot::{Fault, Holder, Slot};
use super::{BACKLOG, INITIAL_WINDOW, MAX_WINDOW, Mux, RECEIVE_BUDGET, REFUSALS, REFUSED, RTT_AGE};
use crate::tunnel::End;
use crate::tunnel::frame::{ACK, FIN, GO_AWAY_NORMAL, HEADER, Header, Kind, RST, SYN};

/// Where the reader stands in the byte stream.
#[derive(Default)]
pub(super) struct Parser {
    header: [u8; HEADER],
    have: usize,
    body: Option<Body>,
}

/// Data of a frame that is still to come.
#[derive(Clone, Copy)]
struct Body {
    stream: u32,
    left: u32,
    fin: bool,
}

impl Mux {
    /// Takes bytes of the peer, cut anywhere. An error is the end of the session, and the caller has to end it.
    pub fn receive(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), End> {
        if self.end.is_some() {
            return Ok(());
        }
        self.stats.bytes_in += bytes.len() as u64;
        while !bytes.is_empty() {
            if let Some(mut body) = self.parser.body.take() {
                let (piece, rest) = bytes.split_at(bytes.len().min(body.left as usize));
                bytes = rest;
                body.left -= piece.len() as u32;
                self.body(body, piece);
                if body.left > 0 {
                    self.parser.body = Some(body);
                } else if body.fin {
                    self.peer_finished(body.stream);
                }
                continue;
            }
            let parser = &mut self.parser;
            let n = bytes.len().min(HEADER - parser.have);
            parser.header[parser.have..parser.have + n].copy_from_slice(&bytes[..n]);
            parser.have += n;
            bytes = &bytes[n..];
            if parser.have == HEADER {
                parser.have = 0;
                let header = Header::decode(&parser.header).map_err(End::protocol)?;
                self.frame(header, now)?;
            }
        }
        if self.stats.unread as usize > RECEIVE_BUDGET {
            self.shed();
        }
        Ok(())
    }

    fn frame(&mut self, header: Header, now: Instant) -> Result<(), End> {
        match header.kind {
            Kind::Data | Kind::WindowUpdate => self.stream_frame(header, now),
            // HashiCorp's library looks at no stream id here, and neither do we.
            Kind::Ping if header.flags & SYN != 0 => {
                self.pong = Some(header.length);
                Ok(())
            }
            Kind::Ping => {
                if let Some((_, sent)) = self.ping.take_if(|(number, _)| *number == header.length) {
                    self.answers += 1;
                    self.answered = true;
                    self.stats.rtt = Some(now.saturating_duration_since(sent));
                    self.measured = Some(now);
                }
                Ok(())
            }
            Kind::GoAway if header.length == GO_AWAY_NORMAL => {
                self.peer_leaving = true;
                Ok(())
            }
            Kind::GoAway => Err(End::GoAway(header.length)),
        }
    }

    fn stream_frame(&mut self, header: Header, now: Instant) -> Result<(), End> {
        let id = header.stream;
        let data = if header.kind == Kind::Data { header.length } else { 0 };
        if header.flags & SYN != 0 {
            if data > INITIAL_WINDOW {
                return Err(End::protocol("data beyond the window"));
            }
            self.incoming(id)?;
        }
        let Some(slot) = self.streams.get_mut(&id) else {
            return self.unknown(id, data);
        };

        if header.flags & ACK != 0 && std::mem::take(&mut slot.unacknowledged) {
            self.unacknowledged -= 1;
            // Whoever waits for that waits where a reader does.
            self.wakes.extend(slot.reader.take());
        }
        if header.kind == Kind::WindowUpdate && slot.fault.is_none() {
            let Some(allowance) = slot.allowance.checked_add(header.length) else {
                return Err(End::protocol("a window beyond 4 GiB"));
            };
            slot.allowance = allowance;
            slot.queue_data(id, &mut self.ready);
        }
        if data > 0 {
            if slot.fault.is_none() && !slot.peer_finished {
                if data > slot.credit {
                    return Err(End::protocol("data beyond the window"));
                }
                slot.opened.get_or_insert(now);
            } else if data > MAX_WINDOW {
                return Err(End::protocol("data beyond any window"));
            }
            self.parser.body = Some(Body { stream: id, left: data, fin: header.flags & FIN != 0 });
        } else if header.flags & FIN != 0 {
            self.peer_finished(id);
        }
        if header.flags & RST != 0 {
            self.peer_reset(id);
        }
        if data > 0 && self.stats.rtt.is_none_or(|_| self.measured.is_some_and(|at| now > at + RTT_AGE)) {
            self.measure();
        }
        Ok(())
    }

    /// Wants to know the round trip once a stream has used a good part of its window.
    fn measure(&mut self) {
        if self.stats.bytes_in > u64::from(INITIAL_WINDOW / 4) {
            self.ask();
        }
    }

    /// A SYN.
    fn incoming(&mut self, id: u32) -> Result<(), End> {
        if !self.peer_ids.owns(id) {
            return Err(End::protocol("a stream id of the wrong side"));
        }
        if !self.peer_ids.take(id) {
            return Err(End::protocol("a stream id used twice"));
        }
        if self.leaving || self.refusing || self.backlog.len() >= BACKLOG {
            self.stats.refused += 1;
            self.refusals += 1;
            self.refused.push_back(id);
            if self.refused.len() > REFUSED || self.refusals > REFUSALS {
                return Err(End::protocol("a flood of new streams"));
            }
            return Ok(());
        }
        self.refusals = 0;
        self.open += 1;
        self.arrived += 1;
        self.stats.accepted += 1;
        self.streams.insert(id, Slot::accepted());
        self.backlog.push_back(id);
        self.control.push_back(id);
        Ok(())
    }

    /// A frame for a stream of which nothing is known any more, or never was.
    fn unknown(&mut self, id: u32, data: u32) -> Result<(), End> {
        let ours = !self.peer_ids.owns(id);
        let used = if ours { id != 0 && u64::from(id) < self.next_id } else { self.peer_ids.used(id) };
        if !used {
            return Err(End::protocol("a frame for a stream never opened"));
        }
        if data > MAX_WINDOW {
            return Err(End::protocol("data beyond any window"));
        }
        if data > 0 {
            self.parser.body = Some(Body { stream: id, left: data, fin: false });
        }
        Ok(())
    }

    fn body(&mut self, body: Body, piece: &[u8]) {
        match self.streams.get_mut(&body.stream) {
            Some(slot) if slot.fault.is_none() && !slot.peer_finished && slot.holder != Holder::Nobody => {
                slot.credit -= piece.len() as u32;
                slot.inbox.push(piece, piece.len() + body.left as usize);
                self.stats.unread += piece.len() as u64;
                self.wakes.extend(slot.reader.take());
            }
            _ => self.stats.discarded += piece.len() as u64,
        }
    }

    fn peer_finished(&mut self, id: u32) {
        let Some(slot) = self.streams.get_mut(&id) else { return };
        if slot.peer_finished || slot.fault.is_some() {
            return;
        }
        if slot.finished {
            self.open -= 1;
        }
        slot.peer_finished = true;
        self.wakes.extend(slot.reader.take());
        if slot.finished && slot.holder == Holder::Nobody {
            self.remove(id);
        }
    }

    fn peer_reset(&mut self, id: u32) {
        let Some(slot) = self.streams.get_mut(&id) else { return };
        if slot.fault.is_some() {
            return;
        }
        self.stats.resets_in += 1;
        match slot.holder {
            Holder::Handle => self.fail(id, |slot| Fault::Reset { accepted: !slot.unacknowledged }),
            Holder::Nobody => self.remove(id),
            Holder::Backlog => {
                self.backlog.retain(|other| *other != id);
                self.remove(id);
            }
        }
    }

    /// Ends a stream whose handle lives. What has come stays to be read, what was to go is dropped.
    fn fail(&mut self, id: u32, fault: impl FnOnce(&Slot) -> Fault) {
        let Some(slot) = self.streams.get_mut(&id) else { return };
        if !(slot.finished && slot.peer_finished) {
            self.open -= 1;
        }
        self.unacknowledged -= usize::from(slot.unacknowledged);
        slot.fault = Some(fault(slot));
        slot.unacknowledged = false;
        self.queued -= slot.outbox.len();
        slot.outbox.clear();
        self.wakes.extend(slot.reader.take());
        self.wakes.extend(slot.writer.take());
    }

    /// Resets the stream with the most unread bytes.
    fn shed(&mut self) {
        let Some((&id, _)) = self.streams.iter().max_by_key(|(_, slot)| slot.inbox.len()) else { return };
        self.stats.overruns += 1;
        self.stats.resets_out += 1;
        self.resets.push_back(id);
        self.backlog.retain(|other| *other != id);
        let Some(slot) = self.streams.get_mut(&id) else { return };
        self.stats.unread -= slot.inbox.len() as u64;
        slot.inbox.clear();
        if slot.holder == Holder::Handle {
            self.fail(id, |_| Fault::Overrun);
        } else {
            self.remove(id);
        }
    }
}

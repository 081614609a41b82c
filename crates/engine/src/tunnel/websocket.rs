//! WebSocket (RFC 6455) as a carrier of one byte stream: binary messages whose bounds mean nothing.
//!
//! Sans-I/O: [`Decoder`] finds the payload in place, [`seal`] makes a message of what stands in a buffer. No extension
//! is ever negotiated. `channel` makes a byte stream of it; reading and answering the upgrade is left to the HTTP side.

mod channel;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub use channel::Channel;

use crate::io::Buffer;

/// Bytes to leave free in front of a message for its header.
pub const RESERVE: usize = 14;
/// Close code of an orderly end.
pub const NORMAL: u16 = 1000;
/// Close code of a broken protocol.
pub const PROTOCOL_ERROR: u16 = 1002;

const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// The most that a control frame carries.
const CONTROL: usize = 125;
/// Random bytes that a thread fetches at a time.
const RANDOM: usize = 1024;

/// Which side of the upgrade we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Sent it; masks.
    Client,
    /// Answered it.
    Server,
}

/// What a close frame says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Close {
    /// Its status, where it has one.
    pub code: Option<u16>,
    /// Its reason, without control characters.
    pub reason: String,
}

/// What the peer's bytes hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Payload, unmasked in place, at these places of the input.
    Data(Range<usize>),
    /// A ping, to be answered with the same payload.
    Ping(Payload),
    /// The end of the peer's direction.
    Close(Close),
}

/// The payload of a control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    bytes: [u8; CONTROL],
    len: u8,
}

impl Payload {
    const EMPTY: Payload = Payload { bytes: [0; CONTROL], len: 0 };

    fn push(&mut self, data: &[u8]) {
        let len = usize::from(self.len);
        self.bytes[len..len + data.len()].copy_from_slice(data);
        self.len += data.len() as u8;
    }

    fn get(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Finds messages in the peer's bytes, cut anywhere.
pub struct Decoder {
    /// Whether the peer has to mask.
    masked: bool,
    header: [u8; RESERVE],
    have: usize,
    /// Of the frame whose payload is being read: its opcode, the payload to come, the mask for its next byte.
    opcode: u8,
    left: u64,
    mask: [u8; 4],
    in_payload: bool,
    /// A message has begun and not ended.
    in_message: bool,
    control: Payload,
}

impl Decoder {
    /// Reads what the other side of `side` sends.
    pub fn new(side: Side) -> Self {
        Decoder {
            masked: side == Side::Server,
            header: [0; RESERVE],
            have: 0,
            opcode: 0,
            left: 0,
            mask: [0; 4],
            in_payload: false,
            in_message: false,
            control: Payload::EMPTY,
        }
    }

    /// Takes bytes up to and including the next event; says how many, all of them where there is no event.
    pub fn next(&mut self, input: &mut [u8]) -> Result<(usize, Option<Event>), &'static str> {
        let mut at = 0;
        loop {
            if !self.in_payload {
                if !self.take_header(input, &mut at)? {
                    return Ok((at, None));
                }
                self.in_payload = true;
            }
            let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len() - at);
            let range = at..at + n;
            at += n;
            self.left -= n as u64;
            if self.masked && n > 0 {
                xor(&mut input[range.clone()], self.mask);
                self.mask.rotate_left(n % 4);
            }
            self.in_payload = self.left > 0;
            if self.opcode == BINARY {
                if n > 0 {
                    return Ok((at, Some(Event::Data(range))));
                }
            } else {
                self.control.push(&input[range]);
                if !self.in_payload {
                    let payload = std::mem::replace(&mut self.control, Payload::EMPTY);
                    match self.opcode {
                        PING => return Ok((at, Some(Event::Ping(payload)))),
                        CLOSE => return Ok((at, Some(Event::Close(read_close(payload.get())?)))),
                        _ => {}
                    }
                }
            }
            if at == input.len() {
                return Ok((at, None));
            }
        }
    }

    /// Completes a header and checks it; false when bytes are missing.
    fn take_header(&mut self, input: &[u8], at: &mut usize) -> Result<bool, &'static str> {
        loop {
            let need = match self.have {
                0 | 1 => 2,
                _ => {
                    // What is wrong is refused before more of it is awaited.
                    self.check_start()?;
                    let length = match self.header[1] & 0x7F {
                        126 => 2,
                        127 => 8,
                        _ => 0,
                    };
                    2 + length + if self.masked { 4 } else { 0 }
                }
            };
            if self.have >= 2 && self.have == need {
                break;
            }
            let n = (need - self.have).min(input.len() - *at);
            if n == 0 {
                return Ok(false);
            }
            self.header[self.have..self.have + n].copy_from_slice(&input[*at..*at + n]);
            self.have += n;
            *at += n;
        }
        let [first, second, rest @ ..] = self.header;
        let (length, mask_at) = match second & 0x7F {
            126 => (u64::from(u16::from_be_bytes([rest[0], rest[1]])), 2),
            127 => {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&rest[..8]);
                (u64::from_be_bytes(bytes), 8)
            }
            short => (u64::from(short), 0),
        };
        if length >> 63 != 0 {
            return Err("a websocket frame of 2^63 bytes or more");
        }
        if self.masked {
            self.mask.copy_from_slice(&rest[mask_at..mask_at + 4]);
        }
        self.have = 0;
        self.left = length;
        self.opcode = first & 0x0F;
        if self.opcode <= BINARY {
            self.opcode = BINARY;
            self.in_message = first & FIN == 0;
        }
        Ok(true)
    }

    fn check_start(&self) -> Result<(), &'static str> {
        let [first, second, ..] = self.header;
        if first & 0x70 != 0 {
            return Err("a websocket extension that was not negotiated");
        }
        match first & 0x0F {
            0 if !self.in_message => return Err("a websocket continuation of nothing"),
            BINARY if self.in_message => return Err("a websocket message inside another"),
            0 | BINARY => {}
            1 => return Err("a websocket text message"),
            CLOSE | PING | PONG if first & FIN == 0 => return Err("a fragmented websocket control frame"),
            CLOSE | PING | PONG if second & 0x7F > CONTROL as u8 => return Err("a long websocket control frame"),
            CLOSE | PING | PONG => {}
            _ => return Err("an unknown websocket opcode"),
        }
        match (second & MASKED != 0, self.masked) {
            (false, true) => Err("a websocket frame without a mask"),
            (true, false) => Err("a websocket frame with a mask"),
            _ => Ok(()),
        }
    }
}

fn read_close(payload: &[u8]) -> Result<Close, &'static str> {
    match payload {
        [] => Ok(Close::default()),
        [_] => Err("a websocket close frame of one byte"),
        [high, low, reason @ ..] => {
            let reason = String::from_utf8_lossy(reason).chars().filter(|c| !c.is_control()).collect();
            Ok(Close { code: Some(u16::from_be_bytes([*high, *low])), reason })
        }
    }
}

/// Makes one message of what `buffer` holds behind its first [`RESERVE`] bytes.
pub fn seal(buffer: &mut Buffer, side: Side) {
    let length = buffer.len() - RESERVE;
    let mut header = [0; RESERVE];
    let mut used = 2;
    header[0] = FIN | BINARY;
    if length <= CONTROL {
        header[1] = length as u8;
    } else if let Ok(length) = u16::try_from(length) {
        header[1] = 126;
        header[2..4].copy_from_slice(&length.to_be_bytes());
        used = 4;
    } else {
        header[1] = 127;
        header[2..10].copy_from_slice(&(length as u64).to_be_bytes());
        used = 10;
    }
    let bytes = buffer.chunk_mut();
    if side == Side::Client {
        let mask = new_mask();
        header[1] |= MASKED;
        header[used..used + 4].copy_from_slice(&mask);
        used += 4;
        xor(&mut bytes[RESERVE..], mask);
    }
    bytes[RESERVE - used..RESERVE].copy_from_slice(&header[..used]);
    buffer.consume(RESERVE - used);
}

/// Appends a pong.
pub fn pong(payload: &Payload, side: Side, out: &mut Buffer) {
    control(PONG, payload.get(), side, out);
}

/// Appends a close frame.
pub fn close(code: Option<u16>, side: Side, out: &mut Buffer) {
    match code {
        Some(code) => control(CLOSE, &code.to_be_bytes(), side, out),
        None => control(CLOSE, &[], side, out),
    }
}

fn control(opcode: u8, payload: &[u8], side: Side, out: &mut Buffer) {
    let masked = if side == Side::Client { MASKED } else { 0 };
    out.extend(&[FIN | opcode, masked | payload.len() as u8]);
    if side == Side::Client {
        let mask = new_mask();
        out.extend(&mask);
        let start = out.len();
        out.extend(payload);
        xor(&mut out.chunk_mut()[start..], mask);
    } else {
        out.extend(payload);
    }
}

/// Masks or unmasks. Whole words first: the compiler makes vectors of them.
fn xor(data: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = data.chunks_exact_mut(8);
    for chunk in &mut words {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ word).to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// A `Sec-WebSocket-Key` for an upgrade.
pub fn new_key() -> String {
    let mut bytes = [0; 16];
    for part in bytes.chunks_exact_mut(4) {
        part.copy_from_slice(&new_mask());
    }
    STANDARD.encode(bytes)
}

/// The `Sec-WebSocket-Accept` that answers `key`.
pub fn accept_key(key: &str) -> String {
    let mut hash = sha1_smol::Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.digest().bytes())
}

/// Four bytes that nobody can foretell: a peer must not choose what stands on the wire (RFC 6455, 10.3).
fn new_mask() -> [u8; 4] {
    thread_local! {
        static RANDOMS: RefCell<([u8; RANDOM], usize)> = const { RefCell::new(([0; RANDOM], RANDOM)) };
    }
    RANDOMS.with_borrow_mut(|(bytes, used)| {
        if *used == RANDOM {
            // Without a random source the system is beyond help; a mask of zeros breaks no promise to our own peer.
            let _ = getrandom::fill(bytes);
            *used = 0;
        }
        let mut mask = [0; 4];
        mask.copy_from_slice(&bytes[*used..*used + 4]);
        *used += 4;
        mask
    })
}

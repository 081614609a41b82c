//! The frames of a session's first stream: leaving, and asking whether what was sent has come. No I/O.
//!
//! A frame is its type, the length of its payload and the payload; numbers are written as QUIC writes them (RFC 9000
//! §16). What is unknown is skipped, so that versions can differ.

use std::time::{Duration, Instant};

/// The longest payload.
const LONGEST: u64 = 1024;
/// Time over which frames are counted.
const SPAN: Duration = Duration::from_secs(10);
/// Frames in that time: sessions that drain or are watched send a few a second.
const FRAMES: u32 = 640;

const GO_AWAY: u64 = 1;
const ASK: u64 = 2;
const ANSWER: u64 = 3;

/// What one end says to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Open no more streams.
    GoAway,
    /// Answer with this number.
    Ask(u64),
    /// All questions up to this number are answered.
    Answer {
        /// The number of the last question.
        number: u64,
        /// Streams that the answering end has opened so far.
        opened: u64,
    },
}

impl Frame {
    /// Writes it.
    pub fn encode(self, out: &mut Vec<u8>) {
        let (kind, numbers): (u64, &[u64]) = match &self {
            Frame::GoAway => (GO_AWAY, &[]),
            Frame::Ask(number) => (ASK, std::slice::from_ref(number)),
            Frame::Answer { number, opened } => (ANSWER, &[*number, *opened]),
        };
        let mut payload = Vec::new();
        numbers.iter().for_each(|number| put(*number, &mut payload));
        put(kind, out);
        put(payload.len() as u64, out);
        out.extend_from_slice(&payload);
    }
}

/// Finds frames in bytes that may be cut anywhere.
pub struct Decoder {
    held: Vec<u8>,
    since: Instant,
    frames: u32,
}

impl Decoder {
    /// At the beginning of the stream.
    pub fn new(now: Instant) -> Self {
        Decoder { held: Vec::new(), since: now, frames: 0 }
    }

    /// Takes what has come. [`Decoder::next`] is to be asked until it finds no more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next frame that is known; `None` until more has come.
    pub fn next(&mut self, now: Instant) -> Result<Option<Frame>, &'static str> {
        loop {
            let mut rest = &self.held[..];
            let (Some(kind), Some(length)) = (take(&mut rest), take(&mut rest)) else { return Ok(None) };
            if length > LONGEST {
                return Err("a control frame that is too long");
            }
            let Some(mut payload) = rest.get(..length as usize) else { return Ok(None) };
            let mut number = || take(&mut payload).ok_or("a control frame that is too short");
            let frame = match kind {
                GO_AWAY => Some(Frame::GoAway),
                ASK => Some(Frame::Ask(number()?)),
                ANSWER => Some(Frame::Answer { number: number()?, opened: number()? }),
                _ => None,
            };
            let used = self.held.len() - rest.len() + length as usize;
            self.held.drain(..used);
            self.count(now)?;
            if frame.is_some() {
                return Ok(frame);
            }
        }
    }

    fn count(&mut self, now: Instant) -> Result<(), &'static str> {
        if now.duration_since(self.since) >= SPAN {
            (self.since, self.frames) = (now, 0);
        }
        self.frames += 1;
        if self.frames > FRAMES { Err("a flood of control frames") } else { Ok(()) }
    }
}

/// Writes a number in as few bytes as it takes. Those beyond 62 bits do not exist.
pub(super) fn put(number: u64, out: &mut Vec<u8>) {
    match number {
        0..0x40 => out.push(number as u8),
        0x40..0x4000 => out.extend((number as u16 | 0x4000).to_be_bytes()),
        0x4000..0x4000_0000 => out.extend((number as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend((number | 0xC000_0000_0000_0000).to_be_bytes()),
    }
}

/// Reads a number from the front; `None` where it is not whole.
pub(super) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.first()?;
    let (number, rest) = bytes.split_at_checked(1 << (first >> 6))?;
    *bytes = rest;
    Some(number[1..].iter().fold(u64::from(first & 0x3F), |value, byte| value << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let number = || prop_oneof![0..100u64, 0..1u64 << 62];
        let frame = prop_oneof![
            Just(Frame::GoAway),
            number().prop_map(Frame::Ask),
            (number(), number()).prop_map(|(number, opened)| Frame::Answer { number, opened }),
        ];
        prop::collection::vec(frame, 0..20)
    }

    proptest! {
        #[test]
        fn frames_are_the_same_however_they_were_cut(sent in frames(), unknown in 0..20usize, cut in 1..9usize) {
            let mut bytes = Vec::new();
            for (place, frame) in sent.iter().enumerate() {
                if place == unknown {
                    put(1234, &mut bytes);
                    put(300, &mut bytes);
                    bytes.extend([7; 300]);
                }
                frame.encode(&mut bytes);
            }
            let now = Instant::now();
            let mut decoder = Decoder::new(now);
            let mut got = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.push(piece);
                while let Some(frame) = decoder.next(now).expect("our own frames") {
                    got.push(frame);
                }
            }
            prop_assert_eq!(got, sent);
            prop_assert!(decoder.held.is_empty());
        }
    }

    #[test]
    fn what_no_end_sends_is_refused_before_it_is_held() {
        for (bytes, reason) in [
            (&[9, 0x44, 1][..], "a control frame that is too long"),
            (&[2, 0], "a control frame that is too short"),
            (&[3, 1, 5], "a control frame that is too short"),
            (&[2, 1, 0x40], "a control frame that is too short"),
        ] {
            let mut decoder = Decoder::new(Instant::now());
            decoder.push(bytes);
            assert_eq!(decoder.next(Instant::now()), Err(reason));
        }
    }

    #[test]
    fn a_flood_is_one_over_ten_seconds_and_no_burst() {
        let begun = Instant::now();
        let mut decoder = Decoder::new(begun);
        let mut send = |seconds: u64, frames: u32| {
            (0..frames).try_for_each(|_| {
                decoder.push(&[1, 0]);
                decoder.next(begun + Duration::from_secs(seconds)).map(drop)
            })
        };
        assert_eq!(send(0, 600), Ok(()));
        assert_eq!(send(11, 600), Ok(()));
        assert_eq!(send(12, 60), Err("a flood of control frames"));
    }
}

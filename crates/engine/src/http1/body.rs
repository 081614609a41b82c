//! Bodies of HTTP/1 messages: decoded from what arrives and encoded for what leaves.
//!
//! Neither side holds body bytes: the decoder says where they are, the encoder writes what stands around them.

use super::framing::Framing;
use super::head::{HeadLimits, parse_trailers, write_fields};
use super::refusal::HeadError::{self, Malformed, TooLarge};
use crate::io::Buffer;
use crate::message::{Field, Fields, Known};

/// Bytes of chunk extensions in one body, all chunks together. They mean nothing to us and are dropped; without a
/// bound they would be a body that no limit counts.
const EXTENSION_BYTES: usize = 16 * 1024;

/// Hexadecimal digits of a chunk size: as many as fill 64 bits.
const SIZE_DIGITS: u8 = 16;

/// What the decoder makes of the bytes it was shown.
#[derive(Debug, PartialEq)]
pub struct Step {
    /// Bytes of the input that are done with: the caller drops them, whatever `what` is.
    pub skip: usize,
    /// What stands behind them.
    pub what: What,
}

/// What stands at the place where a decoder is.
#[derive(Debug, PartialEq)]
pub enum What {
    /// So many bytes of the body, one at least. What is taken of them is told by [`Decoder::took`].
    Data(usize),
    /// Nothing yet: ask again when more input stands behind the part not skipped.
    More,
    /// The trailer fields that may be passed on; the end follows.
    Trailers(Fields),
    /// The body is whole.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    Size { value: u64, digits: u8 },
    Padding,
    Extension,
    SizeEnd,
    Chunk(u64),
    ChunkCr,
    ChunkLf,
    Trailers,
    Done,
}

/// Finds the body in what arrives.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    /// Of the chunk whose size line is being read.
    size: u64,
    extensions: usize,
    scanned: usize,
    limits: HeadLimits,
}

impl Decoder {
    /// A decoder at the start of a body. The limits are those of its trailer fields.
    pub fn new(framing: Framing, limits: &HeadLimits) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(n) => State::Length(n),
            Framing::Chunked => State::Size { value: 0, digits: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        Decoder { state, size: 0, extensions: 0, scanned: 0, limits: *limits }
    }

    /// Looks at the input not yet skipped or taken.
    pub fn decode(&mut self, input: &[u8]) -> Result<Step, HeadError> {
        let mut skip = 0;
        loop {
            let rest = &input[skip..];
            match self.state {
                State::Done => return Ok(Step { skip, what: What::End }),
                State::Trailers => return self.trailers(rest, skip),
                _ if rest.is_empty() => return Ok(Step { skip, what: What::More }),
                State::UntilClose => return Ok(Step { skip, what: What::Data(rest.len()) }),
                State::Length(left) | State::Chunk(left) => {
                    let n = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    return Ok(Step { skip, what: What::Data(n) });
                }
                _ => {
                    self.state = self.frame(rest[0])?;
                    skip += 1;
                }
            }
        }
    }

    /// Says that `n` bytes of [`What::Data`] were taken from the input.
    pub fn took(&mut self, n: usize) {
        match &mut self.state {
            State::Length(left) | State::Chunk(left) => {
                debug_assert!(n as u64 <= *left, "took more than the body holds");
                *left = left.saturating_sub(n as u64);
            }
            _ => {}
        }
        match self.state {
            State::Length(0) => self.state = State::Done,
            State::Chunk(0) => self.state = State::ChunkCr,
            _ => {}
        }
    }

    /// The stream has ended: right only where that ends the body, or the body was whole.
    pub fn finish(&mut self) -> Result<(), HeadError> {
        match self.state {
            State::Done | State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(Malformed("the body ended early")),
        }
    }

    /// True when nothing more belongs to the body.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// One byte between chunks' data.
    fn frame(&mut self, byte: u8) -> Result<State, HeadError> {
        Ok(match (self.state, byte) {
            (State::Size { value, digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS {
                    return Err(Malformed("a chunk size that is too long"));
                }
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                State::Size { value: value << 4 | u64::from(digit), digits: digits + 1 }
            }
            (State::Size { digits: 0, .. }, _) => return Err(Malformed("an invalid chunk size")),
            (State::Size { value, .. }, b'\r' | b';' | b' ' | b'\t') => {
                self.size = value;
                match byte {
                    b'\r' => State::SizeEnd,
                    b';' => self.extension(State::Extension)?,
                    _ => self.extension(State::Padding)?,
                }
            }
            (State::Padding, b' ' | b'\t') => self.extension(State::Padding)?,
            (State::Padding, b';') => self.extension(State::Extension)?,
            (State::Padding | State::Extension, b'\r') => State::SizeEnd,
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => self.extension(State::Extension)?,
            (State::SizeEnd, b'\n') if self.size == 0 => State::Trailers,
            (State::SizeEnd, b'\n') => State::Chunk(self.size),
            (State::ChunkCr, b'\r') => State::ChunkLf,
            (State::ChunkLf, b'\n') => State::Size { value: 0, digits: 0 },
            (State::ChunkCr | State::ChunkLf, _) => return Err(Malformed("a chunk longer than its size")),
            _ => return Err(Malformed("an invalid chunk size")),
        })
    }

    fn extension(&mut self, next: State) -> Result<State, HeadError> {
        self.extensions += 1;
        if self.extensions > EXTENSION_BYTES {
            return Err(TooLarge("the body has too many chunk extensions"));
        }
        Ok(next)
    }

    fn trailers(&mut self, rest: &[u8], skip: usize) -> Result<Step, HeadError> {
        let mut fields = Fields::new();
        let Some(n) = parse_trailers(rest, &mut self.scanned, &mut fields, &self.limits)? else {
            return Ok(Step { skip, what: What::More });
        };
        fields.retain(may_trail);
        self.state = State::Done;
        let what = if fields.is_empty() { What::End } else { What::Trailers(fields) };
        Ok(Step { skip: skip + n, what })
    }
}

/// False for what must be known before the body (RFC 9110 §6.5.1) or speaks for a gateway: nobody looks for it at the
/// end, but somebody may merge it into the head.
pub(crate) fn may_trail(field: Field<'_>) -> bool {
    const NEVER: [&str; 16] = [
        "accept",
        "age",
        "cache-control",
        "date",
        "expires",
        "if-match",
        "if-none-match",
        "location",
        "max-forwards",
        "pragma",
        "range",
        "retry-after",
        "status",
        "upgrade-insecure-requests",
        "vary",
        "www-authenticate",
    ];
    field.known == Known::Other && !NEVER.iter().any(|name| field.name.eq_ignore_ascii_case(name.as_bytes()))
}

/// Writes what stands around the data of a body, and counts what was promised.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    framing: Framing,
    done: bool,
}

impl Encoder {
    /// An encoder at the start of a body.
    pub fn new(framing: Framing) -> Self {
        Encoder { framing, done: matches!(framing, Framing::None) }
    }

    /// True when data goes out as it is, so that a caller may write it straight from where it lies between
    /// [`Encoder::before_data`] and [`Encoder::after_data`].
    pub fn passthrough(&self) -> bool {
        self.framing != Framing::Chunked
    }

    /// Appends `data` as a part of the body.
    pub fn data(&mut self, data: &[u8], out: &mut Buffer) -> Result<(), HeadError> {
        self.before_data(data.len(), out)?;
        out.extend(data);
        self.after_data(data.len(), out);
        Ok(())
    }

    /// Appends what stands in front of `n` bytes of data, which the caller then writes; refuses more than was promised.
    pub fn before_data(&mut self, n: usize, out: &mut Buffer) -> Result<(), HeadError> {
        match &mut self.framing {
            _ if n == 0 => {}
            Framing::Length(left) => {
                *left = left.checked_sub(n as u64).ok_or(Malformed("the body is longer than its Content-Length"))?;
            }
            Framing::Chunked if !self.done => {
                let mut line = [0; 2 * size_of::<usize>() + 2];
                out.extend(size_line(n, &mut line));
            }
            Framing::UntilClose if !self.done => {}
            _ => return Err(Malformed("data after the end of the body")),
        }
        Ok(())
    }

    /// Appends what stands behind `n` bytes of data.
    pub fn after_data(&mut self, n: usize, out: &mut Buffer) {
        if n > 0 && self.framing == Framing::Chunked {
            out.extend(b"\r\n");
        }
    }

    /// Ends the body; trailers are written where the framing has a place for them. Refuses less than was promised.
    pub fn end(&mut self, trailers: Option<&Fields>, out: &mut Buffer) -> Result<(), HeadError> {
        match self.framing {
            _ if self.done => return Ok(()),
            Framing::Length(1..) => return Err(Malformed("the body is shorter than its Content-Length")),
            Framing::Chunked => {
                out.extend(b"0\r\n");
                write_fields(trailers.unwrap_or(&Fields::new()), out);
            }
            Framing::None | Framing::Length(0) | Framing::UntilClose => {}
        }
        self.done = true;
        Ok(())
    }

    /// True when the body is whole. One with a length is as soon as its last byte is.
    pub fn is_done(&self) -> bool {
        self.done || self.framing == Framing::Length(0)
    }
}

fn size_line(n: usize, line: &mut [u8]) -> &[u8] {
    let mut at = line.len() - 2;
    line[at..].copy_from_slice(b"\r\n");
    let mut rest = n;
    loop {
        at -= 1;
        line[at] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
        if rest == 0 {
            return &line[at..];
        }
    }
}

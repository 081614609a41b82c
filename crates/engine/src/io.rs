//! The byte stream that everything above moves bytes between, and the buffers they move in.
//!
//! A TCP connection, a stream inside a tunnel and a pipe in memory are the same here. Buffers are pooled per thread and
//! held only while they contain bytes, so an idle connection costs no buffer.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;

/// A byte stream with two directions that end separately.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Ready when a read would not wait: bytes, an end or an error. May be ready in vain, never silent in vain.
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Ready when the other side has taken the stream; before that an error may say that it never will.
    fn poll_taken(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Makes the coming drop end both directions the hard way (TCP RST, yamux RST), so that the other side can tell a
    /// broken stream from a finished one.
    fn reset(&mut self);

    /// The plain TCP connection beneath, to be taken to another worker; the stream itself where there is none.
    fn into_tcp(self: Box<Self>) -> Result<TcpStream, BoxedIo>;

    /// The plain TCP connection beneath, where everything that is read and written is its bytes.
    fn as_tcp(&self) -> Option<&TcpStream> {
        None
    }
}

/// Any byte stream. One virtual call a turn; measured below the noise of a system call.
pub type BoxedIo = Box<dyn Io>;

impl Io for TcpStream {
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        TcpStream::poll_read_ready(self, cx).map(drop)
    }

    fn reset(&mut self) {
        // The socket may be gone already; then there is nothing left to reset.
        let _ = socket2::SockRef::from(&*self).set_linger(Some(std::time::Duration::ZERO));
    }

    fn into_tcp(self: Box<Self>) -> Result<TcpStream, BoxedIo> {
        Ok(*self)
    }

    fn as_tcp(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Io for DuplexStream {
    fn poll_read_ready(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn reset(&mut self) {}

    fn into_tcp(self: Box<Self>) -> Result<TcpStream, BoxedIo> {
        Err(self)
    }
}

/// Bytes of one relay turn: the size of a pooled buffer. Below 64 KiB a relay's cost per MiB grows (measure.md).
pub const BUFFER_SIZE: usize = 64 * 1024;

/// Buffers a thread keeps for reuse: 64 of them are 4 MiB, the most a thread holds for nothing.
const POOLED: usize = 64;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A first-in first-out byte buffer whose memory is borrowed from the thread's pool while it holds bytes.
///
/// Grows beyond [`BUFFER_SIZE`] only by [`Buffer::extend`] and [`Buffer::reserve`]; the caller bounds what it adds.
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty buffer that holds no memory.
    pub const fn new() -> Self {
        Buffer { bytes: Vec::new(), start: 0, end: 0 }
    }

    /// The bytes not yet consumed.
    pub fn chunk(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The same, to be changed in place.
    pub fn chunk_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// How many bytes are held.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// True when no byte is held.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Drops the first `n` bytes; gives the memory back when nothing is left.
    ///
    /// # Panics
    /// When fewer than `n` bytes are held: a mistake of the caller, never of a peer.
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.len(), "consumed more than is held");
        self.start += n;
        if self.is_empty() {
            self.release();
        }
    }

    /// Drops all bytes and gives the memory back.
    pub fn release(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        (self.start, self.end) = (0, 0);
        if bytes.len() == BUFFER_SIZE {
            POOL.with_borrow_mut(|pool| {
                if pool.len() < POOLED {
                    pool.push(bytes);
                }
            });
        }
    }

    /// Appends `data`.
    pub fn extend(&mut self, data: &[u8]) {
        self.reserve(data.len());
        self.bytes[self.end..self.end + data.len()].copy_from_slice(data);
        self.end += data.len();
    }

    /// Makes room for at least `n` more bytes.
    pub fn reserve(&mut self, n: usize) {
        if self.bytes.is_empty() {
            self.bytes = POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BUFFER_SIZE]);
        }
        if self.bytes.len() - self.end >= n {
            return;
        }
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.bytes.len() - self.end < n {
            self.bytes.resize((self.end + n).next_power_of_two(), 0);
        }
    }

    /// The free space after the bytes held, to be written to and then told by [`Buffer::advance`].
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// Says that `n` bytes of [`Buffer::spare`] were written.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.bytes.len() - self.end, "advanced beyond the spare room");
        self.end += n;
    }

    /// Reads once into the buffer. `Ok(0)` is the end of the stream. Holds no memory while it waits with nothing held.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, io: &mut dyn Io) -> Poll<io::Result<usize>> {
        if self.is_empty() {
            ready!(io.poll_read_ready(cx));
        }
        self.reserve(1);
        let mut target = ReadBuf::new(&mut self.bytes[self.end..]);
        let outcome = Pin::new(io).poll_read(cx, &mut target);
        let n = target.filled().len();
        self.end += n;
        if self.is_empty() {
            self.release();
        }
        ready!(outcome)?;
        Poll::Ready(Ok(n))
    }

    /// Writes what is held until nothing is left. Ready as soon as the buffer is empty.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, io: &mut dyn Io) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let n = ready!(Pin::new(&mut *io).poll_write(cx, &self.bytes[self.start..self.end]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.consume(n);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the bytes: they may hold a credential.
        write!(f, "Buffer({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_across_growth_and_reuse() {
        let mut buffer = Buffer::new();
        let mut expected = Vec::new();
        for round in 0..200usize {
            let piece: Vec<u8> = (0..round * 37 % 5000).map(|i| (i ^ round) as u8).collect();
            buffer.extend(&piece);
            expected.extend_from_slice(&piece);
            let n = (round * 13) % (buffer.len() + 1);
            assert_eq!(buffer.chunk()[..n], expected[..n]);
            buffer.consume(n);
            expected.drain(..n);
        }
        assert_eq!(buffer.chunk(), expected);
    }

    #[test]
    fn an_empty_buffer_holds_no_memory() {
        let mut buffer = Buffer::new();
        buffer.extend(b"x");
        buffer.consume(1);
        assert_eq!(buffer.bytes.capacity(), 0);
    }
}

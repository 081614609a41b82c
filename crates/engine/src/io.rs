//! The byte stream that everything above moves bytes between, and the buffers they move in.
//!
//! A TCP connection, a stream inside a tunnel and a pipe in memory are the same here. Buffers are pooled per thread and
//! held only while they contain bytes, so an idle connection costs no buffer.

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A byte stream with two directions that end separately.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Ready when a read would not wait: bytes, an end or an error. May be ready in vain, never silent in vain.
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// True when there is nothing to read, not even an end, as far as is known now. Nobody is woken when that changes.
    fn is_quiet(&mut self) -> bool {
        self.poll_read_ready(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Ready when the other side has taken the stream; before that an error may say that it never will.
    fn poll_taken(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Makes the coming drop end both directions the hard way (TCP RST, yamux RST), so that the other side can tell a
    /// broken stream from a finished one.
    fn reset(&mut self);

    /// The plain TCP connection, where it is one; else the stream itself.
    fn into_tcp(self: Box<Self>) -> Result<TcpStream, BoxedIo>;

    /// Takes the stream from this worker, to be used on another; the stream itself where it cannot be moved.
    fn detach(self: Box<Self>) -> Result<Detached, BoxedIo> {
        Detached::tcp(self.into_tcp()?)
    }

    /// The stream as what it is, where there is more to do with it than reading and writing.
    fn as_any(&mut self) -> Option<&mut (dyn Any + Send)> {
        None
    }

    /// The plain TCP connection beneath, where everything that is read and written is its bytes.
    fn as_tcp(&self) -> Option<&TcpStream> {
        None
    }
}

/// A stream that no worker drives.
pub struct Detached {
    socket: std::net::TcpStream,
    /// What stands on top of the connection.
    around: Box<dyn FnOnce(TcpStream) -> BoxedIo + Send>,
}

impl Detached {
    fn tcp(stream: TcpStream) -> Result<Detached, BoxedIo> {
        match stream.into_std() {
            Ok(socket) => Ok(Detached { socket, around: Box::new(|stream| Box::new(stream)) }),
            // The runtime does not know it any more: it is over.
            Err(_) => Err(ended()),
        }
    }

    /// The same with something on top of it.
    pub fn within(self, around: impl FnOnce(BoxedIo) -> BoxedIo + Send + 'static) -> Detached {
        let inner = self.around;
        Detached { socket: self.socket, around: Box::new(move |stream| around(inner(stream))) }
    }

    /// The stream, on the worker whose thread this is. Fails only where no memory or descriptor is left.
    pub fn attach(self) -> io::Result<BoxedIo> {
        TcpStream::from_std(self.socket).map(self.around)
    }
}

/// A stream without another end: it reads as ended.
pub fn ended() -> BoxedIo {
    Box::new(tokio::io::duplex(1).0)
}

/// Any byte stream. One virtual call a turn; measured below the noise of a system call.
pub type BoxedIo = Box<dyn Io>;

impl Io for TcpStream {
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        TcpStream::poll_read_ready(self, cx).map(drop)
    }

    fn is_quiet(&mut self) -> bool {
        // Unlike a poll it leaves the waker of whoever waits alone, and takes no lock.
        self.try_io(Interest::READABLE, || Ok(())).is_err()
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

impl Io for BoxedIo {
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_read_ready(cx)
    }

    fn is_quiet(&mut self) -> bool {
        (**self).is_quiet()
    }

    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        (**self).poll_taken(cx)
    }

    fn reset(&mut self) {
        (**self).reset();
    }

    fn into_tcp(self: Box<Self>) -> Result<TcpStream, BoxedIo> {
        (*self).into_tcp()
    }

    fn detach(self: Box<Self>) -> Result<Detached, BoxedIo> {
        (*self).detach()
    }

    fn as_any(&mut self) -> Option<&mut (dyn Any + Send)> {
        (**self).as_any()
    }

    fn as_tcp(&self) -> Option<&TcpStream> {
        (**self).as_tcp()
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

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        let end = bytes.len();
        Buffer { bytes, start: 0, end }
    }
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
    #[inline]
    pub fn reserve(&mut self, n: usize) {
        if self.bytes.len() - self.end < n {
            self.make_room(n);
        }
    }

    fn make_room(&mut self, n: usize) {
        if self.bytes.is_empty() {
            self.bytes = POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BUFFER_SIZE]);
            if self.bytes.len() >= n {
                return;
            }
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

/// A stream of which some bytes have been read already.
pub struct WithEarly<S> {
    early: Buffer,
    stream: S,
}

impl<S: Io> WithEarly<S> {
    /// `stream`, with `early` in front of what it brings.
    pub fn new(early: Buffer, stream: S) -> Self {
        WithEarly { early, stream }
    }

    /// What has been read and not taken.
    pub fn early(&self) -> &[u8] {
        self.early.chunk()
    }

    /// Reads once more, ahead of whoever takes it. `Ok(0)` is the end of the stream.
    pub fn poll_early(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.early.poll_fill(cx, &mut self.stream)
    }
}

impl<S: Io> Io for WithEarly<S> {
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.early.is_empty() { self.stream.poll_read_ready(cx) } else { Poll::Ready(()) }
    }

    fn is_quiet(&mut self) -> bool {
        self.early.is_empty() && self.stream.is_quiet()
    }

    fn reset(&mut self) {
        self.stream.reset();
    }

    fn into_tcp(self: Box<Self>) -> Result<TcpStream, BoxedIo> {
        if self.early.is_empty() { Box::new(self.stream).into_tcp() } else { Err(self) }
    }

    fn as_tcp(&self) -> Option<&TcpStream> {
        if self.early.is_empty() { self.stream.as_tcp() } else { None }
    }

    fn detach(self: Box<Self>) -> Result<Detached, BoxedIo> {
        let WithEarly { early, stream } = *self;
        match Box::new(stream).detach() {
            Ok(below) if early.is_empty() => Ok(below),
            Ok(below) => Ok(below.within(|stream| Box::new(WithEarly::new(early, stream)))),
            Err(stream) => Err(Box::new(WithEarly::new(early, stream))),
        }
    }
}

impl<S: Io> AsyncRead for WithEarly<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let n = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early.chunk()[..n]);
        self.early.consume(n);
        Poll::Ready(Ok(()))
    }
}

impl<S: Io> AsyncWrite for WithEarly<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
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

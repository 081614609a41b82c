//! Moves bytes from one TCP connection to another inside the kernel, through a pipe.
//!
//! Worth it only for bulk: what is small is copied. Pipes are kept for reuse, held only while they contain bytes, and
//! few: where there is none, the relay copies.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bytes of one turn. Half the cost per MiB of a turn of 64 KiB; beyond it nothing more is gained.
pub const TURN: usize = 1 << 20;

/// Pipes of the process, two descriptors each. With [`TURN`] bytes each they are half of what the kernel grants a user
/// by default (`pipe-user-pages-soft`).
const MOST: usize = 32;

/// Empty pipes that are kept, for whichever thread is next.
const KEPT: usize = 8;

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

static OPEN: AtomicUsize = AtomicUsize::new(0);

static IDLE: Mutex<Vec<Pipe>> = Mutex::new(Vec::new());

/// A pipe that counts among [`MOST`].
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// A kept pipe, or a new one, where there may be one more.
    fn take() -> Option<Self> {
        if let Some(pipe) = idle().pop() {
            return Some(pipe);
        }
        if OPEN.fetch_add(1, Ordering::Relaxed) >= MOST {
            OPEN.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let Ok((read, write)) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) else {
            OPEN.fetch_sub(1, Ordering::Relaxed);
            return None;
        };
        // Where the kernel grants no more, a turn is what its pipe holds.
        let _ = fcntl_setpipe_size(&write, TURN);
        Some(Pipe { read, write })
    }

    /// Keeps an empty pipe for the next one.
    fn keep(self) {
        let mut idle = idle();
        if idle.len() < KEPT {
            idle.push(self);
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

fn idle() -> MutexGuard<'static, Vec<Pipe>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes in the kernel, on their way from one connection to another.
#[derive(Default)]
pub struct Held {
    /// Present while it holds bytes.
    pipe: Option<Pipe>,
    bytes: usize,
}

impl Held {
    /// True when nothing is held.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Takes what `from` has, for up to one turn. `Ok(Some(0))` is its end, `Ok(None)`: there is no pipe to be had.
    ///
    /// Only to be called while nothing is held: a full pipe and a silent connection look the same.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<Option<usize>>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            let Some(pipe) = Pipe::take() else { return Poll::Ready(Ok(None)) };
            let spliced = from.try_io(Interest::READABLE, || Ok(splice(from, None, &pipe.write, None, TURN, FLAGS)?));
            match spliced {
                Ok(n) if n > 0 => {
                    (self.pipe, self.bytes) = (Some(pipe), n);
                    return Poll::Ready(Ok(Some(n)));
                }
                other => {
                    pipe.keep();
                    match other {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        other => return Poll::Ready(other.map(Some)),
                    }
                }
            }
        }
    }

    /// Hands what is held to `to`: how many bytes it took, which may be some of them.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        let Some(pipe) = &self.pipe else { return Poll::Ready(Ok(0)) };
        loop {
            ready!(to.poll_write_ready(cx))?;
            let spliced = to.try_io(Interest::WRITABLE, || Ok(splice(&pipe.read, None, to, None, self.bytes, FLAGS)?));
            match spliced {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    self.bytes -= n;
                    if self.bytes == 0
                        && let Some(pipe) = self.pipe.take()
                    {
                        pipe.keep();
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Pipe> {
        std::iter::from_fn(Pipe::take).collect()
    }

    #[test]
    fn what_an_idle_thread_leaves_is_there_for_every_other() {
        for pipe in all() {
            pipe.keep();
        }
        let elsewhere = std::thread::spawn(|| all().len());
        assert_eq!(elsewhere.join().expect("a count"), MOST);
    }
}

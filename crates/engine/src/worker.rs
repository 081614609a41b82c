//! The threads that carry traffic: one runtime each, nothing shared but what is handed over.
//!
//! Signals are Python's: whoever starts the workers blocks them first, and threads inherit that.

use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use crate::event::{self, Events};

/// The C library gives what was freed back to the system at once where it is more than 128 KiB, and has it brought
/// back, page by page, for the next burst. From the largest block that it has seen come and go it learns to keep more:
/// of each thread twice as much as that block.
const KEPT: usize = 2 << 20;

/// One worker thread, from outside.
#[derive(Clone)]
pub struct Worker {
    /// Its number, from 0.
    pub index: usize,
    /// Where its tasks are spawned.
    pub runtime: Handle,
}

/// All workers of a role. Dropping them ends the threads and every task on them.
pub struct Workers {
    list: Arc<[Worker]>,
    threads: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Workers {
    /// Starts `count` threads named `role-0`, `role-1`, …
    pub fn start(role: &str, count: usize, events: &Arc<Events>) -> io::Result<Self> {
        drop(black_box(Vec::<u8>::with_capacity(KEPT)));
        let stop = CancellationToken::new();
        let mut list = Vec::with_capacity(count);
        let mut threads = Vec::with_capacity(count);
        for index in 0..count.max(1) {
            let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
            list.push(Worker { index, runtime: runtime.handle().clone() });
            let (stop, events) = (stop.clone(), events.clone());
            let thread = std::thread::Builder::new().name(format!("{role}-{index}")).spawn(move || {
                let _subscribed = event::subscribe(&events);
                runtime.block_on(stop.cancelled());
                // Blocking look-ups of names may hang for seconds; nobody waits for them.
                runtime.shutdown_background();
            })?;
            threads.push(thread);
        }
        Ok(Workers { list: list.into(), threads, stop })
    }

    /// The workers, by number.
    pub fn list(&self) -> &Arc<[Worker]> {
        &self.list
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            // A worker that drops its own role cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() {
                // A thread that panicked has nothing left to end.
                let _ = thread.join();
            }
        }
    }
}

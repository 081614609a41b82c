//! The end of everything, in two steps: drain (stop accepting, finish what runs), then cut.
//!
//! One value reaches every task, and every task is counted by it, so that nothing outlives its owner.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

use crate::aside::Aside;

/// Says when to drain and when to stop, and knows when all tasks have ended.
#[derive(Clone, Default)]
pub struct Drain {
    begun: CancellationToken,
    /// The same, for whoever asks with every request: a token has a lock.
    is_begun: Arc<AtomicBool>,
    cut: CancellationToken,
    tasks: TaskTracker,
    /// Those that a drain does not wait for.
    beside: TaskTracker,
}

impl Drain {
    /// Nothing is draining yet.
    pub fn new() -> Self {
        Drain::default()
    }

    /// Spawns a task that ends at the cut at the latest.
    pub fn spawn_on(&self, runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(self.until_cut(task), runtime);
    }

    /// Spawns a task that serves the others for as long as there are any: it ends at the cut, and until then nobody
    /// waits for it.
    pub fn spawn_beside(&self, runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        self.beside.spawn_on(self.until_cut(task), runtime);
    }

    fn until_cut(&self, task: impl Future<Output = ()> + Send + 'static) -> impl Future<Output = ()> + Send + 'static {
        // In a box: an async block that waits for a future it was given has room for it twice.
        let (mut task, mut cut) = (Box::pin(task), Aside::new(self.cut.clone().cancelled_owned()));
        poll_fn(move |cx| match task.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => Pin::new(&mut cut).poll(cx),
        })
    }

    /// Asks everybody to finish.
    pub fn begin(&self) {
        self.is_begun.store(true, Ordering::Release);
        self.begun.cancel();
    }

    /// True from [`Drain::begin`] on.
    pub fn is_begun(&self) -> bool {
        self.is_begun.load(Ordering::Acquire)
    }

    /// Resolves when draining begins.
    pub fn begun(&self) -> WaitForCancellationFutureOwned {
        self.begun.clone().cancelled_owned()
    }

    /// Something that ends before everything does: cancelled by itself, or when draining begins.
    pub fn part(&self) -> CancellationToken {
        self.begun.child_token()
    }

    /// Ends every task where it stands.
    pub fn cut(&self) {
        self.begin();
        self.cut.cancel();
    }

    /// True from [`Drain::cut`] on.
    pub fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }

    /// Waits until every task has ended, `grace` at most, then cuts. True when nothing had to be cut.
    pub async fn finish(&self, grace: Duration) -> bool {
        self.begin();
        self.tasks.close();
        let clean = tokio::time::timeout(grace, self.tasks.wait()).await.is_ok();
        self.cut();
        self.tasks.wait().await;
        self.beside.close();
        self.beside.wait().await;
        clean
    }

    /// How many tasks run.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_ends_within_the_grace_is_not_cut() {
        let drain = Drain::new();
        let begun = drain.begun();
        drain.spawn_on(&Handle::current(), async move {
            begun.await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        assert!(drain.finish(Duration::from_secs(5)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_serves_the_others_is_not_waited_for_and_ends_with_them() {
        let (drain, alive) = (Drain::new(), Arc::new(()));
        let held = alive.clone();
        drain.spawn_beside(&Handle::current(), async move {
            let _held = held;
            std::future::pending().await
        });
        assert!(drain.finish(Duration::from_secs(5)).await);
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_is_cut() {
        let drain = Drain::new();
        drain.spawn_on(&Handle::current(), std::future::pending());
        assert!(!drain.finish(Duration::from_secs(5)).await);
        assert_eq!(drain.tasks(), 0);
    }
}

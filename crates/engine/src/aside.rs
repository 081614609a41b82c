//! A future that is asked only when it has something to say.
//!
//! A task that waits for several things asks all of them whenever one has come, and to ask takes locks. What comes
//! rarely (a drain, the end of a listener, of a credential) stands aside: its wakers are its own, and until one of them
//! is woken a turn of the task costs a look at one flag.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// A future for what comes rarely. On the heap, beside what its task touches with every turn.
pub struct Aside<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    /// The task that the bell wakes, as it knows it.
    task: Option<Waker>,
}

/// What the future wakes.
struct Bell {
    /// Since the future was last asked.
    rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<F: Future> Aside<F> {
    /// Puts a future aside. It has not been asked yet.
    pub fn new(future: F) -> Self {
        let bell = Bell { rung: AtomicBool::new(true), task: Mutex::default() };
        Aside { future: Box::pin(future), bell: Arc::new(bell), task: None }
    }
}

impl<F: Future> Future for Aside<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if !this.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            this.task = Some(cx.waker().clone());
            this.bell.task.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&this.task);
        }
        if !this.bell.rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // Before it is asked: what rings meanwhile rings for the next time.
        this.bell.rung.store(false, Ordering::Release);
        let waker = Waker::from(this.bell.clone());
        let outcome = this.future.as_mut().poll(&mut Context::from_waker(&waker));
        if outcome.is_ready() {
            // Whoever asks once more is told what the future itself says then.
            this.bell.rung.store(true, Ordering::Release);
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::sleep;
    use tokio_util::sync::CancellationToken;

    use super::*;

    async fn has_nothing_to_say<F: Future>(aside: &mut Aside<F>) -> bool {
        poll_fn(|cx| Poll::Ready(Pin::new(&mut *aside).poll(cx).is_pending())).await
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_asked_once_until_it_is_woken() {
        let (say, said) = oneshot::channel();
        let (mut said, mut asked) = (Box::pin(said), 0);
        let mut aside = Aside::new(poll_fn(|cx| {
            asked += 1;
            said.as_mut().poll(cx)
        }));
        for _ in 0..10 {
            assert!(has_nothing_to_say(&mut aside).await);
        }
        tokio::spawn(async move {
            sleep(Duration::from_secs(1)).await;
            say.send(7)
        });
        assert_eq!(aside.await, Ok(7));
        assert_eq!(asked, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_come_has_come_for_whoever_asks_again() {
        let token = CancellationToken::new();
        let mut aside = Aside::new(token.clone().cancelled_owned());
        assert!(has_nothing_to_say(&mut aside).await);
        token.cancel();
        assert!(!has_nothing_to_say(&mut aside).await && !has_nothing_to_say(&mut aside).await);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asked_last_is_woken() {
        let mut aside = Aside::new(sleep(Duration::from_secs(1)));
        assert!(has_nothing_to_say(&mut aside).await);
        assert!(tokio::spawn(aside).await.is_ok());
    }
}

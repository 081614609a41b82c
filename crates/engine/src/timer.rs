//! A deadline that moves with every request and costs nothing to move.
//!
//! The runtime's timer wheel is touched only when a deadline comes nearer or the timer has fired early; a later
//! deadline leaves it alone. One timer serves a connection for its whole life.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep_until};

/// A timer to be asked, turn by turn, whether the deadline of the moment has passed.
#[derive(Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Who is woken when the sleep fires; none while it is not registered.
    registered: Option<Waker>,
}

impl Timer {
    /// A timer that holds nothing until it is first asked.
    pub const fn new() -> Self {
        Timer { sleep: None, registered: None }
    }

    /// Ready when `deadline` has passed; else this task is woken then, or a little before and asked again.
    pub fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
            self.registered = None;
        }
        if !sleep.is_elapsed() && self.registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        // Its share of the task's budget may be spent on bytes: a deadline is not to be missed for that.
        while pin!(coop::unconstrained(sleep.as_mut())).poll(cx).is_ready() {
            if Instant::now() >= deadline {
                self.registered = None;
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        self.registered = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_either_way_is_met() {
        let start = Instant::now();
        let mut timer = Timer::new();
        let far = start + Duration::from_secs(10);
        poll_fn(|cx| {
            assert!(timer.poll_until(cx, far).is_pending());
            Poll::Ready(())
        })
        .await;
        let near = start + Duration::from_secs(3);
        poll_fn(|cx| timer.poll_until(cx, near)).await;
        assert_eq!(start.elapsed().as_secs(), 3);
        poll_fn(|cx| timer.poll_until(cx, far)).await;
        assert_eq!(start.elapsed().as_secs(), 10);
    }
}

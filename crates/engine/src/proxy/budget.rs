//! How many requests may be tried again: a share of those of the last seconds, and a few besides.
//!
//! Where everything fails, retries would multiply the load on what is left; a share bounds that, a floor lets a quiet
//! gateway try again at all.

use std::time::Duration;

use tokio::time::Instant;

/// Retries of ten seconds that need no requests.
const FLOOR: u64 = 20;

/// Requests and retries are forgotten after one to two of these.
const WINDOW: Duration = Duration::from_secs(5);

/// The requests and retries of one worker.
pub struct Budget {
    began: Instant,
    now: Counts,
    before: Counts,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    requests: u64,
    retries: u64,
}

impl Budget {
    /// Nothing was asked yet.
    pub fn new(now: Instant) -> Self {
        Budget { began: now, now: Counts::default(), before: Counts::default() }
    }

    /// A request has begun.
    pub fn earn(&mut self, now: Instant) {
        self.turn(now);
        self.now.requests += 1;
    }

    /// Takes a retry, where `percent` of the requests and the floor allow one more.
    pub fn spend(&mut self, now: Instant, percent: u32) -> bool {
        self.turn(now);
        let requests = self.now.requests + self.before.requests;
        let allowed = if percent == 0 { 0 } else { FLOOR + requests * u64::from(percent) / 100 };
        let spent = self.now.retries + self.before.retries;
        if spent < allowed {
            self.now.retries += 1;
        }
        spent < allowed
    }

    fn turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.began);
        if passed < WINDOW {
            return;
        }
        self.before = if passed < WINDOW * 2 { self.now } else { Counts::default() };
        (self.now, self.began) = (Counts::default(), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend_all(budget: &mut Budget, now: Instant, percent: u32) -> u64 {
        let mut spent = 0;
        while budget.spend(now, percent) {
            spent += 1;
        }
        spent
    }

    #[test]
    fn a_share_of_the_requests_of_the_last_seconds_and_a_few_besides() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        assert_eq!(spend_all(&mut budget, start, 20), FLOOR);
        for _ in 0..1000 {
            budget.earn(start);
        }
        assert_eq!(spend_all(&mut budget, start, 20), 200);
        // Still remembered, then forgotten, with what was spent.
        assert_eq!(spend_all(&mut budget, start + WINDOW, 20), 0);
        assert_eq!(spend_all(&mut budget, start + WINDOW * 2, 20), FLOOR);
        assert_eq!(spend_all(&mut budget, start + WINDOW * 10, 20), FLOOR);
    }

    #[test]
    fn no_percent_is_no_retry() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        budget.earn(now);
        assert!(!budget.spend(now, 0));
    }

    #[test]
    fn a_clock_that_seems_to_go_back_changes_nothing() {
        let start = Instant::now();
        let mut budget = Budget::new(start + WINDOW);
        budget.earn(start);
        assert!(budget.spend(start, 20));
    }
}

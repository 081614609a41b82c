//! Whether an upstream may be picked: what checks of it say, and whether requests to it failed of late.
//!
//! Read on every pick and written on change only. Asking it is `health`'s; that one is never the last to be left out is
//! the business of whoever knows the others.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::snapshot::upstream::{Ejection, Health};

/// An upstream that fails again and again is left out for at most so many times the configured time.
const LONGEST: u32 = 10;

/// The condition of one upstream.
#[derive(Default)]
pub struct Condition {
    down: AtomicBool,
    /// On our clock, in milliseconds; 0: it is not left out.
    back_at: AtomicU64,
    in_a_row: AtomicU32,
    story: Mutex<Story>,
}

struct Story {
    verdict: Verdict,
    since: SystemTime,
    reason: String,
    /// How often it was left out without a longer time of peace between.
    times: u32,
    /// When, on our clock, all that is forgotten.
    forget_at: u64,
}

impl Default for Story {
    fn default() -> Self {
        let (verdict, reason) = (Verdict::default(), String::new());
        Story { verdict, since: SystemTime::now(), reason, times: 0, forget_at: 0 }
    }
}

/// Checks in a row with the same outcome, and what they say.
#[derive(Default)]
pub struct Verdict {
    against: u32,
    /// What it says now; none before the first check, which decides alone.
    works: Option<bool>,
}

/// What is known of an upstream, for whoever asks.
pub struct Known {
    /// `up`, `down` or `ejected`.
    pub state: &'static str,
    /// Since when; where it has never changed, since it became one of the upstreams.
    pub since: SystemTime,
    /// Why it is not up.
    pub reason: String,
}

impl Verdict {
    /// Takes the outcome of a check. True where the verdict is a new one.
    pub fn takes(&mut self, worked: bool, health: &Health) -> bool {
        if self.works == Some(worked) {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let needed = match (self.works, worked) {
            (None, _) => 1,
            (_, false) => health.fall,
            (_, true) => health.rise,
        };
        if self.against < needed {
            return false;
        }
        *self = Verdict { against: 0, works: Some(worked) };
        true
    }
}

impl Condition {
    /// False while it is left out, for whichever reason.
    pub fn is_usable(&self) -> bool {
        !self.down.load(Ordering::Relaxed) && !self.is_ejected()
    }

    /// True while it is left out because requests failed.
    pub fn is_ejected(&self) -> bool {
        let back_at = self.back_at.load(Ordering::Relaxed);
        back_at != 0 && now() < back_at
    }

    /// True while its checks fail.
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// Takes the outcome of a check. True where checks say something new of it, which is to be set.
    pub fn checked(&self, worked: bool, health: &Health) -> bool {
        self.story().verdict.takes(worked, health)
    }

    /// A check has changed its mind.
    pub fn set_down(&self, down: bool, reason: &str) {
        let mut story = self.story();
        self.down.store(down, Ordering::Relaxed);
        (story.since, story.reason) = (SystemTime::now(), reason.to_owned());
    }

    /// A request worked. True where it had been left out until then.
    pub fn succeeded(&self) -> bool {
        if self.in_a_row.load(Ordering::Relaxed) == 0 || self.is_ejected() {
            return false;
        }
        self.in_a_row.store(0, Ordering::Relaxed);
        if self.back_at.swap(0, Ordering::Relaxed) == 0 {
            return false;
        }
        let mut story = self.story();
        if !self.is_down() {
            (story.since, story.reason) = (SystemTime::now(), String::new());
        }
        true
    }

    /// A request failed. For how long it is left out now, where that makes it too many and others are left.
    pub fn failed(
        &self,
        rule: &Ejection,
        reason: impl FnOnce() -> Cow<'static, str>,
        others_are_left: impl FnOnce() -> bool,
    ) -> Option<Duration> {
        if self.is_ejected() || self.in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1) < rule.failures {
            return None;
        }
        // Two that fail at the same time must not both count on the other.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_ejected() || !others_are_left() {
            return None;
        }
        let (now, mut story) = (now(), self.story());
        story.times = if now < story.forget_at { story.times.saturating_add(1) } else { 0 };
        let time = rule.time * (1u32 << story.times.min(LONGEST)).min(LONGEST);
        let back_at = now + time.as_millis() as u64;
        story.forget_at = back_at + (rule.time * LONGEST).as_millis() as u64;
        (story.since, story.reason) = (SystemTime::now(), reason().into_owned());
        // The first request after that decides.
        self.in_a_row.store(rule.failures - 1, Ordering::Relaxed);
        self.back_at.store(back_at, Ordering::Relaxed);
        Some(time)
    }

    /// What is known of it now.
    pub fn known(&self) -> Known {
        let story = self.story();
        let state = match (self.is_down(), self.is_ejected()) {
            (true, _) => "down",
            (_, true) => "ejected",
            _ => "up",
        };
        if state != "up" {
            return Known { state, since: story.since, reason: story.reason.clone() };
        }
        let since = match self.back_at.load(Ordering::Relaxed) {
            0 => story.since,
            // Its time is over, and no request has decided yet.
            back_at => SystemTime::now() - Duration::from_millis(now().saturating_sub(back_at)),
        };
        Known { state, since, reason: String::new() }
    }

    fn story(&self) -> MutexGuard<'_, Story> {
        self.story.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds on a clock of our own that never shows 0.
fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Ejection = Ejection { failures: 3, time: Duration::from_secs(10) };

    fn fail(condition: &Condition, others: bool) -> Option<Duration> {
        condition.failed(&RULE, || "it failed".into(), || others)
    }

    #[test]
    fn the_first_check_decides_and_then_so_many_in_a_row() {
        let second = Duration::from_secs(1);
        let health = Health { path: None, host: None, interval: second, timeout: second, fall: 3, rise: 2 };
        let mut verdict = Verdict::default();
        let mut takes = |worked| verdict.takes(worked, &health);
        assert!(takes(false));
        assert!(!takes(true) && !takes(false) && !takes(true) && takes(true));
        assert!(!takes(false) && !takes(false) && !takes(true));
        assert!(!takes(false) && !takes(false) && takes(false));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_leave_it_out_and_the_next_request_decides() {
        let condition = Condition::default();
        assert_eq!((fail(&condition, true), fail(&condition, true)), (None, None));
        assert!(!condition.succeeded() && condition.is_usable());
        assert_eq!((fail(&condition, true), fail(&condition, true)), (None, None));
        assert_eq!(fail(&condition, true), Some(RULE.time));
        assert!(!condition.is_usable() && condition.known().state == "ejected");
        // What was on its way already says nothing new.
        assert!(fail(&condition, true).is_none() && !condition.succeeded());
        tokio::time::advance(RULE.time).await;
        assert!(condition.is_usable());
        assert_eq!(fail(&condition, true), Some(RULE.time * 2));
        tokio::time::advance(RULE.time * 2).await;
        assert!(condition.succeeded() && condition.is_usable() && condition.known().reason.is_empty());
        assert!(fail(&condition, true).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_grows_tenfold_at_most_and_is_forgotten() {
        let condition = Condition::default();
        let mut last = Duration::ZERO;
        for _ in 0..10 {
            while fail(&condition, true).inspect(|time| last = *time).is_none() {}
            tokio::time::advance(last).await;
        }
        assert_eq!(last, RULE.time * 10);
        assert!(condition.succeeded());
        tokio::time::advance(RULE.time * 11).await;
        assert_eq!((fail(&condition, true), fail(&condition, true)), (None, None));
        assert_eq!(fail(&condition, true), Some(RULE.time));
    }

    #[tokio::test(start_paused = true)]
    async fn since_when_is_known_from_the_beginning_and_told_anew_when_the_state_changes() {
        let start = SystemTime::now();
        let condition = Condition::default();
        let first = condition.known().since;
        assert!(first >= start);
        condition.set_down(true, "refused");
        let second = condition.known().since;
        assert!(second > first);
        condition.set_down(false, "");
        assert!(condition.known().since > second);

        for _ in 0..3 {
            fail(&condition, true);
        }
        let left_out = condition.known();
        tokio::time::advance(RULE.time).await;
        assert!(condition.known().state == "up" && condition.known().since > left_out.since);
    }

    #[test]
    fn the_last_one_is_never_left_out() {
        let condition = Condition::default();
        for _ in 0..10 {
            assert!(fail(&condition, false).is_none() && condition.is_usable());
        }
        assert_eq!(fail(&condition, true), Some(RULE.time));
    }
}

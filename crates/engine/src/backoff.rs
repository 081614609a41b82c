//! How long to wait before trying again: doubling from 100 ms to 15 s, with jitter (compat.md §1.1).

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(15);

/// The waits of one thing that is tried again and again.
#[derive(Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// Nothing has failed yet.
    pub fn new() -> Self {
        Backoff::default()
    }

    /// The next wait: between half and the whole of the doubled time, so that many who failed together do not come
    /// back together.
    pub fn next_wait(&mut self) -> Duration {
        let full = FIRST.saturating_mul(1 << self.attempts.min(10)).min(LAST);
        self.attempts = self.attempts.saturating_add(1);
        full.mul_f64(0.5 + random() / 2.0)
    }

    /// True when nothing has been waited for since the beginning.
    pub fn is_fresh(&self) -> bool {
        self.attempts == 0
    }

    /// It worked: begin anew.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// Uniform in [0, 1).
fn random() -> f64 {
    let bits = getrandom::u64().unwrap_or_default() >> 11;
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_start_anew() {
        let mut backoff = Backoff::new();
        assert!(backoff.next_wait() <= FIRST);
        for _ in 0..20 {
            assert!(backoff.next_wait() <= LAST);
        }
        assert!(backoff.next_wait() >= LAST / 2);
        backoff.reset();
        assert!(backoff.next_wait() <= FIRST);
    }
}

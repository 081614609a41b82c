//! How much of something somebody may have: at once, and a second.
//!
//! Shared by all workers, so that a limit is one limit; nothing here waits. A rate is the time until which everything
//! that was let through has been paid for, which may run a second ahead: a second's worth may come at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::snapshot::auth::Allowed;

/// What a rate may run ahead: bursts.
const AHEAD: u64 = 1_000_000_000;

/// What stands for no bound.
const NONE: u64 = u64::MAX;

/// What one token, or all tokens of a tenant together, may have.
pub struct Allowance {
    /// The tenant whose it is; empty for that of a token.
    pub tenant: Arc<str>,
    sessions: Places,
    streams: Places,
    requests: Rate,
    bytes: Rate,
    /// What was refused, for the metric: sessions, streams, requests, bytes.
    refused: [AtomicU64; 4],
    began: Instant,
}

/// Something of which so many may be there at once.
struct Places {
    most: AtomicU64,
    taken: AtomicU64,
}

/// Something of which so much may come in a second.
struct Rate {
    a_second: AtomicU64,
    /// Nanoseconds since the beginning until which everything is paid for.
    paid_until: AtomicU64,
}

/// What somebody wants one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A session of an agent.
    Session,
    /// A request or byte stream.
    Stream,
}

/// Why somebody gets no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch {
    /// Of what.
    pub what: &'static str,
    /// When it may be tried again.
    pub after: Duration,
}

/// Things that are had, given back when it is dropped.
#[derive(Default)]
pub struct Taken {
    from: Vec<(Arc<Allowance>, Wanted)>,
}

impl Allowance {
    /// A fresh one.
    pub fn new(tenant: Arc<str>, allowed: &Allowed) -> Arc<Self> {
        let places = || Places { most: AtomicU64::new(NONE), taken: AtomicU64::new(0) };
        let rate = || Rate { a_second: AtomicU64::new(NONE), paid_until: AtomicU64::new(0) };
        let allowance = Allowance {
            tenant,
            sessions: places(),
            streams: places(),
            requests: rate(),
            bytes: rate(),
            refused: Default::default(),
            began: Instant::now(),
        };
        allowance.change(allowed);
        Arc::new(allowance)
    }

    /// Puts other bounds in force; what is had stays.
    pub fn change(&self, allowed: &Allowed) {
        let bounds = [&self.sessions.most, &self.streams.most, &self.requests.a_second, &self.bytes.a_second];
        let wanted = [allowed.sessions, allowed.streams, allowed.requests, allowed.bytes];
        for (bound, wanted) in bounds.into_iter().zip(wanted) {
            bound.store(wanted.unwrap_or(NONE), Ordering::Relaxed);
        }
    }

    /// What was refused so far, by what was wanted.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.refused.iter().map(|count| count.load(Ordering::Relaxed));
        ["sessions", "streams", "requests", "bytes"].into_iter().zip(counts)
    }

    fn take(&self, wanted: Wanted) -> Result<(), TooMuch> {
        let now = self.began.elapsed().as_nanos() as u64;
        match wanted {
            Wanted::Session => self.sessions.take().map_err(|()| self.refuse(0, Duration::from_secs(1))),
            Wanted::Stream => {
                self.bytes.is_paid(now).map_err(|after| self.refuse(3, after))?;
                self.requests.take(1, now).map_err(|after| self.refuse(2, after))?;
                self.streams.take().map_err(|()| self.refuse(1, Duration::from_secs(1)))
            }
        }
    }

    fn refuse(&self, which: usize, after: Duration) -> TooMuch {
        self.refused[which].fetch_add(1, Ordering::Relaxed);
        TooMuch { what: ["sessions", "streams", "requests a second", "bytes a second"][which], after }
    }

    fn places(&self, wanted: Wanted) -> &Places {
        match wanted {
            Wanted::Session => &self.sessions,
            Wanted::Stream => &self.streams,
        }
    }
}

impl Places {
    fn take(&self) -> Result<(), ()> {
        let most = self.most.load(Ordering::Relaxed);
        let one_more = |taken| (taken < most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).map(|_| ()).map_err(|_| ())
    }
}

impl Rate {
    /// Nanoseconds that so many cost; none where there is no bound.
    fn cost(&self, many: u64) -> Option<u64> {
        match self.a_second.load(Ordering::Relaxed) {
            NONE => None,
            // Of nothing there is nothing, for as long as anybody asks.
            0 => Some(NONE / 4),
            a_second => {
                Some((u128::from(many) * 1_000_000_000 / u128::from(a_second)).min(u128::from(NONE / 4)) as u64)
            }
        }
    }

    /// Takes so many where they may come now; else says when.
    fn take(&self, many: u64, now: u64) -> Result<(), Duration> {
        let Some(cost) = self.cost(many) else { return Ok(()) };
        let mut over = 0;
        let taken = self.paid_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
            let until = until.max(now).saturating_add(cost);
            over = until.saturating_sub(now.saturating_add(AHEAD));
            (over == 0).then_some(until)
        });
        taken.map(|_| ()).map_err(|_| Duration::from_nanos(over))
    }

    /// Takes so many that are gone already.
    fn charge(&self, many: u64, now: u64) {
        let Some(cost) = self.cost(many) else { return };
        let pay = |until: u64| Some(until.max(now).saturating_add(cost));
        // It always gives a new value.
        let _ = self.paid_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay);
    }

    /// Nothing may come before what has gone is paid for.
    fn is_paid(&self, now: u64) -> Result<(), Duration> {
        if self.a_second.load(Ordering::Relaxed) == NONE {
            return Ok(());
        }
        let over = self.paid_until.load(Ordering::Relaxed).saturating_sub(now.saturating_add(AHEAD));
        if over == 0 { Ok(()) } else { Err(Duration::from_nanos(over)) }
    }
}

impl Taken {
    /// Takes one thing from each of `allowances`, or nothing from any.
    ///
    /// # Errors
    /// What there is not enough of.
    pub fn from(allowances: &[Arc<Allowance>], wanted: Wanted) -> Result<Self, TooMuch> {
        let mut taken = Taken::default();
        allowances.iter().try_for_each(|allowance| taken.add(allowance, wanted))?;
        Ok(taken)
    }

    /// Takes one thing from another one too, unless something of it is had already.
    ///
    /// # Errors
    /// What there is not enough of.
    pub fn add(&mut self, allowance: &Arc<Allowance>, wanted: Wanted) -> Result<(), TooMuch> {
        if !self.from.iter().any(|(known, _)| Arc::ptr_eq(known, allowance)) {
            allowance.take(wanted)?;
            self.from.push((allowance.clone(), wanted));
        }
        Ok(())
    }

    /// Counts bytes that have moved.
    pub fn charge(&self, bytes: u64) {
        for (allowance, _) in &self.from {
            allowance.bytes.charge(bytes, allowance.began.elapsed().as_nanos() as u64);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        for (allowance, wanted) in &self.from {
            allowance.places(*wanted).taken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_had_at_once_and_given_back() {
        let tenant = Allowance::new("acme".into(), &Allowed { sessions: Some(2), ..Allowed::default() });
        let token = Allowance::new("".into(), &Allowed { sessions: Some(1), ..Allowed::default() });
        let both = [token, tenant.clone()];
        let Ok(first) = Taken::from(&both, Wanted::Session) else { panic!("the first") };
        assert_eq!(Taken::from(&both, Wanted::Session).err().map(|too_much| too_much.what), Some("sessions"));
        // What was refused for the one took nothing from the other.
        let second = Taken::from(&both[1..], Wanted::Session);
        assert!(second.is_ok() && Taken::from(&both[1..], Wanted::Session).is_err());
        drop((first, second));
        assert!(Taken::from(&both, Wanted::Session).is_ok());
        assert_eq!(tenant.refused().collect::<Vec<_>>()[0], ("sessions", 1));
    }

    #[test]
    fn a_rate_lets_a_seconds_worth_through_at_once_and_says_when_there_is_more() {
        let rate = Rate { a_second: AtomicU64::new(10), paid_until: AtomicU64::new(0) };
        assert_eq!((0..20).filter(|_| rate.take(1, 5).is_ok()).count(), 10);
        assert_eq!(rate.take(1, 5), Err(Duration::from_millis(100)));
        assert_eq!(rate.take(1, 100_000_005), Ok(()));
        rate.charge(1000, 100_000_005);
        assert!(rate.is_paid(50_000_000_000).is_err() && rate.is_paid(101_000_000_005).is_ok());
        rate.a_second.store(0, Ordering::Relaxed);
        assert!(rate.take(1, u64::MAX / 2).is_err());
        rate.a_second.store(NONE, Ordering::Relaxed);
        assert!(rate.take(u64::MAX, 0).is_ok() && rate.is_paid(0).is_ok());
    }
}

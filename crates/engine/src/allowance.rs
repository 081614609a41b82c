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

/// What a rate may be behind: whoever has had far too much pays for it no longer than this.
const BEHIND: u64 = 60_000_000_000;

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
        let before = bounds.into_iter().zip(wanted).map(|(bound, wanted)| {
            let wanted = wanted.unwrap_or(NONE);
            bound.swap(wanted, Ordering::Relaxed) != wanted
        });
        let changed: Vec<bool> = before.collect();
        for (rate, has_changed) in [&self.requests, &self.bytes].into_iter().zip(&changed[2..]) {
            // What was too much for the one is nothing to another.
            if *has_changed {
                rate.paid_until.store(0, Ordering::Relaxed);
            }
        }
    }

    /// What was refused so far, by what was wanted.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.refused.iter().map(|count| count.load(Ordering::Relaxed));
        ["sessions", "streams", "requests", "bytes"].into_iter().zip(counts)
    }

    /// Takes a place.
    fn take(&self, wanted: Wanted) -> Result<(), TooMuch> {
        let which = if wanted == Wanted::Session { 0 } else { 1 };
        self.places(wanted).take().map_err(|()| self.refuse(which, Duration::from_secs(1)))
    }

    /// Pays for one request or stream.
    fn pay(&self) -> Result<(), TooMuch> {
        let now = self.now();
        self.bytes.is_paid(now).map_err(|after| self.refuse(3, after))?;
        self.requests.take(1, now).map_err(|after| self.refuse(2, after))
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
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

    /// Gives so many back that were taken for nothing.
    fn give_back(&self, many: u64) {
        let Some(cost) = self.cost(many) else { return };
        // It always gives a new value.
        let _ = self
            .paid_until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| Some(until.saturating_sub(cost)));
    }

    /// Takes so many that are gone already.
    fn charge(&self, many: u64, now: u64) {
        let Some(cost) = self.cost(many) else { return };
        let most = now.saturating_add(AHEAD + BEHIND);
        let pay = |until: u64| Some(until.max(now).saturating_add(cost).min(most));
        // It always gives a new value.
        let _ = self.paid_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay);
    }

    /// Nothing may come before what has gone is paid for.
    fn is_paid(&self, now: u64) -> Result<(), Duration> {
        match self.a_second.load(Ordering::Relaxed) {
            NONE => return Ok(()),
            0 => return Err(Duration::from_nanos(BEHIND)),
            _ => {}
        }
        let over = self.paid_until.load(Ordering::Relaxed).saturating_sub(now.saturating_add(AHEAD));
        if over == 0 { Ok(()) } else { Err(Duration::from_nanos(over)) }
    }
}

impl Taken {
    /// Takes one thing from each of `allowances`, or nothing from any. One that stands there twice gives one.
    ///
    /// # Errors
    /// What there is not enough of.
    pub fn from(allowances: impl IntoIterator<Item = Arc<Allowance>>, wanted: Wanted) -> Result<Self, TooMuch> {
        let mut taken = Taken::default();
        // First the places, which go back by themselves.
        for allowance in allowances {
            if !taken.from.iter().any(|(known, _)| Arc::ptr_eq(known, &allowance)) {
                allowance.take(wanted)?;
                taken.from.push((allowance, wanted));
            }
        }
        if wanted == Wanted::Stream {
            for (at, (allowance, _)) in taken.from.iter().enumerate() {
                if let Err(too_much) = allowance.pay() {
                    taken.from[..at].iter().for_each(|(paid, _)| paid.requests.give_back(1));
                    return Err(too_much);
                }
            }
        }
        Ok(taken)
    }

    /// Counts bytes that have moved.
    pub fn charge(&self, bytes: u64) {
        for (allowance, _) in &self.from {
            allowance.bytes.charge(bytes, allowance.now());
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
        let (both, one) = (|| [token.clone(), tenant.clone()], || [tenant.clone()]);
        let Ok(first) = Taken::from(both(), Wanted::Session) else { panic!("the first") };
        assert_eq!(Taken::from(both(), Wanted::Session).err().map(|too_much| too_much.what), Some("sessions"));
        // What was refused for the one took nothing from the other.
        let second = Taken::from(one(), Wanted::Session);
        assert!(second.is_ok() && Taken::from(one(), Wanted::Session).is_err());
        drop((first, second));
        assert!(Taken::from(both(), Wanted::Session).is_ok());
        assert_eq!(tenant.refused().collect::<Vec<_>>()[0], ("sessions", 1));
    }

    #[test]
    fn whoever_is_refused_has_paid_nothing() {
        let rate = |streams, requests| Allowed { streams, requests: Some(requests), ..Allowed::default() };
        let token = Allowance::new("".into(), &rate(Some(1), 3));
        let (few, tenant) = (Allowance::new("".into(), &rate(Some(0), 9)), Allowance::new("".into(), &rate(None, 1)));
        let with = |other: &Arc<Allowance>| Taken::from([token.clone(), other.clone()], Wanted::Stream);
        let refused = |taken: Result<Taken, TooMuch>| taken.err().map(|too_much| too_much.what);
        assert!((0..20).all(|_| refused(with(&few)) == Some("streams")));
        let first = with(&tenant);
        assert!(first.is_ok());
        assert!((0..20).all(|_| refused(with(&tenant)) == Some("streams")));
        drop(first);
        assert!((0..20).all(|_| refused(with(&tenant)) == Some("requests a second")));
        // Of its three it has had one.
        let alone = || Taken::from([token.clone()], Wanted::Stream);
        assert_eq!((0..3).filter(|_| alone().is_ok()).count(), 2);
    }

    #[test]
    fn what_was_too_much_is_forgotten_with_the_bound_and_paid_for_within_a_minute() {
        let bytes = |many| Allowed { bytes: Some(many), ..Allowed::default() };
        let allowance = Allowance::new("".into(), &bytes(1));
        let take = || Taken::from([allowance.clone()], Wanted::Stream);
        take().expect("nothing has gone yet").charge(1_000_000);
        let after = take().err().map(|too_much| too_much.after).expect("too much");
        assert!(after <= Duration::from_secs(60));
        allowance.change(&bytes(1));
        assert!(take().is_err());
        allowance.change(&bytes(1_000_000));
        assert!(take().is_ok());
        allowance.change(&bytes(0));
        assert!(take().is_err());
    }

    #[test]
    fn a_rate_lets_a_seconds_worth_through_at_once_and_says_when_there_is_more() {
        let rate = Rate { a_second: AtomicU64::new(10), paid_until: AtomicU64::new(0) };
        assert_eq!((0..20).filter(|_| rate.take(1, 5).is_ok()).count(), 10);
        assert_eq!(rate.take(1, 5), Err(Duration::from_millis(100)));
        assert_eq!(rate.take(1, 100_000_005), Ok(()));
        rate.charge(500, 100_000_005);
        assert!(rate.is_paid(40_000_000_000).is_err() && rate.is_paid(51_000_000_005).is_ok());
        rate.a_second.store(0, Ordering::Relaxed);
        assert!(rate.take(1, u64::MAX / 2).is_err());
        rate.a_second.store(NONE, Ordering::Relaxed);
        assert!(rate.take(u64::MAX, 0).is_ok() && rate.is_paid(0).is_ok());
    }
}

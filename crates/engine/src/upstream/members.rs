//! The addresses of an upstream at one moment, and which of them a request gets.
//!
//! Nothing is allocated for a choice, and workers share no counter. Addresses that were tried already and those that
//! are left out are passed over; where all are left out, none is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::hash::mix;
use super::tcp::Address;
use crate::snapshot::upstream::Balance;

/// The most places of a cycle; weights are rounded to that. With 4,096 the rounding is below a tenth of a percent.
const CYCLE: u64 = 4096;

/// Up to so many, all are compared for the fewest requests; among more, two.
const COMPARED: usize = 16;

/// Workers that have a turn of their own; more share.
const TURNS: usize = 16;

/// Whose turn it is, on each worker.
pub struct Turns([Turn; TURNS]);

/// One a cache line, so that workers do not wait for each other.
#[repr(align(64))]
struct Turn(AtomicUsize);

impl Default for Turns {
    fn default() -> Self {
        // Workers begin at different places.
        Turns(std::array::from_fn(|worker| Turn(AtomicUsize::new(worker))))
    }
}

impl Turns {
    fn of(&self, worker: usize) -> &AtomicUsize {
        &self.0[worker % TURNS].0
    }
}

/// Addresses that stand for each other, now.
#[derive(Default)]
pub struct Members {
    list: Vec<Arc<Address>>,
    /// Positions in `list`, each as often as its weight says and as evenly spread as that goes.
    cycle: Vec<u32>,
    /// All weights are the same.
    equal: bool,
}

impl Members {
    /// These and no others.
    pub fn new(list: Vec<Arc<Address>>) -> Self {
        let weights: Vec<u64> = list.iter().map(|address| u64::from(address.spec.weight.max(1))).collect();
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let cycle = if equal { (0..list.len() as u32).collect() } else { smooth(&weights) };
        Members { list, cycle, equal }
    }

    /// All of them.
    pub fn list(&self) -> &[Arc<Address>] {
        &self.list
    }

    /// True when another than `address` may be picked.
    pub fn has_other_than(&self, address: &Address) -> bool {
        self.list.iter().any(|other| other.id != address.id && other.condition.is_usable())
    }

    /// The address for a request that is not in `tried`. `key` is the same for requests that belong together.
    pub fn pick(
        &self,
        balance: &Balance,
        turns: &Turns,
        worker: usize,
        key: u64,
        tried: &[u64],
    ) -> Option<&Arc<Address>> {
        if let [only] = &self.list[..] {
            return (!tried.contains(&only.id)).then_some(only);
        }
        let turn = turns.of(worker);
        let untried = |address: &Address| !tried.contains(&address.id);
        let found = self.choose(balance, turn, key, |address| untried(address) && address.condition.is_usable());
        if found.is_some() || self.list.iter().any(|address| address.condition.is_usable()) {
            return found;
        }
        // All are said to be down. What says so may be wrong, and trying cannot make it worse.
        self.choose(balance, turn, key, untried)
    }

    fn choose(
        &self,
        balance: &Balance,
        turn: &AtomicUsize,
        key: u64,
        fits: impl Fn(&Address) -> bool,
    ) -> Option<&Arc<Address>> {
        match balance {
            Balance::RoundRobin => (0..self.cycle.len()).map(|_| self.next(turn)).find(|address| fits(address)),
            Balance::LeastRequests => self.least(turn, fits),
            Balance::Cookie(_) | Balance::Source => self.nearest(key, fits),
        }
    }

    /// Whose turn it is. One that is passed over gives its turn to the next, so that shares stay in proportion.
    fn next(&self, turn: &AtomicUsize) -> &Arc<Address> {
        let place = turn.fetch_add(1, Ordering::Relaxed) % self.cycle.len();
        &self.list[self.cycle[place] as usize]
    }

    fn least(&self, turn: &AtomicUsize, fits: impl Fn(&Address) -> bool) -> Option<&Arc<Address>> {
        let count = self.cycle.len();
        if count == 0 {
            return None;
        }
        let place = turn.fetch_add(1, Ordering::Relaxed);
        let first = self.cycle[place % count] as usize;
        if self.list.len() > COMPARED {
            let second = self.cycle[mix(place as u64) as usize % count] as usize;
            let two = [first, second].into_iter().map(|i| &self.list[i]);
            if let Some(found) = two.filter(|address| fits(address)).reduce(fewer) {
                return Some(found);
            }
        }
        // Beginning with whose turn it is, the first among equals.
        let all = self.list[first..].iter().chain(&self.list[..first]);
        all.filter(|address| fits(address)).reduce(fewer)
    }

    /// Rendezvous hashing: each address draws a number for the key, the highest wins. One that comes takes over only
    /// what it wins, one that goes leaves only what it had.
    fn nearest(&self, key: u64, fits: impl Fn(&Address) -> bool) -> Option<&Arc<Address>> {
        let fitting = self.list.iter().filter(|address| fits(address));
        if self.equal {
            return fitting.max_by_key(|address| mix(key ^ address.seed));
        }
        let drawn = |address: &Address| {
            // Uniform in (0, 1]; -w / ln(u) wins in proportion to w.
            let uniform = ((mix(key ^ address.seed) >> 11) + 1) as f64 / (1u64 << 53) as f64;
            f64::from(address.spec.weight.max(1)) / -uniform.ln()
        };
        let draws = fitting.map(|address| (address, drawn(address)));
        draws.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(address, _)| address)
    }
}

/// The one with fewer requests for its weight; the first one where that is the same.
fn fewer<'a>(a: &'a Arc<Address>, b: &'a Arc<Address>) -> &'a Arc<Address> {
    let load = |address: &Address| address.in_flight.load(Ordering::Relaxed) as u64;
    let share = |address: &Address| u64::from(address.spec.weight.max(1));
    if load(b) * share(a) < load(a) * share(b) { b } else { a }
}

/// Positions of a cycle in which each comes as often as its weight says, and never in bursts where that can be helped:
/// everybody gains its weight each time, the richest is next and pays what all gained together.
fn smooth(weights: &[u64]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let sum: u64 = weights.iter().map(|weight| weight / divisor).sum();
    let scaled = |weight: u64| match sum > CYCLE {
        true => (weight / divisor * CYCLE / sum).max(1),
        false => weight / divisor,
    };
    let weights: Vec<i64> = weights.iter().map(|weight| scaled(*weight) as i64).collect();
    let total: i64 = weights.iter().sum();
    let mut purses = vec![0i64; weights.len()];
    let mut next = || {
        purses.iter_mut().zip(&weights).for_each(|(purse, weight)| *purse += weight);
        let richest = (0..purses.len()).rev().max_by_key(|i| purses[*i]).unwrap_or_default();
        purses[richest] -= total;
        richest as u32
    };
    (0..total).map(|_| next()).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests;

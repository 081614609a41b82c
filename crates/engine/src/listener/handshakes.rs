//! Handshakes over QUIC that run on one worker's socket, and whether there is room for another one.
//!
//! An address that nobody has proved may be made up, so few of those get in before each has to prove its own; one that
//! is proved has a share of its own, so that nobody takes the places of all others.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;

/// So many handshakes may run before addresses have to be proved.
const UNPROVED: usize = 32;

/// So many of one source.
const OF_ONE: usize = 128;

/// So many in all.
const MOST: usize = 512;

/// Those that run.
#[derive(Clone, Default)]
pub(super) struct Handshakes(Arc<Mutex<Running>>);

#[derive(Default)]
struct Running {
    all: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// What becomes of another one.
pub(super) enum Turn {
    /// It may run.
    Runs(Handshake),
    /// First its address is proved.
    Proves,
    /// There is no room for it.
    TooMany,
}

/// One that runs, until it is dropped.
pub(super) struct Handshake {
    running: Handshakes,
    source: IpAddr,
}

impl Handshakes {
    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for room. `proved`: somebody is at this address; `crowded`: places are scarce for other reasons.
    pub(super) fn begin(&self, from: IpAddr, proved: bool, crowded: bool) -> Turn {
        let (mut running, source) = (self.lock(), source(from));
        if !proved && (crowded || running.all >= UNPROVED) {
            return Turn::Proves;
        }
        let of_it = running.by_source.get(&source).copied().unwrap_or_default();
        if running.all >= MOST || of_it >= OF_ONE {
            return Turn::TooMany;
        }
        running.all += 1;
        running.by_source.insert(source, of_it + 1);
        Turn::Runs(Handshake { running: self.clone(), source })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut running = self.running.lock();
        running.all -= 1;
        if let Some(of_it) = running.by_source.get_mut(&self.source) {
            *of_it -= 1;
            if *of_it == 0 {
                running.by_source.remove(&self.source);
            }
        }
    }
}

/// Whoever has one address of a network of IPv6 has all of them.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn runs(turn: Turn) -> Option<Handshake> {
        match turn {
            Turn::Runs(handshake) => Some(handshake),
            Turn::Proves | Turn::TooMany => None,
        }
    }

    #[test]
    fn one_source_takes_its_share_and_leaves_the_others_theirs() {
        let all = Handshakes::default();
        let begin = |address: &str| runs(all.begin(ip(address), true, false));
        let mut held: Vec<_> = (0..1000).filter_map(|_| begin("192.0.2.1")).collect();
        assert_eq!(held.len(), OF_ONE);
        held.extend(begin("192.0.2.2"));
        assert_eq!(held.len(), OF_ONE + 1);
        held.extend((0..1000).filter_map(|n| begin(&format!("2001:db8::{n:x}"))));
        assert_eq!(held.len(), 2 * OF_ONE + 1);
        held.extend((0..10_000).filter_map(|n| begin(&format!("10.0.{}.{}", n / 250, n % 250))));
        assert_eq!(held.len(), MOST);
        held.clear();
        assert!(begin("192.0.2.1").is_some());
        assert!(all.lock().by_source.is_empty());
    }

    #[test]
    fn whoever_is_nowhere_proved_gets_few_places_and_is_asked_for_proof() {
        let all = Handshakes::default();
        let mut held = Vec::new();
        let asked = (0..1000)
            .filter(|n| match all.begin(ip(&format!("10.1.{}.{}", n / 250, n % 250)), false, false) {
                Turn::Runs(handshake) => {
                    held.push(handshake);
                    false
                }
                Turn::Proves => true,
                Turn::TooMany => false,
            })
            .count();
        assert_eq!((held.len(), asked), (UNPROVED, 1000 - UNPROVED));
        assert!(runs(all.begin(ip("192.0.2.1"), true, true)).is_some());
        held.clear();
        assert!(matches!(all.begin(ip("192.0.2.1"), false, true), Turn::Proves));
    }
}

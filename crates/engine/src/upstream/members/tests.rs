//! Who gets how much, and who moves when somebody comes or goes.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::super::tcp::Spec;
use super::*;
use crate::snapshot::upstream::{Ejection, Protocol};

fn addresses(weights: &[u32]) -> Vec<Arc<Address>> {
    let spec = |(i, weight): (usize, &u32)| Spec {
        host: format!("10.0.{}.{}", i / 250, i % 250),
        port: 80,
        tls: None,
        protocol: Protocol::Http1,
        weight: *weight,
        connect_timeout: Duration::from_secs(1),
        handshake_timeout: Duration::from_secs(1),
        proxy_protocol: None,
    };
    weights.iter().enumerate().map(|each| Arc::new(Address::new(spec(each), None))).collect()
}

fn down(address: &Address) {
    let rule = Ejection { failures: 1, time: Duration::from_secs(60) };
    assert!(address.condition.failed(&rule, || "".into(), || true).is_some());
}

/// How many of `count` requests each address gets.
fn shares(members: &Members, balance: &Balance, count: u64) -> Vec<usize> {
    let (turns, mut shares) = (Turns::default(), vec![0; members.list.len()]);
    for key in 0..count {
        let picked = members.pick(balance, &turns, 0, mix(key), &[]).expect("one is left");
        shares[members.list.iter().position(|address| address.id == picked.id).expect("a member")] += 1;
    }
    shares
}

#[test]
fn turns_follow_the_weights_and_are_spread() {
    let members = Members::new(addresses(&[5, 1, 1]));
    assert_eq!(members.cycle, [0, 0, 1, 0, 2, 0, 0]);
    assert_eq!(shares(&members, &Balance::RoundRobin, 700), [500, 100, 100]);
    assert_eq!(Members::new(addresses(&[100, 300])).cycle.len(), 4);
    let large = shares(&Members::new(addresses(&[65_535, 1_000_000_000])), &Balance::RoundRobin, 4096);
    assert!(large[0] >= 1 && large[0] + large[1] == 4096);
}

#[test]
fn one_that_is_left_out_leaves_the_others_their_proportion() {
    let list = addresses(&[2, 2, 1, 1]);
    down(&list[1]);
    let members = Members::new(list);
    assert_eq!(shares(&members, &Balance::RoundRobin, 400), [200, 0, 100, 100]);
    let equal = addresses(&[1, 1, 1]);
    down(&equal[1]);
    assert_eq!(shares(&Members::new(equal), &Balance::RoundRobin, 100), [50, 0, 50]);
}

#[test]
fn where_all_are_left_out_all_are_tried_and_none_twice() {
    let list = addresses(&[1, 1, 1]);
    list.iter().for_each(|address| down(address));
    let members = Members::new(list);
    for balance in [Balance::RoundRobin, Balance::LeastRequests, Balance::Source] {
        let (turns, mut tried) = (Turns::default(), Vec::new());
        while let Some(address) = members.pick(&balance, &turns, 0, 7, &tried) {
            tried.push(address.id);
        }
        tried.sort_unstable();
        tried.dedup();
        assert_eq!(tried.len(), 3);
    }
}

#[test]
fn one_that_is_known_to_be_down_is_not_tried_while_another_works() {
    let list = addresses(&[1, 1]);
    down(&list[1]);
    let tried = [list[0].id];
    assert!(Members::new(list).pick(&Balance::RoundRobin, &Turns::default(), 0, 0, &tried).is_none());
    assert!(Members::new(Vec::new()).pick(&Balance::LeastRequests, &Turns::default(), 0, 0, &[]).is_none());
}

#[test]
fn the_fewest_requests_for_its_weight_and_in_turn_among_equals() {
    let list = addresses(&[1, 3]);
    let members = Members::new(list.clone());
    let (turns, balance) = (Turns::default(), Balance::LeastRequests);
    let mut busy = [0, 0];
    for _ in 0..400 {
        let picked = members.pick(&balance, &turns, 0, 0, &[]).expect("one");
        picked.in_flight.fetch_add(1, Ordering::Relaxed);
        busy[usize::from(picked.id == list[1].id)] += 1;
    }
    assert_eq!(busy, [100, 300]);
    assert_eq!(shares(&Members::new(addresses(&[1, 1, 1])), &balance, 300), [100, 100, 100]);
    let many = Members::new(addresses(&[1; 100]));
    for _ in 0..10_000 {
        let picked = many.pick(&balance, &turns, 0, 0, &[]).expect("one");
        picked.in_flight.fetch_add(1, Ordering::Relaxed);
    }
    let most = many.list.iter().map(|address| address.in_flight.load(Ordering::Relaxed)).max();
    assert!(most < Some(115), "{most:?}");
}

#[test]
fn keys_are_shared_out_by_weight() {
    for (weights, expected) in [(vec![1, 1, 1, 1], [5000; 4]), (vec![1, 2, 3, 4], [2000, 4000, 6000, 8000])] {
        let shares = shares(&Members::new(addresses(&weights)), &Balance::Source, 20_000);
        for (share, expected) in shares.iter().zip(expected) {
            assert!(share.abs_diff(expected) < 400, "{shares:?} for {weights:?}");
        }
    }
}

proptest! {
    /// Whoever comes, goes or is left out moves only the keys that it gains or loses.
    #[test]
    fn no_key_moves_between_two_that_stay(
        weights in prop::collection::vec(1u32..5, 2..12),
        gone in any::<prop::sample::Index>(),
        left_out in any::<bool>(),
    ) {
        let list = addresses(&weights);
        let gone = list[gone.index(list.len())].clone();
        let before = Members::new(list.clone());
        let turns = Turns::default();
        let at = |members: &Members, key| members.pick(&Balance::Source, &turns, 0, mix(key), &[]).map(|a| a.id);
        let places: HashMap<u64, _> = (0..500).map(|key| (key, at(&before, key))).collect();
        let after = if left_out {
            down(&gone);
            before
        } else {
            Members::new(list.into_iter().filter(|address| address.id != gone.id).collect())
        };
        for (key, place) in places {
            if place != Some(gone.id) {
                prop_assert_eq!(at(&after, key), place);
            }
        }
    }

    /// However turns and weights are: every cycle gives each its weight.
    #[test]
    fn a_cycle_holds_each_as_often_as_its_weight(weights in prop::collection::vec(1u32..50, 1..20)) {
        let members = Members::new(addresses(&weights));
        let cycle = members.cycle.len() as u64;
        let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let got = shares(&members, &Balance::RoundRobin, cycle);
        for (got, weight) in got.iter().zip(weights) {
            prop_assert_eq!(*got as u64 * sum, u64::from(weight) * cycle);
        }
    }
}

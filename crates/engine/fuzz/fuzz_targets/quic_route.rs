//! Datagrams at a port that workers share: nothing panics, one that bears no id of ours is nobody's, and one that bears
//! one goes to its worker whatever follows it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_engine::tunnel::endpoint::ids::{Key, LENGTH, NONCE};
use tidegate_engine::tunnel::endpoint::route::owner;

fuzz_target!(|input: &[u8]| {
    let key = Key::default();
    assert_eq!(owner(input, &key), None);
    let Some((worker, rest)) = input.split_first() else { return };
    let Some((nonce, rest)) = rest.split_first_chunk::<NONCE>() else { return };
    let id = key.id(*nonce, *worker);
    let short = [&[worker & 0x7f][..], &id, rest].concat();
    assert_eq!(owner(&short, &key), Some(usize::from(*worker)));
    let long = [&[worker | 0x80, 0, 0, 0, 1, LENGTH as u8][..], &id, rest].concat();
    assert_eq!(owner(&long, &key), Some(usize::from(*worker)));
});

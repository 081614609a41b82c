//! Whose datagram it is, of several workers with a socket each at one address (RFC 9000 §17).
//!
//! Bytes in, a worker out: receiving and handing on is `socket`'s.

use super::ids::{Key, LENGTH};

/// Where the destination's id begins in a packet with a long header, behind its length.
const LONG: usize = 6;

/// The worker whose connection a datagram belongs to, by the id in its first packet; none where it bears no id of this
/// process: it begins a connection, or is nobody's.
pub fn owner(datagram: &[u8], key: &Key) -> Option<usize> {
    let id = match datagram {
        [first, rest @ ..] if first & 0x80 == 0 => rest.get(..LENGTH)?,
        [_, _, _, _, _, length, ..] if usize::from(*length) == LENGTH => datagram.get(LONG..LONG + LENGTH)?,
        _ => return None,
    };
    key.worker_of(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tunnel::endpoint::ids::NONCE;

    proptest! {
        #[test]
        fn a_datagram_goes_to_the_worker_in_its_id_whatever_else_it_holds(
            nonce: [u8; NONCE], worker: u8, first: u8, version: [u8; 4], rest: Vec<u8>,
        ) {
            let key = Key::default();
            let id = key.id(nonce, worker);
            let short = [&[first & 0x7f][..], &id, &rest].concat();
            let long = [&[first | 0x80][..], &version, &[10], &id, &rest].concat();
            for datagram in [short, long] {
                prop_assert_eq!(owner(&datagram, &key), Some(usize::from(worker)));
            }
        }

        #[test]
        fn what_bears_no_id_of_ours_stays_where_it_came(datagram in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(owner(&datagram, &Key::default()), None);
        }

        #[test]
        fn a_datagram_that_was_cut_in_its_id_is_nobodys(nonce: [u8; NONCE], worker: u8, cut in 0..11_usize) {
            let key = Key::default();
            let id = key.id(nonce, worker);
            let short = [&[0x40][..], &id].concat();
            prop_assert_eq!(owner(&short[..cut], &key), None);
            let long = [&[0xc0, 0, 0, 0, 1, 10][..], &id].concat();
            prop_assert_eq!(owner(&long[..cut + 5], &key), None);
        }
    }
}

//! Connection ids that say, to this process alone, which worker has a connection.
//!
//! After a peer's address has changed the kernel gives its datagrams to any of the workers' sockets; whose they are
//! stands in the id they bear. Nobody else can read it there, nor tell two ids of one connection from those of two.

use std::hash::{BuildHasher, RandomState};

use quinn::{ConnectionId, ConnectionIdGenerator};

/// Bytes of an id.
pub const LENGTH: usize = 10;

/// Those of them that are random.
pub const NONCE: usize = 6;

/// So many workers have a number in an id.
pub const WORKERS: usize = 256;

/// What the ids of a process are made and read with. Another process cannot read them.
#[derive(Clone, Default)]
pub struct Key(RandomState);

impl Key {
    /// The id with these random bytes of a connection that this worker has.
    pub fn id(&self, nonce: [u8; NONCE], worker: u8) -> [u8; LENGTH] {
        let mark = self.mark(&nonce);
        let mut id = [0; LENGTH];
        id[..NONCE].copy_from_slice(&nonce);
        id[NONCE..].copy_from_slice(&mark);
        id[NONCE] ^= worker;
        id
    }

    /// The worker that has the connection; none where the id is not of this process. One that somebody made up is taken
    /// for one of ours once in sixteen million times.
    pub fn worker_of(&self, id: &[u8]) -> Option<usize> {
        let id: &[u8; LENGTH] = id.try_into().ok()?;
        let (nonce, rest) = id.split_at(NONCE);
        let mark = self.mark(nonce);
        (rest[1..] == mark[1..]).then_some(usize::from(rest[0] ^ mark[0]))
    }

    fn mark(&self, nonce: &[u8]) -> [u8; LENGTH - NONCE] {
        let [a, b, c, d, ..] = self.0.hash_one(nonce).to_le_bytes();
        [a, b, c, d]
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(***)")
    }
}

/// Makes the ids of one worker's connections.
pub struct Generator {
    /// What they are made with.
    pub key: Key,
    /// Whose they are.
    pub worker: u8,
}

impl ConnectionIdGenerator for Generator {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut nonce = [0; NONCE];
        // Fails only where the system has no randomness, and then no handshake comes this far.
        let _ = getrandom::fill(&mut nonce);
        ConnectionId::new(&self.key.id(nonce, self.worker))
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_id_says_its_worker_to_this_process_and_to_no_other(nonce: [u8; NONCE], worker: u8) {
            let (key, other) = (Key::default(), Key::default());
            let id = key.id(nonce, worker);
            prop_assert_eq!(key.worker_of(&id), Some(usize::from(worker)));
            prop_assert_eq!(other.worker_of(&id), None);
        }

        #[test]
        fn what_somebody_made_up_is_nobodys(id in prop::collection::vec(any::<u8>(), 0..24)) {
            prop_assert_eq!(Key::default().worker_of(&id), None);
        }
    }

    #[test]
    fn ids_of_one_worker_have_nothing_in_common() {
        let mut generator = Generator { key: Key::default(), worker: 3 };
        let ids: Vec<ConnectionId> = (0..1000).map(|_| generator.generate_cid()).collect();
        assert!(ids.iter().all(|id| generator.key.worker_of(id) == Some(3)));
        for byte in 0..LENGTH {
            let values: HashSet<u8> = ids.iter().map(|id| id[byte]).collect();
            assert!(values.len() > 200, "byte {byte} has {} values", values.len());
        }
    }
}

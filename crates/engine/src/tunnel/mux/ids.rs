//! Which of the peer's stream ids have been used.
//!
//! Ids rise by two, but HashiCorp's library numbers a stream before it queues the SYN: streams opened at the same time
//! can arrive out of order. So an id that was skipped may still come, once.

/// Skipped ids that are remembered; older ones count as used.
const SKIPPED: usize = 1024;

/// The ids of one side of a session.
pub(super) struct PeerIds {
    /// The lowest id above all that were used.
    next: u64,
    parity: u32,
    /// Below `next` and not used, in rising order.
    skipped: Vec<u32>,
}

impl PeerIds {
    pub(super) fn new(first: u32) -> Self {
        PeerIds { next: u64::from(first), parity: first % 2, skipped: Vec::new() }
    }

    /// Whether the other side is the one that uses `id`.
    pub(super) fn owns(&self, id: u32) -> bool {
        id != 0 && id % 2 == self.parity
    }

    /// Uses `id`, which must be of this side; false when it has been used.
    pub(super) fn take(&mut self, id: u32) -> bool {
        if u64::from(id) < self.next {
            let found = self.skipped.binary_search(&id);
            if let Ok(at) = found {
                self.skipped.remove(at);
                if self.skipped.is_empty() {
                    self.skipped = Vec::new();
                }
            }
            return found.is_ok();
        }
        let from = self.next.max(u64::from(id).saturating_sub(2 * SKIPPED as u64));
        self.skipped
            .extend((from..u64::from(id)).filter(|other| other % 2 == u64::from(self.parity)).map(|o| o as u32));
        self.skipped.drain(..self.skipped.len().saturating_sub(SKIPPED));
        self.next = u64::from(id) + 2;
        true
    }

    /// Whether `id` has been used.
    pub(super) fn used(&self, id: u32) -> bool {
        u64::from(id) < self.next && self.skipped.binary_search(&id).is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_can_be_used_once_in_any_order() {
        let mut ids = PeerIds::new(1);
        assert!(ids.take(1) && ids.take(7) && ids.take(3));
        assert!(ids.used(7) && !ids.used(5) && !ids.used(9));
        assert!(!ids.take(1) && !ids.take(7) && !ids.take(3));
        assert!(ids.take(5) && !ids.take(5) && ids.take(9));
        assert_eq!(ids.skipped.capacity(), 0);
        assert!(ids.owns(3) && !ids.owns(4) && !ids.owns(0));
    }

    #[test]
    fn a_leap_costs_no_more_than_the_bound() {
        let mut ids = PeerIds::new(2);
        assert!(ids.take(u32::MAX - 1));
        assert_eq!(ids.skipped.len(), SKIPPED);
        assert!(!ids.take(2) && ids.take(u32::MAX - 3) && !ids.take(u32::MAX - 1));
    }
}

//! Which of several gateways a tunnel is dialled at next.
//!
//! Decides only. None is tried a second time before all the others were; of those that are left the one with the fewest
//! tunnels of the endpoint comes first, so that they do not gather at one gateway. Nothing that works is moved.

/// The turns of one slot.
pub struct Turns {
    /// Which of them have been tried since a tunnel was a good one.
    tried: Vec<bool>,
    /// Of those with as few tunnels as others this one is next, or the first one behind it.
    next: usize,
}

impl Turns {
    /// Of so many gateways, beginning with `first`, which may be any number.
    pub fn new(gateways: usize, first: usize) -> Self {
        Turns { tried: vec![false; gateways], next: first % gateways }
    }

    /// Whose turn it is, where `tunnels` says how many of the others are at a gateway.
    pub fn take(&mut self, tunnels: impl Fn(usize) -> usize) -> usize {
        let all = self.tried.len();
        if self.tried.iter().all(|tried| *tried) {
            self.tried.fill(false);
            // It was the last one.
            self.tried[(self.next + all - 1) % all] = all > 1;
        }
        let in_turn = (0..all).map(|n| (self.next + n) % all).filter(|at| !self.tried[*at]);
        // The first of those that are equal.
        let at = in_turn.min_by_key(|at| tunnels(*at)).unwrap_or_default();
        self.next = (at + 1) % all;
        self.tried[at] = true;
        at
    }

    /// The last tunnel was a good one: what had failed before counts no more.
    pub fn anew(&mut self) {
        self.tried.fill(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gateway_has_its_turn_before_one_has_it_again() {
        let mut turns = Turns::new(3, 4);
        let found: Vec<usize> = (0..9).map(|_| turns.take(|_| 0)).collect();
        assert_eq!(found, [1, 2, 0, 1, 2, 0, 1, 2, 0]);
        // Where nobody is there may be a reason.
        let mut turns = Turns::new(2, 0);
        let found: Vec<usize> = (0..4).map(|_| turns.take(|at| at)).collect();
        assert_eq!(found, [0, 1, 0, 1]);
        let mut turns = Turns::new(1, 7);
        assert_eq!([turns.take(|_| 1), turns.take(|_| 0)], [0, 0]);
    }

    #[test]
    fn the_gateway_with_the_fewest_tunnels_comes_first() {
        let mut turns = Turns::new(3, 0);
        let tunnels = [2, 0, 1];
        let found: Vec<usize> = (0..3).map(|_| turns.take(|at| tunnels[at])).collect();
        assert_eq!(found, [1, 2, 0]);
        // A good tunnel has ended there, and nobody else is there.
        turns.anew();
        assert_eq!(turns.take(|at| tunnels[at]), 1);
    }
}

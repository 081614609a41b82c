//! The numbers of the tunnels of one slot: a gateway takes a tunnel with the number of another one for its successor.

use std::sync::{Arc, Weak};

/// Tunnels of one slot that may be beside each other before a number comes again, which would end the oldest.
const NUMBERS: usize = 16;

/// A number is held as long as this lives.
pub type Held = Arc<()>;

/// Who holds which number.
#[derive(Default)]
pub struct Numbers([Weak<()>; NUMBERS]);

impl Numbers {
    /// The lowest number that nobody holds, from `first` in steps: where the last one to hold it has ended here and not
    /// yet at the gateway, its successor ends it there.
    pub fn take(&mut self, first: usize, step: usize) -> (usize, Held) {
        let mut all = (first..NUMBERS).step_by(step);
        let free = all.find(|number| self.0[*number].strong_count() == 0).unwrap_or(first);
        let held = Held::default();
        self.0[free] = Arc::downgrade(&held);
        (free, held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_comes_again_when_nobody_holds_it() {
        let mut numbers = Numbers::default();
        let (first, held) = numbers.take(1, 2);
        let (second, _other) = numbers.take(1, 2);
        assert_eq!((first, second, numbers.take(0, 2).0), (1, 3, 0));
        drop(held);
        assert_eq!(numbers.take(1, 2).0, 1);
    }

    #[test]
    fn where_all_are_held_the_first_comes_again() {
        let mut numbers = Numbers::default();
        let held: Vec<(usize, Held)> = (0..NUMBERS).map(|_| numbers.take(0, 1)).collect();
        assert_eq!(held[NUMBERS - 1].0, NUMBERS - 1);
        assert_eq!(numbers.take(0, 1).0, 0);
    }
}

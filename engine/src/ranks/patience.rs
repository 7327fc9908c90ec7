//! Waiting for files of other ranks: looks again soon at first, then less and less often.

use std::time::Duration;

/// Between the first two looks.
const SHORTEST: Duration = Duration::from_millis(5);
/// Between two looks at most.
const LONGEST: Duration = Duration::from_millis(200);

/// The pause before the next look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    next: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { next: SHORTEST }
    }
}

impl Patience {
    /// How long to wait now.
    pub(crate) fn step(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 3 / 2).min(LONGEST);
        now
    }

    /// Something has happened: looks again soon.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew() {
        let mut patience = Patience::default();
        let pauses: Vec<Duration> = (0..20).map(|_| patience.step()).collect();
        assert_eq!(pauses[0], SHORTEST);
        assert!(pauses.is_sorted() && pauses[19] == LONGEST);
        patience.reset();
        assert_eq!(patience.step(), SHORTEST);
    }
}

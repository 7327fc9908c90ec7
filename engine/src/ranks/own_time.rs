//! The time by which others' silence is judged: without that in which this process stood still itself.
//!
//! A machine that slept, a container that was frozen, a process that was stopped and goes on: all ranks come back at once, and none of them
//! was silent for as long as the clock has moved meanwhile.

use std::time::{Duration, Instant};

/// What a look may be late on a busy machine without this process having stood still.
const LATE: Duration = Duration::from_secs(1);

/// A clock that whoever looks at others again and again reads at each look.
#[derive(Debug)]
pub(super) struct OwnTime {
    last: Instant,
    stood_still: Duration,
    /// Between two looks, at most.
    most: Duration,
}

impl OwnTime {
    /// For looks that are so far apart.
    pub(super) fn new(look: Duration, now: Instant) -> Self {
        Self { last: now, stood_still: Duration::ZERO, most: 2 * look + LATE }
    }

    /// The time of a look at `now`, which is no earlier than that of the last one.
    pub(super) fn at(&mut self, now: Instant) -> Instant {
        self.stood_still += now.duration_since(self.last).saturating_sub(self.most);
        self.last = now;
        now.checked_sub(self.stood_still).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_slept_is_not_others_silence() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut time = OwnTime::new(Duration::from_secs(1), start);
        let mut passed = |seconds| time.at(after(seconds)).duration_since(start).as_secs();
        // Every second, then a little late.
        assert_eq!([passed(1), passed(2), passed(4)], [1, 2, 4]);
        // An hour asleep counts as the latest that a look may come.
        assert_eq!([passed(3604), passed(3605)], [7, 8]);
        assert_eq!(passed(3665), 11);
    }
}

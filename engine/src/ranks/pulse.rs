//! What the main thread of a rank has got to: written by it, read by the monitor's thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::rank_state::Activity;

/// What the main thread is at; clones are made by `Arc`.
#[derive(Debug)]
pub(super) struct Pulse {
    moved: AtomicU64,
    at: Mutex<At>,
}

/// A moment of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) stage: String,
    pub(super) activity: Activity,
}

impl Pulse {
    /// A process that begins.
    pub(super) fn new() -> Self {
        let at = At { stage: "the start".to_owned(), activity: Activity::Quiet };
        Self { moved: AtomicU64::new(0), at: Mutex::new(at) }
    }

    /// Begins a stage, which is to get on. It is quiet until it first moves.
    pub(super) fn enter(&self, stage: &str) {
        self.moved.fetch_add(1, Ordering::Relaxed);
        self.set(|at| {
            at.stage = stage.to_owned();
            at.activity = Activity::Quiet;
        });
    }

    /// The main thread has got on.
    pub(super) fn moved(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
        self.set(|at| at.activity = Activity::Working);
    }

    /// Waits for other ranks from here on; returns what it was at.
    pub(super) fn wait(&self) -> Activity {
        let mut before = Activity::Waiting;
        self.set(|at| before = std::mem::replace(&mut at.activity, Activity::Waiting));
        before
    }

    /// What it was at before it waited. Where it waited before, as another thread still does or did, what it is at now stays.
    pub(super) fn go_on(&self, activity: Activity) {
        self.moved.fetch_add(1, Ordering::Relaxed);
        if activity != Activity::Waiting {
            self.set(|at| at.activity = activity);
        }
    }

    /// How often it has got on, and what it is at.
    pub(super) fn read(&self) -> (u64, At) {
        let at = self.at.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.moved.load(Ordering::Relaxed), at)
    }

    fn set(&self, change: impl FnOnce(&mut At)) {
        change(&mut self.at.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_quiet_until_it_moves_and_waiting_is_no_standstill() {
        let pulse = Pulse::new();
        let at = |stage: &str, activity| At { stage: stage.to_owned(), activity };
        pulse.enter("train");
        assert_eq!(pulse.read(), (1, at("train", Activity::Quiet)));
        pulse.moved();
        assert_eq!(pulse.read(), (2, at("train", Activity::Working)));
        let before = pulse.wait();
        assert_eq!(pulse.read(), (2, at("train", Activity::Waiting)));
        pulse.go_on(before);
        assert_eq!(pulse.read(), (3, at("train", Activity::Working)));
    }

    #[test]
    fn waits_of_two_threads_end_in_any_order() {
        for first_ends_first in [true, false] {
            let pulse = Pulse::new();
            pulse.moved();
            let (first, second) = (pulse.wait(), pulse.wait());
            let ends = if first_ends_first { [first, second] } else { [second, first] };
            ends.into_iter().for_each(|before| pulse.go_on(before));
            assert_eq!(pulse.read().1.activity, Activity::Working, "{first_ends_first}");
        }
    }
}

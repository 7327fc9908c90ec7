//! Which of the kernels for compute capability 9.0 a command computes with, where `SELFPLAY_HOPPER` leaves it to the program: those that
//! this machine has shown to be right and faster, in a trial that is made once and kept.
//!
//! A kernel may hang or spoil the device, so that a process of its own tries them, for a minute at most; whatever it ends with but a
//! whole verdict means none. What a run or an output was begun with goes before what the machine has shown, since the bits of products in
//! a fixed order may differ. Without such a GPU nothing of this happens.
//!
//! ```text
//! choice          variable, record or trial           verdict         what a trial has shown, and what is taken by it
//! machine_trial   the trial of this machine's GPU     trial_cache     where it is kept, and what for
//! trial_process   the process that tries              trial_turn      one trial of a machine at a time
//! trial_here      what that process does
//! ```

mod choice;
mod machine_trial;
mod trial_cache;
mod trial_here;
mod trial_process;
mod trial_turn;
mod verdict;

pub(crate) use choice::{HopperPlace, KERNELS_KEY, earlier_of, hopper_note, place_of, take, take_kept};
pub(crate) use machine_trial::MachineTrial;
pub(crate) use trial_cache::TrialOutcome;
pub(crate) use trial_here::try_here;

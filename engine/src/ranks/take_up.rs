//! The rank of this process, read once, and what follows from it for the whole process.

use selfplay_records::atomic;

use super::binding;
use super::launch_environment;
use super::rank::{Rank, host_name};
use super::threads;
use crate::console::terminal;
use crate::error::Result;

/// Reads the launcher's environment and sets up what follows from it: cores and the number of threads, names of temporaries, and the name
/// under which errors are printed. To be called before anything computes.
///
/// # Errors
/// Variables that contradict each other or are no numbers (status 2).
pub(crate) fn take_up() -> Result<&'static Rank> {
    let rank = launch_environment::read(&|name| std::env::var(name).ok())?.install();
    binding::loosen(rank);
    if rank.several() {
        atomic::number_writer(rank.rank);
        threads::share(rank);
    }
    if !rank.is_first() {
        terminal::speak_as(format!("selfplay: rank {} ({})", rank.rank, host_name()));
    }
    Ok(rank)
}

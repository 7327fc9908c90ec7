//! How many threads a rank computes with: its share of the machine's cores, unless RAYON_NUM_THREADS says otherwise.
//!
//! A launcher may bind a process to cores of its own, several processes to the same cores, or none. What the launcher itself may run on
//! tells these apart: a process whose parent has more cores than it has been bound.

use std::thread::available_parallelism;

use super::binding;
use super::rank::{LaunchedBy, Rank};

/// The variable by which candle is told how many threads it has; without it RAYON_NUM_THREADS counts.
const CANDLE_THREADS: &str = "CANDLE_NUM_THREADS";

/// Sets the number of threads of this process. Nothing may have computed before.
pub(super) fn share(rank: &Rank) {
    if std::env::var_os("RAYON_NUM_THREADS").is_some_and(|text| text != "0" && !text.is_empty()) {
        return;
    }
    let own = available_parallelism().map_or(1, usize::from);
    let slurm = match rank.launcher {
        LaunchedBy::Slurm => std::env::var("SLURM_CPUS_ON_NODE").ok().and_then(|text| text.parse().ok()),
        _ => None,
    };
    let of_machine = slurm.or_else(|| binding::parent_cores().map(|cores| cores.len())).unwrap_or(own);
    let threads = threads_of(own, of_machine, rank.local_world);
    // candle has a pool besides, of a thread for each core of the machine, that spins while it waits.
    if std::env::var_os(CANDLE_THREADS).is_none() {
        // SAFETY: the process has this one thread yet.
        unsafe { std::env::set_var(CANDLE_THREADS, threads.to_string()) };
    }
    // Fails where a pool is there already, which then keeps its size.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
}

/// `own` cores that this process may run on, of those of all `local_world` processes.
fn threads_of(own: usize, of_machine: usize, local_world: usize) -> usize {
    // A mask of all cores says nothing about the others; a smaller one may still be shared.
    let share = of_machine.max(own) / local_world.max(1);
    own.min(share).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_shared_unless_the_launcher_has_bound_the_process() {
        // Nobody bound: 64 cores for 8 ranks.
        assert_eq!(threads_of(64, 64, 8), 8);
        // Bound to one core each of two.
        assert_eq!(threads_of(1, 2, 2), 1);
        // Bound to a socket of 32 that four ranks share.
        assert_eq!(threads_of(32, 64, 8), 8);
        // Bound to 8 cores of one's own.
        assert_eq!(threads_of(8, 64, 8), 8);
        // More ranks than cores.
        assert_eq!(threads_of(2, 2, 3), 1);
        assert_eq!(threads_of(4, 0, 0), 4);
    }
}

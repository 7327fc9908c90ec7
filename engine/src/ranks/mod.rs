//! Ranks: the processes that a launcher (mpirun, srun, torchrun) started for one run, and how they work on it together.
//!
//! Every rank runs the same command. Rank 0 owns the run's folder, its lock and the screen. The ranks meet in `RUN/ranks/` (`run/ranks_place.rs`), a folder
//! that rank 0 makes and that is gone with the run's end: they tell there that they are alive, what rank 0 has them work on, and who
//! has taken which shard. Nothing but files is needed for that, and a collective for training alone. One process is no rank: it makes
//! none of this and waits for nobody.
//!
//! ```text
//! rank        this process among all              launch_environment   what a launcher says of it
//! binding     cores that a launcher took away     threads              how many of the cores it takes
//! pulse       what its main thread has got to     rank_state           what a rank tells of itself
//! watch       who is alive, judged from that      monitor              the thread that tells and looks
//! shared_work what rank 0 has all work on         meeting              finding each other
//! claims      who has which shard                 claimants            whose shard may be taken over
//! patience    waiting for files                   parting              leaving each other
//! collective  which backend trains                watched_collective   a collective that shows who waits
//! own_time    without what one slept oneself      group                all of it, for the loop
//! take_up     the process's rank, read at its start
//! ```

mod binding;
mod claimants;
pub(crate) mod claims;
mod collective;
pub(crate) mod group;
mod launch_environment;
mod meeting;
mod monitor;
mod own_time;
mod parting;
pub(crate) mod patience;
mod pulse;
pub(crate) mod rank;
mod rank_state;
pub(crate) mod shared_work;
mod take_up;
mod threads;
mod watch;
mod watched_collective;

pub(crate) use take_up::take_up;

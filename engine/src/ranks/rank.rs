//! This process among those that a launcher started together.

use std::fmt;
use std::sync::OnceLock;

/// Who started the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaunchedBy {
    /// Nobody that starts several.
    User,
    /// torchrun, or whoever sets RANK and WORLD_SIZE.
    Torchrun,
    /// Open MPI's mpirun.
    OpenMpi,
    /// A launcher that speaks PMI: MPICH's mpiexec, Intel MPI's.
    Pmi,
    /// srun.
    Slurm,
}

impl fmt::Display for LaunchedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "nobody",
            Self::Torchrun => "torchrun (RANK, WORLD_SIZE)",
            Self::OpenMpi => "Open MPI's mpirun",
            Self::Pmi => "a launcher with PMI",
            Self::Slurm => "srun",
        })
    }
}

/// A process's place among those of one launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rank {
    /// From 0.
    pub(crate) rank: usize,
    /// All processes.
    pub(crate) world: usize,
    /// Among those of this machine, from 0.
    pub(crate) local_rank: usize,
    /// Processes on this machine.
    pub(crate) local_world: usize,
    /// Who started them.
    pub(crate) launcher: LaunchedBy,
    /// `host` or `host:port` of rank 0, where the launcher names it.
    pub(crate) master: Option<String>,
}

/// The one of this process, once it is read.
static OF_PROCESS: OnceLock<Rank> = OnceLock::new();

impl Rank {
    /// A process of its own.
    pub(crate) const ALONE: Self =
        Self { rank: 0, world: 1, local_rank: 0, local_world: 1, launcher: LaunchedBy::User, master: None };

    /// Makes this the rank of the process, unless it has one.
    pub(super) fn install(self) -> &'static Self {
        OF_PROCESS.get_or_init(|| self)
    }

    /// That of this process; [`Rank::ALONE`] before it is read.
    pub(crate) fn of_process() -> &'static Self {
        OF_PROCESS.get().unwrap_or(&Self::ALONE)
    }

    /// Number of the GPU that is this rank's among those that it sees: its place on the machine. Slurm may show each task its own GPUs
    /// alone (`--gpus-per-task`, `--gpu-bind`), of which the first is taken.
    pub(crate) fn gpu(&self) -> usize {
        let own_alone = self.launcher == LaunchedBy::Slurm && sees_its_own(|name| std::env::var(name).ok());
        if own_alone { 0 } else { self.local_rank }
    }

    /// Whether there are others.
    pub(crate) fn several(&self) -> bool {
        self.world > 1
    }

    /// Whether it owns the folder and the screen.
    pub(crate) fn is_first(&self) -> bool {
        self.rank == 0
    }
}

/// Whether a task of Slurm sees fewer GPUs of its machine than its step, or else its job, has there.
fn sees_its_own(variable: impl Fn(&str) -> Option<String>) -> bool {
    let listed =
        |name: &str| variable(name).filter(|text| !text.is_empty()).map(|text| text.split(',').count());
    let of_step = listed("SLURM_STEP_GPUS").or_else(|| listed("SLURM_JOB_GPUS"));
    let fewer = listed("CUDA_VISIBLE_DEVICES").zip(of_step).is_some_and(|(visible, all)| visible < all);
    fewer || listed("SLURM_GPUS_PER_TASK").is_some()
}

/// This machine's name.
pub(crate) fn host_name() -> String {
    let mut name = [0_u8; 256];
    // SAFETY: writes at most the length that is given into a buffer of that length.
    let status = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) };
    if status != 0 {
        return "unknown host".to_owned();
    }
    let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..length]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_of_slurm_knows_whether_it_sees_its_own_gpus_alone() {
        let sees = |variables: &[(&str, &str)]| {
            sees_its_own(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
            })
        };
        let all = ("SLURM_STEP_GPUS", "0,1,2,3");
        assert!(sees(&[("SLURM_GPUS_PER_TASK", "1")]));
        assert!(sees(&[("CUDA_VISIBLE_DEVICES", "2"), all]));
        assert!(sees(&[("CUDA_VISIBLE_DEVICES", "0"), ("SLURM_JOB_GPUS", "4,5")]));
        assert!(!sees(&[("CUDA_VISIBLE_DEVICES", "0,1,2,3"), all]));
        // One GPU that tasks share.
        assert!(!sees(&[("CUDA_VISIBLE_DEVICES", "0"), ("SLURM_STEP_GPUS", "0")]));
        assert!(!sees(&[("CUDA_VISIBLE_DEVICES", "0")]) && !sees(&[("SLURM_GPUS_PER_TASK", "")]));
    }

    #[test]
    fn a_process_that_read_no_environment_is_alone() {
        assert!(!Rank::ALONE.several() && Rank::ALONE.is_first());
        assert!(!host_name().is_empty() && !host_name().contains('\0'));
    }
}

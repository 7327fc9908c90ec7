//! Which collective trains: NCCL on GPUs, MPI on CPUs, each where this binary was built with it.

use std::sync::Arc;
use std::time::Duration;

use candle_core::Device;
use selfplay_trainer::collective::Collective;

#[cfg(feature = "mpi")]
use super::rank::LaunchedBy;
use super::rank::Rank;
use crate::error::EngineError;
use crate::run::ranks_place::LaunchPlace;

/// What does without a collective.
const ON_FIRST: &str =
    "or train on rank 0 alone, while all ranks sample and score: --set ranks.train_on=first";

/// A backend that this binary has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CollectiveBackend {
    /// Of GPUs.
    #[cfg(feature = "nccl")]
    Nccl,
    /// Of hosts.
    #[cfg(feature = "mpi")]
    Mpi,
}

impl CollectiveBackend {
    /// The backend for the ranks' devices, before anything is done.
    ///
    /// # Errors
    /// A binary without it, a launcher that it does not go with (status 2).
    pub(super) fn find(rank: &Rank, device: &Device) -> Result<Self, EngineError> {
        match device.is_cuda() {
            true => Self::of_gpus(rank),
            false => Self::of_hosts(rank),
        }
    }

    #[cfg(feature = "nccl")]
    fn of_gpus(_: &Rank) -> Result<Self, EngineError> {
        Ok(Self::Nccl)
    }

    #[cfg(not(feature = "nccl"))]
    fn of_gpus(rank: &Rank) -> Result<Self, EngineError> {
        Err(EngineError::input(format!(
            "training on {} ranks with GPUs needs NCCL, which this binary was built without: cargo build --release --features nccl; \
             {ON_FIRST}",
            rank.world
        )))
    }

    #[cfg(feature = "mpi")]
    fn of_hosts(rank: &Rank) -> Result<Self, EngineError> {
        if rank.launcher == LaunchedBy::Torchrun {
            return Err(EngineError::input(format!(
                "training on {} ranks without GPUs needs MPI, and {} starts none: start the ranks with mpirun or srun --mpi=pmix; \
                 {ON_FIRST}",
                rank.world, rank.launcher
            )));
        }
        Ok(Self::Mpi)
    }

    #[cfg(not(feature = "mpi"))]
    fn of_hosts(rank: &Rank) -> Result<Self, EngineError> {
        Err(EngineError::input(format!(
            "training on {} ranks without GPUs needs MPI, which this binary was built without: cargo build --release --features mpi; \
             {ON_FIRST}",
            rank.world
        )))
    }

    /// Joins the other ranks, which all do the same.
    ///
    /// # Errors
    /// A backend that does not start, or that counts other ranks than the launcher.
    #[cfg(any(feature = "mpi", feature = "nccl"))]
    pub(super) fn start(
        self,
        rank: &Rank,
        launch: &LaunchPlace,
        device: &Device,
        patience: Duration,
    ) -> Result<Arc<dyn Collective>, EngineError> {
        let started: Arc<dyn Collective> = match self {
            #[cfg(feature = "nccl")]
            Self::Nccl => {
                let path = launch.nccl_id();
                let exchange = selfplay_trainer::collective::ExchangeFile { path, patience };
                let nccl =
                    selfplay_trainer::collective::Nccl::start(device, rank.rank, rank.world, &exchange)?;
                Arc::new(nccl)
            }
            #[cfg(feature = "mpi")]
            Self::Mpi => {
                // MPI finds its ranks by itself.
                let _ = (launch, device, patience);
                Arc::new(selfplay_trainer::collective::Mpi::start()?)
            }
        };
        if (started.rank(), started.world()) != (rank.rank, rank.world) {
            return Err(EngineError::input(format!(
                "{} names this process rank {} of {}, and {self:?} rank {} of {}; with srun, --mpi=pmix (or pmi2) lets MPI see the \
                 launch",
                rank.launcher,
                rank.rank,
                rank.world,
                started.rank(),
                started.world()
            )));
        }
        Ok(started)
    }

    /// Of a binary without any backend there is none to start.
    ///
    /// # Errors
    /// None.
    #[cfg(not(any(feature = "mpi", feature = "nccl")))]
    pub(super) fn start(
        self,
        _: &Rank,
        _: &LaunchPlace,
        _: &Device,
        _: Duration,
    ) -> Result<Arc<dyn Collective>, EngineError> {
        match self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(feature = "mpi"))]
    #[test]
    fn a_binary_without_mpi_names_the_build_command_and_the_other_way() {
        let rank = Rank { rank: 1, world: 2, ..Rank::ALONE };
        let error = CollectiveBackend::find(&rank, &Device::Cpu).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        for words in ["cargo build --release --features mpi", "ranks.train_on=first"] {
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[cfg(feature = "mpi")]
    #[test]
    fn torchrun_starts_no_mpi() {
        let torchrun = Rank { rank: 1, world: 2, launcher: LaunchedBy::Torchrun, ..Rank::ALONE };
        let error = CollectiveBackend::find(&torchrun, &Device::Cpu).unwrap_err();
        assert!(error.exit_status() == 2 && error.to_string().contains("mpirun"), "{error}");
        let mpirun = Rank { launcher: LaunchedBy::OpenMpi, ..torchrun };
        assert!(CollectiveBackend::find(&mpirun, &Device::Cpu).is_ok());
    }
}

//! How all ranks of a launch come to the same kernels for Hopper: each says what it would take, and rank 0 what all do.

use std::time::{Duration, Instant};

use selfplay_model::gpu::HopperKernels;

use super::super::patience::Patience;
use super::super::rank_state::{hear, tell};
use super::{Ranks, kept};
use crate::error::{EngineError, Result};
use crate::run::ranks_place::LaunchPlace;

/// How long rank 0 waits for what the others say: a trial takes a minute at most, and may have to wait for another.
const MOST: Duration = Duration::from_secs(200);

impl Ranks {
    /// What all ranks take: what each of them would, `own` being rank 0's. Of a process by itself that. A rank that is lost is not asked,
    /// and one that says nothing takes none.
    ///
    /// # Errors
    /// Another rank's failure; a signal; a file that cannot be written.
    pub(crate) fn agree_on_kernels(&self, own: HopperKernels) -> Result<HopperKernels> {
        let Some(together) = &self.together else { return Ok(own) };
        let (start, mut patience) = (Instant::now(), Patience::default());
        common(&together.launch, self.rank.world, own, &mut |rank| {
            self.check()?;
            if let Some(signal) = together.stop.requested() {
                return Err(EngineError::Stopped { signal, kept: kept(&together.run) });
            }
            if together.monitor.lost().contains(&rank) {
                return Ok(Some(HopperKernels::ALL));
            }
            if start.elapsed() > MOST {
                tracing::warn!("rank {rank} has not said which of Hopper's kernels it takes: none is taken");
                return Ok(Some(HopperKernels::NONE));
            }
            // No wait for work: a rank without a GPU says nothing, and waits for this one.
            together.pulse.moved();
            std::thread::sleep(patience.step());
            Ok(None)
        })
    }

    /// Another rank than 0 says what it would take.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn tell_kernels(&self, own: HopperKernels) -> Result<()> {
        match &self.together {
            Some(together) => tell(&together.launch.kernels(self.rank.rank), &own),
            None => Ok(()),
        }
    }

    /// What all ranks take, once rank 0 has begun.
    pub(crate) fn agreed_kernels(&self) -> HopperKernels {
        let told = |together: &super::Together| hear(&together.launch.agreed_kernels());
        self.together.as_ref().and_then(told).unwrap_or(HopperKernels::NONE)
    }
}

/// What rank 0 and all others take, which it tells them. `absent` waits a moment for a rank that has said nothing yet, or answers for it.
fn common(
    launch: &LaunchPlace,
    world: usize,
    own: HopperKernels,
    absent: &mut dyn FnMut(usize) -> Result<Option<HopperKernels>>,
) -> Result<HopperKernels> {
    let mut agreed = own;
    for rank in 1..world {
        let said = loop {
            if let Some(said) = hear(&launch.kernels(rank)) {
                break said;
            }
            if let Some(answer) = absent(rank)? {
                break answer;
            }
        };
        agreed = agreed.common(said);
    }
    tell(&launch.agreed_kernels(), &agreed)?;
    Ok(agreed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::ranks_place::RanksPlace;

    #[test]
    fn all_take_what_each_would() {
        let run = tempfile::tempdir().unwrap();
        let launch = RanksPlace::of(run.path()).launch("a1");
        launch.create().unwrap();
        let kernels = |text: &str| HopperKernels::parse(text).unwrap();
        tell(&launch.kernels(1), &kernels("products,attention-128")).unwrap();
        let mut looks = 0;
        // Rank 2 says it later, rank 3 is lost.
        let agreed = common(&launch, 4, HopperKernels::ALL, &mut |rank| {
            looks += 1;
            if rank == 3 {
                return Ok(Some(HopperKernels::ALL));
            }
            if looks == 3 {
                tell(&launch.kernels(2), &kernels("attention"))?;
            }
            Ok(None)
        });
        assert_eq!(agreed.unwrap(), kernels("attention-128"));
        assert_eq!(hear::<HopperKernels>(&launch.agreed_kernels()), Some(kernels("attention-128")));
        let stopped = common(&launch, 5, HopperKernels::ALL, &mut |_| Err(EngineError::failure("stop")));
        assert!(stopped.is_err());
    }
}

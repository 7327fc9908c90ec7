//! How ranks come to the work that rank 0 has for them.

use std::sync::PoisonError;

use super::super::patience::Patience;
use super::super::rank_state::{hear, tell};
use super::super::shared_work::{NumberedWork, SharedWork};
use super::{Ranks, Together, kept};
use crate::error::{EngineError, Result};

impl Ranks {
    /// This rank has read what the run reads, and found it to be what rank 0 has begun with.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn ready(&self) -> Result<()> {
        match &self.together {
            Some(together) => tell(&together.launch.ready(self.rank.rank), &self.rank.rank),
            None => Ok(()),
        }
    }

    /// Waits for what rank 0 has all ranks work on next.
    ///
    /// # Errors
    /// Another rank's failure; a signal.
    pub(crate) fn next_work(&self) -> Result<SharedWork> {
        let Some(together) = &self.together else { return Ok(SharedWork::Finished) };
        let mut patience = Patience::default();
        loop {
            let told: Option<NumberedWork> = hear(&together.launch.work());
            let mut taken = together.work.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(next) = told.filter(|told| told.number > *taken) {
                *taken = next.number;
                return Ok(next.work);
            }
            drop(taken);
            // It was done before it could be told.
            let ending = together.parting(self.rank.rank).ending_of(0);
            if ending.is_some_and(|ending| ending.status == 0) {
                return Ok(SharedWork::Finished);
            }
            self.pause(&mut patience)?;
        }
    }

    /// All ranks come for the training of an iteration, and none begins before all are there: one that a signal or a failure ends before
    /// is not waited for in the collective, where nothing would tell of it.
    ///
    /// Whoever has come obeys no signal until rank 0 has begun the training or left: a rank that rank 0 counts on stays.
    ///
    /// # Errors
    /// A lost rank, another's failure; a signal; a file that cannot be written.
    pub(crate) fn gather_for_training(&self, iteration: usize) -> Result<()> {
        let Some(together) = &self.together else { return Ok(()) };
        self.announce(SharedWork::Training { iteration })?;
        let number = *together.work.lock().unwrap_or_else(PoisonError::into_inner);
        let launch = &together.launch;
        if !self.is_first() {
            tell(&launch.at_training(self.rank.rank), &number)?;
            return self.await_training(together, number);
        }
        let mut patience = Patience::default();
        let has_come = |rank: usize| hear(&launch.at_training(rank)) == Some(number);
        while !(1..self.rank.world).all(has_come) {
            self.pause(&mut patience)?;
        }
        tell(&launch.training(), &number)
    }

    /// Waits until rank 0 has begun the training, or has left.
    fn await_training(&self, together: &Together, number: u64) -> Result<()> {
        let mut patience = Patience::default();
        together.pulse.wait();
        loop {
            if hear(&together.launch.training()) == Some(number) {
                return Ok(());
            }
            self.check()?;
            if together.parting(self.rank.rank).ending_of(0).is_some() {
                self.settle();
                self.check()?;
                return Err(match together.stop.requested() {
                    Some(signal) => EngineError::Stopped { signal, kept: kept(&together.run) },
                    None => EngineError::EndedElsewhere { status: 1 },
                });
            }
            std::thread::sleep(patience.step());
        }
    }
}

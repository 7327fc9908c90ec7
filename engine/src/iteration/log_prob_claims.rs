//! Log-probs before a training by rank 0 alone (`ranks.train_on = "first"`): all ranks compute them, shard by shard, by claims. To the
//! trainer each of them is a rank by itself that shares nothing but these shards.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;
use selfplay_records::ExampleKind;
use selfplay_trainer::TrainError;
use selfplay_trainer::collective::{Alone, Collective, ShardClaims};
use selfplay_trainer::loss::needs_reference;

use super::session::Session;
use crate::error::EngineError;
use crate::ranks::claims::{ShardTask, Taken};
use crate::ranks::group::Ranks;
use crate::ranks::patience::Patience;

/// Whether the training of rank 0 begins with log-probs that all ranks compute.
pub(super) fn divides_log_probs(session: &Session) -> bool {
    let (ranks, loss) = (&session.ranks, session.recipe.train.loss);
    let reads_policies = needs_reference(loss) || loss.examples() == ExampleKind::Groups;
    ranks.several() && !ranks.train_together() && reads_policies
}

/// A rank before such a training.
pub(super) struct LogProbClaims {
    ranks: Arc<Ranks>,
    iteration: usize,
    alone: Alone,
    patience: Mutex<Patience>,
}

impl LogProbClaims {
    pub(super) fn new(ranks: Arc<Ranks>, iteration: usize) -> Self {
        Self { ranks, iteration, alone: Alone::default(), patience: Mutex::default() }
    }

    fn taken(&self, pass: &str, left: &[usize]) -> Result<Option<usize>, EngineError> {
        let Some(claims) = self.ranks.claims(&format!("reference_{:02}_{pass}", self.iteration)) else {
            return Ok(left.first().copied());
        };
        claims.open()?;
        match self.ranks.take(&claims, ShardTask::LogProbs, left.iter().copied())? {
            Taken::Nothing => Ok(None),
            Taken::Mine { shard, .. } => {
                self.ranks.moved();
                self.patience().reset();
                Ok(Some(shard))
            }
        }
    }

    fn patience(&self) -> MutexGuard<'_, Patience> {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ShardClaims for LogProbClaims {
    fn take(&self, pass: &str, left: &[usize]) -> Result<Option<usize>, TrainError> {
        self.taken(pass, left).map_err(|error| TrainError::Exchange {
            library: "claims of log-probs",
            problem: error.to_string(),
        })
    }

    fn wait(&self) -> bool {
        // What has stopped it is asked for by whoever trains.
        self.ranks.pause(&mut self.patience()).is_ok()
    }
}

impl Collective for LogProbClaims {
    fn rank(&self) -> usize {
        self.alone.rank()
    }

    fn world(&self) -> usize {
        self.alone.world()
    }

    fn all_reduce(&self, tensors: &[&Tensor]) -> Result<(), TrainError> {
        self.alone.all_reduce(tensors)
    }

    fn all_gather(&self, values: &[f64]) -> Result<Vec<f64>, TrainError> {
        self.alone.all_gather(values)
    }

    fn broadcast(&self, tensors: &[&Tensor], root: usize) -> Result<(), TrainError> {
        self.alone.broadcast(tensors, root)
    }

    fn handle(&self) -> Option<Arc<dyn Collective>> {
        self.alone.handle()
    }

    fn shard_claims(&self) -> Option<&dyn ShardClaims> {
        Some(self)
    }

    fn leave(&self) {
        self.alone.leave();
    }
}

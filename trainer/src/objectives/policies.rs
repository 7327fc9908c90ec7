//! Objectives that may read policies besides the one in training, before it is in memory.

use selfplay_model::Decoder;

use super::{Objective, PairObjective, SftObjective, load_anchors};
use crate::TrainError;
use crate::training::{Preparation, TrainRun};

/// An objective, and what it needs of other policies.
pub trait ReadsPolicies: Objective {
    /// Whether it reads a policy that is not the starting one.
    fn has_other_anchors(&self) -> bool;

    /// Takes what it reads of every policy but the one that training starts from. To be called before that one is loaded; `load` is asked
    /// for a policy by its name, for one at a time.
    ///
    /// # Errors
    /// An example that cannot be trained on, a policy that does not load or does not fit the examples, a number that is not finite, a
    /// failed read or write.
    fn load_anchors<E: From<TrainError>>(
        &mut self,
        run: &TrainRun<'_>,
        load: &mut dyn FnMut(&str) -> Result<Decoder, E>,
    ) -> Result<Preparation, E>;
}

impl ReadsPolicies for PairObjective {
    fn has_other_anchors(&self) -> bool {
        Self::has_other_anchors(self)
    }

    fn load_anchors<E: From<TrainError>>(
        &mut self,
        run: &TrainRun<'_>,
        load: &mut dyn FnMut(&str) -> Result<Decoder, E>,
    ) -> Result<Preparation, E> {
        load_anchors(self, run, load)
    }
}

/// Imitation reads none.
impl ReadsPolicies for SftObjective {
    fn has_other_anchors(&self) -> bool {
        false
    }

    fn load_anchors<E: From<TrainError>>(
        &mut self,
        _run: &TrainRun<'_>,
        _load: &mut dyn FnMut(&str) -> Result<Decoder, E>,
    ) -> Result<Preparation, E> {
        Ok(Preparation::Complete)
    }
}

//! The rates that a recipe's stages are reckoned by.

use crate::plan::memory::Models;
use crate::plan::rates::{Rate, RatedStage, Rates};

/// The rates of the four stages.
pub(in crate::plan) struct Measured<'a> {
    sample: Option<&'a Rate>,
    score: Option<&'a Rate>,
    reference: Option<&'a Rate>,
    train: Option<&'a Rate>,
}

impl<'a> Measured<'a> {
    pub(in crate::plan) fn nearest(rates: &'a Rates, models: &Models<'_>, recompute: bool) -> Self {
        let of = |stage, parameters, dtype, recompute| {
            rates.nearest(stage, models.device, dtype, parameters, recompute)
        };
        let policy = models.policy.parameter_count();
        let preference = models.preference.parameters as usize;
        Self {
            sample: of(RatedStage::Sample, policy, models.policy_dtype, false),
            score: of(RatedStage::Score, preference, models.preference_dtype, false),
            reference: of(RatedStage::Reference, policy, models.policy_dtype, false),
            train: of(RatedStage::Train, policy, models.policy_dtype, recompute),
        }
    }

    pub(in crate::plan) fn of(&self, stage: RatedStage) -> Option<&'a Rate> {
        match stage {
            RatedStage::Sample => self.sample,
            RatedStage::Score => self.score,
            RatedStage::Reference => self.reference,
            RatedStage::Train => self.train,
        }
    }
}

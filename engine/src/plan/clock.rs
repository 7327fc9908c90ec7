//! Seconds that one GPU takes for a part of an iteration: what [`super::time`] reckons for the whole, for any part of it.

use selfplay_model::decoder::KeepPlan;
use selfplay_trainer::loss::needs_reference;

use super::gpu::GpuModel;
use super::lengths::Lengths;
use super::memory::{self, Models};
use super::rates::{RatedStage, Rates, Work};
use super::time::{self, ITERATION, Job, Measured, START, StepPasses};
use crate::recipe::Recipe;

/// One GPU at work on a recipe.
pub(super) struct StageClock<'a> {
    job: Job<'a>,
    measured: Measured<'a>,
}

/// A GPU, and what a training step keeps on it.
#[derive(Clone, Copy)]
pub(super) struct ClockGpu {
    /// Bytes that sampling has.
    pub(super) memory: u64,
    /// Another one than the rates were measured on.
    pub(super) other: Option<GpuModel>,
    pub(super) keep: KeepPlan,
}

impl<'a> StageClock<'a> {
    pub(super) fn new(recipe: &'a Recipe, models: &'a Models<'a>, rates: &'a Rates, gpu: ClockGpu) -> Self {
        let rows = memory::rows_at_a_time(models, recipe, Some(gpu.memory)).max(1);
        let lengths = Lengths::of(recipe, models.policy);
        let job = Job { models, recipe, lengths, rows, keep: gpu.keep, gpu: gpu.other };
        let measured = Measured::nearest(rates, models, job.again() > 0.0);
        Self { job, measured }
    }

    fn rated(&self, stage: RatedStage, work: Work) -> Option<f64> {
        self.measured.of(stage).map(|rate| self.job.seconds(stage, rate, work))
    }

    /// Sampling for `prompts`.
    pub(super) fn sampling(&self, prompts: f64) -> Option<f64> {
        self.rated(RatedStage::Sample, self.job.work(RatedStage::Sample, prompts))
    }

    /// Scoring their candidates; nothing where another program does.
    pub(super) fn scoring(&self, prompts: f64) -> Option<f64> {
        if self.job.models.preference.is_elsewhere() {
            return Some(0.0);
        }
        self.rated(RatedStage::Score, self.job.work(RatedStage::Score, prompts))
    }

    /// Log-probs of so many pairs by every policy that the loss reads.
    pub(super) fn reference(&self, pairs: f64) -> Option<f64> {
        if !needs_reference(self.job.recipe.train.loss) || self.job.pairs() == 0.0 {
            return Some(0.0);
        }
        self.rated(RatedStage::Reference, self.job.work(RatedStage::Reference, pairs / self.job.pairs()))
    }

    /// The policies that do that.
    pub(super) fn policies(&self) -> f64 {
        if needs_reference(self.job.recipe.train.loss) { self.job.policies() } else { 0.0 }
    }

    /// An optimizer step over so many pairs.
    pub(super) fn step(&self, pairs: f64) -> Option<f64> {
        self.rated(RatedStage::Train, self.job.step(pairs))
    }

    /// The passes that such a step makes.
    pub(super) fn passes(&self) -> StepPasses {
        self.job.passes()
    }

    /// Pairs of `prompts`.
    pub(super) fn pairs(&self, prompts: f64) -> f64 {
        prompts * self.job.pairs()
    }

    /// Tokens of a pair.
    pub(super) fn pair_tokens(&self) -> usize {
        self.job.lengths.pair()
    }

    /// Candidates that fill a step of sampling.
    pub(super) fn rows(&self) -> u64 {
        self.job.rows
    }

    /// The sum over the optimizer steps of `prompts`, given a step's pairs.
    pub(super) fn over_steps(&self, prompts: f64, each: impl Fn(f64) -> f64) -> f64 {
        self.job.over_steps(prompts, each)
    }

    /// Bytes that the optimizer reads and writes for a number: zeros and the norm, the gradient, the masters read and
    /// written, the state as well, and the weight.
    fn update_bytes(&self) -> f64 {
        let state = self.job.recipe.train.state_bytes(1_000_000) as f64 / 1e6;
        let width = self.job.models.policy_dtype.size_in_bytes() as f64;
        4.0 + 4.0 + 4.0 + 8.0 + 2.0 * state + width
    }

    /// The update of so many numbers; nothing where the memory's speed was not measured.
    pub(super) fn update(&self, numbers: f64) -> f64 {
        let Some(rate) = self.measured.of(RatedStage::Train) else { return 0.0 };
        let Some(speed) = rate.bytes_per_second() else { return 0.0 };
        let slower = self.job.gpu.map_or(1.0, |gpu| gpu.slower(RatedStage::Sample));
        numbers * self.update_bytes() / speed * slower
    }

    /// Measuring a policy on the held-out prompts, which so many GPUs divide.
    pub(super) fn held_out(&self, gpus: usize) -> Option<f64> {
        time::held_out_by(&self.job, &self.measured, gpus).seconds
    }

    /// The same of all iterations and of the starting policy.
    pub(super) fn held_out_of_run(&self, gpus: usize) -> Option<f64> {
        time::held_out_by(&self.job, &self.measured, gpus).whole
    }

    /// What an iteration takes besides, where files are read and written at so many bytes a second.
    pub(super) fn overhead(&self, prompts: f64, disk: f64) -> f64 {
        ITERATION + self.job.file_bytes(prompts) / disk
    }

    /// What a run takes before its first iteration.
    pub(super) fn start(&self) -> f64 {
        START
    }
}

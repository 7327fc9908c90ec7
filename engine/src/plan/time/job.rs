//! What the stages of a recipe have to do: operations and bytes.

use selfplay_model::Architecture;
use selfplay_model::decoder::KeepPlan;
use selfplay_pairer::PairRule;
use selfplay_records::ExampleKind;
use selfplay_scorer::ComparisonLengths;
use selfplay_trainer::AnchorPolicy;
use selfplay_trainer::loss::needs_whole_batch;

use super::passes::StepPasses;
use crate::plan::gpu::GpuModel;
use crate::plan::lengths::Lengths;
use crate::plan::memory::Models;
use crate::plan::rates::{Rate, RatedStage, Work};
use crate::recipe::Recipe;
use crate::run::anchors;

/// Candidates at a time in the measurement of `benches/runs/rates.json`.
const FULL_BATCH: f64 = 32.0;

/// Tokens of an optimizer step in the measurement of `benches/runs/rates.json`: 4 pairs of 128 + 2 × 128 tokens.
const FULL_STEP: f64 = 4.0 * 384.0;

/// What the stages have to do.
pub(in crate::plan) struct Job<'a> {
    pub(in crate::plan) models: &'a Models<'a>,
    pub(in crate::plan) recipe: &'a Recipe,
    pub(in crate::plan) lengths: Lengths,
    /// Candidates that are sampled at a time.
    pub(in crate::plan) rows: u64,
    /// What a training step keeps for its backward.
    pub(in crate::plan) keep: KeepPlan,
    /// Another GPU than the measured one.
    pub(in crate::plan) gpu: Option<GpuModel>,
}

/// Bytes that steps of sampling read.
#[derive(Clone, Copy)]
pub(super) struct StepBytes {
    /// Of the weights, once for all rows of a step.
    weights: u64,
    /// Of the keys and values of a token, for each token after it.
    token: u64,
}

/// A prompt once and `times` responses to it, with the logits of every token of the responses.
pub(super) fn prompt_and_responses(model: &Architecture, lengths: (usize, usize), times: f64) -> f64 {
    let (prompt, response) = lengths;
    let logits = response as f64 * model.head_flops();
    model.continuation_flops(0, prompt) + times * (model.continuation_flops(prompt, response) + logits)
}

impl Job<'_> {
    /// `samples` responses to each of `prompts`. Bytes: a step reads the weights once for all rows, each token the keys and
    /// values before it.
    pub(super) fn sample(&self, samples: f64, prompts: f64, read: StepBytes) -> Work {
        let Lengths { prompt, response, .. } = self.lengths;
        let sequences = samples * prompts;
        // As many prompts as give a full batch, where there are fewer.
        let prompts = if sequences > 0.0 { prompts * (FULL_BATCH / sequences).max(1.0) } else { 0.0 };
        let shard = self.recipe.sample.shard_prompts as f64;
        let rows = (self.rows as f64).min(samples * prompts.min(shard.max(FULL_BATCH / samples.max(1.0))));
        let tokens = samples * response as f64;
        let context = prompt as f64 + response as f64 / 2.0;
        let StepBytes { weights, token } = read;
        let each = Work {
            flops: prompt_and_responses(self.models.policy, (prompt, response), samples),
            bytes: tokens / rows.max(1.0) * weights as f64 + tokens * context * token as f64,
        };
        each * prompts
    }

    /// What the policy itself reads: its own weights, and keys and values as they are computed.
    pub(super) fn own_bytes(&self) -> StepBytes {
        let (policy, dtype) = (self.models.policy, self.models.policy_dtype);
        StepBytes { weights: policy.parameter_bytes(dtype), token: policy.key_value_bytes(dtype) as u64 }
    }

    /// What draws candidates: in FP8 the maps' bytes are the codes', and so are those of keys and values. Operations are counted at the
    /// rate that was measured, whatever it was measured of. A CPU has f32's numbers to compute of codes, and is counted as with those.
    fn sampled_bytes(&self) -> StepBytes {
        let (own, dtype, sample) = (self.own_bytes(), self.models.policy_dtype, &self.recipe.sample);
        if dtype.size_in_bytes() >= 4 {
            return own;
        }
        let maps = self.models.policy.map_numbers() * dtype.size_in_bytes() as u64;
        StepBytes {
            weights: if sample.is_fp8() { own.weights - maps + self.models.fp8_maps() } else { own.weights },
            token: self.models.policy.key_value_bytes(sample.kv_format(dtype)) as u64,
        }
    }

    /// `responses` to a prompt, embedded.
    pub(super) fn score(&self, responses: f64) -> Work {
        let (prompt, response) = self.lengths.scored;
        let flops = self.models.preference.flops(ComparisonLengths { prompt, response, responses });
        Work { flops, bytes: 0.0 }
    }

    /// Log-probs of `responses` to a prompt.
    pub(super) fn log_probs(&self, lengths: (usize, usize), responses: f64) -> Work {
        Work { flops: prompt_and_responses(self.models.policy, lengths, responses), bytes: 0.0 }
    }

    /// The pairs whose work takes as long as an optimizer step over `pairs` pairs.
    fn step_pairs(&self, pairs: f64) -> f64 {
        let full = FULL_STEP / self.lengths.pair().max(1) as f64;
        if pairs > 0.0 { pairs.max(full) } else { 0.0 }
    }

    /// A pair's share of an optimizer step, with what is computed again.
    fn pair(&self) -> Work {
        self.log_probs(self.lengths.trained, self.lengths.responses as f64) * self.passes().total()
    }

    /// The passes of a step.
    pub(in crate::plan) fn passes(&self) -> StepPasses {
        let train = &self.recipe.train;
        let batch = train.batch_size.saturating_mul(self.lengths.pair());
        // A loss of the whole batch wants all log-probs before the first gradient.
        let first = needs_whole_batch(train.loss) && batch > train.micro_batch_tokens.or_standard();
        // Frozen weights pass a gradient on and have none of their own.
        let backward = if train.lora.is_some() { 1.0 } else { 2.0 };
        StepPasses { first: f64::from(u8::from(first)), forward: 1.0, backward: backward + self.again() }
    }

    /// What an optimizer step over `pairs` pairs has to do.
    pub(in crate::plan) fn step(&self, pairs: f64) -> Work {
        self.pair() * self.step_pairs(pairs)
    }

    /// The share of a forward pass that a step computes again.
    pub(in crate::plan) fn again(&self) -> f64 {
        let context = self.lengths.pair() as f64 / 2.0;
        self.models.policy.recomputed_share(self.keep, context)
    }

    /// Seconds of work of a stage by a rate.
    pub(in crate::plan) fn seconds(&self, stage: RatedStage, rate: &Rate, work: Work) -> f64 {
        let parameters = match stage {
            RatedStage::Score => self.models.preference.parameters,
            RatedStage::Sample | RatedStage::Reference | RatedStage::Train => {
                self.models.policy.parameter_count() as u64
            }
        };
        rate.seconds(work, parameters) * self.gpu.map_or(1.0, |gpu| gpu.slower(stage))
    }

    /// Policies that read the pairs before training, on average over the iterations.
    pub(in crate::plan) fn policies(&self) -> f64 {
        let iterations = self.recipe.iterations.max(1);
        let own = match self.recipe.train.loss.examples() {
            // Groups bring their policy's own log-probs.
            ExampleKind::Groups => 1,
            _ => 0,
        };
        let of = |iteration| match anchors::anchors(&self.recipe.train, iteration).reference {
            AnchorPolicy::Start => anchors::count(&self.recipe.train, iteration).saturating_sub(own),
            AnchorPolicy::Other(_) => anchors::count(&self.recipe.train, iteration),
        };
        let all: usize = (1..=iterations).map(of).sum();
        all as f64 / iterations as f64
    }

    /// Pairs of a prompt at most.
    pub(in crate::plan) fn pairs(&self) -> f64 {
        let samples = self.recipe.sample.num_samples as f64;
        match (self.recipe.train.loss.examples(), self.recipe.pair.rule) {
            _ if samples < 2.0 => 0.0,
            (ExampleKind::Best | ExampleKind::Groups, _) => 1.0,
            (ExampleKind::Unpaired, _) => samples + self.opponents(),
            (ExampleKind::Pairs, PairRule::AllAboveMargin | PairRule::All) => {
                let all = samples + self.opponents();
                all * (all - 1.0) / 2.0
            }
            (ExampleKind::Pairs, PairRule::BestWorst | PairRule::BestRandom | PairRule::Random) => 1.0,
        }
    }

    /// Responses of earlier iterations that compete with a prompt's own, at most.
    fn opponents(&self) -> f64 {
        let earlier = self.recipe.pair.opponents.unwrap_or(0).min(self.recipe.iterations.saturating_sub(1));
        (earlier * self.recipe.sample.num_samples) as f64
    }

    /// What each stage has to do for `prompts` of one iteration.
    pub(in crate::plan) fn work(&self, stage: RatedStage, prompts: f64) -> Work {
        let pairs = prompts * self.pairs();
        match stage {
            RatedStage::Sample => {
                self.sample(self.recipe.sample.num_samples as f64, prompts, self.sampled_bytes())
            }
            RatedStage::Score => {
                self.score(self.recipe.sample.num_samples as f64 + self.opponents()) * prompts
            }
            RatedStage::Reference => {
                let each = self.log_probs(self.lengths.trained, self.lengths.responses as f64);
                each * (pairs * self.policies())
            }
            RatedStage::Train => self.pair() * self.over_steps(prompts, |pairs| self.step_pairs(pairs)),
        }
    }

    /// The sum over the optimizer steps of an iteration of `prompts`, given the pairs of a step.
    pub(in crate::plan) fn over_steps(&self, prompts: f64, each: impl Fn(f64) -> f64) -> f64 {
        let train = &self.recipe.train;
        let (pairs, batch) = (prompts * self.pairs(), train.batch_size as f64);
        let (whole, rest) = ((pairs / batch).floor(), pairs % batch);
        let last = if rest > 0.0 { each(rest) } else { 0.0 };
        let all = (each(batch) * whole + last) * train.epochs as f64;
        all.min(train.max_steps.map_or(f64::INFINITY, |steps| each(batch) * steps as f64))
    }

    /// Optimizer steps for `prompts` of one iteration, without the bound of `train.max_steps`.
    pub(super) fn steps(&self, prompts: f64) -> f64 {
        let train = &self.recipe.train;
        (prompts * self.pairs() / train.batch_size as f64).ceil() * train.epochs as f64
    }
}

//! An upper bound on the time of each stage, from the operations that the models need and from measured rates.
//!
//! Two operations for each weight and token of a product, the output head where logits are read, scores and sums of
//! attention; a prompt once for all its responses. A backward pass is two forward passes, and what
//! is computed again comes on top. Every prompt and every response is as long as the recipe allows: real ones are shorter and take less.
//!
//! A rate alone would be no bound for less work than was measured. Therefore:
//! - a model smaller than the measured one is assumed to be slower per operation ([`Rate::seconds`]);
//! - fewer candidates than [`FULL_BATCH`] take the time of that many, an optimizer step of fewer tokens than
//!   [`FULL_STEP`] the time of that many: weights are read and updated once for all of them;
//! - starting, loading and writing have a row of their own ([`overhead`]).
//!
//! The bound holds for a machine as fast as the measured one, with nothing else running on it.

use candle_core::DType;
use selfplay_model::Architecture;
use selfplay_model::decoder::KeepPlan;
use selfplay_pairer::PairRule;
use selfplay_records::ExampleKind;
use selfplay_scorer::ComparisonLengths;
use selfplay_trainer::AnchorPolicy;
use selfplay_trainer::loss::{needs_reference, needs_whole_batch};

use super::gpu::GpuModel;
use super::host_update;
use super::lengths::Lengths;
use super::memory::{self, Models};
use super::rates::{Rate, RatedStage, Rates, Work};
use crate::recipe::Recipe;
use crate::run::anchors;

/// Prompts that times are given for where their number is not known.
pub(crate) const UNIT: u64 = 1000;

/// Candidates at a time in the measurement of `benches/runs/rates.json`.
const FULL_BATCH: f64 = 32.0;

/// Tokens of an optimizer step in the measurement of `benches/runs/rates.json`: 4 pairs of 128 + 2 × 128 tokens.
const FULL_STEP: f64 = 4.0 * 384.0;

/// Seconds of a run besides its iterations: the process starts, inputs are hashed and checked. A generous guess: a quickstart of
/// two prompts took 0.94 s in all (docs/log.md).
pub(super) const START: f64 = 1.0;

/// Seconds of an iteration besides its stages and files: pairs are selected, results are summed up. A generous guess, by the
/// same run of three iterations.
pub(super) const ITERATION: f64 = 0.5;

/// Bytes a second that are read, hashed and written: a slow disk.
pub(crate) const DISK: f64 = 2e8;

/// One row of the plan.
#[derive(Debug)]
pub(crate) struct StageTime {
    pub(crate) what: String,
    /// Seconds of an iteration, or of [`UNIT`] prompts; `None`: nothing is measured.
    pub(crate) seconds: Option<f64>,
    /// Seconds of all iterations, where the prompts are counted.
    pub(crate) whole: Option<f64>,
}

/// All rows, and where they come from.
#[derive(Debug)]
pub(crate) struct Times {
    pub(crate) stages: Vec<StageTime>,
    /// Of an iteration and of all: the sum, where every stage has its time.
    pub(crate) together: Option<StageTime>,
    /// What each iteration takes besides `stages`, where these are the times of [`UNIT`] prompts.
    pub(crate) each_iteration: Vec<StageTime>,
    /// A line per stage.
    pub(crate) sources: Vec<String>,
    /// What nothing is measured of, in which dtype.
    pub(crate) unmeasured: Vec<(RatedStage, DType)>,
}

/// What the stages have to do.
pub(super) struct Job<'a> {
    pub(super) models: &'a Models<'a>,
    pub(super) recipe: &'a Recipe,
    pub(super) lengths: Lengths,
    /// Candidates that are sampled at a time.
    pub(super) rows: u64,
    /// What a training step keeps for its backward.
    pub(super) keep: KeepPlan,
    /// Another GPU than the measured one.
    pub(super) gpu: Option<GpuModel>,
}

/// Passes of a training step over its pairs, a forward pass as one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StepPasses {
    /// For the log-probs of the whole batch, before the gradients: 1, or 0.
    pub(super) first: f64,
    /// 1.
    pub(super) forward: f64,
    /// The backward pass, with what it computes again.
    pub(super) backward: f64,
}

impl StepPasses {
    pub(super) fn total(self) -> f64 {
        self.first + self.forward + self.backward
    }
}

/// A prompt once and `times` responses to it, with the logits of every token of the responses.
fn prompt_and_responses(model: &Architecture, lengths: (usize, usize), times: f64) -> f64 {
    let (prompt, response) = lengths;
    let logits = response as f64 * model.head_flops();
    model.continuation_flops(0, prompt) + times * (model.continuation_flops(prompt, response) + logits)
}

impl Job<'_> {
    /// `samples` responses to each of `prompts`. Bytes: a step reads the weights once for all rows, each token the keys and
    /// values before it. `weights`: bytes of the weights.
    fn sample(&self, samples: f64, prompts: f64, weights: u64) -> Work {
        let Lengths { prompt, response, .. } = self.lengths;
        let sequences = samples * prompts;
        // As many prompts as give a full batch, where there are fewer.
        let prompts = if sequences > 0.0 { prompts * (FULL_BATCH / sequences).max(1.0) } else { 0.0 };
        let shard = self.recipe.sample.shard_prompts as f64;
        let rows = (self.rows as f64).min(samples * prompts.min(shard.max(FULL_BATCH / samples.max(1.0))));
        let tokens = samples * response as f64;
        let context = prompt as f64 + response as f64 / 2.0;
        let keys = self.models.policy.key_value_bytes(self.models.policy_dtype) as f64;
        let each = Work {
            flops: prompt_and_responses(self.models.policy, (prompt, response), samples),
            bytes: tokens / rows.max(1.0) * weights as f64 + tokens * context * keys,
        };
        each * prompts
    }

    /// Bytes of the policy's own weights.
    fn weights(&self) -> u64 {
        self.models.policy.parameter_bytes(self.models.policy_dtype)
    }

    /// Bytes of the weights that draw candidates: in FP8 the maps' are the codes'. Operations are counted at the rate that was
    /// measured, whatever it was measured of.
    fn sampled_weights(&self) -> u64 {
        let is_fp8 = self.recipe.sample.is_fp8() && self.models.policy_dtype.size_in_bytes() < 4;
        let maps = self.models.policy.map_numbers() * self.models.policy_dtype.size_in_bytes() as u64;
        if is_fp8 { self.weights() - maps + self.models.fp8_maps() } else { self.weights() }
    }

    /// `responses` to a prompt, embedded.
    fn score(&self, responses: f64) -> Work {
        let (prompt, response) = self.lengths.scored;
        let flops = self.models.preference.flops(ComparisonLengths { prompt, response, responses });
        Work { flops, bytes: 0.0 }
    }

    /// Log-probs of `responses` to a prompt.
    fn log_probs(&self, lengths: (usize, usize), responses: f64) -> Work {
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
    pub(super) fn passes(&self) -> StepPasses {
        let train = &self.recipe.train;
        let batch = train.batch_size.saturating_mul(self.lengths.pair());
        // A loss of the whole batch wants all log-probs before the first gradient.
        let first = needs_whole_batch(train.loss) && batch > train.micro_batch_tokens;
        // Frozen weights pass a gradient on and have none of their own.
        let backward = if train.lora.is_some() { 1.0 } else { 2.0 };
        StepPasses { first: f64::from(u8::from(first)), forward: 1.0, backward: backward + self.again() }
    }

    /// What an optimizer step over `pairs` pairs has to do.
    pub(super) fn step(&self, pairs: f64) -> Work {
        self.pair() * self.step_pairs(pairs)
    }

    /// The share of a forward pass that a step computes again.
    pub(super) fn again(&self) -> f64 {
        let context = self.lengths.pair() as f64 / 2.0;
        self.models.policy.recomputed_share(self.keep, context)
    }

    /// Seconds of work of a stage by a rate.
    pub(super) fn seconds(&self, stage: RatedStage, rate: &Rate, work: Work) -> f64 {
        let parameters = match stage {
            RatedStage::Score => self.models.preference.parameters,
            RatedStage::Sample | RatedStage::Reference | RatedStage::Train => {
                self.models.policy.parameter_count() as u64
            }
        };
        rate.seconds(work, parameters) * self.gpu.map_or(1.0, |gpu| gpu.slower(stage))
    }

    /// Policies that read the pairs before training, on average over the iterations.
    pub(super) fn policies(&self) -> f64 {
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
    pub(super) fn pairs(&self) -> f64 {
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
    pub(super) fn work(&self, stage: RatedStage, prompts: f64) -> Work {
        let pairs = prompts * self.pairs();
        match stage {
            RatedStage::Sample => {
                self.sample(self.recipe.sample.num_samples as f64, prompts, self.sampled_weights())
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
    pub(super) fn over_steps(&self, prompts: f64, each: impl Fn(f64) -> f64) -> f64 {
        let train = &self.recipe.train;
        let (pairs, batch) = (prompts * self.pairs(), train.batch_size as f64);
        let (whole, rest) = ((pairs / batch).floor(), pairs % batch);
        let last = if rest > 0.0 { each(rest) } else { 0.0 };
        let all = (each(batch) * whole + last) * train.epochs as f64;
        all.min(train.max_steps.map_or(f64::INFINITY, |steps| each(batch) * steps as f64))
    }

    /// Seconds that the host's part of training adds for `prompts` of one iteration, beside passes that take `passes` seconds.
    fn host_seconds(&self, prompts: f64, passes: Option<f64>, memory: Option<u64>) -> f64 {
        let (train, policy) = (&self.recipe.train, self.models.policy);
        let place = memory::state_place(self.models, train, memory);
        let steps = self.steps(prompts).min(train.max_steps.map_or(f64::INFINITY, |steps| steps as f64));
        let numbers = memory::trained_numbers(policy, train);
        let update = host_update::update_seconds(numbers, train, place, self.models.policy_dtype);
        let batch = train.batch_size.saturating_mul(self.lengths.pair());
        let micro_batches = batch.div_ceil(train.micro_batch_tokens.max(1)).max(1) as f64;
        // Of a step's passes the forward ones are a third where nothing is computed again, a quarter where all is.
        let backward = passes.unwrap_or(0.0) / steps.max(1.0) / micro_batches * 2.0 / 3.0;
        let exposed = match train.lora {
            None => host_update::exposed_seconds(policy, place, backward),
            // An adapter's sums are small.
            Some(_) => 0.0,
        };
        steps * (update + exposed * micro_batches)
    }

    /// Optimizer steps for `prompts` of one iteration, without the bound of `train.max_steps`.
    fn steps(&self, prompts: f64) -> f64 {
        let train = &self.recipe.train;
        (prompts * self.pairs() / train.batch_size as f64).ceil() * train.epochs as f64
    }

    /// Bytes that an iteration of `prompts` reads, hashes and writes: both models are read and hashed; checkpoints and the
    /// policy are written, and the policy is hashed; candidates are written and read.
    pub(super) fn file_bytes(&self, prompts: f64) -> f64 {
        let (recipe, policy) = (self.recipe, self.models.policy);
        let most = recipe.train.max_steps.map_or(f64::INFINITY, |steps| steps as f64);
        let steps = self.steps(prompts).min(most);
        let checkpoints = match recipe.train.checkpoint_every {
            0 => 1.0,
            every => (steps / every as f64).ceil() + 1.0,
        };
        let folder = memory::policy_folder(policy, recipe) as f64;
        let preference = self.models.preference_weights() as f64;
        let candidates = memory::candidates(1, recipe) as f64 * prompts;
        4.0 * folder
            + 2.0 * preference
            + 2.0 * candidates
            + checkpoints * memory::checkpoint(policy, &recipe.train) as f64
    }
}

/// The rates of the four stages.
pub(super) struct Measured<'a> {
    sample: Option<&'a Rate>,
    score: Option<&'a Rate>,
    reference: Option<&'a Rate>,
    train: Option<&'a Rate>,
}

impl<'a> Measured<'a> {
    pub(super) fn nearest(rates: &'a Rates, models: &Models<'_>, recompute: bool) -> Self {
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

    pub(super) fn of(&self, stage: RatedStage) -> Option<&'a Rate> {
        match stage {
            RatedStage::Sample => self.sample,
            RatedStage::Score => self.score,
            RatedStage::Reference => self.reference,
            RatedStage::Train => self.train,
        }
    }
}

/// The times of all stages. `prompts`: of all iterations together, where they are counted; `memory`: what the device has.
pub(crate) fn times(
    recipe: &Recipe,
    models: &Models<'_>,
    rates: &Rates,
    prompts: Option<u64>,
    memory: Option<u64>,
) -> Times {
    let iterations = recipe.iterations as f64;
    let rows = memory::rows_at_a_time(models, recipe, memory).max(1);
    let keep = memory::keep_plan(models, &recipe.train, memory);
    let job = Job { models, recipe, lengths: Lengths::of(recipe, models.policy), rows, keep, gpu: None };
    let measured = Measured::nearest(rates, models, job.again() > 0.0);
    let unit = prompts.map_or(UNIT as f64, |all| all as f64 / iterations);
    let mut stages = Vec::new();
    let (mut sources, mut unmeasured) = (Vec::new(), Vec::new());
    for stage in [RatedStage::Sample, RatedStage::Score, RatedStage::Reference, RatedStage::Train] {
        if stage == RatedStage::Reference && !needs_reference(recipe.train.loss) {
            continue;
        }
        if stage == RatedStage::Score && models.preference.is_elsewhere() {
            let note = "is another program's, whose time is not counted";
            sources.push(format!("{}: {} {note}", stage.name(), recipe.score.title()));
            continue;
        }
        let rate = measured.of(stage);
        let seconds = rate.map(|rate| job.seconds(stage, rate, job.work(stage, unit)));
        let whole = seconds.filter(|_| prompts.is_some()).map(|seconds| seconds * iterations);
        stages.push(StageTime { what: stage.name().to_owned(), seconds, whole });
        let on_host = job.host_seconds(unit, seconds, memory);
        if stage == RatedStage::Train && on_host > 0.0 {
            let whole = prompts.map(|_| on_host * iterations);
            stages.push(StageTime {
                what: "updates on the host, by count".to_owned(),
                seconds: Some(on_host),
                whole,
            });
        }
        match rate {
            Some(rate) if rate.stage() != stage => sources.push(format!(
                "{}: not measured; as {}, {}",
                stage.name(),
                rate.stage().name(),
                rate.describe()
            )),
            Some(rate) => sources.push(format!("{}: {}", stage.name(), rate.describe())),
            None if stage == RatedStage::Score => unmeasured.push((stage, models.preference_dtype)),
            None => unmeasured.push((stage, models.policy_dtype)),
        }
    }
    let mut each_iteration = vec![held_out(&job, &measured), overhead(&job, unit)];
    each_iteration.retain(|time| time.seconds.is_some());
    if prompts.is_some() {
        stages.append(&mut each_iteration);
    }
    let sum = |seconds: fn(&StageTime) -> Option<f64>| stages.iter().map(seconds).sum::<Option<f64>>();
    let together = unmeasured.is_empty().then(|| StageTime {
        what: "together".to_owned(),
        seconds: sum(|time| time.seconds),
        whole: sum(|time| time.whole),
    });
    Times { stages, together, each_iteration, sources, unmeasured }
}

/// Measuring a policy on the held-out prompts: its answers, log-probs by two policies, two comparisons of each answer. The
/// starting policy answers too.
pub(super) fn held_out(job: &Job<'_>, measured: &Measured<'_>) -> StageTime {
    held_out_by(job, measured, 1)
}

/// The same by so many GPUs, each with as many of the prompts.
pub(super) fn held_out_by(job: &Job<'_>, measured: &Measured<'_>, gpus: usize) -> StageTime {
    let eval = &job.recipe.eval;
    let (prompts, samples) = (eval.max_prompts.div_ceil(gpus.max(1)) as f64, eval.num_samples as f64);
    let seconds = |stage, work: Work| measured.of(stage).map(|rate| job.seconds(stage, rate, work));
    let lengths = (job.lengths.prompt, job.lengths.response);
    let answers = seconds(RatedStage::Sample, job.sample(samples, prompts, job.weights()));
    let log_probs = seconds(RatedStage::Reference, job.log_probs(lengths, samples) * (2.0 * prompts));
    let comparisons = if job.models.preference.is_elsewhere() {
        Some(0.0)
    } else {
        seconds(RatedStage::Score, job.score(2.0) * (2.0 * samples * prompts))
    };
    let each = [answers, log_probs, comparisons].into_iter().sum::<Option<f64>>();
    let whole = each.zip(answers).map(|(each, answers)| each * job.recipe.iterations as f64 + answers);
    StageTime { what: format!("{} held-out prompts", eval.max_prompts), seconds: each, whole }
}

/// What an iteration of `prompts` takes besides computing, and the start of the run.
pub(super) fn overhead(job: &Job<'_>, prompts: f64) -> StageTime {
    let each = ITERATION + job.file_bytes(prompts) / DISK;
    let whole = START + each * job.recipe.iterations as f64;
    StageTime { what: "starting, loading and writing".to_owned(), seconds: Some(each), whole: Some(whole) }
}

#[cfg(test)]
mod tests;

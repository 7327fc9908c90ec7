//! How long the stages of a recipe take at most, from the operations that its models need and measured rates.
//!
//! Two operations a weight and token in a product, the output head where logits are read, scores and sums of attention; a
//! prompt once for all its responses. A backward pass is two forward passes, and one more where blocks are run again.
//! Every prompt and every response is taken to be as long as the recipe lets it: real ones are shorter, and take less.

use candle_core::DType;
use selfplay_model::Architecture;
use selfplay_pairer::PairRule;
use selfplay_scorer::ComparisonLengths;
use selfplay_trainer::loss::{needs_reference, needs_whole_batch};

use super::memory::{self, Models};
use super::rates::{Rate, RatedStage, Rates, Work};
use crate::recipe::Recipe;

/// Prompts that times are given for where nobody knows how many there are.
pub(crate) const UNIT: u64 = 1000;

/// The lengths that times are given for, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lengths {
    pub(crate) prompt: usize,
    pub(crate) response: usize,
    /// Prompt and response as the preference model takes them.
    scored: (usize, usize),
    /// Prompt and either response of a pair.
    trained: (usize, usize),
}

impl Lengths {
    pub(crate) fn of(recipe: &Recipe, policy: &Architecture) -> Self {
        let train = &recipe.train;
        let scored = recipe.score.settings.kind.read_tokens(usize::MAX);
        // Where the context is too short for both, a response's token costs the most: it is sampled, scored and trained
        // once for each response, a prompt's once for all of them.
        let response = recipe.sample.max_new_tokens.min(policy.max_positions.saturating_sub(1));
        let prompt = train.max_prompt_length.min(policy.max_positions - response);
        let scored_response = response.min(scored.saturating_sub(1));
        // A shorter prompt leaves both responses more room: this one leaves them just what they can take.
        let pair_prompt = prompt.min(train.max_length.saturating_sub(response));
        Self {
            prompt,
            response,
            scored: (prompt.min(scored - scored_response), scored_response),
            trained: (pair_prompt, response.min(train.max_length - pair_prompt)),
        }
    }

    /// Tokens of a pair, its prompt once.
    pub(crate) fn pair(&self) -> usize {
        self.trained.0 + 2 * self.trained.1
    }
}

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
    /// Measuring the held-out prompts, where it is no part of the sum: each iteration.
    pub(crate) held_out: Option<StageTime>,
    /// A line per stage.
    pub(crate) sources: Vec<String>,
    /// What nothing is measured of, in which dtype.
    pub(crate) unmeasured: Vec<(RatedStage, DType)>,
}

/// What the stages have to do.
struct Job<'a> {
    models: &'a Models<'a>,
    recipe: &'a Recipe,
    lengths: Lengths,
    /// Candidates that are sampled at a time.
    rows: u64,
}

/// A prompt once and `times` responses to it, with the logits of every token of the responses.
fn prompt_and_responses(model: &Architecture, lengths: (usize, usize), times: f64) -> f64 {
    let (prompt, response) = lengths;
    let logits = response as f64 * model.head_flops();
    model.continuation_flops(0, prompt) + times * (model.continuation_flops(prompt, response) + logits)
}

impl Job<'_> {
    /// `samples` responses to a prompt. Bytes: a step reads the weights once for all rows, each token the keys and values
    /// before it.
    fn sample(&self, samples: f64) -> Work {
        let Lengths { prompt, response, .. } = self.lengths;
        let tokens = samples * response as f64;
        let context = prompt as f64 + response as f64 / 2.0;
        let weights = self.models.policy.parameter_bytes(self.models.policy_dtype) as f64;
        let keys = self.models.policy.key_value_bytes(self.models.policy_dtype) as f64;
        Work {
            flops: prompt_and_responses(self.models.policy, (prompt, response), samples),
            bytes: tokens / self.rows as f64 * weights + tokens * context * keys,
        }
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

    /// A pair's share of an optimizer step, with what is computed again.
    fn train(&self) -> Work {
        let train = &self.recipe.train;
        let batch = train.batch_size.saturating_mul(self.lengths.pair());
        // A loss of the whole batch wants all log-probs before the first gradient.
        let first = needs_whole_batch(train.loss) && batch > train.micro_batch_tokens;
        let passes = 3.0 + f64::from(u8::from(train.recompute)) + f64::from(u8::from(first));
        self.log_probs(self.lengths.trained, 2.0) * passes
    }

    /// Pairs of a prompt at most.
    fn pairs(&self) -> f64 {
        let samples = self.recipe.sample.num_samples as f64;
        match self.recipe.pair.rule {
            _ if samples < 2.0 => 0.0,
            PairRule::AllAboveMargin => samples * (samples - 1.0) / 2.0,
            PairRule::BestWorst | PairRule::BestRandom | PairRule::Random => 1.0,
        }
    }

    /// What each stage has to do for `prompts` of one iteration.
    fn work(&self, stage: RatedStage, prompts: f64) -> Work {
        let train = &self.recipe.train;
        let pairs = prompts * self.pairs();
        match stage {
            RatedStage::Sample => self.sample(self.recipe.sample.num_samples as f64) * prompts,
            RatedStage::Score => self.score(self.recipe.sample.num_samples as f64) * prompts,
            RatedStage::Reference => self.log_probs(self.lengths.trained, 2.0) * pairs,
            RatedStage::Train => {
                let seen = pairs * train.epochs as f64;
                let most =
                    train.max_steps.map_or(f64::INFINITY, |steps| steps as f64 * train.batch_size as f64);
                self.train() * seen.min(most)
            }
        }
    }
}

/// The rates of the four stages.
struct Measured<'a> {
    sample: Option<&'a Rate>,
    score: Option<&'a Rate>,
    reference: Option<&'a Rate>,
    train: Option<&'a Rate>,
}

impl<'a> Measured<'a> {
    fn nearest(rates: &'a Rates, models: &Models<'_>, recompute: bool) -> Self {
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

    fn of(&self, stage: RatedStage) -> Option<&'a Rate> {
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
    let job = Job { models, recipe, lengths: Lengths::of(recipe, models.policy), rows };
    let measured = Measured::nearest(rates, models, recipe.train.recompute);
    let unit = prompts.map_or(UNIT as f64, |all| all as f64 / iterations);
    let mut stages = Vec::new();
    let (mut sources, mut unmeasured) = (Vec::new(), Vec::new());
    for stage in [RatedStage::Sample, RatedStage::Score, RatedStage::Reference, RatedStage::Train] {
        if stage == RatedStage::Reference && !needs_reference(recipe.train.loss) {
            continue;
        }
        let rate = measured.of(stage);
        let seconds = rate.map(|rate| rate.seconds(job.work(stage, unit)));
        let whole = seconds.filter(|_| prompts.is_some()).map(|seconds| seconds * iterations);
        stages.push(StageTime { what: stage.name().to_owned(), seconds, whole });
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
    let mut held_out = Some(held_out(&job, &measured)).filter(|time| time.seconds.is_some());
    if prompts.is_some() {
        stages.extend(held_out.take());
    }
    let sum = |seconds: fn(&StageTime) -> Option<f64>| stages.iter().map(seconds).sum::<Option<f64>>();
    let together = unmeasured.is_empty().then(|| StageTime {
        what: "together".to_owned(),
        seconds: sum(|time| time.seconds),
        whole: sum(|time| time.whole),
    });
    Times { stages, together, held_out, sources, unmeasured }
}

/// Measuring a policy on the held-out prompts: its answers, log-probs by two policies, two comparisons of each answer. The
/// starting policy answers too.
fn held_out(job: &Job<'_>, measured: &Measured<'_>) -> StageTime {
    let eval = &job.recipe.eval;
    let (prompts, samples) = (eval.max_prompts as f64, eval.num_samples as f64);
    let seconds = |rate: Option<&Rate>, work: Work| rate.map(|rate| rate.seconds(work));
    let lengths = (job.lengths.prompt, job.lengths.response);
    let answers = seconds(measured.sample, job.sample(samples) * prompts);
    let log_probs = seconds(measured.reference, job.log_probs(lengths, samples) * (2.0 * prompts));
    let comparisons = seconds(measured.score, job.score(2.0) * (2.0 * samples * prompts));
    let each = [answers, log_probs, comparisons].into_iter().sum::<Option<f64>>();
    let whole = each.zip(answers).map(|(each, answers)| each * job.recipe.iterations as f64 + answers);
    StageTime { what: format!("{} held-out prompts", eval.max_prompts), seconds: each, whole }
}

#[cfg(test)]
mod tests {
    use selfplay_scorer::Footprint;

    use super::*;
    use crate::device::DeviceChoice;
    use crate::plan::memory::tests::{footprint, recipe, tiny};

    fn models<'a>(recipe: &Recipe, model: &'a Architecture, preference: &'a Footprint) -> Models<'a> {
        Models::of(recipe, DeviceChoice::Cpu, model, preference)
    }

    #[test]
    fn a_token_is_two_operations_a_weight_and_the_attention() {
        let model = tiny();
        // Weights of the block's products: q and o 16 × 16, k and v 8 × 16, three of 16 × 24.
        let products = 2.0 * (2 * 16 * 16 + 2 * 8 * 16 + 3 * 16 * 24) as f64;
        // Tokens 4, 5 and 6 attend to as many; two heads of 8, scores and sums: 4 · 16 operations for each.
        assert_eq!(model.continuation_flops(3, 3), 3.0 * products + 4.0 * 16.0 * (4 + 5 + 6) as f64);
        // A prompt of 3, two responses of 3 with 32 logits of 16 products each.
        let prompt = 3.0 * products + 4.0 * 16.0 * (1 + 2 + 3) as f64;
        let response = model.continuation_flops(3, 3) + 3.0 * 2.0 * 16.0 * 32.0;
        assert_eq!(prompt_and_responses(&model, (3, 3), 2.0), prompt + 2.0 * response);
    }

    #[test]
    fn lengths_are_what_the_recipe_lets_them_be() {
        let model = tiny();
        let of = |set: &[&str]| Lengths::of(&recipe(set), &model);
        // A context of 64 bounds a response to 63 and leaves the prompt one token.
        assert_eq!((of(&[]).prompt, of(&[]).response), (1, 63));
        let short = ["train.max_prompt_length=20", "sample.max_new_tokens=30", "score.max_length=40"];
        let lengths = of(&[&short[..], &["train.max_length=35"]].concat());
        assert_eq!((lengths.prompt, lengths.response, lengths.scored), (20, 30, (10, 30)));
        // 5 + 30 + 30 are more than 20 + 15 + 15.
        assert_eq!((lengths.trained, lengths.pair()), ((5, 30), 65));
        // Never more than two responses of max_length.
        let set = ["train.max_prompt_length=5", "sample.max_new_tokens=30", "train.max_length=10"];
        let lengths = of(&set);
        assert_eq!((lengths.trained, lengths.pair()), ((0, 10), 20));
    }

    #[test]
    fn stages_do_what_they_do() {
        let (model, preference) = (tiny(), footprint());
        let set = [
            "train.max_prompt_length=20",
            "sample.max_new_tokens=30",
            "sample.num_samples=4",
            "train.loss=dpo",
        ];
        let job = |recipe: &Recipe, check: &dyn Fn(&Job<'_>)| {
            let models = models(recipe, &model, &preference);
            check(&Job { models: &models, recipe, lengths: Lengths::of(recipe, &model), rows: 8 });
        };
        let pair = prompt_and_responses(&model, (20, 30), 2.0);
        job(&recipe(&set), &|job| {
            assert_eq!(job.work(RatedStage::Reference, 10.0).flops, 10.0 * pair);
            // Forward, backward and the blocks again.
            assert_eq!(job.work(RatedStage::Train, 10.0).flops, 10.0 * 4.0 * pair);
            // 4 responses of 30 tokens in 8 rows: 15 steps that read all weights; 35 tokens before each on average.
            let bytes = 15.0 * 4.0 * model.parameter_count() as f64 + 120.0 * 35.0 * 64.0;
            assert_eq!(job.work(RatedStage::Sample, 1.0).bytes, bytes);
        });
        let more = ["pair.rule=all-above-margin", "train.epochs=2", "train.recompute=false"];
        job(&recipe(&[&set[..], &more[..]].concat()), &|job| {
            // Six pairs of four responses.
            assert_eq!(job.work(RatedStage::Train, 10.0).flops, 120.0 * (pair * 3.0));
        });
        let most = [
            "train.max_steps=1",
            "train.batch_size=3",
            "train.loss=kto-pair",
            "train.micro_batch_tokens=100",
        ];
        job(&recipe(&[&set[..], &most[..]].concat()), &|job| {
            // One step of three pairs, whose log-probs are wanted first.
            assert_eq!(job.work(RatedStage::Train, 10.0).flops, 3.0 * (pair * 5.0));
        });
        job(&recipe(&["sample.num_samples=1"]), &|job| {
            assert_eq!(job.work(RatedStage::Train, 10.0), Work::default());
        });
    }

    #[test]
    fn times_add_up() {
        let (model, preference) = (tiny(), footprint());
        let recipe = recipe(&["train.max_prompt_length=20", "sample.max_new_tokens=30", "iterations=2"]);
        let (models, rates) = (models(&recipe, &model, &preference), Rates::load(&[]).unwrap());
        let all = times(&recipe, &models, &rates, Some(3000), None);
        assert_eq!(all.stages.len(), 5);
        let seconds: f64 = all.stages.iter().map(|time| time.seconds.unwrap()).sum();
        let together = all.together.unwrap();
        assert!((together.seconds.unwrap() / seconds - 1.0).abs() < 1e-12);
        // Twice an iteration, and the starting policy's answers.
        assert!(together.whole.unwrap() > 2.0 * seconds && together.whole.unwrap() < 3.0 * seconds);
        // A thousand prompts take two thirds of fifteen hundred.
        let thousand = times(&recipe, &models, &rates, None, None);
        for (one, other) in thousand.stages.iter().zip(&all.stages) {
            assert!((one.seconds.unwrap() / other.seconds.unwrap() - 2.0 / 3.0).abs() < 1e-12, "{one:?}");
        }
        assert!(thousand.held_out.is_some() && thousand.together.is_some() && thousand.unmeasured.is_empty());
        // Without a rate there is no time, and no sum.
        let gpu = Models { device: DeviceChoice::Cuda(0), ..models };
        let none = times(&recipe, &gpu, &rates, Some(3000), None);
        assert_eq!((none.unmeasured.len(), none.together.is_some(), none.stages.len()), (4, false, 4));
    }
}

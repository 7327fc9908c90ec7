//! A device that runs out of memory in the middle of a pass.

use candle_core::Error;

use super::*;
use crate::training::TrainRun;

/// Pairs on a device that has no room for some passes: each fails when its gradients are summed already.
struct ScarceMemory {
    pairs: PairObjective,
    /// Passes that succeed before the first that fails.
    good: Cell<usize>,
    failures: Cell<usize>,
}

impl Objective for ScarceMemory {
    fn settings(&self) -> &TrainSettings {
        self.pairs.settings()
    }

    fn check(&mut self, decoder: &mut Decoder, seed: u64) -> Result<(), TrainError> {
        self.pairs.check(decoder, seed)
    }

    fn prepare(&mut self, decoder: &Decoder, run: &TrainRun<'_>) -> Result<Preparation, TrainError> {
        self.pairs.prepare(decoder, run)
    }

    fn examples(&self) -> &dyn Examples {
        self.pairs.examples()
    }

    fn fingerprint(&self) -> Result<String, TrainError> {
        self.pairs.fingerprint()
    }

    fn accumulate(&mut self, part: Part<'_>, grads: &mut Gradients) -> Result<BatchReport, TrainError> {
        let report = self.pairs.accumulate(part, grads)?;
        match (self.good.get(), self.failures.get()) {
            (0, 0) => Ok(report),
            (0, left) => {
                self.failures.set(left - 1);
                Err(TrainError::Tensor(Error::Msg("CUDA_ERROR_OUT_OF_MEMORY".into())))
            }
            (good, _) => {
                self.good.set(good - 1);
                Ok(report)
            }
        }
    }

    fn summary(&self, run: &TrainRun<'_>) -> Result<TrainSummary, TrainError> {
        self.pairs.summary(run)
    }
}

/// The bits of every parameter, by name.
type ParameterBits = Vec<(String, Vec<u32>)>;

fn train_with(
    failures: usize,
    recompute: Recompute,
    parts: usize,
) -> (Result<TrainOutcome, TrainError>, ParameterBits) {
    let settings = TrainSettings { recompute, epochs: 2, ..settings() };
    train_after(0, failures, &settings, parts)
}

/// `failures` passes fail after `good` ones.
fn train_after(
    good: usize,
    failures: usize,
    settings: &TrainSettings,
    parts: usize,
) -> (Result<TrainOutcome, TrainError>, ParameterBits) {
    let folder = tempfile::tempdir().unwrap();
    let collective = &Alone::in_parts(parts);
    let mut decoder = decoder(1);
    let mut run = TrainRun {
        folder: folder.path(),
        seed: 3,
        stop: &|| false,
        progress: &mut |_| {},
        keep_checkpoints: 1,
        collective,
    };
    let pairs = PairObjective::new(pairs(8), settings);
    let scarce = ScarceMemory { pairs, good: Cell::new(good), failures: Cell::new(failures) };
    let outcome = train(&mut decoder, scarce, &mut run);
    (outcome, weights(&decoder))
}

#[test]
fn a_pass_without_memory_is_taken_again_with_the_same_result() {
    for parts in [1, 2] {
        let (want, trained) = train_with(0, Recompute::Auto, parts);
        let (got, again) = train_with(1, Recompute::Auto, parts);
        assert_eq!(got.unwrap(), want.unwrap());
        assert!(trained == again, "{parts} parts");
    }
}

/// What a run that was finished tells.
fn finished(outcome: Result<TrainOutcome, TrainError>) -> TrainSummary {
    summary(outcome.unwrap())
}

#[test]
fn passes_that_can_keep_no_less_are_halved_and_stay_so() {
    for recompute in [Recompute::Always, Recompute::Never] {
        let (got, halved) = train_with(1, recompute, 1);
        let tokens = finished(got).micro_batch_tokens.unwrap();
        // The first step was taken again: a training that begins with that has the same bits.
        let settings =
            TrainSettings { recompute, epochs: 2, micro_batch_tokens: tokens.into(), ..settings() };
        let (want, begun) = train_after(0, 0, &settings, 1);
        assert_eq!(finished(want).micro_batch_tokens, None);
        assert!(halved == begun, "{recompute}: {tokens}");
    }
}

/// One in which the second step fails once, stopped after `limit` steps in `folder`; from the third on nothing fails.
fn scarce_in(folder: &Path, limit: usize, settings: &TrainSettings) -> (TrainOutcome, ParameterBits) {
    let mut decoder = decoder(1);
    let outcome = run(folder, limit, |run| {
        let pairs = PairObjective::new(pairs(8), settings);
        let is_fresh = !folder.join("metrics.jsonl").exists();
        let (good, failures) = (Cell::new(1), Cell::new(usize::from(is_fresh)));
        train(&mut decoder, ScarceMemory { pairs, good, failures }, run).unwrap()
    });
    (outcome, weights(&decoder))
}

#[test]
fn a_resumed_training_has_the_passes_of_the_one_before() {
    let settings = TrainSettings { recompute: Recompute::Always, epochs: 3, ..settings() };
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (outcome, want) = scarce_in(whole.path(), usize::MAX, &settings);
    let tokens = summary(outcome).micro_batch_tokens.unwrap();
    assert!(matches!(scarce_in(parts.path(), 3, &settings).0, TrainOutcome::Interrupted { step: 3 }));
    let (outcome, got) = scarce_in(parts.path(), usize::MAX, &settings);
    assert_eq!(summary(outcome).micro_batch_tokens, Some(tokens));
    assert!(want == got);
    let lines: Vec<StepMetrics> = crate::training::read_lines(&parts.path().join("metrics.jsonl")).unwrap();
    let passes: Vec<Option<usize>> = lines.iter().map(|line| line.micro_batch_tokens).collect();
    assert_eq!(passes, [None, Some(tokens), Some(tokens), Some(tokens), Some(tokens), Some(tokens)]);
}

#[test]
fn auto_on_a_cpu_is_a_fixed_size_that_is_recorded() {
    let auto = TrainSettings { micro_batch_tokens: MicroBatchTokens::Auto, ..settings() };
    let (outcome, chosen) = train_after(0, 0, &auto, 1);
    let tokens = finished(outcome).micro_batch_tokens.unwrap();
    assert_eq!(tokens, crate::step_cost::PASS_ON_CPU);
    let number = TrainSettings { micro_batch_tokens: tokens.into(), ..settings() };
    assert!(train_after(0, 0, &number, 1).1 == chosen);
    // What a checkpoint has recorded goes before what would be chosen now.
    let folder = tempfile::tempdir().unwrap();
    let mut decoder = decoder(1);
    train_ten(&mut decoder, &auto, folder.path(), 2);
    let state = checkpoint::latest(folder.path()).unwrap().unwrap().path.join("state.json");
    let text = std::fs::read_to_string(&state).unwrap();
    assert!(text.contains("\"micro_batch_tokens\": 4096"), "{text}");
    let other = text.replace("\"micro_batch_tokens\": 4096", "\"micro_batch_tokens\": 64");
    selfplay_records::atomic::write_bytes(&state, other.as_bytes()).unwrap();
    let mut decoder = super::decoder(1);
    let outcome = train_ten(&mut decoder, &auto, folder.path(), usize::MAX);
    assert_eq!(summary(outcome).micro_batch_tokens, Some(64));
}

#[test]
fn what_can_keep_no_less_ends() {
    // Two blocks: attention of the first, then its input alone, and nothing less; and passes of one pair each.
    for recompute in [Recompute::Auto, Recompute::Always, Recompute::Never] {
        let failures = 40;
        let error = train_with(failures, recompute, 1).0.unwrap_err();
        assert!(error.to_string().contains("OUT_OF_MEMORY") && error.kind() == Kind::Machine, "{error}");
    }
}

/// With the state on the host too, in any step. Without clipping the first step tells what fits; when weights have moved by a step's
/// gradients, these are not taken again.
#[test]
fn what_the_host_keeps_does_not_hinder_it() {
    for offload in [Offload::Optimizer, Offload::OptimizerAndGradients] {
        for max_grad_norm in [1.0, 0.0] {
            let settings = TrainSettings { offload, max_grad_norm, epochs: 2, ..settings() };
            let (want, trained) = train_after(0, 0, &settings, 1);
            want.unwrap();
            for good in [0, 1] {
                let (got, again) = train_after(good, 1, &settings, 1);
                if good == 1 && max_grad_norm == 0.0 {
                    let error = got.unwrap_err();
                    assert!(error.to_string().contains("OUT_OF_MEMORY"), "{error}");
                } else {
                    got.unwrap();
                    assert!(trained == again, "{offload} {max_grad_norm}: {good}");
                }
            }
        }
    }
}

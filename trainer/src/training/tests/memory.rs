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

#[test]
fn what_can_keep_no_less_ends() {
    // Two blocks: attention of the first, then its input alone, and nothing less.
    for (failures, recompute) in [(9, Recompute::Auto), (1, Recompute::Always), (1, Recompute::Never)] {
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

//! Trainings by several ranks, which are threads: the bits of one rank, resumed runs, and ends that all share.
//!
//! Past 400 lines because an objective that fails where it is asked to delegates every method: the signatures are the
//! trait's, which Rust has no way to leave out.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use selfplay_model::Parameter;

use super::*;
use crate::collective::Threads;

/// What one rank holds at the end of a training.
pub(super) type Trained = (Result<TrainOutcome, TrainError>, Vec<(String, Vec<u32>)>);

/// Trains on `world` ranks; the last of them is told to stop once `limit` steps were made.
pub(super) fn on_ranks<O: Objective>(
    world: usize,
    folder: &Path,
    limit: usize,
    objective: impl Fn(usize) -> O + Sync,
) -> Vec<Trained> {
    thread::scope(|scope| {
        let objective = &objective;
        let threads: Vec<_> = Threads::group(world)
            .into_iter()
            .map(|collective| {
                scope.spawn(move || {
                    let rank = collective.rank();
                    let limit = if rank + 1 == world { limit } else { usize::MAX };
                    train_one(&collective, folder, limit, objective(rank))
                })
            })
            .collect();
        let ended = || TrainError::Data { problem: "the thread ended".into(), want: "an outcome".into() };
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| (Err(ended()), Vec::new())))
            .collect()
    })
}

/// The part of one rank, on a decoder of its own.
fn train_one(collective: &dyn Collective, folder: &Path, limit: usize, objective: impl Objective) -> Trained {
    let mut decoder = decoder(21);
    let outcome = run_on(collective, folder, limit, |run| train(&mut decoder, objective, run));
    // After an error a rank may hold no weights.
    let weights = if outcome.is_ok() { weights(&decoder) } else { Vec::new() };
    (outcome, weights)
}

/// The same by one rank, in as many parts as there would be ranks.
pub(super) fn in_parts(parts: usize, folder: &Path, limit: usize, objective: impl Objective) -> Trained {
    train_one(&Alone::in_parts(parts), folder, limit, objective)
}

pub(super) fn lines(folder: &Path) -> Vec<StepMetrics> {
    let mut lines: Vec<StepMetrics> = read_lines(&folder.join("metrics.jsonl")).unwrap();
    lines.iter_mut().for_each(|line| line.seconds = 0.0);
    lines
}

/// Checks that `objective` writes the same bits on two and three ranks as in as many parts, interrupted or not.
#[track_caller]
fn same_bits<O: Objective>(what: &str, objective: impl Fn() -> O + Sync) {
    let temporary = || tempfile::tempdir().unwrap();
    let plain = temporary();
    let (outcome, _) = in_parts(1, plain.path(), usize::MAX, objective());
    let steps = summary(outcome.unwrap()).steps;
    assert!(steps >= 6, "{what}: {steps} steps");
    for world in [2, 3] {
        let one = temporary();
        let (outcome, want) = in_parts(world, one.path(), usize::MAX, objective());
        let want_summary = summary(outcome.unwrap());
        let want_lines = lines(one.path());
        assert_eq!(want_lines.len(), steps, "{what}");

        let many = temporary();
        for (outcome, got) in on_ranks(world, many.path(), usize::MAX, |_| objective()) {
            assert_eq!(summary(outcome.unwrap()), want_summary, "{what}");
            assert!(got == want, "{what}: {world} ranks end with other weights than one");
        }
        assert_eq!(lines(many.path()), want_lines, "{what}");

        // Stopped twice, by a rank that writes nothing; the last steps are made by one rank.
        let stopped = temporary();
        for (limit, step) in [(2, 2), (1, 3)] {
            for (outcome, _) in on_ranks(world, stopped.path(), limit, |_| objective()) {
                assert_eq!(outcome.unwrap(), TrainOutcome::Interrupted { step }, "{what}");
            }
        }
        let halfway = temporary();
        copy_folder(stopped.path(), halfway.path());
        for (outcome, got) in on_ranks(world, stopped.path(), usize::MAX, |_| objective()) {
            assert_eq!(summary(outcome.unwrap()), want_summary, "{what}");
            assert!(got == want, "{what}: {world} resumed ranks end with other weights");
        }
        let (outcome, got) = in_parts(world, halfway.path(), usize::MAX, objective());
        assert_eq!(summary(outcome.unwrap()), want_summary, "{what}");
        assert!(got == want, "{what}: one rank goes on to other weights than {world} ranks");
        assert_eq!(
            (lines(stopped.path()), lines(halfway.path())),
            (want_lines.clone(), want_lines.clone()),
            "{what}"
        );

        // The parts change no more than rounding does.
        for (got, plain) in want_lines.iter().zip(&lines(plain.path())) {
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-3 * b.abs().max(1e-3);
            assert!(close(got.loss, plain.loss), "{what}: {got:?}, {plain:?}");
            assert!(close(got.grad_norm, plain.grad_norm), "{what}: {got:?}, {plain:?}");
            assert_eq!(got.tokens, plain.tokens, "{what}");
        }
    }
}

pub(super) fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            atomic::create_dir_all(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            atomic::copy(&entry.path(), &target).unwrap();
        }
    }
}

/// Parts of a batch are several micro-batches, and the last batch of an epoch is shorter than three ranks.
pub(super) fn short() -> TrainSettings {
    // AdamW at a small rate: RMSProp's first steps divide rounding by rounding.
    TrainSettings {
        optimizer: OptimizerKind::AdamW,
        learning_rate: 1e-4,
        epochs: 2,
        micro_batch_tokens: 20.into(),
        ..settings()
    }
}

#[test]
fn pairs_have_the_bits_of_one_rank() {
    // One that sees pairs alone, one that needs all log-probs of a batch, two with a mean over the batch's tokens.
    for (loss, sft_weight) in
        [(LossKind::Dpo, 0.0), (LossKind::KtoPair, 0.0), (LossKind::Orpo, 0.0), (LossKind::Gpo, 0.3)]
    {
        let settings = TrainSettings { loss, sft_weight, ..short() };
        same_bits(loss.name(), || PairObjective::new(pairs(10), &settings));
    }
}

#[test]
fn instructions_have_the_bits_of_one_rank() {
    let examples: Vec<SftExample> = (0..10u32)
        .map(|i| {
            let ids: Vec<u32> = (0..4 + i % 6).map(|t| 3 + (i * 5 + t * 7) % 28).collect();
            SftExample {
                name: format!("instruction {i}"),
                spans: std::iter::once(2..ids.len()).collect(),
                ids,
            }
        })
        .collect();
    same_bits("sft", || SftObjective::new(examples.clone(), &short()));
}

#[test]
fn preference_models_have_the_bits_of_one_rank() {
    let comparisons: Vec<TokenComparison> = (0..14u32)
        .map(|i| TokenComparison {
            name: format!("comparison {i}"),
            chosen: [3 + i % 8, 4].into_iter().chain((0..1 + i % 5).map(|t| 25 + (i + t) % 3)).collect(),
            rejected: [3 + i % 8, 4].into_iter().chain((0..2 + i % 3).map(|t| 10 + (i + t) % 9)).collect(),
            prompt_position: 1,
            ..TokenComparison::default()
        })
        .collect();
    for kind in [PreferenceHeadKind::Gpm, PreferenceHeadKind::BradleyTerry] {
        let preference = PreferenceSettings { kind, holdout: 0.25, tau: Some(1.0), ..Default::default() };
        let settings = PreferenceTrainSettings { train: short(), preference };
        same_bits("preference model", || PreferenceObjective::new(comparisons.clone(), &settings));
    }
}

#[test]
fn references_are_divided_over_ranks_and_written_as_by_one() {
    // Three shards: the second round has one for the first rank alone.
    let settings = TrainSettings { batch_size: 150, epochs: 1, ..short() };
    let files = |folder: &Path| {
        let mut files: Vec<_> = std::fs::read_dir(folder.join("reference"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.file_name().unwrap().to_owned(), std::fs::read(&path).unwrap()))
            .collect();
        files.sort();
        files
    };
    let one = tempfile::tempdir().unwrap();
    in_parts(2, one.path(), usize::MAX, PairObjective::new(pairs(150), &settings)).0.unwrap();
    assert_eq!(files(one.path()).len(), 3);
    let many = tempfile::tempdir().unwrap();
    // The last rank is told to stop before it has computed anything: what the other has is kept.
    for (outcome, _) in on_ranks(2, many.path(), 0, |_| PairObjective::new(pairs(150), &settings)) {
        assert_eq!(outcome.unwrap(), TrainOutcome::Interrupted { step: 0 });
    }
    assert_eq!(files(many.path()), &files(one.path())[..1]);
    for (outcome, _) in on_ranks(2, many.path(), usize::MAX, |_| PairObjective::new(pairs(150), &settings)) {
        outcome.unwrap();
    }
    assert_eq!(files(many.path()), files(one.path()));
}

#[test]
fn ranks_with_other_data_settings_or_seeds_are_refused() {
    let refused = |objective: fn(usize) -> PairObjective, what: &str| {
        let folder = tempfile::tempdir().unwrap();
        for (outcome, _) in on_ranks(2, folder.path(), usize::MAX, objective) {
            let error = outcome.unwrap_err();
            assert!(error.kind() == Kind::Input && error.to_string().contains(what), "{error}");
        }
    };
    refused(
        |rank| {
            let mut own = pairs(6);
            own.iter_mut().for_each(|p| p.reference = Some(PairLogProbs { chosen: -9.0, rejected: -8.0 }));
            own[5].chosen[0] += rank as u32;
            PairObjective::new(own, &short())
        },
        "data",
    );
    refused(
        |rank| {
            let settings = TrainSettings { weight_decay: rank as f64, loss: LossKind::Simpo, ..short() };
            PairObjective::new(pairs(6), &settings)
        },
        "settings",
    );
}

#[test]
fn a_loss_that_is_not_finite_is_named_alike_by_all_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let objective = |_: usize| {
        let mut bad = pairs(6);
        bad.iter_mut().for_each(|p| p.reference = Some(PairLogProbs { chosen: -9.0, rejected: -9.0 }));
        bad[4].reference = Some(PairLogProbs { chosen: -1e200, rejected: -9.0 });
        let settings = TrainSettings { loss: LossKind::Gpo, shuffle: false, batch_size: 3, ..short() };
        PairObjective::new(bad, &settings)
    };
    for (outcome, _) in on_ranks(3, folder.path(), usize::MAX, objective) {
        let text = outcome.unwrap_err().to_string();
        assert!(text.contains("step 2") && text.contains("pair 4"), "{text}");
    }
}

/// Where a rank fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum At {
    Check,
    LogProbs,
    Gradient,
    EpochEnd,
    /// No error but a thread that ends.
    Panic,
}

/// A training whose second step fails on one rank only.
pub(super) struct Faulty {
    pub(super) inner: PairObjective,
    pub(super) at: Option<At>,
    pub(super) calls: AtomicUsize,
}

impl Faulty {
    /// Fails here in the second call.
    fn fails(&self, at: At) -> Result<(), TrainError> {
        if self.at == Some(at) && (at == At::Check || self.calls.fetch_add(1, Ordering::SeqCst) == 1) {
            return Err(TrainError::Data { problem: "this rank's disk is full".into(), want: "room".into() });
        }
        Ok(())
    }
}

impl Objective for Faulty {
    fn settings(&self) -> &TrainSettings {
        self.inner.settings()
    }

    fn check(&mut self, decoder: &mut Decoder, seed: u64) -> Result<(), TrainError> {
        self.fails(At::Check)?;
        self.inner.check(decoder, seed)
    }

    fn prepare(&mut self, decoder: &Decoder, run: &TrainRun<'_>) -> Result<Preparation, TrainError> {
        self.inner.prepare(decoder, run)
    }

    fn examples(&self) -> &dyn Examples {
        self.inner.examples()
    }

    fn fingerprint(&self) -> Result<String, TrainError> {
        self.inner.fingerprint()
    }

    fn needs_whole_batch(&self) -> bool {
        self.inner.needs_whole_batch()
    }

    fn log_probs(&self, part: Part<'_>) -> Result<Vec<PairLogProbs>, TrainError> {
        self.fails(At::LogProbs)?;
        self.inner.log_probs(part)
    }

    fn accumulate(&mut self, part: Part<'_>, grads: &mut Gradients) -> Result<BatchReport, TrainError> {
        self.fails(At::Gradient)?;
        if self.fails(At::Panic).is_err() {
            // Without the hook's message.
            std::panic::resume_unwind(Box::new("a rank's thread ends"));
        }
        self.inner.accumulate(part, grads)
    }

    fn end_epoch(
        &mut self,
        _decoder: &Decoder,
        _collective: &dyn Collective,
        _epoch: usize,
        _step: usize,
    ) -> Result<(), TrainError> {
        self.fails(At::EpochEnd)
    }

    fn summary(&self, run: &TrainRun<'_>) -> Result<TrainSummary, TrainError> {
        self.inner.summary(run)
    }
}

#[test]
fn a_rank_that_fails_ends_all() {
    let settings = TrainSettings { loss: LossKind::KtoPair, batch_size: 10, epochs: 4, ..short() };
    for (at, faulty) in [
        (At::Check, 0),
        (At::Check, 2),
        (At::LogProbs, 1),
        (At::Gradient, 0),
        (At::Gradient, 2),
        (At::EpochEnd, 0),
        (At::EpochEnd, 1),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let objective = |rank: usize| Faulty {
            inner: PairObjective::new(pairs(10), &settings),
            at: (rank == faulty).then_some(at),
            calls: AtomicUsize::new(0),
        };
        for (rank, (outcome, _)) in on_ranks(3, folder.path(), usize::MAX, objective).into_iter().enumerate()
        {
            let error = outcome.unwrap_err();
            if rank == faulty {
                assert!(error.to_string().contains("disk is full"), "{at:?}: {error}");
            } else {
                assert!(matches!(error, TrainError::RankLost { rank } if rank == faulty), "{at:?}: {error}");
            }
        }
        assert_eq!(
            lines(folder.path()).len(),
            match at {
                At::Check => 0,
                At::EpochEnd => 2,
                _ => 1,
            }
        );
    }
}

#[test]
fn a_thread_that_ends_in_the_middle_of_a_step_ends_all() {
    let folder = tempfile::tempdir().unwrap();
    let ends = on_ranks(2, folder.path(), usize::MAX, |rank| Faulty {
        inner: PairObjective::new(pairs(10), &short()),
        at: (rank == 1).then_some(At::Panic),
        calls: AtomicUsize::new(0),
    });
    assert!(matches!(ends[0].0, Err(TrainError::RankLost { rank: 1 })), "{:?}", ends[0].0);
}

#[test]
fn a_write_that_fails_on_rank_0_ends_all() {
    // The run's folder can't be made: a file is in its place.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("taken");
    atomic::write_bytes(&file, b"").unwrap();
    let settings = TrainSettings { loss: LossKind::Simpo, ..short() };
    let ends = on_ranks(2, &file.join("run"), usize::MAX, |_| PairObjective::new(pairs(4), &settings));
    assert!(matches!(ends[0].0, Err(TrainError::Write(_))), "{:?}", ends[0].0);
    assert!(matches!(ends[1].0, Err(TrainError::RankLost { rank: 0 })), "{:?}", ends[1].0);
}

#[test]
fn frozen_parameters_stay_and_are_in_no_checkpoint() {
    let moves = |parameter: &Parameter| parameter.name.contains(".1.mlp.");
    let train_frozen = |folder: &Path, limit: usize| {
        let mut decoder = decoder(21);
        decoder.parameters_mut().set_trainable(moves);
        run(folder, limit, |run| train(&mut decoder, PairObjective::new(pairs(10), &short()), run)).unwrap();
        let names: Vec<String> =
            decoder.parameters().iter().filter(|(_, p)| moves(p)).map(|(_, p)| p.name.clone()).collect();
        (weights(&decoder), names)
    };
    let whole = tempfile::tempdir().unwrap();
    let (straight, names) = train_frozen(whole.path(), usize::MAX);
    for ((name, before), (_, after)) in weights(&decoder(21)).iter().zip(&straight) {
        assert_eq!(before != after, names.contains(name), "{name}");
    }
    let newest = checkpoint::latest(whole.path()).unwrap().unwrap().path;
    let bytes = std::fs::read(newest.join("weights.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut stored: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
    let mut wanted = names.clone();
    stored.sort();
    wanted.sort();
    assert!(!wanted.is_empty());
    assert_eq!(stored, wanted);
    let parts = tempfile::tempdir().unwrap();
    train_frozen(parts.path(), 2);
    assert!(train_frozen(parts.path(), usize::MAX).0 == straight);
}

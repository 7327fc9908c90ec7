//! Trainings of ranks that have loaded their shares of the model (`train.zero = 3`): the files of ranks that have it whole, the saved model
//! among them, and no rank that has all of it at any time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;

use selfplay_model::{LoadOptions, ModelShare, tensor_memory};

use super::ranks::{lines, short};
use super::*;
use crate::collective::Threads;
use crate::{AnchorPolicy, Anchors, PromptResponse, load_anchors, log_probs, train_after};

/// What a training leaves: lines of metrics, log-probs under the starting weights, and every other file.
#[derive(Debug, PartialEq)]
struct Left {
    lines: Vec<StepMetrics>,
    first: Vec<u32>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

/// A folder with a model of matrices that are cut (of more than 64 Ki numbers), and of ones that are not.
fn model(tied: bool, seed: u64) -> tempfile::TempDir {
    let shape = serde_json::json!({
        "vocab_size": 1100, "hidden_size": 64, "intermediate_size": 1100, "tie_word_embeddings": tied,
    });
    let folder = tempfile::tempdir().unwrap();
    selfplay_testing::decoder(&config(shape), seed).save(folder.path(), None, usize::MAX).unwrap();
    folder
}

fn load(model: &Path, share: Option<ModelShare>) -> Decoder {
    let decoder = Decoder::load(model, &LoadOptions { share, ..LoadOptions::default() }).unwrap();
    assert_eq!(decoder.is_divided(), share.is_some());
    decoder
}

/// Pairs without log-probs under the starting weights, more than one rank computes at a time.
fn objective(settings: &TrainSettings) -> PairObjective {
    PairObjective::new(pairs(70), settings)
}

fn three_steps(optimizer: OptimizerKind) -> TrainSettings {
    TrainSettings {
        optimizer,
        weight_decay: 0.01,
        max_grad_norm: 0.3,
        batch_size: 24,
        micro_batch_tokens: 200.into(),
        epochs: 1,
        checkpoint_every: 2,
        zero: ZeroStage::Weights,
        ..short()
    }
}

/// Log-probs that one rank takes before the training, as bits.
fn first_log_probs(decoder: &Decoder) -> Result<Vec<u32>, TrainError> {
    let rows: Vec<PromptResponse> = pairs(3)
        .into_iter()
        .map(|pair| PromptResponse { name: pair.name, prompt: pair.prompt, response: pair.chosen })
        .collect();
    let found = log_probs(decoder, &rows, 20)?;
    Ok(found.iter().flat_map(|row| &row.tokens).map(|one| one.to_bits()).collect())
}

/// Runs `work` on every rank, each with its own decoder: a share where `divides` says so.
fn on_ranks<T: Send>(
    world: usize,
    model: &Path,
    divides: impl Fn(usize) -> bool + Sync,
    work: impl Fn(&dyn Collective, &mut Decoder) -> T + Sync,
) -> Vec<T> {
    thread::scope(|scope| {
        let (divides, work) = (&divides, &work);
        let threads: Vec<_> = Threads::group(world)
            .into_iter()
            .map(|collective| {
                scope.spawn(move || {
                    let rank = collective.rank();
                    let share = divides(rank).then_some(ModelShare { rank, world });
                    work(&collective, &mut load(model, share))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Whether one of its trained tensors, but the norm after the last block, is in memory as a whole.
fn has_weights(decoder: &Decoder) -> bool {
    let ids: Vec<_> = decoder.parameters().iter().map(|(id, _)| id).collect();
    let is_small = |name: &str| name == "model.norm.weight";
    decoder.parameters().owners(&ids).iter().any(|owner| {
        tensor_memory::is_whole(&owner.tensor) && !is_small(&decoder.parameters().get(owner.members[0]).name)
    })
}

/// Trains, and saves what comes out of it into `folder`/policy; every rank is told to stop once it has made `limit` steps.
fn trained(
    world: usize,
    model: &Path,
    folder: &Path,
    divides: impl Fn(usize) -> bool + Sync,
    (settings, limit): (&TrainSettings, usize),
) -> Vec<(TrainOutcome, Vec<u32>)> {
    let is_divided = (0..world).any(&divides);
    on_ranks(world, model, &divides, |collective, decoder| {
        let is_first = collective.rank() == 0;
        let mut first = Vec::new();
        let outcome = run_on(collective, folder, limit, |run| {
            train_after(decoder, objective(settings), run, &mut |decoder| {
                if is_first {
                    first = first_log_probs(decoder)?;
                }
                Ok(())
            })
        })
        .unwrap();
        assert_eq!(decoder.is_divided(), is_divided);
        assert_eq!(has_weights(decoder), !decoder.is_divided(), "a rank has its ranges, or all of it");
        if is_first && matches!(outcome, TrainOutcome::Finished(_)) {
            let policy = folder.join("policy");
            atomic::create_dir_all(&policy).unwrap();
            decoder.save(&policy, None, 200_000).unwrap();
        }
        decoder.end_division().unwrap();
        (outcome, first)
    })
}

/// Every file below a folder, but the lines of metrics, which tell the time.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name != "metrics.jsonl") {
                found.insert(path.strip_prefix(folder).unwrap().to_path_buf(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[track_caller]
fn left(
    world: usize,
    model: &Path,
    divides: impl Fn(usize) -> bool + Sync,
    settings: &TrainSettings,
) -> Left {
    let folder = tempfile::tempdir().unwrap();
    let ends = trained(world, model, folder.path(), divides, (settings, usize::MAX));
    ends.iter().for_each(|(outcome, _)| assert_eq!(summary(outcome.clone()).steps, 3));
    let (lines, files) = (lines(folder.path()), files(folder.path()));
    Left { lines, first: ends.into_iter().next().unwrap().1, files }
}

#[track_caller]
fn same(what: &str, got: &Left, want: &Left) {
    assert_eq!(got.lines, want.lines, "{what}");
    assert!(got.first == want.first && !want.first.is_empty(), "{what}: other log-probs before training");
    let names = |left: &Left| left.files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(got), names(want), "{what}");
    for (name, bytes) in &want.files {
        assert!(got.files[name] == *bytes, "{what}: {} differs", name.display());
    }
}

#[test]
fn ranks_that_load_their_shares_leave_the_files_of_ranks_that_load_all() {
    for (world, tied, optimizer) in [
        (2, false, OptimizerKind::RmsProp),
        (3, true, OptimizerKind::AdamW8Bit),
        (4, false, OptimizerKind::AdamW),
    ] {
        let (model, settings) = (model(tied, 7), three_steps(optimizer));
        let want = left(world, model.path(), |_| false, &settings);
        let begins = |name: &&PathBuf, with: &str| name.starts_with(with);
        assert_eq!(want.files.keys().filter(|name| begins(name, "reference")).count(), 2);
        assert!(
            want.files.keys().filter(|name| begins(name, "policy")).count() > 3,
            "several files of weights"
        );
        let what = format!("{world} ranks, tied {tied}, {optimizer}");
        same(&what, &left(world, model.path(), |_| true, &settings), &want);
        if world == 2 {
            for one in 0..2 {
                let got = left(world, model.path(), |rank| rank == one, &settings);
                same(&format!("rank {one} alone has loaded its share"), &got, &want);
            }
        }
    }
}

#[test]
fn a_stopped_training_goes_on_with_shares() {
    let (model, settings) = (model(false, 7), three_steps(OptimizerKind::AdamW));
    let want = left(2, model.path(), |_| false, &settings);
    let folder = tempfile::tempdir().unwrap();
    for (limit, step) in [(0, 0), (1, 1), (1, 2)] {
        for (outcome, _) in trained(2, model.path(), folder.path(), |_| true, (&settings, limit)) {
            assert_eq!(outcome, TrainOutcome::Interrupted { step });
        }
    }
    trained(2, model.path(), folder.path(), |_| true, (&settings, usize::MAX));
    assert_eq!(lines(folder.path()), want.lines);
    let got = files(folder.path());
    let policy = |files: &BTreeMap<PathBuf, Vec<u8>>| -> BTreeMap<PathBuf, Vec<u8>> {
        files
            .iter()
            .filter(|(name, _)| name.starts_with("policy"))
            .map(|(n, b)| (n.clone(), b.clone()))
            .collect()
    };
    assert!(policy(&got) == policy(&want.files) && !policy(&got).is_empty());
}

#[test]
fn log_probs_under_other_policies_are_those_of_whole_ones() {
    let other = model(false, 8);
    let anchors = Anchors { reference: AnchorPolicy::Other("other".into()), ..Anchors::default() };
    let taken = |divides: bool| {
        let folder = tempfile::tempdir().unwrap();
        on_ranks(
            2,
            other.path(),
            |_| false,
            |collective, _| {
                let mut objective =
                    objective(&three_steps(OptimizerKind::AdamW)).with_anchors(anchors.clone());
                let share = divides.then_some(ModelShare { rank: collective.rank(), world: 2 });
                let ended = run_on(collective, folder.path(), usize::MAX, |run| {
                    load_anchors::<TrainError>(&mut objective, run, &mut |_| Ok(load(other.path(), share)))
                });
                assert_eq!(ended.unwrap(), Preparation::Complete);
            },
        );
        files(folder.path())
    };
    let want = taken(false);
    assert_eq!(want.len(), 2);
    assert!(taken(true) == want);
}

#[test]
fn shares_that_do_not_belong_to_the_training_are_refused() {
    let model = model(false, 7);
    let text = |stage: ZeroStage, share: fn(usize) -> ModelShare| {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            TrainSettings { zero: stage, loss: LossKind::Simpo, ..three_steps(OptimizerKind::AdamW) };
        let ends = on_ranks(
            2,
            model.path(),
            |_| false,
            |collective, decoder| {
                *decoder = load(model.path(), Some(share(collective.rank())));
                run_on(collective, folder.path(), usize::MAX, |run| train(decoder, objective(&settings), run))
            },
        );
        ends.into_iter().map(|end| end.unwrap_err().to_string()).collect::<Vec<_>>().join("; ")
    };
    let own = |rank| ModelShare { rank, world: 2 };
    let stage = text(ZeroStage::Gradients, own);
    assert!(stage.contains("train.zero = 3"), "{stage}");
    let other_world = text(ZeroStage::Weights, |rank| ModelShare { rank, world: 3 });
    assert!(other_world.contains("has loaded others"), "{other_world}");
    let other_rank = text(ZeroStage::Weights, |rank| ModelShare { rank: 1 - rank, world: 2 });
    assert!(other_rank.contains("has loaded others"), "{other_rank}");
    // One rank by itself holds everything.
    let folder = tempfile::tempdir().unwrap();
    let settings = TrainSettings { loss: LossKind::Simpo, ..three_steps(OptimizerKind::AdamW) };
    let mut decoder = load(model.path(), Some(own(0)));
    let alone = run(folder.path(), usize::MAX, |run| train(&mut decoder, objective(&settings), run));
    assert!(alone.unwrap_err().to_string().contains("several ranks"));
}

#[test]
fn a_rank_that_fails_before_the_first_step_ends_all() {
    let (model, settings) = (model(false, 7), three_steps(OptimizerKind::AdamW));
    for faulty in [0, 1] {
        let folder = tempfile::tempdir().unwrap();
        let ends = on_ranks(
            2,
            model.path(),
            |_| true,
            |collective, decoder| {
                let is_faulty = collective.rank() == faulty;
                run_on(collective, folder.path(), usize::MAX, |run| {
                    train_after(decoder, objective(&settings), run, &mut |decoder| {
                        first_log_probs(decoder)?;
                        match is_faulty {
                            true => Err(TrainError::Data { problem: "no room".into(), want: "room".into() }),
                            false => Ok(()),
                        }
                    })
                })
            },
        );
        for (rank, end) in ends.into_iter().enumerate() {
            match end.unwrap_err() {
                TrainError::Data { problem, .. } => assert!(rank == faulty && problem == "no room"),
                error => assert!(matches!(error, TrainError::RankLost { rank } if rank == faulty), "{error}"),
            }
        }
    }
}

//! Training against other policies than the one that it starts from.

use super::*;
use crate::{AnchorPolicy, Anchors, load_anchors};

fn inpo() -> TrainSettings {
    TrainSettings {
        loss: LossKind::Inpo,
        eta: Some(0.1),
        rho: Some(0.25),
        history: Some(2),
        history_weights: Some(vec![3.0, 1.0]),
        ..settings()
    }
}

fn bare_pairs(count: u32) -> Vec<TokenPair> {
    pairs(count).into_iter().map(|pair| TokenPair { initial: None, ..pair }).collect()
}

/// The first policy, and one between it and the one that training starts from.
fn anchors() -> Anchors {
    Anchors {
        reference: AnchorPolicy::Start,
        initial: Some(AnchorPolicy::Other("first".into())),
        earlier: vec![AnchorPolicy::Other("second".into())],
    }
}

fn seed_of(name: &str) -> u64 {
    match name {
        "first" => 21,
        "second" => 22,
        other => panic!("{other} is asked for"),
    }
}

/// Loads what the objective lacks; the names that were asked for.
fn load(objective: &mut PairObjective, folder: &Path, stop_after: usize) -> (Preparation, Vec<String>) {
    let asked = std::cell::RefCell::new(Vec::new());
    let polls = Cell::new(0);
    let stop = || {
        polls.set(polls.get() + 1);
        polls.get() > stop_after
    };
    let run = TrainRun {
        folder,
        seed: 42,
        stop: &stop,
        progress: &mut |_| {},
        keep_checkpoints: 1,
        collective: &Alone::default(),
    };
    let ended = load_anchors::<TrainError>(objective, &run, &mut |name| {
        asked.borrow_mut().push(name.to_owned());
        Ok(decoder(seed_of(name)))
    })
    .unwrap();
    (ended, asked.into_inner())
}

fn objective(count: u32) -> PairObjective {
    PairObjective::new(bare_pairs(count), &inpo()).with_anchors(anchors())
}

#[test]
fn each_policy_plays_its_part() {
    let folder = tempfile::tempdir().unwrap();
    let mut computed = objective(10);
    let (ended, asked) = load(&mut computed, folder.path(), usize::MAX);
    assert_eq!((ended, asked), (Preparation::Complete, vec!["first".to_owned(), "second".to_owned()]));
    let mut from_anchors = decoder(20);
    run(folder.path(), usize::MAX, |run| train(&mut from_anchors, computed, run)).unwrap();

    // The same log-probs, taken by hand: ¾ of the starting policy's and ¼ of the second's are the reference.
    let of = |seed: u64, which: fn(&TokenPair) -> &Vec<u32>| -> Vec<f64> {
        let rows: Vec<PromptResponse> = pairs(10)
            .iter()
            .map(|pair| PromptResponse {
                name: pair.name.clone(),
                prompt: pair.prompt.clone(),
                response: which(pair).clone(),
            })
            .collect();
        log_probs(&decoder(seed), &rows, 1000).unwrap().iter().map(|row| row.sum).collect()
    };
    let both = |seed: u64| (of(seed, |pair| &pair.chosen), of(seed, |pair| &pair.rejected));
    let (start, second, first) = (both(20), both(22), both(21));
    let mut given = bare_pairs(10);
    for (i, pair) in given.iter_mut().enumerate() {
        let mix = |a: &[f64], b: &[f64]| 0.75 * a[i] + 0.25 * b[i];
        pair.reference =
            Some(PairLogProbs { chosen: mix(&start.0, &second.0), rejected: mix(&start.1, &second.1) });
        pair.initial = Some(PairLogProbs { chosen: first.0[i], rejected: first.1[i] });
    }
    let other = tempfile::tempdir().unwrap();
    run(other.path(), usize::MAX, |run| train_pairs(&mut decoder(20), given, &inpo(), run)).unwrap();
    let losses = |folder: &Path| -> Vec<f64> {
        let lines: Vec<StepMetrics> = read_lines(&folder.join("metrics.jsonl")).unwrap();
        lines.iter().map(|line| line.loss).collect()
    };
    for (a, b) in losses(folder.path()).into_iter().zip(losses(other.path())) {
        assert!((a - b).abs() < 1e-3 * b.abs().max(1.0), "{a} against {b}");
    }
}

#[test]
fn a_pass_that_was_stopped_goes_on_where_it_was() {
    // 70 pairs are two shards for each policy.
    let whole = tempfile::tempdir().unwrap();
    let mut want = objective(70);
    load(&mut want, whole.path(), usize::MAX);
    let mut straight = decoder(20);
    run(whole.path(), usize::MAX, |run| train(&mut straight, want, run)).unwrap();
    let shards = |folder: &Path| std::fs::read_dir(folder.join("reference")).map_or(0, Iterator::count);

    let parts = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    // Two questions are answered with no: before a policy is loaded, and before its next shard.
    while seen.len() < 10 {
        let (ended, asked) = load(&mut objective(70), parts.path(), 2);
        seen.push((shards(parts.path()), asked));
        if ended == Preparation::Complete {
            break;
        }
    }
    // It was stopped between the second policy's shards, and the first policy was not asked for again.
    let one = |name: &str| vec![name.to_owned()];
    assert_eq!(seen, [(1, one("first")), (2, one("first")), (3, one("second")), (4, one("second"))]);
    let mut again = objective(70);
    assert_eq!(load(&mut again, parts.path(), 0), (Preparation::Complete, Vec::new()));
    let mut resumed = decoder(20);
    run(parts.path(), usize::MAX, |run| train(&mut resumed, again, run)).unwrap();
    assert!(weights(&straight) == weights(&resumed));
}

#[test]
fn a_checkpoint_of_other_anchors_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = objective(10);
    load(&mut first, folder.path(), usize::MAX);
    run(folder.path(), 2, |run| train(&mut decoder(20), first, run)).unwrap();
    let turned = Anchors {
        initial: Some(AnchorPolicy::Other("second".into())),
        earlier: vec![AnchorPolicy::Other("first".into())],
        ..anchors()
    };
    let mut other = PairObjective::new(bare_pairs(10), &inpo()).with_anchors(turned);
    load(&mut other, folder.path(), usize::MAX);
    let error = run(folder.path(), 1, |run| train(&mut decoder(20), other, run)).unwrap_err();
    assert!(error.kind() == Kind::Input && error.to_string().contains("data"), "{error}");
}

#[test]
fn a_policy_that_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error =
        run(folder.path(), 1, |run| train_pairs(&mut decoder(20), bare_pairs(3), &inpo(), run)).unwrap_err();
    let text = error.to_string();
    assert!(error.kind() == Kind::Input, "{text}");
    assert!(text.contains("pair 0") && text.contains("`initial_chosen_logps`"), "{text}");
    // Named but not loaded: the caller's mistake.
    let error = run(folder.path(), 1, |run| train(&mut decoder(20), objective(3), run)).unwrap_err();
    assert!(error.kind() == Kind::Defect && error.to_string().contains("first"), "{error}");
    // Dpo reads the reference alone, whichever policy that is.
    let dpo = TrainSettings { loss: LossKind::Dpo, ..settings() };
    let named = Anchors { reference: AnchorPolicy::Other("first".into()), ..Anchors::default() };
    let mut objective = PairObjective::new(bare_pairs(3), &dpo).with_anchors(named);
    assert!(objective.has_other_anchors());
    assert_eq!(load(&mut objective, folder.path(), usize::MAX).1, ["first"]);
    run(folder.path(), usize::MAX, |run| train(&mut decoder(20), objective, run)).unwrap();
    let simpo = TrainSettings { loss: LossKind::Simpo, ..settings() };
    assert!(!PairObjective::new(bare_pairs(3), &simpo).with_anchors(anchors()).has_other_anchors());
}

//! Instructions: packing, held-out loss, early stop, loss over all tokens.

use super::*;
use crate::{SftSettings, SftTrainSettings};

/// Examples of uneven lengths whose replies have nothing in common: more training fits them and nothing else.
fn examples(count: u32) -> Vec<SftExample> {
    let number = |i: u32, place: u32| 3 + (i * 7919 + place * 104_729 + (i * place) % 13) % (VOCAB - 3);
    (0..count)
        .map(|i| {
            let ids: Vec<u32> = (0..5 + i % 4).map(|place| number(i, place)).collect();
            let spans = std::iter::once(3..ids.len()).collect();
            SftExample { name: format!("instruction {i}"), ids, spans }
        })
        .collect()
}

fn sft(sft: SftSettings, train: TrainSettings) -> SftTrainSettings {
    SftTrainSettings { sft, train: TrainSettings { lr_schedule: LrSchedule::Constant, ..train } }
}

fn lines(folder: &Path) -> Vec<StepMetrics> {
    read_lines(&folder.join("metrics.jsonl")).unwrap()
}

fn trained(seed: u64, settings: &SftTrainSettings, folder: &Path, limit: usize) -> (Decoder, TrainOutcome) {
    let mut decoder = decoder(seed);
    let outcome =
        run(folder, limit, |run| train(&mut decoder, SftObjective::new(examples(20), settings), run))
            .unwrap();
    (decoder, outcome)
}

#[test]
fn packing_changes_what_a_batch_counts_and_no_example_sees_another() {
    let whole = |packing: bool| {
        let folder = tempfile::tempdir().unwrap();
        let settings = sft(
            SftSettings { packing, ..SftSettings::default() },
            TrainSettings { batch_size: 100, epochs: 1, max_length: 16, ..settings() },
        );
        trained(3, &settings, folder.path(), usize::MAX);
        lines(folder.path())
    };
    let (packed, plain) = (whole(true), whole(false));
    assert_eq!((packed.len(), plain.len()), (1, 1));
    assert_eq!(packed[0].tokens, plain[0].tokens);
    // One batch has everything in both: the same mean over the same tokens.
    assert!((packed[0].loss - plain[0].loss).abs() < 1e-6, "{} {}", packed[0].loss, plain[0].loss);
    assert!((packed[0].grad_norm - plain[0].grad_norm).abs() < 1e-5 * plain[0].grad_norm);
    assert!((packed[0].logp_chosen.unwrap() - plain[0].logp_chosen.unwrap()).abs() < 1e-5);

    // 128 tokens fill 8 sequences of 16 at best, 2 to a batch.
    let folder = tempfile::tempdir().unwrap();
    let settings = sft(
        SftSettings { packing: true, ..SftSettings::default() },
        TrainSettings { batch_size: 2, epochs: 1, max_length: 16, ..super::settings() },
    );
    trained(3, &settings, folder.path(), usize::MAX);
    let steps = lines(folder.path());
    let tokens: usize = examples(20).iter().map(|example| example.ids.len()).sum();
    assert_eq!(steps.iter().map(|line| line.tokens).sum::<usize>(), tokens);
    assert!(steps.iter().all(|line| line.tokens <= 32), "{steps:?}");
    assert!(steps.len() < 10, "{} steps, as many as without packing", steps.len());
}

#[test]
fn the_held_out_loss_ends_training_and_the_best_weights_stay() {
    let settings = sft(
        SftSettings { val_split: 0.25, val_every: 2, early_stop: Some(2), ..SftSettings::default() },
        TrainSettings { batch_size: 5, epochs: 40, learning_rate: 3e-3, checkpoint_every: 3, ..settings() },
    );
    let folder = tempfile::tempdir().unwrap();
    let (straight, outcome) = trained(4, &settings, folder.path(), usize::MAX);
    let got = summary(outcome);
    // 15 are trained on, in 3 steps an epoch.
    assert_eq!(got.examples, 15);
    assert!(got.steps < 120, "{got:?}");
    let steps = lines(folder.path());
    assert_eq!(steps.len(), got.steps);
    let held: Vec<(usize, f64)> = steps.iter().filter_map(|line| Some((line.step, line.val_loss?))).collect();
    assert!(held.iter().all(|(step, _)| step % 2 == 0), "{held:?}");
    let best = held.iter().fold(held[0], |best, one| if one.1 < best.1 { *one } else { best });
    assert_eq!(got.steps, best.0 + 4, "{held:?}");

    // The weights are those of a training that ends at the best step.
    let short = SftTrainSettings {
        train: TrainSettings { max_steps: Some(best.0), ..settings.train.clone() },
        sft: SftSettings { early_stop: None, ..settings.sft.clone() },
    };
    let other = tempfile::tempdir().unwrap();
    assert!(weights(&trained(4, &short, other.path(), usize::MAX).0) == weights(&straight));
    let last = lines(other.path()).pop().unwrap();
    assert_eq!(last.val_loss, Some(best.1));

    // Stopped before the end, in the middle, and after the end: the same bits.
    for limit in [1, best.0 + 1, best.0 + 3] {
        let parts = tempfile::tempdir().unwrap();
        trained(4, &settings, parts.path(), limit);
        let (resumed, outcome) = trained(4, &settings, parts.path(), usize::MAX);
        assert_eq!(summary(outcome), got, "{limit}");
        assert!(weights(&resumed) == weights(&straight), "{limit}");
        assert!(weights(&trained(4, &settings, parts.path(), usize::MAX).0) == weights(&straight), "{limit}");
    }
}

#[test]
fn examples_that_are_all_cut_to_nothing_are_told_with_the_cause() {
    let settings = sft(SftSettings::default(), TrainSettings { max_length: 3, ..settings() });
    let folder = tempfile::tempdir().unwrap();
    let mut decoder = decoder(3);
    let objective = SftObjective::new(examples(20), &settings);
    let error = run(folder.path(), usize::MAX, |run| train(&mut decoder, objective, run)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("none of 20 examples") && text.contains("sft.max_length"), "{text}");
}

#[test]
fn held_out_examples_are_another_training_s_data() {
    let with = |val_split: f64| {
        sft(
            SftSettings { val_split, ..SftSettings::default() },
            TrainSettings { batch_size: 5, epochs: 2, max_steps: Some(2), ..settings() },
        )
    };
    let folder = tempfile::tempdir().unwrap();
    trained(5, &with(0.25), folder.path(), 1);
    let mut decoder = decoder(5);
    let refused = run(folder.path(), usize::MAX, |run| {
        train(&mut decoder, SftObjective::new(examples(20), with(0.5)), run)
    });
    assert!(refused.unwrap_err().to_string().contains("data"));
}

#[test]
fn a_loss_over_all_tokens_of_pairs_is_that_of_longer_responses() {
    let decoder = decoder(6);
    let mut pairs = pairs(5);
    for pair in &mut pairs {
        pair.reference = Some(PairLogProbs { chosen: -20.0, rejected: -19.0 });
    }
    // The same tokens with the prompt, but for its first token, in both responses.
    let moved: Vec<TokenPair> = pairs
        .iter()
        .map(|pair| {
            let longer = |response: &[u32]| [&pair.prompt[1..], response].concat();
            let (chosen, rejected) = (longer(&pair.chosen), longer(&pair.rejected));
            TokenPair { prompt: pair.prompt[..1].to_vec(), chosen, rejected, ..pair.clone() }
        })
        .collect();
    for (loss, sft_weight, length_normalized) in
        [(LossKind::KtoPair, 0.0, false), (LossKind::Sppo, 0.3, false), (LossKind::Ipo, 0.0, true)]
    {
        let loss = LossSettings::from(&TrainSettings { loss, sft_weight, length_normalized, ..settings() });
        let gradient = |pairs: &[TokenPair], loss_tokens: LossTokens, micro_batch_tokens: usize| {
            let all: Vec<&TokenPair> = pairs.iter().collect();
            let mut grads = Gradients::zeros(decoder.parameters()).unwrap();
            let memory = &ActivationMemory::new(Recompute::Never);
            let pass = MicroBatches { tokens: micro_batch_tokens, memory, loss_tokens };
            let report = pair_gradients(&decoder, &all, &loss, pass, &mut grads).unwrap();
            let values: Vec<f32> =
                grads.iter().flat_map(|(_, g)| g.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect();
            (report, values)
        };
        for micro_batch_tokens in [10_000, 20] {
            let (all, of_all) = gradient(&pairs, LossTokens::All, micro_batch_tokens);
            let (longer, of_longer) = gradient(&moved, LossTokens::Responses, 10_000);
            assert!((all.loss - longer.loss).abs() < 1e-4 * longer.loss.abs().max(1.0), "{:?}", loss.kind);
            assert!((all.logp_chosen.unwrap() - longer.logp_chosen.unwrap()).abs() < 1e-4);
            let largest = of_longer.iter().fold(0f32, |most, x| most.max(x.abs()));
            let apart = of_all.iter().zip(&of_longer).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(apart <= 2e-5 * largest, "{:?}: {apart} of {largest}", loss.kind);
        }
        let (responses, _) = gradient(&pairs, LossTokens::Responses, 10_000);
        let (all, _) = gradient(&pairs, LossTokens::All, 10_000);
        assert!(all.logp_chosen < responses.logp_chosen);
    }
}

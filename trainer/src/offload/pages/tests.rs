use std::sync::atomic::Ordering::Relaxed;

use selfplay_model::PackedBatch;
use selfplay_model::decoder::KeepPlan;
use selfplay_testing::decoder::config;

use super::*;
use crate::slow_copies::SlowCopies;

/// Five blocks, so that more go by than are ever there.
fn decoder() -> Decoder {
    let keys = serde_json::json!({"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 5});
    selfplay_testing::decoder(&config(keys), 5)
}

/// Adds the gradients of a batch that `seed` draws.
fn add(decoder: &Decoder, seed: u32, gradients: &mut Gradients) -> Result<()> {
    let ids: Vec<u32> = (0..9 + seed).map(|i| (i * 7 + seed * 13) % 40).collect();
    let mut batch = PackedBatch::new();
    batch.push(&ids);
    let tape = decoder.forward_train(&batch, KeepPlan::LEAST)?;
    let d_hidden = tape.hidden().affine(0.1, 0.01 * f64::from(seed))?;
    decoder.backward(tape, &d_hidden, gradients)
}

fn bits(gradients: &Gradients) -> Vec<Vec<u32>> {
    let of = |tensor: &Tensor| {
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    gradients.iter().map(|(_, tensor)| of(tensor)).collect()
}

/// The sums of so many batches, all on the device.
fn kept(seeds: &[u32]) -> Vec<Vec<u32>> {
    let decoder = decoder();
    let mut gradients = Gradients::zeros(decoder.parameters()).unwrap();
    seeds.iter().for_each(|&seed| add(&decoder, seed, &mut gradients).unwrap());
    bits(&gradients)
}

fn paged(copies: &SlowCopies) -> (Decoder, PagedGradients) {
    let mut decoder = decoder();
    let paged = PagedGradients::by(&decoder, Box::new(copies.clone())).unwrap();
    decoder.set_segment_hooks(Some(paged.pages.clone()));
    (decoder, paged)
}

/// Two steps of three micro-batches each: the bits of gradients that never move, with three blocks on the device at most.
#[test]
fn sums_that_come_and_go_have_the_same_bits() {
    let copies = SlowCopies::default();
    let (decoder, mut paged) = paged(&copies);
    for seeds in [[1, 2, 3], [4, 5, 6]] {
        paged.pages.zero().unwrap();
        seeds.iter().for_each(|&seed| add(&decoder, seed, &mut paged.device).unwrap());
        paged.pages.settle().unwrap();
        assert!(bits(&paged.sums) == kept(&seeds), "{seeds:?}");
    }
    assert_eq!(paged.pages.state().most_there, BLOCKS_THERE);
    assert!(paged.pages.state().blocks.iter().all(|block| !block.is_there));
    // Every block's tensors go three times in a step, and come twice.
    let tensors: usize = paged.pages.state().blocks.iter().map(|block| block.pages.len()).sum();
    assert_eq!(copies.seen.started.load(Relaxed), 2 * tensors * 5);
    let tensor_bytes = |gradients: &Gradients, ids: &[ParameterId]| -> u64 {
        ids.iter().filter_map(|&id| gradients.get(id)).map(|gradient| bytes_of(gradient) as u64).sum()
    };
    let block = decoder.segment_parameters(Segment::Block(0));
    assert_eq!(paged.most_bytes(), BLOCKS_THERE as u64 * tensor_bytes(&paged.sums, &block));
}

/// What no backward came by is 0, also after a step in which one did.
#[test]
fn a_step_without_a_backward_is_zero() {
    let (decoder, mut paged) = paged(&SlowCopies::default());
    add(&decoder, 1, &mut paged.device).unwrap();
    paged.pages.zero().unwrap();
    paged.pages.settle().unwrap();
    assert!(bits(&paged.sums).iter().flatten().all(|&bits| bits == 0));
}

/// A copy that is lost ends the backward; taken again from zero, the step has the same bits.
#[test]
fn a_lost_copy_ends_the_backward_and_zero_begins_anew() {
    let count = {
        let copies = SlowCopies::default();
        let (decoder, mut paged) = paged(&copies);
        add(&decoder, 1, &mut paged.device).unwrap();
        add(&decoder, 2, &mut paged.device).unwrap();
        copies.seen.started.load(Relaxed)
    };
    let want = kept(&[1, 2]);
    for lost in 1..=count {
        let copies = SlowCopies::default();
        let (decoder, mut paged) = paged(&copies);
        copies.seen.refused.store(lost, Relaxed);
        let error = add(&decoder, 1, &mut paged.device).and_then(|()| add(&decoder, 2, &mut paged.device));
        assert!(error.unwrap_err().to_string().contains("is lost"), "copy {lost}");
        assert!(paged.pages.state().blocks.iter().all(|block| !block.is_there), "copy {lost}");
        paged.pages.zero().unwrap();
        add(&decoder, 1, &mut paged.device).unwrap();
        add(&decoder, 2, &mut paged.device).unwrap();
        paged.pages.settle().unwrap();
        assert!(bits(&paged.sums) == want, "copy {lost}");
    }
}

/// Frozen blocks have no pages; what is trained stays where it is.
#[test]
fn frozen_blocks_are_left_alone() {
    let mut decoder = decoder();
    decoder.parameters_mut().set_trainable(|parameter| !parameter.name.contains("layers."));
    let copies = SlowCopies::default();
    let mut paged = PagedGradients::by(&decoder, Box::new(copies.clone())).unwrap();
    decoder.set_segment_hooks(Some(paged.pages.clone()));
    add(&decoder, 1, &mut paged.device).unwrap();
    paged.pages.settle().unwrap();
    assert_eq!(copies.seen.started.load(Relaxed), 0);
    assert_eq!(paged.most_bytes(), 0);
    assert!(bits(&paged.sums).iter().flatten().any(|&bits| bits != 0));
}

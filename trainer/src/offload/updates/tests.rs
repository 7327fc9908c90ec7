use std::sync::atomic::Ordering::Relaxed;

use candle_core::Tensor;
use selfplay_model::decoder::KeepPlan;
use selfplay_model::{PackedBatch, ParameterId};
use selfplay_testing::decoder::config;

use super::super::pages::PagedGradients;
use super::*;
use crate::optimizer::grad_clip::global_norm;
use crate::slow_copies::SlowCopies;
use crate::{OptimizerKind, TrainSettings};

const RATE: f64 = 1e-2;

/// Five blocks whose weights follow masters, as a GPU's do.
fn decoder(is_tied: bool) -> Decoder {
    let keys = serde_json::json!({
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 5,
        "tie_word_embeddings": is_tied,
    });
    let mut decoder = selfplay_testing::decoder(&config(keys), 5);
    let ids: Vec<ParameterId> = decoder.parameters().iter().map(|(id, _)| id).collect();
    for id in ids {
        let master = decoder.parameters().get(id).value.copy().unwrap();
        decoder.parameters_mut().set_master(id, master);
    }
    decoder
}

/// Adds the gradients of a batch that `seed` draws, through the head.
fn add(decoder: &Decoder, seed: u32, gradients: &mut Gradients) -> Result<()> {
    let ids: Vec<u32> = (0..9 + seed).map(|i| (i * 7 + seed * 13) % 40).collect();
    let mut batch = PackedBatch::new();
    batch.push(&ids);
    let tape = decoder.forward_train(&batch, KeepPlan::LEAST)?;
    let slopes = [0.3, -0.2];
    let d_hidden =
        decoder.token_log_probs_backward(tape.hidden(), &[1, 4], &[seed, 7], &slopes, gradients)?;
    decoder.backward(tape, &d_hidden, gradients)
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// Masters, and the weights that follow them.
fn weights(decoder: &Decoder) -> Vec<[Vec<u32>; 2]> {
    decoder.parameters().iter().map(|(_, one)| [bits(one.full()), bits(&one.value)]).collect()
}

fn settings() -> TrainSettings {
    TrainSettings { optimizer: OptimizerKind::AdamW, ..TrainSettings::default() }
}

/// The seeds of the micro-batches of three steps.
const STEPS: [[u32; 2]; 3] = [[1, 2], [3, 4], [5, 6]];

/// Weights after the steps that are each made at its end, and their norms.
fn one_by_one(is_tied: bool, max_norm: f64) -> (Vec<[Vec<u32>; 2]>, Vec<f64>) {
    let decoder = decoder(is_tied);
    let mut gradients = Gradients::zeros(decoder.parameters()).unwrap();
    let mut optimizer = Optimizer::placed(&settings(), decoder.parameters(), true).unwrap();
    let mut norms = Vec::new();
    for seeds in STEPS {
        gradients.zero().unwrap();
        seeds.iter().for_each(|&seed| add(&decoder, seed, &mut gradients).unwrap());
        let measured = global_norm(decoder.parameters(), &gradients, max_norm).unwrap();
        optimizer.step(decoder.parameters(), &gradients, RATE, measured.clip_scale).unwrap();
        norms.push(measured.norm);
    }
    (weights(&decoder), norms)
}

/// A decoder with what moves its weights beside its passes.
struct Beside {
    decoder: Decoder,
    gradients: BatchGradients,
    updates: Arc<HostUpdates>,
    optimizer: Optimizer,
    max_norm: f64,
}

impl Beside {
    fn new(is_tied: bool, max_norm: f64, has_pages: bool, copies: &SlowCopies) -> Self {
        let mut decoder = decoder(is_tied);
        let boxed = || Box::new(copies.clone());
        let gradients = match has_pages {
            true => BatchGradients::Paged(PagedGradients::by(&decoder, boxed()).unwrap()),
            false => BatchGradients::Device(Gradients::zeros(decoder.parameters()).unwrap()),
        };
        let updates = Arc::new(HostUpdates::by(&decoder, &gradients, boxed(), boxed()).unwrap());
        decoder.set_segment_hooks(Some(updates.clone()));
        let optimizer = Optimizer::placed(&settings(), decoder.parameters(), true).unwrap();
        Self { decoder, gradients, updates, optimizer, max_norm }
    }

    /// Takes the gradients of a step.
    fn passes(&mut self, seeds: [u32; 2]) -> std::result::Result<(), TrainError> {
        let (parameters, whole) = (self.decoder.parameters(), self.gradients.whole());
        self.updates.begin(&mut self.optimizer, parameters, whole, RATE, self.max_norm)?;
        self.updates.zero()?;
        for (number, seed) in seeds.into_iter().enumerate() {
            self.gradients.added_to().set_last(number == 1);
            let added = add(&self.decoder, seed, self.gradients.added_to());
            added.map_err(|error| self.updates.explain(error.into()))?;
        }
        self.updates.settle_gradients()?;
        self.gradients.settle()
    }

    fn finish(&self) -> std::result::Result<f64, TrainError> {
        let measured = self.updates.norm(self.decoder.parameters(), self.max_norm)?;
        self.updates.commit(measured.clip_scale)?;
        Ok(measured.norm)
    }

    fn all(&mut self) -> std::result::Result<Vec<f64>, TrainError> {
        let mut norms = Vec::new();
        for seeds in STEPS {
            self.passes(seeds)?;
            norms.push(self.finish()?);
        }
        self.updates.settle()?;
        Ok(norms)
    }
}

#[test]
fn steps_beside_the_passes_have_the_bits_of_steps_after_them() {
    for is_tied in [false, true] {
        for max_norm in [0.0, 0.05] {
            let (want, norms) = one_by_one(is_tied, max_norm);
            for has_pages in [false, true] {
                let mut beside = Beside::new(is_tied, max_norm, has_pages, &SlowCopies::default());
                assert_eq!(beside.all().unwrap(), norms, "{is_tied} {max_norm} {has_pages}");
                assert!(weights(&beside.decoder) == want, "{is_tied} {max_norm} {has_pages}");
            }
        }
    }
}

/// Without clipping every step but the first has moved all weights by the end of its passes; with it, none.
#[test]
fn weights_move_while_the_backward_goes_on_where_no_norm_is_awaited() {
    for (max_norm, moves) in [(0.0, true), (0.05, false)] {
        let mut beside = Beside::new(false, max_norm, true, &SlowCopies::default());
        for (number, seeds) in STEPS.into_iter().enumerate() {
            beside.updates.settle().unwrap();
            let before = weights(&beside.decoder);
            beside.passes(seeds).unwrap();
            beside.updates.settle().unwrap();
            let moved = weights(&beside.decoder).iter().zip(&before).filter(|(now, was)| now != was).count();
            assert_eq!(
                moved,
                if moves && number > 0 { before.len() } else { 0 },
                "{max_norm}, step {number}"
            );
            assert_eq!(beside.updates.can_begin_again(), !moves || number == 0);
            beside.finish().unwrap();
        }
    }
}

/// Whatever copy is lost, somebody hears of it, and of nothing else.
#[test]
fn a_lost_copy_is_reported() {
    for (max_norm, has_pages) in [(0.0, true), (0.05, true), (0.0, false)] {
        let copies = SlowCopies::default();
        Beside::new(false, max_norm, has_pages, &copies).all().unwrap();
        let count = copies.seen.started.load(Relaxed);
        assert!(count > 100);
        for lost in (1..=count).step_by(17).chain([count]) {
            let copies = SlowCopies::default();
            copies.seen.refused.store(lost, Relaxed);
            let error = Beside::new(false, max_norm, has_pages, &copies).all().unwrap_err().to_string();
            assert!(error.contains(&format!("copy {lost} is lost")), "{error}");
        }
    }
}

/// A gradient that is not finite stops its own group and those after it, and the weights before are finite.
#[test]
fn what_is_not_finite_moves_nothing() {
    let mut beside = Beside::new(false, 0.0, false, &SlowCopies::default());
    beside.passes(STEPS[0]).unwrap();
    beside.finish().unwrap();
    beside.updates.settle().unwrap();
    // A weight of block 2 that is not a number: the gradients of the blocks before it are not, those after it are.
    let id = beside.decoder.parameters().find("model.layers.2.mlp.down_proj.weight").unwrap();
    let value = &beside.decoder.parameters().get(id).value;
    let before = weights(&beside.decoder);
    let nan = value.affine(0.0, f64::NAN).unwrap();
    value.slice_set(&nan, 0, 0).unwrap();
    let ended = beside.passes(STEPS[1]).and_then(|()| beside.finish());
    assert!(matches!(ended, Err(TrainError::GradientNotFinite { .. })), "{ended:?}");
    beside.updates.cancel();
    assert!(beside.updates.settle().is_ok());
    let masters = weights(&beside.decoder);
    assert!(masters.iter().zip(&before).all(|(now, was)| now[0] == was[0]), "a master has moved");
}

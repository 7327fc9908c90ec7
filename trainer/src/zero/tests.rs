//! What a rank holds, counted; passes that run ahead.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;

use candle_core::Tensor;
use selfplay_model::decoder::KeepPlan;
use selfplay_model::{Decoder, Gradients, PackedBatch, tensor_memory};
use selfplay_testing::decoder::config;

use super::*;
use crate::collective::{Collective, Sliced, Threads};
use crate::{TrainError, ZeroStage};

fn decoder() -> Decoder {
    let shape = serde_json::json!({
        "vocab_size": 600, "hidden_size": 128, "intermediate_size": 1200, "num_hidden_layers": 8,
    });
    selfplay_testing::decoder(&config(shape), 3)
}

fn on_ranks<T: Send>(world: usize, work: impl Fn(Threads) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let ranks: Vec<_> =
            Threads::group(world).into_iter().map(|rank| scope.spawn(move || work(rank))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn open(decoder: &mut Decoder, zero: ZeroStage, rank: &dyn Collective) -> (Arc<Shards>, Gradients) {
    Shards::open(decoder, zero, rank, false).unwrap().unwrap()
}

/// Numbers of weights and of gradients that have memory.
fn held(decoder: &Decoder, shards: &Shards, gradients: &Gradients) -> (usize, usize) {
    let parameters = decoder.parameters();
    let ids: Vec<_> = parameters.iter().map(|(id, _)| id).collect();
    let of_weights = parameters.owners(&ids);
    let there = of_weights.iter().filter(|owner| tensor_memory::is_whole(&owner.tensor));
    let whole: usize = there.map(|owner| owner.tensor.elem_count()).sum();
    let own: usize = shards
        .owned
        .iter()
        .filter(|owned| owned.is_away)
        .filter_map(|owned| Some(owned.own.as_ref()?.full.elem_count()))
        .sum();
    let of_gradients = gradients.owners(&ids);
    let there = of_gradients.iter().filter(|owner| tensor_memory::is_whole(&owner.tensor));
    let whole_gradients: usize = there.map(|owner| owner.tensor.elem_count()).sum();
    let own_gradients: usize = (0..shards.owned.len())
        .filter(|_| shards.has_gradients_by_rank())
        .filter_map(|place| Some(shards.gradient(place)?.elem_count()))
        .sum();
    (whole + own, whole_gradients + own_gradients)
}

#[test]
fn a_rank_holds_its_share() {
    let all = decoder().parameters().element_count();
    for world in [2usize, 3] {
        let share = |numbers: usize| numbers as f64 / all as f64;
        let by_stage = |zero: ZeroStage| {
            on_ranks(world, |rank| {
                let mut decoder = decoder();
                let (shards, gradients) = open(&mut decoder, zero, &rank);
                let moved: usize =
                    shards.owned.iter().filter_map(|o| Some(o.own.as_ref()?.full.elem_count())).sum();
                let (weights, gradients) = held(&decoder, &shards, &gradients);
                (share(weights), share(gradients), share(moved))
            })
        };
        let near = |a: f64| (a - 1.0 / world as f64).abs() < 0.03;
        for (weights, gradients, moved) in by_stage(ZeroStage::OptimizerState) {
            assert!(weights == 1.0 && gradients == 1.0 && near(moved), "{weights} {gradients} {moved}");
        }
        for (weights, gradients, moved) in by_stage(ZeroStage::Gradients) {
            assert!(weights == 1.0 && near(gradients) && near(moved), "{weights} {gradients} {moved}");
        }
        for (weights, gradients, moved) in by_stage(ZeroStage::Weights) {
            assert!(near(weights) && near(gradients) && near(moved), "{weights} {gradients} {moved}");
        }
    }
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// Hidden states, log-probs, and the gradient that one micro-batch of this rank adds.
fn pass(decoder: &Decoder, gradients: &mut Gradients, seed: u32) -> (Vec<u32>, Vec<f32>) {
    let mut batch = PackedBatch::new();
    batch.push(&[1, 2 + seed, 3, 4 + 7 * seed, 5]);
    let tape = decoder.forward_train(&batch, KeepPlan::LEAST).unwrap();
    let hidden = bits(tape.hidden());
    let mut known = Vec::new();
    let slopes = |log_probs: &[f32]| {
        known = log_probs.to_vec();
        candle_core::Result::Ok(vec![0.25; log_probs.len()])
    };
    let (rows, targets) = ([0, 1, 2, 3], [2, 3, 4, 5]);
    let d = decoder.token_log_probs_pass(tape.hidden(), &rows, &targets, gradients, slopes).unwrap();
    decoder.backward(tape, &d, gradients).unwrap();
    (hidden, known)
}

/// A tensor, and by rank the ranges of its sum.
type BegunSum = (Tensor, Vec<Range<usize>>);

/// Ranks whose sums are not there before they are waited for.
#[derive(Clone)]
struct Late {
    inner: Arc<Threads>,
    begun: Arc<Mutex<Vec<BegunSum>>>,
}

impl Late {
    fn of(rank: Threads) -> Self {
        Self { inner: Arc::new(rank), begun: Arc::default() }
    }
}

impl Collective for Late {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn world(&self) -> usize {
        self.inner.world()
    }

    fn all_reduce(&self, tensors: &[&Tensor]) -> Result<(), TrainError> {
        self.inner.all_reduce(tensors)
    }

    fn all_gather(&self, values: &[f64]) -> Result<Vec<f64>, TrainError> {
        self.inner.all_gather(values)
    }

    fn broadcast(&self, tensors: &[&Tensor], root: usize) -> Result<(), TrainError> {
        self.inner.broadcast(tensors, root)
    }

    fn reduce_scatter(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        self.inner.reduce_scatter(tensors)
    }

    fn begin_reduce_scatter(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        let of = |sliced: &Sliced<'_>| (sliced.tensor.clone(), sliced.ranges.to_vec());
        self.begun.lock().unwrap().extend(tensors.iter().map(of));
        Ok(())
    }

    fn settle_sums(&self) -> Result<(), TrainError> {
        let begun = std::mem::take(&mut *self.begun.lock().unwrap());
        let sliced: Vec<_> = begun.iter().map(|(tensor, ranges)| Sliced { tensor, ranges }).collect();
        self.inner.reduce_scatter(&sliced)
    }

    fn all_gather_slices(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        self.inner.all_gather_slices(tensors)
    }

    fn handle(&self) -> Option<Arc<dyn Collective>> {
        Some(Arc::new(self.clone()))
    }

    fn leave(&self) {
        self.inner.leave();
    }
}

/// Rank 0 makes two micro-batches, rank 1 one, rank 2 none: with weights that come when they are needed, and one block ahead.
#[test]
fn passes_of_uneven_ranks_have_the_numbers_of_whole_weights() {
    let micros = [vec![0u32, 1], vec![2], vec![]];
    let plain = decoder();
    let mut sums: Vec<Gradients> =
        micros.iter().map(|_| Gradients::zeros(plain.parameters()).unwrap()).collect();
    let want: Vec<Vec<_>> = micros
        .iter()
        .zip(&mut sums)
        .map(|(seeds, sum)| seeds.iter().map(|&seed| pass(&plain, sum, seed)).collect())
        .collect();
    let total: Vec<Vec<u32>> = sums[0]
        .iter()
        .map(|(id, first)| {
            let second = (first + sums[1].get(id).unwrap()).unwrap();
            bits(&(second + sums[2].get(id).unwrap()).unwrap())
        })
        .collect();
    let stages = [ZeroStage::Gradients, ZeroStage::Weights];
    for (zero, ahead) in stages.into_iter().flat_map(|zero| [(zero, false), (zero, true)]) {
        on_ranks(3, |rank| {
            let rank = Late::of(rank);
            let mut decoder = decoder();
            let (shards, mut gradients) = open(&mut decoder, zero, &rank);
            shards.exchanges_beside.store(ahead, Ordering::Relaxed);
            for _ in 0..2 {
                shards.begin_gradient().unwrap();
                let seeds = &micros[rank.rank()];
                for (number, &seed) in seeds.iter().enumerate() {
                    gradients.set_last(number + 1 == seeds.len());
                    assert!(pass(&decoder, &mut gradients, seed) == want[rank.rank()][number]);
                }
                shards.serve_all().unwrap();
                assert!(!shards.can_begin_again());
                shards.finish_gradient().unwrap();
                for (place, total) in total.iter().enumerate() {
                    let range = shards.owned[place].ranges[rank.rank()].clone();
                    match shards.gradient(place) {
                        Some(own) => assert!(bits(own) == total[range]),
                        None => assert!(range.is_empty()),
                    }
                }
            }
            shards.close(&mut decoder).unwrap();
            for ((_, own), (_, plain)) in decoder.parameters().iter().zip(plain.parameters().iter()) {
                assert!(bits(&own.value) == bits(&plain.value), "{}", own.name);
            }
        });
    }
}

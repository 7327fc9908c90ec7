//! Global gradient norm and torch's clip coefficient.
//!
//! torch.nn.utils.clip_grad_norm_: every gradient is multiplied by min(1, max_norm / (norm + 1e-6)), norm the L2 norm over
//! all gradients together. The multiplication itself happens inside the optimizer's pass.
//! Departure: the norm is summed in f64, in a fixed order that depends on the tensors' sizes only, so that it has the same
//! bits for any number of threads.

use candle_core::{DType, Tensor};
use rayon::prelude::*;
use selfplay_model::cpu::storage::with_slice;
use selfplay_model::gpu::{Argument, Gpu, address, pointer};
use selfplay_model::ops::elementwise::{STREAM_THREADS, stream_blocks};
use selfplay_model::profile::{self, OperationCost};
use selfplay_model::shares::UNIT;
use selfplay_model::{Gradients, ParameterId, Parameters};

use crate::TrainError;

/// Elements summed by one task: ranges that ranks own begin at multiples of it.
pub(crate) const CHUNK: usize = UNIT;

/// Partial sums per chunk, for the compiler to keep in vector registers.
const LANES: usize = 8;

/// The gradients' norm and what they are to be multiplied by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientNorm {
    /// L2 norm over all gradients, before clipping.
    pub norm: f64,
    /// torch's clip coefficient, at most 1.
    pub clip_scale: f64,
}

/// Measures all gradients. `max_norm` 0 means no clipping.
///
/// # Errors
/// A gradient that is not finite, by its parameter's name; a gradient that is not contiguous f32.
pub fn global_norm(
    parameters: &Parameters,
    gradients: &Gradients,
    max_norm: f64,
) -> Result<GradientNorm, TrainError> {
    let _operation = profile::operation("gradient norm", || {
        OperationCost::moving(&gradients.iter().map(|(_, gradient)| gradient).collect::<Vec<_>>())
    });
    let all: Vec<&Tensor> = gradients.iter().map(|(_, gradient)| gradient).collect();
    let squares = squares(&all)?;
    norm_of(parameters, gradients.iter().map(|(id, _)| id).zip(squares), max_norm)
}

/// The norm of gradients whose Σ g² are given, in the parameters' order.
///
/// # Errors
/// One that is not finite, by its parameter's name.
pub(crate) fn norm_of(
    parameters: &Parameters,
    squares: impl Iterator<Item = (ParameterId, f64)>,
    max_norm: f64,
) -> Result<GradientNorm, TrainError> {
    let mut total = 0.0;
    for (id, squares) in squares {
        if !squares.is_finite() {
            let parameter = parameters.get(id).name.clone();
            return Err(TrainError::GradientNotFinite { parameter, norm: squares.sqrt() });
        }
        total += squares;
    }
    let norm = total.sqrt();
    Ok(GradientNorm { norm, clip_scale: clip_scale(norm, max_norm) })
}

/// Σ g² of every gradient, wherever each is: with `train.offload = "optimizer+gradients"` some are the host's.
fn squares(gradients: &[&Tensor]) -> Result<Vec<f64>, TrainError> {
    let mut squares = vec![0.0; gradients.len()];
    let (mut on_gpu, mut gpu) = (Vec::new(), None);
    for (place, gradient) in gradients.iter().enumerate() {
        match Gpu::of(gradient)? {
            Some(its) => {
                on_gpu.push(place);
                gpu = Some(its);
            }
            None => squares[place] = with_slice(gradient, sum_of_squares)?,
        }
    }
    if let Some(gpu) = gpu {
        let tensors: Vec<&Tensor> = on_gpu.iter().map(|&place| gradients[place]).collect();
        for (place, of_one) in on_gpu.into_iter().zip(squares_gpu(&gpu, &tensors)?) {
            squares[place] = of_one;
        }
    }
    Ok(squares)
}

/// Σ g² of every gradient on a GPU: one pass over each, and one copy to the host for all of them.
pub(crate) fn squares_gpu(gpu: &Gpu, gradients: &[&Tensor]) -> candle_core::Result<Vec<f64>> {
    let blocks: Vec<usize> = gradients.iter().map(|gradient| square_blocks(gradient.elem_count())).collect();
    let partial = gpu.unwritten(blocks.iter().sum::<usize>().max(1), DType::F64)?;
    launch_squares(gpu, gradients.iter().copied(), &partial)?;
    let partial = partial.to_vec1::<f64>()?;
    let mut rest = partial.as_slice();
    Ok(blocks.iter().map(|&blocks| take_sum(&mut rest, blocks)).collect())
}

/// Partial sums that a GPU makes of so many numbers' squares.
pub(super) fn square_blocks(numbers: usize) -> usize {
    /// Of one gradient at most.
    const BLOCKS: usize = 1024;
    stream_blocks(numbers).min(BLOCKS)
}

/// Starts the partial sums of gradients, one after the other from the beginning of `partial`, f64.
pub(super) fn launch_squares<'a>(
    gpu: &Gpu,
    gradients: impl Iterator<Item = &'a Tensor>,
    partial: &Tensor,
) -> candle_core::Result<()> {
    let mut at = address(partial)?;
    for gradient in gradients {
        let (numbers, blocks) = (gradient.elem_count(), square_blocks(gradient.elem_count()));
        let arguments = [Argument::Pointer(at), pointer(gradient)?, Argument::I64(numbers as i64)];
        gpu.launch_single("sum_of_squares", [blocks, 1, 1], STREAM_THREADS, 0, &arguments)?;
        at += (blocks * DType::F64.size_in_bytes()) as u64;
    }
    Ok(())
}

/// The sum of the next `blocks` partial sums, in their order.
pub(super) fn take_sum(rest: &mut &[f64], blocks: usize) -> f64 {
    let (own, others) = rest.split_at(blocks.min(rest.len()));
    *rest = others;
    own.iter().sum()
}

/// torch's coefficient: min(1, max_norm / (norm + 1e-6)); 1 where `max_norm` is 0.
pub(crate) fn clip_scale(norm: f64, max_norm: f64) -> f64 {
    if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

/// Σ x², by all threads.
pub(super) fn sum_of_squares(values: &[f32]) -> f64 {
    partial_squares(values).iter().sum()
}

/// Σ x² of each [`CHUNK`] numbers.
pub(crate) fn partial_squares(values: &[f32]) -> Vec<f64> {
    values.par_chunks(CHUNK).map(chunk_squares).collect()
}

fn chunk_squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let whole = values.chunks_exact(LANES);
    let rest: f64 = whole.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    for group in whole {
        for (lane, &x) in lanes.iter_mut().zip(group) {
            *lane += f64::from(x) * f64::from(x);
        }
    }
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn coefficient_by_hand() {
        assert_eq!(clip_scale(0.5, 1.0), 1.0);
        assert_eq!(clip_scale(4.0, 1.0), 1.0 / 4.000001);
        assert_eq!(clip_scale(0.0, 1.0), 1.0);
        // At the bound itself torch's 1e-6 already bites.
        assert_eq!(clip_scale(1.0, 1.0), 1.0 / 1.000001);
        assert_eq!(clip_scale(1e9, 0.0), 1.0);
    }

    #[test]
    fn norms_by_hand() {
        assert_eq!(sum_of_squares(&[3.0, -4.0]), 25.0);
        assert_eq!(sum_of_squares(&[]), 0.0);
        assert_eq!(sum_of_squares(&[1.0; 100_003]), 100_003.0);
        // Past f32's own range of squares.
        assert_eq!(sum_of_squares(&[2.0f32.powi(100)]), 2.0f64.powi(200));
        assert!(sum_of_squares(&[1.0, f32::NAN]).is_nan());
        assert!(sum_of_squares(&[f32::INFINITY]).is_infinite());
    }

    proptest! {
        #[test]
        fn sums_do_not_depend_on_threads(length in 0usize..300_000, seed in 0u32..1000) {
            let values: Vec<f32> = (0..length as u32)
                .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / 1e6 - 8.0)
                .collect();
            let with = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| sum_of_squares(&values)).to_bits()
            };
            prop_assert_eq!(with(1), with(3));
        }
    }
}

//! The gradients' global norm out of ranges that ranks hold.
//!
//! Each rank sums the squares of its ranges: on a CPU a partial sum for each 64 Ki numbers, the same that one rank would take
//! (`optimizer/grad_clip.rs`), on a GPU one for each range. All ranks get all partial sums and add them in the order of tensors
//! and ranges: on a CPU that is the order of one rank, and so are the bits.

use std::ops::Range;

use candle_core::Tensor;
use selfplay_model::cpu::storage::with_slice;
use selfplay_model::gpu::Gpu;

use super::owned::Owned;
use crate::TrainError;
use crate::collective::Collective;
use crate::optimizer::grad_clip::{CHUNK, GradientNorm, clip_scale, partial_squares, squares_gpu};

/// The norm; `gradients` are this rank's ranges, flat, by place in `owned`.
///
/// # Errors
/// A gradient that is not finite, by its parameter's name, the same on all ranks; a rank that is lost.
pub(crate) fn global_norm(
    collective: &dyn Collective,
    owned: &[Owned],
    gradients: &[Option<Tensor>],
    max_norm: f64,
) -> Result<GradientNorm, TrainError> {
    let own: Vec<&Tensor> = gradients.iter().flatten().collect();
    let on_gpu = match owned.first() {
        Some(first) => Gpu::at(first.value.device())?,
        None => None,
    };
    let mut partial = match (&on_gpu, own.is_empty()) {
        (_, true) => Vec::new(),
        (Some(gpu), _) => squares_gpu(gpu, &own)?,
        (None, _) => {
            let mut partial = Vec::new();
            for gradient in own {
                partial.extend(with_slice(gradient, partial_squares)?);
            }
            partial
        }
    };
    // How many partial sums a range has.
    let count = |range: &Range<usize>| match on_gpu {
        Some(_) => usize::from(!range.is_empty()),
        None => range.len().div_ceil(CHUNK),
    };
    let of_rank = |rank: usize| owned.iter().map(|owned| count(&owned.ranges[rank])).sum::<usize>();
    let most = (0..collective.world()).map(of_rank).max().unwrap_or(0);
    partial.resize(most, 0.0);
    let all = collective.all_gather(&partial)?;
    let mut next: Vec<usize> = (0..collective.world()).map(|rank| rank * most).collect();
    let mut total = 0.0;
    for owned in owned {
        let mut squares = Vec::new();
        for (rank, range) in owned.ranges.iter().enumerate() {
            let first = next[rank];
            next[rank] += count(range);
            squares.extend_from_slice(all.get(first..next[rank]).unwrap_or_default());
        }
        let squares: f64 = squares.iter().sum();
        if !squares.is_finite() {
            return Err(TrainError::GradientNotFinite {
                parameter: owned.name.clone(),
                norm: squares.sqrt(),
            });
        }
        total += squares;
    }
    let norm = f64::sqrt(total);
    Ok(GradientNorm { norm, clip_scale: clip_scale(norm, max_norm) })
}

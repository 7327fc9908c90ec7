//! One pass over a parameter, its gradient and its state, cut into chunks that threads share.
//!
//! Every update here is elementwise, so the cut changes no bit of the result.

use candle_core::Tensor;
use rayon::prelude::*;
use selfplay_model::cpu::storage::{with_slice, with_slice_mut};

/// A parameter's state; the update rule defines the tensors.
pub(super) type StateTensors = [Option<Tensor>; 3];

/// Elements per task: five streams of 64 KiB stay within a core's second-level cache.
const CHUNK: usize = 16 * 1024;

/// The same range of elements of every stream.
pub(super) struct Chunk<'a> {
    pub weight: &'a mut [f32],
    pub gradient: &'a [f32],
    pub state: [Option<&'a mut [f32]>; 3],
}

/// Runs `update` over all elements. All tensors are contiguous f32 on the CPU, of the weight's shape (checked by the
/// caller).
pub(super) fn run(
    weight: &Tensor,
    gradient: &Tensor,
    state: &StateTensors,
    update: impl Fn(Chunk<'_>) + Sync,
) -> candle_core::Result<()> {
    let [first, second, third] = state;
    with_slice(gradient, |gradient: &[f32]| {
        with_slice_mut(weight, |weight: &mut [f32]| {
            with_optional(first.as_ref(), |first| {
                with_optional(second.as_ref(), |second| {
                    with_optional(third.as_ref(), |third| {
                        over_chunks(weight, gradient, [first, second, third], &update);
                    })
                })?
            })?
        })?
    })?
}

fn with_optional<R>(
    tensor: Option<&Tensor>,
    f: impl FnOnce(Option<&mut [f32]>) -> R,
) -> candle_core::Result<R> {
    match tensor {
        Some(tensor) => with_slice_mut(tensor, |slice: &mut [f32]| f(Some(slice))),
        None => Ok(f(None)),
    }
}

fn over_chunks(
    weight: &mut [f32],
    gradient: &[f32],
    state: [Option<&mut [f32]>; 3],
    update: &(impl Fn(Chunk<'_>) + Sync),
) {
    let mut streams = state.map(|stream| stream.map(|slice| slice.chunks_mut(CHUNK)));
    let chunks: Vec<Chunk<'_>> = weight
        .chunks_mut(CHUNK)
        .zip(gradient.chunks(CHUNK))
        .map(|(weight, gradient)| {
            let [first, second, third] = &mut streams;
            Chunk { weight, gradient, state: [next(first), next(second), next(third)] }
        })
        .collect();
    if chunks.len() == 1 {
        chunks.into_iter().for_each(update);
    } else {
        chunks.into_par_iter().for_each(update);
    }
}

fn next<'a>(stream: &mut Option<std::slice::ChunksMut<'a, f32>>) -> Option<&'a mut [f32]> {
    stream.as_mut().and_then(Iterator::next)
}

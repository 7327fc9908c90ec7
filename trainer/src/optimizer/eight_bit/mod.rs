//! An optimizer's state in eight bits a number: bitsandbytes' block-wise form (Dettmers et al., arXiv 2110.02861).
//!
//! A tensor's numbers stand in blocks of 256. A block keeps its largest magnitude in f32, and of each number the code of its
//! quotient by that ([`Code`]). A step reads a block's codes, updates the numbers in f32 by the rule of the optimizer, which is
//! the one of 32 bits (`adamw.rs`, `rmsprop.rs`), takes the new largest magnitude, and writes the codes anew; the weight
//! moves by the numbers before they are rounded.
//!
//! The first state (AdamW's mean, RMSProp's mean square) has signed codes and the second (AdamW's mean square) unsigned ones, as
//! there: bitsandbytes gives the first state the signed map whatever the rule is. A parameter of fewer than
//! [`LEAST_NUMBERS`] numbers keeps its state in f32.
//!
//! Source: bitsandbytes 0.50, `optimizer_update_8bit_blockwise`, of whose two definitions (PyTorch's, and CUDA's) the first decays
//! weights before they move and the second after; this is the first. Departures: a block of zeros has the code of 0 and the
//! magnitude 0 (1 there); a number halfway between two levels takes the one nearer to 0; RMSProp's step has the
//! clipped gradient with its weight decay, where CUDA's kernel divides the unclipped one.

mod code;
mod gpu;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use selfplay_model::cpu::storage::{with_bytes_mut, with_slice, with_slice_mut};

use super::fused::Chunk;
use code::Code;
pub(super) use gpu::{CodeTables, Place, step as step_on_gpu};

/// Numbers that share a magnitude.
pub(crate) const BLOCK: usize = 256;
/// Parameters of fewer numbers keep their state in f32 (bitsandbytes' `min_8bit_size`).
pub(crate) const LEAST_NUMBERS: usize = 4096;
/// Blocks of a task.
const TASK: usize = 64;

/// One state tensor.
#[derive(Clone)]
pub(super) struct CodedState {
    /// u8, one for each number.
    pub codes: Tensor,
    /// f32, one for each block.
    pub magnitudes: Tensor,
}

/// A parameter's state: the first with signed codes, the second, if there is one, with unsigned ones.
#[derive(Clone)]
pub(super) struct CodedStates {
    pub first: CodedState,
    pub second: Option<CodedState>,
}

impl CodedStates {
    /// The state of `count` numbers from `first` on, which begins a block.
    pub fn part(&self, first: usize, count: usize) -> candle_core::Result<Self> {
        let part = |state: &CodedState| -> candle_core::Result<CodedState> {
            Ok(CodedState {
                codes: state.codes.narrow(0, first, count)?,
                magnitudes: state.magnitudes.narrow(0, first / BLOCK, count.div_ceil(BLOCK))?,
            })
        };
        Ok(Self { first: part(&self.first)?, second: self.second.as_ref().map(part).transpose()? })
    }
}

impl CodedState {
    /// All 0.
    pub fn zeros(numbers: usize, device: &Device) -> candle_core::Result<Self> {
        Ok(Self {
            codes: Tensor::zeros(numbers, DType::U8, device)?,
            magnitudes: Tensor::zeros(numbers.div_ceil(BLOCK), DType::F32, device)?,
        })
    }
}

/// A range of a state tensor, whole blocks of it but for the tensor's end.
struct Share<'a> {
    code: &'static Code,
    codes: &'a mut [u8],
    magnitudes: &'a mut [f32],
}

/// Runs `update` over all elements of a weight on the CPU, block by block, with the state decoded.
pub(super) fn run(
    weight: &Tensor,
    gradient: &Tensor,
    states: &CodedStates,
    update: impl Fn(Chunk<'_>) + Sync,
) -> candle_core::Result<()> {
    with_slice(gradient, |gradient: &[f32]| {
        with_slice_mut(weight, |weight: &mut [f32]| {
            with_share(&states.first, Code::signed(), |first| match &states.second {
                None => {
                    over_tasks(weight, gradient, first, None, &update);
                    Ok(())
                }
                Some(second) => with_share(second, Code::unsigned(), |second| {
                    over_tasks(weight, gradient, first, Some(second), &update);
                }),
            })?
        })?
    })?
}

fn with_share<R>(
    state: &CodedState,
    code: &'static Code,
    f: impl FnOnce(Share<'_>) -> R,
) -> candle_core::Result<R> {
    with_bytes_mut(&state.codes, |codes| {
        with_slice_mut(&state.magnitudes, |magnitudes: &mut [f32]| f(Share { code, codes, magnitudes }))
    })?
}

impl<'a> Share<'a> {
    /// The same state by blocks, `blocks` of them at a time.
    fn parts(self, blocks: usize) -> impl Iterator<Item = Share<'a>> {
        let code = self.code;
        let parts = self.codes.chunks_mut(blocks * BLOCK).zip(self.magnitudes.chunks_mut(blocks));
        parts.map(move |(codes, magnitudes)| Share { code, codes, magnitudes })
    }

    /// Of a block: its numbers.
    fn decode(&self, numbers: &mut [f32]) {
        let magnitude = self.magnitudes.first().copied().unwrap_or(0.0);
        for (number, code) in numbers.iter_mut().zip(&*self.codes) {
            *number = self.code.levels[usize::from(*code)] * magnitude;
        }
    }

    /// Of a block: keeps these numbers.
    fn encode(&mut self, numbers: &[f32]) {
        let largest = numbers.iter().fold(0.0f32, |largest, number| largest.max(number.abs()));
        self.magnitudes.iter_mut().for_each(|magnitude| *magnitude = largest);
        if largest == 0.0 {
            self.codes.fill(self.code.zero());
            return;
        }
        for (code, number) in self.codes.iter_mut().zip(numbers) {
            *code = self.code.of(number / largest);
        }
    }
}

fn over_tasks(
    weight: &mut [f32],
    gradient: &[f32],
    first: Share<'_>,
    second: Option<Share<'_>>,
    update: &(impl Fn(Chunk<'_>) + Sync),
) {
    let size = TASK * BLOCK;
    let mut seconds = second.map(|second| second.parts(TASK));
    let tasks: Vec<_> = weight
        .chunks_mut(size)
        .zip(gradient.chunks(size))
        .zip(first.parts(TASK))
        .map(|((weight, gradient), first)| {
            (weight, gradient, first, seconds.as_mut().and_then(Iterator::next))
        })
        .collect();
    tasks.into_par_iter().for_each(|(weight, gradient, first, second)| {
        over_blocks(weight, gradient, first, second, update);
    });
}

fn over_blocks(
    weight: &mut [f32],
    gradient: &[f32],
    first: Share<'_>,
    second: Option<Share<'_>>,
    update: &impl Fn(Chunk<'_>),
) {
    let mut seconds = second.map(|second| second.parts(1));
    let blocks = weight.chunks_mut(BLOCK).zip(gradient.chunks(BLOCK)).zip(first.parts(1));
    for ((weight, gradient), mut first) in blocks {
        let count = weight.len();
        let mut room = [[0.0f32; BLOCK]; 2];
        let [numbers, squares] = &mut room;
        let (numbers, squares) = (&mut numbers[..count], &mut squares[..count]);
        first.decode(numbers);
        match seconds.as_mut().and_then(Iterator::next) {
            None => update(Chunk { weight, gradient, state: [Some(&mut *numbers), None, None] }),
            Some(mut second) => {
                second.decode(squares);
                update(Chunk { weight, gradient, state: [Some(&mut *numbers), Some(&mut *squares), None] });
                second.encode(squares);
            }
        }
        first.encode(numbers);
    }
}

#[cfg(test)]
mod tests;

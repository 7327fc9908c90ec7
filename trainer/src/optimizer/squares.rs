//! Σ g² of some gradients, taken while the device goes on with other work: what `grad_clip.rs` takes of all at once, with the same
//! bits.
//!
//! On a GPU the partial sums come to the host beside the work that follows. They have one page-locked room for all gradients, kept
//! from step to step: a copy into memory whose pages are not locked would make the host wait for the device.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use selfplay_model::ParameterId;
use selfplay_model::cpu::storage::with_slice;
use selfplay_model::gpu::{CopyMark, CopyStart, Gpu, HostCopies, LockedTensor, copy_to_host};

use super::grad_clip::{launch_squares, square_blocks, sum_of_squares, take_sum};
use crate::TrainError;

/// Bytes from which on pages are locked.
const LOCKED: usize = 1 << 20;

/// A gradient that is measured.
#[derive(Clone)]
pub(crate) struct MeasuredGradient {
    pub(crate) id: ParameterId,
    /// Of its parameter.
    pub(crate) name: String,
    pub(crate) gradient: Tensor,
}

/// Room for the partial sums of all gradients.
pub(crate) struct SquaresRoom {
    /// On the device, and on the host; absent where the device is the host.
    rooms: Option<(Tensor, LockedTensor)>,
}

impl SquaresRoom {
    /// For gradients on `device` of so many numbers each.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn new(
        copies: &dyn HostCopies,
        device: &Device,
        numbers: impl Iterator<Item = usize>,
    ) -> candle_core::Result<Self> {
        let Some(gpu) = Gpu::at(device)? else { return Ok(Self { rooms: None }) };
        let blocks: usize = numbers.map(square_blocks).sum();
        let on_host = Tensor::zeros(blocks.max(LOCKED / 8), DType::F64, &Device::Cpu)?;
        let there = gpu.unwritten(blocks.max(1), DType::F64)?;
        Ok(Self { rooms: Some((there, LockedTensor::new(copies, on_host)?)) })
    }

    /// Partial sums of these gradients.
    pub(crate) fn blocks(gradients: &[MeasuredGradient]) -> usize {
        gradients.iter().map(|one| square_blocks(one.gradient.elem_count())).sum()
    }
}

/// Σ g² of some gradients, which may be on their way.
pub(crate) struct Squares {
    gradients: Vec<MeasuredGradient>,
    sums: SquareSums,
}

enum SquareSums {
    There(Vec<f64>),
    Coming {
        /// The partial sums on the host, once the mark is done.
        partial: Tensor,
        mark: Box<dyn CopyMark>,
        /// Keeps the memory.
        _room: Arc<SquaresRoom>,
    },
}

impl Squares {
    /// Starts to sum; on a GPU by what was started before, into the room from its partial sum `first` on.
    ///
    /// # Errors
    /// What the device says.
    pub(crate) fn start(
        copies: &dyn HostCopies,
        room: &Arc<SquaresRoom>,
        first: usize,
        gradients: &[MeasuredGradient],
    ) -> Result<Self, TrainError> {
        let gpu = gradients.first().map_or(Ok(None), |one| Gpu::of(&one.gradient))?;
        let sums = match (&room.rooms, gpu) {
            (Some((there, here)), Some(gpu)) => {
                let blocks = SquaresRoom::blocks(gradients);
                let (there, here) =
                    (there.narrow(0, first, blocks)?, here.tensor().narrow(0, first, blocks)?);
                launch_squares(&gpu, gradients.iter().map(|one| &one.gradient), &there)?;
                let mark = copy_to_host(copies, &there, &here, CopyStart::AfterWork)?;
                SquareSums::Coming { partial: here, mark, _room: room.clone() }
            }
            _ => {
                let of = |one: &MeasuredGradient| with_slice(&one.gradient, sum_of_squares);
                SquareSums::There(gradients.iter().map(of).collect::<candle_core::Result<_>>()?)
            }
        };
        Ok(Self { gradients: gradients.to_vec(), sums })
    }

    /// Waits for the sums: one for each gradient, in their order.
    ///
    /// # Errors
    /// What the device says.
    pub(crate) fn wait(&self) -> Result<Vec<(ParameterId, f64)>, TrainError> {
        let sums = match &self.sums {
            SquareSums::There(sums) => sums.clone(),
            SquareSums::Coming { partial, mark, .. } => {
                mark.wait()?;
                let blocks = self.gradients.iter().map(|one| square_blocks(one.gradient.elem_count()));
                with_slice(partial, |mut rest: &[f64]| {
                    blocks.map(|blocks| take_sum(&mut rest, blocks)).collect()
                })?
            }
        };
        Ok(self.gradients.iter().map(|one| one.id).zip(sums).collect())
    }

    /// Waits, and refuses gradients that are not finite.
    ///
    /// # Errors
    /// The first of them, by its parameter's name; what the device says.
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        for ((_, squares), one) in self.wait()?.into_iter().zip(&self.gradients) {
            if !squares.is_finite() {
                let parameter = one.name.clone();
                return Err(TrainError::GradientNotFinite { parameter, norm: squares.sqrt() });
            }
        }
        Ok(())
    }
}

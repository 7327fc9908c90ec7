//! A part of a parameter on its way through an optimizer's step on the host.

use candle_core::{DType, Device, Tensor};
use selfplay_model::cpu::storage::{with_bytes_mut, with_slice};

use super::super::eight_bit::BLOCK;
use super::super::fused::StateTensors;
use super::super::state::ParameterState;
use super::super::{Rule, StepScalars, step_cpu};
use super::rounding::round_into;
use super::staging::{PIECE, PieceBuffer};
use crate::TrainError;

const _: () = assert!(PIECE.is_multiple_of(BLOCK));

/// Where a gradient is.
#[derive(Clone, Debug)]
pub(in super::super) enum GradientPlace {
    /// In the device's memory.
    Device(Tensor),
    /// In the host's.
    Host(Tensor),
}

impl GradientPlace {
    /// Where the gradient of a weight is that is computed with on `device`.
    pub(in super::super) fn of(gradient: &Tensor, device: &Device) -> Self {
        match gradient.device().is_cpu() && !device.is_cpu() {
            true => Self::Host(gradient.clone()),
            false => Self::Device(gradient.clone()),
        }
    }
}

/// One parameter's step; f32 weights and state are on the host. It has the parameter's own tensors.
pub(in super::super) struct OffloadedParameter {
    pub(in super::super) scalars: StepScalars,
    /// The f32 weights.
    pub(in super::super) weight: Tensor,
    /// The device's weights that follow them; absent where the host's are the ones that are computed with.
    pub(in super::super) copy: Option<Tensor>,
    pub(in super::super) gradient: GradientPlace,
    pub(in super::super) state: ParameterState,
}

/// A part of a parameter, flat.
pub(super) struct Piece {
    scalars: StepScalars,
    weight: Tensor,
    pub(super) copy: Option<Tensor>,
    pub(super) gradient: GradientPlace,
    state: ParameterState,
    /// Numbers.
    pub(super) count: usize,
}

impl OffloadedParameter {
    /// Its parts, from the first number to the last.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Result<Piece, TrainError>> {
        let numbers = self.weight.elem_count();
        (0..numbers).step_by(PIECE).map(move |first| self.piece(first, PIECE.min(numbers - first)))
    }

    fn piece(&self, first: usize, count: usize) -> Result<Piece, TrainError> {
        let part = |tensor: &Tensor| tensor.flatten_all()?.narrow(0, first, count);
        let state = match &self.state {
            ParameterState::Wide(whole) => {
                let mut state: StateTensors = [None, None, None];
                for (whole, part_of) in whole.iter().zip(&mut state) {
                    *part_of = whole.as_ref().map(part).transpose()?;
                }
                ParameterState::Wide(state)
            }
            ParameterState::Coded(states) => ParameterState::Coded(states.part(first, count)?),
        };
        Ok(Piece {
            scalars: self.scalars,
            weight: part(&self.weight)?,
            copy: self.copy.as_ref().map(part).transpose()?,
            gradient: match &self.gradient {
                GradientPlace::Device(gradient) => GradientPlace::Device(part(gradient)?),
                GradientPlace::Host(gradient) => GradientPlace::Host(part(gradient)?),
            },
            state,
            count,
        })
    }
}

impl Piece {
    /// Moves the weights, and rounds them into the buffer where a copy follows them.
    pub(super) fn update(&self, rule: &Rule, buffer: &PieceBuffer) -> Result<(), TrainError> {
        let staged = buffer.gradient(self.count)?;
        let gradient = match &self.gradient {
            GradientPlace::Device(_) => &staged,
            GradientPlace::Host(gradient) => gradient,
        };
        step_cpu(rule, self.scalars, &self.weight, gradient, &self.state)?;
        let Some(copy) = &self.copy else { return Ok(()) };
        let room = buffer.bytes(self.count * copy.dtype().size_in_bytes())?;
        let dtype: DType = copy.dtype();
        let rounded = with_bytes_mut(&room, |room| {
            with_slice(&self.weight, |weight: &[f32]| round_into(weight, dtype, room))
        })?;
        Ok(rounded??)
    }
}

//! The step of an optimizer whose state and f32 weights are in the host's memory (`train.offload`).
//!
//! Parameters are taken in pieces. While one piece is updated, the gradient of the next one comes from the device, and the
//! rounded weights of the one before go back to it. Updates are elementwise, so that pieces change no bit; the device's own
//! pass rounds as this one does (`model/src/gpu/cuda/optimizer.cu`).

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use candle_core::{Device, Tensor};

use super::fused::StateTensors;
use super::state::ParameterState;
use super::{Rule, StepScalars, step_cpu};
use crate::TrainError;

/// Numbers of a piece: its gradient, weights and state are some tens of megabytes.
const PIECE: usize = 4 << 20;

/// Pieces that wait between two of the three that work at a time.
const WAITING: usize = 2;

/// One parameter's step: everything but `copy` and `gradient` is on the host.
pub(super) struct OffloadedParameter<'a> {
    pub(super) scalars: StepScalars,
    /// The f32 weights.
    pub(super) weight: &'a Tensor,
    /// The device's weights that follow them; absent where the host's are the ones that are computed with.
    pub(super) copy: Option<&'a Tensor>,
    /// On the device.
    pub(super) gradient: &'a Tensor,
    pub(super) state: &'a ParameterState,
}

/// A part of a parameter, flat.
struct Piece {
    scalars: StepScalars,
    weight: Tensor,
    copy: Option<Tensor>,
    gradient: Tensor,
    state: ParameterState,
}

/// Updates all parameters.
pub(super) fn step(rule: &Rule, parameters: &[OffloadedParameter<'_>]) -> Result<(), TrainError> {
    std::thread::scope(|scope| {
        let (to_update, fresh) = sync_channel(WAITING);
        let (to_upload, updated) = sync_channel(WAITING);
        let updater = scope.spawn(move || update(rule, &fresh, &to_upload));
        let copied = download_and_upload(parameters, to_update, &updated);
        // The updater's own error first: of the copies it is only that nobody took them.
        match updater.join() {
            Ok(done) => done.and(copied),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The host's part: takes pieces until there are no more.
fn update(rule: &Rule, fresh: &Receiver<Piece>, updated: &SyncSender<Piece>) -> Result<(), TrainError> {
    for piece in fresh {
        step_cpu(rule, piece.scalars, &piece.weight, &piece.gradient, &piece.state)?;
        if updated.send(piece).is_err() {
            break;
        }
    }
    Ok(())
}

/// The device's part, in this thread: brings gradients, takes weights back as soon as they are there.
fn download_and_upload(
    parameters: &[OffloadedParameter<'_>],
    to_update: SyncSender<Piece>,
    updated: &Receiver<Piece>,
) -> Result<(), TrainError> {
    // What is under way is bounded by the channels: this thread must not wait for room while pieces wait for it.
    let mut under_way = 0;
    for parameter in parameters {
        let numbers = parameter.weight.elem_count();
        let most = parameter.piece_numbers();
        for first in (0..numbers).step_by(most) {
            let piece = parameter.piece(first, most.min(numbers - first))?;
            if under_way == 2 * WAITING {
                let Ok(done) = updated.recv() else { return Ok(()) };
                upload(done)?;
                under_way -= 1;
            }
            if to_update.send(piece).is_err() {
                return Ok(());
            }
            under_way += 1;
            while let Ok(done) = updated.try_recv() {
                upload(done)?;
                under_way -= 1;
            }
        }
    }
    drop(to_update);
    updated.iter().try_for_each(upload)
}

impl OffloadedParameter<'_> {
    /// Numbers of a piece at most. State in eight bits is a quarter of the bytes, and is taken whole.
    fn piece_numbers(&self) -> usize {
        match self.state {
            ParameterState::Wide(_) => PIECE,
            ParameterState::Coded(_) => self.weight.elem_count().max(1),
        }
    }

    fn piece(&self, first: usize, count: usize) -> Result<Piece, TrainError> {
        let part = |tensor: &Tensor| tensor.flatten_all()?.narrow(0, first, count);
        let state = match self.state {
            ParameterState::Wide(whole) => {
                let mut state: StateTensors = [None, None, None];
                for (whole, part_of) in whole.iter().zip(&mut state) {
                    *part_of = whole.as_ref().map(part).transpose()?;
                }
                ParameterState::Wide(state)
            }
            // Of all numbers: `piece_numbers`.
            ParameterState::Coded(_) => self.state.shared(),
        };
        Ok(Piece {
            scalars: self.scalars,
            weight: part(self.weight)?,
            copy: self.copy.map(part).transpose()?,
            gradient: part(self.gradient)?.to_device(&Device::Cpu)?,
            state,
        })
    }
}

fn upload(piece: Piece) -> Result<(), TrainError> {
    let Some(copy) = piece.copy else { return Ok(()) };
    Ok(copy.slice_set(&piece.weight.to_dtype(copy.dtype())?.to_device(copy.device())?, 0, 0)?)
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::super::rmsprop::RmsProp;
    use super::*;
    use crate::TrainSettings;

    fn numbers(count: usize, seed: usize) -> Tensor {
        let values: Vec<f32> = (0..count).map(|i| ((i * 37 + seed * 101) % 89) as f32 / 44.0 - 1.0).collect();
        Tensor::from_vec(values, count, &Device::Cpu).unwrap()
    }

    /// More pieces than are ever under way, the last one short, and parameters of one number.
    #[test]
    fn pieces_change_no_bit_and_all_weights_go_back() {
        let rule = Rule::RmsProp(RmsProp::new(&TrainSettings::default()));
        let scalars = StepScalars { rate: 1e-2, clip_scale: 0.7, weight_decay: 0.1, step: 3 };
        let sizes = [1, 5 * PIECE + 3, 7, PIECE];
        let make = |count: usize| {
            let state = ParameterState::Wide([Some(numbers(count, 3).abs().unwrap()), None, None]);
            let copy = Tensor::zeros(count, DType::BF16, &Device::Cpu).unwrap();
            (numbers(count, 1), copy, numbers(count, 2), state)
        };
        let (whole, parts): (Vec<_>, Vec<_>) = sizes.map(|n| (make(n), make(n))).into_iter().unzip();
        for (weight, _, gradient, state) in &whole {
            step_cpu(&rule, scalars, weight, gradient, state).unwrap();
        }
        let offloaded: Vec<OffloadedParameter<'_>> = parts
            .iter()
            .map(|(weight, copy, gradient, state)| OffloadedParameter {
                scalars,
                weight,
                copy: Some(copy),
                gradient,
                state,
            })
            .collect();
        step(&rule, &offloaded).unwrap();
        let bits = |tensor: &Tensor| tensor.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
        let square = |state: &ParameterState| bits(&state.named([Some("square"), None, None], "")[0].1);
        for ((want, _, _, alone), (got, copy, _, own)) in whole.iter().zip(&parts) {
            assert!(bits(want) == bits(got));
            assert!(bits(&want.to_dtype(DType::BF16).unwrap()) == bits(copy));
            assert!(square(alone) == square(own));
        }
    }

    #[test]
    fn an_error_of_the_update_is_the_step_s() {
        let rule = Rule::RmsProp(RmsProp::new(&TrainSettings::default()));
        let scalars = StepScalars { rate: 1e-2, clip_scale: 1.0, weight_decay: 0.0, step: 1 };
        // A state of another length.
        let state = ParameterState::Wide([Some(numbers(3, 3)), None, None]);
        let (weight, gradient) = (numbers(8, 1), numbers(8, 2));
        let one =
            OffloadedParameter { scalars, weight: &weight, copy: None, gradient: &gradient, state: &state };
        assert!(step(&rule, &[one]).is_err());
    }
}

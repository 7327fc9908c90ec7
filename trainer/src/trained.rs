//! The parameters that training changes, for optimizer, checkpoints and ranks. The trainer neither reads nor writes any
//! others.

use candle_core::Tensor;
use selfplay_model::{Parameter, ParameterId, Parameters};

/// The trainable parameters, in the model's order.
pub(crate) fn trained(parameters: &Parameters) -> impl Iterator<Item = (ParameterId, &Parameter)> {
    parameters.iter().filter(|(_, parameter)| parameter.trainable)
}

/// Handles to what is trained of each: the f32 master where there is one.
pub(crate) fn trained_tensors(parameters: &Parameters) -> Vec<&Tensor> {
    trained(parameters).map(|(_, parameter)| parameter.full()).collect()
}

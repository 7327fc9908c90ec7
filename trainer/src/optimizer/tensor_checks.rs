//! Whether the tensors that an optimizer is given are those that it works on.

use candle_core::{DType, Tensor};

use crate::TrainError;

/// Refuses a tensor that is not f32 or not of the shape `want`; `what` it is of its parameter.
pub(super) fn check(
    parameter: &str,
    what: &'static str,
    tensor: &Tensor,
    want: &[usize],
) -> Result<(), TrainError> {
    if tensor.dtype() != DType::F32 {
        return Err(TrainError::OptimizerDType {
            parameter: parameter.to_owned(),
            what,
            dtype: tensor.dtype(),
        });
    }
    if tensor.dims() != want {
        return Err(TrainError::OptimizerShape {
            parameter: parameter.to_owned(),
            what,
            got: tensor.dims().to_vec(),
            want: want.to_vec(),
        });
    }
    Ok(())
}

/// Whether a tensor is of another's shape and type.
pub(super) fn check_as(
    parameter: &str,
    what: &'static str,
    tensor: &Tensor,
    want: &Tensor,
) -> Result<(), TrainError> {
    if want.dtype() == DType::F32 || tensor.dims() != want.dims() {
        return check(parameter, what, tensor, want.dims());
    }
    match tensor.dtype() == want.dtype() {
        true => Ok(()),
        false => {
            Err(TrainError::OptimizerDType { parameter: parameter.to_owned(), what, dtype: tensor.dtype() })
        }
    }
}

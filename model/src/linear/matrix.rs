//! A module's matrix in whatever form it is kept: products with it, and its numbers.

use candle_core::{DType, Result, Tensor};

use super::nf4::Nf4Matrix;
use super::{SumOrder, dense};
use crate::gpu::Gpu;

/// A matrix \[rows, inputs].
#[derive(Clone, Copy)]
pub(crate) enum Matrix<'a> {
    /// A parameter's value.
    Dense(&'a Tensor),
    /// Frozen, in four bits.
    Nf4(&'a Nf4Matrix),
}

impl Matrix<'_> {
    /// (rows, inputs); `None` of a parameter that is no matrix.
    pub(super) fn dims(self) -> Option<(usize, usize)> {
        match self {
            Self::Dense(tensor) => tensor.dims2().ok(),
            Self::Nf4(matrix) => Some(matrix.dims2()),
        }
    }

    /// out\[.., first..first + rows] ← x·Wᵀ for x \[t, inputs].
    pub(crate) fn forward(
        self,
        gpu: Option<&Gpu>,
        x: &Tensor,
        out: &Tensor,
        first: usize,
        sums: SumOrder,
    ) -> Result<()> {
        match self {
            Self::Dense(weight) => dense::forward(gpu, x, weight, out, first, sums),
            Self::Nf4(matrix) => matrix.forward(gpu, x, out, first, sums),
        }
    }

    /// dx \[t, inputs] ← dy\[.., first..first + rows]·W, or added to dx.
    pub(super) fn backward_input(
        self,
        gpu: Option<&Gpu>,
        dy: &Tensor,
        dx: &Tensor,
        first: usize,
        accumulate: bool,
    ) -> Result<()> {
        match self {
            Self::Dense(weight) => dense::backward_input(gpu, dy, weight, dx, first, accumulate),
            Self::Nf4(matrix) => matrix.backward_input(gpu, dy, dx, first, accumulate),
        }
    }

    /// The numbers: a parameter's as they are kept, others decoded as `dtype`.
    pub(crate) fn to_tensor(self, dtype: DType) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => Ok(weight.clone()),
            Self::Nf4(matrix) => matrix.dense(dtype),
        }
    }
}

//! A stored module of a map, and where its matrix is.

use std::ops::Range;

use candle_core::{DType, Result, Tensor};

use super::Matrix;
use crate::parameters::{ParameterId, Parameters, QuantizedId};

/// One stored module of a map.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    /// Its name in a model folder, without `.weight`: what adapters and quantised checkpoints call it.
    pub name: String,
    /// The outputs that it makes, among those of the whole map.
    pub rows: Range<usize>,
    /// Its matrix.
    pub weight: Weight,
    /// \[rows].
    pub bias: Option<ParameterId>,
}

impl Module {
    /// The parameters that are this module's own.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = ParameterId> {
        let weight = match self.weight {
            Weight::Dense(id) => Some(id),
            Weight::Tied(_) | Weight::Nf4(_) => None,
        };
        weight.into_iter().chain(self.bias)
    }
}

/// Where a module's matrix \[rows, inputs] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// A parameter of its own.
    Dense(ParameterId),
    /// The embedding, which it shares: its gradient is the embedding's, and its bytes are counted there.
    Tied(ParameterId),
    /// Frozen and of four bits, beside the parameters.
    Nf4(QuantizedId),
}

impl Weight {
    /// The parameter that holds it.
    pub(super) fn parameter(self) -> Option<ParameterId> {
        match self {
            Weight::Dense(id) | Weight::Tied(id) => Some(id),
            Weight::Nf4(_) => None,
        }
    }

    /// What products are made with.
    pub(crate) fn matrix(self, parameters: &Parameters) -> Matrix<'_> {
        match self {
            Weight::Dense(id) | Weight::Tied(id) => Matrix::Dense(&parameters.get(id).value),
            Weight::Nf4(id) => Matrix::Nf4(parameters.quantized_matrix(id)),
        }
    }

    /// Its numbers with all their digits.
    pub(crate) fn full(self, parameters: &Parameters) -> Result<Tensor> {
        match self {
            Weight::Dense(id) | Weight::Tied(id) => Ok(parameters.get(id).full().clone()),
            Weight::Nf4(id) => parameters.quantized_matrix(id).dense(DType::F32),
        }
    }
}

/// A fresh module for `Linear::insert`.
pub struct NewModule {
    /// Its name in a model folder, without `.weight`.
    pub name: String,
    /// \[rows, inputs].
    pub weight: Tensor,
    /// \[rows].
    pub bias: Option<Tensor>,
}

//! One rank.

use std::sync::Arc;

use candle_core::Tensor;

use super::Collective;
use crate::TrainError;

/// A training by one rank: exchanges nothing and copies no tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alone {
    parts: usize,
}

impl Alone {
    /// One rank that takes each step's gradient in `parts` parts (0 is taken as 1), one after the other and each from
    /// zero, and sums them as as many ranks would: their bits on one device. It costs one more copy of the gradients.
    pub fn in_parts(parts: usize) -> Self {
        Self { parts: parts.max(1) }
    }
}

impl Default for Alone {
    /// A plain training: each step's gradient is accumulated in one place.
    fn default() -> Self {
        Self::in_parts(1)
    }
}

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn parts(&self) -> usize {
        self.parts
    }

    fn all_reduce(&self, _tensors: &[&Tensor]) -> Result<(), TrainError> {
        Ok(())
    }

    fn all_gather(&self, values: &[f64]) -> Result<Vec<f64>, TrainError> {
        Ok(values.to_vec())
    }

    fn broadcast(&self, _tensors: &[&Tensor], _root: usize) -> Result<(), TrainError> {
        Ok(())
    }

    fn handle(&self) -> Option<Arc<dyn Collective>> {
        Some(Arc::new(*self))
    }

    fn leave(&self) {}
}

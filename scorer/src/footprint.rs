//! Memory and operations of a preference model, computed from its folder without loading it; used by the planner.

use std::fmt;
use std::sync::Arc;

use candle_core::DType;
use selfplay_model::architecture::nf4_bytes;

use crate::{KindSettings, ModelPlace, ScoreError};

/// Bytes and operations of a preference model, whatever its kind.
#[derive(Clone, Debug)]
pub struct Footprint {
    /// Its weights, in numbers; 0 for a model that is computed elsewhere.
    pub parameters: u64,
    /// The width that its weights are stored in, where its folder says so.
    pub stored_dtype: Option<DType>,
    /// How many of its numbers are kept in four bits.
    in_four_bits: u64,
    /// Numbers per token of the widest part of a forward pass.
    pub token_values: u64,
    cost: Arc<dyn Cost>,
}

/// The operations of a kind of preference model.
pub trait Cost: fmt::Debug + Send + Sync {
    /// Operations of one comparison.
    fn flops(&self, comparison: ComparisonLengths) -> f64;
}

/// A prompt and the responses that are compared, in tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ComparisonLengths {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens of each response.
    pub response: usize,
    /// Responses; a mean of several prompts need not be whole.
    pub responses: f64,
}

impl Footprint {
    /// Of a model with `parameters` numbers.
    pub(crate) fn new(
        parameters: u64,
        stored_dtype: Option<DType>,
        token_values: u64,
        cost: Arc<dyn Cost>,
    ) -> Self {
        Self { parameters, stored_dtype, in_four_bits: 0, token_values, cost }
    }

    /// Of the same model with so many of its numbers in four bits.
    #[must_use]
    pub(crate) fn with_four_bits(self, numbers: u64) -> Self {
        Self { in_four_bits: numbers.min(self.parameters), ..self }
    }

    /// Of a model that another program computes, or of none: nothing of ours.
    pub fn elsewhere() -> Self {
        Self::new(0, None, 0, Arc::new(Elsewhere))
    }

    /// Of several models that each compare everything.
    pub(crate) fn together(all: Vec<Self>) -> Self {
        let in_four_bits = all.iter().map(|one| one.in_four_bits).sum();
        let together = Self::new(
            all.iter().map(|one| one.parameters).sum(),
            all.iter().find_map(|one| one.stored_dtype),
            all.iter().map(|one| one.token_values).max().unwrap_or(0),
            Arc::new(CostTogether(all.into_iter().map(|one| one.cost).collect())),
        );
        Self { in_four_bits, ..together }
    }

    /// Whether another program computes the model.
    pub fn is_elsewhere(&self) -> bool {
        self.parameters == 0
    }

    /// Of the preference model in a folder, from its configuration alone, or of one that needs none.
    ///
    /// # Errors
    /// A configuration that is absent, or that no model of this kind has.
    pub fn of_folder<'a>(place: impl Into<ModelPlace<'a>>, kind: &KindSettings) -> Result<Self, ScoreError> {
        kind.footprint(place.into())
    }

    /// Bytes of the weights.
    pub fn weight_bytes(&self, dtype: DType, on_gpu: bool) -> u64 {
        nf4_bytes(self.in_four_bits, on_gpu)
            + (self.parameters - self.in_four_bits) * dtype.size_in_bytes() as u64
    }

    /// Bytes of the widest part of a forward pass over `tokens` tokens.
    pub fn pass_bytes(&self, tokens: usize, dtype: DType) -> u64 {
        (tokens as u64).saturating_mul(self.token_values * dtype.size_in_bytes() as u64)
    }

    /// Operations of one comparison.
    pub fn flops(&self, comparison: ComparisonLengths) -> f64 {
        self.cost.flops(comparison)
    }
}

/// The operations of several.
#[derive(Debug)]
struct CostTogether(Vec<Arc<dyn Cost>>);

impl Cost for CostTogether {
    fn flops(&self, comparison: ComparisonLengths) -> f64 {
        self.0.iter().map(|one| one.flops(comparison)).sum()
    }
}

/// No operations of ours.
#[derive(Debug)]
struct Elsewhere;

impl Cost for Elsewhere {
    fn flops(&self, _: ComparisonLengths) -> f64 {
        0.0
    }
}

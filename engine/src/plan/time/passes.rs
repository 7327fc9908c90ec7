//! The passes of a training step.

/// Passes of a training step over its pairs, a forward pass as one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::plan) struct StepPasses {
    /// For the log-probs of the whole batch, before the gradients: 1, or 0.
    pub(in crate::plan) first: f64,
    /// 1.
    pub(in crate::plan) forward: f64,
    /// The backward pass, with what it computes again.
    pub(in crate::plan) backward: f64,
}

impl StepPasses {
    pub(in crate::plan) fn total(self) -> f64 {
        self.first + self.forward + self.backward
    }
}

//! What a training forward keeps for its backward: memory against time.
//!
//! Of each block one of three things is kept ([`Kept`]); what is not kept the backward computes again. The gradients have the
//! same bits whatever is kept, because every operation is run on the same inputs either way.
//!
//! The backward runs from the last block to the first. So the last blocks keep the most: what they kept is free again when the
//! first recomputation needs its room. The last block keeps everything in any case, because the backward begins with it and
//! would compute it again at once, in the same memory.

use candle_core::DType;

use crate::architecture::Architecture;

/// What is kept of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Its input \[t, h] alone.
    Input,
    /// Its input; queries, keys and values, attention's output, and the stream after attention.
    Attention,
    /// All that its backward reads.
    Everything,
}

/// What is kept of all blocks: everything of the last ones, attention of those before them, the input of the first ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepPlan {
    /// Blocks that keep everything, at least one.
    everything: usize,
    /// Blocks before them that keep attention.
    attention: usize,
}

impl KeepPlan {
    /// The least memory.
    pub const LEAST: Self = Self { everything: 1, attention: 0 };
    /// Nothing is computed again.
    pub const ALL: Self = Self { everything: usize::MAX, attention: 0 };

    /// Everything of the last `everything` blocks (of one at least), attention of the `attention` before them.
    pub fn new(everything: usize, attention: usize) -> Self {
        Self { everything: everything.max(1), attention }
    }

    /// The plan that computes the least again while a pass over `tokens` keeps and makes at most `bytes`, in numbers of
    /// `dtype`; [`KeepPlan::LEAST`] where even that does not fit.
    ///
    /// Attention goes before the rest of a block: measured on an H200 at an 8B's shape, a kept number of it saves more time
    /// (docs/log.md).
    pub fn fitting(shape: &Architecture, tokens: usize, dtype: DType, bytes: u64) -> Self {
        let numbers = bytes / (tokens.max(1) as u64 * dtype.size_in_bytes() as u64);
        let Some(spare) = numbers.checked_sub(shape.training_values(Self::LEAST) as u64) else {
            return Self::LEAST;
        };
        let block = shape.block_values();
        let others = shape.num_layers.saturating_sub(1) as u64;
        let attention = others.min(spare / (block.attention as u64).max(1));
        let spare = spare - attention * block.attention as u64;
        let whole =
            if attention == others { others.min(spare / (block.feed_forward as u64).max(1)) } else { 0 };
        Self { everything: 1 + whole as usize, attention: (attention - whole) as usize }
    }

    /// What is kept of the block `layer` of `layers`.
    pub fn of_block(self, layer: usize, layers: usize) -> Kept {
        let after = layers.saturating_sub(layer + 1);
        match after.checked_sub(self.everything) {
            None => Kept::Everything,
            Some(place) if place < self.attention => Kept::Attention,
            Some(_) => Kept::Input,
        }
    }

    /// How many of `layers` blocks keep everything, attention, and the input alone.
    pub fn counts(self, layers: usize) -> [usize; 3] {
        let everything = self.everything.min(layers);
        let attention = self.attention.min(layers - everything);
        [everything, attention, layers - everything - attention]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_blocks_keep_the_most() {
        let of = |plan: KeepPlan| -> Vec<Kept> { (0..5).map(|layer| plan.of_block(layer, 5)).collect() };
        use Kept::{Attention, Everything, Input};
        assert_eq!(of(KeepPlan::LEAST), [Input, Input, Input, Input, Everything]);
        assert_eq!(of(KeepPlan::ALL), [Everything; 5]);
        assert_eq!(of(KeepPlan::new(2, 1)), [Input, Input, Attention, Everything, Everything]);
        assert_eq!(of(KeepPlan::new(0, 9)), [Attention, Attention, Attention, Attention, Everything]);
        for (plan, want) in [
            (KeepPlan::LEAST, [1, 0, 4]),
            (KeepPlan::ALL, [5, 0, 0]),
            (KeepPlan::new(2, 1), [2, 1, 2]),
            (KeepPlan::new(1, 9), [1, 4, 0]),
        ] {
            assert_eq!(plan.counts(5), want);
        }
    }

    /// As many of each as fit, and not one more.
    #[test]
    fn a_plan_fills_its_memory() {
        let shape = Architecture::named("llama-110m").unwrap();
        let (tokens, layers) = (1000, shape.num_layers);
        let bytes = |plan| (tokens * shape.training_values(plan) * 4) as u64;
        let fitting = |bytes| KeepPlan::fitting(&shape, tokens, DType::F32, bytes);
        assert_eq!(fitting(0), KeepPlan::LEAST);
        assert_eq!(fitting(u64::MAX).counts(layers), KeepPlan::ALL.counts(layers));
        for plan in [(1, 0), (1, 1), (1, layers - 1), (2, layers - 2), (layers - 1, 1)]
            .map(|(e, a)| KeepPlan::new(e, a))
        {
            assert_eq!(fitting(bytes(plan)).counts(layers), plan.counts(layers));
            let below = fitting(bytes(plan) - 1);
            assert!(plan == KeepPlan::LEAST || bytes(below) < bytes(plan), "{below:?}");
        }
        let mut last = bytes(KeepPlan::LEAST);
        for megabytes in (0..400).map(|n| n * 10) {
            let most = megabytes << 20;
            let plan = fitting(most);
            assert!(bytes(plan) <= most.max(last), "{plan:?}");
            assert!(bytes(plan) >= last, "more memory keeps no less: {plan:?}");
            last = bytes(plan);
        }
    }
}

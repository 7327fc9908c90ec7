//! What a training holds of the model, by what ranks may divide among themselves.

/// Bytes beside what the passes of a step make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StateBytes {
    /// The weights that are computed with.
    pub(super) weights: u64,
    /// The adapter over them; 0 where all weights are trained.
    pub(super) adapter: u64,
    /// f32 copies of narrower weights; 0 where there are none, or the host has them.
    pub(super) masters: u64,
    /// In f32.
    pub(super) gradients: u64,
    /// 0 where the host has it.
    pub(super) optimizer: u64,
}

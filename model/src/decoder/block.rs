//! One block: attention and feed-forward part, each with its norms and its place in the residual stream.

use candle_core::{Result, Tensor};

use super::attention::{AttentionActivations, PackedSequences, QkNorms, SelfAttention, Sequences};
use super::feed_forward::Gated;
use super::weights::DecoderWeights;
use crate::architecture::Architecture;
use crate::architecture::layout::{LayerModules, Norm};
use crate::linear::Linear;
use crate::ops::attention::Attention;
use crate::ops::rows::select_rows;
use crate::parameters::{Gradients, ParameterId, Parameters};

/// One block's parameters and constants.
pub(super) struct Block {
    pub(super) attention: SelfAttention,
    attention_norm: Option<ParameterId>,
    attention_post_norm: Option<ParameterId>,
    feed_forward: Gated,
    feed_forward_norm: Option<ParameterId>,
    feed_forward_post_norm: Option<ParameterId>,
}

impl Block {
    /// The block of this layer, whose weights are stored as `modules`; `None` where a tensor is missing.
    pub(super) fn new(
        a: &Architecture,
        layer: usize,
        modules: &LayerModules,
        parameters: &Parameters,
    ) -> Option<Self> {
        let norm = |norm: &Option<Norm>| match norm {
            Some(norm) => parameters.find(&norm.weight()).map(Some),
            None => Some(None),
        };
        let qk_norms = match (norm(&modules.q_norm)?, norm(&modules.k_norm)?) {
            (Some(queries), Some(keys)) => Some(QkNorms { queries, keys }),
            (None, None) => None,
            _ => return None,
        };
        Some(Self {
            attention: SelfAttention {
                layer,
                heads: Attention {
                    heads: a.num_heads,
                    kv_heads: a.num_kv_heads,
                    head_dim: a.head_dim,
                    scale: a.attention_scale,
                    softcap: a.attention_softcap,
                    window: a.windows.get(layer).copied().flatten(),
                },
                qkv: Linear::of(parameters, &modules.qkv)?,
                qk_norms,
                output: Linear::of(parameters, std::slice::from_ref(&modules.output))?,
            },
            attention_norm: norm(&modules.attention_norm)?,
            attention_post_norm: norm(&modules.attention_post_norm)?,
            feed_forward: Gated {
                gate_up: Linear::of(parameters, &modules.gate_up)?,
                down: Linear::of(parameters, std::slice::from_ref(&modules.down))?,
                activation: a.activation,
            },
            feed_forward_norm: norm(&modules.feed_forward_norm)?,
            feed_forward_post_norm: norm(&modules.feed_forward_post_norm)?,
        })
    }

    /// All maps, in the order of the forward.
    pub(super) fn linears(&self) -> [&Linear; 4] {
        let Self { attention, feed_forward, .. } = self;
        [&attention.qkv, &attention.output, &feed_forward.gate_up, &feed_forward.down]
    }

    /// As [`Block::linears`], to pack them.
    pub(super) fn linears_mut(&mut self) -> [&mut Linear; 4] {
        let Self { attention, feed_forward, .. } = self;
        [&mut attention.qkv, &mut attention.output, &mut feed_forward.gate_up, &mut feed_forward.down]
    }

    /// The block's output of the tokens `rows` (all where that is `None`) from the stream \[t, h]; with `keep`, and all rows of
    /// a packed batch, all that the backward needs.
    pub(super) fn forward(
        &self,
        weights: &DecoderWeights,
        input: &Tensor,
        sequences: &Sequences,
        rows: Option<&[usize]>,
        keep: bool,
    ) -> Result<BlockForward> {
        let normed = weights.branch_input(input, self.attention_norm)?;
        let attended = self.attention.attend(weights, normed, sequences, rows, keep)?;
        if let Some([]) = rows {
            return Ok(BlockForward { output: select_rows(input, &[])?, activations: None });
        }
        let stream = rows.map_or(Ok(input.clone()), |rows| select_rows(input, rows))?;
        let projected = self.attention.project(weights, &attended.output)?;
        let (middle, normed) =
            weights.join_and_norm(&stream, &projected, self.attention_post_norm, self.feed_forward_norm)?;
        let projected = self.attention_post_norm.filter(|_| keep).map(|_| projected);
        let branch = self.feed_forward.forward(weights, normed, keep)?;
        let output = weights.join(&middle, &branch.output, self.feed_forward_post_norm)?;
        let activations = match (attended.activations, branch.gate_up) {
            (Some(attention), Some(gate_up)) => Some(BlockActivations {
                input: input.clone(),
                attention,
                attention_projected: projected,
                middle,
                gate_up,
                feed_forward: self.feed_forward_post_norm.map(|_| branch.output),
            }),
            _ => None,
        };
        Ok(BlockForward { output, activations })
    }

    /// Turns `d_stream` from the gradient of the block's output into that of its input.
    pub(super) fn backward(
        &self,
        weights: &DecoderWeights,
        activations: BlockActivations,
        d_stream: &Tensor,
        sequences: &PackedSequences,
        gradients: &Gradients,
    ) -> Result<()> {
        let BlockActivations { input, attention, attention_projected, middle, gate_up, feed_forward } =
            activations;
        let d_branch =
            weights.join_backward(feed_forward, self.feed_forward_post_norm, d_stream, gradients)?;
        let normed = || weights.branch_input(&middle, self.feed_forward_norm);
        let d_normed = self.feed_forward.backward(weights, gate_up, normed, d_branch, gradients)?;
        weights.branch_input_backward(&middle, self.feed_forward_norm, &d_normed, gradients, d_stream)?;
        drop((middle, d_normed));

        let d_projected =
            weights.join_backward(attention_projected, self.attention_post_norm, d_stream, gradients)?;
        let normed = || weights.branch_input(&input, self.attention_norm);
        let d_normed =
            self.attention.backward(weights, attention, normed, d_projected, sequences, gradients)?;
        weights.branch_input_backward(&input, self.attention_norm, &d_normed, gradients, d_stream)
    }
}

/// What one block's forward computed on its way; the backward takes it apart.
pub(super) struct BlockActivations {
    /// The block's input \[t, h].
    input: Tensor,
    attention: AttentionActivations,
    /// The attention's projected output \[t, h], where a norm follows it.
    attention_projected: Option<Tensor>,
    /// The stream after attention \[t, h].
    middle: Tensor,
    /// \[t, 2 i].
    gate_up: Tensor,
    /// The feed-forward part's output \[t, h], where a norm follows it.
    feed_forward: Option<Tensor>,
}

/// A block's output and, where it was asked for, what it computed on its way.
pub(super) struct BlockForward {
    pub(super) output: Tensor,
    pub(super) activations: Option<BlockActivations>,
}

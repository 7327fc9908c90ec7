//! One block: attention and feed-forward part, each with its norms and its place in the residual stream.

use candle_core::{Result, Tensor, bail};

use super::attention::{AttentionActivations, PackedSequences, QkNorms, SelfAttention, Sequences};
use super::feed_forward::Gated;
use super::kept::Kept;
use super::weights::DecoderWeights;
use crate::architecture::Architecture;
use crate::architecture::layout::{LayerModules, Norm};
use crate::gradients::Gradients;
use crate::linear::Linear;
use crate::ops::attention::Attention;
use crate::ops::rows::{RowIndex, select_rows};
use crate::parameters::{ParameterId, Parameters};

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

    /// All parameters: the maps' with their adapters', and the norms'.
    pub(super) fn parameters(&self) -> Vec<ParameterId> {
        let maps = self.linears().into_iter().flat_map(Linear::parameters);
        let of_heads = self.attention.qk_norms.map(|norms| [norms.queries, norms.keys]);
        let norms = [
            self.attention_norm,
            self.attention_post_norm,
            self.feed_forward_norm,
            self.feed_forward_post_norm,
        ];
        maps.chain(of_heads.into_iter().flatten()).chain(norms.into_iter().flatten()).collect()
    }

    /// As [`Block::linears`], to pack them.
    pub(super) fn linears_mut(&mut self) -> [&mut Linear; 4] {
        let Self { attention, feed_forward, .. } = self;
        [&mut attention.qkv, &mut attention.output, &mut feed_forward.gate_up, &mut feed_forward.down]
    }

    /// The block's output from the stream \[t, h] of a packed batch, and what `keep` says.
    pub(super) fn forward(
        &self,
        weights: &DecoderWeights,
        input: &Tensor,
        sequences: &Sequences,
        keep: Kept,
    ) -> Result<BlockForward> {
        let keeps_attention = keep != Kept::Input;
        let AttentionForward { middle, normed, half } =
            self.attend(weights, input, sequences, keeps_attention)?;
        let branch = self.feed_forward.forward(weights, normed, keep == Kept::Everything)?;
        let output = weights.join(&middle, &branch.output, self.feed_forward_post_norm)?;
        let saved = half.map(|attention| match branch.gate_up {
            None => SavedBlock::Attention(Box::new(attention)),
            Some(gate_up) => SavedBlock::Everything(Box::new(BlockActivations {
                attention,
                gate_up,
                feed_forward: self.feed_forward_post_norm.map(|_| branch.output),
            })),
        });
        Ok(BlockForward { output, saved })
    }

    /// As [`Block::forward`] with nothing kept, of the tokens `rows` (all where that is `None`), between open streams: the last sum
    /// is left to the norm that follows it, with which a GPU makes it in one pass. The bits are the same.
    pub(super) fn forward_open(
        &self,
        weights: &DecoderWeights,
        input: OpenStream,
        sequences: &Sequences,
        rows: Option<&RowIndex>,
    ) -> Result<OpenStream> {
        let (input, normed) = input.close(weights, self.attention_norm)?;
        let forward = self.attend_normed(weights, &input, normed, sequences, rows, false)?;
        let AttentionForward { middle: stream, normed, .. } = forward;
        if rows.is_some_and(RowIndex::is_empty) {
            return Ok(OpenStream::from(stream));
        }
        let branch = self.feed_forward.forward(weights, normed, false)?.output;
        Ok(OpenStream { stream, branch: Some((branch, self.feed_forward_post_norm)) })
    }

    /// The stream after attention, and its norm.
    fn attend(
        &self,
        weights: &DecoderWeights,
        input: &Tensor,
        sequences: &Sequences,
        keep: bool,
    ) -> Result<AttentionForward> {
        let normed = weights.branch_input(input, self.attention_norm)?;
        self.attend_normed(weights, input, normed, sequences, None, keep)
    }

    /// As [`Block::attend`] of the tokens `rows`, with what attention reads of `input`. Without any row wanted there is nothing
    /// after keys and values: the stream then is empty.
    fn attend_normed(
        &self,
        weights: &DecoderWeights,
        input: &Tensor,
        normed: Tensor,
        sequences: &Sequences,
        rows: Option<&RowIndex>,
        keep: bool,
    ) -> Result<AttentionForward> {
        let attended = self.attention.attend(weights, normed, sequences, rows, keep)?;
        if rows.is_some_and(RowIndex::is_empty) {
            let none = select_rows(input, &[])?;
            return Ok(AttentionForward { middle: none.clone(), normed: none, half: None });
        }
        let stream = rows.map_or(Ok(input.clone()), |rows| rows.select(input))?;
        let projected = self.attention.project(weights, &attended.output)?;
        let (middle, normed) =
            weights.join_and_norm(&stream, &projected, self.attention_post_norm, self.feed_forward_norm)?;
        let half = attended.activations.map(|attention| AttentionHalf {
            input: input.clone(),
            attention,
            projected: self.attention_post_norm.map(|_| projected),
            middle: middle.clone(),
        });
        Ok(AttentionForward { middle, normed, half })
    }

    /// All that the backward reads, out of what was kept: what is missing is computed again, and nothing that the backward
    /// does not read.
    pub(super) fn activations(
        &self,
        weights: &DecoderWeights,
        saved: SavedBlock,
        sequences: &Sequences,
    ) -> Result<BlockActivations> {
        let (attention, normed) = match saved {
            SavedBlock::Everything(all) => return Ok(*all),
            SavedBlock::Attention(half) => {
                let normed = weights.branch_input(&half.middle, self.feed_forward_norm)?;
                (*half, normed)
            }
            SavedBlock::Input(input) => {
                let AttentionForward { normed, half: Some(half), .. } =
                    self.attend(weights, &input, sequences, true)?
                else {
                    bail!("a block's backward needs a packed batch")
                };
                (half, normed)
            }
        };
        // A norm after the feed-forward part reads the part's output.
        if self.feed_forward_post_norm.is_some() {
            let branch = self.feed_forward.forward(weights, normed, true)?;
            if let Some(gate_up) = branch.gate_up {
                return Ok(BlockActivations { attention, gate_up, feed_forward: Some(branch.output) });
            }
            bail!("a feed-forward part did not keep what it was told to")
        }
        let gate_up = self.feed_forward.gate_up(weights, normed)?;
        Ok(BlockActivations { attention, gate_up, feed_forward: None })
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
        let BlockActivations { attention: half, gate_up, feed_forward } = activations;
        let AttentionHalf { input, attention, projected, middle } = half;
        let d_branch =
            weights.join_backward(feed_forward, self.feed_forward_post_norm, d_stream, gradients)?;
        let normed = || weights.branch_input(&middle, self.feed_forward_norm);
        let d_normed = self.feed_forward.backward(weights, gate_up, normed, d_branch, gradients)?;
        weights.branch_input_backward(&middle, self.feed_forward_norm, &d_normed, gradients, d_stream)?;
        drop((middle, d_normed));

        let d_projected = weights.join_backward(projected, self.attention_post_norm, d_stream, gradients)?;
        let normed = || weights.branch_input(&input, self.attention_norm);
        let d_normed =
            self.attention.backward(weights, attention, normed, d_projected, sequences, gradients)?;
        weights.branch_input_backward(&input, self.attention_norm, &d_normed, gradients, d_stream)
    }
}

/// A stream \[t, h] and a branch that is not added to it yet.
pub(super) struct OpenStream {
    stream: Tensor,
    /// The branch's output \[t, h], and the norm after it, where the family has one.
    branch: Option<(Tensor, Option<ParameterId>)>,
}

impl From<Tensor> for OpenStream {
    fn from(stream: Tensor) -> Self {
        Self { stream, branch: None }
    }
}

impl OpenStream {
    /// The whole stream, and what reads it by `norm`: its norm, or itself.
    pub(super) fn close(
        self,
        weights: &DecoderWeights,
        norm: Option<ParameterId>,
    ) -> Result<(Tensor, Tensor)> {
        match self.branch {
            Some((branch, post_norm)) => weights.join_and_norm(&self.stream, &branch, post_norm, norm),
            None => {
                let normed = weights.branch_input(&self.stream, norm)?;
                Ok((self.stream, normed))
            }
        }
    }
}

/// What a forward keeps of a block.
pub(super) enum SavedBlock {
    /// Its input \[t, h].
    Input(Tensor),
    /// What came up to the stream after attention.
    Attention(Box<AttentionHalf>),
    /// All that the backward reads.
    Everything(Box<BlockActivations>),
}

/// What the backward reads of a block's attention.
pub(super) struct AttentionHalf {
    /// The block's input \[t, h].
    input: Tensor,
    attention: AttentionActivations,
    /// The attention's projected output \[t, h], where a norm follows it.
    projected: Option<Tensor>,
    /// The stream after attention \[t, h].
    middle: Tensor,
}

/// What the backward reads of a block; it takes it apart.
pub(super) struct BlockActivations {
    attention: AttentionHalf,
    /// \[t, 2 i].
    gate_up: Tensor,
    /// The feed-forward part's output \[t, h], where a norm follows it.
    feed_forward: Option<Tensor>,
}

/// The stream after attention \[n, h], what the feed-forward part reads of it, and what was kept.
struct AttentionForward {
    middle: Tensor,
    normed: Tensor,
    half: Option<AttentionHalf>,
}

/// A block's output and, of a packed batch, what was to be kept beside its input.
pub(super) struct BlockForward {
    pub(super) output: Tensor,
    pub(super) saved: Option<SavedBlock>,
}

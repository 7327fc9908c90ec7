//! The attention of a block: from the normed stream to the heads' outputs projected back, over a packed batch or over the
//! pages of a cache. Training, scoring and sampling have this one forward.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::rotary::RotaryTables;
use super::weights::DecoderWeights;
use crate::batch::PackedBatch;
use crate::gradients::Gradients;
use crate::kv_cache::LayerCache;
use crate::linear::Linear;
use crate::ops::attention::{Attention, AttentionOutput, Places};
use crate::ops::paged_attention::{PageNorms, PagedStep, attend_pages, write_pages};
use crate::ops::rms_norm::HeadColumns;
use crate::ops::rope::{Direction, Positions};
use crate::ops::rows::{RowIndex, select_rows};
use crate::parameters::ParameterId;

/// One block's attention.
pub(super) struct SelfAttention {
    /// The block's number, by which it finds its rotary table.
    pub(super) layer: usize,
    pub(super) heads: Attention,
    /// Queries, keys and values side by side.
    pub(super) qkv: Linear,
    /// The norms of queries and keys, where the family has them.
    pub(super) qk_norms: Option<QkNorms>,
    pub(super) output: Linear,
}

/// The norms of queries and of keys: as wide as a head they are on each, as wide as all heads on all together.
#[derive(Clone, Copy)]
pub(super) struct QkNorms {
    pub(super) queries: ParameterId,
    pub(super) keys: ParameterId,
}

/// Where the keys and values are that a token sees.
pub(super) enum Sequences<'a> {
    /// In the batch itself.
    Packed(&'a PackedSequences<'a>),
    /// In the pages of one layer of a cache, into which the new tokens' own go first.
    Paged { step: &'a PagedStep<'a>, rotary: &'a RotaryTables, cache: &'a LayerCache },
}

/// A packed batch as attention sees it, the same for all layers.
pub(super) struct PackedSequences<'a> {
    places: Places<'a>,
    positions: Positions,
    rotary: Arc<RotaryTables>,
}

impl<'a> PackedSequences<'a> {
    pub(super) fn new(batch: &'a PackedBatch, rotary: Arc<RotaryTables>) -> Self {
        let positions = Positions::new(batch.positions().to_vec());
        Self { places: Places::new(batch.layout()), positions, rotary }
    }
}

/// What the forward over a packed batch leaves for its backward.
pub(super) struct AttentionActivations {
    /// Queries, keys and values before their norms \[t, (n_h + 2 n_kv) d], where the family has such norms.
    qkv_before_norm: Option<Tensor>,
    /// After norms and rope.
    qkv: Tensor,
    attended: AttentionOutput,
}

/// The heads' outputs.
pub(super) struct Attended {
    /// \[n, n_h d].
    pub(super) output: Tensor,
    /// Where they were asked for, of a packed batch.
    pub(super) activations: Option<AttentionActivations>,
}

impl SelfAttention {
    /// The heads' outputs of the tokens `rows` (all where that is `None`) from the normed stream \[t, h]. With `keep`, and all
    /// rows of a packed batch, what the backward needs.
    pub(super) fn attend(
        &self,
        weights: &DecoderWeights,
        normed: Tensor,
        sequences: &Sequences,
        rows: Option<&RowIndex>,
        keep: bool,
    ) -> Result<Attended> {
        let qkv = weights.forward(&self.qkv, &normed)?;
        drop(normed);
        let (output, activations) = match sequences {
            Sequences::Packed(packed @ PackedSequences { places, .. }) => {
                let qkv_before_norm = self.norm_qk(weights, &qkv, keep)?;
                self.rotate(&qkv, packed, Direction::Forward)?;
                let attended = self.heads.forward(&qkv, places)?;
                let output = attended.output.clone();
                (output, keep.then_some(AttentionActivations { qkv_before_norm, qkv, attended }))
            }
            Sequences::Paged { step, rotary, cache } => {
                let norms = self.page_norms(weights);
                write_pages(&self.heads, &qkv, rotary.of(self.layer), step, cache, norms)?;
                if rows.is_some_and(RowIndex::is_empty) {
                    // Keys and values are all that a prefill's last layer is for.
                    return Ok(Attended { output: select_rows(&qkv, &[])?, activations: None });
                }
                (attend_pages(&self.heads, &qkv, step, cache)?, None)
            }
        };
        let output = rows.map_or(Ok(output.clone()), |rows| rows.select(&output))?;
        Ok(Attended { output, activations })
    }

    /// The heads' outputs \[n, n_h d] back in the stream's width \[n, h].
    pub(super) fn project(&self, weights: &DecoderWeights, attended: &Tensor) -> Result<Tensor> {
        weights.forward(&self.output, attended)
    }

    /// The gradient of the normed stream, given that of [`SelfAttention::project`]'s output \[t, h]; `normed` makes the normed
    /// stream again, when the rest of the memory is free.
    pub(super) fn backward(
        &self,
        weights: &DecoderWeights,
        activations: AttentionActivations,
        normed: impl FnOnce() -> Result<Tensor>,
        d_projected: Tensor,
        sequences: &PackedSequences,
        gradients: &Gradients,
    ) -> Result<Tensor> {
        let AttentionActivations { qkv_before_norm, qkv, attended } = activations;
        let d_attended = weights.backward(&self.output, &attended.output, &d_projected, gradients)?;
        drop(d_projected);
        let d_qkv = self.heads.backward(&qkv, &attended, &d_attended, &sequences.places)?;
        drop((d_attended, attended, qkv));
        self.rotate(&d_qkv, sequences, Direction::Backward)?;
        self.norm_qk_backward(weights, qkv_before_norm, &d_qkv, gradients)?;
        weights.backward(&self.qkv, &normed()?, &d_qkv, gradients)
    }

    /// Rotates queries and keys in place, on a layer that does.
    fn rotate(&self, qkv: &Tensor, sequences: &PackedSequences, direction: Direction) -> Result<()> {
        match sequences.rotary.of(self.layer) {
            Some(rope) => rope.rotate(qkv, self.heads.rotated_heads(), &sequences.positions, direction),
            None => Ok(()),
        }
    }

    /// The factors of each norm, and the groups of columns that it norms: heads, or all of them as one.
    fn normed_columns(&self, weights: &DecoderWeights) -> Option<[(ParameterId, HeadColumns); 2]> {
        let QkNorms { queries, keys } = self.qk_norms?;
        let Attention { heads, kv_heads, head_dim, .. } = self.heads;
        let columns = |id, first, width: usize| {
            let count = width / weights.value(id).elem_count().max(1);
            (id, HeadColumns { first, count })
        };
        let first_key = heads * head_dim;
        Some([columns(queries, 0, first_key), columns(keys, first_key, kv_heads * head_dim)])
    }

    /// The norms as pages take them.
    fn page_norms<'w>(&self, weights: &DecoderWeights<'w>) -> Option<PageNorms<'w>> {
        let [queries, keys] = self.normed_columns(weights)?.map(|(id, columns)| (weights.value(id), columns));
        Some(PageNorms { norm: weights.norm, queries, keys })
    }

    /// Norms fresh queries and keys in place; what the norms saw, where that is to be kept.
    fn norm_qk(&self, weights: &DecoderWeights, qkv: &Tensor, keep: bool) -> Result<Option<Tensor>> {
        let Some(norms) = self.normed_columns(weights) else { return Ok(None) };
        let before = if keep { Some(qkv.copy()?) } else { None };
        for (id, columns) in norms {
            weights.norm.heads_forward(qkv, columns, weights.value(id))?;
        }
        Ok(before)
    }

    /// The norms backwards, in place on `d_qkv`.
    fn norm_qk_backward(
        &self,
        weights: &DecoderWeights,
        before: Option<Tensor>,
        d_qkv: &Tensor,
        gradients: &Gradients,
    ) -> Result<()> {
        let (Some(before), Some(norms)) = (before, self.normed_columns(weights)) else { return Ok(()) };
        for (id, columns) in norms {
            weights.norm.heads_backward(&before, d_qkv, columns, weights.value(id), gradients.get(id))?;
        }
        Ok(())
    }
}

//! The forward over a packed batch, with or without what a backward needs.

use candle_core::{Result, Tensor};

use super::block::{BlockActivations, BlockContext};
use super::{Decoder, by_dtype};
use crate::batch::PackedBatch;
use crate::kernels::embedding::embedding;
use crate::kernels::gemm::Element;
use crate::kernels::rope::Direction;
use crate::kernels::storage::select_rows;

/// What a forward leaves for its backward.
pub struct Tape {
    pub(super) batch: PackedBatch,
    pub(super) blocks: Vec<Kept>,
    /// The stream after the last block \[t, h].
    pub(super) last: Tensor,
    hidden: Tensor,
}

/// What is kept of one block.
pub(super) enum Kept {
    /// The block's input alone \[t, h]; its backward computes the rest again.
    Input(Tensor),
    /// Everything.
    All(Box<BlockActivations>),
}

impl Tape {
    /// Hidden states after the final norm, \[t, h].
    pub fn hidden(&self) -> &Tensor {
        &self.hidden
    }

    /// The batch that was run.
    pub fn batch(&self) -> &PackedBatch {
        &self.batch
    }
}

impl Decoder {
    /// Hidden states after the final norm, \[t, h]; nothing else is kept.
    ///
    /// # Errors
    /// An id outside the vocabulary, a sequence longer than the context.
    pub fn hidden(&self, batch: &PackedBatch) -> Result<Tensor> {
        by_dtype!(self, hidden_of(batch, None))
    }

    /// As [`Decoder::hidden`], of the rows `rows` \[n] alone: \[n, h], the same bits. The last block computes only keys
    /// and values of the others.
    ///
    /// # Errors
    /// As [`Decoder::hidden`]; a row outside the batch.
    pub fn hidden_rows(&self, batch: &PackedBatch, rows: &[usize]) -> Result<Tensor> {
        by_dtype!(self, hidden_of(batch, Some(rows)))
    }

    /// As [`Decoder::hidden`], keeping what [`Decoder::backward`] needs: with `recompute` only the input of each
    /// block (t·h numbers a layer), which its backward runs again.
    ///
    /// # Errors
    /// As [`Decoder::hidden`].
    pub fn forward_train(&self, batch: &PackedBatch, recompute: bool) -> Result<Tape> {
        by_dtype!(self, forward_train_of(batch, recompute))
    }

    fn hidden_of<T: Element>(&self, batch: &PackedBatch, rows: Option<&[usize]>) -> Result<Tensor> {
        let context = BlockContext::new(batch, self.rope(batch.context())?);
        let mut x = self.embed::<T>(batch.ids())?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let qkv = self.queries_keys_values::<T>(layer, &x)?;
            let rotated = block.attention.rotated_heads();
            context.rope.rotate::<T>(&qkv, rotated, &context.positions, Direction::Forward)?;
            let attended = block.attention.forward::<T>(&qkv, &context.places)?.output;
            drop(qkv);
            x = match rows.filter(|_| layer + 1 == self.blocks.len()) {
                None => self.after_attention::<T>(layer, &x, &attended)?,
                Some(rows) => {
                    let (x, attended) = (select_rows::<T>(&x, rows)?, select_rows::<T>(&attended, rows)?);
                    self.after_attention::<T>(layer, &x, &attended)?
                }
            };
        }
        self.norm().forward::<T>(&x, self.value(self.final_norm))
    }

    fn forward_train_of<T: Element>(&self, batch: &PackedBatch, recompute: bool) -> Result<Tape> {
        let context = BlockContext::new(batch, self.rope(batch.context())?);
        let mut x = self.embed::<T>(batch.ids())?;
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for layer in 0..self.blocks.len() {
            let forward = self.block_forward::<T>(layer, &x, &context)?;
            blocks.push(if recompute { Kept::Input(x) } else { Kept::All(Box::new(forward.activations)) });
            x = forward.output;
        }
        let hidden = self.norm().forward::<T>(&x, self.value(self.final_norm))?;
        Ok(Tape { batch: batch.clone(), blocks, last: x, hidden })
    }

    pub(super) fn embed<T: Element>(&self, ids: &[u32]) -> Result<Tensor> {
        embedding::<T>(self.value(self.embedding), ids, self.architecture.embedding_scale)
    }
}

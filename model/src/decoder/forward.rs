//! The forward over a packed batch, with or without what a backward needs.

use candle_core::{Result, Tensor};

use super::Decoder;
use super::attention::{PackedSequences, Sequences};
use super::block::{OpenStream, SavedBlock};
use super::kept::KeepPlan;
use super::segments::{DecoderPass, Segment};
use super::weights::DecoderWeights;
use crate::batch::PackedBatch;
use crate::linear::lora::dropout::StepDropout;
use crate::ops::embedding::embedding;
use crate::ops::rows::RowIndex;
use crate::profile;

/// What a forward leaves for its backward.
pub struct Tape {
    pub(super) batch: PackedBatch,
    pub(super) blocks: Vec<SavedBlock>,
    /// The stream after the last block \[t, h].
    pub(super) last: Tensor,
    hidden: Tensor,
    /// What the adapters left out.
    pub(super) dropout: Option<StepDropout>,
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
        self.hidden_of(batch, None)
    }

    /// As [`Decoder::hidden`], of the rows `rows` \[n] alone: \[n, h], the same bits. The last block computes only keys
    /// and values of the others.
    ///
    /// # Errors
    /// As [`Decoder::hidden`]; a row outside the batch.
    pub fn hidden_rows(&self, batch: &PackedBatch, rows: &[usize]) -> Result<Tensor> {
        self.hidden_of(batch, Some(rows))
    }

    fn hidden_of(&self, batch: &PackedBatch, rows: Option<&[usize]>) -> Result<Tensor> {
        let packed = PackedSequences::new(batch, self.rotary(batch.context())?);
        let sequences = Sequences::Packed(&packed);
        let dropout = self.step_dropout(batch);
        let weights = DecoderWeights { dropout: dropout.as_ref(), ..self.weights() };
        let visit = self.visit(DecoderPass::Forward)?;
        let index = rows.map(RowIndex::new);
        let mut stream = OpenStream::from(visit.within(Segment::Embedding, || self.embed(batch.ids()))?);
        for (layer, block) in self.blocks.iter().enumerate() {
            // A mask is of all rows.
            let rows = index.as_ref().filter(|_| layer + 1 == self.blocks.len() && dropout.is_none());
            stream = visit
                .within(Segment::Block(layer), || block.forward_open(&weights, stream, &sequences, rows))?;
        }
        let hidden = stream.close(&weights, Some(self.final_norm))?.1;
        match index.filter(|_| dropout.is_some()) {
            Some(rows) => rows.select(&hidden),
            None => Ok(hidden),
        }
    }

    /// As [`Decoder::hidden`], keeping what [`Decoder::backward`] needs, or so much of it as `keep` says: the backward computes
    /// the rest again.
    ///
    /// # Errors
    /// As [`Decoder::hidden`].
    pub fn forward_train(&self, batch: &PackedBatch, keep: KeepPlan) -> Result<Tape> {
        let _stage = profile::stage("forward");
        let packed = PackedSequences::new(batch, self.rotary(batch.context())?);
        let sequences = Sequences::Packed(&packed);
        let dropout = self.step_dropout(batch);
        let weights = DecoderWeights { dropout: dropout.as_ref(), ..self.weights() };
        let visit = self.visit(DecoderPass::Forward)?;
        let mut x = visit.within(Segment::Embedding, || self.embed(batch.ids()))?;
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for (layer, block) in self.blocks.iter().enumerate() {
            let keep = keep.of_block(layer, self.blocks.len());
            let forward =
                visit.within(Segment::Block(layer), || block.forward(&weights, &x, &sequences, keep))?;
            blocks.push(forward.saved.unwrap_or(SavedBlock::Input(x)));
            x = forward.output;
        }
        let hidden = weights.normed(&x, self.final_norm)?;
        Ok(Tape { batch: batch.clone(), blocks, last: x, hidden, dropout })
    }

    pub(super) fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        embedding(self.weights().value(self.embedding), ids, self.architecture.embedding_scale)
    }
}

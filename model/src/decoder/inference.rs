//! Stepwise inference on the paged cache, over weights that are packed once for a whole stage.

use candle_core::{DType, Result, Tensor, bail};

use super::block::Projection;
use super::{Decoder, by_dtype};
use crate::kernels::gated_unit::gated_unit;
use crate::kernels::gemm::{Element, PackedMatrix};
use crate::kernels::paged_attention::{attend_pages, write_pages};
use crate::kernels::storage::with_slice;
use crate::kv_cache::{KvCache, PAGE_TOKENS, PagedRow};

/// Packed copies of all matrices.
pub(super) struct PackedWeights {
    pub(super) blocks: Vec<PackedBlock>,
    pub(super) head: Option<PackedMatrix<f32>>,
}

pub(super) struct PackedBlock {
    pub(super) qkv: PackedMatrix<f32>,
    pub(super) output: PackedMatrix<f32>,
    pub(super) gate_up: PackedMatrix<f32>,
    pub(super) down: PackedMatrix<f32>,
}

impl Decoder {
    /// Packs the weights for products with few rows. Takes their size again in memory; weights must not be updated
    /// until [`Decoder::drop_inference`].
    ///
    /// # Errors
    /// A tensor that is not a contiguous CPU one.
    pub fn prepare_inference(&mut self) -> Result<()> {
        if self.dtype != DType::F32 || !self.device.is_cpu() || self.packed.is_some() {
            return Ok(());
        }
        let blocks = self
            .blocks
            .iter()
            .map(|block| {
                Ok(PackedBlock {
                    qkv: self.pack(&block.qkv)?,
                    output: self.pack(&block.output)?,
                    gate_up: self.pack(&block.gate_up)?,
                    down: self.pack(&block.down)?,
                })
            })
            .collect::<Result<_>>()?;
        let head = self.head.map(|head| self.pack(&[Projection { weight: head, bias: None }])).transpose()?;
        self.packed = Some(PackedWeights { blocks, head });
        Ok(())
    }

    /// Frees the packed copies.
    pub fn drop_inference(&mut self) {
        self.packed = None;
    }

    fn pack(&self, projections: &[Projection]) -> Result<PackedMatrix<f32>> {
        let tensors: Vec<&Tensor> = projections.iter().map(|p| self.value(p.weight)).collect();
        let k = tensors.first().map_or(Ok(0), |t| t.dims2().map(|d| d.1))?;
        let mut slices: Vec<Vec<f32>> = Vec::new();
        for tensor in tensors {
            slices.push(with_slice::<f32, _>(tensor, <[f32]>::to_vec)?);
        }
        Ok(PackedMatrix::of_weights(&slices.iter().map(Vec::as_slice).collect::<Vec<_>>(), k))
    }

    /// One step of many running sequences: `ids` are the rows' new tokens, one row after the other. Writes their keys
    /// and values into the rows' pages and returns hidden states after the final norm, \[Σ new, h]. A row's result
    /// does not depend on the other rows, nor on how its tokens were split over steps, bit for bit.
    ///
    /// # Errors
    /// Pages that do not cover a row, a page outside the cache, an id outside the vocabulary, a position past the
    /// model's context.
    pub fn forward_paged(&self, ids: &[u32], rows: &[PagedRow], cache: &mut KvCache) -> Result<Tensor> {
        check_pages(ids, rows, cache)?;
        by_dtype!(self, forward_paged_of(ids, rows, cache))
    }

    fn forward_paged_of<T: Element>(
        &self,
        ids: &[u32],
        rows: &[PagedRow],
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let rope = self.rope(rows.iter().map(|r| r.context + r.new_tokens).max().unwrap_or(0))?;
        let positions: Vec<u32> =
            rows.iter().flat_map(|r| (r.context..r.context + r.new_tokens).map(|p| p as u32)).collect();
        let mut x = self.embed::<T>(ids)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let packed = self.packed.as_ref().map(|p| &p.blocks[layer]);
            let pages = &cache.layers[layer];
            let normed = self.norm().forward::<T>(&x, self.value(block.attention_norm))?;
            let qkv = self.project::<T>(&normed, &block.qkv, packed.map(|p| &p.qkv))?;
            self.finish_qkv::<T>(block, &qkv, &positions, &rope)?;
            write_pages::<T>(&block.attention, &qkv, rows, &pages.keys, &pages.values)?;
            let attended = attend_pages::<T>(&block.attention, &qkv, rows, &pages.keys, &pages.values)?;
            let projected = self.project::<T>(&attended, &block.output, packed.map(|p| &p.output))?;
            x = self.join::<T>(&x, &projected, block.attention_post_norm)?;
            let normed = self.norm().forward::<T>(&x, self.value(block.feed_forward_norm))?;
            let gate_up = self.project::<T>(&normed, &block.gate_up, packed.map(|p| &p.gate_up))?;
            let gated = gated_unit::<T>(&gate_up, self.architecture.activation)?;
            let branch = self.project::<T>(&gated, &block.down, packed.map(|p| &p.down))?;
            x = self.join::<T>(&x, &branch, block.feed_forward_post_norm)?;
        }
        self.norm().forward::<T>(&x, self.value(self.final_norm))
    }
}

fn check_pages(ids: &[u32], rows: &[PagedRow], cache: &KvCache) -> Result<()> {
    let new: usize = rows.iter().map(|r| r.new_tokens).sum();
    if new != ids.len() {
        bail!("{} ids for rows of {new} new tokens", ids.len())
    }
    for row in rows {
        if row.pages.len() * PAGE_TOKENS < row.context + row.new_tokens {
            bail!("{} pages do not cover {} tokens", row.pages.len(), row.context + row.new_tokens)
        }
        if let Some(page) = row.pages.iter().find(|&&p| p as usize >= cache.pages()) {
            bail!("page {page} of a cache of {}", cache.pages())
        }
    }
    Ok(())
}
